"""Calendar and HourClock: slots, local hours and the window grid in time zones with all kinds of offsets."""

import tracemalloc
from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model.calendar import HOUR_SECONDS, Calendar, DayType, HourClock, Slot

HOUR = HOUR_SECONDS
DAY = 24 * HOUR
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",  # UTC-3:30
    "Asia/Kolkata",  # UTC+5:30, no DST
    "Asia/Kathmandu",  # UTC+5:45
    "Pacific/Chatham",  # UTC+12:45, with DST
    "Australia/Lord_Howe",  # DST of 30 minutes
    "Africa/Casablanca",  # four transitions in some years
    "Asia/Taipei",
)
STEPS = (60, 300, 360, 900, 1200, 1800, HOUR)

FIRST = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
LAST = int(datetime(2027, 1, 1, tzinfo=UTC).timestamp())

calendars = st.sampled_from(ZONES).map(lambda name: Calendar(ZoneInfo(name)))
steps = st.sampled_from(STEPS)


def transitions_of(calendar: Calendar) -> list[int]:
    """Return the instants at which the UTC offset changes, to the quarter of an hour."""
    offset = calendar.utc_offset_seconds
    days = [day for day in range(FIRST, LAST, DAY) if offset(day) != offset(day + DAY)]
    return [next(at for at in range(day, day + DAY + 1, 900) if offset(at) != offset(day)) for day in days]


TRANSITIONS = {name: transitions_of(Calendar(ZoneInfo(name))) for name in ZONES}


@st.composite
def calendars_and_instants(draw: st.DrawFn) -> tuple[Calendar, int]:
    """An instant in some zone, half of the time near a transition of its UTC offset."""
    name = draw(st.sampled_from(ZONES))
    anywhere = st.integers(FIRST, LAST)
    near = st.sampled_from(TRANSITIONS[name] or [FIRST]).flatmap(lambda at: st.integers(at - 2 * HOUR, at + 2 * HOUR))
    return Calendar(ZoneInfo(name)), draw(st.one_of(anywhere, near))


def at(zone: str, *wall: int, fold: int = 0) -> int:
    return int(datetime(*wall, tzinfo=ZoneInfo(zone), fold=fold).timestamp())  # type: ignore[misc, arg-type]


@given(calendars_and_instants(), steps)
def test_grid_floor_and_grid_next_enclose_an_instant(where: tuple[Calendar, int], step: int) -> None:
    calendar, instant = where
    floor, following = calendar.grid_floor(instant, step), calendar.grid_next(instant, step)
    assert floor <= instant < following
    assert following - floor <= step
    assert calendar.grid_floor(floor, step) == floor
    assert calendar.grid_next(floor, step) == following
    assert calendar.grid_floor(following - 1, step) == floor
    assert calendar.grid_floor(following, step) == following


@given(calendars_and_instants(), steps)
def test_grid_points_are_multiples_on_the_local_clock_or_transitions(where: tuple[Calendar, int], step: int) -> None:
    calendar, instant = where
    point = calendar.grid_floor(instant, step)
    offset = calendar.utc_offset_seconds(point)
    assert (point + offset) % step == 0 or calendar.utc_offset_seconds(point - 1) != offset


@given(calendars_and_instants(), st.integers(0, 30 * HOUR), steps)
def test_windows_partition_a_range(where: tuple[Calendar, int], seconds: int, step: int) -> None:
    calendar, start = where
    windows = list(calendar.windows(start, start + seconds, step))
    reached = start
    for window_start, window_end in windows:
        assert window_start == reached
        assert 0 < window_end - window_start <= step
        reached = window_end
    assert reached == start + seconds


@given(calendars_and_instants(), st.integers(1, 6 * HOUR), steps)
def test_window_lies_in_one_hour_of_the_local_clock(where: tuple[Calendar, int], seconds: int, step: int) -> None:
    calendar, start = where
    for window_start, window_end in calendar.windows(start, start + seconds, step):
        first, last = calendar.local(window_start), calendar.local(window_end - 1)
        assert (first.date(), first.hour, first.utcoffset()) == (last.date(), last.hour, last.utcoffset())
        assert calendar.slot(window_start) == calendar.slot(window_end - 1)


