"""MarkedTraces: the same windows as RecentTraces at the resolution of marks, computed in one sweep."""

import random
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from exporter.detection.parameters import Parameters
from exporter.detection.schedule import HourSmallThresholds
from exporter.detection.small_shift import current_levels
from exporter.detection.thresholds import SmallShiftThresholds
from exporter.detection.window import MarkedTraces, RecentTraces
from exporter.model.histogram_codec import MARK_SECONDS

HOUR = 3600
INSTANTS = range(2 * HOUR + MARK_SECONDS, 3 * HOUR + 1, MARK_SECONDS)
SCHEDULE = (HourSmallThresholds(0, SmallShiftThresholds((0, 0, 0), 0.003)),)
batches = st.lists(
    st.tuples(st.integers(0, 40).map(lambda mark: mark * MARK_SECONDS), st.lists(st.integers(-9, 9), max_size=8)),
    max_size=25,
)
parameters = st.builds(
    Parameters,
    window_seconds=st.sampled_from([60, 300, 600]),
    min_traces=st.integers(3, 20),
    max_window_seconds=st.sampled_from([600, 3600, 7200]),
)


def marked(traces: list[tuple[int, list[int]]]) -> MarkedTraces:
    found = MarkedTraces()
    for mark, buckets in traces:
        found.add([(mark, sorted(buckets))])
    return found


def single(traces: list[tuple[int, list[int]]]) -> RecentTraces:
    return RecentTraces((mark, bucket, 1) for mark, buckets in traces for bucket in buckets)


@given(batches, st.integers(0, 3 * HOUR), parameters)
def test_sweep_returns_the_windows_of_recent_traces(
    traces: list[tuple[int, list[int]]], since: int, settings: Parameters
) -> None:
    swept = marked(traces).sweep(INSTANTS, since, settings)
    assert [at for instants, _, _ in swept for at in instants] == list(INSTANTS)
    recent = single(traces)
    for instants, buckets, before in swept:
        for at in instants:
            assert buckets == recent.window(at, settings).after(since).buckets
            if since % MARK_SECONDS == 0:
                assert buckets == sorted(chain.from_iterable(ended for _, ended in recent.by_mark(before, at)))


@given(batches, st.lists(st.integers(0, 12), min_size=1, max_size=3), parameters)
def test_discard_keeps_what_windows_and_levels_need(
    traces: list[tuple[int, list[int]]], hours: list[int], settings: Parameters
) -> None:
    found, recent, whole = marked(traces), single(traces), single(traces)
    for hour in sorted(hours):
        now = hour * HOUR
        found.discard(now, settings)
        recent.discard(now, settings)
        for each in (recent, whole):
            each.extend(now + MARK_SECONDS, [0, 1])
        found.add([(now + MARK_SECONDS, [0, 1])])
        for at in (now, now + MARK_SECONDS, now + HOUR):
            expected = whole.window(at, settings).buckets
            assert recent.window(at, settings).buckets == found.recent().window(at, settings).buckets == expected
            half_hour = whole.by_mark(at - HOUR // 2, at)
            assert recent.by_mark(at - HOUR // 2, at) == found.by_mark(at - HOUR // 2, at) == half_hour
            levels = [current_levels(each, at, SCHEDULE, settings) for each in (whole, recent, found)]
            assert levels[0] == levels[1] == levels[2]
        assert list(MarkedTraces(found.encoded()).recent()) == list(found.recent())


@given(batches, st.integers(0, 2**32))
def test_traces_may_be_added_in_any_order(traces: list[tuple[int, list[int]]], seed: int) -> None:
    shuffled = traces.copy()
    random.Random(seed).shuffle(shuffled)
    assert list(marked(shuffled).recent()) == list(single(traces))
