"""When a condition becomes a flag: it must hold for a while, and be gone for a while."""

from enum import StrEnum
from typing import Final, NamedTuple

from exporter.detection.parameters import Parameters


class FlagEvent(StrEnum):
    """What happened to a flag."""

    RAISED = "raised"
    CLEARED = "cleared"


class Flag(NamedTuple):
    """The state of a series' shift flag; all times are unix seconds.

    Attributes:
        up: whether it is raised.
        since: when the condition that raised it was first seen; None while it is down.
        pending_since: since when the condition has held at every tick; None where it does not hold or the flag is up.
        calm_since: since when it has been absent at every tick; None where it is there or the flag is down.
    """

    up: bool = False
    since: float | None = None
    pending_since: float | None = None
    calm_since: float | None = None


DOWN: Final = Flag()


def step(
    flag: Flag, now: float, *, shifted: bool, still: bool, parameters: Parameters
) -> tuple[Flag, FlagEvent | None]:
    """The flag after one more tick, and what happened to it.

    Args:
        flag: its state after the tick before.
        now: the time of the tick.
        shifted: whether the window has shifted and goes on doing so.
        still: whether the newest traces are still slow; decides when the flag falls.
        parameters: how long the flag is held.
    """
    if flag.up:
        if still:
            return (flag if flag.calm_since is None else flag._replace(calm_since=None)), None
        calm_since = _earlier(now, flag.calm_since)
        if now - calm_since >= parameters.clear_hold_seconds:
            return DOWN, FlagEvent.CLEARED
        return flag._replace(calm_since=calm_since), None
    if not shifted:
        return DOWN, None
    pending_since = _earlier(now, flag.pending_since)
    if now - pending_since >= parameters.hold_seconds:
        return Flag(up=True, since=pending_since), FlagEvent.RAISED
    return Flag(pending_since=pending_since), None


def _earlier(now: float, since: float | None) -> float:
    """Since when something lasts that may have begun just now; a clock that was set back begins it anew."""
    return now if since is None else min(now, since)
