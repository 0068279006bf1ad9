"""One tick of one series: its evaluation window, the verdict, and the flag.

Live traffic ticks every few seconds, history at every mark; both use :func:`tick`.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from exporter.baseline.levels import Baseline, Pool
from exporter.detection.explanation import Explanation
from exporter.detection.flag import INACTIVE, Flag, FlagEvent, advance_flag
from exporter.detection.parameters import MIN_EVALUATED_TRACES, Parameters
from exporter.detection.schedule import LazySchedule, Schedule
from exporter.detection.verdict import Verdict, evaluate_window
from exporter.detection.window import EvaluationWindow, RecentTraces


class Tick(NamedTuple):
    """Result of a tick.

    Attributes:
        window: the evaluation window, including traces of hours without thresholds.
        verdict: the verdict; None while the series is learning.
        flag: the flag after the tick.
        event: transition of the flag, if any.
        suspects: starts of the hours touched by the firing flag.
    """

    window: EvaluationWindow
    verdict: Verdict | None
    flag: Flag
    event: FlagEvent | None
    suspects: tuple[int, ...]


def tick(recent: RecentTraces, now: float, schedule: Schedule, flag: Flag, parameters: Parameters) -> Tick:
    """Evaluate the window of a series that ends at ``now``.

    Args:
        recent: recent traces of the series.
        now: time of the tick, Unix seconds.
        schedule: thresholds by hour; while it is empty the flag cannot fire, and resolves if it does.
        flag: the flag after the previous tick.
        parameters: settings of the detector.
    """
    window = recent.window(now, parameters)
    if not schedule:
        flag, event = advance_flag(flag, now, shifted=False, persists=False, parameters=parameters)
        return Tick(window, None, flag, event, ())
    verdict = evaluate_window(recent, now, window, schedule, parameters, firing=flag.firing)
    shifted = verdict.shifted and verdict.persists
    flag, event = advance_flag(flag, now, shifted=shifted, persists=verdict.persists, parameters=parameters)
    suspects: tuple[int, ...] = ()
    if event is FlagEvent.FIRING:
        suspects = _touched_hours(window, schedule)
    elif flag.firing:
        suspects = (schedule[0].start,)
    return Tick(window, verdict, flag, event, suspects)


def _touched_hours(window: EvaluationWindow, schedule: Schedule) -> tuple[int, ...]:
    """Return the starts of the hours that overlap a window."""
    touched = [schedule[0].start]
    for newer, older in pairwise(schedule):
        if window.first_second > newer.start:
            break
        touched.append(older.start)
    return tuple(touched)


class FlagChange(NamedTuple):
    """A transition of a flag while past traffic was replayed.

    Attributes:
        at: time of the tick, Unix seconds.
        event: the transition.
        explanation: explanation of the verdict, if it has evidence.
    """

    at: int
    event: FlagEvent
    explanation: Explanation | None


class FlagTracker:
    """The flag of one series while its past traffic is replayed, tick by tick.

    Ticks with an inactive flag rarely change anything, and thresholds are expensive. The two rules by which a replay
    may leave them out without changing its result are :meth:`is_idle` and :meth:`needs_tick`.

    Attributes:
        flag: the flag after the last tick.
        suspects: starts of the hours touched by the firing flag.
        changes: transitions of the flag.
    """

    __slots__ = ("_parameters", "changes", "flag", "suspects")

    def __init__(self, parameters: Parameters, flag: Flag = INACTIVE, suspects: Iterable[int] = ()) -> None:
        """Continue from a flag and the hours it has touched."""
        self._parameters = parameters
        self.flag = flag
        self.suspects = set(suspects)
        self.changes: list[FlagChange] = []

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

    def tick(self, recent: RecentTraces, now: int, schedule: LazySchedule, pool: Pool | None) -> Tick:
        """Evaluate the window that ends at ``now``, and advance the flag.

        Args:
            recent: recent traces of the series.
            now: time of the tick, Unix seconds.
            schedule: thresholds by hour; not computed while the series is idle.
            pool: baseline of the current hour, for the explanation.
        """
        hours = () if self.is_idle(len(recent)) else schedule.hours
        result = tick(recent, now, hours, self.flag, self._parameters)
        self.flag = result.flag
        self.suspects.update(result.suspects)
        if result.event is not None:
            explanation = None
            if result.verdict is not None and result.verdict.evidence is not None and pool is not None:
                explanation = Explanation.of(result.verdict.evidence, Baseline.of(pool), self._parameters)
            self.changes.append(FlagChange(now, result.event, explanation))
        return result

    def reset(self, at: int) -> None:
        """Make the flag inactive at an instant, because a lasting change was accepted."""
        if self.flag.firing:
            self.changes.append(FlagChange(at, FlagEvent.RESOLVED, None))
        self.flag = INACTIVE
