"""Resident memory of an exporter with a week of history."""

from collections.abc import Iterator
from typing import Final

from benchmarks.context import Context
from benchmarks.prepared_database import measure_restart
from benchmarks.report import Budget, Figure, amount

_FEW_SERIES: Final = 100
_BUDGET_BYTES: Final = 300e6
_BUDGET_BYTES_OF_FEW: Final = 80e6


def measure(context: Context) -> Iterator[Figure]:
    """Yield the memory after several poll cycles and scrapes in every format, when all caches are filled."""
    for series in context.series:
        restart = context.once(measure_restart, series)
        before, most = amount(restart.fresh.now, "bytes"), amount(restart.warm.most, "bytes")
        yield Figure(
            f"memory with {series:,} series and 7 days, scraped in all formats: RSS",
            restart.warm.now,
            "bytes",
            budget=Budget(_BUDGET_BYTES_OF_FEW if series <= _FEW_SERIES else _BUDGET_BYTES),
            detail=f"before the first scrape {before}, peak {most}",
        )
