"""The composition root: builds every component from the configuration and the store, or again after a reload."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from exporter.app.marks import build_registry, mark_of_json
from exporter.app.settings import (
    backfill_settings,
    cause_settings,
    client_settings,
    drilldown,
    evaluation_settings,
    label_names,
    poll_settings,
    series_identity,
    series_rules,
)
from exporter.config import Config
from exporter.detection.flag import SeriesFlags
from exporter.evaluation.causes.finder import CauseFinder
from exporter.evaluation.causes.search import CauseSearch
from exporter.evaluation.flag_store import FlagStore
from exporter.evaluation.handover import BaselineHandover
from exporter.evaluation.incident_tracker import IncidentTracker
from exporter.evaluation.live.durations import DurationHistograms
from exporter.evaluation.live.evaluator import LiveEvaluator
from exporter.evaluation.live.poller import Poller
from exporter.evaluation.live.services import LiveServices, ServiceFlagStore
from exporter.evaluation.manager import BaselineManager
from exporter.evaluation.query import BaselineQuerier
from exporter.evaluation.recent_windows import RecentWindows
from exporter.evaluation.regression_version import VERSION_ATTRIBUTE, RegressionVersions, VersionSearch
from exporter.evaluation.snapshot import Snapshot
from exporter.evaluation.time_marks import TimeMarkRegistry
from exporter.evaluation.timeline_query import TimelineQuerier
from exporter.evaluation.wakeup import HistorySignal, Wakeup
from exporter.ingest.backfill import Backfill
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.ingest.live_reader import LiveReader
from exporter.ingest.rootless import RootlessTraces
from exporter.ingest.series_filter import SeriesFilter
from exporter.metrics.exposition import Publisher
from exporter.metrics.self_metrics import SelfMetrics, StateCollector
from exporter.model.calendar import HOUR_SECONDS, Calendar, HourClock
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.runtime.tuning import freeze_gc
from exporter.store import Store
from exporter.tempo import TempoClient
from exporter.web.api.api import Api
from exporter.web.http import Site
from exporter.web.management import MetricsPage, healthy, ready
from exporter.web.pages.links import Explore
from exporter.web.pages.routes import page_handlers
from exporter.web.pages.sources import Sources
from exporter.web.pages.trace import TraceSources
from exporter.web.server.workers import WorkerGroup


@dataclass(frozen=True)
class Ingest:
    """The components that read Tempo and write the history.

    Attributes:
        client: Tempo.
        series_filter: which series are kept, and under which names.
        backfill: reads settled windows; None where ``polling.backfill_enabled`` is false.
        rootless: measures the share of traces without a root; None where the scope does not depend on it.
    """

    client: TempoClient
    series_filter: SeriesFilter
    backfill: Backfill | None
    rootless: RootlessTraces | None

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
        handover: the baselines that the poller uses, those of ``manager`` or of its predecessor.
        querier: answers queries about the history, for pages and API.
        recent: what was read of the time that is not in the history yet.
        timelines: answers queries about the recent past of a series over time, for pages and API.
        flag_store: saves flags over restarts.
        live: evaluates the live edge.
        services: judges services as a whole.
        poller: runs the poll cycles.
        poll_now: begins the next poll cycle at once.
        cause_search: looks for the cause of one shift.
        causes: keeps the causes of the firing shifts; None where ``cause.enabled`` is false.
        versions: keeps the versions with which the present regressions began.
        incidents: keeps the incidents.
        marks: keeps what people know about ranges of time.
    """

    manager: BaselineManager
    handover: BaselineHandover
    querier: BaselineQuerier
    recent: RecentWindows
    timelines: TimelineQuerier
    flag_store: FlagStore
    live: LiveEvaluator
    services: LiveServices
    poller: Poller
    poll_now: Wakeup
    cause_search: CauseSearch
    causes: CauseFinder | None
    versions: RegressionVersions
    incidents: IncidentTracker
    marks: TimeMarkRegistry


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
class Context:
    """What most components are built from.

    Attributes:
        config: the configuration.
        store: the history.
        metrics: the exporter's own metrics.
        calendar: local time.
        hours: the local hours.
        clock: Unix seconds.
        monotonic: seconds that never jump.
        stop: ends all background threads once set.
        accepts_marks: whether the API lets clients add and delete marks.
        long_requests: admits as many requests at once as may block the workers.
    """

    config: Config
    store: Store
    metrics: SelfMetrics
    calendar: Calendar
    hours: HourClock
    clock: Callable[[], float]
    monotonic: Callable[[], float]
    stop: threading.Event
    accepts_marks: bool
    # The same after a reload: the sites before and after it together leave a worker free.
    long_requests: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(WorkerGroup.API.max_blocked)
    )


