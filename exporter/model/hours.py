"""Stored history of one series, by local hour.

Hours are pooled by adding their digests, which is exact: the p95 of a pool is the p95 of all its traces, not a mean of
p95s.
"""

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, groupby, takewhile
from operator import add, attrgetter, sub
from typing import NamedTuple

from exporter.model.calendar import HourClock, LocalHour, Slot
from exporter.model.deviations import MARKS, DeviationCounts, medians_of
from exporter.model.histogram import Digest, RollingDigest
from exporter.model.hour_evaluation import (
    NO_SWINGS,
    NOT_EVALUATED,
    PATTERN_BUCKETS,
    QUANTILES,
    EncodedEvaluation,
    HourEvaluation,
    HourProfile,
    Swings,
)
from exporter.model.series_hour import SeriesHour, StoredWindow

_by_start = attrgetter("start")
_by_day = attrgetter("day")


def hours_of(
    windows: Iterable[StoredWindow],
    clock: HourClock,
    evaluations: Mapping[int, HourEvaluation | EncodedEvaluation] | None = None,
) -> list[SeriesHour]:
    """Group the windows of one series into local hours, in time order; hours without traces are omitted.

    Args:
        windows: stored windows, in any order.
        clock: maps instants to local hours.
        evaluations: results of evaluated hours, by start of the hour.
    """
    evaluations = evaluations or {}
    hour_of, evaluation_of = clock.hour, evaluations.get
    counted = [(hour_of(window.start), window) for window in windows if window.traces]
    starts = [hour.start for hour, _ in counted]
    if len(set(starts)) == len(starts):
        # Nearly always: a window for each hour.
        hours = [SeriesHour(hour, [window], evaluation_of(hour.start, NOT_EVALUATED)) for hour, window in counted]
        return sorted(hours, key=_by_start)
    parts: dict[int, tuple[LocalHour, list[StoredWindow]]] = {}
    for hour, window in counted:
        part = parts.get(hour.start)
        if part is None:
            parts[hour.start] = hour, [window]
        else:
            part[1].append(window)
    return [SeriesHour(*parts[start], evaluation_of(start, NOT_EVALUATED)) for start in sorted(parts)]


class HourGroup:
    """Hours of some slots, in time order, with range queries and a cached pool.

    The digest of the last pool is kept and updated by difference: successive pools mostly share their hours, with a few
    added at the end.
    """

    __slots__ = ("_hours", "_pooled", "_rolling", "_starts", "_traces")

    def __init__(self, hours: list[SeriesHour]) -> None:
        """Take ownership of hours in time order."""
        self._hours = hours
        self._starts = [hour.start for hour in self._hours]
        # Prefix sums: traces[i] counts the traces before hours[i], from an arbitrary origin.
        self._traces = list(accumulate([hour.count for hour in self._hours], initial=0))
        self._pooled: Sequence[SeriesHour] = []
        self._rolling = RollingDigest()

    def append(self, hour: SeriesHour) -> None:
        """Add an hour later than all others."""
        self._hours.append(hour)
        self._starts.append(hour.start)
        self._traces.append(self._traces[-1] + hour.count)

    def discard_before(self, start: int) -> None:
        """Drop the hours that began before an instant."""
        stale = bisect_left(self._starts, start)
        del self._hours[:stale], self._starts[:stale], self._traces[:stale]

    def between(self, since: int, until: int, min_traces: int = 0) -> tuple[Sequence[SeriesHour], int]:
        """Return the hours that began in ``[since, until)`` and their number of traces.

        Where they have fewer than ``min_traces``, the list of hours is empty; the number is still theirs.
        """
        first, last = bisect_left(self._starts, since), bisect_left(self._starts, until)
        count = self._traces[last] - self._traces[first]
        return self._hours[first:last] if count >= min_traces else (), count

    def pool(self, hours: Sequence[SeriesHour]) -> Digest:
        """Return the sum of the digests of some of the hours, given in time order."""
        previous = self._pooled
        added = hours[len(previous) :]
        if hours[: len(previous)] != previous:
            added, dropped = _difference(hours, previous), _difference(previous, hours)
            if len(added) + len(dropped) >= len(hours):
                self._rolling = RollingDigest()
                added, dropped = hours, []
            for hour in dropped:
                self._rolling.subtract(hour.counts)
        for hour in added:
            self._rolling.add(hour.counts)
        self._pooled = hours
        return self._rolling.digest()


