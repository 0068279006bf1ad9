"""The life cycle of one exporter on one database: start, reload and stop of the threads that run its components."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, get_args

from exporter.app.build import (
    Components,
    Context,
    build_components,
    build_manager,
    build_site,
    evaluation_basis,
    reconfigured,
    state_collector,
)
from exporter.app.marks import configured_marks
from exporter.app.settings import failure_rule, reading_description, series_identity, series_rules
from exporter.config import Config, build_calendar
from exporter.detection.flag import SeriesFlags
from exporter.evaluation.manager import BaselineManager
from exporter.evaluation.snapshot import Snapshot
from exporter.metrics.self_metrics import SelfMetrics
from exporter.model.calendar import HourClock
from exporter.model.identity import BY_NAME
from exporter.model.ledger import LedgerProgress
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.runtime.stop_budget import StopBudget
from exporter.store import Store
from exporter.tempo.settings import Scope
from exporter.web.http import HttpRequest

_MAX_FAILED_BATCHES: Final = 3
"""A single pass gives up on the backfill after this many failed batches in a row."""

_RELOAD_PATIENCE_SECONDS: Final = 0.0
"""Baselines of changed settings are used once they are there; nothing waits for them."""

_BASELINE_PATIENCE_SECONDS: Final = 2.0
"""How long the first snapshot waits for the baseline table: enough to load a stored one, or to build about a thousand
series."""


class ReadingChangedError(Exception):
    """The stored history was read with another scope, tenant or filter than the configuration has."""


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


class _StoppableThread:
    """A thread that can be replaced by another one while the others run.

    Attributes:
        stop: ends the present thread soon once set.
        threads: the present thread, and earlier ones that have not ended.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.threads: list[threading.Thread] = []

    def start(self, name: str, run: Callable[[threading.Event], None]) -> None:
        """Start a thread; ``run`` ends soon after its event is set."""
        self.stop = stop = threading.Event()
        # Daemons: a thread that misses the stop budget ends with the process.
        thread = threading.Thread(target=partial(run, stop), name=name, daemon=True)
        self.threads = [*(each for each in self.threads if each.is_alive()), thread]
        thread.start()

    def replace(self, name: str, run: Callable[[threading.Event], None]) -> None:
        """Stop the present thread, and start another one once it has ended."""
        self.stop.set()
        before = self.threads[:]

        def run_after(stop: threading.Event) -> None:
            for thread in before:
                thread.join()
            run(stop)

        self.start(name, run_after)


class App:
    """The components of one exporter on one database, and the threads that run them.

    Attributes:
        ingest: reads Tempo and writes the history.
        evaluation: baselines, verdicts and snapshots.
        publishing: what a scrape returns.
        site: the WSGI application.
    """

    def __init__(self, components: Components) -> None:
        """Hold the components; :meth:`close` closes their store."""
        self.ingest = components.ingest
        self.evaluation = components.evaluation
        self.publishing = components.publishing
        self.site = components.site
        self._context = components.context
        self._signal = components.signal
        self._threads: list[threading.Thread] = []
        self._baselines = _StoppableThread()
        # After a reload, not the one in use until it has a table.
        self._manager = components.evaluation.manager
        self._log = get_logger("app")

    def start(self) -> None:
        """Start to read, evaluate and publish in background threads."""
        self._run("poller", self.evaluation.poller.run)
        self._baselines.start("baselines", self._run_manager())
        if self.evaluation.causes is not None:
            self._run("causes", partial(self.evaluation.causes.run, self._context.stop))
        self._run("versions", partial(self.evaluation.versions.run, self._context.stop))
        if self.ingest.backfill is not None:
            self._run("backfill", self.ingest.backfill.run)
        if self.evaluation.marks.needs_updates:
            self._run("marks", partial(self.evaluation.marks.run, self._context.stop))
        if self.ingest.rootless is not None:
            self._run("rootless", partial(self.ingest.rootless.run, self._context.stop))

    def request_stop(self) -> None:
        """Ask the background threads to end, without waiting for them."""
        self._context.stop.set()
        self._baselines.stop.set()
        self.ingest.wake()

    def close(self, budget: StopBudget | None = None) -> None:
        """End the background threads and close the store; may be called again.

        Args:
            budget: the time that is left to stop; a new one where it is absent.
        """
        budget = budget or StopBudget()
        self.request_stop()
        for thread in (*self._threads, *self._baselines.threads):
            thread.join(budget.seconds_for("app"))
            if thread.is_alive():
                self._log.warning(
                    "stop_timeout",
                    "thread did not stop in time; what it had not written is read again after the next start",
                    thread=thread.name,
                )
        self.ingest.client.close()
        self._context.store.close()

    def reload(self, config: Config) -> None:
        """Use another configuration from now on, which differs only in keys that can be reloaded.

        What depends on the baselines, the verdicts among it, changes with the first poll cycle after these have been
        rebuilt. Until then baselines and verdicts are those of the previous configuration.

        Raises:
            StoreError: the database cannot be read; nothing has changed.
        """
        if self._context.stop.is_set():
            return
        stored = self._context.store.series()
        previous = self._context
        calendar = build_calendar(config)
        context = self._context = replace(previous, config=config, calendar=calendar, hours=HourClock(calendar))
        self.ingest.series_filter.use(series_rules(config), stored)
        context.metrics.state = state_collector(context, self.ingest, self.publishing)
        self.evaluation.marks.set_configured(configured_marks(config))
        poll_now = self.evaluation.poll_now
        if evaluation_basis(config) != evaluation_basis(previous.config):
            self._manager = build_manager(
                context, self.ingest, self._signal, self.evaluation.marks, poll_now, _RELOAD_PATIENCE_SECONDS
            )
            self._baselines.replace("baselines", self._run_manager())
        # Even with the same manager: its table may not be in use yet.
        self.evaluation.handover.replace(self._manager, partial(self._use, context, self._manager))
        poll_now.set()

    def _use(self, context: Context, manager: BaselineManager) -> None:
        """Evaluate and publish with another configuration; called between two poll cycles."""
        self.evaluation = reconfigured(context, self.ingest, self.evaluation, manager)
        self.site = build_site(context, self.ingest, self.evaluation, self.publishing)

    def _run_manager(self) -> Callable[[threading.Event], None]:
        return partial(self._manager.run, clock=self._context.clock)

    def one_pass(self) -> PassResult:
        """Read the whole wanted history and the live edge once, in the calling thread, and evaluate them."""
        if self.ingest.backfill is not None:
            self.ingest.backfill.run(patience=_MAX_FAILED_BATCHES)
        self.evaluation.marks.update()
        self.evaluation.manager.catch_up(self._context.clock())
        # If the hour has turned since, no background thread builds the table of the new hour.
        self.evaluation.manager.open_table(self._context.clock())
        polled = self.evaluation.poller.cycle()
        if self.ingest.rootless is not None:
            self.ingest.rootless.measure()
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

    def flags(self) -> Mapping[SeriesKey, SeriesFlags]:
        """Return the flags of series of which one fires; call this only while no thread runs."""
        return self.evaluation.live.flags()

    def save_flags(self) -> None:
        """Write all firing flags to the store, which lacks those that :func:`build_app` was given."""
        self.evaluation.flag_store.save(self.flags(), {}, self._context.clock())

    def _run(self, name: str, work: Callable[[], None]) -> None:
        # Daemons: a thread that misses the stop budget ends with the process.
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()