@dataclass(frozen=True)
class Components:
    """All components of one exporter.

    Attributes:
        context: what they were built from.
        ingest: reads Tempo and writes the history.
        evaluation: baselines, verdicts and snapshots.
        publishing: what a scrape returns.
        site: answers HTTP requests.
        signal: announces changes of the history.
    """

    context: Context
    ingest: Ingest
    evaluation: Evaluation
    publishing: Publishing
    site: Site
    signal: HistorySignal


def build_components(
    context: Context, flags: Mapping[SeriesKey, SeriesFlags], baseline_patience_seconds: float
) -> Components:
    """Build all components. Nothing runs yet, and nothing is written to the store.

    Args:
        context: what they are built from.
        flags: firing flags to continue with, besides those in the store.
        baseline_patience_seconds: how long a poll cycle waits for a baseline table that is not built yet.

    Raises:
        StoreError: the store cannot be read.
    """
    config = context.config
    signal = HistorySignal()
    durations = _build_durations(context) if config.web.native_histograms else None
    ingest = _build_ingest(context, signal, durations)
    publisher = Publisher(label_names(config))
    evaluation = _build_evaluation(
        context, ingest, signal, publisher.publish, flags, baseline_patience_seconds, durations
    )
    metrics_page = MetricsPage(publisher, context.metrics.registry, has_native_histograms=config.web.native_histograms)
    publishing = Publishing(publisher, metrics_page)
    context.metrics.state = state_collector(context, ingest, publishing)
    site = build_site(context, ingest, evaluation, publishing)
    return Components(context, ingest, evaluation, publishing, site, signal)


def _build_durations(context: Context) -> DurationHistograms:
    settings = backfill_settings(context.config)
    step = min(HOUR_SECONDS, int(settings.batch_seconds))
    return DurationHistograms(
        started_at=context.clock(),
        window_start=lambda second: context.calendar.grid_floor(second, step),
        # A window may be reread once it is as old as that, and rereads that fail are repeated.
        kept_seconds=2 * (settings.settle_seconds + settings.late_seconds) + HOUR_SECONDS,
    )


def _build_ingest(context: Context, signal: HistorySignal, durations: DurationHistograms | None) -> Ingest:
    series_filter = SeriesFilter(series_rules(context.config), get_logger("series"))
    series_filter.preload(context.store.series())
    client = TempoClient(
        client_settings(context.config),
        context.metrics,
        get_logger("tempo"),
        stop=context.stop,
        clock=context.clock,
        monotonic=context.monotonic,
        renamed=series_filter.renamed,
    )
    rootless = None
    if context.config.tempo.scope == "root":
        rootless = RootlessTraces(
            client,
            context.metrics,
            get_logger("tempo"),
            clock=context.clock,
            settle_seconds=context.config.polling.settle.total_seconds(),
        )
    if not context.config.polling.backfill_enabled:
        return Ingest(client, series_filter, None, rootless)
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
        on_content=None if durations is None else durations.record_changed,
    )
    return Ingest(client, series_filter, backfill, rootless)


