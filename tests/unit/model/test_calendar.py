"""Civil time: the wall clock of any zone, and windows that keep to it."""

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
    "America/St_Johns",  # half an hour off
    "Asia/Kolkata",  # half an hour off, no DST
    "Asia/Kathmandu",  # three quarters off
    "Pacific/Chatham",  # three quarters off, with DST
    "Australia/Lord_Howe",  # DST of half an hour
    "Africa/Casablanca",  # turned four times in some years
    "Asia/Taipei",
)
STEPS = (60, 300, 360, 900, 1200, 1800, HOUR)

FIRST = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
LAST = int(datetime(2027, 1, 1, tzinfo=UTC).timestamp())

calendars = st.sampled_from(ZONES).map(lambda name: Calendar(ZoneInfo(name)))
steps = st.sampled_from(STEPS)


def changes_of(calendar: Calendar) -> list[int]:
    """The instants at which the local clock is turned, to the quarter of an hour."""
    offset = calendar.utc_offset_seconds
    days = [day for day in range(FIRST, LAST, DAY) if offset(day) != offset(day + DAY)]
    return [next(at for at in range(day, day + DAY + 1, 900) if offset(at) != offset(day)) for day in days]


CHANGES = {name: changes_of(Calendar(ZoneInfo(name))) for name in ZONES}


@st.composite
def calendars_and_instants(draw: st.DrawFn) -> tuple[Calendar, int]:
    """An instant in some zone, as often as not near one at which the clock there is turned."""
    name = draw(st.sampled_from(ZONES))
    anywhere = st.integers(FIRST, LAST)
    near = st.sampled_from(CHANGES[name] or [FIRST]).flatmap(lambda at: st.integers(at - 2 * HOUR, at + 2 * HOUR))
    return Calendar(ZoneInfo(name)), draw(st.one_of(anywhere, near))


def at(zone: str, *wall: int, fold: int = 0) -> int:
    return int(datetime(*wall, tzinfo=ZoneInfo(zone), fold=fold).timestamp())  # type: ignore[misc, arg-type]


@given(calendars_and_instants(), steps)
def test_the_last_grid_line_and_the_next_enclose_an_instant(where: tuple[Calendar, int], step: int) -> None:
    calendar, instant = where
    floor, following = calendar.grid_floor(instant, step), calendar.grid_next(instant, step)
    assert floor <= instant < following
    assert following - floor <= step
    assert calendar.grid_floor(floor, step) == floor
    assert calendar.grid_next(floor, step) == following
    assert calendar.grid_floor(following - 1, step) == floor
    assert calendar.grid_floor(following, step) == following


@given(calendars_and_instants(), steps)
def test_grid_lines_are_multiples_on_the_wall_clock_or_where_it_is_turned(
    where: tuple[Calendar, int], step: int
) -> None:
    calendar, instant = where
    line = calendar.grid_floor(instant, step)
    offset = calendar.utc_offset_seconds(line)
    assert (line + offset) % step == 0 or calendar.utc_offset_seconds(line - 1) != offset


@given(calendars_and_instants(), st.integers(0, 30 * HOUR), steps)
def test_windows_cover_a_range_exactly_once(where: tuple[Calendar, int], seconds: int, step: int) -> None:
    calendar, start = where
    windows = list(calendar.windows(start, start + seconds, step))
    reached = start
    for window_start, window_end in windows:
        assert window_start == reached
        assert 0 < window_end - window_start <= step
        reached = window_end
    assert reached == start + seconds


@given(calendars_and_instants(), st.integers(1, 6 * HOUR), steps)
def test_no_window_straddles_an_hour_of_the_local_clock(where: tuple[Calendar, int], seconds: int, step: int) -> None:
    calendar, start = where
    for window_start, window_end in calendar.windows(start, start + seconds, step):
        first, last = calendar.local(window_start), calendar.local(window_end - 1)
        assert (first.date(), first.hour, first.utcoffset()) == (last.date(), last.hour, last.utcoffset())
        assert calendar.slot(window_start) == calendar.slot(window_end - 1)


