"""What a series and a window take up in the database, written as a backfill writes them and judged."""

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks.context import Context, in_child
from benchmarks.history import KINDS, entry, judge, settled_windows, turn, window_digest
from benchmarks.report import Budget, Figure, Reference
from benchmarks.traffic import series_key
from exporter.model.accumulator import WindowContent, WindowDigest
from exporter.store import Store

_VARIANTS: Final = 40
_BUDGET_BYTES: Final = 250.0
_DURATION_BYTES: Final = 8


def measure(context: Context) -> Iterator[Figure]:
    """The average over a mix of traffic, and what it is made of."""
    count = context.stored_series
    mixed = [traces for traces, share in KINDS for _ in range(max(1, round(share * count)))]
    mean = sum(mixed) / len(mixed)
    yield _figure(context, f"database, {mean:.0f} traces a window on average", mixed, Budget(_BUDGET_BYTES))
    for traces in context.densities:
        yield _figure(context, f"  {traces:,} traces in every window", [traces] * count)


def _figure(context: Context, what: str, densities: Sequence[int], budget: Budget | None = None) -> Figure:
    path = context.folder / "store.db"
    windows = in_child(write_backfilled, path, densities)
    in_child(judge, path)
    in_child(turn, path)
    size = path.stat().st_size
    path.unlink()
    rows = windows * len(densities)
    return Figure(
        f"{what}: bytes per series and window",
        size / rows,
        "bytes",
        Reference("for the durations alone", sum(densities) / len(densities) * _DURATION_BYTES),
        budget,
    )


def write_backfilled(path: Path, densities: Sequence[int]) -> int:
    """Write a week of series with so many traces an hour, newest window first; returns how many windows."""
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
