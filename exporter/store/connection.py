"""SQLite connection shared by all threads. Writes are transactions; errors say what to do."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from exporter.runtime.locks import LockRank, new_rlock
from exporter.runtime.telemetry import StorageFailure
from exporter.store.library import Database
from exporter.store.lock import DatabaseLock

OnFailure = Callable[[StorageFailure], None]
OnDamage = Callable[[], None]

_BUSY_SECONDS: Final = 10


class StoreError(Exception):
    """A read or write of the database failed; the stored data is unchanged.

    Attributes:
        reason: label value of the failure counter.
    """

    def __init__(self, reason: StorageFailure, message: str) -> None:
        super().__init__(message)
        self.reason: StorageFailure = reason


class MissingDatabaseError(StoreError):
    """The database file does not exist."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            "readonly",
            f"there is no history at {path}: run the exporter until it has read some, or set storage.path (or "
            "STORAGE_PATH) to its database",
        )


class Connection:
    """One connection for all threads; each holds it for single statements or one short transaction.

    Attributes:
        mutex: held while the connection is in use. Reentrant: acquire it to hold the connection for several uses.
        on_failure: called with the reason of every failed read or write.
    """

    def __init__(
        self,
        raw: sqlite3.Connection,
        *,
        path: Path | None = None,
        lock: DatabaseLock | None = None,
        on_failure: OnFailure = lambda reason: None,  # noqa: ARG005
        on_damage: OnDamage = lambda: None,
    ) -> None:
        """Wrap a connection that was opened for use by any thread.

        Args:
            raw: the connection; closed by :meth:`close`.
            path: the file; None if in memory.
            lock: lock on the file; released by :meth:`close`.
            on_failure: called with the reason of every failed read or write.
            on_damage: called when the file turns out to be corrupt.
        """
        self._raw = raw
        self._db = Database(raw, execute_plugins=False)
        self._path = path
        self._lock = lock
        self.mutex = new_rlock(LockRank.STORE)
        self.on_failure = on_failure
        self._on_damage = on_damage

    @classmethod
    def open(cls, path: Path, on_failure: OnFailure, on_damage: OnDamage = lambda: None) -> Self:
        """Lock and open a database file; create it if it does not exist.

        Raises:
            DatabaseInUseError: another exporter uses it.
            StoreError: it cannot be opened or created.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            on_failure("readonly")
            raise StoreError(
                "readonly",
                f"cannot create {path}: {error.strerror}; make its directory writable, or set storage.path",
            ) from error
        try:
            lock = DatabaseLock(path)
        except OSError as error:
            on_failure("readonly")
            raise StoreError(
                "readonly",
                f"cannot write the lock file {error.filename or path}: {error.strerror}; make it and its directory "
                "writable, or set storage.path",
            ) from error
        try:
            with _translate_errors(f"opening {path}", on_failure):
                raw = sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False)
        except BaseException:
            lock.release()
            raise
        connection = cls(raw, path=path, lock=lock, on_failure=on_failure, on_damage=on_damage)
        try:
            with connection.reading(f"opening {path}"):
                if raw.execute("PRAGMA page_count").fetchone() == (0,):
                    # Only possible before the first table exists. Lets retention return pages without a VACUUM.
                    raw.execute("PRAGMA auto_vacuum = INCREMENTAL")
                raw.execute("PRAGMA journal_mode = WAL")
                # In WAL mode safe if the process is killed. A power cut may lose the last windows; they are read again.
                raw.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            connection.close()
            raise
        return connection

    @classmethod
    def open_readonly(cls, path: Path) -> Self:
        """Open an existing database file read-only, without a lock, beside a running exporter or not.

        Raises:
            MissingDatabaseError: it does not exist.
            StoreError: it cannot be read.
        """
        if not path.exists():
            raise MissingDatabaseError(path)
        # Even for reading SQLite would create WAL files, which then belong to the wrong user, or cannot be created at
        # all. Without WAL files no process has the database open, so it can be opened as immutable, without them.
        unused = not path.with_name(f"{path.name}-wal").exists()
        address = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if unused else ''}"
        try:
            return cls(_connect_readonly(address), path=path)
        except sqlite3.Error as error:
            raise StoreError(_reason(error), f"cannot read {path}: {error}") from error

    @classmethod
    def in_memory(cls) -> Self:
        """Create a database in memory."""
        return cls(sqlite3.connect(":memory:", check_same_thread=False))

    def close(self) -> None:
        """Close the connection and release the lock; later uses fail."""
        with self.mutex:
            self._raw.close()
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    @contextmanager
    def reading(self, action: str) -> Iterator[sqlite3.Connection]:
        """Hold the connection, and turn SQLite's errors into :class:`StoreError`.

        Args:
            action: start of the error message, such as "reading the ledger".
        """
        try:
            with self.mutex, _translate_errors(action, self.on_failure):
                yield self._raw
        except StoreError as error:
            if error.reason == "corrupt":
                self._on_damage()
            raise

    def unreadable(self, action: str) -> StoreError:
        """Return the error for a row with impossible values, which means that its page was overwritten."""
        self.on_failure("corrupt")
        self._on_damage()
        return StoreError("corrupt", f"{action} failed: a row contains invalid values{_advice('corrupt')}")

    @contextmanager
    def writing(self, action: str) -> Iterator[sqlite3.Connection]:
        """Like :meth:`reading`, in a transaction that is rolled back on any error."""
        with self.reading(action) as raw, self._db.atomic():
            yield raw

    def size_bytes(self) -> int:
        """Return the size of the database, including the WAL file."""
        if self._path is None:
            with self.reading("measuring the database") as raw:
                (pages,) = raw.execute("PRAGMA page_count").fetchone()
                (page_size,) = raw.execute("PRAGMA page_size").fetchone()
            return int(pages * page_size)
        files = (self._path.with_name(self._path.name + suffix) for suffix in ("", "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())


def _connect_readonly(address: str) -> sqlite3.Connection:
    """Connect and check that the database is readable; connecting alone does not read it."""
    raw = sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, check_same_thread=False)
    try:
        raw.execute("PRAGMA schema_version").fetchone()
    except BaseException:
        raw.close()
        raise
    return raw


@contextmanager
def _translate_errors(action: str, on_failure: OnFailure) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        reason = _reason(error)
        on_failure(reason)
        raise StoreError(reason, f"{action} failed: {error}{_advice(reason)}") from error


def _reason(error: sqlite3.Error) -> StorageFailure:
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_FULL:
            return "full"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return "readonly"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return "locked"
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return "corrupt"
        case _ if "decode to UTF-8" in str(error):
            # Corrupted text. Python detects this, not SQLite, so there is no error code.
            return "corrupt"
        case _:
            return "other"


def _advice(reason: StorageFailure) -> str:
    match reason:
        case "full":
            return "; free some disk space, and the exporter reads what is missing again"
        case "readonly":
            return "; make the database and its directory writable"
        case "locked":
            return "; another program has locked the database, wait until it has finished"
        case "corrupt":
            return "; move the file away and restart the exporter, which then reads the history again"
        case "other":
            return ""
