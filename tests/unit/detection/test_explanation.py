"""Explanation of a verdict: figures and sentence."""

from dataclasses import replace

import pytest

from exporter.baseline.levels import Baseline, FallbackLevel
from exporter.detection.explanation import Explanation, compared_with, duration, explained
from exporter.detection.small_shift import ShiftTest
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
    test=ShiftTest.WINDOW,
    gate=BASELINE_BUCKET + 16,
    expected=0.1,
    swing_factor=1.2,
)


def test_sentence() -> None:
    assert str(Explanation.of(EVIDENCE, BASELINE)) == (
        "38 of the last 300 requests took longer than 173 ms (1.4 × the usual p90 of 122 ms; swings up to × 1.2 are "
        "usual here), where at most 30 would be; p90 now 310 ms, 2.5 × the usual; chance 2e-04; "
        "compared with 10 weekdays 14–15 h (level 1, 4,120 traces)."
    )


def test_sentence_with_a_baseline_of_zero() -> None:
    gate, clear = bucket_of_seconds(0.005), bucket_of_seconds(0.0025)
    threshold = QuantileThreshold(0.5, ZERO_BUCKET, 0.1, ZERO_BUCKET, gate, clear)
    sentence = str(Explanation.of(EVIDENCE._replace(threshold=threshold, gate=gate), BASELINE))
    assert "(the usual p50 is 0; swings" in sentence
    assert "p50 now 310 ms; chance" in sentence


@pytest.mark.parametrize(
    ("traffic_ratio", "text"),
    [(3.04, "It has 3 times the usual traffic."), (2.0, "It has 2 times the usual traffic."), (1.9, ""), (None, "")],
)
def test_a_rise_of_traffic_is_named(traffic_ratio: float | None, text: str) -> None:
    found = explained(EVIDENCE, BASELINE, traffic_ratio)
    assert found is not None
    assert str(found).removeprefix(str(Explanation.of(EVIDENCE, BASELINE))).strip() == text


def test_figures() -> None:
    found = Explanation.of(EVIDENCE, BASELINE)
    assert (found.quantile, found.traces, found.slow, found.allowed) == (0.9, 300, 38, 30)
    assert found.limit_seconds / found.baseline_seconds == pytest.approx(2**0.5)
    assert found.swing_factor == pytest.approx(1.2, abs=0.01)
    assert found.baseline is BASELINE


def test_sentence_names_the_pattern_within_the_hour() -> None:
    evidence = EVIDENCE._replace(gate=BASELINE_BUCKET + 48, raised=32, minutes=((0, 10), (55, 60)))
    found = Explanation.of(evidence, BASELINE)
    assert "(2.8 × the usual p90 of 122 ms; swings up to × 1.2 are usual here; at :00 to :10 and :55 to :00 of " in str(
        found
    )
    assert "the hour this endpoint takes 2 × its usual), where" in str(found)
    assert (found.pattern_factor, found.pattern_minutes) == (2.0, ((0, 10), (55, 60)))


def test_sentence_of_a_few_requests_far_above_the_limit() -> None:
    evidence = EVIDENCE._replace(test=ShiftTest.LADDER, slow=9, expected=0.004, gate=BASELINE_BUCKET + 48)
    assert "9 of the last 300 requests took longer than 346 ms (2.8 × the usual p90 of 122 ms; swings" in str(
        Explanation.of(evidence, BASELINE)
    )
    assert "where at most 2 would be" in str(Explanation.of(evidence, BASELINE))


def test_sentence_of_the_slowest_requests() -> None:
    evidence = EVIDENCE._replace(test=ShiftTest.TAIL, traces=612, slow=9, expected=0.004, swing_factor=1.3)
    assert str(Explanation.of(evidence, BASELINE)).startswith(
        "9 of the last 612 requests took longer than 173 ms (1.4 × the usual p90 of 122 ms; half hours swing up to "
        "× 1.3 here), where at most 3 would be"
    )


def test_sentence_of_the_long_window() -> None:
    evidence = EVIDENCE._replace(test=ShiftTest.LONG, traces=2000, slow=400, swing_factor=1.13)
    assert str(Explanation.of(evidence, BASELINE)).startswith(
        "400 of the 2,000 requests of the last 30 minutes took longer than 173 ms (1.4 × the usual p90 of 122 ms; half "
        "hours swing up to × 1.1 here), where at most 200 would be"
    )


def test_sentence_of_a_shift_from_the_level() -> None:
    found = Explanation.of(EVIDENCE._replace(test=ShiftTest.LEVEL, level=3), BASELINE)
    assert (
        "(1.4 × the usual p90 of 122 ms; it was at 1.1 × in the half hour before, and swings around that up to × 1.2 "
        "are usual here)" in str(found)
    )
    assert found.level_factor == pytest.approx(1.067, abs=0.001)
    # Only the median is expected to stay below its baseline.
    lower = EVIDENCE._replace(test=ShiftTest.LEVEL, level=-12)
    text = "it was at 0.77 × in the half hour before, which counts as 1 ×, and swings"
    assert text in str(Explanation.of(lower, BASELINE))
    assert text not in str(Explanation.of(lower._replace(threshold=lower.threshold._replace(q=0.5)), BASELINE))


def test_sentence_of_requests_that_are_alike() -> None:
    found = Explanation.of(EVIDENCE._replace(learned_correlation=0.1), BASELINE)
    assert "; requests of one window are alike here, so that they count like 10), where" in str(found)
    assert found.correlation == 0.1
    assert "alike" not in str(Explanation.of(EVIDENCE._replace(learned_correlation=0.003), BASELINE))


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
        (0, "0 s"),
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
