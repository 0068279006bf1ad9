"""The metrics of the exporter itself.

What happens is counted directly as it happens; what stands is read from the snapshot and the ledger's status when
Prometheus asks. All label sets that are known start at 0.
"""

import platform
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from exporter import __version__
from exporter.evaluation.snapshot import Snapshot
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.metrics.families import PREFIX
from exporter.model.ledger import WindowState
from exporter.runtime.telemetry import (
    FAILURE_REASONS,
    LOOPS,
    SKIP_REASONS,
    STORAGE_FAILURES,
    FailureReason,
    Loop,
    SkipReason,
    StorageFailure,
    Telemetry,
)

_REQUEST_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class SelfMetrics(Telemetry):
    """Counts what the working parts report.

    Attributes:
        registry: holds these, the process metrics and what ``state`` has, and nothing else.
        state: publishes what stands in the exporter that runs; another one takes its place without a gap.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        # Collectors do not say beforehand what they have; a scrape that asks for some names must ask them, too.
        self.registry = CollectorRegistry(support_collectors_without_names=True)
        ProcessCollector(registry=self.registry)
        self._gauge("build_info", "The version that runs.", "version", "python_version").labels(
            __version__, platform.python_version()
        ).set(1)
        self._tempo_up = self._gauge("tempo_up", "Whether Tempo answered the last request.")
        self._requests = self._counter("tempo_requests", "HTTP requests to Tempo that ended, well or not.", "loop")
        self._failures = self._counter(
            "tempo_request_failures", "HTTP requests to Tempo that failed.", "loop", "reason"
        )
        self._durations = Histogram(
            PREFIX + "tempo_request_duration_seconds",
            "How long HTTP requests to Tempo took.",
            ("loop",),
            buckets=_REQUEST_SECONDS,
            registry=self.registry,
        )
        self._saturations = self._counter("search_saturations", "Search responses as long as their limit.", "loop")
        self._splits = self._counter("search_splits", "Ranges split because their response was saturated.", "loop")
        self._truncated = self._counter(
            "search_truncated_windows",
            "Windows that stayed incomplete: even one second held too much, or there was no time to read it all.",
            "loop",
        )
        self._sampled = self._counter(
            "search_sampled_windows",
            "Windows too dense to be read whole, of which a sample spread evenly over them was read.",
            "loop",
        )
        self._source_counts = SourceCountsGauge()
        self.registry.register(self._source_counts)
        self._read = self._counter("traces_read", "Spans in scope that Tempo returned.", "loop")
        self._skipped = self._counter(
            "traces_skipped", "Spans that Tempo returned, or withheld, and that were left out.", "loop", "reason"
        )
        self._storage = self._counter("storage_failures", "Reads and writes that the database refused.", "reason")
        self._accepted = self._counter(
            "baseline_shifts_accepted", "Lasting changes of latency that were accepted as the new normal."
        )
        self._jumps = self._counter("clock_jumps", "Times the clock was set by more than 10 s, or the machine slept.")
        self._refused = self._counter("web_unauthorized", "Requests refused for want of a right password.")
        for loop in LOOPS:
            for counter in (
                self._requests,
                self._saturations,
                self._splits,
                self._truncated,
                self._sampled,
                self._read,
            ):
                counter.labels(loop)
            self._durations.labels(loop)
            for failure in FAILURE_REASONS:
                self._failures.labels(loop, failure)
            for skip in SKIP_REASONS:
                self._skipped.labels(loop, skip)
        for storage in STORAGE_FAILURES:
            self._storage.labels(storage)
        self.state: Collector | None = None
        self.registry.register(_Current(lambda: self.state))

    def _gauge(self, name: str, help_: str, *labels: str) -> Gauge:
        return Gauge(PREFIX + name, help_, labels, registry=self.registry)

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, help_, labels, registry=self.registry)

    def request(self, loop: Loop, seconds: float) -> None:
        """One HTTP request ended."""
        self._requests.labels(loop).inc()
        self._durations.labels(loop).observe(seconds)

    def request_failed(self, loop: Loop, reason: FailureReason) -> None:
        """One HTTP request failed."""
        self._failures.labels(loop, reason).inc()

    def tempo_answered(self, answered: bool) -> None:
        """Whether the last request was answered."""
        self._tempo_up.set(answered)

    def saturated(self, loop: Loop) -> None:
        """A response was as long as its limit."""
        self._saturations.labels(loop).inc()

    def split(self, loop: Loop) -> None:
        """A range was split."""
        self._splits.labels(loop).inc()

    def truncated(self, loop: Loop) -> None:
        """A window stayed incomplete."""
        self._truncated.labels(loop).inc()

    def sampled(self, loop: Loop) -> None:
        """A window was read as a sample."""
        self._sampled.labels(loop).inc()

    def source_counts_available(self, available: bool) -> None:
        """Whether Tempo can count."""
        self._source_counts.available = available

    def traces_read(self, loop: Loop, count: int) -> None:
        """Spans were read."""
        self._read.labels(loop).inc(count)

    def traces_skipped(self, loop: Loop, reason: SkipReason, count: int) -> None:
        """Spans were left out."""
        self._skipped.labels(loop, reason).inc(count)

    def storage_failed(self, reason: StorageFailure) -> None:
        """The database refused."""
        self._storage.labels(reason).inc()

    def shift_accepted(self) -> None:
        """A lasting change became the new normal."""
        self._accepted.inc()

    def clock_jumped(self) -> None:
        """The clock was set, or the machine slept."""
        self._jumps.inc()

    def request_refused(self) -> None:
        """A request had no right password."""
        self._refused.inc()


class Reloaded(Protocol):
    """What became of the last look at ``web.config_file``, as far as it is published."""

    @property
    def successful(self) -> bool:
        """Whether what is in force is what the files say."""

    @property
    def succeeded_at(self) -> float:
        """When they were last taken over, Unix seconds."""


class WebConfigCollector(Collector):
    """Publishes whether what protects the web side is what its files say; only where there are such files."""

    def __init__(self, status: Callable[[], Reloaded]) -> None:
        self._status = status

    def describe(self) -> Iterator[Metric]:
        """Nothing, as in :class:`StateCollector`."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Fresh families."""
        status = self._status()
        yield _gauge(
            "web_config_last_reload_successful",
            "Whether web.config_file is in force as it is now; otherwise what it was before is.",
            float(status.successful),
        )
        yield _gauge(
            "web_config_last_reload_success_timestamp_seconds",
            "When web.config_file, or a file that it names, was last taken over.",
            status.succeeded_at,
        )


