"""One tick of one series: its window, the verdict on it, and what becomes of the flag.

The live edge ticks every few seconds, the judging of the past at every mark of the clock; both come through here.
"""

from itertools import pairwise
from typing import NamedTuple

from exporter.detection.flag import Flag, FlagEvent, step
from exporter.detection.parameters import Parameters
from exporter.detection.verdict import Schedule, Verdict, judge
from exporter.detection.window import RecentTraces, View


class Tick(NamedTuple):
    """What a tick found.

    Attributes:
        window: the current window with all its traces.
        verdict: the verdict on it; None while the series is learning.
        flag: the flag from now on.
        event: what happened to the flag.
        suspects: starts of the hours that a raised flag touches.
    """

    window: View
    verdict: Verdict | None
    flag: Flag
    event: FlagEvent | None
    suspects: tuple[int, ...]


def tick(recent: RecentTraces, now: float, schedule: Schedule, flag: Flag, parameters: Parameters) -> Tick:
    """Judge the current window of a series.

    Args:
        recent: its recent traces.
        now: the time of the tick, unix seconds.
        schedule: its thresholds; empty while it is learning: then nothing rises, and what is up goes down.
        flag: its flag after the tick before.
        parameters: the detector's settings.
    """
    window = recent.view(now, parameters)
    if not schedule:
        flag, event = step(flag, now, shifted=False, still=False, parameters=parameters)
        return Tick(window, None, flag, event, ())
    verdict = judge(recent, now, window, schedule, parameters, firing=flag.firing)
    shifted = verdict.shifted and verdict.still
    flag, event = step(flag, now, shifted=shifted, still=verdict.still, parameters=parameters)
    suspects: tuple[int, ...] = ()
    if event is FlagEvent.FIRING:
        suspects = _touched(window, schedule)
    elif flag.firing:
        suspects = (schedule[0].start,)
    return Tick(window, verdict, flag, event, suspects)


def _touched(window: View, schedule: Schedule) -> tuple[int, ...]:
    """The hours that a window reaches into."""
    touched = [schedule[0].start]
    for newer, older in pairwise(schedule):
        if window.first_second > newer.start:
            break
        touched.append(older.start)
    return tuple(touched)
