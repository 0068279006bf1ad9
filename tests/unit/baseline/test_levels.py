"""Choice of the baseline pool, and its figures."""

import random
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.baseline.levels import (
    Baseline,
    FallbackLevel,
    FallbackRules,
    LevelRule,
    Pool,
    PoolSummary,
    choose_level,
    choose_pool,
)
from exporter.model.calendar import Calendar, DayType, HourClock, Slot
from exporter.model.histogram import Digest
from exporter.model.histogram_codec import encode_digest
from exporter.model.hour_evaluation import HourEvaluation
from exporter.model.hours import SeriesHours, hours_of
from exporter.model.series_hour import SeriesHour, StoredWindow

HOUR = 3600
DAY = 24 * HOUR
MONDAY = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp())
CLOCK = HourClock(Calendar())
QUARANTINED = HourEvaluation(quarantined=True)


def stored(start: int, count: int, bucket: int = 0) -> StoredWindow:
    return StoredWindow(start, count, encode_digest(Digest({bucket: count})))


def hour(start: int, count: int, bucket: int = 0, evaluation: HourEvaluation | None = None) -> SeriesHour:
    return SeriesHour(CLOCK.hour(start), [stored(start, count, bucket)], evaluation or HourEvaluation())


def weekdays(of_day: int, count: int, days: Iterable[int] = range(5), bucket: int = 0) -> list[SeriesHour]:
    return [hour(MONDAY + day * DAY + of_day * HOUR, count, bucket) for day in days]


def pool_at(history: Iterable[SeriesHour], at: int, rules: FallbackRules | None = None, **more: object) -> Pool | None:
    return choose_pool(SeriesHours(history), at, CLOCK.hour(at).slot, rules or FallbackRules(), **more)  # type: ignore[arg-type]


def starts(pool: Pool | None) -> list[int]:
    assert pool is not None
    return [member.start for member in pool.hours]


def test_exact_slot_serves_if_it_has_enough_traces() -> None:
    history = weekdays(14, 20) + weekdays(15, 1000, bucket=64)
    pool = pool_at(history, MONDAY + 7 * DAY + 14 * HOUR)
    assert pool is not None
    assert (pool.level, pool.mature) == (FallbackLevel.EXACT, True)
    assert starts(pool) == [MONDAY + day * DAY + 14 * HOUR for day in range(5)]
    assert pool.digest == Digest({0: 100})


def test_level_2_includes_the_exact_hour() -> None:
    history = weekdays(14, 3) + weekdays(12, 2) + weekdays(16, 2) + weekdays(17, 100) + weekdays(11, 100)
    pool = pool_at(history, MONDAY + 7 * DAY + 14 * HOUR)
    assert pool is not None
    assert pool.level is FallbackLevel.NEARBY
    assert len(pool.hours) == 15
    assert starts(pool) == sorted(starts(pool))


def test_level_2_wraps_around_midnight_within_its_day_type() -> None:
    saturday = [hour(MONDAY + 5 * DAY + of_day * HOUR, 100) for of_day in (0, 22, 23)]
    history = weekdays(23, 4) + weekdays(1, 4) + saturday
    pool = pool_at(history, MONDAY + 7 * DAY + 0 * HOUR)
    assert pool is not None
    assert pool.level is FallbackLevel.NEARBY
    assert all(member.slot.day_type is DayType.WEEKDAY for member in pool.hours)
    assert {member.slot.hour for member in pool.hours} == {23, 1}


def test_level_3_pools_the_day_type_and_level_4_everything() -> None:
    history = weekdays(3, 12)
    at = MONDAY + 7 * DAY + 14 * HOUR
    pool = pool_at(history, at)
    assert pool is not None
    assert pool.level is FallbackLevel.DAYTYPE
    sunday = pool_at(history, MONDAY + 6 * DAY + 14 * HOUR)
    assert sunday is not None
    assert sunday.level is FallbackLevel.GLOBAL


