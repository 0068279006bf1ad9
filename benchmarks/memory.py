"""The resident memory of a real exporter that watches some number of series with a week of history."""

from collections.abc import Iterator
from typing import Final

from benchmarks.context import Context
from benchmarks.report import Budget, Figure, amount
from benchmarks.stored import restarted

_FEW_SERIES: Final = 100
_BUDGET_BYTES: Final = 300e6
_BUDGET_BYTES_OF_FEW: Final = 80e6


def measure(context: Context) -> Iterator[Figure]:
    """After some cycles and some scrapes in every format, so that all that is kept is there."""
    for series in context.series:
        seen = context.once(restarted, series)
        before, most = amount(seen.fresh.now, "bytes"), amount(seen.settled.most, "bytes")
        yield Figure(
            f"memory with {series:,} series and 7 days, scraped in all formats: RSS",
            seen.settled.now,
            "bytes",
            budget=Budget(_BUDGET_BYTES_OF_FEW if series <= _FEW_SERIES else _BUDGET_BYTES),
            detail=f"before any scrape {before}, at most {most}",
        )
