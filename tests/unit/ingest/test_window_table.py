"""The records of windows: states, transitions and totals."""

from dataclasses import replace
from itertools import product

import pytest

from exporter.ingest.window_table import (
    TRANSITIONS,
    InvalidTransitionError,
    QueueState,
    WindowRecord,
    WindowTable,
    state_of,
)
from exporter.model.ledger import Window, WindowState
from tests.support.ledgers import DAY, HOUR, NOON, entry, failed

WINDOW = Window(NOON, NOON + HOUR)


def table_with(state: QueueState) -> WindowTable:
    """A table with a window that went to a state by the shortest way."""
    ways: dict[QueueState, list[QueueState]] = {QueueState.GONE: []}
    while state not in ways:
        for before, after in product(list(ways), QueueState):
            if after in TRANSITIONS[before]:
                ways.setdefault(after, [*ways[before], after])
    table = WindowTable()
    for step in ways[state]:
        table.put(WindowRecord(WINDOW, step))
    return table


@pytest.mark.parametrize(("before", "after"), list(product(QueueState, QueueState)))
def test_put_allows_the_transitions_of_the_table_only(before: QueueState, after: QueueState) -> None:
    table = table_with(before)
    if after in TRANSITIONS[before]:
        table.put(WindowRecord(WINDOW, after))
        before = after
    else:
        with pytest.raises(InvalidTransitionError):
            table.put(WindowRecord(WINDOW, after))
    assert table.state(WINDOW) is before
    assert (WINDOW in table) == (before is not QueueState.GONE)
    assert [state for state in QueueState if table.windows(state)] == [before] * (before is not QueueState.GONE)


def test_every_state_is_left_again() -> None:
    assert TRANSITIONS.keys() == set(QueueState)
    assert all(TRANSITIONS.values())


def test_windows_of_a_state_are_sorted() -> None:
    table = WindowTable()
    windows = [Window(NOON + ago * HOUR, NOON + ago * HOUR + HOUR) for ago in (3, 1, 2)]
    for window in windows:
        table.put(WindowRecord(window))
    assert table.windows(QueueState.UNREAD) == sorted(windows)
    assert [record.window for record in table.records()] == sorted(windows)
    overlapping = table.overlapping(QueueState.UNREAD, NOON + HOUR + 1, NOON + 3 * HOUR)
    assert [record.window for record in overlapping] == sorted(windows)[:2]


@pytest.mark.parametrize(
    ("state", "retry_at", "expected"),
    [
        (WindowState.FAILED, NOON, QueueState.FAILED),
        (WindowState.DONE, None, QueueState.FINAL),
        (WindowState.DONE, NOON, QueueState.INCOMPLETE),
        (WindowState.PARTIAL, None, QueueState.FINAL),
        (WindowState.PARTIAL, NOON, QueueState.INCOMPLETE),
        (WindowState.EMPTY, NOON, QueueState.UNCONFIRMED),
        (WindowState.EMPTY, None, QueueState.FINAL),
        (WindowState.EXPIRED, NOON, QueueState.UNCONFIRMED),
    ],
)
def test_state_follows_from_entry(state: WindowState, retry_at: float | None, expected: QueueState) -> None:
    assert state_of(entry(*WINDOW, state, retry_at=retry_at)) is expected


def test_window_that_was_read_is_unchecked_until_its_last_check() -> None:
    read = replace(entry(*WINDOW), late_check_at=NOON + DAY)
    assert state_of(read) is QueueState.UNCHECKED
    assert state_of(replace(read, retry_at=NOON)) is QueueState.INCOMPLETE
    assert WindowRecord(WINDOW, QueueState.CHECKING, read).without_worker().state is QueueState.UNCHECKED


def test_totals_count_the_windows_that_may_lack_late_spans() -> None:
    table = WindowTable()
    read = entry(*WINDOW, traces=10, coverage=1.0)
    for late_check_at, late_spans, expected in [(NOON, 0, 0), (NOON, None, 1), (NOON, 3, 1), (None, 3, 0)]:
        record = WindowRecord(WINDOW).with_entry(replace(read, late_check_at=late_check_at, late_spans=late_spans))
        table.put(record)
        assert table.totals.late_windows == expected
        table.put(replace(record, state=QueueState.GONE))
    assert table.totals.late_windows == 0


def test_held_window_is_released_to_the_state_before() -> None:
    assert WindowRecord(WINDOW, QueueState.READING).without_worker().state is QueueState.UNREAD
    assert WindowRecord(WINDOW, QueueState.EXPIRING).without_worker().state is QueueState.UNREAD
    again = WindowRecord(WINDOW, QueueState.READING, failed(WINDOW, retry_at=NOON, attempts=2))
    assert (again.failures, again.without_worker().state) == (2, QueueState.FAILED)
    empty = WindowRecord(WINDOW, QueueState.CONFIRMING, entry(*WINDOW, WindowState.EMPTY, retry_at=NOON))
    assert empty.without_worker().state is QueueState.UNCONFIRMED


def test_failure_keeps_the_confirmations_and_success_does_not() -> None:
    record = WindowRecord(WINDOW, QueueState.READING, confirmations=2)
    assert record.with_entry(failed(WINDOW, retry_at=NOON)).confirmations == 2
    assert record.with_entry(entry(*WINDOW)).confirmations == 0