@pytest.mark.parametrize(
    ("rules", "level"),
    [
        (FallbackRules(nearby_enabled=False), FallbackLevel.DAYTYPE),
        (FallbackRules(nearby_enabled=False, daytype_enabled=False), FallbackLevel.GLOBAL),
        (FallbackRules(nearby_hours_range=0), FallbackLevel.DAYTYPE),
        (FallbackRules(nearby_min_samples=1000), FallbackLevel.DAYTYPE),
        (FallbackRules(min_samples=2), FallbackLevel.NEARBY),
    ],
)
def test_levels_are_configurable(rules: FallbackRules, level: FallbackLevel) -> None:
    # One trace a day in the slot itself: with min_samples of 2 level 1 has enough traces, but is not mature.
    history = weekdays(13, 12) + weekdays(14, 1)
    pool = pool_at(history, MONDAY + 7 * DAY + 14 * HOUR, rules)
    assert pool is not None
    assert pool.level is level


@pytest.mark.parametrize(
    "rules",
    [
        FallbackRules(enabled=False),
        FallbackRules(nearby_enabled=False, daytype_enabled=False, global_enabled=False),
    ],
)
def test_no_pool_if_fallback_levels_are_disabled(rules: FallbackRules) -> None:
    assert pool_at(weekdays(13, 1000), MONDAY + 7 * DAY + 14 * HOUR, rules) is None


def test_first_level_with_enough_traces_serves_while_none_is_mature() -> None:
    two_hours = [hour(MONDAY + 13 * HOUR, 60), hour(MONDAY + 14 * HOUR, 60)]
    next_day = pool_at(two_hours, MONDAY + DAY + 14 * HOUR)
    assert next_day is not None
    assert (next_day.level, next_day.mature) == (FallbackLevel.EXACT, False)
    evening = pool_at(two_hours, MONDAY + 20 * HOUR)
    assert evening is not None
    assert (evening.level, evening.mature) == (FallbackLevel.DAYTYPE, False)


def test_mature_level_is_preferred_to_a_more_specific_immature_one() -> None:
    history = [hour(MONDAY + DAY + 14 * HOUR, 500), *weekdays(13, 30, days=(0, 1))]
    pool = pool_at(history, MONDAY + 2 * DAY + 14 * HOUR)
    assert pool is not None
    assert (pool.level, pool.mature) == (FallbackLevel.NEARBY, True)


@pytest.mark.parametrize(("hours", "mature"), [(24, False), (25, True)])
def test_level_3_is_mature_if_it_spans_a_day(hours: int, mature: bool) -> None:
    history = [hour(MONDAY + index * HOUR, 10) for index in range(hours)]
    pool = pool_at(history, MONDAY + 30 * HOUR, FallbackRules(nearby_enabled=False))
    assert pool is not None
    assert pool.level is FallbackLevel.DAYTYPE
    assert pool.mature is mature


def test_level_2_is_not_mature_with_hours_of_a_single_day() -> None:
    history = [hour(MONDAY + of_day * HOUR, 100) for of_day in (12, 13, 15)]
    pool = pool_at(history, MONDAY + DAY + 14 * HOUR)
    assert pool is not None
    assert (pool.level, pool.mature) == (FallbackLevel.NEARBY, False)


def test_pool_is_bounded_by_the_last_hour_the_look_back_and_the_changepoint() -> None:
    at = MONDAY + 20 * DAY
    history = [hour(at - hours_ago * HOUR, 10) for hours_ago in range(14 * 24 + 5, -1, -1)]
    rules = FallbackRules(nearby_enabled=False, min_samples=10**9)
    pool = pool_at(history, at, rules)
    assert pool is not None
    assert all(at - 14 * DAY <= start <= at - 2 * HOUR for start in starts(pool))
    assert max(starts(pool)) == at - 2 * HOUR
    later = pool_at(history, at, rules, changepoint=at - 3 * DAY)
    assert min(starts(later)) >= at - 3 * DAY


def test_quarantined_and_suspect_hours_are_excluded() -> None:
    history = weekdays(14, 20)
    history[1].evaluation = QUARANTINED
    at = MONDAY + 7 * DAY + 14 * HOUR
    pool = pool_at(history, at, suspects={history[4].start})
    assert starts(pool) == [history[index].start for index in (0, 2, 3)]


def test_recurring_quarantined_hours_are_released() -> None:
    history = weekdays(14, 20, days=(0, 1, 2, 3, 4, 7))
    for member in history[:3]:
        member.evaluation = QUARANTINED
    at = MONDAY + 8 * DAY + 14 * HOUR
    pool = pool_at(history, at)
    assert pool is not None
    assert len(pool.hours) == 6
    assert list(pool.released) == history[:3]

    history.append(hour(MONDAY + 8 * DAY + 14 * HOUR, 20))
    pool = pool_at(history, at + DAY)
    assert pool is not None
    assert len(pool.hours) == 4
    assert not pool.released