class _Current(Collector):
    """Publishes what whichever collector is the current one has."""

    def __init__(self, current: Callable[[], Collector | None]) -> None:
        self._current = current

    def describe(self) -> Iterator[Metric]:
        """Nothing, as in :class:`StateCollector`."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Fresh families."""
        current = self._current()
        if current is not None:
            yield from current.collect()


class SourceCountsGauge(Collector):
    """Whether Tempo counts; absent until that is known.

    Attributes:
        available: what is known.
    """

    def __init__(self) -> None:
        self.available: bool | None = None

    def describe(self) -> Iterator[Metric]:
        """Nothing: it may be absent."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The gauge, once it is known."""
        yield from _if_known(
            "source_counts_available",
            "Whether Tempo counts its traces (TraceQL metrics), so that what was read can be held against it.",
            None if self.available is None else float(self.available),
        )


class SeriesCounts(Protocol):
    """The cardinality guard, as far as it is published."""

    @property
    def dropped(self) -> int:
        """Distinct series that found no room."""


class StateCollector(Collector):
    """Publishes what stands: the ledger, the history, the snapshot and the cardinality guard."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot | None],
        backfill: Callable[[], BackfillStatus | None],
        admission: SeriesCounts,
        series_limit: int,
    ) -> None:
        """Read these when asked.

        Args:
            snapshot: the snapshot that is served.
            backfill: the ledger's status; nothing where backfill is switched off.
            admission: the cardinality guard.
            series_limit: how many series there may be.
        """
        self._snapshot = snapshot
        self._backfill = backfill
        self._admission = admission
        self._series_limit = series_limit

    def describe(self) -> Iterator[Metric]:
        """Nothing: the names are this module's own, and collecting costs as much as describing."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Fresh families."""
        yield from self._of_backfill()
        yield _gauge("series_limit", "Series that may be watched at most.", self._series_limit)
        yield _counter(
            "series_dropped", "Distinct series left out since the limit was reached.", self._admission.dropped
        )
        snapshot = self._snapshot()
        if snapshot is not None:
            yield from _of_snapshot(snapshot)

    def _of_backfill(self) -> Iterator[Metric]:
        status = self._backfill()
        yield _gauge("backfill_enabled", "Whether history is read from Tempo and recorded.", float(status is not None))
        if status is None:
            return
        progress = status.progress
        yield _gauge("backfill_complete", "Whether nothing settled is left unread.", float(progress.complete))
        yield _gauge(
            "backfill_progress_ratio", "Share of the windows wanted that need no more reading.", progress.ratio
        )
        windows = GaugeMetricFamily(PREFIX + "backfill_windows", "Windows wanted, by state.", labels=["state"])
        windows.add_metric(["pending"], progress.pending)
        for state in WindowState:
            windows.add_metric([state.value], getattr(progress, state.value))
        yield windows
        yield from _if_known(
            "backfill_coverage_ratio",
            "Traces read over traces there, in windows where both are known.",
            progress.coverage,
        )
        yield from _if_known(
            "backfill_unsampled_coverage_ratio",
            "The same without the windows of which a sample was read, since they are too dense to be read whole.",
            status.unsampled.coverage,
        )
        yield _gauge(
            "backfill_sampled_windows",
            "Windows wanted that are too dense to be read whole, and of which a sample was read.",
            status.sampled_windows,
        )
        yield _gauge(
            "backfill_wanted_since_timestamp_seconds", "Start of the oldest window wanted.", status.wanted_since
        )
        yield _gauge(
            "backfill_started_timestamp_seconds", "When this process began to read history.", status.started_at
        )
        yield from _if_known(
            "backfill_completed_timestamp_seconds",
            "When this process had read all settled windows for the first time.",
            status.completed_at,
        )