def _build_evaluation(
    context: Context,
    ingest: Ingest,
    signal: HistorySignal,
    publish: Callable[[Snapshot], None],
    flags: Mapping[SeriesKey, SeriesFlags],
    baseline_patience_seconds: float,
    durations: DurationHistograms | None,
) -> Evaluation:
    config = context.config
    polling = poll_settings(config)
    flag_store = FlagStore(context.store, monotonic=context.monotonic, log=get_logger("baselines"))
    poll_now = Wakeup()
    marks = build_registry(
        config,
        context.store,
        on_change=signal.notify_marks_changed,
        telemetry=context.metrics,
        clock=context.clock,
        monotonic=context.monotonic,
    )
    manager = build_manager(context, ingest, signal, marks, poll_now, baseline_patience_seconds)
    handover = BaselineHandover(manager)
    live = _build_live_evaluator(context, ingest, {**flag_store.load(), **flags}, durations, marks)
    services = LiveServices(
        evaluation_settings(config).shift,
        ServiceFlagStore(context.store, monotonic=context.monotonic, log=get_logger("baselines")),
        get_logger("poller"),
        max_pause_seconds=polling.max_pause_seconds,
    )
    search = _build_cause_search(context, ingest)
    causes = None
    if config.cause.enabled:
        causes = CauseFinder(
            search, context.metrics, clock=context.clock, monotonic=context.monotonic, log=get_logger("causes")
        )

    versions = RegressionVersions(
        _build_version_search(context, ingest),
        context.store,
        context.metrics,
        clock=context.clock,
        monotonic=context.monotonic,
        log=get_logger("versions"),
    )
    incidents = IncidentTracker(
        context.store,
        renamed=ingest.series_filter.name_of,
        monotonic=context.monotonic,
        log=get_logger("incidents"),
    )

    recent = RecentWindows()

    def publish_and_keep(snapshot: Snapshot) -> None:
        publish(snapshot)
        if snapshot.evaluated_at is not None and snapshot.read_error is None:
            recent.add(snapshot.series, snapshot.evaluated_at)

    def on_clock_jump() -> None:
        context.metrics.clock_jumped()
        ingest.wake()

    poller = Poller(
        _build_live_reader(context, ingest),
        live,
        handover,
        flag_store,
        publish_and_keep,
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
        causes=causes,
        versions=versions,
        incidents=incidents,
        services=services,
    )
    querier, timelines = _build_queries(context, marks, recent)
    return Evaluation(
        manager,
        handover,
        querier,
        recent,
        timelines,
        flag_store,
        live,
        services,
        poller,
        poll_now,
        search,
        causes,
        versions,
        incidents,
        marks,
    )


def _build_live_evaluator(
    context: Context,
    ingest: Ingest,
    flags: Mapping[SeriesKey, SeriesFlags],
    durations: DurationHistograms | None,
    marks: TimeMarkRegistry,
) -> LiveEvaluator:
    polling = poll_settings(context.config)
    return LiveEvaluator(
        evaluation_settings(context.config),
        ingest.series_filter.resolve,
        started_at=context.clock(),
        remembered_seconds=polling.remembered_seconds,
        flags=flags,
        max_pause_seconds=polling.max_pause_seconds,
        durations=durations,
        is_wanted=ingest.series_filter.wants,
        marks=lambda: marks.current,
    )


def _build_live_reader(context: Context, ingest: Ingest) -> LiveReader:
    polling = poll_settings(context.config)
    return LiveReader(
        ingest.client,
        context.metrics,
        polling.budget,
        poll_seconds=polling.lookback_seconds,
        hold_seconds=polling.window_seconds,
        identity=series_identity(context.config),
    )


def reconfigured(context: Context, ingest: Ingest, evaluation: Evaluation, manager: BaselineManager) -> Evaluation:
    """Return the components that evaluate with another configuration; those that keep their state are the same.

    Args:
        context: has the other configuration.
        ingest: reads Tempo.
        evaluation: what evaluated before; its poller must be between two cycles.
        manager: has the baselines of the other configuration.
    """
    search = _build_cause_search(context, ingest)
    settings = evaluation_settings(context.config)
    evaluation.live.use(settings)
    evaluation.services.use(settings.shift)
    if evaluation.causes is not None:
        evaluation.causes.use(search)
    evaluation.versions.use(_build_version_search(context, ingest))
    querier, timelines = _build_queries(context, evaluation.marks, evaluation.recent)
    return replace(evaluation, manager=manager, querier=querier, timelines=timelines, cause_search=search)


def _build_queries(
    context: Context, marks: TimeMarkRegistry, recent: RecentWindows
) -> tuple[BaselineQuerier, TimelineQuerier]:
    settings = evaluation_settings(context.config)
    querier = BaselineQuerier(context.store, context.hours, settings, lambda: marks.current)
    return querier, TimelineQuerier(context.store, context.hours, settings, querier, recent)


def build_manager(
    context: Context,
    ingest: Ingest,
    signal: HistorySignal,
    marks: TimeMarkRegistry,
    poll_now: Wakeup,
    patience_seconds: float,
) -> BaselineManager:
    """Build what evaluates the history.

    Args:
        context: what it is built from.
        ingest: reads Tempo.
        signal: announces changes of the history.
        marks: what people know about ranges of time.
        poll_now: begins a poll cycle once the baselines have changed.
        patience_seconds: how long a poll cycle waits for a baseline table that is not built yet.
    """
    return BaselineManager(
        context.store,
        context.hours,
        evaluation_settings(context.config),
        settled_until=_settled_until(context, ingest.backfill),
        on_accepted=context.metrics.shift_accepted,
        monotonic=context.monotonic,
        log=get_logger("baselines"),
        basis=_calendar_basis(context.config),
        patience_seconds=patience_seconds,
        on_table_changed=poll_now.set,
        backfill_status=ingest.status,
        signal=signal,
        marks=lambda: marks.current,
    )


