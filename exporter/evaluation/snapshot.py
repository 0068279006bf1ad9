"""The immutable result of one poll cycle. The poller replaces it as a whole; scrapes and pages only read it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from struct import Struct
from typing import Final

from exporter.baseline.levels import Baseline, FallbackLevel
from exporter.detection.explanation import Explanation
from exporter.evaluation.live_edge import UNKNOWN_EDGE, LiveEdge
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.model.span import SeriesKey


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
        exemplar: the latest outlier.
        outliers: the latest outliers, oldest first.
        explanation: evidence for a shift, if there is any.
        is_baseline_known: whether the baselines of this hour have been built; False is not the same as level 5.
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
    exemplar: Exemplar | None = None
    outliers: Outliers = NO_OUTLIERS
    explanation: Explanation | None = None
    is_baseline_known: bool = True

    @property
    def level(self) -> FallbackLevel | None:
        """The fallback level of the baseline; None while the baseline is unknown."""
        if self.baseline is not None:
            return self.baseline.level
        return FallbackLevel.UNAVAILABLE if self.is_baseline_known else None

    @property
    def learning(self) -> bool:
        """Whether the baseline is not mature enough for a shift verdict."""
        return self.baseline is not None and not self.baseline.mature


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
        history: totals of the stored history.
        read_error: why the last read of the live edge failed; None if it succeeded.
        edge: whether current traffic is found at all; while it is blind, of the present only flags are known.
        has_baselines: whether a baseline table has been built; until then no series has a known baseline.
        backfill: state of the ledger; None if backfill is disabled. It is complete only if ``history`` and the
            baselines were taken after the last window was written.
    """

    evaluated_at: float | None
    build_seconds: float = 0.0
    series: tuple[SeriesStatus, ...] = ()
    poll_seconds: float | None = None
    poll_share: float | None = None
    history: HistoryFacts = HistoryFacts()
    read_error: str | None = None
    edge: LiveEdge = UNKNOWN_EDGE
    has_baselines: bool = True
    backfill: BackfillStatus | None = None

    @cached_property
    def series_by_level(self) -> Mapping[FallbackLevel, int]:
        """Number of series on each fallback level."""
        levels = Counter(status.level for status in self.series)
        return {level: levels[level] for level in FallbackLevel}

    @cached_property
    def series_learning(self) -> int:
        """Number of series whose baseline is not mature enough for a shift verdict."""
        return sum(status.learning for status in self.series)
