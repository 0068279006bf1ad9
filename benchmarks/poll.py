"""What a poll cycle costs: reading the live edge over HTTP, judging every series, rendering the page."""

from collections.abc import Iterator
from statistics import median
from typing import Final

from benchmarks.context import Context
from benchmarks.report import Budget, Figure, amount
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
            cycles = [rig.cycle(_INTERVAL_SECONDS) for _ in range(_CYCLES)]
        cpu = [cycle.cpu for cycle in cycles]
        yield Figure(
            f"poll cycle, {series:,} series with traffic in each: CPU, median of {_CYCLES}",
            median(cpu),
            "seconds",
            budget=Budget(_BUDGET_SECONDS),
            detail=f"at most {max(cpu):.2f} s",
        )
        yield Figure(
            f"  judging {series:,} series and building the snapshot, however long the history: wall time, median",
            median(cycle.snapshot for cycle in cycles),
            "seconds",
            detail=f"at most {amount(max(cycle.snapshot for cycle in cycles), 'seconds')}; rendering and publishing it "
            f"{amount(median(cycle.publish for cycle in cycles), 'seconds')}",
        )
