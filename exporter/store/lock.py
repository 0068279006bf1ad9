"""Advisory lock that keeps a second exporter off a database. The kernel releases it when the process dies."""

import fcntl
import os
from pathlib import Path


def _lock_file(database: Path) -> Path:
    # Resolved, so that all links to a database share one lock.
    database = database.resolve()
    return database.with_name(database.name + ".lock")


def was_locked(database: Path) -> bool:
    """Return whether an exporter locks or ever locked a database. The lock file stays and contains a process id."""
    try:
        return _lock_file(database).read_bytes()[:32].strip().isdigit()
    except OSError:
        return False


class DatabaseInUseError(Exception):
    """Another process has locked the database."""


class DatabaseLock:
    """Exclusive lock on a database, held until it is released or the process ends."""

    def __init__(self, database: Path) -> None:
        """Acquire the lock without waiting.

        Raises:
            DatabaseInUseError: another process holds it.
            OSError: the lock file cannot be created, written or locked; ``filename`` names it.
        """
        file = _lock_file(database)
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            process = f" (process {holder})" if holder else ""
            raise DatabaseInUseError(
                f"{database.resolve()} is in use by another exporter{process}. Stop it, or give this one a different "
                "storage.path: two exporters would overwrite each other's history."
            ) from None
        except OSError as error:
            os.close(self._descriptor)
            raise OSError(error.errno, error.strerror, str(file)) from error
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(os.getpid()).encode("ascii"), 0)
        except OSError as error:  # such as a full disk
            os.close(self._descriptor)
            raise OSError(error.errno, error.strerror, str(file)) from error

    def release(self) -> None:
        """Release the lock. The file stays: deleting it would race with the next process that locks it."""
        os.close(self._descriptor)
