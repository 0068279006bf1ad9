"""Public holidays of a country, from the ``holidays`` library: which regions there are, and whether a day is one."""

import threading
from datetime import date
from typing import Self

import holidays

from exporter.config.wording import hint, shown


def canonical_region(text: str) -> str:
    """Check a country code, optionally with a subdivision, and write it the way the library does.

    Args:
        text: ``TW`` or ``DE-BY``, in any case.

    Raises:
        ValueError: there is no such country or subdivision, or none whose holidays are known.
    """
    country, dash, subdivision = text.partition("-")
    supported = holidays.list_supported_countries()
    country = country.upper()
    if country not in supported:
        raise ValueError(
            f"must be a country code such as TW, or with a subdivision DE-BY, not {shown(text)}"
            + hint(country, supported)
        )
    if not dash:
        return country
    known = {name.casefold(): name for name in supported[country]}
    if subdivision.casefold() not in known:
        raise ValueError(
            f"must be {country} or one of its subdivisions ({', '.join(supported[country]) or 'there are none'}), "
            f"not {shown(text)}"
        )
    return f"{country}-{known[subdivision.casefold()]}"


class HolidayLookup:
    """Whether a local date is a public holiday of a region. Safe to call from any thread.

    The library fills in the years of its tables while it is asked, which two threads must not do at once. Here each
    year is taken over once, under a lock, and only read afterwards.
    """

    def __init__(self, region: str) -> None:
        self._country, _, subdivision = region.partition("-")
        self._subdivision = subdivision or None
        self._years: dict[int, frozenset[date]] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        """For another process: the region, of which it looks up the years itself."""
        return type(self), (f"{self._country}-{self._subdivision}" if self._subdivision else self._country,)

    def __call__(self, day: date) -> bool:
        """Whether the day is a holiday."""
        days = self._years.get(day.year)
        return day in (self._fill(day.year) if days is None else days)

    def _fill(self, year: int) -> frozenset[date]:
        with self._lock:
            if year not in self._years:
                table = holidays.country_holidays(self._country, subdiv=self._subdivision, years=year, expand=False)
                self._years[year] = frozenset(table)
            return self._years[year]
