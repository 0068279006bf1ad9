"""The slowest traces of longer windows."""

import random
from math import exp, factorial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.detection.likeness import SHARE_UNITS
from exporter.detection.parameters import Parameters
from exporter.detection.prediction import Prediction
from exporter.detection.schedule import HourSmallThresholds, HourThresholds, LazySchedule, Schedule
from exporter.detection.significance import poisson_tail
from exporter.detection.small_shift import ShiftTest
from exporter.detection.tail_shift import TailShift, find_tail_shift
from exporter.detection.thresholds import SmallShiftThresholds, TailThreshold
from exporter.detection.tick import FlagTracker, tick
from exporter.detection.verdict import Verdict, evaluate_window
from exporter.detection.window import MarkedTraces, RecentTraces
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.hour_evaluation import ERROR_SUMS, NO_SWINGS, HourProfile
from tests.unit.detection.test_thresholds import pool_of
from tests.unit.detection.test_verdict import BASELINE, HOUR, thresholds

PARAMETERS = Parameters(min_delta_seconds=0)
NOW = HOUR + 3600
LIMIT = BASELINE + 100
SLOW = LIMIT + 40
"""Above the second threshold, which is an octave above the first."""


def with_tail(expected: float = 0.002, most: float = 0.004, profile: HourProfile = ()) -> SmallShiftThresholds:
    steps = tuple(TailThreshold(LIMIT + 32 * step, expected / 2**step, most / 2**step, 12) for step in range(3))
    return SmallShiftThresholds((BASELINE,) * 3, 0.004, profile=profile, tail=steps)


def schedule(small: SmallShiftThresholds | None = None) -> Schedule:
    small = small or with_tail()
    return [HourThresholds(HOUR, thresholds(apart=60)._replace(small=small, profile=small.profile))]


def marked(slow: list[int], per_mark: int = 50) -> RecentTraces:
    """Return traces of the last marks, oldest first, so many of which are slow; those end ten seconds before a mark."""
    recent = RecentTraces()
    for index, of_mark in enumerate(slow):
        end = NOW - MARK_SECONDS * (len(slow) - 1 - index) - 10
        recent.add(end, BASELINE, per_mark - of_mark)
        if of_mark:
            recent.add(end, SLOW, of_mark)
    return recent


def found_in(recent: RecentTraces | MarkedTraces, small: SmallShiftThresholds | None = None) -> TailShift | None:
    return find_tail_shift(recent, NOW, [HourSmallThresholds(HOUR, small or with_tail())], PARAMETERS)


def verdict_on(recent: RecentTraces, small: SmallShiftThresholds | None = None, **flag: bool) -> Verdict:
    return evaluate_window(recent, NOW, recent.window(NOW, PARAMETERS), schedule(small), PARAMETERS, **flag)


def test_one_slow_trace_in_each_five_minutes() -> None:
    verdict = verdict_on(marked([0] * 6 + [1] * 6))
    assert (verdict.shifted, verdict.persists, verdict.hold_seconds) == (True, True, 120)
    assert verdict.evidence is not None
    evidence = verdict.evidence
    # The half hour shows it best, above the second threshold.
    assert (evidence.test, evidence.traces, evidence.slow, evidence.gate) == (ShiftTest.TAIL, 300, 6, LIMIT + 32)
    assert (evidence.threshold.q, evidence.bucket) == (0.99, SLOW)
    assert evidence.expected == pytest.approx(0.002)
    assert evidence.chance == pytest.approx(poisson_tail(6, 300 * 0.001))
    assert evidence.swing_factor == 2 ** (12 / 32)
    assert verdict.score == 2 ** (8 / 32)


def test_an_hour_shows_what_half_of_it_does_not() -> None:
    found = found_in(marked([1, 0] * 5 + [0, 1]))
    assert found is not None
    assert (found.traces, found.slow) == (600, 6)
    assert found_in(marked([0] * 6 + [1, 0, 1, 0, 0, 1]), with_tail(0.02)) is None


def test_slow_traces_of_one_moment_are_one_observation() -> None:
    assert found_in(marked([0] * 11 + [20])) is None
    assert found_in(marked([0] * 10 + [1, 20])) is None
    found = found_in(marked([0] * 9 + [2, 20, 3]))
    assert found is not None
    assert found.slow == 25
    assert found.chance == pytest.approx(poisson_tail(5, 300 * 0.001))


def test_fewer_than_expected_are_no_shift() -> None:
    slow = marked([1] * 12)
    assert found_in(slow) is not None
    assert found_in(slow, with_tail(0.02)) is None
    # Within the normal variation, although chance is excluded.
    assert found_in(slow, with_tail(0.002, most=0.1)) is None
    assert found_in(marked([1] * 12, per_mark=4)) is None
    assert find_tail_shift(slow, NOW, (), PARAMETERS) is None
    assert found_in(slow, with_tail()._replace(tail=())) is None


def test_what_is_over_is_no_shift() -> None:
    assert found_in(marked([1] * 9 + [0, 0, 1])) is not None
    # Three slow ones are to be expected in 200 traces.
    assert found_in(marked([1] * 8 + [0] * 4)) is None
    # One is less than a third of what was there before.
    assert found_in(marked([25] * 8 + [0, 0, 0, 1])) is None


def test_flag_needs_a_slow_trace_in_the_window_and_continues_without() -> None:
    pause = marked([1] * 10 + [0])
    assert not verdict_on(pause).shifted
    assert verdict_on(pause, pending=True).shifted
    verdict = verdict_on(pause, firing=True)
    assert verdict.persists
    # A window of so many traces would contain slow ones.
    busy = marked([25] * 10 + [9])
    assert verdict_on(busy).shifted
    found = find_tail_shift(busy, NOW, [HourSmallThresholds(HOUR, with_tail())], PARAMETERS, firing_with=50)
    assert found is None


