"""The live edge of every series: recent traces, flag, and the verdict of each poll cycle.

All of it is in memory. After a restart the evaluation window is read again; only flags are stored.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from exporter.detection.explanation import Explanation
from exporter.detection.flag import INACTIVE, Flag, FlagEvent, resumed_flag
from exporter.detection.tick import tick
from exporter.detection.window import EvaluationWindow, RecentTraces, end_second
from exporter.evaluation.baseline_table import BaselineTable, SeriesBaseline
from exporter.evaluation.settings import EvaluationSettings
from exporter.evaluation.snapshot import NO_OUTLIERS, Exemplar, SeriesStatus
from exporter.ingest.sampling import TimeSample
from exporter.model.histogram import bucket_of_ns
from exporter.model.span import SeriesKey, Span
from exporter.runtime.telemetry import SkipReason

_NS: Final = 1_000_000_000
_MAX_TRACES: Final = 1_000_000
"""Traces kept in memory over all series: ten bytes each, and about as much again to recognise duplicates."""
_AHEAD_SECONDS: Final = 60
"""Spans that end later than this are left to later cycles: service clocks run ahead, and some are plainly wrong."""


class SeenSpans:
    """The spans that were counted already, for as long as they may be read again.

    They are grouped by the minute in which they ended, so that forgetting old ones only drops sets.
    """

    _MINUTE_NS: Final = 60 * _NS

    def __init__(self) -> None:
        self._by_minute: dict[int, set[int]] = {}

    def is_new(self, span: Span) -> bool:
        """Whether a span was not seen before; marks it as seen."""
        seen = self._by_minute.setdefault(span.end_ns // self._MINUTE_NS, set())
        # The hash alone: two of a million spans practically never share 64 bits.
        identity = hash(span.identity)
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
    """The live edge of one series."""

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
class Arrivals:
    """What the last cycle brought.

    Attributes:
        new: traces that were not known before.
        newest_new_at: the end of the newest of them, Unix seconds; None without any.
        newest_at: end of the newest span that any cycle has read, kept or not, Unix seconds; None without any.
    """

    new: int = 0
    newest_new_at: float | None = None
    newest_at: float | None = None


@dataclass(frozen=True, slots=True)
class SeriesFlagChange:
    """A flag started firing or was resolved.

    Attributes:
        key: the series.
        event: what happened.
        explanation: evidence for a shift, if there is any.
    """

    key: SeriesKey
    event: FlagEvent
    explanation: Explanation | None


@dataclass(frozen=True, slots=True)
class TickResult:
    """The result of evaluating all series once.

    Attributes:
        statuses: the series to publish, by name.
        changes: flags that started firing or were resolved.
        flags: flags that differ from the tick before.
        suspects: starts of hours that firing flags touch, Unix seconds.
    """

    statuses: tuple[SeriesStatus, ...]
    changes: tuple[SeriesFlagChange, ...]
    flags: Mapping[SeriesKey, Flag]
    suspects: Mapping[SeriesKey, tuple[int, ...]]


class LiveEvaluator:
    """The live edge of all series. Not thread-safe."""

    arrivals: Arrivals
    """What the last call of :meth:`add_spans` brought."""

    def __init__(
        self,
        settings: EvaluationSettings,
        admit: Callable[[SeriesKey], SeriesKey | SkipReason],
        *,
        started_at: float,
        remembered_seconds: float,
        flags: Mapping[SeriesKey, Flag],
        max_pause_seconds: float = math.inf,
        max_traces: int = _MAX_TRACES,
    ) -> None:
        """Start with empty windows.

        Args:
            settings: what a verdict depends on.
            admit: returns the name under which a series is kept, or the reason for skipping it.
            started_at: start of the process; spans that ended before fill the window but are not counted.
            remembered_seconds: how long a span is remembered after its end; older ones are skipped.
            flags: the flags from before a restart.
            max_pause_seconds: after more time without a tick, hold times of flags start again, as after a restart.
            max_traces: the most traces that all windows together may hold.
        """
        self._settings = settings
        self._admit = admit
        self._started_at = started_at
        self._remembered_seconds = remembered_seconds
        self._max_pause_seconds = max_pause_seconds
        self._ticked_at: float | None = None
        self._max_traces = max_traces
        self._seen = SeenSpans()
        self._remembered_since: float | None = None
        self._series = {key: _LiveSeries(flag) for key, flag in flags.items()}
        self._deferred: dict[SeriesKey, bytearray] = {}
        self._deferred_traces = 0
        self.arrivals = Arrivals()

    def flags(self) -> dict[SeriesKey, Flag]:
        """The firing flags."""
        return {key: series.flag for key, series in self._series.items() if series.flag.firing}

    def add_spans(self, spans: Iterable[Span], now: float, table: BaselineTable) -> Counter[SkipReason]:
        """Add the spans that were not added before.

        Args:
            spans: the spans that were read.
            now: the time of the tick, Unix seconds.
            table: the baselines.

        Returns:
            The number of skipped spans by reason.
        """
        self._evaluate_deferred(table)
        skipped: Counter[SkipReason] = Counter()
        room = self._max_traces - sum(len(series.recent) for series in self._series.values())
        oldest_ns = int(self._oldest(now) * _NS)
        newest_ns = int((now + _AHEAD_SECONDS) * _NS)
        new, newest_new_ns, newest_read_ns = 0, 0, 0
        for span in spans:
            if newest_read_ns < span.end_ns <= newest_ns:
                newest_read_ns = span.end_ns
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
                new += 1
                newest_new_ns = max(newest_new_ns, span.end_ns)
                self._add(key, span, table)
        self._remembered_since = now - self._remembered_seconds
        self._seen.forget_before(self._remembered_since)
        newest_at = max(self.arrivals.newest_at or 0.0, newest_read_ns / _NS)
        self.arrivals = Arrivals(new, newest_new_ns / _NS if new else None, newest_at or None)
        return skipped

    def ended_in_window(self, now: float) -> int:
        """The number of traces of all series that ended in the evaluation window, not further back."""
        shift = self._settings.shift
        oldest = int(now - shift.window_seconds)
        return sum(series.recent.window(now, shift).after(oldest).traces for series in self._series.values())

    def thin(self, slices: TimeSample, whole: Collection[SeriesKey] = ()) -> None:
        """Drop the traces that ended outside of some slices of time.

        Called when the traffic has become so dense that a smaller share of it is read. Otherwise the minutes before,
        read at a larger share, would outweigh the newest. Counters keep their values.

        Args:
            slices: the slices that are read from now on.
            whole: series that are still read whole.
        """
        for key, series in self._series.items():
            if key not in whole:
                series.recent.keep(slices.includes)

    def traces_per_hour(self, table: BaselineTable) -> dict[SeriesKey, float]:
        """The usual hourly traffic of each series that is not renamed, so that Tempo knows it by this name."""
        return {
            key: series.baseline.count / series.baseline.windows
            for key, series in table.series.items()
            if series.baseline is not None and self._admit(key) == key
        }

    def _oldest(self, now: float) -> float:
        """The instant at or before which spans are skipped: no evaluation window reaches further back.

        After the first cycle, spans that are no longer remembered may have been counted already and are skipped, too.
        During a pause nothing is forgotten, so that it leaves no hole.
        """
        oldest = now - max(self._settings.shift.max_window_seconds, self._remembered_seconds)
        if self._remembered_since is None:
            return oldest
        # After the clock was set back, new spans must not be skipped.
        return max(oldest, min(self._remembered_since, now - self._remembered_seconds))

    def _add(self, key: SeriesKey, span: Span, table: BaselineTable) -> None:
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _LiveSeries()
        ended_at = span.end_ns / _NS
        seconds = span.duration_ns / _NS
        series.last_seen = max(series.last_seen, ended_at)
        series.recent.add(end_second(span.end_ns), bucket_of_ns(span.duration_ns))
        series.traces_total += ended_at >= self._started_at
        threshold = table.get(key).outlier_threshold_seconds
        if threshold is not None and seconds > threshold:
            self._add_outlier(series, Exemplar(span.trace_id, seconds, ended_at))
        elif not table.is_built:
            self._defer(key, Exemplar(span.trace_id, seconds, ended_at))

    def _add_outlier(self, series: _LiveSeries, outlier: Exemplar) -> None:
        series.outliers = series.outliers.with_one_more(outlier)
        if series.exemplar is None or outlier.at >= series.exemplar.at:
            series.exemplar = outlier
        series.outliers_total += outlier.at >= self._started_at

    def _defer(self, key: SeriesKey, trace: Exemplar) -> None:
        """Keep a trace until its threshold is known; duplicates are skipped, so there is no second chance."""
        if self._deferred_traces >= self._max_traces:
            # Of so many traces only the latest matter.
            self._deferred.clear()
            self._deferred_traces = 0
        self._deferred.setdefault(key, bytearray()).extend(trace.packed())
        self._deferred_traces += 1

    def _evaluate_deferred(self, table: BaselineTable) -> None:
        """Find the outliers among the deferred traces once thresholds are known."""
        if not table.is_built:
            return
        for key, packed in self._deferred.items():
            threshold = table.get(key).outlier_threshold_seconds
            if threshold is not None and key in self._series:
                for trace in Exemplar.unpack_all(packed):
                    if trace.seconds > threshold:
                        self._add_outlier(self._series[key], trace)
        self._deferred.clear()
        self._deferred_traces = 0

    def tick(self, now: float, table: BaselineTable) -> TickResult:
        """Evaluate all series. Without evaluated history there are no verdicts, and flags stay as they are.

        Args:
            now: the time of the tick, Unix seconds.
            table: the baselines.
        """
        if not table.is_evaluated:
            for series in self._series.values():
                series.recent.discard(now, self._settings.shift)
                series.score = series.explanation = None
            return TickResult(self.hold(now, now, table), (), {}, {})
        statuses: list[SeriesStatus] = []
        changes: list[SeriesFlagChange] = []
        flags: dict[SeriesKey, Flag] = {}
        suspects: dict[SeriesKey, tuple[int, ...]] = {}
        parameters = self._settings.shift
        was_paused = self._ticked_at is None or now - self._ticked_at > self._max_pause_seconds
        self._ticked_at = now
        for key, series, expected in self._published(now, table):
            series.recent.discard(now, parameters)
            flag = resumed_flag(series.flag) if was_paused else series.flag
            found = tick(series.recent, now, table.schedule(key), flag, parameters)
            if found.flag != series.flag:
                flags[key] = series.flag = found.flag
            series.score = None if found.verdict is None else found.verdict.score
            series.explanation = None
            if found.verdict is not None and found.verdict.evidence is not None and expected.baseline is not None:
                series.explanation = Explanation.of(found.verdict.evidence, expected.baseline, parameters)
            if found.event is not None:
                changes.append(SeriesFlagChange(key, found.event, series.explanation))
            if found.suspects:
                suspects[key] = found.suspects
            statuses.append(self._status(key, series, expected, found.window, now, table))
        return TickResult(tuple(statuses), tuple(changes), flags, suspects)

    def hold(self, evaluated_at: float | None, now: float, table: BaselineTable) -> tuple[SeriesStatus, ...]:
        """Return the series without a new verdict: flags stay as they are, and so do the last verdicts.

        Args:
            evaluated_at: when they were last evaluated; None if that is too long ago to publish the window.
            now: Unix seconds.
            table: the baselines.
        """
        self._evaluate_deferred(table)
        return tuple(
            self._status(
                key,
                series,
                expected,
                None if evaluated_at is None else series.recent.window(evaluated_at, self._settings.shift),
                now if evaluated_at is None else evaluated_at,
                table,
            )
            for key, series, expected in self._published(now, table)
        )

    def hold_blind(self, now: float, table: BaselineTable) -> tuple[SeriesStatus, ...]:
        """Return the series while nothing recent is found: of the present only the flags are known, as they were."""
        for series in self._series.values():
            series.recent.discard(now, self._settings.shift)
            series.score = series.explanation = None
        return self.hold(None, now, table)

    def _published(self, now: float, table: BaselineTable) -> Iterator[tuple[SeriesKey, _LiveSeries, SeriesBaseline]]:
        """The series seen recently enough to be published, by name; forgets the others once the table is built."""
        oldest = now - self._settings.stale_after_seconds
        for key in sorted(self._series.keys() | table.series.keys()):
            series = self._series.get(key)
            expected = table.get(key)
            last_seen = max(series.last_seen if series else 0.0, expected.last_seen)
            if last_seen >= oldest or (series and series.flag.firing):
                yield key, series or _LiveSeries(), expected
            elif series and table.is_built:
                del self._series[key]

    def _status(
        self,
        key: SeriesKey,
        series: _LiveSeries,
        expected: SeriesBaseline,
        window: EvaluationWindow | None,
        now: float,
        table: BaselineTable,
    ) -> SeriesStatus:
        """The status of a series; without a window, of the present only the flag is known.

        Without evaluated history, a firing flag is published although there is no verdict.
        """
        oldest_outlier = now - self._settings.shift.window_seconds
        has_outlier = series.exemplar is not None and series.exemplar.at > oldest_outlier
        shift = series.flag.firing if expected.thresholds is not None else None
        if not table.is_evaluated and series.flag.firing:
            shift = True
        return SeriesStatus(
            key=key,
            baseline=expected.baseline,
            outlier_threshold_seconds=expected.outlier_threshold_seconds,
            current_traces=None if window is None else window.traces,
            current_p50_seconds=window.quantile_seconds(0.5) if window is not None and window.traces else None,
            current_p95_seconds=window.quantile_seconds(0.95) if window is not None and window.traces else None,
            score=None if window is None else series.score,
            shift=shift,
            outlier=has_outlier if window is not None and expected.baseline is not None else None,
            since=series.flag.since if shift else None,
            changepoint=expected.changepoint,
            traces_total=series.traces_total,
            outliers_total=series.outliers_total,
            exemplar=series.exemplar,
            outliers=series.outliers,
            explanation=None if window is None else series.explanation,
            is_baseline_known=table.is_built,
        )
