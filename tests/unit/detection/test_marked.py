"""MarkedTraces: the same windows as RecentTraces at the resolution of marks, computed in one sweep."""

import random

from hypothesis import given
from hypothesis import strategies as st

from exporter.detection.parameters import Parameters
from exporter.detection.window import MarkedTraces, RecentTraces
from exporter.model.histogram_codec import MARK_SECONDS

HOUR = 3600
INSTANTS = range(2 * HOUR + MARK_SECONDS, 3 * HOUR + 1, MARK_SECONDS)
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
    assert [at for instants, _ in swept for at in instants] == list(INSTANTS)
    recent = single(traces)
    for instants, buckets in swept:
        for at in instants:
            assert buckets == recent.window(at, settings).after(since).buckets


@given(batches, st.lists(st.integers(0, 12), min_size=1, max_size=3), parameters)
def test_discard_drops_the_same_traces_as_recent_traces(
    traces: list[tuple[int, list[int]]], hours: list[int], settings: Parameters
) -> None:
    found, recent = marked(traces), single(traces)
    for hour in sorted(hours):
        found.discard(hour * HOUR, settings)
        recent.discard(hour * HOUR, settings)
        found.add([(hour * HOUR + MARK_SECONDS, [0, 1])])
        recent.extend(hour * HOUR + MARK_SECONDS, [0, 1])
        assert list(found.recent()) == list(recent)
        assert len(found) == len(recent)
        assert list(MarkedTraces(recent).recent()) == list(recent)


@given(batches, st.integers(0, 2**32))
def test_traces_may_be_added_in_any_order(traces: list[tuple[int, list[int]]], seed: int) -> None:
    shuffled = traces.copy()
    random.Random(seed).shuffle(shuffled)
    assert list(marked(shuffled).recent()) == list(single(traces))
