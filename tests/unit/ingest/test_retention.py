"""Where Tempo's traces begin is found with a few wide searches."""

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
    """Windows by time, with gaps between them where others have been read already."""
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


class Asked:
    """Answers whether traces exist that begin at some instant and never end, and remembers what it was asked."""

    def __init__(self, oldest: float) -> None:
        self.oldest = oldest
        self.questions: list[tuple[int, int]] = []

    def __call__(self, start: int, end: int) -> bool:
        assert start < end
        self.questions.append((start, end))
        return end >= self.oldest


@given(windows_with_gaps(), st.data())
def test_the_boundary_is_found_wherever_it_lies(windows: list[Window], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(windows)))
    oldest = windows[first].end if first < len(windows) else windows[-1].end + 1
    exists = Asked(oldest)
    expired = expired_windows(windows, exists)
    assert list(expired) == (windows[:first] if first < len(windows) else [])
    assert len(exists.questions) <= log2(len(windows)) + 2
    assert all(start == windows[0].start for start, _ in exists.questions)


def test_where_everything_exists_one_question_is_enough() -> None:
    windows = [Window(NOON + hour * HOUR, NOON + (hour + 1) * HOUR) for hour in range(168)]
    exists = Asked(NOON)
    assert list(expired_windows(windows, exists)) == []
    assert exists.questions == [tuple(windows[0])]


def test_where_nothing_exists_nothing_is_given_up() -> None:
    """An empty Tempo may just be new: that says nothing about how long it keeps traces."""
    windows = [Window(NOON + hour * HOUR, NOON + (hour + 1) * HOUR) for hour in range(168)]
    assert list(expired_windows(windows, lambda start, end: False)) == []


def test_without_windows_nothing_is_asked() -> None:
    assert list(expired_windows([], Asked(0))) == []


def test_a_range_is_asked_about_at_once_where_tempo_allows_it() -> None:
    tempo = FakeTempo([span(NOON)])
    assert any_trace(tempo, NOON - 7 * DAY, NOON)
    assert not any_trace(tempo, NOON - 7 * DAY, NOON - 1)
    assert tempo.probes == [(NOON - 7 * DAY, NOON), (NOON - 7 * DAY, NOON - 1)]


def test_a_range_that_is_too_long_is_asked_about_in_parts_newest_first() -> None:
    tempo = FakeTempo([span(NOON - 50 * HOUR)], allowed_seconds=DAY)
    assert any_trace(tempo, NOON - 80 * HOUR, NOON)
    parts = [(NOON - (hours + 24) * HOUR, NOON - hours * HOUR) for hours in (0, 24, 48)]
    assert tempo.probes == parts
    assert tempo.refusals == 1
    # Once that is known, nothing is asked in vain.
    assert not any_trace(tempo, NOON - 30 * HOUR, NOON)
    assert tempo.probes[3:] == [(NOON - DAY, NOON), (NOON - 30 * HOUR, NOON - DAY)]
    assert tempo.refusals == 1


def too_long(start: int, end: int) -> None:
    raise RangeTooLongError("range exceeds 1h", max_seconds=HOUR)


@pytest.mark.parametrize("fails", [away, too_long])
def test_a_failure_is_passed_on(fails: Callable[[int, int], None]) -> None:
    """Also a refusal from which nothing is learned: it would be refused for ever."""
    tempo = FakeTempo(before_probe=fails)
    with pytest.raises(TempoError):
        any_trace(tempo, NOON - DAY, NOON)
    assert len(tempo.probes) == 1
