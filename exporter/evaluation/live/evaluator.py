"""The live edge of every series: recent traces, flag, and the verdict of each poll cycle.

All of it is in memory. After a restart the evaluation window is read again; only flags are stored.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from struct import Struct
from typing import Final, NamedTuple

from exporter.baseline.traffic import TrafficBaseline
from exporter.detection.errors.recent import drop_quiet
from exporter.detection.errors.verdict import ErrorExplanation, ErrorTick
from exporter.detection.explanation import explained
from exporter.detection.flag import INACTIVE, Flag, FlagEvent, FlagKind, SeriesFlags, resumed_flag
from exporter.detection.parameters import Parameters
from exporter.detection.tick import Tick, tick
from exporter.detection.traffic.verdict import tick_traffic
from exporter.detection.window import EvaluationWindow, end_second, next_mark, past_mark
from exporter.evaluation.baseline_table import BaselineTable, SeriesBaseline
from exporter.evaluation.live.durations import DurationHistogram, DurationHistograms
from exporter.evaluation.live.series import NO_FLAGS, LiveSeries, SeenSpans
from exporter.evaluation.live.time_lost import HourlyP95, SpanWeight, only_itself
from exporter.evaluation.live.traffic import CurrentTraffic, LiveTraffic
from exporter.evaluation.settings import EvaluationSettings
from exporter.evaluation.snapshot import Exemplar, KindStatus, SeriesStatus
from exporter.ingest.sampling import TimeSample
from exporter.model.histogram import bucket_of_ns
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.span import SeriesKey, Span
from exporter.model.time_mark import NO_MARKS, TimeMarks
from exporter.runtime.telemetry import SkipReason

_NS: Final = 1_000_000_000
_MAX_TRACES: Final = 1_000_000
"""Traces kept in memory over all series: ten bytes each, and about as much again to recognise duplicates."""
_AHEAD_SECONDS: Final = 60
"""Spans that end later than this are left to later cycles: service clocks run ahead, and some are plainly wrong."""
_DEFERRED: Final = Struct("16sddI")
"""A trace whose baseline is not known yet: its id, duration and end in seconds, and the number it stands for."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What the last cycle brought.

    Attributes:
        new: traces that were not known before, by the second in which they ended: second ``s`` is ``(s - 1, s]``.
        newest_new_at: the end of the newest of them, Unix seconds; None without any.
        newest_at: end of the newest span that any cycle has read, kept or not, Unix seconds; None without any.
    """

    new: Mapping[int, int] = field(default_factory=dict)
    newest_new_at: float | None = None
    newest_at: float | None = None


@dataclass(frozen=True, slots=True)
class SeriesFlagChange:
    """A flag started firing or was resolved.

    Attributes:
        key: the series.
        kind: which flag.
        event: what happened.
        explanation: the evidence, if there is any; ``str()`` is its sentence.
    """

    key: SeriesKey
    kind: FlagKind
    event: FlagEvent
    explanation: object | None


@dataclass(frozen=True, slots=True)
class TickResult:
    """The result of evaluating all series once.

    Attributes:
        statuses: the series to publish, by name.
        changes: flags that started firing or were resolved.
        flags: all flags of the series of which one differs from the tick before.
        suspects: starts of hours that firing flags touch, Unix seconds.
    """

    statuses: tuple[SeriesStatus, ...]
    changes: tuple[SeriesFlagChange, ...]
    flags: Mapping[SeriesKey, SeriesFlags]
    suspects: Mapping[SeriesKey, tuple[int, ...]]


class _Settled(NamedTuple):
    """The last tick of a series of which nothing was found, and what that depends on.

    As long as none of it changes, neither do the verdicts. Besides, they depend on the baselines, the settings and the
    traces; if one of these changes, the tick is forgotten.

    Attributes:
        marks: the marks before and after the tick: levels and patterns change from one to the next.
        bounds: positions at which the evaluation window begins and ends.
        traffic: the traffic of the series.
        status: the status.
    """

    marks: tuple[int, int]
    bounds: tuple[int, int]
    traffic: CurrentTraffic | None
    status: SeriesStatus


class _KindChange(NamedTuple):
    """A flag has changed: which one, its transition, if it is one, and the evidence."""

    kind: FlagKind
    event: FlagEvent | None
    explanation: object | None


class LiveEvaluator:
    """The live edge of all series. Not thread-safe."""

    arrivals: Arrivals
    """What the last call of :meth:`add_spans` brought."""
    traffic: LiveTraffic
    """The traffic of all series."""

    def __init__(
        self,
        settings: EvaluationSettings,
        admit: Callable[[SeriesKey], SeriesKey | SkipReason],
        *,
        started_at: float,
        remembered_seconds: float,
        flags: Mapping[SeriesKey, SeriesFlags],
        max_pause_seconds: float = math.inf,
        max_traces: int = _MAX_TRACES,
        durations: DurationHistograms | None = None,
        is_wanted: Callable[[SeriesKey], bool] = lambda key: True,  # noqa: ARG005
        marks: Callable[[], TimeMarks] = lambda: NO_MARKS,
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
            durations: counts the durations of all spans, if that is wanted.
            is_wanted: whether a series is published at all.
            marks: returns what people know about ranges of time.
        """
        self._settings = settings
        self._admit = admit
        self._started_at = started_at
        self._remembered_seconds = remembered_seconds
        self._max_pause_seconds = max_pause_seconds
        self._ticked_at: float | None = None
        self._max_traces = max_traces
        self._durations = durations
        self._is_wanted = is_wanted
        self._marks = marks
        self._seen = SeenSpans()
        self._remembered_since: float | None = None
        self._series = {
            key: LiveSeries(settings.policy(key), _of_enabled_kinds(each, settings.parameters(key)))
            for key, each in flags.items()
        }
        self._deferred: dict[SeriesKey, bytearray] = {}
        self._deferred_traces = 0
        self._p95 = HourlyP95(remembered_seconds)
        self.arrivals = Arrivals()
        self.traffic = LiveTraffic(self._parameters_of)
        self._traffic_baselines: tuple[BaselineTable, dict[SeriesKey, TrafficBaseline]] | None = None
        self._settled: dict[SeriesKey, _Settled] = {}
        self._settled_with: BaselineTable | None = None
        # The series by name, until one is added or removed.
        self._ordered: tuple[BaselineTable, list[SeriesKey]] | None = None

    def use(self, settings: EvaluationSettings) -> None:
        """Evaluate with other settings from the next tick on.

        Flags of series with other parameters resolve at that tick if they would not begin to fire with them.
        """
        before, self._settings = self._settings, settings
        for key, series in self._series.items():
            series.policy = settings.policy(key)
            series.is_reconsidered |= before.parameters(key) != settings.parameters(key)
        self._traffic_baselines = None
        self._settled.clear()

    def durations(self, now: float) -> Mapping[SeriesKey, DurationHistogram] | None:
        """The durations of all spans since the start of the process; None unless they are counted."""
        return None if self._durations is None else self._durations.current(now)

    def flags(self) -> dict[SeriesKey, SeriesFlags]:
        """The flags of the series of which one fires."""
        return {key: series.flags for key, series in self._series.items() if series.is_firing}

    def add_spans(
        self, spans: Iterable[Span], now: float, table: BaselineTable, weight: SpanWeight = only_itself
    ) -> Counter[SkipReason]:
        """Add the spans that were not added before.

        Args:
            spans: the spans that were read.
            now: the time of the tick, Unix seconds.
            table: the baselines.
            weight: how many spans each one stands for.

        Returns:
            The number of skipped spans by reason.
        """
        self._evaluate_deferred(table)
        self._p95.turn(table, now)
        skipped: Counter[SkipReason] = Counter()
        room = self._max_traces - sum(len(series.recent) for series in self._series.values())
        oldest_ns = int(self._oldest(now) * _NS)
        newest_ns = int((now + _AHEAD_SECONDS) * _NS)
        new: Counter[int] = Counter()
        newest_new_ns = newest_read_ns = 0
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
                new[end_second(span.end_ns)] += 1
                newest_new_ns = max(newest_new_ns, span.end_ns)
                self._add(key, span, table, weight(span))
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
                series.failures.keep(slices.includes)
                series.is_changed = True

    def traces_per_hour(self, table: BaselineTable) -> dict[SeriesKey, float]:
        """The usual hourly traffic of each series that is neither renamed nor folded, so that Tempo knows its name."""
        return {
            key: series.baseline.count / series.baseline.windows
            for key, series in table.series.items()
            if series.baseline is not None and self._admit(key) == key and not key.is_folded
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

    def _add(self, key: SeriesKey, span: Span, table: BaselineTable, weight: int) -> None:
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = LiveSeries(self._settings.policy(key))
            self._ordered = None
        series.is_changed = True
        ended_at = span.end_ns / _NS
        seconds = span.duration_ns / _NS
        series.last_seen = max(series.last_seen, ended_at)
        second = end_second(span.end_ns)
        counts = ended_at >= self._started_at
        series.recent.add(second, bucket_of_ns(span.duration_ns))
        self.traffic.add(key, second, weight)
        series.failures.add(second, span.failed, counts=counts)
        series.traces_total += counts
        if counts and self._durations is not None:
            self._durations.add(key, span)
        if not table.is_built:
            self._defer(key, _DEFERRED.pack(bytes.fromhex(span.trace_id), seconds, ended_at, weight))
            return
        if self._is_quiet(key, ended_at):
            return
        expected = table.get(key)
        if counts:
            series.add_excess(seconds, self._p95.seconds(key, expected.baseline, ended_at), weight)
        threshold = expected.outlier_threshold_seconds
        if threshold is not None and seconds > threshold:
            series.add_outlier(Exemplar(span.trace_id, seconds, ended_at), counts=counts)

    def _defer(self, key: SeriesKey, packed: bytes) -> None:
        """Keep a trace until its baseline is known; duplicates are skipped, so there is no second chance."""
        if self._deferred_traces >= self._max_traces:
            # Of so many traces only the latest matter.
            self._deferred.clear()
            self._deferred_traces = 0
        self._deferred.setdefault(key, bytearray()).extend(packed)
        self._deferred_traces += 1

    def _evaluate_deferred(self, table: BaselineTable) -> None:
        """Compare the deferred traces with their baselines once those are known."""
        if not table.is_built:
            return
        for key, packed in self._deferred.items():
            series, expected = self._series.get(key), table.get(key)
            if series is None or expected.baseline is None:
                continue
            series.is_changed = True
            threshold = expected.outlier_threshold_seconds
            for trace_id, seconds, ended_at, weight in _DEFERRED.iter_unpack(packed):
                if self._is_quiet(key, ended_at):
                    continue
                counts = ended_at >= self._started_at
                if counts:
                    series.add_excess(seconds, expected.baseline.p95_seconds, weight)
                if threshold is not None and seconds > threshold:
                    series.add_outlier(Exemplar(trace_id.hex(), seconds, ended_at), counts=counts)
        self._deferred.clear()
        self._deferred_traces = 0

    def tick(self, now: float, table: BaselineTable, *, lag_seconds: float = 0.0) -> TickResult:
        """Evaluate all series. Without evaluated history there are no verdicts, and flags stay as they are.

        Args:
            now: the time of the tick, Unix seconds.
            table: the baselines.
            lag_seconds: age at which practically all spans are searchable.
        """
        marks = self._marks()
        self.traffic.judge(now - lag_seconds, self._usual_traffic(table), table, marks, self._excluded_until(now))
        if not table.is_evaluated:
            self._forget_verdicts(now)
            return TickResult(self.hold(now, now, table), (), {}, {})
        statuses: list[SeriesStatus] = []
        changes: list[SeriesFlagChange] = []
        flags: dict[SeriesKey, SeriesFlags] = {}
        suspects: dict[SeriesKey, tuple[int, ...]] = {}
        was_paused = self._ticked_at is None or now - self._ticked_at > self._max_pause_seconds
        self._ticked_at = now
        if table is not self._settled_with or was_paused:
            self._settled, self._settled_with = {}, table
        at = past_mark(now), next_mark(now)
        for key, series, expected in self._published(now, table):
            self._discard(series, now)
            settled = self._settled.get(key)
            is_settled = settled is not None and self._is_settled(key, series, settled, at, now, marks)
            if settled is not None and is_settled and settled.traffic is self.traffic.current.get(key):
                statuses.append(settled.status)
                continue
            if marks and self._follow_marks(key, series, now):
                if series.flags:
                    changes += [
                        SeriesFlagChange(key, kind, FlagEvent.RESOLVED, None)
                        for kind, each in series.flags.items()
                        if each.firing
                    ]
                    series.flags = flags[key] = NO_FLAGS
                    series.lost_before = None
                series.forget_verdicts()
                self._settled.pop(key, None)
                window = series.recent.window(now, self._parameters(series))
                statuses.append(self._status(key, series, expected, window, now, table))
                continue
            shift = errors = None
            nothing_found = is_settled
            if is_settled:
                window = series.recent.window(now, self._parameters(series))
            else:
                found, shift = self._tick_shift(key, series, expected, now, table, was_paused=was_paused)
                window = found.window
                errors = self._tick_errors(key, series, window, now, table, was_paused=was_paused)
                nothing_found = found.evidence is None and expected.runs is None
                if found.suspects:
                    suspects[key] = found.suspects
            traffic = self._tick_traffic(key, series, expected, now, was_paused=was_paused)
            series.is_reconsidered = False
            for change in (shift, errors, traffic):
                if change is None:
                    continue
                flags[key] = series.flags
                if key not in self._series:
                    # A series without traffic since the start.
                    self._series[key] = series
                    self._ordered = None
                if change.event is not None:
                    changes.append(SeriesFlagChange(key, change.kind, change.event, change.explanation))
            status = self._status(key, series, expected, window, now, table)
            statuses.append(status)
            if nothing_found and not series.flags and not status.current_failures:
                bounds = series.recent.bounds(now, self._parameters(series))
                self._settled[key] = _Settled(at, bounds, self.traffic.current.get(key), status)
            else:
                self._settled.pop(key, None)
            series.is_changed = False
        return TickResult(tuple(statuses), tuple(changes), flags, suspects)

    def _is_settled(
        self,
        key: SeriesKey,
        series: LiveSeries,
        settled: _Settled,
        at: tuple[int, int],
        now: float,
        marks: TimeMarks,
    ) -> bool:
        """Whether a tick would have the verdicts of the last one on latency and failures."""
        return (
            not series.is_changed
            and settled.marks == at
            # An outlier leaves the window.
            and not settled.status.outlier
            and settled.bounds == series.recent.bounds(now, self._parameters(series))
            and (not marks or marks.of(key) is None)
        )

    def _tick_shift(
        self,
        key: SeriesKey,
        series: LiveSeries,
        expected: SeriesBaseline,
        now: float,
        table: BaselineTable,
        *,
        was_paused: bool,
    ) -> tuple[Tick, _KindChange | None]:
        """Evaluate the latency of a series, and note the verdict; returns what has changed of the flag, if it has."""
        before = series.flag
        flag = resumed_flag(before) if was_paused else before
        evaluate = partial(
            tick, series.recent, now, table.schedule(key), parameters=self._parameters(series), runs=expected.runs
        )
        found = evaluate(flag=flag)
        if _has_lapsed(series, found.flag, lambda: evaluate(flag=INACTIVE).flag):
            found = found._replace(flag=INACTIVE, event=FlagEvent.RESOLVED, suspects=())
        series.score = found.score
        series.explanation = explained(found.evidence, expected.baseline, self.traffic.ratio(key))
        if found.flag == before:
            return found, None
        series.set_flag(FlagKind.SHIFT, found.flag)
        series.follow_flag(found.flag, self._started_at)
        return found, _KindChange(FlagKind.SHIFT, found.event, series.explanation)

    def _tick_errors(
        self,
        key: SeriesKey,
        series: LiveSeries,
        window: EvaluationWindow,
        now: float,
        table: BaselineTable,
        *,
        was_paused: bool,
    ) -> _KindChange | None:
        """Evaluate the failures of a series, and note the verdict; returns what has changed of the flag, if it has."""
        parameters = self._parameters(series)
        before = series.flags.get(FlagKind.ERRORS, INACTIVE)
        flag = resumed_flag(before) if was_paused else before
        baselines = table.error_baselines(key, now - parameters.max_window_seconds - MARK_SECONDS)

        def evaluate(flag: Flag) -> ErrorTick:
            return series.failures.tick(series.recent, window, now, baselines, flag, parameters, table.start)

        found = evaluate(flag)
        if _has_lapsed(series, found.flag, lambda: evaluate(INACTIVE).flag):
            found = found._replace(flag=INACTIVE, event=FlagEvent.RESOLVED)
        series.error_score = None if found.verdict is None else found.verdict.score
        series.error_explanation = ErrorExplanation.of(found.verdict, parameters)
        if found.flag == before:
            return None
        series.set_flag(FlagKind.ERRORS, found.flag)
        return _KindChange(FlagKind.ERRORS, found.event, series.error_explanation)

    def _usual_traffic(self, table: BaselineTable) -> Mapping[SeriesKey, TrafficBaseline]:
        """The usual traffic of the series that have one; it is known of no stream."""
        if self._traffic_baselines is None or self._traffic_baselines[0] is not table:
            known = {
                key: each.traffic
                for key, each in table.series.items()
                if each.traffic is not None and each.stream is None and table.is_evaluated
            }
            self._traffic_baselines = table, known
        return self._traffic_baselines[1]

    def _tick_traffic(
        self, key: SeriesKey, series: LiveSeries, expected: SeriesBaseline, now: float, *, was_paused: bool
    ) -> _KindChange | None:
        """Advance the flag about the traffic of a series; returns what has changed of it, if it has."""
        before = series.flags.get(FlagKind.TRAFFIC, INACTIVE)
        flag = resumed_flag(before) if was_paused else before
        parameters, current = self._parameters(series), self.traffic.current.get(key)
        is_known = expected.traffic is not None and expected.stream is None
        verdict = None if current is None else current.verdict
        evaluate = partial(tick_traffic, verdict, now, parameters=parameters, is_known=is_known)
        advanced, event = evaluate(flag)
        if _has_lapsed(series, advanced, lambda: evaluate(INACTIVE)[0]):
            advanced, event = INACTIVE, FlagEvent.RESOLVED
        if advanced == before:
            return None
        series.set_flag(FlagKind.TRAFFIC, advanced)
        return _KindChange(FlagKind.TRAFFIC, event, None if current is None else current.verdict.evidence)

    def _follow_marks(self, key: SeriesKey, series: LiveSeries, now: float) -> bool:
        """Drop what ended in quiet ranges that are over; returns whether one lasts, so that nothing is flagged."""
        return drop_quiet(series.recent, series.failures, self._quiet_ranges(key, now), now)

    def _quiet_ranges(self, key: SeriesKey, now: float) -> Sequence[tuple[int, int]]:
        """The ranges in which nothing is flagged, as far back as an evaluation window reaches."""
        own = self._marks().of(key)
        if own is None:
            return ()
        reach = max(self._settings.parameters(key).max_window_seconds, self._settings.shift.max_window_seconds)
        return own.quiet_ranges(now - reach - MARK_SECONDS, now + 1)

    def _is_quiet(self, key: SeriesKey, at: float) -> bool:
        own = self._marks().of(key)
        return own is not None and any(start <= at < end for start, end in own.quiet_ranges(at, at + 1))

    def _excluded_until(self, now: float) -> Callable[[SeriesKey], float]:
        """Return a function for the instant before which the requests of a series are not compared."""
        if not self._marks():
            return lambda _: 0.0

        def excluded_until(key: SeriesKey) -> float:
            return max([min(end, now) for start, end in self._quiet_ranges(key, now) if start <= now], default=0.0)

        return excluded_until

    def _parameters_of(self, key: SeriesKey) -> Parameters:
        return self._settings.parameters(key)

    def _parameters(self, series: LiveSeries) -> Parameters:
        return self._settings.shift if series.policy is None else series.policy.parameters

    def _discard(self, series: LiveSeries, now: float) -> None:
        kept = self._settings.shift if series.policy is None else series.policy.kept
        series.is_changed |= series.recent.discard(now, kept)
        series.failures.discard(now, kept)

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
                None if evaluated_at is None else series.recent.window(evaluated_at, self._parameters(series)),
                now if evaluated_at is None else evaluated_at,
                table,
            )
            for key, series, expected in self._published(now, table)
        )

    def hold_blind(self, now: float, table: BaselineTable) -> tuple[SeriesStatus, ...]:
        """Return the series while nothing recent is found: of the present only the flags are known, as they were."""
        self._forget_verdicts(now)
        return self.hold(None, now, table)

    def _forget_verdicts(self, now: float) -> None:
        """Forget the verdicts of the last tick; flags stay."""
        self._settled.clear()
        for series in self._series.values():
            self._discard(series, now)
            series.forget_verdicts()

    def _published(self, now: float, table: BaselineTable) -> Iterator[tuple[SeriesKey, LiveSeries, SeriesBaseline]]:
        """The series seen recently enough to be published, by name; forgets the others once the table is built."""
        oldest = now - self._settings.stale_after_seconds
        if self._ordered is None or self._ordered[0] is not table:
            self._ordered = table, sorted(self._series.keys() | table.series.keys())
        for key in self._ordered[1]:
            series = self._series.get(key)
            expected = table.get(key)
            last_seen = max(series.last_seen if series else 0.0, expected.last_seen)
            if self._is_wanted(key) and (last_seen >= oldest or (series and series.is_firing)):
                yield key, series or LiveSeries(self._settings.policy(key)), expected
            elif series and table.is_built:
                del self._series[key]
                self._settled.pop(key, None)
                self._ordered = None
                self.traffic.forget(key)

    def _status(
        self,
        key: SeriesKey,
        series: LiveSeries,
        expected: SeriesBaseline,
        window: EvaluationWindow | None,
        now: float,
        table: BaselineTable,
    ) -> SeriesStatus:
        """The status of a series; without a window, of the present only the flag is known.

        Without evaluated history, a firing flag is published although there is no verdict.
        """
        oldest_outlier = now - self._parameters(series).window_seconds
        has_outlier = series.exemplar is not None and series.exemplar.at > oldest_outlier
        shift = series.flag.firing if expected.has_verdict else None
        is_enabled = series.policy is None or series.policy.is_enabled
        if not table.is_evaluated and series.flag.firing and is_enabled:
            shift = True
        own = self._marks().of(key)
        marks = () if own is None else tuple(own.at(now))
        is_quiet = bool(marks) and any(each.is_quiet for each in marks)
        if is_quiet:
            shift = None
        return SeriesStatus(
            key=key,
            baseline=expected.baseline,
            outlier_threshold_seconds=expected.outlier_threshold_seconds,
            current_traces=None if window is None else window.traces,
            current_failures=None if window is None else series.failures.within(window, now),
            current_p50_seconds=window.quantile_seconds(0.5) if window is not None and window.traces else None,
            current_p95_seconds=window.quantile_seconds(0.95) if window is not None and window.traces else None,
            score=None if window is None or is_quiet else series.score,
            shift=shift,
            outlier=has_outlier
            if window is not None and expected.outlier_threshold_seconds is not None and not is_quiet
            else None,
            since=series.flag.since if shift else None,
            changepoint=expected.changepoint,
            traces_total=series.traces_total,
            failures_total=series.failures.counted,
            outliers_total=series.outliers_total,
            excess_traces_total=None if expected.baseline is None else series.excess_traces,
            excess_seconds_total=None if expected.baseline is None else series.excess_seconds,
            time_lost=None if expected.baseline is None else series.time_lost(self._started_at),
            exemplar=series.exemplar,
            outliers=series.outliers,
            explanation=None if window is None or is_quiet else series.explanation,
            stream=expected.stream,
            regressed=None if not expected.is_compared or is_quiet else expected.regression is not None,
            regression=None if is_quiet else expected.regression,
            policy=series.policy,
            kinds=() if is_quiet else self._kinds(key, series, expected, window, table),
            marks=marks,
            current_traffic=self.traffic.current.get(key) if window is not None else None,
            baseline_error_ratio=None if expected.errors is None else expected.errors.ratio,
            is_baseline_known=table.is_built,
        )

    def _kinds(
        self,
        key: SeriesKey,
        series: LiveSeries,
        expected: SeriesBaseline,
        window: EvaluationWindow | None,
        table: BaselineTable,
    ) -> tuple[KindStatus, ...]:
        """The verdicts besides that on the latency."""
        return (
            *self._errors_status(series, expected, window, table),
            *self._traffic_status(key, series, window, table),
        )

    def _traffic_status(
        self, key: SeriesKey, series: LiveSeries, window: EvaluationWindow | None, table: BaselineTable
    ) -> tuple[KindStatus, ...]:
        """The verdict on the traffic; without one, a flag that fires is kept."""
        flag = series.flags.get(FlagKind.TRAFFIC, INACTIVE)
        current = self.traffic.current.get(key) if table.is_evaluated else None
        is_enabled = series.policy is None or series.policy.is_enabled
        if current is None and not (flag.firing and is_enabled):
            return ()
        evidence = None if current is None or window is None or flag == INACTIVE else current.verdict.evidence
        return (KindStatus(FlagKind.TRAFFIC, flag.firing, flag.since, None, evidence),)

    def _errors_status(
        self, series: LiveSeries, expected: SeriesBaseline, window: EvaluationWindow | None, table: BaselineTable
    ) -> tuple[KindStatus, ...]:
        """The verdict on failures."""
        flag = series.flags.get(FlagKind.ERRORS, INACTIVE)
        is_enabled = series.policy is None or series.policy.is_enabled
        is_known = expected.errors is not None and (flag.firing or series.failures.counted is not None)
        if not is_known and not (flag.firing and is_enabled and not table.is_evaluated):
            return ()
        if window is None:
            return (KindStatus(FlagKind.ERRORS, flag.firing, flag.since),)
        return (KindStatus(FlagKind.ERRORS, flag.firing, flag.since, series.error_score, series.error_explanation),)


def _has_lapsed(series: LiveSeries, flag: Flag, begun: Callable[[], Flag]) -> bool:
    """Whether a flag fires by parameters that have changed only.

    Args:
        series: the series.
        flag: the flag after the tick.
        begun: returns what an inactive flag would be after the same tick.
    """
    return series.is_reconsidered and flag.firing and begun() == INACTIVE


def _of_enabled_kinds(flags: SeriesFlags, parameters: Parameters) -> SeriesFlags:
    """Return the flags from before a restart without those about what is no longer judged."""
    disabled = {
        *([] if parameters.errors_enabled else [FlagKind.ERRORS]),
        *([] if parameters.traffic_enabled else [FlagKind.TRAFFIC]),
    }
    return {kind: flag for kind, flag in flags.items() if kind not in disabled} if disabled else flags
