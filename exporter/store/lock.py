"""One process per database: an advisory lock on a file beside it, which the kernel releases when the process dies."""

import fcntl
import os
from pathlib import Path


def _lock_file(database: Path) -> Path:
    # Beside the file itself: by whatever links it is reached, there is one lock.
    database = database.resolve()
    return database.with_name(database.name + ".lock")


def was_locked(database: Path) -> bool:
    """Whether an exporter holds a database or has held it: the lock's file stays, with the number of its process."""
    try:
        return _lock_file(database).read_bytes()[:32].strip().isdigit()
    except OSError:
        return False


class DatabaseInUseError(Exception):
    """Another process holds the database."""


class DatabaseLock:
    """Holds the lock until it is released or the process ends, however it ends."""

    def __init__(self, database: Path) -> None:
        """Take the lock.

        Raises:
            DatabaseInUseError: another process holds it.
            OSError: the lock file cannot be made.
        """
        self._descriptor = os.open(_lock_file(database), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            process = f" (process {holder})" if holder else ""
            raise DatabaseInUseError(
                f"{database.resolve()} is in use by another exporter{process}; two on one database would overwrite "
                "each other. Stop that one, or give this one a storage.path of its own."
            ) from None
        except OSError:
            os.close(self._descriptor)
            raise
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, str(os.getpid()).encode("ascii"), 0)

    def release(self) -> None:
        """Let go of the lock; the file stays, since removing it would race with the next holder."""
        os.close(self._descriptor)