def _of_snapshot(snapshot: Snapshot) -> Iterator[Metric]:
    yield from _if_known(
        "poll_last_success_timestamp_seconds", "When the live edge was last read from Tempo.", snapshot.judged_at
    )
    yield from _if_known(
        "poll_duration_seconds", "How long the last reading of the live edge took.", snapshot.poll_seconds
    )
    yield from _if_known(
        "poll_coverage_ratio",
        "Share of the current traffic that is read and judged; less than 1 where it is so dense that a sample is.",
        snapshot.poll_share,
    )
    yield _gauge("history_windows", "Windows that stand in the stored history.", snapshot.history.windows)
    yield _gauge("history_traces", "Traces that stand in the stored history.", snapshot.history.traces)
    yield from _if_known(
        "backfill_oldest_trace_timestamp_seconds",
        "Start of the oldest window of the stored history that holds traces.",
        snapshot.history.oldest_trace_at,
    )
    yield _gauge("series", "Series on this page.", len(snapshot.series))
    if snapshot.known:
        yield from _of_baselines(snapshot)
    yield _gauge(
        "quarantined_windows",
        "Anomalous windows that are kept out of the baselines.",
        snapshot.history.quarantined_windows,
    )
    yield from _if_known(
        "storage_size_bytes", "Size of the database, its write-ahead log included.", snapshot.history.storage_bytes
    )
    yield from _if_known(
        "snapshot_timestamp_seconds", "When the series on this page were last judged.", snapshot.judged_at
    )
    yield _gauge(
        "snapshot_build_duration_seconds", "How long judging the series on this page took.", snapshot.build_seconds
    )


def _of_baselines(snapshot: Snapshot) -> Iterator[Metric]:
    levels = GaugeMetricFamily(
        PREFIX + "series_by_fallback_level", "Series by the fallback level of their baseline.", labels=["level"]
    )
    for level, count in snapshot.series_by_level.items():
        levels.add_metric([str(int(level))], count)
    yield levels
    yield _gauge(
        "series_learning",
        "Series with a baseline that is not mature enough for a shift verdict.",
        snapshot.series_learning,
    )


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, help_, value=value)


def _counter(name: str, help_: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, help_, value=value)


def _if_known(name: str, help_: str, value: float | None) -> Iterator[Metric]:
    if value is not None:
        yield _gauge(name, help_, value)
