"""The immutable result of one poll cycle. The poller replaces it as a whole; scrapes and pages only read it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from struct import Struct
from typing import Final, NamedTuple

from exporter.baseline.levels import Baseline, FallbackLevel
from exporter.cause.incidents import Role
from exporter.detection.explanation import Explanation
from exporter.detection.flag import FlagKind
from exporter.detection.policy import SeriesPolicy
from exporter.detection.regression.verdict import Regression
from exporter.detection.service_shift import ServiceVerdict
from exporter.detection.streams import StreamReason
from exporter.evaluation.causes.shift_cause import ShiftCause
from exporter.evaluation.live.durations import DurationHistogram
from exporter.evaluation.live.edge import UNKNOWN_EDGE, LiveEdge
from exporter.evaluation.live.time_lost import TimeLost
from exporter.evaluation.live.traffic import CurrentTraffic
from exporter.evaluation.regression_version import RegressionVersion
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.model.service import ServiceKey
from exporter.model.span import SeriesKey
from exporter.model.time_mark import MarkRange


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A trace that exemplifies an outlier.

    Attributes:
        trace_id: 32 hex digits.
        seconds: duration of its span.
        at: end of its span, Unix seconds.
    """

    trace_id: str
    seconds: float
    at: float

    def packed(self) -> bytes:
        """Encode it in 32 bytes."""
        return _RECORD.pack(bytes.fromhex(self.trace_id), self.seconds, self.at)

    @classmethod
    def unpack_all(cls, packed: bytes | bytearray) -> Iterator["Exemplar"]:
        """Decode concatenated exemplars."""
        for trace_id, seconds, at in _RECORD.iter_unpack(packed):
            yield cls(trace_id.hex(), seconds, at)


_RECORD: Final = Struct("16sdd")


class Outliers:
    """The ten latest outliers of a series, immutable.

    They are packed because ten thousand series may hold ten each: 360 bytes a series instead of 2 kB of objects.
    """

    __slots__ = ("_packed",)

    _MOST: Final = 10

    def __init__(self, packed: bytes = b"") -> None:
        self._packed = packed

    def with_one_more(self, exemplar: Exemplar) -> "Outliers":
        """Return a copy with one more outlier; the oldest of eleven is dropped."""
        return Outliers(self._packed[-_RECORD.size * (self._MOST - 1) :] + exemplar.packed())

    def __iter__(self) -> Iterator[Exemplar]:
        """Iterate in order of arrival."""
        return Exemplar.unpack_all(self._packed)


NO_OUTLIERS: Final = Outliers()


class IncidentPart(NamedTuple):
    """The part of a series in an incident.

    Attributes:
        id: the incident.
        role: what the series is in it.
    """

    id: str
    role: Role


class KindStatus(NamedTuple):
    """The verdict of one kind on a series, besides that on its latency.

    Attributes:
        kind: what it is about.
        firing: whether its flag fires; without a verdict, None unless a flag that fires is kept.
        since: start of what it is about, Unix seconds; None unless the flag fires.
        score: its strength; 1 is where it becomes practically significant. None if unknown.
        explanation: the evidence, if there is any; ``str()`` is its sentence.
    """

    kind: FlagKind
    firing: bool | None = None
    since: float | None = None
    score: float | None = None
    explanation: object | None = None


class ServiceStatus(NamedTuple):
    """The verdict on a service as a whole.

    Attributes:
        key: the service.
        verdict: the verdict; None while it is unknown.
        firing: whether its flag fires.
        since: start of the shift, Unix seconds; None unless the flag fires.
    """

    key: ServiceKey
    verdict: ServiceVerdict | None
    firing: bool
    since: float | None = None


