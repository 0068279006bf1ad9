"""The flags of a series, one for each kind of anomaly: inactive, pending or firing, with hold times in both directions.

The states are those of a Prometheus alert with ``for`` and ``keep_firing_for``.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from exporter.detection.parameters import Parameters


class FlagKind(StrEnum):
    """What a flag is about; the value of the label ``kind``."""

    SHIFT = "shift"
    """The latency as a whole has moved from its baseline."""
    ERRORS = "errors"
    """Too many requests fail."""
    TRAFFIC = "traffic"
    """There are far fewer requests than usual."""


class FlagEvent(StrEnum):
    """A transition of a flag."""

    FIRING = "firing"
    RESOLVED = "resolved"


_Explanation_co = TypeVar("_Explanation_co", covariant=True)


class FlagChange(NamedTuple, Generic[_Explanation_co]):
    """A transition of a flag while past traffic was replayed.

    Attributes:
        at: time of the tick, Unix seconds.
        event: the transition.
        explanation: explanation of the verdict, if it has evidence; ``str()`` is its sentence.
    """

    at: int
    event: FlagEvent
    explanation: _Explanation_co | None


class Flag(NamedTuple):
    """State of a flag; times are Unix seconds.

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


class FlagPeriod(NamedTuple):
    """A time in which a flag fired, in Unix seconds.

    Attributes:
        kind: which flag.
        since: start of the condition that made it fire.
        until: when it was over; None while it fires.
    """

    kind: FlagKind
    since: float
    until: float | None

    def overlaps(self, start: float, end: float) -> bool:
        """Whether it has a part in ``[start, end)``."""
        return self.since < end and (self.until is None or self.until > start)


def merged_periods(periods: Iterable[FlagPeriod]) -> list[FlagPeriod]:
    """Return periods by kind and time, with overlapping ones of a kind as one: several sources may know a period."""
    merged: list[FlagPeriod] = []
    for period in sorted(periods, key=lambda each: (each.kind, each.since)):
        last = merged[-1] if merged else None
        if last is None or last.kind is not period.kind or (last.until is not None and period.since > last.until):
            merged.append(period)
        elif last.until is not None:
            until = None if period.until is None else max(last.until, period.until)
            merged[-1] = last._replace(until=until)
    return merged


INACTIVE: Final = Flag()


class FlagPeriods:
    """The times in which one flag of a series fired while its past traffic was replayed."""

    __slots__ = ("_ended", "_kind")

    def __init__(self, kind: FlagKind) -> None:
        """Start without any."""
        self._kind = kind
        self._ended: list[FlagPeriod] = []

    def follow(self, before: Flag, after: Flag, at: float) -> None:
        """Take two consecutive states of the flag, the second of which was reached at an instant."""
        if before.since is not None and after.since is None:
            # The hold time passes after the condition is over.
            until = at if before.keep_firing_since is None else before.keep_firing_since
            self._ended.append(FlagPeriod(self._kind, float(before.since), float(until)))

    def until(self, flag: Flag) -> list[FlagPeriod]:
        """Return the periods up to the present state of the flag; the last one has no end while it fires."""
        if flag.since is None:
            return list(self._ended)
        return [*self._ended, FlagPeriod(self._kind, float(flag.since), None)]


SeriesFlags = Mapping[FlagKind, Flag]
"""The flags of one series; a kind that is missing is inactive."""


def encode_flags(flags: SeriesFlags) -> str | None:
    """Encode the flags of a series as a JSON object by kind; None if all of them are inactive."""
    active = {str(kind): flag for kind, flag in flags.items() if flag != INACTIVE}
    return msgspec.json.encode(active).decode() if active else None


def decode_flags(text: str) -> dict[FlagKind, Flag]:
    """Decode the result of :func:`encode_flags`, or the single flag that versions with one kind stored.

    Raises:
        ValueError: the text is damaged.
    """
    decoded = msgspec.json.decode(text, type=dict[str, Flag] | Flag)
    if isinstance(decoded, Flag):
        return {FlagKind.SHIFT: decoded}
    return {kind: decoded[kind] for kind in FlagKind if kind in decoded}


def advance_flag(
    flag: Flag,
    now: float,
    *,
    shifted: bool,
    persists: bool,
    parameters: Parameters,
    hold_seconds: float | None = None,
) -> tuple[Flag, FlagEvent | None]:
    """Return the flag after one more tick, and its transition, if any.

    Args:
        flag: state after the previous tick.
        now: time of the tick.
        shifted: condition to fire: the window has shifted and the shift persists.
        persists: condition to keep firing: the newest traces are still slow.
        parameters: hold times.
        hold_seconds: time for which the condition must hold before the flag fires; by default that of the settings.
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
    if now - pending_since >= (parameters.hold_seconds if hold_seconds is None else hold_seconds):
        return Flag(firing=True, since=pending_since), FlagEvent.FIRING
    return Flag(pending_since=pending_since), None


def advance_flag_by_run(flag: Flag, now: float, *, shifted: bool, persists: bool) -> tuple[Flag, FlagEvent | None]:
    """Return the flag of a series that is evaluated by run after one more tick, and its transition, if any.

    There are no hold times: two slow runs are evidence enough, and so is one that is not slow.

    Args:
        flag: state after the previous tick.
        now: time of the tick.
        shifted: condition to fire.
        persists: condition to keep firing: the last run was slow.
    """
    if flag.firing:
        return (flag._replace(keep_firing_since=None), None) if persists else (INACTIVE, FlagEvent.RESOLVED)
    return (Flag(firing=True, since=now), FlagEvent.FIRING) if shifted else (INACTIVE, None)


def resumed_flag(flag: Flag) -> Flag:
    """Return the flag after a pause without ticks: hold times start again, since they count observed time."""
    return flag._replace(keep_firing_since=None) if flag.firing else INACTIVE


def _earlier(now: float, since: float | None) -> float:
    """Return the start of a condition that holds now; restarts at ``now`` if the clock was set back."""
    return now if since is None else min(now, since)
