"""Choice of a baseline: the fallback level that serves an hour, the hours pooled at that level, and their figures.

The levels are tried from the most specific (the same slot) to the least specific (all hours). The first level with
enough traces whose pool is mature serves; while none is mature, the first with enough traces serves as immature.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Final, NamedTuple, TypeVar

from exporter.model.calendar import HOUR_SECONDS, DayType, LocalHour, Slot
from exporter.model.histogram import Digest
from exporter.model.hours import HourGroup, SeriesHours
from exporter.model.series_hour import SeriesHour

# A pool serves a shift verdict only if it is mature. These bounds are not configurable.
MATURE_WINDOWS: Final = 3
MATURE_TRACES: Final = 30
MATURE_DAYS: Final = 2
"""Days that a level 2 pool must cover; compared by its first and last day, which is exact for two."""
MATURE_SPAN_SECONDS: Final = 24 * HOUR_SECONDS
"""Time that a level 3 or 4 pool must span; otherwise half a day of night traffic would be compared with the morning."""

SLOTS: Final = tuple(Slot(hour, day_type) for day_type in DayType for hour in range(24))
"""All 48 slots, weekdays first."""
SLOTS_OF_HOUR: Final = tuple(frozenset(Slot(hour, day_type) for day_type in DayType) for hour in range(24))
"""The slots of each hour of the day."""

_T = TypeVar("_T")


class FallbackLevel(IntEnum):
    """Which hours a baseline is pooled from; lower is more specific."""

    EXACT = 1
    """The same hour of the day on the same day type."""
    NEARBY = 2
    """The hours around it, on the same day type."""
    DAYTYPE = 3
    """All hours of the same day type."""
    GLOBAL = 4
    """All hours."""
    UNAVAILABLE = 5
    """Too little history for any level: no baseline and no verdict."""


class LevelRule(NamedTuple):
    """A level that may serve a slot, the traces it requires, and the slots whose hours it pools."""

    level: FallbackLevel
    min_samples: int
    slots: frozenset[Slot]


@dataclass(frozen=True)
class FallbackRules:
    """Which levels may serve, and how many traces each requires.

    Attributes:
        min_samples: traces required by level 1.
        enabled: whether levels 2 to 4 may serve at all.
        nearby_enabled: whether level 2 may serve.
        nearby_hours_range: hours before and after the slot that level 2 includes.
        nearby_min_samples: traces required by level 2.
        daytype_enabled: whether level 3 may serve.
        daytype_min_samples: traces required by level 3.
        global_enabled: whether level 4 may serve.
        global_min_samples: traces required by level 4.
        lookback_seconds: maximum age of pooled hours.
    """

    min_samples: int = 50
    enabled: bool = True
    nearby_enabled: bool = True
    nearby_hours_range: int = 2
    nearby_min_samples: int = 20
    daytype_enabled: bool = True
    daytype_min_samples: int = 50
    global_enabled: bool = True
    global_min_samples: int = 30
    lookback_seconds: int = 14 * 24 * HOUR_SECONDS

    def levels(self) -> Iterator[tuple[FallbackLevel, int]]:
        """Yield the levels that may serve, most specific first, with the traces that each requires."""
        yield FallbackLevel.EXACT, self.min_samples
        if self.enabled and self.nearby_enabled:
            yield FallbackLevel.NEARBY, self.nearby_min_samples
        if self.enabled and self.daytype_enabled:
            yield FallbackLevel.DAYTYPE, self.daytype_min_samples
        if self.enabled and self.global_enabled:
            yield FallbackLevel.GLOBAL, self.global_min_samples

    @cached_property
    def by_slot(self) -> Mapping[Slot, tuple[LevelRule, ...]]:
        """For each of the 48 slots, the levels that may serve it, most specific first."""
        # Levels 3 and 4 of different slots share one set object, which makes look-ups keyed by it fast.
        of_day_type = {day_type: frozenset(slot for slot in SLOTS if slot.day_type is day_type) for day_type in DayType}
        everything = frozenset(SLOTS)
        offsets = range(-self.nearby_hours_range, self.nearby_hours_range + 1)

        def pooled_slots(level: FallbackLevel, slot: Slot) -> frozenset[Slot]:
            match level:
                case FallbackLevel.EXACT:
                    return frozenset([slot])
                case FallbackLevel.NEARBY:
                    return frozenset(Slot((slot.hour + offset) % 24, slot.day_type) for offset in offsets)
                case FallbackLevel.DAYTYPE:
                    return of_day_type[slot.day_type]
                case _:
                    return everything

        return {
            slot: tuple(LevelRule(level, needed, pooled_slots(level, slot)) for level, needed in self.levels())
            for slot in SLOTS
        }


PoolSummary = tuple[int, int, SeriesHour | LocalHour, SeriesHour | LocalHour]
"""All that the choice of a level depends on: number of hours, number of traces, first hour and last hour of a pool.