@given(calendars_and_instants(), st.integers(1, 6 * HOUR), steps)
def test_windows_do_not_depend_on_where_the_range_begins(where: tuple[Calendar, int], seconds: int, step: int) -> None:
    """The ledger's windows of today are those of yesterday: only the ends of a range are cut."""
    calendar, start = where
    begin = calendar.grid_floor(start, step)
    earlier = calendar.grid_floor(begin - 1, step)
    end = calendar.grid_floor(begin + seconds, step)
    assert list(calendar.windows(earlier, end, step))[1:] == list(calendar.windows(begin, end, step))


@given(calendars_and_instants())
def test_slots_are_what_the_wall_clock_says(where: tuple[Calendar, int]) -> None:
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
def test_a_day_has_as_many_windows_as_hours(zone: str, day: tuple[int, int, int], hours: int) -> None:
    calendar = Calendar(ZoneInfo(zone))
    following = date(*day) + timedelta(days=1)
    start, end = at(zone, *day), at(zone, following.year, following.month, following.day)
    windows = list(calendar.windows(start, end, HOUR))
    assert [window_end - window_start for window_start, window_end in windows] == [HOUR] * hours
    assert len({calendar.slot(window_start) for window_start, _ in windows}) == min(hours, 24)


def test_the_hour_that_does_not_exist_has_no_window() -> None:
    berlin = Calendar(ZoneInfo("Europe/Berlin"))
    start = at("Europe/Berlin", 2026, 3, 29, 1)
    hours = [berlin.slot(begin).hour for begin, _ in berlin.windows(start, start + 3 * HOUR, HOUR)]
    assert hours == [1, 3, 4]


def test_the_hour_that_comes_twice_has_two_windows() -> None:
    berlin = Calendar(ZoneInfo("Europe/Berlin"))
    start = at("Europe/Berlin", 2026, 10, 25, 1)
    windows = list(berlin.windows(start, start + 4 * HOUR, HOUR))
    assert [berlin.slot(begin).hour for begin, _ in windows] == [1, 2, 2, 3]
    assert windows[2][0] == at("Europe/Berlin", 2026, 10, 25, 2, fold=1)


