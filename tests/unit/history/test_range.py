"""The range of history that is written."""

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

FIRST_START = NOON + 100


def week(read_at: float = FIRST_START, *, days: int = 7, until: int = NOON) -> list[LedgerEntry]:
    """Return a week of hourly windows, all read at the same time."""
    return [
        replace(entry(start, start + HOUR, traces=10), read_at=read_at)
        for start in range(until - days * DAY, until, HOUR)
    ]


class TestEnd:
    def test_is_when_the_exporter_first_started(self) -> None:
        """Nothing that Prometheus has scraped is written again, even days later."""
        later = [replace(each, read_at=each.window.end + 900) for each in week(days=2, until=NOON + 2 * DAY)]
        chosen = choose_range([*week(), *later], now=NOON + 2 * DAY + 900)
        assert (chosen.since, chosen.until) == (NOON - 7 * DAY, FIRST_START)
        assert "exporter first started" in chosen.reason

    def test_is_three_hours_ago_at_the_latest(self) -> None:
        chosen = choose_range(week(), now=NOON + 900)
        assert chosen.until == NOON + 900 - HEAD_SECONDS
        assert "in memory" in chosen.reason

    def test_is_the_end_of_the_read_history_if_earlier(self) -> None:
        chosen = choose_range(week(), now=NOON + DAY)
        assert chosen.until == NOON
        assert "not read" in chosen.reason

    def test_can_be_set(self) -> None:
        chosen = choose_range(week(), now=NOON + 900, until=NOON - HOUR)
        assert (chosen.until, chosen.reason) == (NOON - HOUR, "--until is set")

    def test_option_is_limited_by_the_read_history(self) -> None:
        failed = entry(NOON, NOON + HOUR, WindowState.FAILED)
        assert choose_range([*week(), failed], now=NOON + 2 * HOUR, until=NOON + 2 * HOUR).until == NOON

    def test_read_time_before_the_end_of_the_window_is_ignored(self) -> None:
        assert choose_range(week(read_at=0.0), now=NOON + DAY).until == NOON


class TestStart:
    def test_is_the_oldest_window_with_traces(self) -> None:
        empty = replace(entry(NOON - 8 * DAY, NOON - 8 * DAY + HOUR, WindowState.EMPTY), read_at=FIRST_START)
        assert choose_range([empty, *week()], now=NOON + DAY).since == NOON - 7 * DAY

    @pytest.mark.parametrize(("since", "start"), [(NOON - DAY, NOON - DAY), (NOON - 30 * DAY, NOON - 7 * DAY)])
    def test_can_be_set(self, since: int, start: int) -> None:
        assert choose_range(week(), now=NOON + DAY, since=since).since == start


class TestNothing:
    def test_empty_history_is_rejected(self) -> None:
        with pytest.raises(NothingToWriteError, match="history is empty"):
            choose_range([entry(NOON, NOON + HOUR, WindowState.EMPTY)], now=NOON + DAY)

    def test_too_recent_history_is_rejected(self) -> None:
        with pytest.raises(NothingToWriteError, match=r"Try again in 2 h, .* --until"):
            choose_range(week(days=1)[-1:], now=NOON + HOUR)

    @pytest.mark.parametrize(
        ("since", "until"), [(NOON + HOUR, None), (None, NOON - 8 * DAY), (NOON - HOUR, NOON - 2 * HOUR)]
    )
    def test_range_outside_the_history_is_rejected(self, since: int | None, until: int | None) -> None:
        with pytest.raises(NothingToWriteError, match="no history is stored in that range"):
            choose_range(week(), now=NOON + DAY, since=since, until=until)


@given(st.data(), ranges())
def test_range_never_overlaps_what_prometheus_has(data: st.DataObject, range_: Wanted) -> None:
    entries = data.draw(ledgers(range_))
    now = data.draw(st.integers(range_.end, range_.end + 5 * DAY))
    try:
        chosen = choose_range(entries, now)
    except NothingToWriteError:
        return
    assert chosen.since < chosen.until <= now - HEAD_SECONDS
    assert chosen.until <= max(each.window.end for each in entries if each.state.settled)
    assert all(chosen.until <= each.read_at for each in entries if each.read_at >= each.window.end)


class TestRequireComplete:
    WANTED = Wanted(NOON - 7 * DAY, NOON, HOUR)

    def test_complete_history_is_accepted(self) -> None:
        require_complete(week(), self.WANTED, None, NOON, UTC_CALENDAR)

    def test_incomplete_history_is_rejected(self) -> None:
        """Backfill reads the newest windows first: the stored history has no gap, but most of it is missing."""
        with pytest.raises(
            IncompleteHistoryError, match=r"^120 windows in that range are not read yet: .*--incomplete"
        ):
            require_complete(week(days=2), self.WANTED, None, NOON, UTC_CALENDAR)

    def test_failed_window_counts_as_not_read(self) -> None:
        entries = week()
        entries[30] = replace(entries[30], state=WindowState.FAILED)
        with pytest.raises(IncompleteHistoryError, match=r"^1 windows"):
            require_complete(entries, self.WANTED, None, NOON, UTC_CALENDAR)

    def test_windows_outside_the_range_may_be_missing(self) -> None:
        older = week(days=3, until=NOON - 2 * DAY)
        require_complete(week(days=2), self.WANTED, NOON - 2 * DAY, NOON, UTC_CALENDAR)
        require_complete(older, self.WANTED, NOON - 5 * DAY, NOON - 2 * DAY, UTC_CALENDAR)
