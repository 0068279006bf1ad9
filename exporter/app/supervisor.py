"""The supervisor: keeps one app running on one database file, and replaces the file when it is damaged.

A damaged database, found at the start or while running, is renamed and a new one is created: the history is still
in Tempo, and the backfill reads it again. All components are stopped and rebuilt, as in a restart, except that firing
flags keep firing and scrapes are answered throughout.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from exporter.app.app import App, build_app
from exporter.config import Config
from exporter.detection.flag import SeriesFlags
from exporter.metrics.self_metrics import SelfMetrics
from exporter.model.span import SeriesKey
from exporter.runtime.locks import LockRank, new_lock
from exporter.runtime.logs import Log
from exporter.runtime.stop_budget import StopBudget
from exporter.runtime.telemetry import StorageFailure
from exporter.store import Store, StoreError, move_corrupt_database

if TYPE_CHECKING:
    from pathlib import Path

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_MIN_REPLACEMENT_SECONDS: Final = 60.0
"""Least time from one replacement to the next, so that a disk that damages every file is not filled with copies."""


class OpenStore(Protocol):
    """Opens the store; see :meth:`Store.open`."""

    def __call__(
        self, path: "Path", *, on_failure: Callable[[StorageFailure], None], on_damage: Callable[[], None]
    ) -> Store:
        """Open or create the database file."""


class Supervisor:
    """Runs an app and rebuilds it on a new database after damage.

    Attributes:
        app: the app that runs now.
    """

    def __init__(
        self,
        config: Config,
        metrics: SelfMetrics,
        log: Log,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        open_store: OpenStore = Store.open,
        accepts_marks: bool = False,
    ) -> None:
        """Open the database and build an app; nothing runs yet.

        Args:
            config: the configuration.
            metrics: the exporter's own metrics, with the registry that is served.
            log: records replaced databases.
            clock: Unix seconds.
            monotonic: seconds that never jump.
            open_store: opens the database.
            accepts_marks: whether the API lets clients add and delete marks.

        Raises:
            DatabaseInUseError: another exporter uses the database.
            DatabaseTooNewError: a newer exporter wrote it.
            ForeignFileError: it is not an exporter's.
            ReadingChangedError: its history was read with another scope, tenant or filter.
            StoreError: it cannot be used, or is damaged and cannot be renamed.
        """
        self._config = config
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._monotonic = monotonic
        self._open_store = open_store
        self._accepts_marks = accepts_marks
        self._stopping = threading.Event()
        self._wakeup = threading.Event()
        # Held while the app is replaced or reloaded.
        self._replacing = new_lock(LockRank.APP)
        # One event for each database: a thread of the previous app may still report damage to the previous file.
        self._damaged = threading.Event()
        self._replaced_at: float | None = None
        self._thread: threading.Thread | None = None
        try:
            self.app = self._build({})
        except StoreError as error:
            if error.reason != "corrupt":
                raise
            self._move_database()
            self.app = self._build({})

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer an HTTP request with the site of the running app."""
        return self.app.site(environ, start_response)

    def start(self, on_failure: Callable[[BaseException], None]) -> None:
        """Start the app and watch its database.

        Args:
            on_failure: called if a damaged database can neither be used nor replaced.
        """
        self.app.start()
        self._thread = threading.Thread(target=self._watch, args=(on_failure,), name="supervisor", daemon=True)
        self._thread.start()

    def reload(self, config: Config) -> None:
        """Use another configuration from now on; see :meth:`App.reload`.

        Raises:
            StoreError: the database cannot be read; nothing has changed.
        """
        with self._replacing:
            self.app.reload(config)
            self._config = config

    def request_stop(self) -> None:
        """Ask all background threads to end, without waiting for them."""
        self._stopping.set()
        self._wakeup.set()
        self.app.request_stop()

    def close(self, budget: StopBudget | None = None) -> None:
        """Stop the app and close its database; may be called again.

        Args:
            budget: the time that is left to stop; a new one where it is absent.
        """
        budget = budget or StopBudget()
        self.request_stop()
        if self._thread is not None:
            # It may be building another app at this moment, which is then the one to close.
            self._thread.join(budget.seconds_for("supervisor"))
        self.app.close(budget)

    def _watch(self, on_failure: Callable[[BaseException], None]) -> None:
        while not self._stopping.is_set():
            self._wakeup.wait()
            self._wakeup.clear()
            if not self._damaged.is_set() or self._stopping.wait(self._pause_seconds()):
                continue
            try:
                self._replace_database()
            except BaseException as error:  # noqa: BLE001 - any failure here leaves nothing running
                on_failure(error)
                return

    def _pause_seconds(self) -> float:
        """How long to keep the damaged database: none of the time for the first one."""
        if self._replaced_at is None:
            return 0.0
        return max(0.0, self._replaced_at + _MIN_REPLACEMENT_SECONDS - self._monotonic())

    def _replace_database(self) -> None:
        with self._replacing:
            self.app.close()
            self._move_database()
            self._replaced_at = self._monotonic()
            self.app = self._build(self.app.flags())
            self.app.save_flags()
            if not self._stopping.is_set():
                self.app.start()

    def _move_database(self) -> None:
        renamed_to = move_corrupt_database(self._config.storage.path, self._clock())
        self._log.error(
            "database_replaced",
            "the database is damaged; it was renamed and a new one is started, for which history is read from Tempo "
            "again",
            database=str(self._config.storage.path),
            renamed_to=str(renamed_to),
        )

    def _build(self, flags: Mapping[SeriesKey, SeriesFlags]) -> App:
        damaged = self._damaged = threading.Event()

        def on_damage() -> None:
            damaged.set()
            self._wakeup.set()

        path = self._config.storage.path
        store = self._open_store(path, on_failure=self._metrics.storage_failed, on_damage=on_damage)
        try:
            return build_app(
                self._config,
                store,
                self._metrics,
                clock=self._clock,
                monotonic=self._monotonic,
                flags=flags,
                accepts_marks=self._accepts_marks,
            )
        except BaseException:
            store.close()
            raise
