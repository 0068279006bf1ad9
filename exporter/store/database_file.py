"""Checks that a file is an exporter's database before it is opened, and moves a corrupt one out of the way."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from exporter.store.connection import Connection, StoreError
from exporter.store.lock import DatabaseLock, was_locked
from exporter.store.schema import is_exporter_database

_HEADER: Final = b"SQLite format 3\0"
_SUFFIXES: Final = ("-wal", "-shm", "")
"""Files of a database. The main file is renamed last: a WAL file that stayed behind would be replayed into the new
database."""


class ForeignFileError(StoreError):
    """``storage.path`` points to a file that is not an exporter's database; the file is unchanged."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__("other", f"{path} is {what}; it was not changed. Set storage.path to another file")


def check_file(path: Path) -> None:
    """Check that a file is an exporter's database, or is empty or missing. Only reads the file.

    A file that is not a readable database counts as an exporter's corrupt database if an exporter has ever locked it.

    Raises:
        ForeignFileError: it belongs, or may belong, to another program.
    """
    if _is_not_a_regular_file(path):
        raise ForeignFileError(path, "a directory" if path.is_dir() else "not a regular file")
    if not _has_content(path):
        return
    try:
        if _has_sqlite_header(path):
            with closing(Connection.open_readonly(path)) as connection, connection.reading(f"opening {path}") as db:
                _check_tables(db, path)
            return
    except ForeignFileError:
        raise
    except StoreError as error:
        if error.reason != "corrupt":
            # Opening the database will report this error.
            return
    if not was_locked(path):
        raise ForeignFileError(
            path, "not a SQLite database (if it is a damaged database of the exporter, move it away: it is rebuilt)"
        )


def _check_tables(connection: sqlite3.Connection, path: Path) -> None:
    if not is_exporter_database(connection):
        raise ForeignFileError(path, "a SQLite database without the exporter's tables")


def _is_not_a_regular_file(path: Path) -> bool:
    try:
        return path.exists() and not path.is_file()
    except OSError:
        return False


def _has_content(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


def _has_sqlite_header(path: Path) -> bool:
    # Not left to SQLite, which takes a file of one byte for an empty database.
    try:
        with path.open("rb") as file:
            return file.read(len(_HEADER)) == _HEADER
    except OSError as error:
        raise StoreError("readonly", f"cannot read {path}: {error.strerror}") from error


def move_corrupt_database(database: Path, now: float) -> Path:
    """Rename a corrupt database and its WAL files, so that a new one can be created and nothing is lost.

    Args:
        database: the file; no exporter may have it open.
        now: Unix seconds, for the new name.

    Returns:
        The new name of the main file.

    Raises:
        DatabaseInUseError: another exporter uses it.
        StoreError: it cannot be renamed.
    """
    database = database.resolve()
    time = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    try:
        lock = DatabaseLock(database)
        try:
            target = _unused_name(database.with_name(f"{database.name}.corrupt-{time}"))
            for suffix in _SUFFIXES:
                file = database.with_name(database.name + suffix)
                if file.exists():
                    file.rename(target.with_name(target.name + suffix))
        finally:
            lock.release()
    except OSError as error:
        raise StoreError(
            "corrupt",
            f"{database} is corrupt and cannot be renamed: {error.filename or database}: {error.strerror}. Make its "
            "directory writable, or move the file away",
        ) from error
    return target


def _unused_name(file: Path) -> Path:
    number, candidate = 1, file
    while candidate.exists():
        number += 1
        candidate = file.with_name(f"{file.name}.{number}")
    return candidate
