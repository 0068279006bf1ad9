"""How SQLite goes about the store's statements: by index, wherever a table grows with series and hours."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.model.accumulator import WindowContent, WindowDigest
from exporter.model.histogram import Digest
from exporter.model.hours import HourEvaluation
from exporter.model.ledger import LedgerEntry, Window, WindowState
from exporter.model.span import SeriesKey
from exporter.store import Findings, Store
from exporter.store.schema import MIGRATIONS

HOUR = 3600
KEYS = [SeriesKey("shop", f"GET /{name}") for name in "abc"]
LARGE = ("digests", "judgements", "suspects")
"""Tables with rows for every series and hour; the others have a row a series or a window at most."""


def entry(start: int) -> LedgerEntry:
    window = Window(start, start + HOUR)
    return LedgerEntry(window, WindowState.DONE, read_at=0.0, traces=3, stored=3, coverage=1.0)


def content(start: int) -> WindowContent:
    digest = Digest.of_ns([10**8])
    window = Window(start, start + HOUR)
    return WindowContent(window, {key: WindowDigest(digest, {1: digest}) for key in KEYS}, {})


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[tuple[Store, list[str]]]:
    """A store, and the statements that it makes."""
    store = Store.open(tmp_path / "plans.db")
    statements: list[str] = []
    store._connection._raw.set_trace_callback(statements.append)
    yield store, statements
    store._connection._raw.set_trace_callback(None)
    store.close()


def plan(store: Store, statement: str) -> list[str]:
    return [row[3] for row in store._connection._raw.execute(f"EXPLAIN QUERY PLAN {statement}")]


def test_no_statement_goes_through_a_large_table(traced: tuple[Store, list[str]]) -> None:
    store, statements = traced
    store.commit([entry(hour * HOUR) for hour in range(4)], [content(hour * HOUR) for hour in range(4)])
    store.commit([entry(HOUR)], [content(HOUR)])
    store.record([Findings(key, {0: HourEvaluation(quarantined=True)}, b"{}", [0]) for key in KEYS])
    store.remember(dict.fromkeys(KEYS, "[]"), {KEYS[0]: [0, HOUR]})
    store.remember(dict.fromkeys(KEYS), {})
    store.save_book(0, b"")
    list(store.history(store.series(), 0, 4 * HOUR, marks_from=HOUR))
    store.ledger(0, 2 * HOUR)
    store.flags()
    store.book(0)
    assert store.totals().quarantined == len(KEYS)
    store.prune(2 * HOUR)
    made = list(dict.fromkeys(statements))
    store._connection._raw.set_trace_callback(None)

    looked_at = 0
    for statement in made:
        if re.match(r"(SELECT|DELETE|UPDATE|INSERT)\b", statement):
            for step in plan(store, statement):
                looked_at += 1
                scanned = re.match(r"SCAN (\w+)(.*)", step)
                assert not scanned or scanned[1] not in LARGE or "quarantined_hours" in scanned[2], (step, statement)
    assert looked_at > 15


def test_space_that_retention_has_freed_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "shrinks.db"
    store = Store.open(path)
    keys = [SeriesKey("shop", f"GET /{number}-of-many") for number in range(300)]
    digest = Digest.of_ns([10**6 * (number + 1) for number in range(60)])
    for hour in range(24):
        window = Window(hour * HOUR, (hour + 1) * HOUR)
        store.commit(
            [entry(hour * HOUR)],
            [WindowContent(window, {key: WindowDigest(digest, {1: digest}) for key in keys}, {})],
        )
    store.close()
    full = path.stat().st_size
    store = Store.open(path)
    assert store.prune(20 * HOUR).windows == 20
    store.close()
    assert path.stat().st_size < full / 3


def test_a_database_of_the_first_version_is_brought_up_to_date_with_all_that_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    store = Store.open(path)
    store.commit([entry(0)], [content(0)])
    store.record([Findings(KEYS[0], {0: HourEvaluation(quarantined=True)}, b"{}", [])])
    before = list(store.history(store.series(), 0, HOUR))
    raw = store._connection._raw
    raw.execute("DROP INDEX quarantined_hours")
    raw.execute("PRAGMA user_version = 1")
    store.close()

    store = Store.open(path)
    assert store._connection._raw.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    assert list(store.history(store.series(), 0, HOUR)) == before
    assert store.totals().quarantined == 1
    store.close()
