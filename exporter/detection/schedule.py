"""Thresholds by local hour: each trace of a window is compared with the thresholds of the hour in which it ended."""

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import NamedTuple

from exporter.detection.thresholds import Floors, Prediction, Thresholds


class HourThresholds(NamedTuple):
    """Thresholds of the traces that ended in the local hour that began at ``start`` (Unix seconds)."""

    start: int
    thresholds: Thresholds


Schedule = Sequence[HourThresholds]
"""Thresholds of the current hour and of the hours before it, newest first, without gaps and as far back as a window can
extend. Empty while the series has no mature baseline for the current hour."""


class LazySchedule:
    """An immutable schedule that computes thresholds on first use; in most hours of history no window needs them."""

    __slots__ = ("_hours", "_sources")

    def __init__(self, hours: Iterable[HourThresholds] = ()) -> None:
        """Start from computed thresholds, newest first."""
        self._sources: tuple[tuple[int, Prediction | Thresholds], ...] = tuple(hours)
        self._hours: tuple[HourThresholds, ...] | None = None

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

    def floors(self) -> Floors | None:
        """Return lower bounds for the thresholds of all hours; None if the schedule is empty."""
        if not self._sources:
            return None
        return reduce(
            Floors.minimum,
            [source.floors if isinstance(source, Prediction) else Floors.of(source) for _, source in self._sources],
        )
