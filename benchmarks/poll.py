"""Cost of a poll cycle: read the live edge over HTTP, evaluate every series, render the page."""

from collections.abc import Iterator
from statistics import median
from typing import Final

from benchmarks.context import Context
from benchmarks.exporter_process import Client
from benchmarks.harness import PollHarness
from benchmarks.report import Budget, Figure, amount
from benchmarks.scrape import HEADERS

_INTERVAL_SECONDS: Final = 15
_LEARNING_CYCLES: Final = 12
"""Cycles in which everything is read, because it is not known how late spans are."""
_CYCLES: Final = 8
_MAX_READS: Final = 4.0
_BUDGET_SECONDS: Final = 1.0


def measure(context: Context) -> Iterator[Figure]:
    """Yield the cost of cycles with traffic in every series, rendered in the format that Prometheus requests."""
    for series in context.series:
        with PollHarness(context.folder, series) as harness:
            client = Client(harness.port)
            client.get("/metrics", HEADERS["OpenMetrics, gzip"])
            client.close()
            for _ in range(_LEARNING_CYCLES):
                harness.cycle(_INTERVAL_SECONDS)
            cycles = [harness.cycle(_INTERVAL_SECONDS) for _ in range(_CYCLES)]
        cpu = [cycle.cpu for cycle in cycles]
        yield Figure(
            f"poll cycle, {series:,} series with traffic in each: CPU, median of {_CYCLES}",
            median(cpu),
            "seconds",
            budget=Budget(_BUDGET_SECONDS),
            detail=f"at most {max(cpu):.2f} s",
        )
        fetched, evaluated = sum(cycle.fetched for cycle in cycles), sum(cycle.evaluated for cycle in cycles)
        yield Figure(
            "  spans fetched for each one evaluated",
            fetched / evaluated,
            "ratio",
            budget=Budget(_MAX_READS),
            detail=f"{fetched:,.0f} of {evaluated:,.0f} in {_CYCLES} cycles",
        )
        yield Figure(
            f"  evaluating {series:,} series and building the snapshot, any length of history: wall time, median",
            median(cycle.snapshot for cycle in cycles),
            "seconds",
            detail=f"at most {amount(max(cycle.snapshot for cycle in cycles), 'seconds')}; rendering and publishing "
            f"{amount(median(cycle.publish for cycle in cycles), 'seconds')}",
        )
