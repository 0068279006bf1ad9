"""Puts the parts together and runs them: for ever, or for one pass."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from exporter.app.settings import (
    backfill_settings,
    client_settings,
    evaluation_settings,
    poll_settings,
    reading_description,
    series_rules,
)
from exporter.config import Config, build_calendar
from exporter.detection.flag import Flag
from exporter.evaluation.live import LiveEvaluator
from exporter.evaluation.manager import BaselineManager
from exporter.evaluation.poller import Poller
from exporter.evaluation.query import BaselineQuerier
from exporter.evaluation.snapshot import Snapshot
from exporter.ingest.backfill import Backfill
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.ingest.live_reader import LiveReader
from exporter.ingest.series_filter import SeriesFilter
from exporter.metrics.exposition import Publisher
from exporter.metrics.self_metrics import SelfMetrics, StateCollector
from exporter.model.calendar import Calendar
from exporter.model.hours import HourClock
from exporter.model.ledger import LedgerProgress
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.runtime.tuning import freeze_gc
from exporter.store import Store
from exporter.tempo import TempoClient
from exporter.web.api.api import Api
from exporter.web.http import HttpRequest, Site
from exporter.web.management import MetricsPage, healthy, ready
from exporter.web.pages.explore import Explore
from exporter.web.pages.pages import pages
from exporter.web.pages.sources import Sources

_PATIENCE: Final = 3
"""How many batches may fail in a row before one pass is given up."""
_BOOK_PATIENCE_SECONDS: Final = 2.0
"""So long the first snapshot waits for what is usual: enough for a stored book, or for about a thousand series."""
_STOP_SECONDS: Final = 3.5
"""Altogether the process has five: the server has its share, and the database must be closed."""


class ReadingChangedError(Exception):
    """The database holds a history that was read with another scope, tenant or filter."""


@dataclass(frozen=True, slots=True)
class PassResult:
    """What one pass came to.

    Attributes:
        snapshot: what it found; absent if nothing could be published.
        progress: how far the ledger has come; absent where backfill is switched off.
        polled: whether all of the live edge was read.
    """

    snapshot: Snapshot | None
    progress: LedgerProgress | None
    polled: bool

    @property
    def complete(self) -> bool:
        """Whether nothing that could be there is missing."""
        return self.polled and (self.progress is None or (self.progress.complete and not self.progress.partial))


class Exporter:
    """All parts of one exporter.

    Attributes:
        backfill: the ledger's loop; absent where backfill is switched off.
        publisher: holds the page that is served.
        site: what is served over HTTP.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        metrics: SelfMetrics,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        flags: Mapping[SeriesKey, Flag] | None = None,
    ) -> None:
        """Put the parts together; nothing runs yet.

        Args:
            config: the configuration.
            store: the history; closed by :meth:`close`.
            metrics: counts what happens, and holds the registry that is served.
            clock: Unix seconds.
            monotonic: seconds that never jump.
            flags: those that are up and that the store does not know.

        Raises:
            ReadingChangedError: the store holds another history than the configuration asks for.
            StoreError: the store cannot be read.
        """
        _check_reading(store, reading_description(config))
        self._store = store
        self._clock = clock
        self._monotonic = monotonic
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._log = get_logger("runner")
        calendar = build_calendar(config)
        settings = evaluation_settings(config)
        rules = series_rules(config)
        self._hours = HourClock(calendar)
        self._settle_seconds = config.polling.settle.total_seconds()
        admission = SeriesFilter(rules, get_logger("series"))
        admission.preload(store.series())
        self._client = TempoClient(
            client_settings(config),
            metrics,
            get_logger("tempo"),
            stop=self._stop,
            clock=clock,
            monotonic=monotonic,
        )
        self._historian = BaselineManager(
            store,
            self._hours,
            settings,
            settled_until=self._settled_until,
            on_accepted=metrics.shift_accepted,
            monotonic=monotonic,
            log=get_logger("historian"),
            basis=f"{config.timezone} {config.calendar!r}",
            patience_seconds=_BOOK_PATIENCE_SECONDS,
        )
        self.backfill: Backfill | None = None
        if config.polling.backfill_enabled:
            self.backfill = Backfill(
                self._client,
                store,
                admission,
                calendar,
                backfill_settings(config),
                metrics,
                clock=clock,
                monotonic=monotonic,
                stop=self._stop,
                log=get_logger("backfill"),
                on_commit=lambda _: self._historian.windows_written(),
            )
        if flags:
            self._historian.remember(flags, {})
        polling = poll_settings(config)
        self.publisher = Publisher()
        self._live = LiveEvaluator(
            settings,
            admission.resolve,
            started_at=clock(),
            remembered_seconds=polling.remembered_seconds,
            flags=self._historian.flags(),
        )
        self._poller = Poller(
            LiveReader(
                self._client,
                metrics,
                polling.budget,
                poll_seconds=polling.lookback_seconds,
                hold_seconds=polling.window_seconds,
            ),
            self._live,
            self._historian,
            self.publisher.publish,
            polling,
            metrics,
            clock=clock,
            monotonic=monotonic,
            stop=self._stop,
            log=get_logger("poller"),
            on_clock_jump=self._clock_jumped,
            on_new_book=freeze_gc,
        )
        self._metrics = metrics
        metrics.state = StateCollector(self._snapshot, self._backfill_status, admission, rules.max_series)
        self._metrics_page = MetricsPage(self.publisher, metrics.registry)
        self.site = self._site(config, BaselineQuerier(store, self._hours, settings), calendar)

    # Running for ever

    def start(self) -> None:
        """Begin to read, judge and publish."""
        self._run("poller", self._poller.run)
        self._run("historian", lambda: self._historian.run(self._stop, self._clock))
        if self.backfill is not None:
            self._run("backfill", self.backfill.run)

    def close(self) -> None:
        """End everything within a few seconds, and close the store."""
        self._stop.set()
        if self.backfill is not None:
            self.backfill.wake()
        deadline = time.monotonic() + _STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                # It is a daemon, and what it has not written yet is read again after the next start.
                self._log.warning(
                    "stop_timeout",
                    "thread did not stop in time; what it had not written is read again after the next start",
                    part=thread.name,
                )
        self._client.close()
        self._store.close()

    def flags(self) -> Mapping[SeriesKey, Flag]:
        """The flags that are up; to be asked for once everything has ended."""
        return self._live.flags()

    def _run(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    # One pass

    def one_pass(self) -> PassResult:
        """Read all history that is wanted, then the live edge once, and judge."""
        if self.backfill is not None:
            self.backfill.run(patience=_PATIENCE)
        self._historian.catch_up(self._clock())
        # If the hour has turned meanwhile: here, nobody else would work its book out.
        self._historian.open_book(self._clock())
        polled = self._poller.cycle()
        progress = None if self.backfill is None else self.backfill.status.progress
        return PassResult(self._snapshot(), progress, polled)

    def exposition(self) -> str:
        """The page as Prometheus would get it."""
        return self._metrics_page(HttpRequest("/metrics", {}, accept="", accepts_gzip=False)).body.decode()

    # What is served

    def _site(self, config: Config, inquiry: BaselineQuerier, calendar: Calendar) -> Site:
        sources = Sources(
            snapshot=self._snapshot,
            backfill=self._backfill_status,
            history=inquiry,
            clock=self._clock,
            hours=self._hours,
            local=calendar.local,
            parameters=evaluation_settings(config).shift,
            interval_seconds=poll_settings(config).interval_seconds,
            tempo_url=config.tempo.url,
            explore=Explore(config.grafana.explore_url),
        )
        api = Api(
            inquiry,
            self._snapshot,
            lambda trace_id: self._client.trace(trace_id, loop="api"),
            renamed=series_rules(config).renamed,
            calendar=calendar,
            clock=self._clock,
        )
        return Site(
            {
                **pages(sources, get_logger("web"), self._monotonic),
                **api.pages(),
                "/metrics": self._metrics_page,
                "/-/healthy": healthy,
                "/-/ready": lambda request: ready(self._snapshot()),  # noqa: ARG005
            },
            get_logger("web"),
        )

    # What the parts know of one another

    def _snapshot(self) -> Snapshot | None:
        page = self.publisher.page
        return None if page is None else page.snapshot

    def _backfill_status(self) -> BackfillStatus | None:
        return None if self.backfill is None else self.backfill.status

    def _clock_jumped(self) -> None:
        self._metrics.clock_jumped()
        if self.backfill is not None:
            self.backfill.wake()

    def _settled_until(self) -> int:
        if self.backfill is not None:
            return self.backfill.settled_until()
        # Nothing more will come, so whatever is old enough to have settled may be judged.
        return self._hours.hour(int(self._clock() - self._settle_seconds)).start


def _check_reading(store: Store, wanted: str) -> None:
    known = store.describe_reading(wanted)
    if known != wanted:
        raise ReadingChangedError(
            f"the database holds a history that was read with {known}, and the configuration says {wanted}. "
            "One history cannot hold both: set storage.path to a new file, or take the change back."
        )
