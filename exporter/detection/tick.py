"""One tick of one series: its evaluation window, the verdict, and the flag.

Live traffic ticks every few seconds, history at every mark; both use :func:`tick`.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from exporter.baseline.levels import Baseline, Pool
from exporter.detection.explanation import Explanation, explained
from exporter.detection.flag import INACTIVE, Flag, FlagChange, FlagEvent, advance_flag, advance_flag_by_run
from exporter.detection.parameters import MIN_EVALUATED_TRACES, Parameters
from exporter.detection.runs import RunEvidence, RunPrediction, RunThresholds, evaluate_runs
from exporter.detection.schedule import LazySchedule, Schedule
from exporter.detection.verdict import Evidence, Verdict, evaluate_window
from exporter.detection.window import EvaluationWindow, RecentTraces
from exporter.model.hour_evaluation import ShiftPeriod


class Tick(NamedTuple):
    """Result of a tick.

    Attributes:
        window: the evaluation window, including traces of hours without thresholds.
        score: strength of the shift; 1 is where it becomes practically significant. None without a verdict.
        evidence: what shows a shift, if there is any.
        flag: the flag after the tick.
        event: transition of the flag, if any.
        suspects: starts of the hours touched by the firing flag.
    """

    window: EvaluationWindow
    score: float | None
    evidence: Evidence | RunEvidence | None
    flag: Flag
    event: FlagEvent | None
    suspects: tuple[int, ...]


def tick(
    recent: RecentTraces,
    now: float,
    schedule: Schedule,
    flag: Flag,
    parameters: Parameters,
    runs: RunThresholds | None = None,
) -> Tick:
    """Evaluate the window of a series that ends at ``now``, or its last runs.

    Args:
        recent: recent traces of the series.
        now: time of the tick, Unix seconds.
        schedule: thresholds by hour; while it is empty the flag cannot fire, and resolves if it does.
        flag: the flag after the previous tick.
        parameters: settings of the detector.
        runs: thresholds of a series that is evaluated by run; the schedule is not used then.
    """
    window = recent.window(now, parameters)
    if runs is not None:
        return _tick_by_run(recent, now, window, flag, runs)
    if not schedule:
        flag, event = advance_flag(flag, now, shifted=False, persists=False, parameters=parameters)
        return Tick(window, None, None, flag, event, ())
    verdict: Verdict = evaluate_window(
        recent, now, window, schedule, parameters, firing=flag.firing, pending=flag.pending_since is not None
    )
    shifted = verdict.shifted and verdict.persists
    flag, event = advance_flag(
        flag,
        now,
        shifted=shifted,
        persists=verdict.persists,
        parameters=parameters,
        hold_seconds=verdict.hold_seconds,
    )
    suspects: tuple[int, ...] = ()
    if event is FlagEvent.FIRING:
        suspects = _touched_hours(window, schedule)
    elif flag.firing:
        suspects = (schedule[0].start,)
    return Tick(window, verdict.score, verdict.evidence, flag, event, suspects)


def _tick_by_run(
    recent: RecentTraces, now: float, window: EvaluationWindow, flag: Flag, thresholds: RunThresholds
) -> Tick:
    verdict = evaluate_runs(recent, now, thresholds)
    flag, event = advance_flag_by_run(flag, now, shifted=verdict.shifted, persists=verdict.persists)
    suspects: tuple[int, ...] = ()
    if flag.firing and verdict.evidence is not None:
        suspects = tuple(sorted({each.gates.start for each in verdict.evidence.runs}))
    return Tick(window, verdict.score, verdict.evidence, flag, event, suspects)


def _touched_hours(window: EvaluationWindow, schedule: Schedule) -> tuple[int, ...]:
    """Return the starts of the hours that overlap a window."""
    touched = [schedule[0].start]
    for newer, older in pairwise(schedule):
        if window.first_second > newer.start:
            break
        touched.append(older.start)
    return tuple(touched)


class FlagTracker:
    """The flag of one series while its past traffic is replayed, tick by tick.

    Ticks with an inactive flag rarely change anything, and thresholds are expensive. The two rules by which a replay
    may leave them out without changing its result are :meth:`is_idle` and :meth:`needs_tick`.

    Attributes:
        flag: the flag after the last tick.
        suspects: starts of the hours touched by the firing flag.
        changes: transitions of the flag.
    """

    __slots__ = ("_ended", "_parameters", "_peak_score", "changes", "flag", "suspects")

    def __init__(self, parameters: Parameters, flag: Flag = INACTIVE, suspects: Iterable[int] = ()) -> None:
        """Continue from a flag and the hours it has touched."""
        self._parameters = parameters
        self.flag = flag
        self.suspects = set(suspects)
        self.changes: list[FlagChange[Explanation]] = []
        self._ended: list[ShiftPeriod] = []
        self._peak_score = 0.0

    @property
    def shifts(self) -> list[ShiftPeriod]:
        """The times in which the flag fired, in time order; the last one has no end while it fires."""
        if self.flag.since is None:
            return list(self._ended)
        return [*self._ended, ShiftPeriod(self.flag.since, None, self._peak_score)]

    def is_idle(self, traces: int) -> bool:
        """Whether ticks have no verdict and do not change the flag: it is inactive, and there are too few traces.

        Args:
            traces: upper bound for the number of traces in a window.
        """
        return traces < MIN_EVALUATED_TRACES and self.flag == INACTIVE

    def needs_tick(self, can_be_shifted: bool) -> bool:
        """Whether a tick may change the flag: it is not inactive, or its window can be shifted.

        Args:
            can_be_shifted: result of :func:`.verdict.can_be_shifted` for the window.
        """
        return can_be_shifted or self.flag != INACTIVE

    def tick(
        self,
        recent: RecentTraces,
        now: int,
        schedule: LazySchedule,
        pool: Pool | None,
        runs: RunPrediction | None = None,
    ) -> Tick:
        """Evaluate the window that ends at ``now``, and advance the flag.

        Args:
            recent: recent traces of the series.
            now: time of the tick, Unix seconds.
            schedule: thresholds by hour; not computed while the series is idle.
            pool: baseline of the current hour, for the explanation.
            runs: what the runs of a series are compared with that is evaluated by run.
        """
        hours = () if runs is not None or self.is_idle(len(recent)) else schedule.hours
        result = tick(recent, now, hours, self.flag, self._parameters, None if runs is None else runs.thresholds)
        if result.event is FlagEvent.RESOLVED:
            # The hold time passes after the shift is over.
            self._end_shift(now if self.flag.keep_firing_since is None else self.flag.keep_firing_since)
        self.flag = result.flag
        if result.flag.firing:
            self._peak_score = max(self._peak_score, result.score or 0.0)
        self.suspects.update(result.suspects)
        if result.event is not None:
            explanation = explained(result.evidence, None if pool is None else Baseline.of(pool))
            self.changes.append(FlagChange(now, result.event, explanation))
        return result

    def reset(self, at: int) -> None:
        """Make the flag inactive at an instant, because a lasting change was accepted."""
        if self.flag.firing:
            self.changes.append(FlagChange(at, FlagEvent.RESOLVED, None))
            self._end_shift(at)
        self.flag = INACTIVE

    def _end_shift(self, at: float) -> None:
        if self.flag.since is not None:
            self._ended.append(ShiftPeriod(self.flag.since, float(at), self._peak_score))
        self._peak_score = 0.0
