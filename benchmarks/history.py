"""A week of stored history, and the cost of evaluating it.

The digests are built from random durations once per kind of traffic and then reused at random: building 1.7 million
distinct ones would take longer than the measurements.
"""

import os
import random
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.machine import memory
from benchmarks.traffic import random_duration_ns, series_key
from exporter.app.app import build_app
from exporter.app.settings import failure_rule, reading_description
from exporter.baseline.levels import FallbackRules
from exporter.config import build_calendar, load_config
from exporter.detection.detector import Detector
from exporter.detection.history import advance
from exporter.detection.parameters import ALL_PARTS, NO_PARTS, Parameters
from exporter.evaluation.baseline_table import BaselineTable
from exporter.evaluation.manager import BaselineManager
from exporter.metrics.self_metrics import SelfMetrics
from exporter.model.accumulator import WindowContent, WindowDigest
from exporter.model.calendar import HOUR_SECONDS, Calendar, HourClock
from exporter.model.histogram import Digest
from exporter.model.histogram_codec import MARK_SECONDS, encode_digest, encode_failures, encode_marks
from exporter.model.hours import SeriesHours, hours_of
from exporter.model.ledger import LedgerEntry, Wanted, Window, WindowState, pending, wanted
from exporter.model.series_hour import StoredWindow
from exporter.model.span import SeriesKey
from exporter.runtime.tuning import collect_seldom
from exporter.store import Store

KINDS: Final = ((10, 0.70), (100, 0.25), (1_000, 0.05))
"""Traces an hour, and the share of series with that density: most endpoints have little traffic."""
_VARIANTS: Final = 200
_ERROR_RATIOS: Final = (0.0, 0.001, 0.01)
_SLOW_SHARE: Final = 0.005
"""Share of hours in which an incident tripled the latency."""
_LATE_CHECK_SECONDS: Final = 365 * 24 * HOUR_SECONDS
_MARKS: Final = HOUR_SECONDS // MARK_SECONDS


