"""What judging a week of history costs, and what an hour's turn costs from then on."""

from collections.abc import Iterator
from typing import Final

from benchmarks.context import Context
from benchmarks.history import JudgeCost
from benchmarks.report import Budget, Figure, amount
from benchmarks.stored import judged_history

_BUDGET: Final = Budget(120.0)


def measure(context: Context) -> Iterator[Figure]:
    """One thread does this beside everything else, so its processor time is what it takes at least."""
    for series in context.series:
        history = context.once(judged_history, series)
        times = series / history.judged_series
        scaled = f" ({times:g} × what {history.judged_series:,} take)" if times > 1 else ""
        yield _figure(f"judging 7 days of {series:,} series{scaled}: CPU", history.judging, times, _BUDGET)
        yield _figure(f"  the turn of an hour, judged and with its book, {series:,} series: CPU", history.turn)


def _figure(what: str, cost: JudgeCost, times: float = 1.0, budget: Budget | None = None) -> Figure:
    wall, peak = amount(cost.wall_seconds * times, "seconds"), amount(cost.peak_bytes, "bytes")
    return Figure(what, cost.cpu_seconds * times, "seconds", budget=budget, detail=f"wall {wall}, peak RSS {peak}")
