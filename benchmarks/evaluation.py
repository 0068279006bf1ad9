"""Cost of evaluating a week of history, and of each further hour."""

from collections.abc import Iterator
from typing import Final

from benchmarks.context import Context
from benchmarks.history import EvaluationCost
from benchmarks.prepared_database import evaluated_database, measure_long_history
from benchmarks.report import Budget, Figure, amount

_BUDGET: Final = Budget(120.0)


def measure(context: Context) -> Iterator[Figure]:
    """Yield the costs with nothing else running; long histories are evaluated by two processes."""
    for series in context.series:
        database = context.once(evaluated_database, series)
        times = series / database.evaluated_series
        scaled = f" ({times:g} × the cost of {database.evaluated_series:,})" if times > 1 else ""
        what = f"evaluating 7 days of {series:,} series, and the first baseline table{scaled}: wall time"
        yield _figure(what, database.first_cost, times, _BUDGET)
        yield _figure(f"  one more hour and its baseline table, {series:,} series: wall time", database.hour_cost)
    series, measured = context.series[-1], min(context.long_series, context.series[-1])
    days, cost = context.once(measure_long_history, measured)
    times = series / measured
    scaled = f" ({times:g} × the cost of {measured:,})" if times > 1 else ""
    yield _figure(f"  one more hour after {days} days, {series:,} series{scaled}: wall time", cost, times)


def _figure(what: str, cost: EvaluationCost, times: float = 1.0, budget: Budget | None = None) -> Figure:
    cpu, peak = amount(cost.cpu_seconds * times, "seconds"), amount(cost.peak_bytes, "bytes")
    return Figure(what, cost.wall_seconds * times, "seconds", budget=budget, detail=f"CPU {cpu}, peak RSS {peak}")
