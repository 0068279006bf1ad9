"""Database size per series and window, written as a backfill does and evaluated."""

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks.context import Context, in_child
from benchmarks.history import KINDS, entry, evaluate_history, evaluate_next_hour, settled_windows, window_digest
from benchmarks.report import Budget, Figure, Reference
from benchmarks.traffic import series_key
from exporter.model.accumulator import WindowContent, WindowDigest
from exporter.store import Store

_VARIANTS: Final = 40
_BUDGET_BYTES: Final = 250.0
_DURATION_BYTES: Final = 8


def measure(context: Context) -> Iterator[Figure]:
    """Yield the average over a mix of traffic, and the size at each density."""
    count = context.stored_series
    mixed = [traces for traces, share in KINDS for _ in range(max(1, round(share * count)))]
    mean = sum(mixed) / len(mixed)
    yield _figure(context, f"database, {mean:.0f} traces a window on average", mixed, Budget(_BUDGET_BYTES))
    for traces in context.densities:
        yield _figure(context, f"  {traces:,} traces in every window", [traces] * count)


def _figure(context: Context, what: str, densities: Sequence[int], budget: Budget | None = None) -> Figure:
    path = context.folder / "store.db"
    windows = in_child(write_backfilled, path, densities)
    in_child(evaluate_history, path)
    in_child(evaluate_next_hour, path)
    size = path.stat().st_size
    path.unlink()
    rows = windows * len(densities)
    return Figure(
        f"{what}: bytes per series and window",
        size / rows,
        "bytes",
        Reference("the raw durations", sum(densities) / len(densities) * _DURATION_BYTES),
        budget,
    )


def write_backfilled(path: Path, densities: Sequence[int]) -> int:
    """Write a week of history, newest window first, and return the number of windows.

    Args:
        path: the database.
        densities: traces an hour, for each series.
    """
    random_ = random.Random(1)
    variants: dict[int, list[WindowDigest]] = {
        traces: [window_digest(random_, traces) for _ in range(_VARIANTS)] for traces in set(densities)
    }
    store = Store.open(path)
    windows = settled_windows(time.time())
    for window in windows:
        series = {series_key(number): random_.choice(variants[traces]) for number, traces in enumerate(densities)}
        store.commit([entry(window, sum(densities))], [WindowContent(window, series, {})])
    store.close()
    return len(windows)
