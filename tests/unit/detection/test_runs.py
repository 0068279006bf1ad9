"""Evaluation by run."""

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.baseline.levels import FallbackLevel, FallbackRules
from exporter.detection.detector import Detector, SeriesState, decode_state, encode_state
from exporter.detection.explanation import Explanation
from exporter.detection.flag import FlagChange, FlagEvent
from exporter.detection.history import advance
from exporter.detection.parameters import ALL_PARTS, Parameters
from exporter.detection.replay import Replay
from exporter.detection.runs import RunThresholds, evaluate_runs
from exporter.detection.small_shift import ShiftTest
from exporter.detection.window import RecentTraces
from exporter.model.calendar import Calendar, HourClock
from exporter.model.histogram import BUCKETS_PER_OCTAVE, bucket_of_seconds
from exporter.model.hours import SeriesHours, hours_of
from exporter.model.runs import Run, runs_of
from tests.support.detection_traffic import MONDAY, Request, stored

HOUR, DAY, NS = 3600, 86_400, 10**9
CLOCK = HourClock(Calendar())
DETECTOR = Detector(FallbackRules(), Parameters(), CLOCK)
USUAL = (10.0, 11.0, 9.5, 10.5, 12.0, 9.0, 10.2)
"""Durations of the runs of a job in turn, seconds."""


def job(
    days: float, every: int = HOUR, slow: Callable[[int], float] = lambda _: 1.0, requests: int = 1
) -> list[Request]:
    """Return the requests of a job that runs at :10, some in each run, with durations times a factor by its number."""
    made = []
    for number in range(int(days * DAY / every)):
        start = MONDAY + number * every + 600
        for position in range(requests):
            seconds = USUAL[(number + position) % len(USUAL)] * slow(number)
            made.append(((start + 5 * position) * NS, int(seconds * NS)))
    return made


def history(made: Sequence[Request]) -> SeriesHours:
    return SeriesHours(hours_of(stored(made), CLOCK))


def changes(made: Sequence[Request], detector: Detector = DETECTOR, days: float = 12) -> list[FlagChange[Explanation]]:
    return list(advance(detector, history(made), int(MONDAY + days * DAY)).changes)