def evaluation_basis(config: Config) -> str:
    """Describe everything in the configuration that baselines and verdicts depend on."""
    return f"{evaluation_settings(config)!r} {_calendar_basis(config)}"


def _calendar_basis(config: Config) -> str:
    return f"{config.timezone} {config.calendar!r}"


def _build_cause_search(context: Context, ingest: Ingest) -> CauseSearch:
    return CauseSearch(
        ingest.client,
        context.store,
        context.hours,
        cause_settings(context.config),
        resolve=ingest.series_filter.resolve,
        monotonic=context.monotonic,
    )


def _build_version_search(context: Context, ingest: Ingest) -> VersionSearch | None:
    """Return the search for versions; None where versions are not read, or tell series apart."""
    config = context.config
    is_read = config.cause.enabled and VERSION_ATTRIBUTE in config.cause.attributes
    is_label = VERSION_ATTRIBUTE in map(str, series_identity(config).attributes)
    return VersionSearch(ingest.client) if is_read and not is_label else None


def _settled_until(context: Context, backfill: Backfill | None) -> Callable[[], int]:
    """Return a function for the instant up to which the history is complete, in Unix seconds."""
    if backfill is not None:
        return backfill.settled_until
    settle_seconds = context.config.polling.settle.total_seconds()
    # Without backfill no window will be written any more, so an hour is complete once it is old enough.
    return lambda: context.hours.hour(int(context.clock() - settle_seconds)).start


def state_collector(context: Context, ingest: Ingest, publishing: Publishing) -> StateCollector:
    """Return the collector of the metrics about the exporter's state."""
    config = context.config
    return StateCollector(
        publishing.snapshot,
        partial(_published_backfill, publishing, ingest),
        ingest.series_filter,
        config.series.max,
        label_names(config),
    )


def _published_backfill(publishing: Publishing, ingest: Ingest) -> BackfillStatus | None:
    """Return the state of the ledger that belongs to the last snapshot, so that a page describes one moment."""
    snapshot = publishing.snapshot()
    return ingest.status() if snapshot is None else snapshot.backfill


def build_site(context: Context, ingest: Ingest, evaluation: Evaluation, publishing: Publishing) -> Site:
    """Build the web pages, the API and ``/metrics``."""
    config = context.config
    log = get_logger("web")
    sources = Sources(
        snapshot=publishing.snapshot,
        backfill=partial(_published_backfill, publishing, ingest),
        history=evaluation.querier,
        timelines=evaluation.timelines,
        clock=context.clock,
        hours=context.hours,
        local=context.calendar.local,
        parameters=evaluation_settings(config).shift,
        interval_seconds=poll_settings(config).interval_seconds,
        tempo_url=config.tempo.url,
        explore=Explore(config.grafana.explore_url, series_identity(config)),
        drilldown=drilldown(config),
        label_names=label_names(config),
        incidents=evaluation.incidents,
        folded_names=ingest.series_filter.folded_names,
        last_causes=lambda: {} if evaluation.causes is None else evaluation.causes.causes,
        history_version=lambda: (evaluation.marks.current, evaluation.manager.facts()),
    )
    traces = TraceSources(
        fetch=partial(ingest.client.fetch_trace, loop="api"),
        renamed=ingest.series_filter.name_of,
        calendar=context.calendar,
        running=context.long_requests,
    )
    api = Api(
        evaluation.querier,
        evaluation.timelines,
        publishing.snapshot,
        traces.fetch,
        renamed=traces.renamed,
        label_names=label_names(config),
        calendar=context.calendar,
        clock=context.clock,
        find_cause=partial(evaluation.cause_search.find, loop="api"),
        incidents=evaluation.incidents,
        drilldown=drilldown(config),
        running=traces.running,
        marks=evaluation.marks,
        parse_mark=partial(mark_of_json, zone=context.calendar.zone) if context.accepts_marks else None,
    )
    return Site(
        {
            **page_handlers(sources, traces, log, context.monotonic),
            **api.pages(),
            "/metrics": publishing.metrics_page,
            "/-/healthy": healthy,
            "/-/ready": lambda _: ready(publishing.snapshot()),
        },
        log,
        api.writers(),
    )
