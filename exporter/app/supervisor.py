"""Keeps one exporter going on one database file, whatever becomes of the file.

A damaged database is set aside under another name and a fresh one is begun, at the start as well as while running: the
history is in Tempo, and reading it again is what the exporter does anyway. To begin anew, all parts are ended and made
again, which is what a restart does, except that the flags that are up stay up and whoever scrapes is still answered.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from exporter.app.app import Exporter
from exporter.config import Config
from exporter.detection.flag import Flag
from exporter.metrics.self_metrics import SelfMetrics
from exporter.model.span import SeriesKey
from exporter.runtime.logs import Log
from exporter.store import Store, StoreError, move_corrupt_database

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_PAUSE_SECONDS: Final = 60.0
"""So long at least from one beginning to the next: a disk that damages everything is not written full of copies."""
_STOP_SECONDS: Final = 1.5


class Supervisor:
    """Holds the exporter that runs at the moment."""

    def __init__(
        self,
        config: Config,
        metrics: SelfMetrics,
        log: Log,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the database and put an exporter together; nothing runs yet.

        Args:
            config: the configuration.
            metrics: counts what happens, and holds the registry that is served.
            log: is told of a damaged database.
            clock: Unix seconds.
            monotonic: seconds that never jump.

        Raises:
            DatabaseInUseError: another exporter uses the database.
            DatabaseTooNewError: a newer exporter wrote it.
            ForeignFileError: it is not an exporter's.
            ReadingChangedError: it holds another history than the configuration asks for.
            StoreError: it cannot be used, nor set aside.
        """
        self._config = config
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._monotonic = monotonic
        self._stopped = threading.Event()
        self._look = threading.Event()
        self._generation = 0
        self._damaged = False
        self._thread: threading.Thread | None = None
        self._begun_at: float | None = None
        try:
            self._exporter = self._put_together({})
        except StoreError as error:
            if error.reason != "corrupt":
                raise
            self._set_aside()
            self._damaged = False
            self._exporter = self._put_together({})

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer a request with the site of the exporter that runs."""
        return self._exporter.site(environ, start_response)

    def start(self, on_failure: Callable[[BaseException], None]) -> None:
        """Begin to read, judge and publish, and look after the database.

        Args:
            on_failure: is told if a damaged database can be neither used nor set aside.
        """
        self._exporter.start()

        def watch() -> None:
            while not self._stopped.is_set():
                self._look.wait()
                self._look.clear()
                if not self._damaged or self._stopped.wait(self._rest()):
                    continue
                try:
                    self._begin_anew()
                except BaseException as error:  # noqa: BLE001 - whatever it is, nothing runs any more
                    on_failure(error)
                    return

        self._thread = threading.Thread(target=watch, name="keeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End everything within a few seconds."""
        self._stopped.set()
        self._look.set()
        if self._thread is not None:
            # It may be beginning anew just now, and what it has begun is to be ended, too.
            self._thread.join(_STOP_SECONDS)
        self._exporter.close()

    def _rest(self) -> float:
        """How long to go on with a damaged database: not at all the first time."""
        return 0.0 if self._begun_at is None else max(0.0, self._begun_at + _PAUSE_SECONDS - self._monotonic())

    def _begin_anew(self) -> None:
        self._exporter.close()
        self._generation += 1
        self._set_aside()
        self._damaged = False
        self._begun_at = self._monotonic()
        self._exporter = self._put_together(self._exporter.flags())
        if not self._stopped.is_set():
            self._exporter.start()

    def _set_aside(self) -> None:
        aside = move_corrupt_database(self._config.storage.path, self._clock())
        self._log.error(
            "database_replaced",
            "the database is damaged; it was renamed and a new one is started, for which history is read from Tempo "
            "again",
            database=str(self._config.storage.path),
            renamed_to=str(aside),
        )

    def _put_together(self, flags: Mapping[SeriesKey, Flag]) -> Exporter:
        self._generation += 1
        store = Store.open(
            self._config.storage.path,
            on_failure=self._metrics.storage_failed,
            on_damage=partial(self._notice_damage, self._generation),
        )
        try:
            return Exporter(
                self._config, store, self._metrics, clock=self._clock, monotonic=self._monotonic, flags=flags
            )
        except BaseException:
            store.close()
            raise

    def _notice_damage(self, generation: int) -> None:
        # What a thread that has not ended yet finds in the old file says nothing of the fresh one.
        if generation == self._generation:
            self._damaged = True
            self._look.set()
