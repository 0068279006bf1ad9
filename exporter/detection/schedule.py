"""Thresholds by hour, worked out only when a window comes near them: for most hours of the past none does."""

from collections.abc import Iterable
from functools import reduce

from exporter.detection.thresholds import Floors, Prediction, Thresholds
from exporter.detection.verdict import HourThresholds


class LazySchedule:
    """The thresholds of an hour and of those before it, as far back as a window can reach; immutable."""

    __slots__ = ("_hours", "_sources")

    def __init__(self, hours: Iterable[HourThresholds] = ()) -> None:
        """Begin with thresholds that are known, newest first."""
        self._sources: tuple[tuple[int, Prediction | Thresholds], ...] = tuple(hours)
        self._hours: tuple[HourThresholds, ...] | None = None

    def followed_by(self, start: int, prediction: Prediction | None, max_window_seconds: int) -> "LazySchedule":
        """The schedule for the next hour, which begins at ``start``; empty where nothing is predicted for that."""
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
        """The thresholds, newest hour first."""
        if self._hours is None:
            self._hours = tuple(
                HourThresholds(start, source.thresholds if isinstance(source, Prediction) else source)
                for start, source in self._sources
            )
        return self._hours

    @property
    def since(self) -> int:
        """What ended up to this instant is not judged."""
        return self._sources[-1][0] if self._sources else 0

    def floors(self) -> Floors:
        """What its thresholds are at least, in whichever hour a trace ended; it must not be empty."""
        floors = [source.lowest if isinstance(source, Prediction) else Floors.of(source) for _, source in self._sources]
        return reduce(Floors.lowered, floors)
