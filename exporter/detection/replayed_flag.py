"""A flag of one series while its past traffic is replayed: its state, its transitions, and when it fired."""

from typing import Generic, TypeVar

from exporter.detection.flag import INACTIVE, Flag, FlagChange, FlagEvent, FlagKind, FlagPeriod, FlagPeriods

_Explanation = TypeVar("_Explanation")


class ReplayedFlag(Generic[_Explanation]):
    """A flag that is followed from mark to mark.

    Attributes:
        present: its state after the last mark.
        changes: its transitions.
    """

    __slots__ = ("_periods", "changes", "present")

    def __init__(self, kind: FlagKind, flag: Flag) -> None:
        """Continue from a state."""
        self.present = flag
        self.changes: list[FlagChange[_Explanation]] = []
        self._periods = FlagPeriods(kind)

    @property
    def periods(self) -> list[FlagPeriod]:
        """The times in which it fired, in time order; the last one has no end while it fires."""
        return self._periods.until(self.present)

    def follow(self, flag: Flag, event: FlagEvent | None, at: int, explanation: _Explanation | None) -> None:
        """Take its state after a mark.

        Args:
            flag: the state.
            event: its transition, if any.
            at: the mark, Unix seconds.
            explanation: explanation of the verdict, if it has evidence.
        """
        self._periods.follow(self.present, flag, at)
        self.present = flag
        if event is not None:
            self.changes.append(FlagChange(at, event, explanation))

    def reset(self, at: int) -> None:
        """Make it inactive at an instant (Unix seconds), because a change was accepted, or people say it is normal."""
        self.follow(INACTIVE, FlagEvent.RESOLVED if self.present.firing else None, at, None)
