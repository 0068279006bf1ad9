"""Which hours of the week a series has a baseline in, told by counting alone: no digest is looked into.

The rules are those of :func:`exporter.core.baseline.choose_pool`, for all 48 slots at once.
"""

from collections.abc import Collection, Iterable, Mapping
from functools import reduce
from typing import Final, NamedTuple

from exporter.core.baseline import (
    MATURE_DAYS,
    MATURE_SPAN_SECONDS,
    MATURE_TRACES,
    MATURE_WINDOWS,
    FallbackLevel,
    FallbackRules,
)
from exporter.core.civil import DayType, Slot
from exporter.core.hours import CivilHour

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


class _Tally(NamedTuple):
    """What some hours hold altogether: how many there are, their traces, and the first and last of them."""

    hours: int = 0
    traces: int = 0
    first_start: int = 2**62
    last_start: int = -(2**62)
    first_day: int = 2**62
    last_day: int = -(2**62)

    def plus(self, other: "_Tally") -> "_Tally":
        return _Tally(
            self.hours + other.hours,
            self.traces + other.traces,
            min(self.first_start, other.first_start),
            max(self.last_start, other.last_start),
            min(self.first_day, other.first_day),
            max(self.last_day, other.last_day),
        )

    def and_hour(self, civil: CivilHour, traces: int) -> "_Tally":
        return self.plus(_Tally(1, traces, civil.start, civil.start, civil.day, civil.day))

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
) -> Mapping[Slot, Standing]:
    """Where a series stands in each of the 48 slots.

    Args:
        traffic: the hours that may be pooled at all, with their traces; none of them empty.
        rules: what the levels need.
        quarantined: starts of hours that are quarantined.
        suspects: starts of hours that are not to be pooled because a raised flag has touched them.
    """
    good = dict.fromkeys(SLOTS, _NOTHING)
    bad = dict.fromkeys(SLOTS, _NOTHING)
    unquarantined = dict.fromkeys(SLOTS, 0)
    recurring = dict.fromkeys(SLOTS, 0)
    for civil, traces in traffic:
        is_quarantined = civil.start in quarantined
        (recurring if is_quarantined else unquarantined)[civil.slot] += 1
        if civil.start not in suspects:
            tallies = bad if is_quarantined else good
            tallies[civil.slot] = tallies[civil.slot].and_hour(civil, traces)
    pools = _Pools(good, rules)
    found = {}
    for slot in SLOTS:
        # What happens at this hour as often as not is usual.
        released = recurring[slot] >= max(MATURE_WINDOWS, unquarantined[slot])
        found[slot] = _standing(slot, pools, rules, bad[slot] if released else _NOTHING)
    return found


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
    own = pools.of(FallbackLevel.EXACT, slot).plus(released)
    serving = FallbackLevel.UNAVAILABLE
    for level, min_samples in rules.levels():
        pool = pools.of(level, slot).plus(released)
        if not pool.hours or pool.traces < min_samples:
            continue
        if pool.is_mature(level):
            return Standing(level, mature=True, traces=own.traces, hours=own.hours)
        serving = min(serving, level)
    return Standing(serving, mature=False, traces=own.traces, hours=own.hours)


def _sum(tallies: Iterable[_Tally]) -> _Tally:
    return reduce(_Tally.plus, (tally for tally in tallies if tally.hours), _NOTHING)