def test_pattern_within_the_hour_raises_the_thresholds() -> None:
    none = (0,) * 12
    slow = marked([1] * 12)
    assert found_in(slow, with_tail(profile=(none, none, none))) is not None
    assert found_in(slow, with_tail(profile=(none, none, (SLOW - LIMIT,) * 12))) is None
    one = found_in(slow, with_tail(profile=(none, none, (0,) * 11 + (8,))))
    assert one is not None
    # Reported is the present one.
    assert one.gate == LIMIT + 40


def test_thresholds_follow_from_the_pool() -> None:
    hours = [[number % 10 for number in range(198)] + [60, 200]] * 5
    prediction = Prediction(pool_of(hours), NO_SWINGS, PARAMETERS)
    assert prediction.has_tail
    assert prediction.small is not None
    baseline = prediction.baseline[-1]
    assert [step.bucket - baseline for step in prediction.small.tail] == [16, 48, 80]
    assert prediction.lowest_tail == baseline + 16
    first = prediction.small.tail[0]
    # Five requests of 1000 are that slow at any rate, and one more than was seen.
    assert first.expected == pytest.approx(0.011)
    assert first.most >= first.expected
    assert not Prediction(pool_of([hours[0][:50]] * 5), NO_SWINGS, PARAMETERS).has_tail
    # Of windows whose requests are all on the same side of the median, which changes from one to the next.
    measured = 2000
    alike = (*NO_SWINGS[:ERROR_SUMS], measured, SHARE_UNITS * measured // 2, 0, measured, measured, measured // 2)
    small = Prediction(pool_of(hours), alike, PARAMETERS).small
    assert small is not None
    assert small.tail == ()
    without = Parameters(parts=PARAMETERS.parts._replace(tail=False))
    assert not Prediction(pool_of(hours), NO_SWINGS, without).has_tail


def test_schedule_has_the_lowest_limit() -> None:
    plain = thresholds(apart=60)
    low = with_tail()
    high = low._replace(tail=tuple([step._replace(bucket=step.bucket + 5) for step in low.tail]))
    hours = [HourThresholds(HOUR + 3600, plain._replace(small=high)), HourThresholds(HOUR, plain._replace(small=low))]
    assert LazySchedule(hours).lowest_tail == LIMIT
    assert LazySchedule(hours[:1]).lowest_tail == LIMIT + 5
    assert LazySchedule([HourThresholds(HOUR, plain)]).lowest_tail is None


@given(st.integers(0, 30), st.floats(0.01, 50))
def test_tail_of_the_poisson_distribution(k: int, mean: float) -> None:
    below = sum(exp(-mean) * mean**j / factorial(j) for j in range(k))
    assert poisson_tail(k, mean) == pytest.approx(1 - below, rel=1e-6, abs=1e-12)


def test_improbable_number_of_the_poisson_distribution() -> None:
    assert poisson_tail(5000, 0.01) == 0
    assert 0 < poisson_tail(8, 0.01) < 1e-19


@given(st.lists(st.integers(0, 4), min_size=12, max_size=14), st.integers(5, 60), st.integers(0, 299))
def test_live_traffic_and_history_have_the_same(slow: list[int], per_mark: int, seconds: int) -> None:
    recent = marked(slow, per_mark)
    history = MarkedTraces()
    history.add(recent.by_mark(0, NOW))
    assert found_in(history) == found_in(recent)
    history.discard(NOW - MARK_SECONDS, PARAMETERS)
    kept = RecentTraces(recent)
    kept.discard(NOW - MARK_SECONDS, PARAMETERS)
    assert found_in(history) == found_in(kept) == found_in(recent)
    # And later ones, until the next mark.
    at = NOW + seconds
    hours = [HourSmallThresholds(HOUR, with_tail())]
    kept.discard(at, PARAMETERS)
    assert find_tail_shift(kept, at, hours, PARAMETERS) == find_tail_shift(recent, at, hours, PARAMETERS)
    kept.add(NOW - 5, SLOW)
    recent.add(NOW - 5, SLOW)
    assert find_tail_shift(kept, at, hours, PARAMETERS) == find_tail_shift(RecentTraces(recent), at, hours, PARAMETERS)


def test_flag_fires_and_resolves() -> None:
    """Two in a hundred requests of ten a minute are slow for 90 minutes."""
    rng = random.Random(3)
    recent, tracker = RecentTraces(), FlagTracker(PARAMETERS)
    fired: list[int] = []
    resolved: list[int] = []
    hours = LazySchedule([HourThresholds(HOUR, schedule()[0].thresholds)])
    for now in range(HOUR + 15, HOUR + 4 * 3600, 15):
        is_incident = HOUR + 3600 <= now < HOUR + 9000
        for _ in range(rng.choice([2, 3])):
            recent.add(now, SLOW if is_incident and rng.random() < 0.02 else BASELINE)
        tracker.tick(recent, now, hours, None)
        recent.discard(now, PARAMETERS)
    for change in tracker.changes:
        (fired if change.event == "firing" else resolved).append(change.at - HOUR - 3600)
    assert fired
    assert 600 < fired[0] < 2700
    assert 5400 < resolved[-1] < 5400 + 1800
    assert len(fired) <= 2
    assert tick(recent, HOUR + 4 * 3600, hours.hours, tracker.flag, PARAMETERS).evidence is None
