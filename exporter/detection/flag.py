"""The shift flag of a series: inactive, pending or firing, with a hold time in both directions.

The states are those of a Prometheus alert with ``for`` and ``keep_firing_for``.
"""

from enum import StrEnum
from typing import Final, NamedTuple

from exporter.detection.parameters import Parameters


class FlagEvent(StrEnum):
    """A transition of a flag."""

    FIRING = "firing"
    RESOLVED = "resolved"


class Flag(NamedTuple):
    """State of a series' shift flag; times are Unix seconds.

    Attributes:
        firing: whether the flag fires.
        since: start of the condition that made it fire; None unless it fires.
        pending_since: time since which the condition has held at every tick; None if it does not, or the flag fires.
        keep_firing_since: time since which the condition has been absent at every tick; None if it holds or the flag
            does not fire.
    """

    firing: bool = False
    since: float | None = None
    pending_since: float | None = None
    keep_firing_since: float | None = None


INACTIVE: Final = Flag()


def advance_flag(
    flag: Flag, now: float, *, shifted: bool, persists: bool, parameters: Parameters
) -> tuple[Flag, FlagEvent | None]:
    """Return the flag after one more tick, and its transition, if any.

    Args:
        flag: state after the previous tick.
        now: time of the tick.
        shifted: condition to fire: the window has shifted and the shift persists.
        persists: condition to keep firing: the newest traces are still slow.
        parameters: hold times.
    """
    if flag.firing:
        if persists:
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


def resumed_flag(flag: Flag) -> Flag:
    """Return the flag after a pause without ticks: hold times start again, since they count observed time."""
    return flag._replace(keep_firing_since=None) if flag.firing else INACTIVE


def _earlier(now: float, since: float | None) -> float:
    """Return the start of a condition that holds now; restarts at ``now`` if the clock was set back."""
    return now if since is None else min(now, since)
