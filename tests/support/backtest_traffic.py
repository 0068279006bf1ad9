"""Requests with incidents, as rows of a file, as requests of the backtest and as a stored history."""

import random
from collections.abc import Iterator, Mapping, Sequence
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
    """From one hour to another, counted from the beginning, with a factor of latency."""

    start: float
    end: float
    factor: float


def requests(
    days: int, per_hour: float = 40, incidents: Sequence[Incident] = (), *, seed: int = 1, median_ms: float = 80
) -> list[tuple[int, int]]:
    """Start and duration in nanoseconds, by start: log-normal latency, factored up in incidents."""
    rng = random.Random(seed)

    def arrivals() -> Iterator[tuple[int, int]]:
        hour = rng.expovariate(per_hour)
        while hour < 24 * days:
            factor = next((i.factor for i in incidents if i.start <= hour < i.end), 1.0)
            yield int((MONDAY + hour * HOUR_SECONDS) * _NS), int(median_ms * 1e6 * factor * exp(rng.gauss(0, 0.4)))
            hour += rng.expovariate(per_hour)

    return list(arrivals())


def as_requests(made: Sequence[tuple[int, int]]) -> Requests:
    """As the backtest reads them from a file."""
    found = Requests()
    for start_ns, duration_ns in made:
        found.add(start_ns, duration_ns)
    return found


def write_csv(file: Path, series: Mapping[str, Sequence[tuple[int, int]]]) -> Path:
    """As a file."""
    rows = [
        f"{name},{start_ns / _NS:.3f},{duration_ns / 1e6:.3f}"
        for name, made in series.items()
        for start_ns, duration_ns in made
    ]
    file.write_text("\n".join(["series,unix_seconds,duration_ms", *rows]) + "\n", "utf-8")
    return file


def write_history(file: Path, series: Mapping[SeriesKey, Sequence[tuple[int, int]]], days: int) -> Path:
    """As the exporter would have stored them, an hour a window."""
    windows = [Window(MONDAY + hour * HOUR_SECONDS, MONDAY + (hour + 1) * HOUR_SECONDS) for hour in range(24 * days)]
    accumulator = Accumulator(windows, lambda key: key)
    accumulator.add(Span("0" * 32, "0" * 16, key, *request) for key, made in series.items() for request in made)
    contents = accumulator.finish()
    store = Store.open(file)
    store.commit(
        [
            LedgerEntry(
                content.window,
                WindowState.DONE if content.stored else WindowState.EMPTY,
                read_at=0.0,
                traces=content.traces,
                stored=content.stored,
            )
            for content in contents
        ],
        contents,
    )
    store.close()
    return file
