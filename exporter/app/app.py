"""The application: the composition root, which builds every component from the configuration, and its life cycle."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from exporter.app.settings import (
    backfill_settings,
    client_settings,
    evaluation_settings,
    label_names,
    poll_settings,
    reading_description,
    series_rules,
)
from exporter.config import Config, build_calendar
from exporter.detection.flag import Flag
from exporter.evaluation.flag_store import FlagStore
from exporter.evaluation.live import LiveEvaluator
from exporter.evaluation.manager import BaselineManager
from exporter.evaluation.poller import Poller
from exporter.evaluation.query import BaselineQuerier
from exporter.evaluation.snapshot import Snapshot
from exporter.evaluation.wakeup import HistorySignal, Wakeup
from exporter.ingest.backfill import Backfill
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.ingest.live_reader import LiveReader
from exporter.ingest.series_filter import SeriesFilter
from exporter.metrics.exposition import Publisher
from exporter.metrics.self_metrics import SelfMetrics, StateCollector
from exporter.model.calendar import Calendar, HourClock
from exporter.model.ledger import LedgerProgress
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.runtime.stop_budget import StopBudget
from exporter.runtime.tuning import freeze_gc
from exporter.store import Store
from exporter.tempo import TempoClient
from exporter.web.api.api import Api
from exporter.web.http import HttpRequest, Site
from exporter.web.management import MetricsPage, healthy, ready
from exporter.web.pages.links import Explore
from exporter.web.pages.routes import page_handlers
from exporter.web.pages.sources import Sources

_MAX_FAILED_BATCHES: Final = 3
"""A single pass gives up on the backfill after this many failed batches in a row."""

_BASELINE_PATIENCE_SECONDS: Final = 2.0
"""How long the first snapshot waits for the baseline table: enough to load a stored one, or to build about a thousand
series."""


class ReadingChangedError(Exception):
    """The stored history was read with another scope, tenant or filter than the configuration has."""


@dataclass(frozen=True)
class Ingest:
    """The components that read Tempo and write the history.

    Attributes:
        client: Tempo.
        series_filter: which series are kept, and under which names.
        backfill: reads settled windows; None where ``polling.backfill_enabled`` is false.
    """

    client: TempoClient
    series_filter: SeriesFilter
    backfill: Backfill | None

    def status(self) -> BackfillStatus | None:
        """Return the state of the ledger; None without backfill."""
        return None if self.backfill is None else self.backfill.status

    def wake(self) -> None:
        """Make idle backfill workers look at the clock and the stop event now."""
        if self.backfill is not None:
            self.backfill.wake()


@dataclass(frozen=True)
class Evaluation:
    """The components that turn what was read into baselines, verdicts and snapshots.

    Attributes:
        manager: evaluates the history and keeps the baseline table of the current hour.
        querier: answers queries about the history, for pages and API.
        flag_store: saves flags over restarts.
        live: evaluates the live edge.
        poller: runs the poll cycles.
    """

    manager: BaselineManager
    querier: BaselineQuerier
    flag_store: FlagStore
    live: LiveEvaluator
    poller: Poller


@dataclass(frozen=True)
class Publishing:
    """The components that hold what a scrape returns.

    Attributes:
        publisher: the last snapshot, rendered.
        metrics_page: the answer to ``/metrics``.
    """

    publisher: Publisher
    metrics_page: MetricsPage

    def snapshot(self) -> Snapshot | None:
        """Return the last snapshot; None until the first one is published."""
        page = self.publisher.page
        return None if page is None else page.snapshot


@dataclass(frozen=True)
class _Context:
    """What most components are built from."""

    config: Config
    store: Store
    metrics: SelfMetrics
    calendar: Calendar
    hours: HourClock
    clock: Callable[[], float]
    monotonic: Callable[[], float]
    stop: threading.Event


def build_app(
    config: Config,
    store: Store,
    metrics: SelfMetrics,
    *,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    flags: Mapping[SeriesKey, Flag] | None = None,
    baseline_patience_seconds: float = _BASELINE_PATIENCE_SECONDS,
) -> "App":
    """Build all components. Nothing runs yet, and nothing is written to the store.

    Args:
        config: the configuration.
        store: the history; the app closes it.
        metrics: the exporter's own metrics, with the registry that is served.
        clock: Unix seconds.
        monotonic: seconds that never jump.
        flags: firing flags to continue with, besides those in the store.
        baseline_patience_seconds: how long a poll cycle waits for a baseline table that is not built yet.

    Raises:
        ReadingChangedError: the stored history was read with another scope, tenant or filter.
        StoreError: the store cannot be read.
    """
    _check_reading(config, store)
    calendar = build_calendar(config)
    context = _Context(
        config=config,
        store=store,
        metrics=metrics,
        calendar=calendar,
        hours=HourClock(calendar),
        clock=clock,
        monotonic=monotonic,
        stop=threading.Event(),
    )
    signal = HistorySignal()
    ingest = _build_ingest(context, signal)
    publisher = Publisher(label_names(config))
    evaluation = _build_evaluation(context, ingest, signal, publisher.publish, flags or {}, baseline_patience_seconds)
    publishing = Publishing(publisher, MetricsPage(publisher, metrics.registry))
    backfill_status = partial(_published_backfill, publishing, ingest)
    metrics.state = StateCollector(publishing.snapshot, backfill_status, ingest.series_filter, config.series.max)
    site = _build_site(context, ingest, evaluation, publishing)
    return App(store, ingest, evaluation, publishing, site, clock=clock, stop=context.stop)


def _check_reading(config: Config, store: Store) -> None:
    configured = reading_description(config)
    stored = store.declare_reading(configured)
    if stored is not None:
        raise ReadingChangedError(
            f"the database holds a history that was read with {stored}, but the configuration has {configured}. "
            "One history cannot hold both: set storage.path to a new file, or restore the previous setting."
        )


def _build_ingest(context: _Context, signal: HistorySignal) -> Ingest:
    series_filter = SeriesFilter(series_rules(context.config), get_logger("series"))
    series_filter.preload(context.store.series())
    client = TempoClient(
        client_settings(context.config),
        context.metrics,
        get_logger("tempo"),
        stop=context.stop,
        clock=context.clock,
        monotonic=context.monotonic,
        renamed=series_filter.rules.renamed,
    )
    if not context.config.polling.backfill_enabled:
        return Ingest(client, series_filter, None)
    backfill = Backfill(
        client,
        context.store,
        series_filter,
        context.calendar,
        backfill_settings(context.config),
        context.metrics,
        clock=context.clock,
        monotonic=context.monotonic,
        stop=context.stop,
        log=get_logger("backfill"),
        on_commit=lambda _: signal.notify_windows_written(),
        on_complete=signal.notify_backfill_complete,
    )
    return Ingest(client, series_filter, backfill)


def _build_evaluation(
    context: _Context,
    ingest: Ingest,
    signal: HistorySignal,
    publish: Callable[[Snapshot], None],
    flags: Mapping[SeriesKey, Flag],
    baseline_patience_seconds: float,
) -> Evaluation:
    config = context.config
    settings = evaluation_settings(config)
    polling = poll_settings(config)
    flag_store = FlagStore(context.store, monotonic=context.monotonic, log=get_logger("baselines"))
    poll_now = Wakeup()
    manager = BaselineManager(
        context.store,
        context.hours,
        settings,
        settled_until=_settled_until(context, ingest.backfill),
        on_accepted=context.metrics.shift_accepted,
        monotonic=context.monotonic,
        log=get_logger("baselines"),
        basis=f"{config.timezone} {config.calendar!r}",
        patience_seconds=baseline_patience_seconds,
        on_table_changed=poll_now.set,
        backfill_status=ingest.status,
        signal=signal,
    )
    live = LiveEvaluator(
        settings,
        ingest.series_filter.resolve,
        started_at=context.clock(),
        remembered_seconds=polling.remembered_seconds,
        flags={**flag_store.load(), **flags},
        max_pause_seconds=polling.max_pause_seconds,
    )
    reader = LiveReader(
        ingest.client,
        context.metrics,
        polling.budget,
        poll_seconds=polling.lookback_seconds,
        hold_seconds=polling.window_seconds,
    )

    def on_clock_jump() -> None:
        context.metrics.clock_jumped()
        ingest.wake()

    poller = Poller(
        reader,
        live,
        manager,
        flag_store,
        publish,
        polling,
        context.metrics,
        clock=context.clock,
        monotonic=context.monotonic,
        stop=context.stop,
        log=get_logger("poller"),
        on_clock_jump=on_clock_jump,
        on_new_table=freeze_gc,
        backfill_status=ingest.status,
        wakeup=poll_now,
    )
    querier = BaselineQuerier(context.store, context.hours, settings)
    return Evaluation(manager, querier, flag_store, live, poller)


def _settled_until(context: _Context, backfill: Backfill | None) -> Callable[[], int]:
    """Return a function for the instant up to which the history is complete, in Unix seconds."""
    if backfill is not None:
        return backfill.settled_until
    settle_seconds = context.config.polling.settle.total_seconds()
    # Without backfill no window will be written any more, so an hour is complete once it is old enough.
    return lambda: context.hours.hour(int(context.clock() - settle_seconds)).start


def _published_backfill(publishing: Publishing, ingest: Ingest) -> BackfillStatus | None:
    """Return the state of the ledger that belongs to the last snapshot, so that a page describes one moment."""
    snapshot = publishing.snapshot()
    return ingest.status() if snapshot is None else snapshot.backfill


def _build_site(context: _Context, ingest: Ingest, evaluation: Evaluation, publishing: Publishing) -> Site:
    config = context.config
    log = get_logger("web")
    sources = Sources(
        snapshot=publishing.snapshot,
        backfill=partial(_published_backfill, publishing, ingest),
        history=evaluation.querier,
        clock=context.clock,
        hours=context.hours,
        local=context.calendar.local,
        parameters=evaluation_settings(config).shift,
        interval_seconds=poll_settings(config).interval_seconds,
        tempo_url=config.tempo.url,
        explore=Explore(config.grafana.explore_url),
        label_names=label_names(config),
    )
    api = Api(
        evaluation.querier,
        publishing.snapshot,
        partial(ingest.client.fetch_trace, loop="api"),
        renamed=series_rules(config).renamed,
        label_names=label_names(config),
        calendar=context.calendar,
        clock=context.clock,
    )
    return Site(
        {
            **page_handlers(sources, log, context.monotonic),
            **api.pages(),
            "/metrics": publishing.metrics_page,
            "/-/healthy": healthy,
            "/-/ready": lambda _: ready(publishing.snapshot()),
        },
        log,
    )


@dataclass(frozen=True, slots=True)
class PassResult:
    """The result of a single pass.

    Attributes:
        snapshot: the snapshot at its end; None if none could be published.
        progress: the progress of the ledger; None without backfill.
        polled: whether the live edge was read completely.
        empty_reason: why all of history may be empty, if it is.
    """

    snapshot: Snapshot | None
    progress: LedgerProgress | None
    polled: bool
    empty_reason: str | None = None

    @property
    def complete(self) -> bool:
        """Whether everything that Tempo has was read, and that is not nothing."""
        progress = self.progress
        if progress is None:
            return self.polled
        return self.polled and progress.complete and not progress.partial and not progress.is_empty


class App:
    """The components of one exporter on one database, and the threads that run them.

    Attributes:
        ingest: reads Tempo and writes the history.
        evaluation: baselines, verdicts and snapshots.
        publishing: what a scrape returns.
        site: the WSGI application.
    """

    def __init__(
        self,
        store: Store,
        ingest: Ingest,
        evaluation: Evaluation,
        publishing: Publishing,
        site: Site,
        *,
        clock: Callable[[], float],
        stop: threading.Event,
    ) -> None:
        """Hold the components; :func:`build_app` builds them.

        Args:
            store: closed by :meth:`close`.
            ingest: reads Tempo.
            evaluation: evaluates.
            publishing: publishes.
            site: answers HTTP requests.
            clock: Unix seconds.
            stop: the event that ends the background work of all components.
        """
        self.ingest = ingest
        self.evaluation = evaluation
        self.publishing = publishing
        self.site = site
        self._store = store
        self._clock = clock
        self._stop = stop
        self._threads: list[threading.Thread] = []
        self._log = get_logger("app")

    def start(self) -> None:
        """Start to read, evaluate and publish in background threads."""
        self._run("poller", self.evaluation.poller.run)
        self._run("baselines", partial(self.evaluation.manager.run, self._stop, self._clock))
        if self.ingest.backfill is not None:
            self._run("backfill", self.ingest.backfill.run)

    def request_stop(self) -> None:
        """Ask the background threads to end, without waiting for them."""
        self._stop.set()
        self.ingest.wake()

    def close(self, budget: StopBudget | None = None) -> None:
        """End the background threads and close the store; may be called again.

        Args:
            budget: the time that is left to stop; a new one where it is absent.
        """
        budget = budget or StopBudget()
        self.request_stop()
        for thread in self._threads:
            thread.join(budget.seconds_for("app"))
            if thread.is_alive():
                self._log.warning(
                    "stop_timeout",
                    "thread did not stop in time; what it had not written is read again after the next start",
                    thread=thread.name,
                )
        self.ingest.client.close()
        self._store.close()

    def one_pass(self) -> PassResult:
        """Read the whole wanted history and the live edge once, in the calling thread, and evaluate them."""
        if self.ingest.backfill is not None:
            self.ingest.backfill.run(patience=_MAX_FAILED_BATCHES)
        self.evaluation.manager.catch_up(self._clock())
        # If the hour has turned since, no background thread builds the table of the new hour.
        self.evaluation.manager.open_table(self._clock())
        polled = self.evaluation.poller.cycle()
        empty_reason = None if self.ingest.backfill is None else self.ingest.backfill.empty_reason
        return PassResult(self.publishing.snapshot(), self.progress, polled, empty_reason)

    @property
    def progress(self) -> LedgerProgress | None:
        """The progress of the ledger; None without backfill."""
        status = self.ingest.status()
        return None if status is None else status.progress

    def exposition(self) -> str:
        """Return the metrics as Prometheus would scrape them, in the text format."""
        request = HttpRequest("/metrics", {}, accept="", accepts_gzip=False)
        return self.publishing.metrics_page(request).body.decode()

    def flags(self) -> Mapping[SeriesKey, Flag]:
        """Return the firing flags; call this only while no thread runs."""
        return self.evaluation.live.flags()

    def save_flags(self) -> None:
        """Write all firing flags to the store, which lacks those that :func:`build_app` was given."""
        self.evaluation.flag_store.save(self.flags(), {})

    def _run(self, name: str, work: Callable[[], None]) -> None:
        # Daemons: a thread that misses the stop budget ends with the process.
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