A plain tuple, because history evaluation creates one for every hour of every series.
"""


def is_mature(level: FallbackLevel, pool: PoolSummary) -> bool:
    """Whether a pool of a level may serve a shift verdict."""
    hours, traces, first, last = pool
    if hours < MATURE_WINDOWS or traces < MATURE_TRACES:
        return False
    if level is FallbackLevel.EXACT:
        return True
    if level is FallbackLevel.NEARBY:
        return first.day != last.day
    return last.start - first.start >= MATURE_SPAN_SECONDS


def choose_level(
    candidates: Iterable[tuple[LevelRule, PoolSummary | None, _T]],
) -> tuple[FallbackLevel, bool, _T] | None:
    """Choose the level that serves: the first mature one with enough traces, else the first with enough traces.

    Args:
        candidates: the levels in order, each with the summary of its pool (None if it is empty) and any value; consumed
            up to the first mature level.

    Returns:
        The level, whether it is mature, and its value; None where no level has enough traces (level 5).
    """
    serving: tuple[FallbackLevel, bool, _T] | None = None
    for (level, min_samples, _), pool, value in candidates:
        if pool is None or pool[1] < min_samples:
            continue
        if is_mature(level, pool):
            return level, True, value
        if serving is None:
            serving = level, False, value
    return serving


def is_recurring(quarantined: int, others: int) -> bool:
    """Whether the quarantined hours of a slot are a recurring pattern (a nightly batch, say) and not incidents.

    They are if there are at least :data:`MATURE_WINDOWS`, and at least as many as hours that are not quarantined.
    """
    return quarantined >= MATURE_WINDOWS and quarantined >= others


class Pool(NamedTuple):
    """The hours that form the baseline of one local hour.

    Attributes:
        level: fallback level that serves.
        slot: slot of the local hour.
        hours: pooled hours, in time order.
        mature: whether the pool may serve a shift verdict; outliers are detected with any pool.
        released: quarantined hours of the slot that recur, and are therefore pooled.
        pooled: sum of the digests, if already computed; evaluating history does not need that of an immature pool.
    """

    level: FallbackLevel
    slot: Slot
    hours: tuple[SeriesHour, ...]
    mature: bool
    released: tuple[SeriesHour, ...] = ()
    pooled: Digest | None = None

    @property
    def digest(self) -> Digest:
        """Sum of the digests of the pooled hours."""
        return Digest.pool(hour.digest for hour in self.hours) if self.pooled is None else self.pooled


@dataclass(frozen=True, slots=True)
class Baseline:
    """Published figures of a pool.

    Attributes:
        level: fallback level that serves.
        slot: slot of the local hour.
        mature: whether the pool may serve a shift verdict.
        windows: number of pooled hours.
        count: number of pooled traces.
        p50_seconds: median.
        p95_seconds: 95th percentile.
        mad_seconds: median absolute deviation from the median.
    """

    level: FallbackLevel
    slot: Slot
    mature: bool
    windows: int
    count: int
    p50_seconds: float
    p95_seconds: float
    mad_seconds: float

    @classmethod
    def of(cls, pool: Pool) -> "Baseline":
        """Compute the figures of a pool."""
        return cls.of_digest(pool.digest, pool.level, pool.slot, windows=len(pool.hours), mature=pool.mature)

    @classmethod
    def of_digest(
        cls, digest: Digest, level: FallbackLevel, slot: Slot, *, windows: int, mature: bool = True
    ) -> "Baseline":
        """Compute the figures of pooled durations."""
        return cls(
            level=level,
            slot=slot,
            mature=mature,
            windows=windows,
            count=digest.count,
            p50_seconds=digest.quantile_seconds(0.5),
            p95_seconds=digest.quantile_seconds(0.95),
            mad_seconds=digest.mad_seconds(),
        )


def choose_pool(
    history: SeriesHours,
    at: int,
    slot: Slot,
    rules: FallbackRules,
    *,
    changepoint: int | None = None,
    suspects: Collection[int] = (),
) -> Pool | None:
    """Choose the hours that form the baseline of the local hour that begins at ``at``.

    Excluded are: the hour immediately before ``at``, which may still become quarantined; quarantined hours, unless they
    recur in the slot; suspects; and hours before the changepoint or the look-back.

    Args:
        history: hours of the series.
        at: start of the local hour, Unix seconds.
        slot: its slot.
        rules: which levels may serve.
        changepoint: start of the series' present behaviour, if a change was accepted.
        suspects: starts of unsettled hours that a firing flag has touched.

    Returns:
        The pool, or None where no level has enough traces (level 5).
    """
    since = at - rules.lookback_seconds
    if changepoint is not None:
        since = max(since, changepoint)
    until = at - HOUR_SECONDS
    level_rules = rules.by_slot[slot]
    released: Sequence[SeriesHour] = ()
    excluded: Collection[int] = suspects
    if history.quarantined:
        own, _ = history.group(level_rules[0].slots).between(since, until)
        quarantined = [hour for hour in own if hour.is_quarantined]
        if is_recurring(len(quarantined), len(own) - len(quarantined)):
            released = quarantined
        excluded = history.quarantined.difference([hour.start for hour in released]).union(suspects)
    chosen = choose_level(_candidates(history, level_rules, since, until, excluded))
    if chosen is None:
        return None
    level, mature, (group, hours) = chosen
    return Pool(level, slot, tuple(hours), mature, tuple(released), group.pool(hours) if mature else None)


def _candidates(
    history: SeriesHours, rules: Iterable[LevelRule], since: int, until: int, excluded: Collection[int]
) -> Iterator[tuple[LevelRule, PoolSummary | None, tuple[HourGroup, Sequence[SeriesHour]]]]:
    for rule in rules:
        _, min_samples, slots = rule
        group = history.group(slots)
        # Hours are not listed where, even with the excluded ones, they have too few traces.
        hours, traces = group.between(since, until, min_samples)
        if not hours:
            continue
        if excluded:
            hours = [hour for hour in hours if hour.start not in excluded]
            traces = sum([hour.count for hour in hours])
        yield rule, (len(hours), traces, hours[0], hours[-1]) if hours else None, (group, hours)
