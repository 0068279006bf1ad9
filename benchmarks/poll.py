"""What a poll cycle costs: reading the live edge over HTTP, judging every series, rendering the page."""

from collections.abc import Iterator
from statistics import median
from typing import Final

from benchmarks.context import Context
from benchmarks.report import Budget, Figure
from benchmarks.rig import Rig
from benchmarks.running import Client
from benchmarks.scrape import HEADERS

_INTERVAL_SECONDS: Final = 15
_CYCLES: Final = 6
_BUDGET_SECONDS: Final = 3.0


def measure(context: Context) -> Iterator[Figure]:
    """The processor time of a cycle in which every series has traffic, somebody scraping what Prometheus asks for."""
    for series in context.series:
        with Rig(context.folder, series) as rig:
            client = Client(rig.port)
            client.get("/metrics", HEADERS["OpenMetrics, gzip"])
            client.close()
            seconds = [rig.cycle(_INTERVAL_SECONDS) for _ in range(_CYCLES)]
        yield Figure(
            f"poll cycle, {series:,} series with traffic in each: CPU, median of {_CYCLES}",
            median(seconds),
            "seconds",
            budget=Budget(_BUDGET_SECONDS),
            detail=f"at most {max(seconds):.2f} s",
        )
