"""The metrics of the exporter itself.

Events are counted when they happen. State (the ledger, the history, the snapshot) is read at each scrape. Every known
label set starts at 0.
"""

import platform
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Final, Protocol, Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from exporter import __version__
from exporter.evaluation.snapshot import Snapshot
from exporter.evaluation.time_marks import MarkTelemetry
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.metrics.families import PREFIX
from exporter.model.label import DEFAULT_LABEL_NAMES, LabelNames
from exporter.model.ledger import WindowState
from exporter.model.time_mark import MarkSource
from exporter.runtime.telemetry import (
    CAUSE_OUTCOMES,
    FAILURE_REASONS,
    LOOPS,
    SKIP_REASONS,
    STORAGE_FAILURES,
    VERSION_OUTCOMES,
    CauseOutcome,
    FailureReason,
    Loop,
    SkipReason,
    StorageFailure,
    Telemetry,
    VersionOutcome,
)

_DELAY_SECONDS: Final = (1, 2.5, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 900)
_REQUEST_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_CAUSE_SECONDS: Final = (0.5, 1, 2.5, 5, 10, 15, 30, 60, 120)


class SelfMetrics(Telemetry, MarkTelemetry):
    """Counts the events that the other packages report.

    Attributes:
        registry: these metrics, the process metrics and those of ``state``.
        state: collects the state of the running exporter; a new exporter replaces it without a gap in the counters.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        # The collectors below describe no names in advance, so a scrape for some names must collect from them, too.
        self.registry = CollectorRegistry(support_collectors_without_names=True)
        ProcessCollector(registry=self.registry)
        self._gauge("build_info", "Version of the exporter and of Python.", "version", "python_version").labels(
            __version__, platform.python_version()
        ).set(1)
        self._tempo_up = self._gauge("tempo_up", "Whether Tempo answered the last request.")
        self._requests = self._counter(
            "tempo_requests", "HTTP requests to Tempo that completed, successfully or not.", "loop"
        )
        self._failures = self._counter(
            "tempo_request_failures", "HTTP requests to Tempo that failed.", "loop", "reason"
        )
        self._durations = Histogram(
            PREFIX + "tempo_request_duration_seconds",
            "Duration of HTTP requests to Tempo.",
            ("loop",),
            buckets=_REQUEST_SECONDS,
            registry=self.registry,
        )
        self._saturations = self._counter("search_saturations", "Search responses that hit their limit.", "loop")
        self._splits = self._counter(
            "search_splits", "Search ranges split because their response hit the limit.", "loop"
        )
        self._truncated = self._counter(
            "search_truncated_windows",
            "Windows that stayed incomplete: a search of one second hit the limit, or time ran out.",
            "loop",
        )
        self._sampled = self._counter(
            "search_sampled_windows",
            "Windows too dense to read completely, of which an evenly spread sample was read.",
            "loop",
        )
        self._source_counts = OptionalGauge(
            "source_counts_available",
            "Whether Tempo can count its traces (TraceQL metrics), from which coverage is computed.",
        )
        self._search_by_id = OptionalGauge(
            "search_by_id_available",
            "Whether Tempo finds traces by their ids with a search; if not, causes cost a request for each trace.",
        )
        self.registry.register(self._search_by_id)
        self._rootless = OptionalGauge(
            "rootless_traces_ratio",
            "Share of the traces without a root span in Tempo, which scope root does not read; a sample once an hour.",
        )
        self.registry.register(self._source_counts)
        self.registry.register(self._rootless)
        self._read = self._counter("traces_read", "Spans in scope that Tempo returned.", "loop")
        self._skipped = self._counter(
            "traces_skipped", "Spans left out, returned by Tempo or withheld by it.", "loop", "reason"
        )
        self._delays = DelayHistogram()
        self.registry.register(self._delays)
        self._storage = self._counter("storage_failures", "Database reads and writes that failed.", "reason")
        self._accepted = self._counter(
            "baseline_shifts_accepted", "Lasting latency changes accepted as the new baseline."
        )
        self._causes = self._counter("cause_attempts", "Attempts to find the cause of a shift, by outcome.", "outcome")
        self._cause_durations = Histogram(
            PREFIX + "cause_duration_seconds",
            "Duration of an attempt to find the cause of a shift, with its requests to Tempo.",
            buckets=_CAUSE_SECONDS,
            registry=self.registry,
        )
        self._causes_pending = self._gauge(
            "cause_pending",
            "Firing shifts whose cause was not looked for yet; those that belong to no incident come first.",
        )
        self._versions = self._counter(
            "regression_version_attempts",
            "Attempts to find the version with which a regression began, by outcome.",
            "outcome",
        )
        self._marks = self._gauge("marks", "Marks on time by source (docs/marks.md).", "source")
        for source in MarkSource:
            self._marks.labels(source.value)
        self._marks_loaded = OptionalGauge(
            "marks_last_reload_successful",
            "Whether the last load of marks_file succeeded; if not, the previous marks stay in use.",
        )
        self._marks_loaded_at = OptionalGauge(
            "marks_last_reload_success_timestamp_seconds", "When marks_file was last loaded successfully."
        )
        self.registry.register(self._marks_loaded)
        self.registry.register(self._marks_loaded_at)
        self._silence_failures = self._counter(
            "silence_read_failures", "Attempts to read the silences of Alertmanager that failed."
        )
        self._jumps = self._counter(
            "clock_jumps", "Clock jumps of more than 10 s: the clock was set, or the machine was suspended."
        )
        self._refused = self._counter("web_unauthorized", "HTTP requests refused for missing or wrong credentials.")
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
        for outcome in CAUSE_OUTCOMES:
            self._causes.labels(outcome)
        for version_outcome in VERSION_OUTCOMES:
            self._versions.labels(version_outcome)
        for storage in STORAGE_FAILURES:
            self._storage.labels(storage)
        self.state: Collector | None = None
        self.registry.register(_Delegate(lambda: self.state))

    def _gauge(self, name: str, help_: str, *labels: str) -> Gauge:
        return Gauge(PREFIX + name, help_, labels, registry=self.registry)

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, help_, labels, registry=self.registry)

    def request(self, loop: Loop, seconds: float) -> None:
        """Count a completed HTTP request to Tempo."""
        self._requests.labels(loop).inc()
        self._durations.labels(loop).observe(seconds)

    def request_failed(self, loop: Loop, reason: FailureReason) -> None:
        """Count a failed HTTP request to Tempo."""
        self._failures.labels(loop, reason).inc()

    def tempo_answered(self, answered: bool) -> None:
        """Record whether Tempo answered the last request."""
        self._tempo_up.set(answered)

    def saturated(self, loop: Loop) -> None:
        """Count a search response that hit its limit."""
        self._saturations.labels(loop).inc()

    def split(self, loop: Loop) -> None:
        """Count a split range."""
        self._splits.labels(loop).inc()

    def truncated(self, loop: Loop) -> None:
        """Count a window that stayed incomplete."""
        self._truncated.labels(loop).inc()

    def sampled(self, loop: Loop) -> None:
        """Count a window that was read as a sample."""
        self._sampled.labels(loop).inc()

    def source_counts_available(self, available: bool) -> None:
        """Record whether Tempo can count its traces."""
        self._source_counts.value = float(available)

    def rootless_traces(self, ratio: float) -> None:
        """Record the share of the traces that have no root span in Tempo."""
        self._rootless.value = ratio

    def traces_read(self, loop: Loop, count: int) -> None:
        """Count spans that Tempo returned."""
        self._read.labels(loop).inc(count)

    def traces_skipped(self, loop: Loop, reason: SkipReason, count: int) -> None:
        """Count spans that were left out."""
        self._skipped.labels(loop, reason).inc(count)

    def searchable_delays(self, delays: Mapping[float, int]) -> None:
        """Count spans by the seconds from their end until they were found."""
        self._delays.observe(delays)

    def storage_failed(self, reason: StorageFailure) -> None:
        """Count a failed read or write of the database."""
        self._storage.labels(reason).inc()

    def search_by_id_available(self, available: bool) -> None:
        """Record whether Tempo finds traces by their ids."""
        self._search_by_id.value = float(available)

    def cause_sought(self, outcome: CauseOutcome, seconds: float) -> None:
        """Count an attempt to find the cause of a shift."""
        self._causes.labels(outcome).inc()
        self._cause_durations.observe(seconds)

    def causes_pending(self, count: int) -> None:
        """Record the number of firing shifts that were not looked at."""
        self._causes_pending.set(count)

    def version_sought(self, outcome: VersionOutcome) -> None:
        """Count an attempt to find the version with which a regression began."""
        self._versions.labels(outcome).inc()

    def shift_accepted(self) -> None:
        """Count a lasting change that was accepted as the new baseline."""
        self._accepted.inc()

    def marks_counted(self, counts: Mapping[MarkSource, int]) -> None:
        """Record the number of marks of each source."""
        for source, count in counts.items():
            self._marks.labels(source.value).set(count)

    def marks_file_loaded(self, successful: bool, at: float) -> None:
        """Record whether the marks file was loaded, and when it last was."""
        self._marks_loaded.value = float(successful)
        if successful:
            self._marks_loaded_at.value = at

    def silences_failed(self) -> None:
        """Count a failed attempt to read silences."""
        self._silence_failures.inc()

    def clock_jumped(self) -> None:
        """Count a clock jump."""
        self._jumps.inc()

    def request_refused(self) -> None:
        """Count an HTTP request without valid credentials."""
        self._refused.inc()


class ReloadOutcome(Protocol):
    """Outcome of the last load of a file."""

    @property
    def successful(self) -> bool:
        """Whether what is in use is what the files say."""

    @property
    def succeeded_at(self) -> float:
        """When what is in use was loaded, Unix seconds."""


class ReloadCollector(Collector):
    """Collects the outcome of loading a file that is loaded again while the exporter runs."""

    def __init__(self, name: str, files: str, status: Callable[[], ReloadOutcome]) -> None:
        """Describe the file.

        Args:
            name: first part of the names of the metrics.
            files: what is loaded, for people.
            status: returns the outcome of the last load.
        """
        self._name = name
        self._files = files
        self._status = status

    @classmethod
    def of_config(cls, status: Callable[[], ReloadOutcome]) -> Self:
        """Collect the outcome of loading the configuration."""
        return cls("config", "the configuration", status)

    @classmethod
    def of_web_config(cls, status: Callable[[], ReloadOutcome]) -> Self:
        """Collect the outcome of loading ``web.config_file``; registered only if that is configured."""
        return cls("web_config", "web.config_file", status)

    def describe(self) -> Iterator[Metric]:
        """Describe nothing, see :class:`StateCollector`."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Collect current values."""
        status = self._status()
        yield _gauge(
            f"{self._name}_last_reload_successful",
            f"Whether the last load of {self._files} succeeded; if not, the previous one stays in use.",
            float(status.successful),
        )
        yield _gauge(
            f"{self._name}_last_reload_success_timestamp_seconds",
            f"When {self._files} was last loaded successfully, with the files it names.",
            status.succeeded_at,
        )