class EvaluationCost(NamedTuple):
    """Wall time, processor time of all processes, and peak resident memory of the first process."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


class _Row(NamedTuple):
    traces: int
    digest: bytes
    marks: bytes
    failures: bytes


def window_digest(random_: random.Random, traces: int, slower: float = 1.0) -> WindowDigest:
    """Return the digest of a window with a number of traces, spread over the hour."""
    durations = [random_duration_ns(random_, slower) for _ in range(traces)]
    marks: dict[int, list[int]] = {}
    for duration_ns in durations:
        marks.setdefault(random_.randrange(_MARKS) + 1, []).append(duration_ns)
    ratio = random_.choice(_ERROR_RATIOS)
    failures = {mark: sum(random_.random() < ratio for _ in some) for mark, some in marks.items()}
    return WindowDigest(
        Digest.of_ns(durations),
        {mark: Digest.of_ns(some) for mark, some in marks.items()},
        {mark: count for mark, count in failures.items() if count},
    )


def settled_windows(now: float, days: int | None = None) -> list[Window]:
    """Return the windows that the default configuration wants now or wanted an hour ago, newest first.

    Args:
        now: Unix seconds.
        days: a longer polling.backfill_duration.
    """
    config = load_config(None, {} if days is None else {"POLLING_BACKFILL_DURATION": f"{days}d"})
    polling = config.polling
    calendar = build_calendar(config)
    range_: Wanted = wanted(
        now,
        calendar,
        duration_seconds=polling.backfill_duration.total_seconds() + 2 * HOUR_SECONDS,
        settle_seconds=polling.settle.total_seconds(),
        batch_seconds=polling.backfill_batch.total_seconds(),
    )
    return pending([], range_, calendar)


def entry(window: Window, traces: int) -> LedgerEntry:
    """Return the ledger entry of a window that was read, and whose check for late spans is not due in a measurement."""
    return LedgerEntry(
        window,
        WindowState.DONE,
        read_at=window.end,
        traces=traces,
        stored=traces,
        coverage=1.0,
        late_check_at=window.end + _LATE_CHECK_SECONDS,
    )


def write_history(path: Path, series: int, days: int | None = None, seed: int = 1) -> None:
    """Write a database with all wanted windows, without evaluating any; see :func:`settled_windows` for ``days``."""
    random_ = random.Random(seed)
    windows = settled_windows(_now(), days)
    kinds = [_rows(random_, traces) for traces, _ in KINDS]
    kind_of = random_.choices(kinds, [share for _, share in KINDS], k=series)
    store = Store.open(path)
    config = load_config(None, {})
    store.declare_reading(reading_description(config))
    store.declare_failure_rule(str(failure_rule(config)))
    first = {series_key(number): window_digest(random_, 1) for number in range(series)}
    store.commit([entry(windows[0], series)], [WindowContent(windows[0], first, {})])
    ids = [series_ids[series_key(number)] for series_ids in [_series_ids(path)] for number in range(series)]
    store.commit([entry(window, series) for window in windows])
    store.close()
    with sqlite3.connect(path) as connection:
        for window in reversed(windows):
            connection.executemany(
                "INSERT INTO digests (series_id, window_start, traces, digest, marks, failures)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (series_id, window.start, *random_.choice(rows))
                    for series_id, rows in zip(ids, kind_of, strict=True)
                ],
            )
    connection.close()


def _rows(random_: random.Random, traces: int) -> Sequence[_Row]:
    """Return encoded windows of one kind of traffic, a few of them slow."""
    rows = []
    for number in range(_VARIANTS):
        item = window_digest(random_, traces, 3.0 if number < _VARIANTS * _SLOW_SHARE else 1.0)
        failures = encode_failures(item.failures or {})
        rows.append(_Row(item.digest.count, encode_digest(item.digest), encode_marks(item.marks), failures))
    return rows


def _series_ids(path: Path) -> dict[SeriesKey, int]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT id, service_name, span_name FROM series").fetchall()
    connection.close()
    return {SeriesKey(service, span): series_id for series_id, service, span in rows}


def evaluate_history(path: Path) -> EvaluationCost:
    """Evaluate what had settled two hours ago, and build the baseline table of that hour."""
    return _catch_up(path, _now() - 2 * HOUR_SECONDS)


def evaluate_next_hour(path: Path) -> EvaluationCost:
    """Evaluate what settled since an hour ago, and build the table of the current hour, as an exporter does every hour.

    Like one that runs already, the process has evaluated the hour before, for which it chose the series by which the
    source is judged; that is done once a day.
    """
    now = _now()
    return _catch_up(path, now - HOUR_SECONDS, now)


def _now() -> float:
    """Return the present instant, or the end of the last hour as long as that has not settled.

    An exporter evaluates an hour some minutes after its end: until then no further hour could be evaluated.
    """
    now, settle = time.time(), load_config(None, {}).polling.settle.total_seconds()
    return now if now % HOUR_SECONDS > settle else now - now % HOUR_SECONDS - 1


def evaluate_by_methods(series: int, seed: int = 1) -> tuple[float, float]:
    """Return the processor time of evaluating a week of some series with the first method and with the present one."""
    random_ = random.Random(seed)
    clock = HourClock(Calendar())
    begin = int(time.time()) // HOUR_SECONDS * HOUR_SECONDS - 7 * 24 * HOUR_SECONDS
    kinds = [_rows(random_, traces) for traces, _ in KINDS]
    histories = [
        [StoredWindow(begin + number * HOUR_SECONDS, *random_.choice(rows)) for number in range(7 * 24)]
        for rows in random_.choices(kinds, [share for _, share in KINDS], k=series)
    ]
    seconds = []
    for parts in (NO_PARTS, ALL_PARTS):
        detector = Detector(FallbackRules(), Parameters(parts=parts), clock)
        cpu = time.process_time()
        for windows in histories:
            advance(detector, SeriesHours(hours_of(windows, clock)), begin + 7 * 24 * HOUR_SECONDS)
        seconds.append(time.process_time() - cpu)
    first, present = seconds
    return first, present


def baseline_table(path: Path) -> BaselineTable:
    """Evaluate a history and return the baseline table of the current hour."""
    store, now = Store.open(path), time.time()
    manager = _manager(store, now)
    manager.catch_up(now)
    store.close()
    return manager.table(now)


def _catch_up(path: Path, *instants: float) -> EvaluationCost:
    """Catch up at some instants, one after the other; returns the cost of the last."""
    collect_seldom()
    store = Store.open(path)
    *before, now = instants
    manager = _manager(store, now)
    for each in before:
        manager.catch_up(each)
    wall, cpu = time.monotonic(), _cpu_seconds()
    manager.catch_up(now)
    cost = EvaluationCost(time.monotonic() - wall, _cpu_seconds() - cpu, memory().most)
    store.close()
    return cost


def _cpu_seconds() -> float:
    """Return the processor time of this process and of its worker process."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _manager(store: Store, now: float) -> BaselineManager:
    """Return the baseline manager of an exporter that is built completely but not started."""
    return build_app(load_config(None, {}), store, SelfMetrics(), clock=lambda: now).evaluation.manager
