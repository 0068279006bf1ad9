"""The metrics of the watched series: names, help, and where each value comes from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from exporter.baseline.levels import Baseline
from exporter.evaluation.snapshot import Exemplar, SeriesStatus

PREFIX: Final = "tempo_anomaly_"
SERIES_LABELS: Final = ("service_name", "span_name")


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family of the watched series; a value that is absent makes no sample.

    Attributes:
        name: its name, for counters without ``_total``.
        help: what it means.
        kind: its type.
        value: the value for one series.
        label: a further label, name and value; families that differ only in it stand next to each other.
        exemplar: the exemplar for one series.
    """

    name: str
    help: str
    kind: Literal["gauge", "counter"]
    value: Callable[[SeriesStatus], float | None]
    label: tuple[str, str] | None = None
    exemplar: Callable[[SeriesStatus], Exemplar | None] | None = None

    @property
    def sample_name(self) -> str:
        """The name of its samples."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


_ANOMALOUS_HELP: Final = (
    "Whether the series is anomalous now: its latency as a whole has shifted, or single traces are outliers."
)


def _of_baseline(value: Callable[[Baseline], float]) -> Callable[[SeriesStatus], float | None]:
    return lambda status: None if status.baseline is None else value(status.baseline)


SERIES_FAMILIES: Final[Sequence[Family]] = (
    Family(
        PREFIX + "baseline_p50_seconds",
        "Median latency that is usual for the series at this hour of the day and type of day, read from Tempo in the"
        " background.",
        "gauge",
        _of_baseline(lambda baseline: baseline.p50_seconds),
    ),
    Family(
        PREFIX + "baseline_p95_seconds",
        "95th percentile of latency that is usual for the series at this hour.",
        "gauge",
        _of_baseline(lambda baseline: baseline.p95_seconds),
    ),
    Family(
        PREFIX + "baseline_mad_seconds",
        "Median absolute deviation of latency from its median that is usual for the series at this hour.",
        "gauge",
        _of_baseline(lambda baseline: baseline.mad_seconds),
    ),
    Family(
        PREFIX + "baseline_samples",
        "Traces pooled in the baseline in force.",
        "gauge",
        _of_baseline(lambda baseline: baseline.count),
    ),
    Family(
        PREFIX + "baseline_windows",
        "Hours of history pooled in the baseline in force.",
        "gauge",
        _of_baseline(lambda baseline: baseline.windows),
    ),
    Family(
        PREFIX + "baseline_fallback_level",
        "Where the baseline comes from: 1 this hour of the day, 2 nearby hours, 3 all hours of this type of day,"
        " 4 everything, 5 unavailable.",
        "gauge",
        lambda status: status.level,
    ),
    Family(
        PREFIX + "outlier_threshold_seconds",
        "A single trace slower than this is an outlier.",
        "gauge",
        lambda status: status.outlier_threshold_seconds,
    ),
    Family(
        PREFIX + "current_p50_seconds",
        "Median latency of the traces that ended in the current evaluation window; absent without traffic.",
        "gauge",
        lambda status: status.current_p50_seconds,
    ),
    Family(
        PREFIX + "current_p95_seconds",
        "95th percentile of latency of the traces that ended in the current evaluation window; absent without traffic.",
        "gauge",
        lambda status: status.current_p95_seconds,
    ),
    Family(
        PREFIX + "current_traces",
        "Traces that ended in the current evaluation window.",
        "gauge",
        lambda status: status.current_traces,
    ),
    Family(
        PREFIX + "score",
        "Strength of a shift of the current window against the baseline; 1 is where it is practically significant.",
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
        "When the present shift began; there only while it lasts.",
        "gauge",
        lambda status: status.since,
    ),
    Family(
        PREFIX + "traces",
        "Traces read and judged at the live edge, each once; of dense traffic a sample (poll_coverage_ratio).",
        "counter",
        lambda status: status.traces_total,
    ),
    Family(
        PREFIX + "outlier_traces",
        "Traces judged at the live edge that were outliers.",
        "counter",
        lambda status: status.outliers_total,
        exemplar=lambda status: status.exemplar,
    ),
)
