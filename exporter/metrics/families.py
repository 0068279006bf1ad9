"""The metrics of the watched series: name, help, type, and the value of a series."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from exporter.baseline.levels import Baseline
from exporter.evaluation.snapshot import Exemplar, SeriesStatus

PREFIX: Final = "tempo_anomaly_"
SERIES_LABELS: Final = ("service_name", "span_name")


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family of the watched series.

    Attributes:
        name: metric name, for counters without ``_total``.
        help: help text.
        kind: metric type.
        value: returns the value of one series; None makes no sample.
        label: a further label as name and value. Families that differ only in it must be adjacent.
        exemplar: returns the exemplar of one series.
    """

    name: str
    help: str
    kind: Literal["gauge", "counter"]
    value: Callable[[SeriesStatus], float | None]
    label: tuple[str, str] | None = None
    exemplar: Callable[[SeriesStatus], Exemplar | None] | None = None

    @property
    def sample_name(self) -> str:
        """Name of the samples."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


_ANOMALOUS_HELP: Final = (
    "Whether the series is anomalous now, by kind: its latency as a whole has shifted, or single traces are outliers."
)


def _of_baseline(value: Callable[[Baseline], float]) -> Callable[[SeriesStatus], float | None]:
    return lambda status: None if status.baseline is None else value(status.baseline)


SERIES_FAMILIES: Final[Sequence[Family]] = (
    Family(
        PREFIX + "baseline_p50_seconds",
        "Median latency in the baseline of the series for this hour of the day and day type.",
        "gauge",
        _of_baseline(lambda baseline: baseline.p50_seconds),
    ),
    Family(
        PREFIX + "baseline_p95_seconds",
        "95th percentile of latency in the baseline of the series.",
        "gauge",
        _of_baseline(lambda baseline: baseline.p95_seconds),
    ),
    Family(
        PREFIX + "baseline_mad_seconds",
        "Median absolute deviation of latency from the median in the baseline of the series.",
        "gauge",
        _of_baseline(lambda baseline: baseline.mad_seconds),
    ),
    Family(
        PREFIX + "baseline_samples",
        "Traces pooled in the baseline of the series.",
        "gauge",
        _of_baseline(lambda baseline: baseline.count),
    ),
    Family(
        PREFIX + "baseline_windows",
        "Hours of history pooled in the baseline of the series.",
        "gauge",
        _of_baseline(lambda baseline: baseline.windows),
    ),
    Family(
        PREFIX + "baseline_fallback_level",
        "Fallback level of the baseline: 1 this hour of the day, 2 nearby hours, 3 all hours of this day type,"
        " 4 all hours, 5 unavailable.",
        "gauge",
        lambda status: status.level,
    ),
    Family(
        PREFIX + "outlier_threshold_seconds",
        "Latency above which a single trace is an outlier.",
        "gauge",
        lambda status: status.outlier_threshold_seconds,
    ),
    Family(
        PREFIX + "current_p50_seconds",
        "Median latency of the traces that ended in the evaluation window; absent without traffic.",
        "gauge",
        lambda status: status.current_p50_seconds,
    ),
    Family(
        PREFIX + "current_p95_seconds",
        "95th percentile of latency of the traces that ended in the evaluation window; absent without traffic.",
        "gauge",
        lambda status: status.current_p95_seconds,
    ),
    Family(
        PREFIX + "current_traces",
        "Traces that ended in the evaluation window.",
        "gauge",
        lambda status: status.current_traces,
    ),
    Family(
        PREFIX + "score",
        "Strength of the latency shift against the baseline; from 1 on it is practically significant.",
        "gauge",
        lambda status: status.score,
    ),
    Family(
        PREFIX + "anomalous",
        _ANOMALOUS_HELP,
        "gauge",
        lambda status: status.shift,
        label=("kind", "shift"),
    ),
    Family(
        PREFIX + "anomalous",
        _ANOMALOUS_HELP,
        "gauge",
        lambda status: status.outlier,
        label=("kind", "outlier"),
    ),
    Family(
        PREFIX + "anomalous_since_timestamp_seconds",
        "When the current shift began; present only while it lasts.",
        "gauge",
        lambda status: status.since,
    ),
    Family(
        PREFIX + "traces",
        "Traces evaluated at the live edge, each counted once; of dense traffic only a sample (poll_coverage_ratio).",
        "counter",
        lambda status: status.traces_total,
    ),
    Family(
        PREFIX + "outlier_traces",
        "Traces evaluated at the live edge that were outliers.",
        "counter",
        lambda status: status.outliers_total,
        exemplar=lambda status: status.exemplar,
    ),
)
