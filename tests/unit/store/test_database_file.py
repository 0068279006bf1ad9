"""Checks of the file that ``storage.path`` points to."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from exporter.store import DatabaseInUseError, ForeignFileError, Store, StoreError
from exporter.store.schema import MIGRATIONS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


def execute(path: Path, statements: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(statements)


def rejection_of(path: Path) -> str:
    """Return the error of opening a foreign file, and check that nothing in its directory changed."""
    content, beside = path.read_bytes(), set(path.parent.iterdir())
    with pytest.raises(ForeignFileError) as error:
        Store.open(path)
    assert (path.read_bytes(), set(path.parent.iterdir())) == (content, beside)
    return str(error.value)


@pytest.mark.parametrize("content", [b"x", b"dear diary, " * 1000, b"\0" * 100, b"SQLite format 2\0" + b"x" * 4096])
def test_file_that_is_not_a_database_is_rejected_unchanged(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert rejection_of(path) == (
        f"{path} is not a SQLite database (if it is a damaged database of the exporter, move it away: it is rebuilt); "
        "it was not changed. Set storage.path to another file"
    )
    with pytest.raises(ForeignFileError):
        Store.open_readonly(path)


@pytest.mark.parametrize("open_store", [Store.open, Store.open_readonly])
def test_directory_is_rejected(path: Path, open_store: Callable[[Path], Store]) -> None:
    path.mkdir()
    with pytest.raises(ForeignFileError, match=r"is a directory; it was not changed\. Set storage\.path"):
        open_store(path)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "statements",
    [
        "CREATE TABLE orders (id INTEGER)",
        "CREATE TABLE series (id INTEGER)",
        f"CREATE TABLE orders (id INTEGER); PRAGMA user_version = {len(MIGRATIONS)}",
        "CREATE TABLE orders (id INTEGER); PRAGMA user_version = 1000",
        "PRAGMA user_version = 7",
        "PRAGMA journal_mode = WAL; CREATE VIEW one AS SELECT 1",
    ],
)
def test_database_of_another_program_is_rejected_unchanged(path: Path, statements: str) -> None:
    execute(path, statements)
    assert rejection_of(path) == (
        f"{path} is a SQLite database without the exporter's tables; it was not changed. Set storage.path to another "
        "file"
    )
    with pytest.raises(ForeignFileError):
        Store.open_readonly(path)


def test_foreign_database_is_rejected_while_in_use(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE orders (id INTEGER)")
        database.commit()
        with pytest.raises(ForeignFileError):
            Store.open(path)
        assert not path.with_name("history.db.lock").exists()


@pytest.mark.parametrize("statements", ["", "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL"])
def test_empty_database_is_accepted(path: Path, statements: str) -> None:
    """An exporter may have been killed before it created its tables."""
    path.touch()
    execute(path, statements)
    Store.open(path).close()
    Store.open_readonly(path).close()


def test_locked_before_and_without_header_counts_as_corrupt(path: Path) -> None:
    Store.open(path).close()
    with path.open("r+b") as file:
        file.write(b"\xde\xad\xbe\xef" * 1024)
    with pytest.raises(StoreError) as error:
        Store.open(path)
    assert error.value.reason == "corrupt"


def test_foreign_lock_file_does_not_make_a_file_ours(path: Path) -> None:
    path.write_text("dear diary")
    path.with_name("history.db.lock").write_text("locked by me")
    assert "not a SQLite database" in rejection_of(path)


def test_header_alone_does_not_make_a_file_ours(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    assert "not a SQLite database" in rejection_of(path)
    path.with_name("history.db.lock").write_text("123")
    with pytest.raises(StoreError) as error:
        Store.open(path)
    assert error.value.reason == "corrupt"


def test_database_in_use_is_reported_as_such_even_if_corrupt(path: Path) -> None:
    with closing(Store.open(path)):
        with pytest.raises(DatabaseInUseError):
            Store.open(path)
        with path.open("r+b") as file:
            file.write(b"\xde\xad\xbe\xef" * 1024)
        with pytest.raises(DatabaseInUseError):
            Store.open(path)


def test_symbolic_links_are_resolved(path: Path, tmp_path: Path) -> None:
    Store.open(path).close()
    path.write_bytes(b"\0" * 4096)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(StoreError) as error:
        Store.open(link)
    assert error.value.reason == "corrupt"


def test_a_lock_file_that_cannot_be_written_is_named(path: Path) -> None:
    Store.open(path).close()
    lock = path.with_name("history.db.lock")
    lock.unlink()
    lock.mkdir()
    with pytest.raises(StoreError) as refused:
        Store.open(path)
    assert str(refused.value).startswith(
        f"cannot write the lock file {lock}: Is a directory; make it and its directory"
    )