@dataclass(frozen=True, slots=True)
class SeriesStatus:
    """Baseline, current latency and verdict of one series. Fields are None while unknown.

    Attributes:
        key: the series.
        baseline: the baseline for the current hour; None at level 5.
        outlier_threshold_seconds: a single trace slower than this is an outlier.
        current_traces: traces in the evaluation window; None while Tempo does not answer.
        current_p50_seconds: their median; None without traffic.
        current_p95_seconds: their 95th percentile; None without traffic.
        score: strength of the shift; 1 is where it becomes practically significant.
        shift: whether the shift flag fires; without a verdict, None unless a flag that fires is kept.
        outlier: whether the window holds an outlier; None at level 5 and while Tempo does not answer.
        since: start of the shift, Unix seconds; None unless the flag fires.
        changepoint: start of the present behaviour, Unix seconds, if a lasting change was accepted.
        traces_total: traces evaluated since the process started.
        outliers_total: outliers among them.
        excess_traces_total: traces slower than the usual p95 of their hour since the process started, extrapolated to
            all traffic; None without a baseline.
        excess_seconds_total: sum of what they took longer, extrapolated to all traffic; None without a baseline.
        time_lost: the same since the shift began; None unless the flag fires.
        exemplar: the latest outlier.
        outliers: the latest outliers, oldest first.
        explanation: evidence for a shift, if there is any.
        cause: what is known about the cause of the shift; None unless the flag fires and it was looked at.
        is_cause_pending: whether the flag has just begun to fire, belongs to no incident, and its cause is being looked
            for.
        incident: the incident that its flag belongs to; None unless the flag fires and it belongs to one.
        stream: why the series is a stream, on whose latency there is no verdict; None if its spans are requests.
        policy: the overrides of the series; None if there are none.
        regressed: whether there is a regression; None if the last days cannot be compared with the weeks before.
        regression: the present regression.
        regression_version: with which version of its service it began; None while that was not looked for.
        is_baseline_known: whether the baselines of this hour have been built; False is not the same as level 5.
        current_failures: how many of the traces in the evaluation window failed; None without traffic, or if that is
            not known of all of them.
        baseline_error_ratio: the usual error ratio of this hour; None while no level is mature.
        kinds: the verdicts of other kinds than the latency shift; a kind that is missing is unknown.
        current_traffic: the traffic of its current window against the usual.
        failures_total: failed ones among the traces evaluated since the process started; None while that is known of
            none.
        marks: what people have marked at this time.
        service: the shift of its service as a whole; None while that is not shifted.
    """

    key: SeriesKey
    baseline: Baseline | None = None
    outlier_threshold_seconds: float | None = None
    current_traces: int | None = None
    current_p50_seconds: float | None = None
    current_p95_seconds: float | None = None
    score: float | None = None
    shift: bool | None = None
    outlier: bool | None = None
    since: float | None = None
    changepoint: int | None = None
    traces_total: int = 0
    outliers_total: int = 0
    excess_traces_total: int | None = None
    excess_seconds_total: float | None = None
    time_lost: TimeLost | None = None
    exemplar: Exemplar | None = None
    outliers: Outliers = NO_OUTLIERS
    explanation: Explanation | None = None
    cause: ShiftCause | None = None
    is_cause_pending: bool = False
    incident: IncidentPart | None = None
    stream: StreamReason | None = None
    regressed: bool | None = None
    regression: Regression | None = None
    regression_version: RegressionVersion | None = None
    policy: SeriesPolicy | None = None
    is_baseline_known: bool = True
    current_failures: int | None = None
    failures_total: int | None = None
    kinds: tuple[KindStatus, ...] = ()
    baseline_error_ratio: float | None = None
    current_traffic: CurrentTraffic | None = None
    marks: tuple[MarkRange, ...] = ()
    service: ServiceStatus | None = None

    def of_kind(self, kind: FlagKind) -> KindStatus:
        """The verdict of one kind, that on the latency included."""
        if kind is FlagKind.SHIFT:
            return KindStatus(kind, self.shift, self.since, self.score, self.explanation)
        return next((each for each in self.kinds if each.kind is kind), KindStatus(kind))

    @property
    def is_anomalous(self) -> bool:
        """Whether any flag of the series fires."""
        return bool(self.shift) or any(each.firing for each in self.kinds)

    @property
    def current_error_ratio(self) -> float | None:
        """Share of the traces in the evaluation window that failed."""
        if self.current_failures is None or not self.current_traces:
            return None
        return self.current_failures / self.current_traces

    @property
    def level(self) -> FallbackLevel | None:
        """The fallback level of the baseline; None while the baseline is unknown."""
        if self.baseline is not None:
            return self.baseline.level
        return FallbackLevel.UNAVAILABLE if self.is_baseline_known else None

    @property
    def learning(self) -> bool:
        """Whether the baseline is not mature enough for a shift verdict, which a stream never gets."""
        is_judged = self.stream is None and self.is_enabled
        return is_judged and self.baseline is not None and not self.baseline.mature

    @property
    def is_quiet(self) -> bool:
        """Whether people have marked this time so that nothing is flagged."""
        return any(each.is_quiet for each in self.marks)

    @property
    def is_enabled(self) -> bool:
        """Whether the configuration wants verdicts on the series."""
        return self.policy is None or self.policy.is_enabled