class _Delegate(Collector):
    """Collects from another collector, which can be replaced."""

    def __init__(self, current: Callable[[], Collector | None]) -> None:
        self._current = current

    def describe(self) -> Iterator[Metric]:
        """Describe nothing, see :class:`StateCollector`."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Collect current values."""
        current = self._current()
        if current is not None:
            yield from current.collect()


class OptionalGauge(Collector):
    """A gauge that is absent until its value is known.

    Attributes:
        value: the value; None until it is known.
    """

    def __init__(self, name: str, help_: str) -> None:
        self.value: float | None = None
        self._name = name
        self._help = help_

    def describe(self) -> Iterator[Metric]:
        """Describe nothing: the metric may be absent."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Collect the gauge, if its value is known."""
        yield from _if_known(self._name, self._help, self.value)


class DelayHistogram(Collector):
    """How long after their end spans are found.

    `prometheus_client`'s histogram observes one span at a time, which would cost more than reading them.
    """

    def __init__(self) -> None:
        # Replaced as a whole, so that a scrape sees all of an observation or nothing of it.
        self._state: tuple[tuple[int, ...], float] = (0,) * (len(_DELAY_SECONDS) + 1), 0.0

    def observe(self, delays: Mapping[float, int]) -> None:
        """Add spans; called by the poller only.

        Args:
            delays: number of spans by delay in seconds.
        """
        buckets, seconds = list(self._state[0]), self._state[1]
        for delay, spans in delays.items():
            buckets[bisect_left(_DELAY_SECONDS, delay)] += spans
            seconds += delay * spans
        self._state = tuple(buckets), seconds

    def describe(self) -> Iterator[Metric]:
        """Describe nothing, see :class:`StateCollector`."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Collect the histogram."""
        buckets, seconds = self._state
        bounds = [*(str(float(bound)) for bound in _DELAY_SECONDS), "+Inf"]
        yield HistogramMetricFamily(
            PREFIX + "span_searchable_delay_seconds",
            "Time from the end of a span until a poll found it, including the wait for the poll; pauses are left out.",
            buckets=list(zip(bounds, accumulate(buckets), strict=True)),
            sum_value=seconds,
        )


