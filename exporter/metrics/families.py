"""The metrics of the watched series: name, help, type, and the value of a series."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Final, Literal, NamedTuple, Protocol, TypeVar

from exporter.baseline.levels import Baseline
from exporter.detection.flag import FlagKind
from exporter.detection.policy import SEVERITIES
from exporter.detection.regression.verdict import Regression
from exporter.evaluation.live.durations import DurationHistogram
from exporter.evaluation.live.traffic import CurrentTraffic
from exporter.evaluation.snapshot import Exemplar, SeriesStatus, ServiceStatus
from exporter.model.label import LabelNames
from exporter.model.service import ServiceKey
from exporter.model.span import SeriesKey

PREFIX: Final = "tempo_anomaly_"
SERIES_LABELS: Final = ("service_name", "span_name")

DURATION_NAME: Final = PREFIX + "duration_seconds"
DURATION_HELP: Final = (
    "Durations of the spans of the series since the exporter started, as a native histogram, each span once; of dense"
    " traffic only a sample (poll_coverage_ratio). Only with web.native_histograms, in protobuf."
)


class FamilyPart(NamedTuple):
    """One of several samples of a series.

    Attributes:
        service_name: a service, for the label of :data:`CAUSE_LABELS`.
        span_name: an operation of it.
        kind: a value from a closed list.
        value: the value.
    """

    service_name: str
    span_name: str
    kind: str
    value: float


CAUSE_LABELS: Final = ("cause", "cause_service_name", "cause_span_name")
"""Further labels of a sample of a family with parts: kind, service and operation."""


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
        parts: returns several samples of one series, each with further labels; then ``value`` is not used.
        labels: returns further labels of one series, which come before those of the series.
    """

    name: str
    help: str
    kind: Literal["gauge", "counter", "histogram"]
    value: Callable[[SeriesStatus], float | None]
    label: tuple[str, str] | None = None
    exemplar: Callable[[SeriesStatus], Exemplar | None] | None = None
    parts: Callable[[SeriesStatus], Sequence[FamilyPart]] | None = None
    labels: Callable[[SeriesStatus], Sequence[tuple[str, str]]] | None = None

    @property
    def sample_name(self) -> str:
        """Name of the samples."""
        return f"{self.name}_total" if self.kind == "counter" else self.name

    def column(self, statuses: Iterable[SeriesStatus], *, has_exemplars: bool) -> "Column":
        """Return what the samples of series contain, besides their names.

        Args:
            statuses: the series.
            has_exemplars: whether the format has exemplars.
        """
        if self.parts is not None:
            return Column(parts=list(map(self.parts, statuses)))
        values = list(map(self.value, statuses))
        if self.labels is not None:
            return Column(values, labels=list(map(self.labels, statuses)))
        if self.exemplar is not None and has_exemplars:
            return Column(values, exemplars=list(map(self.exemplar, statuses)))
        return Column(values)


class Column(NamedTuple):
    """What the samples of a family contain, series by series. Equal columns make equal samples.

    Attributes:
        values: the values; empty for a family with parts.
        exemplars: their exemplars; empty without any.
        labels: their further labels; empty without any.
        parts: several samples of each series; empty unless the family has them.
        histograms: native histograms; empty unless they are what the family has.
    """

    values: Sequence[float | None] = ()
    exemplars: Sequence[Exemplar | None] = ()
    labels: Sequence[Sequence[tuple[str, str]]] = ()
    parts: Sequence[Sequence[FamilyPart]] = ()
    histograms: Sequence[DurationHistogram | None] = ()


_Labels = TypeVar("_Labels")
"""The labels of a series as a format has them."""


class Encoder(Protocol[_Labels]):
    """Writes samples in one of the formats."""

    has_exemplars: bool
    """Whether samples may have exemplars."""

    def head(self, family: Family, size: int) -> bytes:
        """Return what precedes the samples of the families of a name, given the first of them.

        Args:
            family: the first family.
            size: length of the samples of all of them in bytes.
        """

    def service_labels(self, key: ServiceKey, label_names: LabelNames) -> _Labels:
        """Return the labels of a service."""

    def labels(self, key: SeriesKey, label_names: LabelNames) -> _Labels:
        """Return the labels of a series."""

    def samples(self, family: Family, labels: Sequence[_Labels], column: Column, label_names: LabelNames) -> bytes:
        """Return the samples of a family.

        Args:
            family: the family.
            labels: the labels of each series.
            column: what the samples contain.
            label_names: maps names in further labels to label values.
        """


_ANOMALOUS_HELP: Final = (
    "Whether the series is anomalous now, by kind: its latency as a whole has shifted, single traces are outliers, the"
    " last days are slower than the weeks before (regression), too many requests fail (errors), or there are far fewer"
    " than usual (traffic)."
)


def _of_baseline(value: Callable[[Baseline], float]) -> Callable[[SeriesStatus], float | None]:
    return lambda status: None if status.baseline is None else value(status.baseline)


def _of_regression(value: Callable[[Regression], float]) -> Callable[[SeriesStatus], float | None]:
    return lambda status: None if status.regression is None else value(status.regression)


