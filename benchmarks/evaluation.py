"""Cost of evaluating a week of history, and of each further hour."""

from collections.abc import Iterator
from typing import Final

from benchmarks.context import Context, in_child
from benchmarks.history import EvaluationCost, evaluate_by_methods
from benchmarks.prepared_database import evaluated_database, measure_long_history
from benchmarks.report import Budget, Figure, Reference, amount

_BUDGET: Final = Budget(120.0)
_HOUR_BUDGET: Final = Budget(25.0)
_COMPARED_SERIES: Final = 50


def measure(context: Context) -> Iterator[Figure]:
    """Yield the costs with nothing else running; long histories are evaluated by two processes."""
    for series in context.series:
        database = context.once(evaluated_database, series)
        times = series / database.evaluated_series
        scaled = f" ({times:g} × the cost of {database.evaluated_series:,})" if times > 1 else ""
        what = f"evaluating 7 days of {series:,} series, and the first baseline table{scaled}: wall time"
        yield _figure(what, database.first_cost, times, _BUDGET)
        hour = database.hour_cost
        yield Figure(
            f"  one more hour and its baseline table, {series:,} series: CPU",
            hour.cpu_seconds,
            "seconds",
            budget=_HOUR_BUDGET,
            detail=f"wall time {amount(hour.wall_seconds, 'seconds')}, peak RSS {amount(hour.peak_bytes, 'bytes')}",
        )
    first, present = context.once(_by_methods, _COMPARED_SERIES)
    yield Figure(
        f"  7 days of {_COMPARED_SERIES} series in one process, without the database: CPU",
        present,
        "seconds",
        Reference("with the method of the first release", first),
    )
    series, measured = context.series[-1], min(context.long_series, context.series[-1])
    days, cost = context.once(measure_long_history, measured)
    times = series / measured
    scaled = f" ({times:g} × the cost of {measured:,})" if times > 1 else ""
    yield _figure(f"  one more hour after {days} days, {series:,} series{scaled}: wall time", cost, times)


def _by_methods(_: Context, series: int) -> tuple[float, float]:
    return in_child(evaluate_by_methods, series)


def _figure(what: str, cost: EvaluationCost, times: float = 1.0, budget: Budget | None = None) -> Figure:
    cpu, peak = amount(cost.cpu_seconds * times, "seconds"), amount(cost.peak_bytes, "bytes")
    return Figure(what, cost.wall_seconds * times, "seconds", budget=budget, detail=f"CPU {cpu}, peak RSS {peak}")
