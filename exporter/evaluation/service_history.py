"""Baselines of services as a whole, learned from the stored evaluations of their series.

The result is a function of the stored evaluations. Deviations of the past are kept in memory, seven kilobytes for each
service, so that a turn of the hour reads only those hours of which an evaluation has changed.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from exporter.detection.service_shift import (
    MIN_ENDPOINTS,
    ServiceBaseline,
    ServiceHour,
    learn_service,
    service_deviations,
)
from exporter.model.calendar import HOUR_SECONDS, HourClock
from exporter.model.deviations import MARKS, deviations_of
from exporter.model.service import ServiceKey
from exporter.model.span import SeriesKey
from exporter.store import SeriesEvaluation, Store

REACH_SECONDS: Final = 7 * 24 * HOUR_SECONDS
"""How far back deviations are learned from: a week has all days, and its marks are many."""


class _PastService:
    """The deviations of one service in the past, by hour."""

    __slots__ = ("_deviations", "_hours_of_day", "_starts", "learned", "until")

    def __init__(self) -> None:
        self._starts = array("q")
        self._hours_of_day = bytearray()
        self._deviations = bytearray()
        self.until = 0
        self.learned: Mapping[int, ServiceBaseline] = {}

    def discard(self, before: int, since: int) -> None:
        """Drop the hours that start before an instant, and those that start at or after another one."""
        for first, last in (
            (bisect_left(self._starts, since), len(self._starts)),
            (0, bisect_left(self._starts, before)),
        ):
            del self._starts[first:last], self._hours_of_day[first:last]
            del self._deviations[first * MARKS : last * MARKS]

    def add(self, start: int, hour_of_day: int, deviations: bytes) -> None:
        """Add an hour later than all others."""
        self._starts.append(start)
        self._hours_of_day.append(hour_of_day)
        self._deviations += deviations

    def by_hour(self) -> dict[int, list[int | None]]:
        deviations = bytes(self._deviations)
        return {
            start: deviations_of(deviations[index * MARKS : (index + 1) * MARKS], 0)
            for index, start in enumerate(self._starts)
        }

    def hours(self) -> list[ServiceHour]:
        deviations = bytes(self._deviations)
        return [
            ServiceHour(start, hour_of_day, deviations[index * MARKS : (index + 1) * MARKS])
            for index, (start, hour_of_day) in enumerate(zip(self._starts, self._hours_of_day, strict=True))
        ]


class ServiceHistory:
    """Learns the baselines of services. Not thread-safe."""

    def __init__(self, store: Store, clock: HourClock) -> None:
        """Start without anything known.

        Args:
            store: the history.
            clock: local hours.
        """
        self._store = store
        self._clock = clock
        self._services: dict[ServiceKey, _PastService] = {}
        self._changed_since: dict[ServiceKey, int] = {}

    def note_evaluated(self, evaluations: Sequence[SeriesEvaluation]) -> None:
        """Note that evaluations of series were stored."""
        for each in evaluations:
            if each.evaluations:
                service, first = ServiceKey.of(each.key), min(each.evaluations)
                self._changed_since[service] = min(first, self._changed_since.get(service, first))

    def note_deleted(self, keys: Sequence[SeriesKey] | None) -> None:
        """Note that the evaluations of some series were deleted; None means all."""
        if keys is None:
            self._services.clear()
        else:
            for key in keys:
                self._services.pop(ServiceKey.of(key), None)

    def learn(self, keys: Iterable[SeriesKey], until: int) -> dict[ServiceKey, Mapping[int, ServiceBaseline]]:
        """Learn the baselines of each service, by hour of the local day, where enough is known.

        Args:
            keys: all series.
            until: end of the evaluated history, Unix seconds.

        Raises:
            StoreError: the store cannot be read.
        """
        by_service: dict[ServiceKey, list[SeriesKey]] = {}
        for key in keys:
            by_service.setdefault(ServiceKey.of(key), []).append(key)
        services = {service: own for service, own in by_service.items() if len(own) >= MIN_ENDPOINTS}
        self._services = {service: past for service, past in self._services.items() if service in services}
        learned = {service: self._learn(service, own, until) for service, own in services.items()}
        return {service: each for service, each in learned.items() if each}

    def deviations(self, service: ServiceKey) -> dict[int, list[int | None]]:
        """Return what was learned from, in buckets by mark and start of the hour; None where unknown."""
        past = self._services.get(service)
        return {} if past is None else past.by_hour()

    def _learn(self, service: ServiceKey, keys: Sequence[SeriesKey], until: int) -> Mapping[int, ServiceBaseline]:
        past = self._services.get(service)
        since = until - REACH_SECONDS
        if past is None:
            past = _PastService()
            past.until = since
        first = min(past.until, until, self._changed_since.get(service, until))
        if first == until and past.until == until:
            return past.learned
        first = max(first, since)
        by_hour: dict[int, list[bytes]] = {}
        for _, deviations in self._store.deviations(keys, first, until):
            for start, each in deviations.items():
                by_hour.setdefault(start, []).append(each)
        past.discard(since, first)
        for start in sorted(by_hour):
            if len(by_hour[start]) >= MIN_ENDPOINTS:
                past.add(start, self._clock.hour(start).slot.hour, service_deviations(by_hour[start]))
        past.until = until
        past.learned = learn_service(past.hours())
        # Only now: after an error, the same hours are read again.
        self._services[service] = past
        self._changed_since.pop(service, None)
        return past.learned
