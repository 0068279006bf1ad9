"""Hours of a series: grouping of windows, marks, damaged bytes, and swings."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model.calendar import Calendar, DayType, HourClock, Slot
from exporter.model.deviations import MAX_LANES
from exporter.model.histogram import Digest
from exporter.model.histogram_codec import DamagedDigestError, encode_digest, encode_marks
from exporter.model.hour_evaluation import NO_SWINGS, HourEvaluation
from exporter.model.hours import SeriesHours, hours_of
from exporter.model.series_hour import SeriesHour, StoredWindow

HOUR = 3600
MONDAY = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp())
CLOCK = HourClock(Calendar())
QUARANTINED = HourEvaluation(quarantined=True)


def stored(start: int, count: int, bucket: int = 0) -> StoredWindow:
    return StoredWindow(start, count, encode_digest(Digest({bucket: count})))


def test_windows_of_one_local_hour_make_one_hour() -> None:
    clock = HourClock(Calendar(ZoneInfo("Asia/Kolkata")))
    begin = MONDAY - HOUR // 2
    windows = [stored(begin + part * 600, part + 1, bucket=part) for part in (5, 0, 3)] + [stored(begin + HOUR, 0)]
    (merged,) = hours_of(windows, clock, {begin: QUARANTINED})
    assert merged.start == begin
    assert merged.slot == Slot(5, DayType.WEEKDAY)
    assert merged.count == 11
    assert merged.counts == {0: 1, 3: 4, 5: 6}
    assert merged.evaluation == QUARANTINED


def test_hour_repeated_by_dst_is_two_hours_of_one_slot() -> None:
    clock = HourClock(Calendar(ZoneInfo("Europe/Berlin")))
    begin = int(datetime(2026, 10, 25, 0, tzinfo=UTC).timestamp())
    first, second = hours_of([stored(begin, 1), stored(begin + HOUR, 1)], clock)
    assert first.slot == second.slot == Slot(2, DayType.WEEKEND)
    assert (first.day, second.start - first.start) == (second.day, HOUR)


def test_marks_yield_the_buckets_of_traces_by_end_time() -> None:
    hour = CLOCK.hour(MONDAY)
    digest = encode_digest(Digest({5: 2, 9: 1}))
    whole = StoredWindow(MONDAY, 3, digest, encode_marks({1: Digest({5: 2}), 14: Digest({9: 1})}))
    assert list(SeriesHour(hour, [whole]).marks()) == [(MONDAY + 300, [5, 5]), (MONDAY + 14 * 300, [9])]
    # A window that starts between two marks: its first mark is the next mark of the clock.
    sixth = stored(MONDAY + 360, 1, 5)._replace(marks=encode_marks({1: Digest({5: 1})}))
    assert list(SeriesHour(hour, [sixth]).marks()) == [(MONDAY + 900, [5])]
    assert list(SeriesHour(hour, [stored(MONDAY, 1)]).marks()) == []


marks_of_windows = st.lists(
    st.dictionaries(st.integers(1, 30), st.dictionaries(st.integers(0, 3), st.integers(1, 20), min_size=1), min_size=1),
    min_size=1,
    max_size=4,
)


@given(marks_of_windows, st.sampled_from([0, 360, 1200]))
def test_runs_are_counted_without_decoding_them(parts: list[dict[int, dict[int, int]]], first: int) -> None:
    windows = []
    for index, marks in enumerate(parts):
        digests = {offset: Digest(counts) for offset, counts in marks.items()}
        whole = Digest.pool(digests.values())
        start = MONDAY + first + 360 * index
        windows.append(StoredWindow(start, whole.count, encode_digest(whole), encode_marks(digests)))
    hour = SeriesHour(CLOCK.hour(MONDAY), windows)
    runs = [run for run in hour.runs if run.first != MONDAY + HOUR + 300]
    assert hour.run_number == sum((run.end - run.first) // 900 + 1 for run in runs)
    assert SeriesHour(CLOCK.hour(MONDAY), [stored(MONDAY, 1)]).run_number == 0


def test_damaged_bytes_raise_on_first_use() -> None:
    damaged = SeriesHour(CLOCK.hour(MONDAY), [StoredWindow(MONDAY, 1, b"\xff", b"\xff")])
    with pytest.raises(DamagedDigestError):
        _ = damaged.counts
    with pytest.raises(DamagedDigestError):
        list(damaged.marks())


def test_busy_hours_are_those_with_enough_traffic_unless_they_are_few() -> None:
    counts = [30, 100, 30, 100, 99, 200, 30, 500, 500]
    history = SeriesHours(
        SeriesHour(
            CLOCK.hour(MONDAY + index * HOUR),
            [stored(MONDAY + index * HOUR, count)],
            # The hour before the last is quarantined, and the last one had no prediction.
            HourEvaluation(index == 7, (1 << index, *[0] * 23) if index < 8 else NO_SWINGS),
        )
        for index, count in enumerate(counts)
    )
    end = MONDAY + 9 * HOUR

    def busy(least: int, share: int = 4, until: int = end, released: tuple[int, ...] = ()) -> int:
        """Each hour has its own bit in the sum."""
        hours = [hour for index in released if (hour := history.at(MONDAY + index * HOUR)) is not None]
        return sum(day[0] for day in history.busy_swings(until, least, share, hours))

    def bits(*hours: int) -> int:
        return sum(1 << hour for hour in hours)

    assert busy(100) == bits(1, 3, 5)
    assert busy(100, until=MONDAY + 5 * HOUR) == bits(1, 3)
    assert busy(100, released=(7,)) == bits(1, 3, 5, 7)
    # Most of them, and all.
    assert busy(99) == bits(1, 3, 4, 5)
    assert busy(1) == bits(*range(7))
    # One of seven hours, and two of eight.
    assert busy(200) == 0
    assert busy(200, share=7) == bits(5)
    assert busy(200, released=(7,)) == bits(5, 7)


def test_swings_sum_over_hours_that_are_not_quarantined() -> None:
    def swinging(index: int, quarantined: bool) -> SeriesHour:
        start = MONDAY + index * HOUR
        return SeriesHour(
            CLOCK.hour(start), [stored(start, 1)], HourEvaluation(quarantined, (index, 1, 10 * index, 2, *[0] * 20))
        )

    history = SeriesHours([swinging(1, False), swinging(2, True), swinging(3, False)])
    end = MONDAY + 4 * HOUR
    assert history.swings(end) == (4, 2, 40, 4, *[0] * 20)
    assert history.swings(end - HOUR) == (1, 1, 10, 2, *[0] * 20)
    assert history.swings(end - HOUR + 1) == (4, 2, 40, 4, *[0] * 20)
    assert history.swings(MONDAY) == NO_SWINGS
    quarantined = history.at(MONDAY + 2 * HOUR)
    assert quarantined is not None
    assert history.swings(end, [quarantined]) == (6, 3, 60, 6, *[0] * 20)
    history.set_evaluation(quarantined, quarantined.evaluation._replace(quarantined=False))
    history.discard_before(MONDAY + 2 * HOUR)
    assert history.swings(end) == (5, 2, 50, 4, *[0] * 20)
    assert [member.start for member in history] == [MONDAY + 2 * HOUR, MONDAY + 3 * HOUR]
    assert len(history) == 2
    assert not history.quarantined


evaluations = st.builds(
    HourEvaluation,
    quarantined=st.sampled_from([False, False, False, True]),
    swings=st.one_of(st.just(NO_SWINGS), st.tuples(*[st.integers(0, 2**18)] * len(NO_SWINGS))),
    deviations=st.one_of(st.just(b""), st.binary(min_size=MAX_LANES, max_size=MAX_LANES)),
)


def sums_of(history: SeriesHours, until: int) -> tuple[object, ...]:
    return history.swings(until), set(history.daily_swings(until)), history.profile(until, 1), history.quarantined


@given(st.lists(evaluations, max_size=60), evaluations, st.integers(0, 70))
def test_known_sums_replace_the_evaluations_that_they_are_of(
    found: list[HourEvaluation], next_one: HourEvaluation, dropped: int
) -> None:
    windows = [stored(MONDAY + number * HOUR, 1) for number in range(len(found) + 1)]
    by_start = {window.start: each for window, each in zip(windows, found, strict=False)}
    encoded = {start: each.encoded() for start, each in by_start.items()}
    sums = SeriesHours(hours_of(windows, CLOCK, by_start)).sums()
    assert sums is not None
    plain = SeriesHours(hours_of(windows, CLOCK, by_start))
    known = SeriesHours(hours_of(windows, CLOCK, encoded), sums)
    end = MONDAY + 100 * HOUR
    for history in (plain, known):
        last = history.at(windows[-1].start)
        assert last is not None
        history.set_evaluation(last, next_one)
        history.discard_before(MONDAY + dropped * HOUR)
    for until in (end, MONDAY + 30 * HOUR):
        assert sums_of(known, until) == sums_of(plain, until)
    assert [hour.evaluation for hour in known] == [hour.evaluation for hour in plain]
    later = [window for window in windows if window.start >= MONDAY + dropped * HOUR]
    encoded[windows[-1].start] = next_one.encoded()
    # As the next evaluation reads them, and with the sums from before.
    for each in (known.sums(), sums):
        again = SeriesHours(hours_of(later, CLOCK, encoded), each)
        assert sums_of(again, end) == sums_of(plain, end)


def test_absurd_sums_are_not_kept() -> None:
    most = HourEvaluation(swings=(2**32 - 1, *[1] * (len(NO_SWINGS) - 1)))
    windows = [stored(MONDAY + number * HOUR, 1) for number in range(2)]
    assert SeriesHours(hours_of(windows, CLOCK, {window.start: most for window in windows})).sums() is None


def test_hours_of_slots_that_began_before_an_instant() -> None:
    history = SeriesHours(hours_of([stored(MONDAY + number * HOUR, 1) for number in range(7 * 24)], CLOCK))
    slots = frozenset([Slot(3, DayType.WEEKDAY), Slot(3, DayType.WEEKEND)])
    third = [MONDAY + (24 * day + 3) * HOUR for day in range(7)]
    assert sorted(hour.start for hour in history.of_slots(slots, MONDAY + 7 * 24 * HOUR)) == third
    assert sorted(hour.start for hour in history.of_slots(slots, third[4])) == third[:4]
    history.discard_before(third[1])
    assert sorted(hour.start for hour in history.of_slots(slots, third[4])) == third[1:4]


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 9)), min_size=1, max_size=60),
    st.sets(st.integers(0, 59)),
    st.integers(0, 60),
    st.integers(0, 30),
)
def test_daily_swings_are_the_same_sums_by_day(
    hours: list[tuple[bool, int]], changed: set[int], until: int, discarded: int
) -> None:
    evaluations = [HourEvaluation(quarantined, (value, 1, *[0] * 22)) for quarantined, value in hours]
    history = SeriesHours()
    for index, evaluation in enumerate(evaluations):
        start = MONDAY + index * HOUR
        history.append(SeriesHour(CLOCK.hour(start), [stored(start, 1)], evaluation))
        if index in changed:
            hour = history.at(start)
            assert hour is not None
            history.set_evaluation(hour, evaluation._replace(quarantined=not evaluation.quarantined))
    history.discard_before(MONDAY + discarded * HOUR)
    limit = MONDAY + until * HOUR
    released = [hour for hour in history if hour.evaluation.quarantined and hour.start < limit][:2]
    expected: dict[int, int] = {}
    for hour in history:
        if hour.start < limit and (not hour.evaluation.quarantined or hour in released):
            expected[hour.day] = expected.get(hour.day, 0) + hour.evaluation.swings[0]
    for found in (history, SeriesHours(history)):
        days = found.daily_swings(limit, released)
        assert sorted(day[0] for day in days if day[1]) == sorted(expected.values())
        assert found.swings(limit, released)[:2] == (sum(day[0] for day in days), sum(day[1] for day in days))
