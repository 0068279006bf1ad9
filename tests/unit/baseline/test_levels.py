"""Which hours make a baseline, and what is said of them."""

import random
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.baseline.levels import Baseline, FallbackLevel, FallbackRules, Pool, choose_pool
from exporter.model.calendar import Calendar, DayType, HourClock, Slot
from exporter.model.histogram import Digest
from exporter.model.histogram_codec import DamagedDigestError, encode_digest, encode_marks
from exporter.model.hours import NO_SWINGS, HourEvaluation, SeriesHour, SeriesHours, StoredWindow, hours_of

HOUR = 3600
DAY = 24 * HOUR
MONDAY = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp())
CLOCK = HourClock(Calendar())
QUARANTINED = HourEvaluation(quarantined=True)


def stored(start: int, count: int, bucket: int = 0) -> StoredWindow:
    return StoredWindow(start, count, encode_digest(Digest({bucket: count})))


def hour(start: int, count: int, bucket: int = 0, judgement: HourEvaluation | None = None) -> SeriesHour:
    return SeriesHour(CLOCK.hour(start), [stored(start, count, bucket)], judgement or HourEvaluation())


def weekdays(of_day: int, count: int, days: Iterable[int] = range(5), bucket: int = 0) -> list[SeriesHour]:
    return [hour(MONDAY + day * DAY + of_day * HOUR, count, bucket) for day in days]


def pool_at(history: Iterable[SeriesHour], at: int, rules: FallbackRules | None = None, **more: object) -> Pool | None:
    return choose_pool(SeriesHours(history), at, CLOCK.hour(at).slot, rules or FallbackRules(), **more)  # type: ignore[arg-type]


def starts(pool: Pool | None) -> list[int]:
    assert pool is not None
    return [member.start for member in pool.hours]


def test_the_exact_slot_serves_when_it_has_enough() -> None:
    history = weekdays(14, 20) + weekdays(15, 1000, bucket=64)
    pool = pool_at(history, MONDAY + 7 * DAY + 14 * HOUR)
    assert pool is not None
    assert (pool.level, pool.mature) == (FallbackLevel.EXACT, True)
    assert starts(pool) == [MONDAY + day * DAY + 14 * HOUR for day in range(5)]
    assert pool.digest == Digest({0: 100})


def test_what_the_exact_hour_has_belongs_to_its_neighbourhood() -> None:
    history = weekdays(14, 3) + weekdays(12, 2) + weekdays(16, 2) + weekdays(17, 100) + weekdays(11, 100)
    pool = pool_at(history, MONDAY + 7 * DAY + 14 * HOUR)
    assert pool is not None
    assert pool.level is FallbackLevel.NEARBY
    assert len(pool.hours) == 15
    assert starts(pool) == sorted(starts(pool))


def test_the_neighbourhood_wraps_round_midnight_and_keeps_to_its_type_of_day() -> None:
    saturday = [hour(MONDAY + 5 * DAY + of_day * HOUR, 100) for of_day in (0, 22, 23)]
    history = weekdays(23, 4) + weekdays(1, 4) + saturday
    pool = pool_at(history, MONDAY + 7 * DAY + 0 * HOUR)
    assert pool is not None
    assert pool.level is FallbackLevel.NEARBY
    assert all(member.slot.day_type is DayType.WEEKDAY for member in pool.hours)
    assert {member.slot.hour for member in pool.hours} == {23, 1}


def test_the_type_of_day_then_everything() -> None:
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
def test_levels_can_be_switched_off_and_tuned(rules: FallbackRules, level: FallbackLevel) -> None:
    # One trace at the hour itself, so that level 1 has enough but is not mature when two suffice.
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
def test_without_fallback_there_may_be_nothing(rules: FallbackRules) -> None:
    assert pool_at(weekdays(13, 1000), MONDAY + 7 * DAY + 14 * HOUR, rules) is None


def test_the_first_level_with_enough_serves_while_none_is_mature() -> None:
    two_hours = [hour(MONDAY + 13 * HOUR, 60), hour(MONDAY + 14 * HOUR, 60)]
    next_day = pool_at(two_hours, MONDAY + DAY + 14 * HOUR)
    assert next_day is not None
    assert (next_day.level, next_day.mature) == (FallbackLevel.EXACT, False)
    evening = pool_at(two_hours, MONDAY + 20 * HOUR)
    assert evening is not None
    assert (evening.level, evening.mature) == (FallbackLevel.DAYTYPE, False)


def test_a_mature_level_is_better_than_a_more_specific_one_that_is_not() -> None:
    history = [hour(MONDAY + DAY + 14 * HOUR, 500), *weekdays(13, 30, days=(0, 1))]
    pool = pool_at(history, MONDAY + 2 * DAY + 14 * HOUR)
    assert pool is not None
    assert (pool.level, pool.mature) == (FallbackLevel.NEARBY, True)


@pytest.mark.parametrize(("hours", "mature"), [(24, False), (25, True)])
def test_a_pool_of_all_hours_must_span_a_day(hours: int, mature: bool) -> None:
    history = [hour(MONDAY + index * HOUR, 10) for index in range(hours)]
    pool = pool_at(history, MONDAY + 30 * HOUR, FallbackRules(nearby_enabled=False))
    assert pool is not None
    assert pool.level is FallbackLevel.DAYTYPE
    assert pool.mature is mature


def test_a_neighbourhood_of_one_day_is_not_mature() -> None:
    history = [hour(MONDAY + of_day * HOUR, 100) for of_day in (12, 13, 15)]
    pool = pool_at(history, MONDAY + DAY + 14 * HOUR)
    assert pool is not None
    assert (pool.level, pool.mature) == (FallbackLevel.NEARBY, False)