def _of_traffic(value: Callable[[CurrentTraffic], float]) -> Callable[[SeriesStatus], float | None]:
    return lambda status: None if status.current_traffic is None else value(status.current_traffic)


def _has_severity(severity: str) -> Callable[[SeriesStatus], float | None]:
    return lambda status: 1 if status.policy is not None and status.policy.severity == severity else None


def _is_firing(kind: FlagKind) -> Callable[[SeriesStatus], float | None]:
    return lambda status: status.of_kind(kind).firing


def _since(kind: FlagKind) -> Callable[[SeriesStatus], float | None]:
    return lambda status: status.of_kind(kind).since


def _score(kind: FlagKind) -> Callable[[SeriesStatus], float | None]:
    return lambda status: status.of_kind(kind).score


def _causes(status: SeriesStatus) -> Sequence[FamilyPart]:
    if status.cause is None or not status.shift:
        return ()
    return [FamilyPart(each.service_name, each.span_name, each.kind, each.share) for each in status.cause.shares]


def _version(status: SeriesStatus) -> Sequence[tuple[str, str]]:
    found = status.regression_version
    return () if found is None or found.outcome != "appeared" else (("version", found.version),)


INCIDENT_LABELS: Final = ("incident", "role")


def _incident(status: SeriesStatus) -> Sequence[tuple[str, str]]:
    return () if status.incident is None else tuple(zip(INCIDENT_LABELS, status.incident, strict=True))


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
        attrgetter("level"),
    ),
    Family(
        PREFIX + "outlier_threshold_seconds",
        "Latency above which a single trace is an outlier.",
        "gauge",
        attrgetter("outlier_threshold_seconds"),
    ),
    Family(
        PREFIX + "current_p50_seconds",
        "Median latency of the traces that ended in the evaluation window; absent without traffic.",
        "gauge",
        attrgetter("current_p50_seconds"),
    ),
    Family(
        PREFIX + "current_p95_seconds",
        "95th percentile of latency of the traces that ended in the evaluation window; absent without traffic.",
        "gauge",
        attrgetter("current_p95_seconds"),
    ),
    Family(
        PREFIX + "current_traces",
        "Traces that ended in the evaluation window.",
        "gauge",
        attrgetter("current_traces"),
    ),
    Family(
        PREFIX + "current_error_ratio",
        "Share of the traces that ended in the evaluation window that failed; absent without traffic, and if failures"
        " are not read.",
        "gauge",
        attrgetter("current_error_ratio"),
    ),
    Family(
        PREFIX + "baseline_error_ratio",
        "Share of the requests in the baseline of the series that failed; absent while it is learning, and if failures"
        " are not read.",
        "gauge",
        attrgetter("baseline_error_ratio"),
    ),
    Family(
        PREFIX + "error_score",
        "Share of failed requests divided by the share that would matter; from 1 on it is practically significant.",
        "gauge",
        _score(FlagKind.ERRORS),
    ),
    Family(
        PREFIX + "baseline_traces",
        "Usual number of requests of the window in which the traffic of the series is judged; absent with less than 20"
        " in an hour.",
        "gauge",
        _of_traffic(lambda traffic: traffic.usual),
    ),
    Family(
        PREFIX + "traffic_ratio",
        "Requests of that window relative to the usual number.",
        "gauge",
        _of_traffic(lambda traffic: traffic.verdict.evidence.ratio),
    ),
    Family(
        PREFIX + "score",
        "Strength of the latency shift against the baseline; from 1 on it is practically significant.",
        "gauge",
        attrgetter("score"),
    ),
    *(
        Family(
            PREFIX + "anomalous",
            _ANOMALOUS_HELP,
            "gauge",
            _is_firing(kind),
            label=("kind", kind.value),
        )
        for kind in FlagKind
    ),
    Family(
        PREFIX + "anomalous",
        _ANOMALOUS_HELP,
        "gauge",
        attrgetter("outlier"),
        label=("kind", "outlier"),
    ),
    Family(
        PREFIX + "anomalous",
        _ANOMALOUS_HELP,
        "gauge",
        attrgetter("regressed"),
        label=("kind", "regression"),
    ),
    Family(
        PREFIX + "anomalous_since_timestamp_seconds",
        "When the current shift began; present only while it lasts.",
        "gauge",
        attrgetter("since"),
    ),
    Family(
        PREFIX + "errors_since_timestamp_seconds",
        "When too many requests began to fail; present only while they do.",
        "gauge",
        _since(FlagKind.ERRORS),
    ),
    Family(
        PREFIX + "traffic_since_timestamp_seconds",
        "When traffic began to be far from the usual; present only while it is.",
        "gauge",
        _since(FlagKind.TRAFFIC),
    ),
    Family(
        PREFIX + "regression_ratio",
        "Latency level or p90 of the last days relative to the weeks before; present only during a regression.",
        "gauge",
        _of_regression(lambda regression: regression.ratio),
    ),
    Family(
        PREFIX + "regression_began_timestamp_seconds",
        "When the present regression began: the middle of the interval that is plausible.",
        "gauge",
        _of_regression(lambda regression: regression.began),
    ),
    Family(
        PREFIX + "regression_began_uncertainty_seconds",
        "Half the length of the interval in which the present regression began.",
        "gauge",
        _of_regression(lambda regression: (regression.began_before - regression.began_after) / 2),
    ),
    Family(
        PREFIX + "regression_version_info",
        "1 for each regression with which a version of the service appeared; the version is the label. Present only"
        " during the regression.",
        "gauge",
        lambda status: 1 if _version(status) else None,
        labels=_version,
    ),
    *(
        Family(
            PREFIX + "alert_severity",
            "1 for the severity that overrides give to the shift alerts of the series; absent without one.",
            "gauge",
            _has_severity(severity),
            label=("severity", severity),
        )
        for severity in SEVERITIES
    ),
    Family(
        PREFIX + "shift_cause_ratio",
        "Share of the extra time of a shifted series that a cause has, by service, operation and kind of cause; present"
        " only while the shift lasts and its cause is known, at most three.",
        "gauge",
        lambda _: None,
        parts=_causes,
    ),
    Family(
        PREFIX + "shift_cause_pending",
        "1 for each series whose shift has just begun and whose cause is being looked for, for three minutes at most;"
        " present only then, and not if it belongs to an incident.",
        "gauge",
        lambda status: 1 if status.is_cause_pending else None,
    ),
    Family(
        PREFIX + "incident_info",
        "1 for each shifted series that belongs to an incident, with its role (cause, victim or unexplained); present"
        " only while the shift lasts.",
        "gauge",
        lambda status: None if status.incident is None else 1,
        labels=_incident,
    ),
    Family(
        PREFIX + "traces",
        "Traces evaluated at the live edge, each counted once; of dense traffic only a sample (poll_coverage_ratio).",
        "counter",
        attrgetter("traces_total"),
    ),
    Family(
        PREFIX + "error_traces",
        "Traces evaluated at the live edge that failed (detection.errors.when); absent if failures are not read.",
        "counter",
        attrgetter("failures_total"),
    ),
    Family(
        PREFIX + "outlier_traces",
        "Traces evaluated at the live edge that were outliers.",
        "counter",
        attrgetter("outliers_total"),
        exemplar=attrgetter("exemplar"),
    ),
    Family(
        PREFIX + "excess_traces",
        "Traces at the live edge that took longer than the baseline p95 of their hour, extrapolated to all traffic;"
        " absent without a baseline.",
        "counter",
        attrgetter("excess_traces_total"),
    ),
    Family(
        PREFIX + "excess_seconds",
        "Time lost: seconds by which traces at the live edge exceeded the baseline p95 of their hour, extrapolated to"
        " all traffic; absent without a baseline.",
        "counter",
        attrgetter("excess_seconds_total"),
    ),
)


