"""The history opened for reading only: beside a running exporter, or where nobody can write."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from exporter.model.ledger import LedgerEntry, Window, WindowState
from exporter.store import DatabaseTooNewError, DatabaseTooOldError, Store, StoreError
from exporter.store.schema import MIGRATIONS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with one window in it, closed."""
    file = tmp_path / "data" / "history.db"
    store = Store.open(file)
    store.commit([entry(0)])
    store.close()
    return file


def entry(start: int) -> LedgerEntry:
    return LedgerEntry(Window(start, start + 3600), WindowState.DONE, read_at=1.0, traces=5, stored=5)


def starts(store: Store) -> list[int]:
    return [entry.window.start for entry in store.ledger(0, 10**10)]


def set_version(path: Path, version: int) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


def test_reads_beside_a_running_exporter_what_it_has_just_written(path: Path) -> None:
    running = Store.open(path)
    reader = Store.open_readonly(path)
    assert starts(reader) == [0]
    running.commit([entry(3600)])
    assert starts(reader) == [0, 3600]
    reader.close()
    running.commit([entry(7200)])
    assert starts(running) == [0, 3600, 7200]
    running.close()


def test_keeps_no_exporter_from_starting(path: Path) -> None:
    reader = Store.open_readonly(path)
    running = Store.open(path)
    running.close()
    reader.close()


def test_leaves_no_trace(path: Path) -> None:
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    reader = Store.open_readonly(path)
    assert starts(reader) == [0]
    reader.close()
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_reads_what_a_killed_exporter_has_left_in_its_log(path: Path, tmp_path: Path) -> None:
    running = Store.open(path)
    running.commit([entry(3600)])
    copy = tmp_path / "copy"
    shutil.copytree(path.parent, copy)
    running.close()
    assert (copy / "history.db-wal").stat().st_size > 0
    reader = Store.open_readonly(copy / "history.db")
    assert starts(reader) == [0, 3600]
    reader.close()


def test_refuses_to_write(path: Path) -> None:
    reader = Store.open_readonly(path)
    with pytest.raises(StoreError) as refused:
        reader.commit([entry(3600)])
    assert refused.value.reason == "readonly"
    reader.close()
    again = Store.open_readonly(path)
    assert starts(again) == [0]
    again.close()


def test_refuses_a_newer_database(path: Path) -> None:
    set_version(path, len(MIGRATIONS) + 1)
    with pytest.raises(DatabaseTooNewError, match="Run the newer exporter again"):
        Store.open_readonly(path)


def test_refuses_a_database_that_must_be_migrated_and_leaves_it_alone(path: Path) -> None:
    set_version(path, len(MIGRATIONS) - 1)
    before = path.read_bytes()
    with pytest.raises(DatabaseTooOldError, match="Start this exporter on it once"):
        Store.open_readonly(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [None, b"not a database at all, but longer than a hundred bytes" * 9])
def test_refuses_what_is_no_database(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "other.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=r"other\.db"):
        Store.open_readonly(path)
    assert [file.name for file in tmp_path.iterdir()] == ([] if content is None else ["other.db"])


@pytest.mark.parametrize("name", ["with space.db", "a?mode=rwc.db", "100%25.db", "#1.db"])
def test_takes_any_file_name(tmp_path: Path, name: str) -> None:
    Store.open(tmp_path / name).close()
    Store.open_readonly(tmp_path / name).close()