@given(calendars_and_instants(), st.integers(1, 6 * HOUR), steps)
def test_windows_do_not_depend_on_the_start_of_the_range(where: tuple[Calendar, int], seconds: int, step: int) -> None:
    """Only the first and last window of a range are cut, so the ledger's windows stay the same from day to day."""
    calendar, start = where
    begin = calendar.grid_floor(start, step)
    earlier = calendar.grid_floor(begin - 1, step)
    end = calendar.grid_floor(begin + seconds, step)
    assert list(calendar.windows(earlier, end, step))[1:] == list(calendar.windows(begin, end, step))


@given(calendars_and_instants())
def test_slot_is_local_hour_and_day_type(where: tuple[Calendar, int]) -> None:
    calendar, instant = where
    wall = datetime.fromtimestamp(instant, calendar.zone)
    expected = DayType.WEEKEND if wall.isoweekday() in (6, 7) else DayType.WEEKDAY
    assert calendar.slot(instant) == Slot(wall.hour, expected)


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", (2026, 3, 29), 23),
        ("Europe/Berlin", (2026, 10, 25), 25),
        ("Europe/Berlin", (2026, 6, 1), 24),
        ("America/New_York", (2026, 3, 8), 23),
        ("America/New_York", (2026, 11, 1), 25),
        ("America/St_Johns", (2026, 3, 8), 23),
        ("Asia/Kolkata", (2026, 3, 29), 24),
        ("UTC", (2026, 3, 29), 24),
    ],
)
def test_day_has_one_window_per_local_hour(zone: str, day: tuple[int, int, int], hours: int) -> None:
    calendar = Calendar(ZoneInfo(zone))
    following = date(*day) + timedelta(days=1)
    start, end = at(zone, *day), at(zone, following.year, following.month, following.day)
    windows = list(calendar.windows(start, end, HOUR))
    assert [window_end - window_start for window_start, window_end in windows] == [HOUR] * hours
    assert len({calendar.slot(window_start) for window_start, _ in windows}) == min(hours, 24)


def test_hour_skipped_by_dst_has_no_window() -> None:
    berlin = Calendar(ZoneInfo("Europe/Berlin"))
    start = at("Europe/Berlin", 2026, 3, 29, 1)
    hours = [berlin.slot(begin).hour for begin, _ in berlin.windows(start, start + 3 * HOUR, HOUR)]
    assert hours == [1, 3, 4]


def test_hour_repeated_by_dst_has_two_windows() -> None:
    berlin = Calendar(ZoneInfo("Europe/Berlin"))
    start = at("Europe/Berlin", 2026, 10, 25, 1)
    windows = list(berlin.windows(start, start + 4 * HOUR, HOUR))
    assert [berlin.slot(begin).hour for begin, _ in windows] == [1, 2, 2, 3]
    assert windows[2][0] == at("Europe/Berlin", 2026, 10, 25, 2, fold=1)


