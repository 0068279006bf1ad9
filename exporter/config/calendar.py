"""Builds the calendar from the configuration."""

from zoneinfo import ZoneInfo

from exporter.config.holiday import HolidayLookup
from exporter.config.schema import Config
from exporter.config.values import WEEKDAYS
from exporter.model.calendar import Calendar


def build_calendar(config: Config) -> Calendar:
    """Return the calendar of the configured time zone, weekend and holidays. Thread-safe."""
    zone = ZoneInfo(config.timezone)
    weekend = frozenset(WEEKDAYS.index(day) for day in config.calendar.weekend)
    if config.calendar.holidays is None:
        return Calendar(zone, weekend)
    return Calendar(zone, weekend, HolidayLookup(config.calendar.holidays))