class SeriesLimits(Protocol):
    """Counts the names that the limits on series left without a series of their own."""

    @property
    def dropped(self) -> int:
        """Distinct series left out because the limit was reached."""

    def folded_names(self) -> Mapping[str, int]:
        """Distinct span names that share the series of a folded service, by service."""


class StateCollector(Collector):
    """Collects the state of the ledger, the history, the snapshot and the series filter."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot | None],
        backfill: Callable[[], BackfillStatus | None],
        series_filter: SeriesLimits,
        series_limit: int,
        label_names: LabelNames = DEFAULT_LABEL_NAMES,
    ) -> None:
        """Take the sources, which are read at each scrape.

        Args:
            snapshot: the current snapshot.
            backfill: the status of the ledger; None if backfill is disabled.
            series_filter: counts dropped series and folded names.
            series_limit: maximum number of series.
            label_names: maps the names of services to label values.
        """
        self._snapshot = snapshot
        self._backfill = backfill
        self._series_filter = series_filter
        self._series_limit = series_limit
        self._label_names = label_names

    def describe(self) -> Iterator[Metric]:
        """Describe nothing: no other collector uses these names, and describing would cost as much as collecting."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Collect current values."""
        yield from self._of_backfill()
        yield _gauge("series_limit", "Maximum number of series (series.max).", self._series_limit)
        yield _counter(
            "series_dropped", "Distinct series left out because the limit was reached.", self._series_filter.dropped
        )
        folded = CounterMetricFamily(
            PREFIX + "series_folded",
            "Distinct span names without a series of their own because their service has too many; absent for others.",
            labels=["service_name"],
        )
        for service_name, names in self._series_filter.folded_names().items():
            folded.add_metric([self._label_names.service(service_name)], names)
        yield folded
        snapshot = self._snapshot()
        if snapshot is not None:
            yield from _of_snapshot(snapshot)

    def _of_backfill(self) -> Iterator[Metric]:
        status = self._backfill()
        yield _gauge("backfill_enabled", "Whether backfill is enabled.", float(status is not None))
        if status is None:
            return
        progress = status.progress
        yield _gauge("backfill_complete", "Whether no settled window is left to read.", float(progress.complete))
        yield _gauge(
            "backfill_progress_ratio", "Share of the wanted windows that need no more reading.", progress.ratio
        )
        windows = GaugeMetricFamily(PREFIX + "backfill_windows", "Wanted windows by state.", labels=["state"])
        windows.add_metric(["pending"], progress.pending)
        for state in WindowState:
            windows.add_metric([state.value], getattr(progress, state.value))
        yield windows
        yield _gauge(
            "backfill_empty",
            "Whether all wanted windows were read and hold no traces: tenant, filter or scope may be wrong.",
            float(progress.is_empty),
        )
        yield from _if_known(
            "backfill_coverage_ratio",
            "Traces read divided by traces in Tempo, over the windows where both are known.",
            progress.coverage,
        )
        yield from _if_known(
            "backfill_unsampled_coverage_ratio",
            "As backfill_coverage_ratio, without windows sampled because they are too dense to read completely.",
            status.unsampled.coverage,
        )
        yield _gauge(
            "backfill_sampled_windows",
            "Wanted windows sampled because they are too dense to read completely.",
            status.sampled_windows,
        )
        yield _gauge(
            "backfill_late_windows",
            "Windows read that lack, or may lack, traces that Tempo received later; they are checked again.",
            status.late_windows,
        )
        yield _gauge(
            "backfill_wanted_since_timestamp_seconds", "Start of the oldest wanted window.", status.wanted_since
        )
        yield _gauge("backfill_started_timestamp_seconds", "When this process started backfill.", status.started_at)
        yield from _if_known(
            "backfill_completed_timestamp_seconds",
            "When this process first completed backfill.",
            status.completed_at,
        )


