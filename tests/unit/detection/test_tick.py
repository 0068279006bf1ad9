"""One tick of a series, and FlagTracker, which leaves out ticks without changing the result."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from exporter.detection.flag import INACTIVE, Flag, FlagEvent
from exporter.detection.parameters import Parameters
from exporter.detection.schedule import HourThresholds, LazySchedule
from exporter.detection.thresholds import QuantileThreshold, Thresholds
from exporter.detection.tick import FlagTracker, tick
from exporter.detection.verdict import can_be_shifted
from exporter.detection.window import RecentTraces
from exporter.model.hour_evaluation import QUANTILES

HOUR = 1_767_571_200
NOW = HOUR + 1800
PARAMETERS = Parameters()
BASELINE = -100


def thresholds() -> Thresholds:
    """Return thresholds with baselines of p50, p90 and p99 that are 30 buckets from one another."""
    found = []
    for index, q in enumerate(QUANTILES):
        bucket = BASELINE + index * 30
        found.append(QuantileThreshold(q, bucket, 0.1, bucket + 10, bucket + 16, bucket + 9))
    return Thresholds(tuple(found), 0.004, BASELINE - 16)


def recent_of(buckets: Sequence[int], second: int = NOW - 10) -> RecentTraces:
    recent = RecentTraces()
    for bucket in buckets:
        recent.add(second, bucket)
    return recent


def test_tick_without_thresholds_has_no_verdict_and_resolves_a_firing_flag() -> None:
    recent = recent_of([BASELINE + 64] * 50)
    found = tick(recent, NOW, (), INACTIVE, PARAMETERS)
    assert (found.score, found.flag, found.window.traces) == (None, INACTIVE, 50)
    firing = INACTIVE._replace(firing=True, since=NOW - 500.0, keep_firing_since=NOW - 120.0)
    found = tick(recent, NOW, (), firing, PARAMETERS)
    assert (found.flag, found.event) == (INACTIVE, FlagEvent.RESOLVED)


def test_firing_flag_makes_the_hours_of_its_window_suspect() -> None:
    schedule = (HourThresholds(HOUR, thresholds()), HourThresholds(HOUR - 3600, thresholds()))
    recent = recent_of([BASELINE + 64] * 20, HOUR - 60)
    flag = INACTIVE
    suspects = []
    for now in (HOUR + 15, HOUR + 45, HOUR + 75, HOUR + 90):
        found = tick(recent, now, schedule, flag, PARAMETERS)
        flag = found.flag
        suspects.append(found.suspects)
    assert flag.firing
    assert suspects == [(), (), (HOUR, HOUR - 3600), (HOUR,)]


def test_traces_of_hours_without_thresholds_are_counted_but_not_evaluated() -> None:
    recent = recent_of([BASELINE + 64] * 20, HOUR - 60)
    recent.add(HOUR + 5, BASELINE, 5)
    found = tick(recent, HOUR + 30, (HourThresholds(HOUR, thresholds()),), INACTIVE, PARAMETERS)
    assert found.window.traces == 25
    assert found.score is not None
    assert (found.score < 1, found.evidence) == (True, None)


ticks = st.lists(
    st.tuples(
        st.lists(st.integers(0, 59), max_size=4),
        st.sampled_from([BASELINE, BASELINE + 20, BASELINE + 64, BASELINE + 200]),
    ),
    max_size=40,
)


@given(ticks, st.sampled_from([60, 300]))
def test_leaving_out_ticks_by_the_rules_of_the_tracker_changes_nothing(
    minutes: list[tuple[list[int], int]], window_seconds: int
) -> None:
    parameters = Parameters(window_seconds=window_seconds, max_window_seconds=900)
    schedule = LazySchedule([HourThresholds(HOUR, thresholds())])
    floors = schedule.floors()
    assert floors is not None
    tracker = FlagTracker(parameters)
    flag = Flag()
    events = []
    suspects: set[int] = set()
    recent = RecentTraces()
    for minute, (seconds, bucket) in enumerate(minutes):
        for second in seconds:
            recent.add(HOUR + 60 * minute + second + 1, bucket)
        now = HOUR + 60 * minute + 60
        result = tick(recent, now, schedule.hours, flag, parameters)
        flag = result.flag
        suspects.update(result.suspects)
        if result.event is not None:
            events.append((now, result.event))
        window = recent.window(now, parameters).after(schedule.since)
        if not tracker.is_idle(len(recent)) and tracker.needs_tick(can_be_shifted(window.buckets, floors, parameters)):
            tracker.tick(recent, now, schedule, pool=None)
        assert tracker.flag == flag
    assert [(change.at, change.event) for change in tracker.changes] == events
    assert tracker.suspects == suspects


def test_tracker_computes_no_thresholds_while_idle() -> None:
    tracker = FlagTracker(PARAMETERS)
    schedule = LazySchedule([HourThresholds(HOUR, thresholds())])
    result = tracker.tick(recent_of([BASELINE] * 2), NOW, schedule, pool=None)
    assert (result.score, result.flag, result.window.traces) == (None, INACTIVE, 2)
    assert tracker.tick(recent_of([BASELINE] * 3), NOW, schedule, pool=None).score is not None


def test_reset_resolves_a_firing_flag_and_drops_a_pending_one() -> None:
    firing = FlagTracker(PARAMETERS, Flag(firing=True, since=NOW - 500.0))
    firing.reset(NOW)
    assert (firing.flag, [(change.at, change.event) for change in firing.changes]) == (
        INACTIVE,
        [(NOW, FlagEvent.RESOLVED)],
    )
    pending = FlagTracker(PARAMETERS, Flag(pending_since=NOW - 15.0))
    pending.reset(NOW)
    assert (pending.flag, pending.changes) == (INACTIVE, [])
