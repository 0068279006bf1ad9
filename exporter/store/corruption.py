"""Puts a damaged database out of the way, so that a fresh one can be begun and nothing of the old one is lost."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from exporter.store.connection import StoreError
from exporter.store.lock import DatabaseLock

_COMPANIONS: Final = ("-wal", "-shm", "")
"""The database itself comes last: a log that stayed behind would be played into the fresh database."""


def move_corrupt_database(database: Path, now: float) -> Path:
    """Rename a database that nobody has open, with the files that belong to it.

    Args:
        database: the file.
        now: Unix seconds; the new name tells them.

    Returns:
        The new name of the file itself, by which it can still be opened.

    Raises:
        DatabaseInUseError: another exporter uses it.
        StoreError: it cannot be renamed.
    """
    database = database.resolve()
    when = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    try:
        lock = DatabaseLock(database)
        try:
            aside = _unused(database.with_name(f"{database.name}.corrupt-{when}"))
            for suffix in _COMPANIONS:
                file = database.with_name(database.name + suffix)
                if file.exists():
                    file.rename(aside.with_name(aside.name + suffix))
        finally:
            lock.release()
    except OSError as error:
        raise StoreError(
            "corrupt",
            f"{database} is damaged and cannot be set aside: {error.strerror}; make its directory writable, or move "
            "the file away",
        ) from error
    return aside


def _unused(file: Path) -> Path:
    number, found = 1, file
    while found.exists():
        number += 1
        found = file.with_name(f"{file.name}.{number}")
    return found
