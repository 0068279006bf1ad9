"""Requests with incidents: as a CSV file, as requests of the backtest, and as a stored history."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from math import exp
from pathlib import Path
from typing import NamedTuple

from exporter.backtest.traffic import Requests
from exporter.model.accumulator import Accumulator
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.ledger import LedgerEntry, Window, WindowState
from exporter.model.span import SeriesKey, Span
from exporter.store import Store

MONDAY = 490992 * HOUR_SECONDS  # 2026-01-05 00:00 UTC
_NS = 1_000_000_000


class Incident(NamedTuple):
    """A range of hours from the start of the traffic, and the factor by which latency increases."""

    start: float
    end: float
    factor: float


def requests(
    days: int, per_hour: float = 40, incidents: Sequence[Incident] = (), *, seed: int = 1, median_ms: float = 80
) -> list[tuple[int, int]]:
    """Generate start and duration in nanoseconds, in time order; latency is log-normal."""
    rng = random.Random(seed)

    def arrivals() -> Iterator[tuple[int, int]]:
        hour = rng.expovariate(per_hour)
        while hour < 24 * days:
            factor = next((i.factor for i in incidents if i.start <= hour < i.end), 1.0)
            yield int((MONDAY + hour * HOUR_SECONDS) * _NS), int(median_ms * 1e6 * factor * exp(rng.gauss(0, 0.4)))
            hour += rng.expovariate(per_hour)

    return list(arrivals())


def as_requests(traffic: Sequence[tuple[int, int]]) -> Requests:
    """Convert to requests as the backtest reads them from a file."""
    result = Requests()
    for start_ns, duration_ns in traffic:
        result.add(start_ns, duration_ns)
    return result


def write_csv(file: Path, series: Mapping[str, Sequence[tuple[int, int]]]) -> Path:
    """Write a CSV file."""
    rows = [
        f"{name},{start_ns / _NS:.3f},{duration_ns / 1e6:.3f}"
        for name, traffic in series.items()
        for start_ns, duration_ns in traffic
    ]
    file.write_text("\n".join(["series,unix_seconds,duration_ms", *rows]) + "\n", "utf-8")
    return file


def write_history(file: Path, series: Mapping[SeriesKey, Sequence[tuple[int, int]]], days: int) -> Path:
    """Write a database as the exporter would, with a window per hour."""
    windows = [Window(MONDAY + hour * HOUR_SECONDS, MONDAY + (hour + 1) * HOUR_SECONDS) for hour in range(24 * days)]
    accumulator = Accumulator(windows, lambda key: key)
    accumulator.add(Span("0" * 32, "0" * 16, key, *request) for key, traffic in series.items() for request in traffic)
    contents = accumulator.finish()
    entries = [
        LedgerEntry(
            content.window,
            WindowState.DONE if content.stored else WindowState.EMPTY,
            read_at=0.0,
            traces=content.traces,
            stored=content.stored,
        )
        for content in contents
    ]
    with closing(Store.open(file)) as store:
        store.commit(entries, contents)
    return file