def build_app(
    config: Config,
    store: Store,
    metrics: SelfMetrics,
    *,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    flags: Mapping[SeriesKey, SeriesFlags] | None = None,
    baseline_patience_seconds: float = _BASELINE_PATIENCE_SECONDS,
    accepts_marks: bool = False,
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
        accepts_marks: whether the API lets clients add and delete marks.

    Raises:
        ReadingChangedError: the stored history was read with another scope, tenant or filter.
        StoreError: the store cannot be read.
    """
    _check_reading(config, store)
    _check_identity(config, store)
    _check_failure_rule(config, store)
    calendar = build_calendar(config)
    context = Context(
        config=config,
        store=store,
        metrics=metrics,
        calendar=calendar,
        hours=HourClock(calendar),
        clock=clock,
        monotonic=monotonic,
        stop=threading.Event(),
        accepts_marks=accepts_marks,
    )
    return App(build_components(context, flags or {}, baseline_patience_seconds))


def _check_reading(config: Config, store: Store) -> None:
    configured = reading_description(config)
    stored = store.declare_reading(configured)
    if stored is None:
        return
    advice = "set storage.path to a new file, or restore the previous setting"
    for scope in get_args(Scope):
        if stored == reading_description(config, scope):
            # Up to version 0.1.0 the default was root.
            changed = " (the default changed from root to entry)" if scope == "root" else ""
            advice = (
                f"set tempo.scope: {scope} to keep this history{changed}, or set storage.path to a new file to start "
                f"one with tempo.scope: {config.tempo.scope}, which is read from Tempo in minutes"
            )
    raise ReadingChangedError(
        f"the database holds a history that was read with {stored}, but the configuration has {configured}. "
        f"One history cannot hold both: {advice}."
    )


def _check_identity(config: Config, store: Store) -> None:
    """Log where the stored series were named by other rules."""
    configured = str(series_identity(config))
    stored = store.declare_identity(configured, default=str(BY_NAME))
    if stored is not None and store.series():
        get_logger("series").warning(
            "series_identity_changed",
            "series.labels or series.span_name has changed; series that are named otherwise now begin without history, "
            "and those of before become stale. To read the history again under the new names, set storage.path to a "
            "new file",
            before=stored,
            now=configured,
        )


def _check_failure_rule(config: Config, store: Store) -> None:
    """Log where the failures of the stored history were counted by another rule."""
    rule = failure_rule(config)
    stored = store.declare_failure_rule(None if rule is None else str(rule))
    if stored is not None and rule is not None:
        get_logger("series").warning(
            "failure_rule_changed",
            "detection.errors.when has changed; how many requests failed is unknown in the history that was read "
            "before. To read it again, set storage.path to a new file",
            before=stored,
            now=str(rule),
        )
