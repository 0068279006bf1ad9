"""Whose file it is that ``storage.path`` points to."""

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


def put(path: Path, statements: str) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.executescript(statements)


def refused(path: Path) -> str:
    """What is said when the file is refused; it must be as it was, and alone."""
    content, beside = path.read_bytes(), set(path.parent.iterdir())
    with pytest.raises(ForeignFileError) as error:
        Store.open(path)
    assert (path.read_bytes(), set(path.parent.iterdir())) == (content, beside)
    return str(error.value)


@pytest.mark.parametrize("content", [b"x", b"dear diary, " * 1000, b"\0" * 100, b"SQLite format 2\0" + b"x" * 4096])
def test_what_is_no_database_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert refused(path) == (
        f"{path} is not a SQLite database (if it is the exporter's and damaged, move it away, and history is read "
        "again), and is left alone; set storage.path to another file"
    )
    with pytest.raises(ForeignFileError):
        Store.open_readonly(path)


@pytest.mark.parametrize("open_it", [Store.open, Store.open_readonly])
def test_a_directory_is_left_alone(path: Path, open_it: Callable[[Path], Store]) -> None:
    path.mkdir()
    with pytest.raises(ForeignFileError, match=r"is a directory, and is left alone; set storage\.path"):
        open_it(path)
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
def test_a_database_of_somebody_else_is_left_alone(path: Path, statements: str) -> None:
    put(path, statements)
    assert refused(path) == (
        f"{path} is a SQLite database without the exporter's tables, and is left alone; set storage.path to another "
        "file"
    )
    with pytest.raises(ForeignFileError):
        Store.open_readonly(path)


def test_that_it_is_in_use_makes_no_difference(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("CREATE TABLE orders (id INTEGER)")
        other.commit()
        with pytest.raises(ForeignFileError):
            Store.open(path)
        assert not path.with_name("history.db.lock").exists()


@pytest.mark.parametrize("statements", ["", "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL"])
def test_an_empty_one_is_nobodys(path: Path, statements: str) -> None:
    """An exporter may have been killed before it has made its tables."""
    path.touch()
    put(path, statements)
    Store.open(path).close()
    Store.open_readonly(path).close()


def test_one_of_ours_without_a_header_is_damaged(path: Path) -> None:
    Store.open(path).close()
    with path.open("r+b") as file:
        file.write(b"\xde\xad\xbe\xef" * 1024)
    with pytest.raises(StoreError) as error:
        Store.open(path)
    assert error.value.reason == "corrupt"


def test_a_lock_of_something_else_does_not_make_it_ours(path: Path) -> None:
    path.write_text("dear diary")
    path.with_name("history.db.lock").write_text("locked by me")
    assert "not a SQLite database" in refused(path)


def test_a_header_alone_does_not_make_it_ours(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    assert "not a SQLite database" in refused(path)
    path.with_name("history.db.lock").write_text("123")
    with pytest.raises(StoreError) as error:
        Store.open(path)
    assert error.value.reason == "corrupt"


def test_one_that_is_in_use_is_said_to_be_that_whatever_is_in_it(path: Path) -> None:
    with closing(Store.open(path)):
        with pytest.raises(DatabaseInUseError):
            Store.open(path)
        with path.open("r+b") as file:
            file.write(b"\xde\xad\xbe\xef" * 1024)
        with pytest.raises(DatabaseInUseError):
            Store.open(path)


def test_links_lead_to_the_same_answer(path: Path, tmp_path: Path) -> None:
    Store.open(path).close()
    path.write_bytes(b"\0" * 4096)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(StoreError) as error:
        Store.open(link)
    assert error.value.reason == "corrupt"
