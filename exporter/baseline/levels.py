"""What is usual for a series at this hour: which past hours are pooled, and what their pool says.

For a given hour the fallback levels are tried in order, from the same hour on the same type of day to everything there
is, and the first whose pool is good enough serves.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

from exporter.model.calendar import HOUR_SECONDS, DayType, Slot
from exporter.model.histogram import Digest
from exporter.model.hours import Group, Hour, SeriesHours

# A pool serves a shift verdict only when it is mature; these are not meant to be tuned.
MATURE_WINDOWS: Final = 3
MATURE_TRACES: Final = 30
MATURE_DAYS: Final = 2
"""A first and a last day tell whether there are so many."""
MATURE_SPAN_SECONDS: Final = 24 * HOUR_SECONDS


class FallbackLevel(IntEnum):
    """Where a baseline comes from; the lower, the more specific."""

    EXACT = 1
    """The same hour of the day on the same type of day."""
    NEARBY = 2
    """The hours around it, on the same type of day."""
    DAYTYPE = 3
    """All hours of the same type of day."""
    GLOBAL = 4
    """Everything there is."""
    UNAVAILABLE = 5
    """Too little history for any of them: no verdict."""


@dataclass(frozen=True, slots=True)
class FallbackRules:
    """How many samples each level needs, and which levels may serve.

    Attributes:
        min_samples: traces that level 1 needs.
        enabled: whether levels 2 to 4 may serve at all.
        nearby_enabled: whether level 2 may serve.
        nearby_hours_range: how many hours before and after the slot level 2 takes in.
        nearby_min_samples: traces that level 2 needs.
        daytype_enabled: whether level 3 may serve.
        daytype_min_samples: traces that level 3 needs.
        global_enabled: whether level 4 may serve.
        global_min_samples: traces that level 4 needs.
        lookback_seconds: how far back hours are pooled.
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
        """The levels that may serve, most specific first, each with the traces it needs."""
        yield FallbackLevel.EXACT, self.min_samples
        if self.enabled and self.nearby_enabled:
            yield FallbackLevel.NEARBY, self.nearby_min_samples
        if self.enabled and self.daytype_enabled:
            yield FallbackLevel.DAYTYPE, self.daytype_min_samples
        if self.enabled and self.global_enabled:
            yield FallbackLevel.GLOBAL, self.global_min_samples


class Pool(NamedTuple):
    """The hours that serve as the baseline for one hour.

    Attributes:
        level: the fallback level that serves.
        slot: the slot that the baseline is for.
        hours: the pooled hours, in time order.
        mature: whether it may serve a shift verdict; the outlier rule works with any pool.
        released: hours of the slot that were quarantined until now and are a recurring pattern, hence usual.
        pooled: all their traces together, if they are added up; judging the past never asks for those of an immature
            pool.
    """

    level: FallbackLevel
    slot: Slot
    hours: tuple[Hour, ...]
    mature: bool
    released: tuple[Hour, ...] = ()
    pooled: Digest | None = None

    @property
    def digest(self) -> Digest:
        """All their traces together."""
        return Digest.pool(hour.digest for hour in self.hours) if self.pooled is None else self.pooled


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is published of a pool.

    Attributes:
        level: the fallback level that serves.
        slot: the slot that it is for.
        mature: whether it may serve a shift verdict.
        windows: number of hours pooled.
        count: number of traces pooled.
        p50_seconds: their median.
        p95_seconds: their 95th percentile.
        mad_seconds: their median absolute deviation from the median.
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
        """Sum up a pool."""
        digest = pool.digest
        return cls(
            level=pool.level,
            slot=pool.slot,
            mature=pool.mature,
            windows=len(pool.hours),
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
    """The hours that serve as the baseline for the hour that begins at ``at``.

    The hour before it is left out, since its quarantine is not certain yet; so are quarantined hours, and whatever
    began before the series' changepoint or the look-back. The first level with enough traces that is mature serves.
    While none is mature, the first with enough traces serves as immature.

    Args:
        history: the series' hours.
        at: start of the hour that is asked about, unix seconds.
        slot: its slot.
        rules: what the levels need.
        changepoint: start of what counts as this series' present behaviour, if a change was accepted.
        suspects: starts of hours that a raised flag has touched and that are not settled yet: left out as well.

    Returns:
        The pool, or None where no level has enough traces (level 5).
    """
    since = at - rules.lookback_seconds
    if changepoint is not None:
        since = max(since, changepoint)
    until = at - HOUR_SECONDS
    released: Sequence[Hour] = ()
    left_out: Collection[int] = suspects
    if history.quarantined:
        same_slot, _ = history.among(frozenset([slot])).between(since, until)
        released = _recurring(same_slot)
        left_out = history.quarantined.difference([hour.start for hour in released]).union(suspects)
    serving: tuple[FallbackLevel, Group, Sequence[Hour], bool] | None = None
    for level, min_samples, slots in _ladder(rules, slot):
        group = history.among(slots)
        hours, count = group.between(since, until, min_samples)
        if left_out:
            hours = [hour for hour in hours if hour.start not in left_out]
            count = sum([hour.count for hour in hours])
        if not hours or count < min_samples:
            continue
        mature = _is_mature(level, hours, count)
        if mature or serving is None:
            serving = level, group, hours, mature
        if mature:
            break
    if serving is None:
        return None
    level, group, hours, mature = serving
    return Pool(level, slot, tuple(hours), mature, tuple(released), group.pooled(hours) if mature else None)


def _recurring(hours: Sequence[Hour]) -> Sequence[Hour]:
    """The quarantined ones of a slot's hours where they are no incidents: a nightly batch, a daily plateau.

    What happens at this hour as often as not is usual.
    """
    quarantined = [hour for hour in hours if hour.judgement.quarantined]
    return quarantined if len(quarantined) >= max(MATURE_WINDOWS, len(hours) - len(quarantined)) else []


@lru_cache(maxsize=256)
def _ladder(rules: FallbackRules, slot: Slot) -> tuple[tuple[FallbackLevel, int, frozenset[Slot]], ...]:
    """The levels that may serve a slot, the traces that each needs, and the slots whose hours it takes in."""
    return tuple((level, needed, _slots_of(level, slot, rules.nearby_hours_range)) for level, needed in rules.levels())


def _slots_of(level: FallbackLevel, slot: Slot, nearby_hours_range: int) -> frozenset[Slot]:
    """The slots whose hours a level takes into consideration for one of them."""
    match level:
        case FallbackLevel.EXACT:
            return frozenset([slot])
        case FallbackLevel.NEARBY:
            reach = range(-nearby_hours_range, nearby_hours_range + 1)
            return frozenset(Slot((slot.hour + offset) % 24, slot.day_type) for offset in reach)
        case FallbackLevel.DAYTYPE:
            return frozenset(Slot(hour, slot.day_type) for hour in range(24))
        case _:
            return frozenset(Slot(hour, day_type) for day_type in DayType for hour in range(24))


def _is_mature(level: FallbackLevel, hours: Sequence[Hour], count: int) -> bool:
    if len(hours) < MATURE_WINDOWS or count < MATURE_TRACES:
        return False
    if level is FallbackLevel.NEARBY:
        return hours[0].day != hours[-1].day
    if level in (FallbackLevel.DAYTYPE, FallbackLevel.GLOBAL):
        # Otherwise half a day of night would judge the morning.
        return hours[-1].start - hours[0].start >= MATURE_SPAN_SECONDS
    return True