def test_the_last_hour_the_look_back_and_the_changepoint_bound_the_pool() -> None:
    at = MONDAY + 20 * DAY
    history = [hour(at - hours_ago * HOUR, 10) for hours_ago in range(14 * 24 + 5, -1, -1)]
    rules = FallbackRules(nearby_enabled=False, min_samples=10**9)
    pool = pool_at(history, at, rules)
    assert pool is not None
    assert all(at - 14 * DAY <= start <= at - 2 * HOUR for start in starts(pool))
    assert max(starts(pool)) == at - 2 * HOUR
    later = pool_at(history, at, rules, changepoint=at - 3 * DAY)
    assert min(starts(later)) >= at - 3 * DAY


def test_quarantined_and_suspect_hours_are_left_out() -> None:
    history = weekdays(14, 20)
    history[1].judgement = QUARANTINED
    at = MONDAY + 7 * DAY + 14 * HOUR
    pool = pool_at(history, at, suspects={history[4].start})
    assert starts(pool) == [history[index].start for index in (0, 2, 3)]


def test_what_happens_as_often_as_not_is_released() -> None:
    history = weekdays(14, 20, days=(0, 1, 2, 3, 4, 7))
    for member in history[:3]:
        member.judgement = QUARANTINED
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


def test_too_little_for_any_level() -> None:
    assert pool_at(weekdays(14, 1), MONDAY + 7 * DAY) is None
    assert pool_at([], MONDAY) is None


def test_a_baseline_sums_up_its_pool() -> None:
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


def test_windows_of_one_local_hour_make_one_hour() -> None:
    clock = HourClock(Calendar(ZoneInfo("Asia/Kolkata")))
    begin = MONDAY - HOUR // 2
    windows = [stored(begin + part * 600, part + 1, bucket=part) for part in (5, 0, 3)] + [stored(begin + HOUR, 0)]
    (merged,) = hours_of(windows, clock, {begin: QUARANTINED})
    assert merged.start == begin
    assert merged.slot == Slot(5, DayType.WEEKDAY)
    assert merged.count == 11
    assert merged.counts == {0: 1, 3: 4, 5: 6}
    assert merged.judgement == QUARANTINED


def test_the_repeated_hour_of_autumn_is_two_hours_of_one_slot() -> None:
    clock = HourClock(Calendar(ZoneInfo("Europe/Berlin")))
    begin = int(datetime(2026, 10, 25, 0, tzinfo=UTC).timestamp())
    first, second = hours_of([stored(begin, 1), stored(begin + HOUR, 1)], clock)
    assert first.slot == second.slot == Slot(2, DayType.WEEKEND)
    assert (first.day, second.start - first.start) == (second.day, HOUR)


def test_marks_tell_when_traces_ended() -> None:
    civil = CLOCK.hour(MONDAY)
    digest = encode_digest(Digest({5: 2, 9: 1}))
    whole = StoredWindow(MONDAY, 3, digest, encode_marks({1: Digest({5: 2}), 14: Digest({9: 1})}))
    assert list(SeriesHour(civil, [whole]).marks()) == [(MONDAY + 300, [5, 5]), (MONDAY + 14 * 300, [9])]
    # Six minutes are no multiple of five: what ended by a mark of the window ended by the next mark of the clock.
    sixth = stored(MONDAY + 360, 1, 5)._replace(marks=encode_marks({1: Digest({5: 1})}))
    assert list(SeriesHour(civil, [sixth]).marks()) == [(MONDAY + 900, [5])]
    assert list(SeriesHour(civil, [stored(MONDAY, 1)]).marks()) == []


def test_damaged_bytes_are_found_out_when_they_are_needed() -> None:
    damaged = SeriesHour(CLOCK.hour(MONDAY), [StoredWindow(MONDAY, 1, b"\xff", b"\xff")])
    with pytest.raises(DamagedDigestError):
        _ = damaged.counts
    with pytest.raises(DamagedDigestError):
        list(damaged.marks())


def test_swings_are_those_of_the_hours_that_count() -> None:
    def swinging(index: int, quarantined: bool) -> SeriesHour:
        swings = (index, 1, 10 * index, 2, 0, 0)
        return hour(MONDAY + index * HOUR, 1, judgement=HourEvaluation(quarantined, swings))

    history = SeriesHours([swinging(1, False), swinging(2, True), swinging(3, False)])
    end = MONDAY + 4 * HOUR
    assert history.swings(end) == (4, 2, 40, 4, 0, 0)
    assert history.swings(end - HOUR) == (1, 1, 10, 2, 0, 0)
    assert history.swings(end - HOUR + 1) == (4, 2, 40, 4, 0, 0)
    assert history.swings(MONDAY) == NO_SWINGS
    quarantined = history.at(MONDAY + 2 * HOUR)
    assert quarantined is not None
    assert history.swings(end, [quarantined]) == (6, 3, 60, 6, 0, 0)
    history.judge(quarantined, quarantined.judgement._replace(quarantined=False))
    history.discard_before(MONDAY + 2 * HOUR)
    assert history.swings(end) == (5, 2, 50, 4, 0, 0)
    assert [member.start for member in history] == [MONDAY + 2 * HOUR, MONDAY + 3 * HOUR]
    assert len(history) == 2
    assert not history.quarantined


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
def test_a_pool_is_the_sum_of_its_hours_in_whatever_order_they_come(
    hours: list[SeriesHour], offset: int, seed: int
) -> None:
    shuffled = hours.copy()
    random.Random(seed).shuffle(shuffled)
    history = SeriesHours(hours)
    # The second question must not depend on the first, whose sum is reused.
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
            assert not any(member.judgement.quarantined for member in pool.hours if member not in pool.released)
