"""What the detector finds, all at once: built after every cycle, swapped in whole, never changed. Scrapes read it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from struct import Struct
from typing import Final

from exporter.baseline.levels import Baseline, FallbackLevel
from exporter.detection.explanation import Explanation
from exporter.model.span import SeriesKey


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A trace to look at.

    Attributes:
        trace_id: 32 hex digits.
        seconds: how long it took.
        at: when it ended, Unix seconds.
    """

    trace_id: str
    seconds: float
    at: float

    def packed(self) -> bytes:
        """The same as few bytes."""
        return _RECORD.pack(bytes.fromhex(self.trace_id), self.seconds, self.at)

    @classmethod
    def unpack_all(cls, packed: bytes | bytearray) -> Iterator["Exemplar"]:
        """Those that were packed, one behind the other."""
        for trace_id, seconds, at in _RECORD.iter_unpack(packed):
            yield cls(trace_id.hex(), seconds, at)


_RECORD: Final = Struct("16sdd")


class Outliers:
    """The latest outliers of a series, immutable.

    They are packed, since ten thousand series may remember ten each: that takes 360 bytes, as objects 2 kB.
    """

    __slots__ = ("_packed",)

    _MOST: Final = 10

    def __init__(self, packed: bytes = b"") -> None:
        self._packed = packed

    def with_one_more(self, exemplar: Exemplar) -> "Outliers":
        """These and another one; of too many, the one that came first is dropped."""
        return Outliers(self._packed[-_RECORD.size * (self._MOST - 1) :] + exemplar.packed())

    def __iter__(self) -> Iterator[Exemplar]:
        """In the order in which they came."""
        return Exemplar.unpack_all(self._packed)


NO_OUTLIERS: Final = Outliers()


@dataclass(frozen=True, slots=True)
class SeriesStatus:
    """What is known of one series now. What is unknown is absent.

    Attributes:
        key: the series.
        baseline: the baseline in force; absent at level 5.
        outlier_threshold_seconds: a single trace slower than this is an outlier.
        current_traces: traces in the current window; absent while Tempo does not answer.
        current_p50_seconds: their median; absent without traffic.
        current_p95_seconds: their 95th percentile; absent without traffic.
        score: strength of the shift, 1 being where it is practically significant.
        shift: whether the window as a whole has moved; absent without a verdict, but that a flag that is up stays up.
        outlier: whether any trace of the window is an outlier; absent at level 5 and while Tempo does not answer.
        since: when the shift began; absent unless it lasts.
        changepoint: since when the series has behaved as it does, where a lasting change was accepted.
        traces_total: traces judged since the process began.
        outliers_total: outliers among them.
        exemplar: the latest outlier.
        outliers: the latest ones, it among them.
        explanation: what speaks for a shift; absent where nothing does.
        known: whether what is usual for it at this hour has been worked out yet, be it that there is no baseline.
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
    known: bool = True

    @property
    def level(self) -> FallbackLevel | None:
        """The fallback level of its baseline; absent as long as that is not known."""
        if self.baseline is not None:
            return self.baseline.level
        return FallbackLevel.UNAVAILABLE if self.known else None

    @property
    def learning(self) -> bool:
        """Whether it has a baseline that is not mature enough for a shift verdict."""
        return self.baseline is not None and not self.baseline.mature


@dataclass(frozen=True, slots=True)
class HistoryFacts:
    """What is known of the stored history as a whole.

    Attributes:
        windows: windows that stand in it.
        traces: traces that stand in it.
        oldest_trace_at: start of the oldest window with traces; absent while there is none.
        storage_bytes: size of the database; absent until it was measured.
        quarantined_windows: anomalous hours that are kept out of the baselines.
    """

    windows: int = 0
    traces: int = 0
    oldest_trace_at: float | None = None
    storage_bytes: int | None = None
    quarantined_windows: int = 0


@dataclass(frozen=True)
class Snapshot:
    """All that is published at once.

    Attributes:
        judged_at: when the live edge was last read and judged, Unix seconds; absent until then.
        build_seconds: how long building this took.
        series: the series on the page, by name.
        poll_seconds: how long the last reading of the live edge took; absent until then.
        poll_share: the share of the current traffic that was read; absent until then.
        history: what is known of the stored history.
        unread: why the live edge could not be read last time, in words; absent while it can.
        known: whether what is usual at this hour has been worked out yet; if not, it is not for any of the series.
    """

    judged_at: float | None
    build_seconds: float = 0.0
    series: tuple[SeriesStatus, ...] = ()
    poll_seconds: float | None = None
    poll_share: float | None = None
    history: HistoryFacts = HistoryFacts()
    unread: str | None = None
    known: bool = True

    @cached_property
    def series_by_level(self) -> Mapping[FallbackLevel, int]:
        """How many series stand on each fallback level."""
        levels = Counter(status.level for status in self.series)
        return {level: levels[level] for level in FallbackLevel}

    @cached_property
    def series_learning(self) -> int:
        """How many series have a baseline that is not mature enough for a shift verdict."""
        return sum(status.learning for status in self.series)
