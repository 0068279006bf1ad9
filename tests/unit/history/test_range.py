from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.history.range import (
    HEAD_SECONDS,
    IncompleteHistoryError,
    NothingToWriteError,
    choose_range,
    require_complete,
)
from exporter.model.ledger import LedgerEntry, Wanted, WindowState
from tests.support.ledgers import DAY, HOUR, NOON, UTC_CALENDAR, entry, ledgers, ranges

BEGAN = NOON + 100


def week(read_at: float = BEGAN, *, days: int = 7, until: int = NOON) -> list[LedgerEntry]:
    """A week, hour by hour, read at once."""
    return [
        replace(entry(start, start + HOUR, traces=10), read_at=read_at)
        for start in range(until - days * DAY, until, HOUR)
    ]


class TestEnd:
    def test_is_when_the_exporter_began(self) -> None:
        """Nothing that Prometheus has scraped is written again, also days later."""
        later = [replace(each, read_at=each.window.end + 900) for each in week(days=2, until=NOON + 2 * DAY)]
        found = choose_range([*week(), *later], now=NOON + 2 * DAY + 900)
        assert (found.since, found.until) == (NOON - 7 * DAY, BEGAN)
        assert "exporter began" in found.why

    def test_is_three_hours_ago_at_the_latest(self) -> None:
        found = choose_range(week(), now=NOON + 900)
        assert found.until == NOON + 900 - HEAD_SECONDS
        assert "in memory" in found.why

    def test_is_what_has_been_read_where_that_is_less(self) -> None:
        found = choose_range(week(), now=NOON + DAY)
        assert found.until == NOON
        assert "not been read" in found.why

    def test_can_be_said(self) -> None:
        found = choose_range(week(), now=NOON + 900, until=NOON - HOUR)
        assert (found.until, found.why) == (NOON - HOUR, "--until says so")

    def test_goes_no_further_than_what_has_been_read_whatever_is_said(self) -> None:
        failed = entry(NOON, NOON + HOUR, WindowState.FAILED)
        assert choose_range([*week(), failed], now=NOON + 2 * HOUR, until=NOON + 2 * HOUR).until == NOON

    def test_does_not_believe_a_clock_by_which_a_window_was_read_before_its_end(self) -> None:
        assert choose_range(week(read_at=0.0), now=NOON + DAY).until == NOON


class TestBeginning:
    def test_is_the_oldest_window_with_traces(self) -> None:
        empty = replace(entry(NOON - 8 * DAY, NOON - 8 * DAY + HOUR, WindowState.EMPTY), read_at=BEGAN)
        assert choose_range([empty, *week()], now=NOON + DAY).since == NOON - 7 * DAY

    @pytest.mark.parametrize(("said", "begins"), [(NOON - DAY, NOON - DAY), (NOON - 30 * DAY, NOON - 7 * DAY)])
    def test_can_be_said(self, said: int, begins: int) -> None:
        assert choose_range(week(), now=NOON + DAY, since=said).since == begins


class TestNothing:
    def test_empty(self) -> None:
        with pytest.raises(NothingToWriteError, match="still empty"):
            choose_range([entry(NOON, NOON + HOUR, WindowState.EMPTY)], now=NOON + DAY)

    def test_too_new(self) -> None:
        with pytest.raises(NothingToWriteError, match=r"Come back in 2 h, .* --until"):
            choose_range(week(days=1)[-1:], now=NOON + HOUR)

    @pytest.mark.parametrize(
        ("since", "until"), [(NOON + HOUR, None), (None, NOON - 8 * DAY), (NOON - HOUR, NOON - 2 * HOUR)]
    )
    def test_outside(self, since: int | None, until: int | None) -> None:
        with pytest.raises(NothingToWriteError, match="nothing is stored of that time"):
            choose_range(week(), now=NOON + DAY, since=since, until=until)


@given(st.data(), ranges())
def test_never_reaches_into_what_prometheus_has(data: st.DataObject, range_: Wanted) -> None:
    entries = data.draw(ledgers(range_))
    now = data.draw(st.integers(range_.end, range_.end + 5 * DAY))
    try:
        found = choose_range(entries, now)
    except NothingToWriteError:
        return
    assert found.since < found.until <= now - HEAD_SECONDS
    assert found.until <= max(each.window.end for each in entries if each.state.settled)
    assert all(found.until <= each.read_at for each in entries if each.read_at >= each.window.end)


class TestUnread:
    WANTED = Wanted(NOON - 7 * DAY, NOON, HOUR)

    def test_complete(self) -> None:
        require_complete(week(), self.WANTED, None, NOON, UTC_CALENDAR)

    def test_incomplete(self) -> None:
        """Backfill reads the newest first: what is stored has no gap, and yet most of it is missing."""
        with pytest.raises(
            IncompleteHistoryError, match=r"^120 windows of that time are still to be read: .*--incomplete"
        ):
            require_complete(week(days=2), self.WANTED, None, NOON, UTC_CALENDAR)

    def test_a_failed_window_is_still_to_be_read(self) -> None:
        entries = week()
        entries[30] = replace(entries[30], state=WindowState.FAILED)
        with pytest.raises(IncompleteHistoryError, match=r"^1 windows"):
            require_complete(entries, self.WANTED, None, NOON, UTC_CALENDAR)

    def test_what_is_not_written_may_be_missing(self) -> None:
        older = week(days=3, until=NOON - 2 * DAY)
        require_complete(week(days=2), self.WANTED, NOON - 2 * DAY, NOON, UTC_CALENDAR)
        require_complete(older, self.WANTED, NOON - 5 * DAY, NOON - 2 * DAY, UTC_CALENDAR)