def test_dst_of_half_an_hour_makes_half_windows() -> None:
    zone = "Australia/Lord_Howe"
    calendar = Calendar(ZoneInfo(zone))
    # In October two o'clock becomes half past two.
    spring = at(zone, 2026, 10, 4, 1)
    windows = list(calendar.windows(spring, at(zone, 2026, 10, 4, 4), HOUR))
    lengths = [(calendar.local(begin).strftime("%H:%M"), end - begin) for begin, end in windows]
    assert lengths == [("01:00", HOUR), ("02:30", HOUR // 2), ("03:00", HOUR)]
    # In April two o'clock becomes half past one.
    autumn = at(zone, 2026, 4, 5, 1)
    windows = list(calendar.windows(autumn, at(zone, 2026, 4, 5, 3), HOUR))
    lengths = [(calendar.local(begin).strftime("%H:%M"), end - begin) for begin, end in windows]
    assert lengths == [("01:00", HOUR), ("01:30", HOUR // 2), ("02:00", HOUR)]
    assert calendar.slot(windows[0][0]) == calendar.slot(windows[1][0])


def test_a_clock_that_is_turned_in_the_middle_of_an_hour_cuts_that_hour() -> None:
    """On the Chatham Islands a quarter to four becomes a quarter to three."""
    zone = "Pacific/Chatham"
    calendar = Calendar(ZoneInfo(zone))
    windows = list(calendar.windows(at(zone, 2026, 4, 5, 2), at(zone, 2026, 4, 5, 4), HOUR))
    lengths = [(calendar.local(begin).strftime("%H:%M"), (end - begin) // 60) for begin, end in windows]
    assert lengths == [("02:00", 60), ("03:00", 45), ("02:45", 15), ("03:00", 60)]


def test_zones_off_by_half_an_hour_have_their_own_hours() -> None:
    kolkata = Calendar(ZoneInfo("Asia/Kolkata"))
    noon_utc = int(datetime(2026, 5, 5, 12, tzinfo=UTC).timestamp())
    assert kolkata.slot(noon_utc) == Slot(17, DayType.WEEKDAY)
    assert kolkata.utc_offset_seconds(noon_utc) == 19_800
    assert kolkata.grid_floor(noon_utc, HOUR) == noon_utc - HOUR // 2
    kathmandu = Calendar(ZoneInfo("Asia/Kathmandu"))
    assert kathmandu.grid_floor(noon_utc, HOUR) == noon_utc - 45 * 60
    assert kathmandu.grid_floor(noon_utc, 900) == noon_utc


def test_the_day_is_the_local_one() -> None:
    """Friday evening in New York is Saturday in UTC, and Saturday morning in Taipei is Friday there."""
    friday_night = at("America/New_York", 2026, 5, 1, 21)
    assert Calendar(ZoneInfo("America/New_York")).slot(friday_night) == Slot(21, DayType.WEEKDAY)
    assert Calendar().slot(friday_night) == Slot(1, DayType.WEEKEND)
    assert Calendar(ZoneInfo("Asia/Taipei")).slot(friday_night) == Slot(9, DayType.WEEKEND)


def test_the_weekend_is_whatever_it_is() -> None:
    friday = date(2026, 5, 1)
    week = [friday + timedelta(days=ahead) for ahead in range(7)]
    cairo = Calendar(weekend=frozenset({4, 5}))
    assert [cairo.day_type(day) is DayType.WEEKEND for day in week] == [True, True] + [False] * 5
    never = Calendar(weekend=frozenset())
    assert all(never.day_type(day) is DayType.WEEKDAY for day in week)


def test_a_holiday_counts_as_weekend_from_midnight_to_midnight() -> None:
    zone = "Asia/Taipei"
    calendar = Calendar(ZoneInfo(zone), is_holiday=lambda day: (day.month, day.day) == (10, 9))
    friday = at(zone, 2026, 10, 9)
    assert calendar.slot(friday - 1) == Slot(23, DayType.WEEKDAY)
    assert calendar.slot(friday) == Slot(0, DayType.WEEKEND)
    assert calendar.slot(friday + DAY - 1) == Slot(23, DayType.WEEKEND)
    assert Calendar(ZoneInfo(zone)).slot(friday) == Slot(0, DayType.WEEKDAY)


def test_a_slot_can_be_read_by_people() -> None:
    assert str(Slot(9, DayType.WEEKDAY)) == "weekday 09:00-10:00"
    assert str(Slot(23, DayType.WEEKEND)) == "weekend 23:00-00:00"


def test_fractions_of_a_second_lie_in_the_slot_of_their_second() -> None:
    hour = at("UTC", 2026, 5, 4, 10)
    assert Calendar().slot(hour - 0.001) == Slot(9, DayType.WEEKDAY)
    assert Calendar().slot(hour + 0.999) == Slot(10, DayType.WEEKDAY)


@given(st.data())
def test_a_clock_that_remembers_tells_the_hours_that_the_calendar_tells(data: st.DataObject) -> None:
    calendar, instant = data.draw(calendars_and_instants())
    if data.draw(st.booleans()):
        # No zone of today; nothing must be wrong there for that.
        calendar = Calendar(timezone(timedelta(seconds=data.draw(st.integers(-50_000, 50_000)))))
    clock = HourClock(calendar)
    for offset in data.draw(st.lists(st.integers(-2 * HOUR, 2 * HOUR) | st.sampled_from(range(0, 7200, 300)))):
        asked = instant + offset
        found = clock.hour(asked)
        assert found.start == calendar.grid_floor(asked, HOUR)
        assert found.end == calendar.grid_next(found.start, HOUR)
        assert found.start <= asked < found.end
        assert (found.slot, found.day) == (calendar.slot(asked), calendar.local(asked).toordinal())


def test_a_clock_that_is_asked_every_second_remembers_no_second() -> None:
    clock = HourClock(Calendar(ZoneInfo("Asia/Kathmandu")))
    tracemalloc.start()
    try:
        for second in range(FIRST, FIRST + DAY // 2):
            clock.hour(second)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000
