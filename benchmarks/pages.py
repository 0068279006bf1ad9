"""Duration of the pages that show the past of an endpoint, and of scrapes meanwhile."""

from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.context import Context
from benchmarks.prepared_database import measure_restart
from benchmarks.report import Budget, Figure, amount

_SERIES: Final = 1_000
_BUDGET_SECONDS: Final = 0.3
_SCRAPE_BUDGET_SECONDS: Final = 0.1


def measure(context: Context) -> Iterator[Figure]:
    """Yield the durations of pages over HTTP, of an exporter that evaluates current traffic at the same time."""
    series = _SERIES if _SERIES in context.series else context.series[-1]
    pages = context.once(measure_restart, series).pages
    yield _figure(
        f"page of an endpoint with 7 days, one of {series:,} series, first visit",
        pages.week,
        Budget(_BUDGET_SECONDS),
        f"; CPU {amount(pages.week_cpu, 'seconds')} a page",
    )
    yield _figure("  the same page again within the hour", pages.week_again)
    yield _figure("  with 24 hours", pages.day, Budget(_BUDGET_SECONDS))
    yield _figure("  timeline of 7 days from the API", pages.api, Budget(_BUDGET_SECONDS))
    yield _figure("  scrape while such pages are loaded", pages.scrapes, Budget(_SCRAPE_BUDGET_SECONDS))


def _figure(what: str, seconds: Sequence[float], budget: Budget | None = None, more: str = "") -> Figure:
    ordered = sorted(seconds)
    detail = f"p50 {amount(ordered[len(ordered) // 2], 'seconds')}{more}"
    return Figure(f"{what}: slowest of {len(ordered)}", ordered[-1], "seconds", budget=budget, detail=detail)
