"""Explanation of a verdict: figures and sentence."""

from dataclasses import replace

import pytest

from exporter.baseline.levels import Baseline, FallbackLevel
from exporter.detection.explanation import Explanation, compared_with, duration
from exporter.detection.parameters import Parameters
from exporter.detection.thresholds import QuantileThreshold
from exporter.detection.verdict import Evidence
from exporter.model.calendar import DayType, Slot
from exporter.model.histogram import ZERO_BUCKET, bucket_of_seconds

BASELINE = Baseline(FallbackLevel.EXACT, Slot(14, DayType.WEEKDAY), True, 10, 4120, 0.08, 0.15, 0.02)
BASELINE_BUCKET = bucket_of_seconds(0.12)
EVIDENCE = Evidence(
    QuantileThreshold(0.9, BASELINE_BUCKET, 0.105, BASELINE_BUCKET + 9, BASELINE_BUCKET + 16, BASELINE_BUCKET + 9),
    traces=300,
    slow=38,
    bucket=bucket_of_seconds(0.31),
    chance=2.1e-4,
)


def test_sentence() -> None:
    assert str(Explanation.of(EVIDENCE, BASELINE, Parameters())) == (
        "38 of the last 300 requests took longer than 173 ms (1.4 × the usual p90 of 122 ms; swings up to × 1.2 are "
        "usual here), where at most 30 would be; p90 now 310 ms, 2.5 × the usual; chance 2e-04; "
        "compared with 10 weekdays 14–15 h (level 1, 4,120 traces)."
    )


def test_sentence_with_a_baseline_of_zero() -> None:
    gate, clear = bucket_of_seconds(0.005), bucket_of_seconds(0.0025)
    threshold = QuantileThreshold(0.5, ZERO_BUCKET, 0.1, ZERO_BUCKET, gate, clear)
    sentence = str(Explanation.of(EVIDENCE._replace(threshold=threshold), BASELINE, Parameters()))
    assert "(the usual p50 is 0; swings" in sentence
    assert "p50 now 310 ms; chance" in sentence


def test_figures() -> None:
    found = Explanation.of(EVIDENCE, BASELINE, Parameters())
    assert (found.quantile, found.traces, found.slow, found.allowed) == (0.9, 300, 38, 30)
    assert found.limit_seconds / found.baseline_seconds == pytest.approx(2**0.5)
    assert found.swing_factor == pytest.approx(1.2, abs=0.01)
    assert found.baseline is BASELINE


@pytest.mark.parametrize(
    ("level", "windows", "slot", "text"),
    [
        (FallbackLevel.EXACT, 1, Slot(23, DayType.WEEKDAY), "1 weekday 23–0 h"),
        (FallbackLevel.EXACT, 4, Slot(14, DayType.WEEKEND), "4 weekend days 14–15 h"),
        (FallbackLevel.NEARBY, 25, Slot(14, DayType.WEEKEND), "25 weekend hours around 14–15 h"),
        (FallbackLevel.DAYTYPE, 96, Slot(14, DayType.WEEKDAY), "96 weekday hours"),
        (FallbackLevel.GLOBAL, 168, Slot(14, DayType.WEEKDAY), "168 hours of all days"),
    ],
)
def test_compared_with_names_the_pooled_hours(level: FallbackLevel, windows: int, slot: Slot, text: str) -> None:
    assert compared_with(replace(BASELINE, level=level, windows=windows, slot=slot)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ns"),
        (3.14e-7, "314 ns"),
        (1.5e-5, "15 µs"),
        (0.00123, "1.23 ms"),
        (0.1684, "168 ms"),
        (1, "1 s"),
        (12.34, "12.3 s"),
        (1234.5, "1,234 s"),
        (120, "120 s"),
    ],
)
def test_duration_has_three_significant_digits(seconds: float, text: str) -> None:
    assert duration(seconds) == text