def test_no_pool_with_too_few_traces() -> None:
    assert pool_at(weekdays(14, 1), MONDAY + 7 * DAY) is None
    assert pool_at([], MONDAY) is None


def test_baseline_has_the_figures_of_its_pool() -> None:
    windows = [
        StoredWindow(MONDAY + day * DAY, 50, encode_digest(Digest.of_ns(range(10**7, 6 * 10**7, 10**6))))
        for day in range(4)
    ]
    pool = pool_at(hours_of(windows, CLOCK), MONDAY + 4 * DAY)
    assert pool is not None
    baseline = Baseline.of(pool)
    assert (baseline.level, baseline.mature, baseline.windows, baseline.count) == (FallbackLevel.EXACT, True, 4, 200)
    assert baseline.slot == Slot(0, DayType.WEEKDAY)
    assert baseline.p50_seconds == pytest.approx(0.034, rel=0.012)
    assert baseline.p95_seconds == pytest.approx(0.057, rel=0.012)
    assert baseline.mad_seconds == pytest.approx(0.0125, rel=0.06)


@st.composite
def histories(draw: st.DrawFn) -> list[SeriesHour]:
    offsets = draw(st.lists(st.integers(0, 15 * 24), min_size=1, max_size=60, unique=True))
    return [
        SeriesHour(
            CLOCK.hour(MONDAY + offset * HOUR),
            [stored(MONDAY + offset * HOUR, draw(st.integers(1, 40)), draw(st.integers(-3, 3)))],
            HourEvaluation(quarantined=draw(st.integers(0, 4)) == 0),
        )
        for offset in offsets
    ]


@given(histories(), st.integers(0, 15 * 24), st.integers(0, 2**32))
def test_pool_is_the_sum_of_its_hours_regardless_of_their_order(
    hours: list[SeriesHour], offset: int, seed: int
) -> None:
    shuffled = hours.copy()
    random.Random(seed).shuffle(shuffled)
    history = SeriesHours(hours)
    # The second pool updates the cached sum of the first, and must not depend on it.
    for at in (MONDAY + offset * HOUR, MONDAY + (offset + 1) * HOUR):
        slot = CLOCK.hour(at).slot
        pool = choose_pool(history, at, slot, FallbackRules())
        again = choose_pool(SeriesHours(shuffled), at, slot, FallbackRules())
        assert pool == again
        if pool is not None:
            total = Counter[int]()
            for member in pool.hours:
                total.update(member.counts)
            assert pool.digest == Digest(total)
            assert all(member.start <= at - 2 * HOUR for member in pool.hours)
            assert not any(member.evaluation.quarantined for member in pool.hours if member not in pool.released)


@st.composite
def candidates(draw: st.DrawFn) -> list[tuple[LevelRule, PoolSummary | None, int]]:
    found: list[tuple[LevelRule, PoolSummary | None, int]] = []
    for level in draw(st.lists(st.sampled_from([1, 2, 3, 4]), unique=True).map(sorted)):
        first, hours = draw(st.integers(0, 40)), draw(st.integers(0, 40))
        pool: PoolSummary | None = None
        if hours:
            start, end = (CLOCK.hour(MONDAY + number * HOUR) for number in (first, first + hours - 1))
            pool = draw(st.integers(1, hours)), draw(st.integers(1, 60)), start, end
        found.append((LevelRule(FallbackLevel(level), draw(st.integers(1, 60)), frozenset()), pool, level))
    return found


@given(candidates())
def test_chosen_level_is_the_first_mature_one_or_else_the_first_with_enough_traces(
    case: list[tuple[LevelRule, PoolSummary | None, int]],
) -> None:
    enough = [(level, *pool) for (_, needed, _), pool, level in case if pool is not None and pool[1] >= needed]
    mature = [
        level
        for level, hours, traces, first, last in enough
        if hours >= 3
        and traces >= 30
        and (level != 2 or last.day > first.day)
        and (level < 3 or last.start - first.start >= DAY)
    ]
    expected = (mature[0], True) if mature else (enough[0][0], False) if enough else None
    chosen = choose_level(case)
    assert (None if chosen is None else chosen[:2]) == expected
    assert chosen is None or chosen[2] == chosen[0]
