"""Public holidays of a country or subdivision, from the ``holidays`` library.

The library takes 3 MB of memory. It is imported only where a region is configured.
"""

from datetime import date
from typing import Self

from exporter.config.wording import hint, shown
from exporter.runtime.locks import LockRank, new_lock


def canonical_region(text: str) -> str:
    """Validate a country code, optionally with a subdivision, and return it in the spelling of the library.

    Args:
        text: ``TW`` or ``DE-BY``, in any case.

    Raises:
        ValueError: the library does not know the country or subdivision.
    """
    import holidays  # noqa: PLC0415

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
            f"must be {country} or one of its subdivisions ({', '.join(supported[country]) or 'it has none'}), "
            f"not {shown(text)}"
        )
    return f"{country}-{known[subdivision.casefold()]}"


class HolidayLookup:
    """Tells whether a local date is a public holiday of a region. Thread-safe.

    The library adds years to its tables on demand, which is not thread-safe. Each year is copied once under a lock and
    only read afterwards.
    """

    def __init__(self, region: str) -> None:
        self._country, _, subdivision = region.partition("-")
        self._subdivision = subdivision or None
        self._years: dict[int, frozenset[date]] = {}
        self._lock = new_lock(LockRank.HOLIDAYS)

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        """Pickle the region only; the other process looks up the years itself."""
        return type(self), (f"{self._country}-{self._subdivision}" if self._subdivision else self._country,)

    def __call__(self, day: date) -> bool:
        """Return whether the day is a holiday."""
        days = self._years.get(day.year)
        return day in (self._fill(day.year) if days is None else days)

    def _fill(self, year: int) -> frozenset[date]:
        import holidays  # noqa: PLC0415

        with self._lock:
            if year not in self._years:
                table = holidays.country_holidays(self._country, subdiv=self._subdivision, years=year, expand=False)
                self._years[year] = frozenset(table)
            return self._years[year]
