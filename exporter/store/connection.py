"""The connection to SQLite: shared by all threads, written to in transactions, with errors that say what to do."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from sqlite_utils import Database

from exporter.runtime.locks import LockRank, new_rlock
from exporter.runtime.telemetry import StorageFailure
from exporter.store.lock import DatabaseLock

OnFailure = Callable[[StorageFailure], None]
OnDamage = Callable[[], None]

_BUSY_SECONDS: Final = 10


class StoreError(Exception):
    """The database refused a read or a write; what was stored before is untouched.

    Attributes:
        reason: why.
    """

    def __init__(self, reason: StorageFailure, message: str) -> None:
        super().__init__(message)
        self.reason: StorageFailure = reason


class MissingDatabaseError(StoreError):
    """There is no file to read from."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            "readonly",
            f"there is no history at {path}: run the exporter until it has read some, or point storage.path (in the "
            "configuration, or as STORAGE_PATH) at its database",
        )


class Connection:
    """One connection for all threads, each of which holds it for single statements or one short transaction.

    Attributes:
        mutex: held while the connection is in use; may be taken around several uses, also by the thread that holds it.
        on_failure: is told why the database refused something.
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
        """Use a connection that any thread may use.

        Args:
            raw: the connection; closed by :meth:`close`.
            path: the file, if there is one.
            lock: what keeps other processes off it; released by :meth:`close`.
            on_failure: is told why the database refused something.
            on_damage: is told that the database cannot be used any more, since its file is damaged.
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
        """Open or create a database file, and keep every other exporter off it.

        Raises:
            DatabaseInUseError: another exporter uses it.
            StoreError: it cannot be opened or created.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = DatabaseLock(path)
        except OSError as error:
            on_failure("readonly")
            raise StoreError(
                "readonly",
                f"cannot create {path}: {error.strerror}; make its directory writable or set storage.path",
            ) from error
        try:
            with _translated(f"opening {path}", on_failure):
                raw = sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False)
        except BaseException:
            lock.release()
            raise
        connection = cls(raw, path=path, lock=lock, on_failure=on_failure, on_damage=on_damage)
        try:
            with connection.reading(f"opening {path}"):
                if raw.execute("PRAGMA page_count").fetchone() == (0,):
                    # Only before the first table is made: lets retention give pages back without rewriting the file.
                    raw.execute("PRAGMA auto_vacuum = INCREMENTAL")
                raw.execute("PRAGMA journal_mode = WAL")
                # Safe in WAL mode against a killed process; a power cut may lose the last windows: they are read again.
                raw.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            connection.close()
            raise
        return connection

    @classmethod
    def open_readonly(cls, path: Path) -> Self:
        """Open an existing database file for reading only; no lock is taken and a running exporter is not disturbed.

        Raises:
            MissingDatabaseError: it is not there.
            StoreError: it cannot be read.
        """
        if not path.exists():
            raise MissingDatabaseError(path)
        # Whoever has a database in WAL mode open keeps a log beside it, and so would SQLite even to read it: files that
        # belong to the wrong user then, or cannot be made at all. Without a log nobody writes, so it is not needed.
        unused = not path.with_name(f"{path.name}-wal").exists()
        address = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if unused else ''}"
        try:
            return cls(_connected_readonly(address), path=path)
        except sqlite3.Error as error:
            raise StoreError(_reason(error), f"cannot read {path}: {error}") from error

    @classmethod
    def in_memory(cls) -> Self:
        """A database that leaves nothing behind."""
        return cls(sqlite3.connect(":memory:", check_same_thread=False))

    def close(self) -> None:
        """Close the database and let others use it; further uses are refused."""
        with self.mutex:
            self._raw.close()
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    @contextmanager
    def reading(self, doing: str) -> Iterator[sqlite3.Connection]:
        """Hold the connection, and turn SQLite's errors into :class:`StoreError`.

        Args:
            doing: what for, as an error begins: "reading the ledger".
        """
        try:
            with self.mutex, _translated(doing, self.on_failure):
                yield self._raw
        except StoreError as error:
            if error.reason == "corrupt":
                self._on_damage()
            raise

    def unreadable(self, doing: str) -> StoreError:
        """The error of a row that SQLite has read and that makes no sense: its page was overwritten."""
        self.on_failure("corrupt")
        self._on_damage()
        return StoreError("corrupt", f"{doing} failed: a row makes no sense{_advice('corrupt')}")

    @contextmanager
    def writing(self, doing: str) -> Iterator[sqlite3.Connection]:
        """The same in a transaction: all that is written in it stands, or nothing."""
        with self.reading(doing) as raw, self._db.atomic():
            yield raw

    def size_bytes(self) -> int:
        """What the database occupies, the write-ahead log included."""
        if self._path is None:
            with self.reading("measuring the database") as raw:
                (pages,) = raw.execute("PRAGMA page_count").fetchone()
                (page_size,) = raw.execute("PRAGMA page_size").fetchone()
            return int(pages * page_size)
        files = (self._path.with_name(self._path.name + suffix) for suffix in ("", "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())


def _connected_readonly(address: str) -> sqlite3.Connection:
    """Connect to a database, and see whether it can be read: connecting alone does not touch it."""
    raw = sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, check_same_thread=False)
    try:
        raw.execute("PRAGMA schema_version").fetchone()
    except BaseException:
        raw.close()
        raise
    return raw


@contextmanager
def _translated(doing: str, on_failure: OnFailure) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        reason = _reason(error)
        on_failure(reason)
        raise StoreError(reason, f"{doing} failed: {error}{_advice(reason)}") from error


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
            # What was text once is none any more; Python finds that out, and has no code for it.
            return "corrupt"
        case _:
            return "other"


def _advice(reason: StorageFailure) -> str:
    match reason:
        case "full":
            return "; free some disk space, what is missing is then read again"
        case "readonly":
            return "; make the database and its directory writable"
        case "locked":
            return "; another program holds the database, let it finish"
        case "corrupt":
            return "; move the file away and restart, the history is then read again"
        case "other":
            return ""
