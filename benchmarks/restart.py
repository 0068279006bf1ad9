"""A restart with a full ledger: how long until there is something to scrape, and what is read again."""

from collections.abc import Iterator
from typing import Final

from benchmarks.context import Context
from benchmarks.report import Budget, Figure, amount
from benchmarks.stored import Start, restarted

_BUDGET_SECONDS: Final = 5.0


def measure(context: Context) -> Iterator[Figure]:
    """With every number of series; in the hour for which there is a book, unless it turns while this is measured."""
    for series in context.series:
        seen = context.once(restarted, series)
        what = f"restart with 7 days of {series:,} series: time to the first snapshot, less one poll"
        yield _figure(what, seen.start)
        yield _figure("  the same after a change of the settings, what is usual being worked out anew", seen.anew)
        yield Figure("  until a snapshot has that, the poll included", seen.anew.known, "seconds")
        yield Figure("  searches for windows read before", seen.history_searches, "count", budget=Budget(0))


def _figure(what: str, start: Start) -> Figure:
    detail = f"CPU {amount(start.cpu, 'seconds')}; the poll {amount(start.poll, 'seconds')}"
    return Figure(what, start.wall - start.poll, "seconds", budget=Budget(_BUDGET_SECONDS), detail=detail)
