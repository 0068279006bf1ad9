"""Thresholds by local hour: each trace of a window is compared with the thresholds of the hour in which it ended."""

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import NamedTuple

from exporter.detection.prediction import Prediction
from exporter.detection.thresholds import Floors, SmallShiftThresholds, Thresholds


class HourThresholds(NamedTuple):
    """Thresholds of the traces that ended in the local hour that began at ``start`` (Unix seconds)."""

    start: int
    thresholds: Thresholds


Schedule = Sequence[HourThresholds]
"""Thresholds of the current hour and of the hours before it, newest first, without gaps and as far back as a window can
extend. Empty while the series has no mature baseline for the current hour."""


class HourSmallThresholds(NamedTuple):
    """Thresholds for small shifts of the traces that ended in the local hour that began at ``start`` (Unix seconds)."""

    start: int
    thresholds: SmallShiftThresholds


SmallSchedule = Sequence[HourSmallThresholds]
"""The same hours as in a :data:`Schedule`; empty if small shifts are not tested."""


def small_schedule(schedule: Schedule) -> tuple[HourSmallThresholds, ...]:
    """Return the thresholds for small shifts of a schedule, up to the first hour without."""
    found = []
    for start, thresholds in schedule:
        if thresholds.small is None:
            break
        found.append(HourSmallThresholds(start, thresholds.small))
    return tuple(found)


class LazySchedule:
    """An immutable schedule that computes thresholds on first use; in most hours of history no window needs them."""

    __slots__ = ("_bounds", "_hours", "_sources")

    def __init__(self, hours: Iterable[HourThresholds] = ()) -> None:
        """Start from computed thresholds, newest first."""
        self._sources: tuple[tuple[int, Prediction | Thresholds], ...] = tuple(hours)
        self._hours: tuple[HourThresholds, ...] | None = None
        self._bounds: tuple[Floors | None, Floors | None] | None = None

    def followed_by(self, start: int, prediction: Prediction | None, max_window_seconds: int) -> "LazySchedule":
        """Return the schedule of the next hour, which begins at ``start``; empty if that hour has no prediction."""
        following = LazySchedule()
        if prediction is not None:
            sources: list[tuple[int, Prediction | Thresholds]] = [(start, prediction)]
            for older in self._sources:
                if sources[-1][0] <= start - max_window_seconds:
                    break
                sources.append(older)
            following._sources = tuple(sources)
        return following

    @property
    def hours(self) -> tuple[HourThresholds, ...]:
        """The schedule with all thresholds computed."""
        if self._hours is None:
            self._hours = tuple(
                HourThresholds(start, source.thresholds if isinstance(source, Prediction) else source)
                for start, source in self._sources
            )
        return self._hours

    @property
    def since(self) -> int:
        """Start of the oldest hour, Unix seconds; traces that ended up to then are not evaluated."""
        return self._sources[-1][0] if self._sources else 0

    def small(self) -> tuple[HourSmallThresholds, ...]:
        """Return the thresholds for small shifts, without computing the others."""
        found = []
        for start, source in self._sources:
            if source.small is None:
                break
            found.append(HourSmallThresholds(start, source.small))
        return tuple(found)

    def small_floors(self) -> Floors | None:
        """Return lower bounds for :meth:`small`; None where small shifts are not tested."""
        lowest: Floors | None = None
        for _, source in self._sources:
            if isinstance(source, Prediction):
                floors = source.small_floors
            else:
                floors = None if source.small is None else source.small.floors
            if floors is None:
                break
            lowest = floors if lowest is None else lowest.minimum(floors)
        return lowest

    @property
    def small_since(self) -> int:
        """Start of the oldest hour of :meth:`small`, Unix seconds."""
        since = 0
        for start, source in self._sources:
            has_small = source.has_small if isinstance(source, Prediction) else source.small is not None
            if not has_small:
                break
            since = start
        return since

    @property
    def lowest_tail(self) -> int | None:
        """The lowest bucket of any hour above which the slowest traces are counted; None where they are not."""
        lowest = []
        for _, source in self._sources:
            if isinstance(source, Prediction):
                lowest.append(source.lowest_tail)
            elif source.small is not None and source.small.tail:
                lowest.append(source.small.tail[0].bucket)
        return min([each for each in lowest if each is not None], default=None)

    @property
    def bounds(self) -> tuple[Floors | None, Floors | None]:
        """:meth:`floors` and :meth:`small_floors`, computed on first use."""
        if self._bounds is None:
            self._bounds = self.floors(), self.small_floors()
        return self._bounds

    def lowest_gates(self) -> tuple[int, ...]:
        """Return lower bounds of the gates of all hours in any test; empty if the schedule is.

        Cheaper than all lower bounds, which only few hours need.
        """
        gates = [source.lowest_gates for _, source in self._sources]
        return tuple(map(min, *gates)) if len(gates) > 1 else gates[0] if gates else ()

    def floors(self) -> Floors | None:
        """Return lower bounds for the thresholds of all hours; None if the schedule is empty."""
        if not self._sources:
            return None
        return reduce(
            Floors.minimum,
            [source.floors if isinstance(source, Prediction) else Floors.of(source) for _, source in self._sources],
        )
