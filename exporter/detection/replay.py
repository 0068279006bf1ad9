"""Replay of one series from its single traces: live ticks, and the evaluation of each hour once it is over.

For backtests of recorded traffic and for benchmarks. The store keeps no single traces; stored history is replayed by
:func:`exporter.detection.history.advance`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import NamedTuple

from exporter.detection.detector import Detector, Expectation, SeriesState
from exporter.detection.errors.recent import RecentFailures
from exporter.detection.errors.verdict import ErrorBaseline, ErrorExplanation
from exporter.detection.explanation import Explanation
from exporter.detection.flag import INACTIVE, FlagChange, FlagEvent
from exporter.detection.history import advance
from exporter.detection.parameters import SUSPICION_SECONDS
from exporter.detection.regression.verdict import RegressionChange
from exporter.detection.schedule import LazySchedule
from exporter.detection.small_shift import find_small_shift
from exporter.detection.tail_shift import find_tail_shift
from exporter.detection.tick import FlagTracker
from exporter.detection.verdict import can_be_shifted, exceeds_some
from exporter.detection.window import RecentTraces, end_second
from exporter.model.calendar import HOUR_SECONDS, LocalHour
from exporter.model.histogram import Digest, bucket_of_ns
from exporter.model.histogram_codec import MARK_SECONDS, encode_digest, encode_failures, encode_marks
from exporter.model.hour_evaluation import HourEvaluation
from exporter.model.hours import SeriesHours
from exporter.model.series_hour import SeriesHour, StoredWindow


class _Ended(NamedTuple):
    """A trace: end second, bucket of its duration, and whether it failed: 1, 0, or -1 if that is unknown."""

    second: int
    bucket: int
    failed: int


class Replay:
    """Replay of one series.

    Attributes:
        evaluations: evaluations of its hours, by their start.
        accepted: changepoints of accepted changes, each with the time of acceptance.
        regressions: regressions that were found, went away or were accepted.
        error_changes: transitions of the live error flag.
    """

    def __init__(self, detector: Detector, *, tick_seconds: int = 15) -> None:
        """Start without history.

        Args:
            detector: the rules.
            tick_seconds: interval of the live ticks, a divisor of an hour.
        """
        self.evaluations: dict[int, HourEvaluation] = {}
        self.accepted: list[tuple[int, int]] = []
        self.regressions: list[RegressionChange] = []
        self.error_changes: list[FlagChange[ErrorExplanation]] = []
        self._detector = detector
        self._tick_seconds = tick_seconds
        self._history = SeriesHours()
        self._state: SeriesState | None = None
        self._recent = RecentTraces()
        self._failures = RecentFailures()
        self._error_flag = INACTIVE
        self._upcoming: list[_Ended] = []
        self._tracker = FlagTracker(detector.parameters)
        self._quiet: Sequence[tuple[int, int]] = ()

    @property
    def changes(self) -> list[FlagChange[Explanation]]:
        """Transitions of the live flag."""
        return self._tracker.changes

    def add_hour(
        self,
        hour: LocalHour,
        traces: Iterable[tuple[int, int]],
        *,
        failed: Iterable[bool | None] = (),
        live: bool = True,
    ) -> None:
        """Replay the next hour.

        Args:
            hour: the hour; calls pass consecutive hours, including those without traffic.
            traces: start and duration in nanoseconds of the traces that start in the hour.
            failed: whether each of them failed, None where that is unknown; empty if it is of all.
            live: whether to tick; if not, the hour only becomes history.
        """
        ended = [
            _Ended(
                end_second(start_ns + duration_ns), bucket_of_ns(duration_ns), -1 if is_failed is None else is_failed
            )
            for (start_ns, duration_ns), is_failed in zip(traces, failed or repeat(None), strict=False)
        ]
        self._quiet = self._quiet_ranges(hour)
        self._upcoming = sorted(
            self._upcoming
            + [each for each in ended if not any(start < each.second <= end for start, end in self._quiet)]
        )
        self._tick_through(hour, live=live)
        marks = self._detector.own_marks
        if ended and (marks is None or not marks.is_left_out(hour.start, hour.end)):
            self._history.append(_stored_hour(hour, ended))
        tracker = self._tracker
        progress = advance(self._detector, self._history, hour.end, self._state, suspects=tracker.suspects)
        self._state = progress.state
        tracker.suspects = {start for start in tracker.suspects if start >= hour.end - SUSPICION_SECONDS}
        self.evaluations.update(progress.evaluations)
        self.regressions += progress.regressions
        if progress.accepted_errors:
            self._reset_errors(hour.end)
        for changepoint in progress.accepted:
            self.accepted.append((changepoint, hour.end))
            tracker.suspects = {start for start in tracker.suspects if start < changepoint}
            tracker.reset(hour.end)

    def _quiet_ranges(self, hour: LocalHour) -> Sequence[tuple[int, int]]:
        """The ranges in which nothing is flagged; what ends in them is not compared afterwards either."""
        marks = self._detector.own_marks
        return () if marks is None else marks.quiet_ranges(hour.start, hour.end + HOUR_SECONDS)

    def _tick_through(self, hour: LocalHour, *, live: bool) -> None:
        """Tick through an hour, except where no tick is needed."""
        parameters, tracker, recent, upcoming = self._detector.parameters, self._tracker, self._recent, self._upcoming
        recent.discard(hour.start, parameters)
        self._failures.discard(hour.start, parameters)
        has_traffic = bool(upcoming) and upcoming[0].second <= hour.end
        if not has_traffic and tracker.is_idle(len(recent)) and self._error_flag == INACTIVE:
            # Recorded traffic may have gaps of years.
            return
        expected = Expectation()
        schedule = LazySchedule()
        if live and self._state is not None:
            expected, schedule = self._detector.schedule_at(self._history, self._state, hour.start, tracker.suspects)
        since = schedule.since
        floors = schedule.floors()
        bounds: tuple[int, int] | None = None
        suspicious = may_be_small = has_tail = False
        small_floors, tail = schedule.small_floors(), schedule.lowest_tail
        window = recent.between(0, 0)
        position = 0
        error_baselines: list[ErrorBaseline] | None = None
        for now in range(hour.start + self._tick_seconds, hour.end + 1, self._tick_seconds):
            while position < len(upcoming) and upcoming[position].second <= now:
                second, bucket, failed = upcoming[position]
                recent.add(second, bucket)
                self._failures.add(second, None if failed < 0 else bool(failed), counts=False)
                position += 1
            if not live:
                continue
            if self._quiet and any(start <= now < end for start, end in self._quiet):
                tracker.reset(now)
                self._reset_errors(now)
                continue
            if len(self._failures) or self._error_flag != INACTIVE:
                if error_baselines is None:
                    state = self._state
                    error_baselines = (
                        [] if state is None else self._detector.error_baselines(self._history, state, hour)
                    )
                self._tick_errors(hour, now, error_baselines)
            if expected.runs is not None:
                if now % MARK_SECONDS == 0 and tracker.needs_tick(expected.runs.can_be_slow(recent, now)):
                    tracker.tick(recent, now, schedule, expected.pool, expected.runs)
                continue
            previous, bounds = bounds, recent.bounds(now, parameters)
            if bounds != previous:
                window = recent.between(*bounds).after(since)
                suspicious = floors is not None and can_be_shifted(window.buckets, floors, parameters)
                may_be_small = (
                    not suspicious
                    and small_floors is not None
                    and window.traces > 0
                    and exceeds_some(window.buckets, small_floors.gates)
                )
                has_tail = tail is not None and window.traces > 0 and window.buckets[-1] > tail
            if (
                tracker.needs_tick(suspicious)
                or (
                    may_be_small
                    and find_small_shift(recent, now, window.first_second - 1, schedule.small(), parameters) is not None
                )
                or (has_tail and find_tail_shift(recent, now, schedule.small(), parameters) is not None)
            ):
                tracker.tick(recent, now, schedule, expected.pool)
        del upcoming[:position]

    def _tick_errors(self, hour: LocalHour, now: int, baselines: Sequence[ErrorBaseline]) -> None:
        parameters = self._detector.parameters
        window = self._recent.window(now, parameters)
        result = self._failures.tick(self._recent, window, now, baselines, self._error_flag, parameters, hour.start)
        self._error_flag = result.flag
        if result.event is not None:
            explanation = ErrorExplanation.of(result.verdict, parameters)
            self.error_changes.append(FlagChange(now, result.event, explanation))

    def _reset_errors(self, at: int) -> None:
        """Make the error flag inactive at an instant, because a change was accepted or nothing is flagged."""
        if self._error_flag.firing:
            self.error_changes.append(FlagChange(at, FlagEvent.RESOLVED, None))
        self._error_flag = INACTIVE


def _stored_hour(hour: LocalHour, ended: Iterable[_Ended]) -> SeriesHour:
    """Return an hour as the store would return it."""
    counts: Counter[int] = Counter()
    marks: defaultdict[int, Counter[int]] = defaultdict(Counter)
    failures: Counter[int] = Counter()
    is_known = True
    for second, bucket, failed in ended:
        offset = -(-(second - hour.start) // MARK_SECONDS)
        counts[bucket] += 1
        marks[offset][bucket] += 1
        if failed > 0:
            failures[offset] += 1
        is_known &= failed >= 0
    digests = {offset: Digest(mark) for offset, mark in marks.items()}
    window = StoredWindow(
        hour.start,
        counts.total(),
        encode_digest(Digest(counts)),
        encode_marks(digests),
        encode_failures(failures) if is_known else None,
    )
    return SeriesHour(hour, [window])
