"""Fallback levels of a series in all 48 slots, found by counting traces, without decoding a digest.

Levels are chosen as in :func:`exporter.baseline.levels.choose_pool`, by the same rules over summaries of the slots.
"""

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

from exporter.baseline.levels import (
    SLOTS,
    FallbackLevel,
    FallbackRules,
    LevelRule,
    PoolSummary,
    choose_level,
    is_recurring,
)
from exporter.model.calendar import DayType, LocalHour, Slot


class SlotAvailability(NamedTuple):
    """Baseline of a series in one slot.

    Attributes:
        level: fallback level that serves.
        mature: whether it may serve a shift verdict.
        traces: traces in the slot's own hours, without excluded ones.
        hours: number of these hours.
    """

    level: FallbackLevel
    mature: bool
    traces: int
    hours: int


class SeriesAvailability(Mapping[Slot, SlotAvailability]):
    """Baselines of a series in all 48 slots; packed, because there are thousands of series."""

    __slots__ = ("_hours", "_levels", "_traces")

    def __init__(self, slots: Sequence[SlotAvailability]) -> None:
        """Pack one value for each of :data:`.levels.SLOTS`."""
        self._levels = bytes([slot.level * 2 + slot.mature for slot in slots])
        self._traces = array("Q", [slot.traces for slot in slots])
        self._hours = array("L", [slot.hours for slot in slots])

    def __getitem__(self, slot: Slot) -> SlotAvailability:
        index = _index_of(slot)
        level, mature = divmod(self._levels[index], 2)
        return SlotAvailability(FallbackLevel(level), bool(mature), self._traces[index], self._hours[index])

    def __iter__(self) -> Iterator[Slot]:
        return iter(SLOTS)

    def __len__(self) -> int:
        return len(SLOTS)


def _index_of(slot: Slot) -> int:
    """Return the position of a slot in :data:`.levels.SLOTS`."""
    return slot.hour if slot.day_type is DayType.WEEKDAY else slot.hour + 24


_start = attrgetter("start")

_Traffic = list[tuple[LocalHour, int]]
"""Hours with their number of traces."""


def series_availability(
    traffic: Iterable[tuple[LocalHour, int]],
    rules: FallbackRules,
    *,
    quarantined: Collection[int] = (),
    suspects: Collection[int] = (),
) -> SeriesAvailability:
    """Choose the fallback level of a series in each of the 48 slots.

    Args:
        traffic: hours that may be pooled, with their traces (at least one).
        rules: which levels may serve.
        quarantined: starts of quarantined hours.
        suspects: starts of hours that are excluded because a firing flag has touched them.
    """
    # Lists by index of the slot, not dictionaries by slot: ten thousand series have millions of hours.
    pooled: list[_Traffic] = [[] for _ in SLOTS]
    releasable: list[_Traffic] = [[] for _ in SLOTS]
    quarantined_count = [0] * len(SLOTS)
    other_suspect_count = [0] * len(SLOTS)
    for hour, traces in traffic:
        start, _, slot, _ = hour
        index = _index_of(slot)
        is_quarantined = start in quarantined
        quarantined_count[index] += is_quarantined
        if start not in suspects:
            (releasable if is_quarantined else pooled)[index].append((hour, traces))
        elif not is_quarantined:
            other_suspect_count[index] += 1
    summaries = _Summaries(dict(zip(SLOTS, map(_summarize, pooled), strict=True)))
    found = []
    for index, slot in enumerate(SLOTS):
        others = len(pooled[index]) + other_suspect_count[index]
        released = _summarize(releasable[index]) if is_recurring(quarantined_count[index], others) else None
        found.append(_choose(slot, rules.by_slot[slot], summaries, released))
    return SeriesAvailability(found)


def _choose(
    slot: Slot, rules: Iterable[LevelRule], summaries: "_Summaries", released: PoolSummary | None
) -> SlotAvailability:
    own = _merge((summaries.by_slot[slot], released))
    chosen = choose_level((rule, _merge((summaries.of(rule.slots), released)), None) for rule in rules)
    level, mature = (FallbackLevel.UNAVAILABLE, False) if chosen is None else chosen[:2]
    hours, traces = (0, 0) if own is None else own[:2]
    return SlotAvailability(level, mature, traces, hours)


class _Summaries:
    """Summaries of sets of slots, computed on demand and cached."""

    def __init__(self, by_slot: Mapping[Slot, PoolSummary | None]) -> None:
        self.by_slot = by_slot
        self._cache: dict[frozenset[Slot], PoolSummary | None] = {}

    def of(self, slots: frozenset[Slot]) -> PoolSummary | None:
        if slots not in self._cache:
            self._cache[slots] = _merge([self.by_slot[slot] for slot in slots])
        return self._cache[slots]


def _summarize(traffic: _Traffic) -> PoolSummary | None:
    if not traffic:
        return None
    return len(traffic), sum([traces for _, traces in traffic]), min(traffic)[0], max(traffic)[0]


def _merge(pools: Iterable[PoolSummary | None]) -> PoolSummary | None:
    parts = [pool for pool in pools if pool is not None]
    if len(parts) < 2:
        return parts[0] if parts else None
    hours, traces, firsts, lasts = zip(*parts, strict=True)
    return sum(hours), sum(traces), min(firsts, key=_start), max(lasts, key=_start)
