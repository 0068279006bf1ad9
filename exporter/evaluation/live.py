"""The live edge of every series: its recent traces, its flag, and the verdict at each tick.

In memory only, but for the flags: what is older stands in the history, and after a restart the current window is read
again.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from exporter.detection.explanation import Explanation
from exporter.detection.flag import INACTIVE, Flag, FlagEvent
from exporter.detection.tick import tick
from exporter.detection.window import RecentTraces, View, end_second
from exporter.evaluation.baseline_table import BaselineTable, SeriesBaseline
from exporter.evaluation.settings import EvaluationSettings
from exporter.evaluation.snapshot import NO_OUTLIERS, Exemplar, SeriesStatus
from exporter.ingest.sampling import TimeSample
from exporter.model.histogram import bucket_of_ns
from exporter.model.span import SeriesKey, Span
from exporter.runtime.telemetry import SkipReason

_NS: Final = 1_000_000_000
_MOST_TRACES: Final = 1_000_000
"""Traces kept in memory over all series: ten bytes each, and some more for knowing them when they come again."""
_AHEAD_SECONDS: Final = 60
"""What ended later than this is yet to come: clocks of traced services run ahead, and some are plainly wrong."""


class SeenSpans:
    """Knows the spans that were counted already, for as long as they may be read again.

    They are kept by the minute in which they ended, so that forgetting the old ones is dropping a set.
    """

    _MINUTE_NS: Final = 60 * _NS

    def __init__(self) -> None:
        self._by_minute: dict[int, set[int]] = {}

    def is_new(self, span: Span) -> bool:
        """Whether a span is met for the first time; from now on it is known."""
        seen = self._by_minute.setdefault(span.end_ns // self._MINUTE_NS, set())
        # Its hash alone: among a million spans two of the same 64 bits are as good as never met.
        identity = hash((span.trace_id, span.span_id))
        if identity in seen:
            return False
        seen.add(identity)
        return True

    def forget_before(self, unix_seconds: float) -> None:
        """Forget spans that ended before the minute of an instant."""
        oldest = int(unix_seconds) // 60
        for minute in [minute for minute in self._by_minute if minute < oldest]:
            del self._by_minute[minute]


class _LiveSeries:
    """One series at the live edge."""

    __slots__ = (
        "exemplar",
        "explanation",
        "flag",
        "last_seen",
        "outliers",
        "outliers_total",
        "recent",
        "score",
        "traces_total",
    )

    def __init__(self, flag: Flag = INACTIVE) -> None:
        self.recent = RecentTraces()
        self.flag = flag
        self.score: float | None = None
        self.explanation: Explanation | None = None
        self.traces_total = 0
        self.outliers_total = 0
        self.exemplar: Exemplar | None = None
        self.outliers = NO_OUTLIERS
        self.last_seen = 0.0


@dataclass(frozen=True, slots=True)
class SeriesFlagChange:
    """A flag rose or fell.

    Attributes:
        key: the series.
        event: what happened.
        explanation: what speaks for a shift, where anything does.
    """

    key: SeriesKey
    event: FlagEvent
    explanation: Explanation | None


@dataclass(frozen=True, slots=True)
class TickResult:
    """What a tick over all series found.

    Attributes:
        statuses: all series that belong on the page, by name.
        changes: flags that rose or fell.
        flags: the flags that are not what they were after the tick before; a flag that is down is forgotten.
        suspects: hours that raised flags have touched.
    """

    statuses: tuple[SeriesStatus, ...]
    changes: tuple[SeriesFlagChange, ...]
    flags: Mapping[SeriesKey, Flag]
    suspects: Mapping[SeriesKey, tuple[int, ...]]


class LiveEvaluator:
    """All series at the live edge. Not for several threads."""

    def __init__(
        self,
        settings: EvaluationSettings,
        admit: Callable[[SeriesKey], SeriesKey | SkipReason],
        *,
        started_at: float,
        remembered_seconds: float,
        flags: Mapping[SeriesKey, Flag],
        most_traces: int = _MOST_TRACES,
    ) -> None:
        """Begin with an empty window.

        Args:
            settings: what a verdict depends on.
            admit: says under which name a span's series is kept, or why it is not.
            started_at: when the process began; what ended before fills the window but is not counted as judged.
            remembered_seconds: how long spans are known after they ended; older ones are not taken in.
            flags: the flags from before a restart.
            most_traces: how many traces all windows together may hold.
        """
        self._settings = settings
        self._admit = admit
        self._started_at = started_at
        self._remembered_seconds = remembered_seconds
        self._most_traces = most_traces
        self._seen = SeenSpans()
        self._known_since: float | None = None
        self._series = {key: _LiveSeries(flag) for key, flag in flags.items()}
        self._unjudged: dict[SeriesKey, bytearray] = {}
        self._unjudged_traces = 0

    def flags(self) -> dict[SeriesKey, Flag]:
        """The flags that are up."""
        return {key: series.flag for key, series in self._series.items() if series.flag.firing}

    def take_in(self, spans: Iterable[Span], now: float, book: BaselineTable) -> Counter[SkipReason]:
        """Add spans to the windows they ended in, each once.

        Args:
            spans: what was read.
            now: the time of the tick, Unix seconds.
            book: the baselines in force.

        Returns:
            How many were left out, by reason.
        """
        self._judge_belatedly(book)
        skipped: Counter[SkipReason] = Counter()
        room = self._most_traces - sum(len(series.recent) for series in self._series.values())
        oldest_ns = int(self._oldest(now) * _NS)
        newest_ns = int((now + _AHEAD_SECONDS) * _NS)
        for span in spans:
            key = self._admit(span.key)
            if isinstance(key, str):
                skipped[key] += 1
            elif not oldest_ns < span.end_ns <= newest_ns:
                skipped["outside_window"] += 1
            elif not self._seen.is_new(span):
                skipped["duplicate"] += 1
            elif room <= 0:
                skipped["memory_limit"] += 1
            else:
                room -= 1
                self._add(key, span, book)
        self._known_since = now - self._remembered_seconds
        self._seen.forget_before(self._known_since)
        return skipped

    def thin(self, slices: TimeSample, whole: Collection[SeriesKey] = ()) -> None:
        """Keep only the traces that ended in some slices of time.

        Where the traffic has become so dense that no more than those are read, the minutes before, of which more was
        read, would otherwise outweigh the newest. What was counted stays counted.

        Args:
            slices: what is read from now on.
            whole: the series that are read whole all the same.
        """
        for key, series in self._series.items():
            if key not in whole:
                series.recent.keep(slices.includes)

    def per_hour(self, book: BaselineTable) -> dict[SeriesKey, float]:
        """How many traces an hour the series usually have whose name is the one that Tempo knows."""
        return {
            key: usual.baseline.count / usual.baseline.windows
            for key, usual in book.series.items()
            if usual.baseline is not None and self._admit(key) == key
        }

    def _oldest(self, now: float) -> float:
        """The instant at or before which spans are not taken in: no window reaches further back.

        From the second time on, what ended before spans are known may have been counted already; after a pause they
        are known from before the pause, so that it leaves no hole.
        """
        oldest = now - max(self._settings.shift.max_window_seconds, self._remembered_seconds)
        if self._known_since is None:
            return oldest
        # A clock that was set back must not shut out what is new.
        return max(oldest, min(self._known_since, now - self._remembered_seconds))

    def _add(self, key: SeriesKey, span: Span, book: BaselineTable) -> None:
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _LiveSeries()
        ended_at = span.end_ns / _NS
        seconds = span.duration_ns / _NS
        series.last_seen = max(series.last_seen, ended_at)
        series.recent.add(end_second(span.end_ns), bucket_of_ns(span.duration_ns))
        series.traces_total += ended_at >= self._started_at
        threshold = book.of(key).outlier_threshold_seconds
        if threshold is not None and seconds > threshold:
            self._note_outlier(series, Exemplar(span.trace_id, seconds, ended_at))
        elif not book.known:
            self._keep_unjudged(key, Exemplar(span.trace_id, seconds, ended_at))

    def _note_outlier(self, series: _LiveSeries, outlier: Exemplar) -> None:
        series.outliers = series.outliers.with_one_more(outlier)
        if series.exemplar is None or outlier.at >= series.exemplar.at:
            series.exemplar = outlier
        series.outliers_total += outlier.at >= self._started_at

    def _keep_unjudged(self, key: SeriesKey, trace: Exemplar) -> None:
        """Keep a trace until it is known what is usual, or it would never be told whether it is an outlier."""
        if self._unjudged_traces >= self._most_traces:
            # Of so many only the latest are of use.
            self._unjudged.clear()
            self._unjudged_traces = 0
        self._unjudged.setdefault(key, bytearray()).extend(trace.packed())
        self._unjudged_traces += 1

    def _judge_belatedly(self, book: BaselineTable) -> None:
        """Once it is known what is usual, tell the outliers among the traces that were kept until then."""
        if not book.known:
            return
        for key, packed in self._unjudged.items():
            threshold = book.of(key).outlier_threshold_seconds
            if threshold is not None and key in self._series:
                for trace in Exemplar.unpack_all(packed):
                    if trace.seconds > threshold:
                        self._note_outlier(self._series[key], trace)
        self._unjudged.clear()
        self._unjudged_traces = 0

    def tick(self, now: float, book: BaselineTable) -> TickResult:
        """Judge all series; as long as that is not possible, look at them only, and leave flags as they are.

        Args:
            now: the time of the tick, Unix seconds.
            book: the baselines in force.
        """
        if not book.judged:
            for series in self._series.values():
                series.recent.discard(now, self._settings.shift)
                series.score = series.explanation = None
            return TickResult(self.hold(now, now, book), (), {}, {})
        statuses: list[SeriesStatus] = []
        changes: list[SeriesFlagChange] = []
        flags: dict[SeriesKey, Flag] = {}
        suspects: dict[SeriesKey, tuple[int, ...]] = {}
        parameters = self._settings.shift
        for key, series, usual in self._on_page(now, book):
            series.recent.discard(now, parameters)
            found = tick(series.recent, now, book.schedule(key), series.flag, parameters)
            if found.flag != series.flag:
                flags[key] = series.flag = found.flag
            series.score = None if found.verdict is None else found.verdict.score
            series.explanation = None
            if found.verdict is not None and found.verdict.evidence is not None and usual.baseline is not None:
                series.explanation = Explanation.of(found.verdict.evidence, usual.baseline, parameters)
            if found.event is not None:
                changes.append(SeriesFlagChange(key, found.event, series.explanation))
            if found.suspects:
                suspects[key] = found.suspects
            statuses.append(self._status(key, series, usual, found.window, now, book))
        return TickResult(tuple(statuses), tuple(changes), flags, suspects)

    def hold(self, judged_at: float | None, now: float, book: BaselineTable) -> tuple[SeriesStatus, ...]:
        """The series without a new verdict: raised flags stay, and so does what was found last while it counts.

        Args:
            judged_at: when they were last judged, if that window still stands for the present.
            now: Unix seconds.
            book: the baselines in force.
        """
        self._judge_belatedly(book)
        return tuple(
            self._status(
                key,
                series,
                usual,
                None if judged_at is None else series.recent.view(judged_at, self._settings.shift),
                now if judged_at is None else judged_at,
                book,
            )
            for key, series, usual in self._on_page(now, book)
        )

    def _on_page(self, now: float, book: BaselineTable) -> Iterator[tuple[SeriesKey, _LiveSeries, SeriesBaseline]]:
        """The series that were seen of late, by name; once the history has its say, the others are forgotten."""
        oldest = now - self._settings.stale_after_seconds
        for key in sorted(self._series.keys() | book.series.keys()):
            series = self._series.get(key)
            usual = book.of(key)
            if max(series.last_seen if series else 0.0, usual.last_seen) >= oldest or (series and series.flag.firing):
                yield key, series or _LiveSeries(), usual
            elif series and book.known:
                del self._series[key]

    def _status(
        self,
        key: SeriesKey,
        series: _LiveSeries,
        usual: SeriesBaseline,
        window: View | None,
        now: float,
        book: BaselineTable,
    ) -> SeriesStatus:
        """What is known of a series; without a window, nothing is known of the present but that its flag is up.

        That it is up is also all there is of a verdict as long as none can be made.
        """
        oldest_outlier = now - self._settings.shift.window_seconds
        has_outlier = series.exemplar is not None and series.exemplar.at > oldest_outlier
        shift = series.flag.firing if usual.thresholds is not None else None
        if not book.judged and series.flag.firing:
            shift = True
        return SeriesStatus(
            key=key,
            baseline=usual.baseline,
            outlier_threshold_seconds=usual.outlier_threshold_seconds,
            current_traces=None if window is None else window.traces,
            current_p50_seconds=window.quantile_seconds(0.5) if window is not None and window.traces else None,
            current_p95_seconds=window.quantile_seconds(0.95) if window is not None and window.traces else None,
            score=None if window is None else series.score,
            shift=shift,
            outlier=has_outlier if window is not None and usual.baseline is not None else None,
            since=series.flag.since if shift else None,
            changepoint=usual.changepoint,
            traces_total=series.traces_total,
            outliers_total=series.outliers_total,
            exemplar=series.exemplar,
            outliers=series.outliers,
            explanation=None if window is None else series.explanation,
            known=book.known,
        )
