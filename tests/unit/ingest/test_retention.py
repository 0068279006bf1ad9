"""A bisection of wide searches finds the windows that are older than the first trace in Tempo."""

from collections.abc import Callable
from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.ingest.retention import any_trace, expired_windows
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
    expired = expired_windows(windows, exists)
    assert list(expired) == (windows[:first] if first < len(windows) else [])
    assert len(exists.requests) <= log2(len(windows)) + 2
    assert all(start == windows[0].start for start, _ in exists.requests)


def test_one_request_is_enough_if_the_oldest_window_has_traces() -> None:
    windows = [Window(NOON + hour * HOUR, NOON + (hour + 1) * HOUR) for hour in range(168)]
    exists = FakeExists(NOON)
    assert list(expired_windows(windows, exists)) == []
    assert exists.requests == [tuple(windows[0])]


def test_no_window_expires_if_tempo_has_no_trace() -> None:
    """An empty Tempo may be new, which says nothing about its retention."""
    windows = [Window(NOON + hour * HOUR, NOON + (hour + 1) * HOUR) for hour in range(168)]
    assert list(expired_windows(windows, lambda start, end: False)) == []


def test_no_windows_expire_if_there_are_no_windows() -> None:
    assert list(expired_windows([], FakeExists(0))) == []


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