def events(found: Sequence[FlagChange[Explanation]], every: int = HOUR) -> list[tuple[FlagEvent, int]]:
    """Return changes with the number of the run after which they happened."""
    return [(change.event, (change.at - MONDAY) // every) for change in found]


def since(first: int, last: int = 10**6, factor: float = 1.8) -> Callable[[int], float]:
    return lambda number: factor if first <= number <= last else 1.0


TEXT = (
    "the last 2 runs took 18.6 s and 18.2 s, 1.8 × the usual, and not up to 14.7 s (1.4 × the usual run of 10.4 s; "
    "runs up to × 1.2 are usual here); of the 36 past runs that it is compared with the longest took 12.1 s; "
    "chance 2e-04; compared with the runs of 36 weekday hours around 15–16 h (level 2)."
)


class TestRunsOf:
    def test_requests_that_end_in_consecutive_marks_are_one_run(self) -> None:
        found = runs_of([(MONDAY + 300, [5]), (MONDAY + 600, [1, 9]), (MONDAY + 1500, [7, 7])], MONDAY)
        assert found == [Run(MONDAY + 300, MONDAY + 600, 3, 5), Run(MONDAY + 1500, MONDAY + 1500, 2, 7)]

    def test_a_run_ends_with_the_hour(self) -> None:
        marks = [(MONDAY + 3600, [5]), (MONDAY + 3900, [6])]
        assert [run.end for run in runs_of(marks, MONDAY)] == [MONDAY + 3600, MONDAY + 3900]
        assert [run.end for run in runs_of(marks, MONDAY + 1800)] == [MONDAY + 3900]

    @given(st.dictionaries(st.integers(1, 60), st.lists(st.integers(-9, 9), min_size=1, max_size=4), max_size=20))
    def test_the_runs_of_some_hours_are_those_of_each(self, traces: dict[int, list[int]]) -> None:
        marked = [(MONDAY + 300 * mark, sorted(buckets)) for mark, buckets in sorted(traces.items())]
        whole = runs_of(marked, MONDAY)
        assert sum(run.traces for run in whole) == sum(map(len, traces.values()))
        split = [
            run
            for hour in range(5)
            for run in runs_of([each for each in marked if (each[0] - MONDAY - 1) // HOUR == hour], MONDAY)
        ]
        assert whole == split


class TestVerdict:
    def test_two_slow_runs_fire_and_the_first_usual_one_resolves(self) -> None:
        found = changes(job(12, slow=since(230, 234)))
        assert events(found) == [(FlagEvent.FIRING, 231), (FlagEvent.RESOLVED, 235)]

    def test_one_slow_run_does_not_fire_and_one_far_slower_does(self) -> None:
        assert changes(job(12, slow=since(230, 230))) == []
        assert events(changes(job(12, slow=since(230, 230, 8.0)))) == [
            (FlagEvent.FIRING, 230),
            (FlagEvent.RESOLVED, 231),
        ]

    def test_a_daily_job_is_found_by_its_second_slow_run(self) -> None:
        found = changes(job(15, DAY, since(12, factor=2.2)), days=15)
        assert events(found, DAY) == [(FlagEvent.FIRING, 13)]
        assert found[0].explanation is not None
        assert found[0].explanation.baseline.level is FallbackLevel.GLOBAL

    def test_a_flag_expires_a_day_after_the_last_run(self) -> None:
        made = job(14, DAY, since(12, factor=2.2))
        assert events(changes(made, days=16), DAY) == [(FlagEvent.FIRING, 13), (FlagEvent.RESOLVED, 14)]

    def test_a_shift_lasts_from_the_second_slow_run_until_its_flag_is_resolved(self) -> None:
        progress = advance(DETECTOR, history(job(12, slow=since(230, 235))), MONDAY + 12 * DAY)
        fired, resolved = (change.at for change in progress.changes)
        (shift,) = progress.shifts
        assert (shift.since, shift.until) == (fired, resolved)
        assert shift.peak_score >= 1

    def test_slow_runs_do_not_become_usual_ones(self) -> None:
        progress = advance(DETECTOR, history(job(15, DAY, since(12, 13, factor=2.2))), MONDAY + 15 * DAY)
        quarantined = [start for start, found in progress.evaluations.items() if found.quarantined]
        assert sorted(quarantined) == [MONDAY + 12 * DAY, MONDAY + 13 * DAY]

    def test_healthy_runs_do_not_fire(self) -> None:
        assert changes(job(12)) == []
        assert changes(job(12, requests=9)) == []

    def test_requests_of_one_batch_count_once(self) -> None:
        slow_batch = since(230, 230)
        assert changes(job(12, slow=slow_batch, requests=30)) == []

    def test_a_batch_that_lasts_into_the_next_hour_is_not_two_runs(self) -> None:
        made = [(start + 49 * 60 * NS, took) for start, took in job(12, slow=since(230, 230), requests=12)]
        assert changes(made) == []

    def test_explains_itself(self) -> None:
        (fired, _) = changes(job(12, slow=since(230, 231)))
        found = fired.explanation
        assert found is not None
        assert (found.test, found.slow, found.traces) == (ShiftTest.RUNS, 2, 2)
        assert found.run_seconds == pytest.approx((1.8 * USUAL[230 % 7], 1.8 * USUAL[231 % 7]), rel=0.03)
        assert found.longest_run_seconds == pytest.approx(12, rel=0.03)
        assert found.baseline.level is FallbackLevel.NEARBY
        assert str(found) == TEXT

    def test_without_the_part_such_a_series_is_evaluated_by_window(self) -> None:
        without = Detector(FallbackRules(), Parameters(parts=ALL_PARTS._replace(runs=False)), CLOCK)
        assert changes(job(12, slow=since(230, 234, 8.0)), without) == []

    def test_min_delta_holds_for_runs(self) -> None:
        detector = Detector(FallbackRules(), Parameters(min_delta_seconds=30.0), CLOCK)
        assert changes(job(12, slow=since(230, 231)), detector) == []

    def test_series_with_many_runs_an_hour_are_evaluated_by_window(self) -> None:
        often = [(start + quarter * 900 * NS, took) for start, took in job(10) for quarter in range(4)]
        state = advance(DETECTOR, history(often), MONDAY + 10 * DAY).state
        assert DETECTOR.schedule_at(history(often), state, MONDAY + 10 * DAY)[0].runs is None
        assert DETECTOR.schedule_at(history(job(10)), state, MONDAY + 10 * DAY)[0].runs is not None
        all_the_time = [(start + number * 300 * NS, took) for start, took in job(10) for number in range(12)]
        assert DETECTOR.schedule_at(history(all_the_time), state, MONDAY + 10 * DAY)[0].runs is None


def thresholds_at(made: Sequence[Request], at: int) -> RunThresholds:
    hours = history([request for request in made if request[0] < at * NS])
    state = advance(DETECTOR, hours, at).state
    found = DETECTOR.schedule_at(hours, state, at)[0].runs
    assert found is not None
    return found.thresholds


def test_scaling_all_durations_scales_the_thresholds() -> None:
    slow, fast = (
        thresholds_at(job(10), MONDAY + 10 * DAY),
        thresholds_at(job(10, slow=lambda _: 0.5), MONDAY + 10 * DAY),
    )
    assert slow.gates[0].usual - fast.gates[0].usual == BUCKETS_PER_OCTAVE
    assert slow.gates[0].slow - fast.gates[0].slow == BUCKETS_PER_OCTAVE
    assert slow.gates[0].far - fast.gates[0].far == BUCKETS_PER_OCTAVE


@given(st.floats(0.1, 50), st.floats(0.1, 50), st.floats(1, 5))
def test_slower_runs_never_weaken_a_verdict(before: float, last: float, factor: float) -> None:
    found = THRESHOLDS

    def verdict(first: float, second: float) -> tuple[bool, bool]:
        recent = RecentTraces([(found.until + 300, bucket_of_seconds(first), 1)])
        recent.add(found.until + 1800, bucket_of_seconds(second))
        result = evaluate_runs(recent, found.until + 1800, found)
        return result.shifted, result.persists

    weaker, stronger = verdict(before, last), verdict(before, last * factor)
    assert stronger >= weaker
    assert verdict(before * factor, last) >= weaker


THRESHOLDS = thresholds_at(job(10), MONDAY + 10 * DAY)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 239), st.sampled_from([1.5, 1.8, 8.0])), max_size=8),
    st.sampled_from([1, 4]),
    st.integers(193, 238),
)
def test_live_history_and_restarts_agree(slow: list[tuple[int, float]], requests: int, cut: int) -> None:
    factors = dict(slow)
    made = job(10, slow=lambda number: factors.get(number, 1.0), requests=requests)
    whole = advance(DETECTOR, history(made), MONDAY + 10 * DAY)
    hours = history(made)
    first = advance(DETECTOR, hours, MONDAY + cut * HOUR)
    state: SeriesState = decode_state(encode_state(first.state))
    second = advance(DETECTOR, hours, MONDAY + 10 * DAY, state)
    assert [*first.changes, *second.changes] == whole.changes
    assert second.state == whole.state

    by_hour: dict[int, list[Request]] = {}
    for request in made:
        by_hour.setdefault(request[0] // NS // HOUR * HOUR, []).append(request)
    replay = Replay(DETECTOR)
    for start in range(MONDAY, MONDAY + 10 * DAY, HOUR):
        replay.add_hour(CLOCK.hour(start), by_hour.get(start, []))
    assert [(c.at, c.event) for c in replay.changes] == [(c.at, c.event) for c in whole.changes]
    quarantined = Counter(start for start, found in replay.evaluations.items() if found.quarantined)
    assert quarantined == Counter(start for start, found in whole.evaluations.items() if found.quarantined)
