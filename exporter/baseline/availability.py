"""Which hours of the week a series has a baseline in, told by counting alone: no digest is looked into.

The rules are those of :func:`exporter.baseline.levels.choose_pool`, for all 48 slots at once.
"""

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from exporter.baseline.levels import (
    MATURE_DAYS,
    MATURE_SPAN_SECONDS,
    MATURE_TRACES,
    MATURE_WINDOWS,
    FallbackLevel,
    FallbackRules,
)
from exporter.model.calendar import DayType, Slot
from exporter.model.hours import CivilHour

SLOTS: Final = tuple(Slot(hour, day_type) for day_type in DayType for hour in range(24))
"""All 48, those of weekdays first."""


class Standing(NamedTuple):
    """Where a series stands in one slot.

    Attributes:
        level: the fallback level that serves.
        mature: whether it may serve a shift verdict.
        traces: traces in the slot's own hours that are not kept out of the baseline.
        hours: how many such hours there are.
    """

    level: FallbackLevel
    mature: bool
    traces: int
    hours: int


class Standings(Mapping[Slot, Standing]):
    """Where a series stands in all 48 slots; small, since there are thousands of series."""

    __slots__ = ("_hours", "_levels", "_traces")

    def __init__(self, found: Sequence[Standing]) -> None:
        """Take one for each of :data:`SLOTS`."""
        self._levels = bytes([standing.level * 2 + standing.mature for standing in found])
        self._traces = array("Q", [standing.traces for standing in found])
        self._hours = array("L", [standing.hours for standing in found])

    def __getitem__(self, slot: Slot) -> Standing:
        number = number_of(slot)
        level, mature = divmod(self._levels[number], 2)
        return Standing(FallbackLevel(level), bool(mature), self._traces[number], self._hours[number])

    def __iter__(self) -> Iterator[Slot]:
        return iter(SLOTS)

    def __len__(self) -> int:
        return len(SLOTS)


def number_of(slot: Slot) -> int:
    """The position of a slot among :data:`SLOTS`."""
    return slot.hour if slot.day_type is DayType.WEEKDAY else slot.hour + 24


class _Tally(NamedTuple):
    """What some hours hold altogether: how many there are, their traces, and the first and last of them."""

    hours: int = 0
    traces: int = 0
    first_start: int = 2**62
    last_start: int = -(2**62)
    first_day: int = 2**62
    last_day: int = -(2**62)

    @classmethod
    def of(cls, rows: Sequence[tuple[int, int, int]]) -> "_Tally":
        """The tally of some hours, each by its start, its day and its traces."""
        if not rows:
            return _NOTHING
        first, last = min(rows), max(rows)
        return cls(len(rows), sum([traces for _, _, traces in rows]), first[0], last[0], first[1], last[1])

    def is_mature(self, level: FallbackLevel) -> bool:
        if self.hours < MATURE_WINDOWS or self.traces < MATURE_TRACES:
            return False
        if level is FallbackLevel.NEARBY:
            return self.first_day < self.last_day
        if level in (FallbackLevel.DAYTYPE, FallbackLevel.GLOBAL):
            return self.last_start - self.first_start >= MATURE_SPAN_SECONDS
        return True


_NOTHING: Final = _Tally()
assert MATURE_DAYS == 2, "a first and a last day tell one day from several, and no more than that"  # noqa: S101


def standings(
    traffic: Iterable[tuple[CivilHour, int]],
    rules: FallbackRules,
    *,
    quarantined: Collection[int] = (),
    suspects: Collection[int] = (),
) -> Standings:
    """Where a series stands in each of the 48 slots.

    Args:
        traffic: the hours that may be pooled at all, with their traces; none of them empty.
        rules: what the levels need.
        quarantined: starts of hours that are quarantined.
        suspects: starts of hours that are not to be pooled because a raised flag has touched them.
    """
    # By number of the slot, and not by slot: ten thousand series have millions of hours.
    good: list[list[tuple[int, int, int]]] = [[] for _ in SLOTS]
    bad: list[list[tuple[int, int, int]]] = [[] for _ in SLOTS]
    recurring = [0] * len(SLOTS)
    suspected = [0] * len(SLOTS)
    for (start, _, slot, day), traces in traffic:
        number = number_of(slot)
        is_quarantined = start in quarantined
        recurring[number] += is_quarantined
        if start not in suspects:
            (bad if is_quarantined else good)[number].append((start, day, traces))
        elif not is_quarantined:
            suspected[number] += 1
    pools = _Pools(dict(zip(SLOTS, map(_Tally.of, good), strict=True)), rules)
    found = []
    for number, slot in enumerate(SLOTS):
        # What happens at this hour as often as not is usual.
        released = recurring[number] >= max(MATURE_WINDOWS, len(good[number]) + suspected[number])
        found.append(_standing(slot, pools, rules, _Tally.of(bad[number]) if released else _NOTHING))
    return Standings(found)


class _Pools:
    """What each level would pool, worked out when a slot comes to need it."""

    def __init__(self, good: Mapping[Slot, _Tally], rules: FallbackRules) -> None:
        self._good = good
        self._reach = min(rules.nearby_hours_range, 12)
        self._of_day_type: dict[DayType, _Tally] = {}

    def of(self, level: FallbackLevel, slot: Slot) -> _Tally:
        match level:
            case FallbackLevel.EXACT:
                return self._good[slot]
            case FallbackLevel.NEARBY:
                hours = {(slot.hour + offset) % 24 for offset in range(-self._reach, self._reach + 1)}
                return _sum(self._good[Slot(hour, slot.day_type)] for hour in hours)
            case FallbackLevel.DAYTYPE:
                return self._on(slot.day_type)
            case _:
                return _sum(map(self._on, DayType))

    def _on(self, day_type: DayType) -> _Tally:
        known = self._of_day_type.get(day_type)
        if known is None:
            known = _sum(tally for slot, tally in self._good.items() if slot.day_type is day_type)
            self._of_day_type[day_type] = known
        return known


def _standing(slot: Slot, pools: _Pools, rules: FallbackRules, released: _Tally) -> Standing:
    own = _sum((pools.of(FallbackLevel.EXACT, slot), released))
    serving = FallbackLevel.UNAVAILABLE
    for level, min_samples in rules.levels():
        pool = _sum((pools.of(level, slot), released))
        if not pool.hours or pool.traces < min_samples:
            continue
        if pool.is_mature(level):
            return Standing(level, mature=True, traces=own.traces, hours=own.hours)
        serving = min(serving, level)
    return Standing(serving, mature=False, traces=own.traces, hours=own.hours)


def _sum(tallies: Iterable[_Tally]) -> _Tally:
    some = [tally for tally in tallies if tally.hours]
    if len(some) < 2:
        return some[0] if some else _NOTHING
    hours, traces, first_starts, last_starts, first_days, last_days = zip(*some, strict=True)
    return _Tally(sum(hours), sum(traces), min(first_starts), max(last_starts), min(first_days), max(last_days))
