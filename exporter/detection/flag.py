"""When a condition becomes a flag: it must hold for a while, and be gone for a while."""

from enum import StrEnum
from typing import Final, NamedTuple

from exporter.detection.parameters import Parameters


class FlagEvent(StrEnum):
    """What happened to a flag."""

    FIRING = "firing"
    RESOLVED = "resolved"


class Flag(NamedTuple):
    """The state of a series' shift flag; all times are unix seconds.

    Attributes:
        firing: whether it is firing.
        since: when the condition that raised it was first seen; None while it is down.
        pending_since: since when the condition has held at every tick; None where it does not hold or the flag is up.
        calm_since: since when it has been absent at every tick; None where it is there or the flag is down.
    """

    firing: bool = False
    since: float | None = None
    pending_since: float | None = None
    keep_firing_since: float | None = None


INACTIVE: Final = Flag()


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
    if flag.firing:
        if still:
            return (flag if flag.keep_firing_since is None else flag._replace(keep_firing_since=None)), None
        keep_firing_since = _earlier(now, flag.keep_firing_since)
        if now - keep_firing_since >= parameters.clear_hold_seconds:
            return INACTIVE, FlagEvent.RESOLVED
        return flag._replace(keep_firing_since=keep_firing_since), None
    if not shifted:
        return INACTIVE, None
    pending_since = _earlier(now, flag.pending_since)
    if now - pending_since >= parameters.hold_seconds:
        return Flag(firing=True, since=pending_since), FlagEvent.FIRING
    return Flag(pending_since=pending_since), None


def _earlier(now: float, since: float | None) -> float:
    """Since when something lasts that may have begun just now; a clock that was set back begins it anew."""
    return now if since is None else min(now, since)
