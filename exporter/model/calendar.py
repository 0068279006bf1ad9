"""Civil time: the hour on the wall, the type of the day, and windows that no hour of the local clock cuts in two."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from enum import StrEnum
from typing import Final, NamedTuple

HOUR_SECONDS: Final = 3600


class DayType(StrEnum):
    """What kind of day it is; a holiday counts as weekend."""

    WEEKDAY = "weekday"
    WEEKEND = "weekend"


class Slot(NamedTuple):
    """An hour of the local day and the type of that day: there are 48."""

    hour: int
    day_type: DayType

    def __str__(self) -> str:
        return f"{self.day_type} {self.hour:02d}:00-{(self.hour + 1) % 24:02d}:00"


def _no_holidays(day: date) -> bool:  # noqa: ARG001 - the signature is the protocol
    return False


@dataclass(frozen=True)
class Calendar:
    """Turns instants into slots.

    Attributes:
        zone: the time zone whose wall clock counts.
        weekend: days of the week, 0 for Monday, that count as weekend.
        is_holiday: whether a local date is a holiday.
    """

    zone: tzinfo = UTC
    weekend: frozenset[int] = frozenset({5, 6})
    is_holiday: Callable[[date], bool] = _no_holidays

    def local(self, unix_seconds: float) -> datetime:
        """The local time of an instant."""
        return datetime.fromtimestamp(unix_seconds, self.zone)

    def day_type(self, day: date) -> DayType:
        """The type of a local date."""
        free = day.weekday() in self.weekend or self.is_holiday(day)
        return DayType.WEEKEND if free else DayType.WEEKDAY

    def slot(self, unix_seconds: float) -> Slot:
        """The slot that an instant lies in."""
        local = self.local(unix_seconds)
        return Slot(local.hour, self.day_type(local.date()))

    def utc_offset_seconds(self, unix_seconds: float) -> int:
        """How far the local clock is ahead of UTC at an instant."""
        offset = self.local(unix_seconds).utcoffset() or timedelta()
        return int(offset.total_seconds())

    def grid_floor(self, unix_seconds: int, step_seconds: int) -> int:
        """The last instant at or before the given one at which a window may begin.

        Windows begin at multiples of ``step_seconds`` (a divisor of an hour) on the local clock, and wherever that
        clock is turned.
        """
        offset = self.utc_offset_seconds(unix_seconds)
        floor = unix_seconds - (unix_seconds + offset) % step_seconds
        if self.utc_offset_seconds(floor) != offset:
            return self._transition_between(floor, unix_seconds)
        return floor

    def grid_next(self, unix_seconds: int, step_seconds: int) -> int:
        """The first instant after the given one at which a window may begin."""
        offset = self.utc_offset_seconds(unix_seconds)
        following = unix_seconds + step_seconds - (unix_seconds + offset) % step_seconds
        if self.utc_offset_seconds(following - 1) != offset:
            return self._transition_between(unix_seconds, following - 1)
        return following

    def windows(self, start: int, end: int, step_seconds: int) -> Iterator[tuple[int, int]]:
        """Cut ``[start, end)`` at the grid: half-open windows that cover it exactly once, none longer than a step."""
        while start < end:
            following = min(end, self.grid_next(start, step_seconds))
            yield start, following
            start = following

    def _transition_between(self, before: int, after: int) -> int:
        """The first second at which the offset is that of ``after`` and no longer that of ``before``."""
        new_offset = self.utc_offset_seconds(after)
        while after - before > 1:
            middle = (before + after) // 2
            if self.utc_offset_seconds(middle) == new_offset:
                after = middle
            else:
                before = middle
        return after