@dataclass(frozen=True, slots=True)
class HistoryFacts:
    """Totals of the stored history.

    Attributes:
        windows: stored windows.
        traces: stored traces.
        oldest_trace_at: start of the oldest window with traces, Unix seconds; None without traces.
        storage_bytes: size of the database; None until measured.
        quarantined_windows: anomalous hours that are kept out of the baselines.
    """

    windows: int = 0
    traces: int = 0
    oldest_trace_at: float | None = None
    storage_bytes: int | None = None
    quarantined_windows: int = 0


@dataclass(frozen=True)
class Snapshot:
    """Everything that one poll cycle publishes; all of it belongs to one moment.

    Attributes:
        evaluated_at: when the live edge was last read and evaluated, Unix seconds; None until then.
        build_seconds: how long the evaluation took.
        series: the published series, by name.
        poll_seconds: how long the last successful read of the live edge took; None until then.
        poll_share: share of the current traffic that was read; None until then.
        poll_read_amplification: spans fetched from the live edge for each one evaluated; None until one was.
        history: totals of the stored history.
        read_error: why the last read of the live edge failed; None if it succeeded.
        edge: whether current traffic is found at all; while it is blind, of the present only flags are known.
        source_traffic_ratio: traffic of the source against the usual; None while unknown.
        has_baselines: whether a baseline table has been built; until then no series has a known baseline.
        backfill: state of the ledger; None if backfill is disabled. It is complete only if ``history`` and the
            baselines were taken after the last window was written.
        durations: durations of all spans since the start of the process; None unless they are counted.
        services: the services that have a verdict, or a flag that fires, by name.
    """

    evaluated_at: float | None
    build_seconds: float = 0.0
    series: tuple[SeriesStatus, ...] = ()
    poll_seconds: float | None = None
    poll_share: float | None = None
    poll_read_amplification: float | None = None
    history: HistoryFacts = HistoryFacts()
    read_error: str | None = None
    edge: LiveEdge = UNKNOWN_EDGE
    source_traffic_ratio: float | None = None
    has_baselines: bool = True
    backfill: BackfillStatus | None = None
    durations: Mapping[SeriesKey, DurationHistogram] | None = None
    services: tuple[ServiceStatus, ...] = ()

    @cached_property
    def series_by_level(self) -> Mapping[FallbackLevel, int]:
        """Number of series on each fallback level."""
        levels = Counter(status.level for status in self.series)
        return {level: levels[level] for level in FallbackLevel}

    @cached_property
    def series_streams(self) -> int:
        """Number of series that are streams."""
        return sum(status.stream is not None for status in self.series)

    @cached_property
    def series_without_verdict(self) -> int:
        """Number of series that get no verdict: streams, disabled ones, and those that a mark leaves out now."""
        return sum(
            status.stream is not None or not status.is_enabled or (status.is_quiet and status.shift is None)
            for status in self.series
        )

    @cached_property
    def series_learning(self) -> int:
        """Number of series whose baseline is not mature enough for a shift verdict."""
        return sum(status.learning for status in self.series)
