"""What judging a week of history costs, and what an hour's turn costs from then on."""

from collections.abc import Iterator
from typing import Final

from benchmarks.context import Context
from benchmarks.history import JudgeCost
from benchmarks.report import Budget, Figure, amount
from benchmarks.stored import judged_history, long_history

_BUDGET: Final = Budget(120.0)


def measure(context: Context) -> Iterator[Figure]:
    """Beside nothing else, on as many processors as there are: two are made use of where there is much to judge."""
    for series in context.series:
        history = context.once(judged_history, series)
        times = series / history.judged_series
        scaled = f" ({times:g} × what {history.judged_series:,} take)" if times > 1 else ""
        what = f"judging 7 days of {series:,} series, and the first book{scaled}: wall time"
        yield _figure(what, history.judging, times, _BUDGET)
        yield _figure(f"  the turn of an hour, judged and with its book, {series:,} series: wall time", history.turn)
    series, measured = context.series[-1], min(context.long_series, context.series[-1])
    days, cost = context.once(long_history, measured)
    times = series / measured
    scaled = f" ({times:g} × what {measured:,} take)" if times > 1 else ""
    yield _figure(f"  the turn of an hour after {days} days, {series:,} series{scaled}: wall time", cost, times)


def _figure(what: str, cost: JudgeCost, times: float = 1.0, budget: Budget | None = None) -> Figure:
    cpu, peak = amount(cost.cpu_seconds * times, "seconds"), amount(cost.peak_bytes, "bytes")
    return Figure(what, cost.wall_seconds * times, "seconds", budget=budget, detail=f"CPU {cpu}, peak RSS {peak}")
