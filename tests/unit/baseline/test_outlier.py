"""Outlier threshold of single traces."""

import pytest

from exporter.baseline.levels import Baseline, FallbackLevel
from exporter.baseline.outlier import OutlierRule
from exporter.model.calendar import DayType, Slot


def baseline(p50: float, p95: float, mad: float) -> Baseline:
    return Baseline(FallbackLevel.EXACT, Slot(14, DayType.WEEKDAY), True, 5, 100, p50, p95, mad)


@pytest.mark.parametrize(
    ("p50", "p95", "mad", "threshold"),
    [
        pytest.param(0.1, 0.3, 0.02, 0.6, id="twice p95"),
        pytest.param(0.1, 0.15, 0.05, 0.6, id="ten MADs above the median"),
        pytest.param(0.001, 0.001, 0.0, 0.011, id="no variation"),
        pytest.param(0.0, 0.0, 0.0, 0.01, id="zero durations"),
    ],
)
def test_threshold(p50: float, p95: float, mad: float, threshold: float) -> None:
    assert OutlierRule().threshold_seconds(baseline(p50, p95, mad)) == pytest.approx(threshold)


def test_threshold_depends_on_every_parameter() -> None:
    found = baseline(0.1, 0.2, 0.001)
    assert OutlierRule(factor=3.0).threshold_seconds(found) == pytest.approx(0.6)
    assert OutlierRule(k=1000.0).threshold_seconds(found) == pytest.approx(1.1)
    assert OutlierRule(mad_epsilon_seconds=0.1).threshold_seconds(found) == pytest.approx(1.1)
