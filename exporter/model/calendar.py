"""Local time: slots (hour of day and day type), local hours, and windows that do not cross them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from enum import StrEnum
from typing import Final, NamedTuple, Self

HOUR_SECONDS: Final = 3600


class DayType(StrEnum):
    """Type of a local date; holidays count as weekend."""

    WEEKDAY = "weekday"
    WEEKEND = "weekend"


class Slot(NamedTuple):
    """An hour of the local day on one type of day; there are 48."""

    hour: int
    day_type: DayType

    def __str__(self) -> str:
        return f"{self.day_type} {self.hour:02d}:00-{(self.hour + 1) % 24:02d}:00"


def _no_holidays(day: date) -> bool:  # noqa: ARG001 - signature of Calendar.is_holiday
    return False


@dataclass(frozen=True)
class Calendar:
    """Maps instants to slots and lays the window grid.

    Attributes:
        zone: time zone of the local clock.
        weekend: days of the week that count as weekend, 0 for Monday.
        is_holiday: whether a local date is a holiday.
    """

    zone: tzinfo = UTC
    weekend: frozenset[int] = frozenset({5, 6})
    is_holiday: Callable[[date], bool] = _no_holidays

    def local(self, unix_seconds: float) -> datetime:
        """Return the local time of an instant."""
        return datetime.fromtimestamp(unix_seconds, self.zone)

    def day_type(self, day: date) -> DayType:
        """Return the type of a local date."""
        free = day.weekday() in self.weekend or self.is_holiday(day)
        return DayType.WEEKEND if free else DayType.WEEKDAY

    def slot(self, unix_seconds: float) -> Slot:
        """Return the slot that contains an instant."""
        local = self.local(unix_seconds)
        return Slot(local.hour, self.day_type(local.date()))

    def utc_offset_seconds(self, unix_seconds: float) -> int:
        """Return the UTC offset of the local clock at an instant, positive east of Greenwich."""
        offset = self.local(unix_seconds).utcoffset() or timedelta()
        return int(offset.total_seconds())

    def grid_floor(self, unix_seconds: int, step_seconds: int) -> int:
        """Return the last grid point at or before an instant.

        Grid points, where windows begin, are the multiples of ``step_seconds`` (a divisor of an hour) on the local
        clock, and every instant at which the UTC offset changes.
        """
        offset = self.utc_offset_seconds(unix_seconds)
        floor = unix_seconds - (unix_seconds + offset) % step_seconds
        if self.utc_offset_seconds(floor) != offset:
            return self._transition_between(floor, unix_seconds)
        return floor

    def grid_next(self, unix_seconds: int, step_seconds: int) -> int:
        """Return the first grid point after an instant; see :meth:`grid_floor`."""
        offset = self.utc_offset_seconds(unix_seconds)
        following = unix_seconds + step_seconds - (unix_seconds + offset) % step_seconds
        if self.utc_offset_seconds(following - 1) != offset:
            return self._transition_between(unix_seconds, following - 1)
        return following

    def windows(self, start: int, end: int, step_seconds: int) -> Iterator[tuple[int, int]]:
        """Partition ``[start, end)`` at the grid points into half-open windows of at most ``step_seconds``."""
        while start < end:
            following = min(end, self.grid_next(start, step_seconds))
            yield start, following
            start = following

    def _transition_between(self, before: int, after: int) -> int:
        """Bisect for the first second in ``(before, after]`` with the UTC offset of ``after``."""
        new_offset = self.utc_offset_seconds(after)
        while after - before > 1:
            middle = (before + after) // 2
            if self.utc_offset_seconds(middle) == new_offset:
                after = middle
            else:
                before = middle
        return after


class LocalHour(NamedTuple):
    """One hour of the local clock; shorter than 3600 s where the UTC offset changes within it.

    Attributes:
        start: Unix seconds.
        end: start of the next hour, Unix seconds.
        slot: hour of the local day and day type.
        day: local date as a proleptic Gregorian ordinal.
    """

    start: int
    end: int
    slot: Slot
    day: int


class HourClock:
    """Cached lookup of the local hour that contains an instant; ten thousand series look up the same instants."""

    _CACHE_SIZE: Final = 100_000
    _QUARTER_SECONDS: Final = 900
    """Hours of the local clock begin at multiples of this in every time zone in use today."""

    def __init__(self, calendar: Calendar) -> None:
        self._calendar = calendar
        # Keyed by the quarters of an hour within it, not by instant: the live edge looks up every second.
        self._cache: dict[int, LocalHour] = {}

    def __reduce__(self) -> tuple[type[Self], tuple[Calendar]]:
        """Pickle without the cache."""
        return type(self), (self._calendar,)

    def hour(self, unix_seconds: int) -> LocalHour:
        """Return the local hour that contains an instant, given in whole Unix seconds."""
        # Most windows begin at a quarter of an hour.
        cached = self._cache.get(unix_seconds)
        return self._look_up(unix_seconds) if cached is None else cached

    def _look_up(self, unix_seconds: int) -> LocalHour:
        quarter = unix_seconds - unix_seconds % self._QUARTER_SECONDS
        cached = self._cache.get(quarter)
        if cached is not None and unix_seconds < cached.end:
            return cached
        start = self._calendar.grid_floor(unix_seconds, HOUR_SECONDS)
        local = self._calendar.local(start)
        end = self._calendar.grid_next(start, HOUR_SECONDS)
        slot = Slot(local.hour, self._calendar.day_type(local.date()))
        hour = LocalHour(start, end, slot, local.toordinal())
        if start <= quarter:
            if len(self._cache) >= self._CACHE_SIZE:
                self._cache.clear()
            self._cache[quarter] = hour
        return hour