class ServiceFamily(NamedTuple):
    """A metric family of the watched services.

    Attributes:
        family: name, help and label; its own values are not used.
        value: returns the value of one service; None makes no sample.
    """

    family: Family
    value: Callable[[ServiceStatus], float | None]


def _of_service(
    name: str, help_: str, value: Callable[[ServiceStatus], float | None], label: tuple[str, str] | None = None
) -> ServiceFamily:
    return ServiceFamily(Family(PREFIX + name, help_, "gauge", lambda _: None, label), value)


SERVICE_FAMILIES: Final[Sequence[ServiceFamily]] = (
    _of_service(
        "service_shift_ratio",
        "Latency of a service as a whole relative to the usual: the median, over its endpoints, of their median latency"
        " relative to their baseline. Absent while unknown, and with fewer than four endpoints with traffic.",
        lambda status: None if status.verdict is None else status.verdict.ratio,
    ),
    _of_service(
        "service_shift_limit_ratio",
        "The service_shift_ratio from which a service is shifted: at least 1.25, and beyond what it usually varies by.",
        lambda status: None if status.verdict is None else status.verdict.threshold_ratio,
    ),
    _of_service(
        "service_anomalous",
        "Whether a service as a whole is anomalous now, by kind: most of its endpoints are slower than usual (shift).",
        lambda status: None if status.verdict is None and not status.firing else status.firing,
        ("kind", FlagKind.SHIFT.value),
    ),
)

DURATION_FAMILY: Final = Family(DURATION_NAME, DURATION_HELP, "histogram", lambda _: None)
"""The native histograms, which only protobuf has."""


def families_by_name(*, has_histograms: bool, names: frozenset[str] | None = None) -> list[tuple[Family, ...]]:
    """Return the families that differ only in a label together, in the order of the page.

    Args:
        has_histograms: whether the native histograms are among them.
        names: only these families, named by family or by sample name; all if absent.
    """
    families = (*SERIES_FAMILIES, *([DURATION_FAMILY] if has_histograms else []))
    grouped = [tuple(members) for _, members in groupby(families, key=lambda family: family.name)]
    return [each for each in grouped if names is None or {each[0].name, each[0].sample_name} & names]
