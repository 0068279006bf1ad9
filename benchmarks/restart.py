"""A restart with a full ledger: time until the first scrape succeeds, and windows read again."""

from collections.abc import Iterator
from typing import Final

from benchmarks.context import Context
from benchmarks.prepared_database import StartTimes, measure_restart
from benchmarks.report import Budget, Figure, amount

_BUDGET_SECONDS: Final = 5.0


def measure(context: Context) -> Iterator[Figure]:
    """Yield the figures; the stored baseline table is valid unless the hour turns during the measurement."""
    for series in context.series:
        restart = context.once(measure_restart, series)
        what = f"restart with 7 days of {series:,} series: time to the first snapshot, less one poll"
        yield _figure(what, restart.start)
        yield _figure("  the same after a change of settings that invalidates the baselines", restart.reconfigured)
        yield Figure(
            "  time to a snapshot with the new baselines, poll included", restart.reconfigured.baselines, "seconds"
        )
        yield Figure("  searches for windows read before", restart.history_searches, "count", budget=Budget(0))


def _figure(what: str, start: StartTimes) -> Figure:
    detail = f"CPU {amount(start.cpu, 'seconds')}; the poll {amount(start.poll, 'seconds')}"
    return Figure(what, start.wall - start.poll, "seconds", budget=Budget(_BUDGET_SECONDS), detail=detail)