class EvaluationSums(NamedTuple):
    """Sums over the hours of a series that are counted, of which that of one more hour follows without these.

    Attributes:
        hours: number of these hours.
        starts: sum of their starts, Unix seconds: with the number it tells whether other hours are the same.
        days: each local day of these hours, and behind it the sums of its swings. In 32 bits each: there are as many of
            these objects as series.
        deviations: counts of their deviations; see :attr:`.DeviationCounts.counts`.
    """

    hours: int
    starts: int
    days: bytes
    deviations: tuple[int, int]

    def by_day(self) -> dict[int, Swings]:
        """Return the sums of the swings by local day."""
        numbers = iter(array("I", self.days))
        return {day: tuple(swings) for day, *swings in zip(*[numbers] * (1 + len(NO_SWINGS)), strict=True)}


class SeriesHours:
    """History of one series: its hours with traffic, in time order and by slot.

    Attributes:
        quarantined: starts of the quarantined hours.
    """

    __slots__ = (
        "_all",
        "_by_slot",
        "_by_start",
        "_counted",
        "_counted_starts",
        "_daily",
        "_deviations",
        "_groups",
        "_latest_swing",
        "_swings",
        "quarantined",
    )

    def __init__(self, hours: Iterable[SeriesHour] = (), sums: EvaluationSums | None = None) -> None:
        """Take hours in any order.

        Args:
            hours: the hours.
            sums: sums over those that are counted, if they are known; ignored if they are those of other hours.
        """
        self._all = sorted(hours, key=_by_start)
        self._by_start = {hour.start: hour for hour in self._all}
        self._by_slot: dict[Slot, list[SeriesHour]] = {}
        for hour in self._all:
            self._by_slot.setdefault(hour.slot, []).append(hour)
        # Created on request, by set of slots.
        self._groups: dict[frozenset[Slot], HourGroup] = {}
        self.quarantined = {hour.start for hour in self._all if hour.is_quarantined}
        counted = [hour for hour in self._all if hour.is_counted]
        self._counted, self._counted_starts = len(counted), sum([hour.start for hour in counted])
        # Sums over all hours that are not quarantined: of each local day, and of all of them.
        self._daily: dict[int, Swings]
        if sums is not None and (sums.hours, sums.starts) == (self._counted, self._counted_starts):
            self._daily = sums.by_day()
            self._deviations = DeviationCounts.of(PATTERN_BUCKETS, sums.deviations)
        else:
            self._daily = {
                day: _sum_of([hour.evaluation.swings for hour in hours]) for day, hours in groupby(counted, key=_by_day)
            }
            # Deviations of the same hours.
            self._deviations = DeviationCounts(PATTERN_BUCKETS, [hour.evaluation.deviations for hour in counted])
        self._swings = _sum_of(self._daily.values())
        # An upper bound for the start of the latest of these hours.
        self._latest_swing = counted[-1].start if counted else 0

    def __iter__(self) -> Iterator[SeriesHour]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def append(self, hour: SeriesHour) -> None:
        """Add an hour later than all others."""
        self._by_start[hour.start] = hour
        self._all.append(hour)
        self._by_slot.setdefault(hour.slot, []).append(hour)
        for slots, group in self._groups.items():
            if hour.slot in slots:
                group.append(hour)
        self._include(hour)

    def set_evaluation(self, hour: SeriesHour, evaluation: HourEvaluation) -> None:
        """Replace the evaluation of one of the hours."""
        if hour.evaluation is not NOT_EVALUATED:
            self._exclude(hour)
        hour.evaluation = evaluation
        self._include(hour)

    def add_evaluations(self, hours: Sequence[SeriesHour]) -> None:
        """Count hours, in time order, whose evaluation was set although it was not counted; none is quarantined."""
        counted = [hour for hour in hours if hour.is_counted]
        if counted:
            self._counted += len(counted)
            self._counted_starts += sum([hour.start for hour in counted])
            for day, of_day in groupby(counted, key=_by_day):
                swings = _sum_of([hour.evaluation.swings for hour in of_day])
                self._daily[day] = tuple(map(add, self._daily.get(day, NO_SWINGS), swings))
                self._swings = tuple(map(add, self._swings, swings))
            self._deviations.add_all([hour.evaluation.deviations for hour in counted])
            self._latest_swing = max(self._latest_swing, hours[-1].start)

    def sums(self) -> EvaluationSums | None:
        """Return the sums over the hours that are counted, for the next evaluation; None in the case of absurd ones."""
        try:
            days = array("I", chain.from_iterable([(day, *swings) for day, swings in self._daily.items()])).tobytes()
        except OverflowError:
            return None
        return EvaluationSums(self._counted, self._counted_starts, days, self._deviations.counts)

    def discard_before(self, start: int) -> None:
        """Drop the hours that began before an instant."""
        if not self._all or self._all[0].start >= start:
            return
        while self._all and self._all[0].start < start:
            hour = self._all.pop(0)
            del self._by_start[hour.start]
            self._by_slot[hour.slot].pop(0)
            self._exclude(hour)
        for group in self._groups.values():
            group.discard_before(start)

    def at(self, start: int) -> SeriesHour | None:
        """Return the hour that began at an instant; None where it had no traffic."""
        return self._by_start.get(start)

    def group(self, slots: frozenset[Slot]) -> HourGroup:
        """Return the hours of some slots. Groups are cached, so callers use few distinct sets."""
        group = self._groups.get(slots)
        if group is None:
            members = list(chain.from_iterable([self._by_slot[slot] for slot in slots if slot in self._by_slot]))
            if len(members) == len(self._all):
                # Those of all slots are in time order already.
                members = self._all.copy()
            elif len(slots) > 1:
                members.sort(key=_by_start)
            group = self._groups[slots] = HourGroup(members)
        return group

    def of_slots(self, slots: Iterable[Slot], until: int) -> list[SeriesHour]:
        """Return the hours of some slots that began before an instant, one slot after the other."""
        found = []
        for slot in slots:
            found += [hour for hour in self._by_slot.get(slot, ()) if hour.start < until]
        return found

    def swings(self, until: int, released: Iterable[SeriesHour] = ()) -> Swings:
        """Return the sum of the swings of all hours before an instant that are not quarantined.

        Args:
            until: Unix seconds.
            released: quarantined hours before ``until`` that are added nevertheless.
        """
        swings = self._swings
        if self._latest_swing >= until:
            for hour in takewhile(lambda hour: hour.start >= until, reversed(self._all)):
                if not hour.is_quarantined:
                    swings = tuple(map(sub, swings, hour.evaluation.swings))
        for hour in released:
            swings = tuple(map(add, swings, hour.evaluation.swings))
        return swings

    def daily_swings(self, until: int, released: Collection[SeriesHour] = ()) -> Collection[Swings]:
        """Return the sums of :meth:`swings` for each local day that has any."""
        return tuple(self._sums_of_days(until, released).values())

    def _counted_since(self, start: int) -> list[SeriesHour]:
        """Return the hours that count for the sums and began at an instant or later, the latest first."""
        if self._latest_swing < start:
            return []
        return [hour for hour in takewhile(lambda hour: hour.start >= start, reversed(self._all)) if hour.is_counted]

    def _sums_of_days(self, until: int, released: Collection[SeriesHour]) -> Mapping[int, Swings]:
        """Return the same by local day."""
        later = self._counted_since(until)
        if not later and not released:
            return self._daily
        daily = dict(self._daily)
        for hour in later:
            daily[hour.day] = tuple(map(sub, daily[hour.day], hour.evaluation.swings))
        for hour in released:
            daily[hour.day] = tuple(map(add, daily.get(hour.day, NO_SWINGS), hour.evaluation.swings))
        return daily

    def busy_swings(
        self, until: int, least: int, share: int, released: Collection[SeriesHour] = ()
    ) -> Collection[Swings]:
        """Return the sums of :meth:`daily_swings` over the hours that had some traffic; empty if these are few.

        Args:
            until: Unix seconds.
            least: minimum number of traces.
            share: they are few if fewer than one in so many of all hours.
            released: quarantined hours before ``until`` that are added nevertheless.
        """
        starts = {hour.start for hour in released}
        counted = [hour for hour in self._all if hour.start < until and (hour.is_counted or hour.start in starts)]
        quiet = [hour for hour in counted if hour.count < least]
        busy = len(counted) - len(quiet)
        if share * busy < len(counted):
            return ()
        # Whichever are fewer are looked at one by one, because that decodes their evaluations.
        is_rest = len(quiet) <= busy
        daily = dict(self._sums_of_days(until, released)) if is_rest else {}
        combine = sub if is_rest else add
        for hour in quiet if is_rest else [hour for hour in counted if hour.count >= least]:
            daily[hour.day] = tuple(map(combine, daily.get(hour.day, NO_SWINGS), hour.evaluation.swings))
        return tuple(daily.values())

    def profile(
        self, until: int, least: int, released: Collection[SeriesHour] = (), *, inherit: bool = True
    ) -> HourProfile:
        """Return the pattern within the hour: the median deviation at each mark, over the hours as for :meth:`swings`.

        Args:
            until: Unix seconds.
            least: minimum number of hours with a known deviation at a mark.
            released: quarantined hours before ``until`` that count nevertheless.
            inherit: whether a quantile has the pattern of the next lower one where fewer hours know its own.

        Returns:
            For each quantile the median deviation in buckets by mark, 0 up to :data:`PATTERN_BUCKETS`; empty if all
            are 0.
        """
        later = self._counted_since(until)
        for hour in later:
            self._deviations.subtract(hour.evaluation.deviations)
        for hour in released:
            self._deviations.add(hour.evaluation.deviations)
        lanes = self._deviations.lanes_above()
        for hour in released:
            self._deviations.subtract(hour.evaluation.deviations)
        for hour in later:
            self._deviations.add(hour.evaluation.deviations)
        if not lanes:
            return ()
        hours = [hour.evaluation.deviations for hour in self._all if hour.start < until and hour.is_counted]
        hours += [hour.evaluation.deviations for hour in released]
        profile = [[0] * MARKS for _ in QUANTILES]
        for lane, deviation in medians_of(hours, lanes, least, inherit=inherit).items():
            profile[lane // MARKS][lane % MARKS] = deviation
        return tuple(map(tuple, profile)) if any(map(any, profile)) else ()

    def _include(self, hour: SeriesHour) -> None:
        if hour.is_quarantined:
            self.quarantined.add(hour.start)
        elif hour.is_counted:
            self._counted += 1
            self._counted_starts += hour.start
            self._swings = tuple(map(add, self._swings, hour.evaluation.swings))
            self._daily[hour.day] = tuple(map(add, self._daily.get(hour.day, NO_SWINGS), hour.evaluation.swings))
            self._deviations.add(hour.evaluation.deviations)
            if hour.start > self._latest_swing:
                self._latest_swing = hour.start

    def _exclude(self, hour: SeriesHour) -> None:
        if hour.is_quarantined:
            self.quarantined.discard(hour.start)
        elif hour.is_counted:
            self._counted -= 1
            self._counted_starts -= hour.start
            self._swings = tuple(map(sub, self._swings, hour.evaluation.swings))
            rest = tuple(map(sub, self._daily[hour.day], hour.evaluation.swings))
            if rest == NO_SWINGS:
                del self._daily[hour.day]
            else:
                self._daily[hour.day] = rest
            self._deviations.subtract(hour.evaluation.deviations)


def _sum_of(swings: Collection[Swings]) -> Swings:
    return tuple(map(sum, zip(*swings, strict=True))) or NO_SWINGS


def _difference(hours: Sequence[SeriesHour], others: Sequence[SeriesHour]) -> Sequence[SeriesHour]:
    excluded = set(others)
    return [hour for hour in hours if hour not in excluded]
