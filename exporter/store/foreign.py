"""Tells the exporter's own database from anybody else's file, to which a wrong ``storage.path`` may point."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from exporter.store.connection import Connection, StoreError
from exporter.store.lock import was_locked
from exporter.store.schema import is_ours

_HEADER: Final = b"SQLite format 3\0"


class ForeignFileError(StoreError):
    """The file is not the exporter's, and was left as it is."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__("other", f"{path} is {what}, and is left alone; set storage.path to another file")


def refuse_foreign(path: Path) -> None:
    """Make sure that a file is the exporter's, or nobody's: empty, or not there. It is only read for that.

    A file that cannot be read as a database may have been the exporter's. It counts as that, and as damaged, where an
    exporter has held the lock beside it.

    Raises:
        ForeignFileError: it is somebody else's, or may be.
    """
    if _is_something_else(path):
        raise ForeignFileError(path, "a directory" if path.is_dir() else "no regular file")
    if not _there(path):
        return
    try:
        if _begins_as_a_database(path):
            with closing(Connection.open_readonly(path)) as connection, connection.reading(f"opening {path}") as db:
                _check_ours(db, path)
            return
    except ForeignFileError:
        raise
    except StoreError as error:
        if error.reason != "corrupt":
            # Whoever opens it in earnest will hear of it, too.
            return
    if not was_locked(path):
        raise ForeignFileError(
            path, "not a SQLite database (if it is the exporter's and damaged, move it away, and history is read again)"
        )


def _check_ours(connection: sqlite3.Connection, path: Path) -> None:
    """Make sure that a database is the exporter's, or empty.

    Raises:
        ForeignFileError: it is somebody else's.
        sqlite3.Error: it cannot be read.
    """
    if not is_ours(connection):
        raise ForeignFileError(path, "a SQLite database without the exporter's tables")


def _is_something_else(path: Path) -> bool:
    try:
        return path.exists() and not path.is_file()
    except OSError:
        return False


def _there(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


def _begins_as_a_database(path: Path) -> bool:
    # Asked here and not of SQLite, to which a file of one byte is an empty database.
    try:
        with path.open("rb") as file:
            return file.read(len(_HEADER)) == _HEADER
    except OSError as error:
        raise StoreError("readonly", f"cannot read {path}: {error.strerror}") from error
