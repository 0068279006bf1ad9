"""The store opened read-only, beside a running exporter or without write permission."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from exporter.model.ledger import LedgerEntry, Window, WindowState
from exporter.store import DatabaseTooNewError, DatabaseTooOldError, Store, StoreError
from exporter.store.schema import MIGRATIONS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Create a closed database with one window."""
    file = tmp_path / "data" / "history.db"
    with closing(Store.open(file)) as store:
        store.commit([entry(0)])
    return file


def entry(start: int) -> LedgerEntry:
    return LedgerEntry(Window(start, start + 3600), WindowState.DONE, read_at=1.0, traces=5, stored=5)


def starts(store: Store) -> list[int]:
    return [entry.window.start for entry in store.ledger(0, 10**10)]


def set_version(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")


def test_readonly_store_sees_new_writes_of_a_running_exporter(path: Path) -> None:
    with closing(Store.open(path)) as running:
        with closing(Store.open_readonly(path)) as reader:
            assert starts(reader) == [0]
            running.commit([entry(3600)])
            assert starts(reader) == [0, 3600]
        running.commit([entry(7200)])
        assert starts(running) == [0, 3600, 7200]


def test_readonly_store_does_not_block_an_exporter(path: Path) -> None:
    with closing(Store.open_readonly(path)), closing(Store.open(path)) as running:
        running.commit([entry(3600)])


def test_readonly_store_leaves_the_files_unchanged(path: Path) -> None:
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with closing(Store.open_readonly(path)) as reader:
        assert starts(reader) == [0]
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_readonly_store_reads_the_wal_file_of_a_killed_exporter(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with closing(Store.open(path)) as running:
        running.commit([entry(3600)])
        shutil.copytree(path.parent, copy)
    assert (copy / "history.db-wal").stat().st_size > 0
    with closing(Store.open_readonly(copy / "history.db")) as reader:
        assert starts(reader) == [0, 3600]


def test_readonly_store_rejects_writes(path: Path) -> None:
    with closing(Store.open_readonly(path)) as reader:
        with pytest.raises(StoreError) as refused:
            reader.commit([entry(3600)])
        assert refused.value.reason == "readonly"
    with closing(Store.open_readonly(path)) as reader:
        assert starts(reader) == [0]


def test_readonly_store_rejects_a_newer_database(path: Path) -> None:
    set_version(path, len(MIGRATIONS) + 1)
    with pytest.raises(DatabaseTooNewError, match="Run the newer exporter again"):
        Store.open_readonly(path)


def test_readonly_store_rejects_an_older_database_unchanged(path: Path) -> None:
    set_version(path, len(MIGRATIONS) - 1)
    before = path.read_bytes()
    with pytest.raises(DatabaseTooOldError, match="Run this exporter on it once"):
        Store.open_readonly(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [None, b"not a database at all, but longer than a hundred bytes" * 9])
def test_readonly_store_rejects_a_missing_or_foreign_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "other.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=r"other\.db"):
        Store.open_readonly(path)
    assert [file.name for file in tmp_path.iterdir()] == ([] if content is None else ["other.db"])


@pytest.mark.parametrize("name", ["with space.db", "a?mode=rwc.db", "100%25.db", "#1.db"])
def test_readonly_store_accepts_any_file_name(tmp_path: Path, name: str) -> None:
    Store.open(tmp_path / name).close()
    Store.open_readonly(tmp_path / name).close()