def _of_snapshot(snapshot: Snapshot) -> Iterator[Metric]:
    yield from _if_known(
        "poll_last_success_timestamp_seconds", "When the live edge was last read successfully.", snapshot.evaluated_at
    )
    yield from _if_known("poll_duration_seconds", "Duration of the last read of the live edge.", snapshot.poll_seconds)
    yield from _if_known(
        "poll_coverage_ratio",
        "Share of the current traffic that is read and evaluated; below 1 if it is so dense that it is sampled.",
        snapshot.poll_share,
    )
    yield from _if_known(
        "poll_read_amplification_ratio",
        "Spans fetched from the live edge for each one evaluated, over the last minutes; late spans need rereading.",
        snapshot.poll_read_amplification,
    )
    yield from _if_known(
        "source_traffic_ratio",
        "Current traffic of all series relative to the usual. Far below 1, Tempo or a collector loses traces, or the"
        " sampling has changed; absent while unknown.",
        snapshot.source_traffic_ratio,
    )
    yield from _if_known(
        "live_edge_blind",
        "Whether next to nothing of the usual traffic is found at the live edge although it can be read; absent while"
        " unknown.",
        None if snapshot.edge.blind is None else float(snapshot.edge.blind),
    )
    yield _gauge("history_windows", "Windows in the stored history.", snapshot.history.windows)
    yield _gauge("history_traces", "Traces in the stored history.", snapshot.history.traces)
    yield from _if_known(
        "backfill_oldest_trace_timestamp_seconds",
        "Start of the oldest stored window that holds traces.",
        snapshot.history.oldest_trace_at,
    )
    yield _gauge("series", "Series on this page.", len(snapshot.series))
    if snapshot.has_baselines:
        yield from _of_baselines(snapshot)
    yield _gauge(
        "quarantined_windows",
        "Anomalous windows kept out of the baselines.",
        snapshot.history.quarantined_windows,
    )
    yield from _if_known(
        "storage_size_bytes", "Size of the database, including its write-ahead log.", snapshot.history.storage_bytes
    )
    yield from _if_known(
        "snapshot_timestamp_seconds", "When the series on this page were last evaluated.", snapshot.evaluated_at
    )
    yield _gauge(
        "snapshot_build_duration_seconds",
        "Duration of the last evaluation of the series on this page.",
        snapshot.build_seconds,
    )


def _of_baselines(snapshot: Snapshot) -> Iterator[Metric]:
    levels = GaugeMetricFamily(
        PREFIX + "series_by_fallback_level", "Series by fallback level of their baseline.", labels=["level"]
    )
    for level, count in snapshot.series_by_level.items():
        levels.add_metric([str(int(level))], count)
    yield levels
    yield _gauge("series_streams", "Series of streams, on whose latency there is no verdict.", snapshot.series_streams)
    yield _gauge(
        "series_learning",
        "Series whose baseline is not mature enough for a shift verdict.",
        snapshot.series_learning,
    )


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, help_, value=value)


def _counter(name: str, help_: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, help_, value=value)


def _if_known(name: str, help_: str, value: float | None) -> Iterator[Metric]:
    if value is not None:
        yield _gauge(name, help_, value)
