"""Where healthy time lies: hours of a series that were judged and not flagged, from which traces may be compared."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from exporter.evaluation.causes.shift_cause import Shift
from exporter.evaluation.series import changepoint_of
from exporter.evaluation.settings import EvaluationSettings
from exporter.model.calendar import HourClock, LocalHour
from exporter.store import Store

WANTED: Final = 200
"""Candidates wanted of each kind."""
MAX_STRETCHES: Final = 3

_ENOUGH: Final = 0.5
"""The part of the wanted traces that is enough."""
_ENOUGH_ALIKE: Final = 0.3
"""With a smaller part of the wanted traces in the same hour, other hours serve."""
_MAX_RUN_SECONDS: Final = 24 * 3600


class Stretch(NamedTuple):
    """A range of healthy time.

    Attributes:
        start: Unix seconds.
        end: Unix seconds.
        traces: number of traces of the series in it.
        reference: which time that is, in words.
    """

    start: int
    end: int
    traces: int
    reference: str


class HealthyTime:
    """Knows the healthy time of the series in the history. Thread-safe."""

    def __init__(self, store: Store, hour_clock: HourClock, settings: EvaluationSettings) -> None:
        """Take the sources.

        Args:
            store: the history; may be read-only.
            hour_clock: local hours.
            settings: how far back healthy time may lie: the lookback of the series.
        """
        self._store = store
        self._hour_clock = hour_clock
        self._settings = settings

    def stretches(self, shift: Shift, wanted: int = WANTED) -> list[Stretch]:
        """Return healthy time, the most alike first: the same slot, the same type of day, any.

        Args:
            shift: the shift; time from a window before its beginning on is none.
            wanted: how many traces of the series a stretch should hold.

        Raises:
            StoreError: the database cannot be read.
        """
        at_hour = self._hour_clock.hour(int(shift.at))
        hours = self._healthy_hours(shift)
        same_slot = {hour: count for hour, count in hours.items() if hour.slot == at_hour.slot}
        same_day = {hour: count for hour, count in hours.items() if hour.slot.day_type == at_hour.slot.day_type}
        stretches: list[Stretch] = []
        offset = shift.at - at_hour.start
        singles = [
            _slice_of([hour], count, wanted, hour.start + offset, "the same hour") for hour, count in same_slot.items()
        ]
        stretches += sorted(singles, key=lambda each: abs(each.start - shift.at))[:MAX_STRETCHES]
        if sum(min(wanted, each.traces) for each in stretches) < _ENOUGH_ALIKE * wanted:
            # Hours of their own would take many searches.
            stretches = [
                *_runs(same_day, wanted, shift.at, "days of the same type"),
                *_runs(hours, wanted, shift.at, "any day"),
            ]
        return stretches

    def _healthy_hours(self, shift: Shift) -> dict[LocalHour, int]:
        evaluated_until = self._store.evaluated_until()
        if evaluated_until is None:
            return {}
        window_seconds = self._settings.parameters(shift.key).window_seconds
        incident_start = (shift.at if shift.since is None else shift.since) - window_seconds
        since = int(shift.at) - self._settings.rules(shift.key).lookback_seconds
        hours: dict[LocalHour, int] = {}
        for stored in self._store.traffic([shift.key], since, evaluated_until):
            first = changepoint_of(stored.state) or 0
            for window_start, traces in stored.windows:
                hour = self._hour_clock.hour(window_start)
                is_sound = hour.start not in stored.quarantined and hour.start not in stored.suspects
                is_apart = hour.end <= incident_start or hour.start > shift.at
                if is_sound and is_apart and first <= hour.start and hour.end <= evaluated_until and traces:
                    hours[hour] = hours.get(hour, 0) + traces
        return hours


def _slice_of(hours: Sequence[LocalHour], traces: int, wanted: int, middle: float, reference: str) -> Stretch:
    """Return the part of consecutive hours, around an instant, that holds as many traces as are wanted."""
    start, end = hours[0].start, hours[-1].end
    if traces <= wanted:
        return Stretch(start, end, traces, reference)
    length = max(1, round((end - start) * wanted / traces))
    begin = min(max(start, int(middle - length / 2)), end - length)
    return Stretch(begin, begin + length, wanted, reference)


def _runs(hours: dict[LocalHour, int], wanted: int, at: float, reference: str) -> list[Stretch]:
    """Return runs of consecutive hours, the nearest first, each with as many traces as are wanted where it has them."""
    runs: list[list[LocalHour]] = []
    counts: list[int] = []
    for hour in sorted(hours, reverse=True):
        is_next = runs and runs[-1][-1].start == hour.end
        if is_next and counts[-1] < wanted and runs[-1][0].end - hour.start <= _MAX_RUN_SECONDS:
            runs[-1].append(hour)
            counts[-1] += hours[hour]
        else:
            runs.append([hour])
            counts.append(hours[hour])
    stretches = [
        _slice_of(run[::-1], count, wanted, (run[0].end + run[-1].start) / 2, reference)
        for run, count in zip(runs, counts, strict=True)
    ]
    # Of runs with few traces, those with the most cost the fewest searches.
    return sorted(stretches, key=lambda each: (-min(_ENOUGH * wanted, each.traces), abs(each.start - at)))[
        :MAX_STRETCHES
    ]