def test_dst_of_half_an_hour_makes_windows_of_half_an_hour() -> None:
    zone = "Australia/Lord_Howe"
    calendar = Calendar(ZoneInfo(zone))
    # In October the clock moves from 02:00 to 02:30.
    spring = at(zone, 2026, 10, 4, 1)
    windows = list(calendar.windows(spring, at(zone, 2026, 10, 4, 4), HOUR))
    lengths = [(calendar.local(begin).strftime("%H:%M"), end - begin) for begin, end in windows]
    assert lengths == [("01:00", HOUR), ("02:30", HOUR // 2), ("03:00", HOUR)]
    # In April the clock moves from 02:00 to 01:30.
    autumn = at(zone, 2026, 4, 5, 1)
    windows = list(calendar.windows(autumn, at(zone, 2026, 4, 5, 3), HOUR))
    lengths = [(calendar.local(begin).strftime("%H:%M"), end - begin) for begin, end in windows]
    assert lengths == [("01:00", HOUR), ("01:30", HOUR // 2), ("02:00", HOUR)]
    assert calendar.slot(windows[0][0]) == calendar.slot(windows[1][0])


def test_transition_within_an_hour_splits_its_window() -> None:
    """On the Chatham Islands the clock moves from 03:45 to 02:45."""
    zone = "Pacific/Chatham"
    calendar = Calendar(ZoneInfo(zone))
    windows = list(calendar.windows(at(zone, 2026, 4, 5, 2), at(zone, 2026, 4, 5, 4), HOUR))
    lengths = [(calendar.local(begin).strftime("%H:%M"), (end - begin) // 60) for begin, end in windows]
    assert lengths == [("02:00", 60), ("03:00", 45), ("02:45", 15), ("03:00", 60)]


def test_hours_follow_offsets_that_are_no_whole_hours() -> None:
    kolkata = Calendar(ZoneInfo("Asia/Kolkata"))
    noon_utc = int(datetime(2026, 5, 5, 12, tzinfo=UTC).timestamp())
    assert kolkata.slot(noon_utc) == Slot(17, DayType.WEEKDAY)
    assert kolkata.utc_offset_seconds(noon_utc) == 19_800
    assert kolkata.grid_floor(noon_utc, HOUR) == noon_utc - HOUR // 2
    kathmandu = Calendar(ZoneInfo("Asia/Kathmandu"))
    assert kathmandu.grid_floor(noon_utc, HOUR) == noon_utc - 45 * 60
    assert kathmandu.grid_floor(noon_utc, 900) == noon_utc


def test_day_type_is_that_of_the_local_date() -> None:
    """Friday 21:00 in New York is Saturday in UTC and in Taipei."""
    friday_night = at("America/New_York", 2026, 5, 1, 21)
    assert Calendar(ZoneInfo("America/New_York")).slot(friday_night) == Slot(21, DayType.WEEKDAY)
    assert Calendar().slot(friday_night) == Slot(1, DayType.WEEKEND)
    assert Calendar(ZoneInfo("Asia/Taipei")).slot(friday_night) == Slot(9, DayType.WEEKEND)


def test_weekend_days_are_configurable() -> None:
    friday = date(2026, 5, 1)
    week = [friday + timedelta(days=ahead) for ahead in range(7)]
    cairo = Calendar(weekend=frozenset({4, 5}))
    assert [cairo.day_type(day) is DayType.WEEKEND for day in week] == [True, True] + [False] * 5
    never = Calendar(weekend=frozenset())
    assert all(never.day_type(day) is DayType.WEEKDAY for day in week)


def test_holiday_counts_as_weekend_from_local_midnight_to_midnight() -> None:
    zone = "Asia/Taipei"
    calendar = Calendar(ZoneInfo(zone), is_holiday=lambda day: (day.month, day.day) == (10, 9))
    friday = at(zone, 2026, 10, 9)
    assert calendar.slot(friday - 1) == Slot(23, DayType.WEEKDAY)
    assert calendar.slot(friday) == Slot(0, DayType.WEEKEND)
    assert calendar.slot(friday + DAY - 1) == Slot(23, DayType.WEEKEND)
    assert Calendar(ZoneInfo(zone)).slot(friday) == Slot(0, DayType.WEEKDAY)


def test_slot_formats_as_day_type_and_hours() -> None:
    assert str(Slot(9, DayType.WEEKDAY)) == "weekday 09:00-10:00"
    assert str(Slot(23, DayType.WEEKEND)) == "weekend 23:00-00:00"


def test_slot_of_a_fraction_of_a_second() -> None:
    hour = at("UTC", 2026, 5, 4, 10)
    assert Calendar().slot(hour - 0.001) == Slot(9, DayType.WEEKDAY)
    assert Calendar().slot(hour + 0.999) == Slot(10, DayType.WEEKDAY)


@given(st.data())
def test_hour_clock_returns_the_hours_of_its_calendar(data: st.DataObject) -> None:
    calendar, instant = data.draw(calendars_and_instants())
    if data.draw(st.booleans()):
        # An offset that no zone has today; the result must be correct nevertheless.
        calendar = Calendar(timezone(timedelta(seconds=data.draw(st.integers(-50_000, 50_000)))))
    clock = HourClock(calendar)
    for offset in data.draw(st.lists(st.integers(-2 * HOUR, 2 * HOUR) | st.sampled_from(range(0, 7200, 300)))):
        requested = instant + offset
        found = clock.hour(requested)
        assert found.start == calendar.grid_floor(requested, HOUR)
        assert found.end == calendar.grid_next(found.start, HOUR)
        assert found.start <= requested < found.end
        assert (found.slot, found.day) == (calendar.slot(requested), calendar.local(requested).toordinal())


def test_hour_clock_does_not_cache_single_seconds() -> None:
    clock = HourClock(Calendar(ZoneInfo("Asia/Kathmandu")))
    tracemalloc.start()
    try:
        for second in range(FIRST, FIRST + DAY // 2):
            clock.hour(second)
        allocated, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert allocated < 100_000
