"""The calendar of the configuration, with public holidays."""

from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import holidays
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config import Config, build_calendar, load_config
from exporter.config.holiday import HolidayLookup
from exporter.model.calendar import DayType, Slot


def test_the_default_calendar_has_saturday_and_sunday_in_utc() -> None:
    calendar = build_calendar(Config())
    assert calendar.utc_offset_seconds(0) == 0
    assert [calendar.day_type(date(2026, 11, day)) for day in (20, 21, 22, 23)] == [
        DayType.WEEKDAY,
        DayType.WEEKEND,
        DayType.WEEKEND,
        DayType.WEEKDAY,
    ]
    assert calendar.day_type(date(2026, 12, 25)) is DayType.WEEKDAY


def test_time_zone_weekend_and_holidays_are_configurable() -> None:
    config = load_config(None, {"TIMEZONE": "Asia/Taipei", "CALENDAR_WEEKEND": "friday", "CALENDAR_HOLIDAYS": "TW"})
    calendar = build_calendar(config)
    assert calendar.day_type(date(2026, 11, 20)) is DayType.WEEKEND
    assert calendar.day_type(date(2026, 11, 22)) is DayType.WEEKDAY
    new_year = datetime(2026, 1, 1, 0, 30, tzinfo=ZoneInfo("Asia/Taipei")).timestamp()  # still 2025 in UTC
    assert calendar.slot(new_year) == Slot(0, DayType.WEEKEND)


def test_the_weekend_may_be_empty() -> None:
    calendar = build_calendar(load_config(None, {"CALENDAR_WEEKEND": "[]"}))
    assert {calendar.day_type(date(2026, 11, day)) for day in range(1, 8)} == {DayType.WEEKDAY}


@pytest.mark.parametrize(
    ("written", "canonical"), [("de-by", "DE-BY"), ("tw", "TW"), ("BR-são paulo capital", "BR-São Paulo Capital")]
)
def test_regions_are_accepted_in_any_case(written: str, canonical: str) -> None:
    assert load_config(None, {"CALENDAR_HOLIDAYS": written}).calendar.holidays == canonical


def test_a_subdivision_has_its_own_holidays() -> None:
    assumption = date(2026, 8, 15)
    assert HolidayLookup("DE-BY")(assumption) is False  # Catholic municipalities only: not the whole of Bavaria
    assert HolidayLookup("DE-SL")(assumption) is True
    assert HolidayLookup("DE")(assumption) is False


def test_a_holiday_observed_in_the_year_before_counts() -> None:
    assert HolidayLookup("US")(date(2021, 12, 31)) is True


@given(st.dates(date(2015, 1, 1), date(2035, 12, 31)))
def test_agrees_with_the_holidays_library(day: date) -> None:
    assert HolidayLookup("DE-BE")(day) == (day in holidays.country_holidays("DE", subdiv="BE"))


def test_concurrent_lookups_return_the_same_results() -> None:
    days = [date(2020, 1, 1) + timedelta(days=step) for step in range(0, 4000, 7)]
    alone = HolidayLookup("US")
    expected = [alone(day) for day in days]
    shared = HolidayLookup("US")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: [shared(day) for day in days], range(16)))
    assert results == [expected] * 16
    assert any(expected)
