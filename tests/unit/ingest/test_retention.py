"""A bisection of wide searches finds the windows that are older than the first trace in Tempo."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.ingest.retention import any_trace, windows_before_traces
from exporter.model.ledger import Window
from exporter.tempo.errors import RangeTooLongError, TempoError
from tests.support.fakes import FakeTempo, away, span
from tests.support.ledgers import DAY, HOUR, NOON


@st.composite
def windows_with_gaps(draw: st.DrawFn) -> list[Window]:
    """Windows by time, with gaps where windows have been read already."""
    position = NOON
    windows = []
    for gap, length in draw(
        st.lists(
            st.tuples(st.one_of(st.just(0), st.integers(0, DAY)), st.sampled_from([300, HOUR])),
            min_size=1,
            max_size=200,
        )
    ):
        windows.append(Window(position + gap, position + gap + length))
        position += gap + length
    return windows


class FakeExists:
    """Answers as if traces started at `oldest` and never ended, and records the requested ranges."""

    def __init__(self, oldest: float) -> None:
        self.oldest = oldest
        self.requests: list[tuple[int, int]] = []

    def __call__(self, start: int, end: int) -> bool:
        assert start < end
        self.requests.append((start, end))
        return end >= self.oldest


@given(windows_with_gaps(), st.data())
def test_expired_windows_end_before_the_first_trace(windows: list[Window], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(windows)))
    oldest = windows[first].end if first < len(windows) else windows[-1].end + 1
    exists = FakeExists(oldest)
    assert windows_before_traces(windows, exists) == first
    assert len(exists.requests) <= log2(len(windows)) + 2
    # What has no traces is searched once.
    empty = sorted((start, end) for start, end in exists.requests if end < oldest)
    assert all(before[1] <= after[0] for before, after in pairwise(empty))
    assert all(start == windows[0].start or start in {end for _, end in empty} for start, _ in exists.requests)


def test_one_request_is_enough_if_the_oldest_window_has_traces() -> None:
    windows = [Window(NOON + hour * HOUR, NOON + (hour + 1) * HOUR) for hour in range(168)]
    exists = FakeExists(NOON)
    assert windows_before_traces(windows, exists) == 0
    assert exists.requests == [tuple(windows[0])]


@pytest.mark.parametrize("allowed", [300, 900, HOUR, DAY])
def test_an_empty_tempo_is_searched_once_however_short_the_ranges(allowed: int) -> None:
    """The week was searched up to seven times: 2,559 requests for ranges of half an hour."""
    windows = [Window(NOON + hour * HOUR, NOON + (hour + 1) * HOUR) for hour in range(168)]
    tempo = FakeTempo(allowed_seconds=allowed)
    assert windows_before_traces(windows, partial(any_trace, tempo)) == 168
    assert len(tempo.probes) <= 168 * HOUR / allowed + log2(168) + 2


def test_no_windows_precede_traces_if_there_are_no_windows() -> None:
    assert windows_before_traces([], FakeExists(0)) == 0


def test_any_trace_searches_the_range_at_once_if_tempo_allows_it() -> None:
    tempo = FakeTempo([span(NOON)])
    assert any_trace(tempo, NOON - 7 * DAY, NOON)
    assert not any_trace(tempo, NOON - 7 * DAY, NOON - 1)
    assert tempo.probes == [(NOON - 7 * DAY, NOON), (NOON - 7 * DAY, NOON - 1)]


def test_any_trace_searches_too_long_a_range_in_parts_newest_first() -> None:
    tempo = FakeTempo([span(NOON - 50 * HOUR)], allowed_seconds=DAY)
    assert any_trace(tempo, NOON - 80 * HOUR, NOON)
    parts = [(NOON - (hours + 24) * HOUR, NOON - hours * HOUR) for hours in (0, 24, 48)]
    assert tempo.probes == parts
    assert tempo.refusals == 1
    # The limit is known by now, so Tempo refuses no further search.
    assert not any_trace(tempo, NOON - 30 * HOUR, NOON)
    assert tempo.probes[3:] == [(NOON - DAY, NOON), (NOON - 30 * HOUR, NOON - DAY)]
    assert tempo.refusals == 1


def too_long(start: int, end: int) -> None:
    raise RangeTooLongError("range exceeds 1h", max_seconds=HOUR)


@pytest.mark.parametrize("fails", [away, too_long])
def test_any_trace_raises_the_error_of_a_failed_search(fails: Callable[[int, int], None]) -> None:
    """A refusal without a lower limit is raised too, because every retry would be refused."""
    tempo = FakeTempo(before_probe=fails)
    with pytest.raises(TempoError):
        any_trace(tempo, NOON - DAY, NOON)
    assert len(tempo.probes) == 1
