"""Backfill of a week, compared with fetching the same searches and with decoding the same bodies."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.context import Context, in_child
from benchmarks.exporter_process import ExporterProcess
from benchmarks.fetching import decode, fetch
from benchmarks.machine import memory
from benchmarks.report import Budget, Figure, Reference, amount
from benchmarks.tempo_source import Search, TempoSource
from benchmarks.traffic import Traffic
from exporter.app.settings import backfill_settings, client_settings, series_rules
from exporter.config import Config, build_calendar
from exporter.ingest.backfill import Backfill
from exporter.ingest.series_filter import SeriesFilter
from exporter.metrics.self_metrics import SelfMetrics
from exporter.runtime.logs import get_logger
from exporter.store import Store
from exporter.tempo import TempoClient

REAL_TEMPO_TRACES_PER_SECOND: Final = 14_000
"""Measured rate of a real Tempo, all searches together."""
_SERIES: Final = 200
_FEW_TRACES: Final = 10_000
_WEEK_SECONDS: Final = 7 * 86_400
_WINDOWS: Final = 7 * 24
_LIVE_SECONDS: Final = 1_800
"""Traffic continues for this long, for the live edge of the exporters under test."""
_PATIENCE: Final = 3
_DECODED_EVERY: Final = 4
"""Every fourth body is decoded for comparison: decoding takes long, and the bodies are alike."""


class BackfillCost(NamedTuple):
    """Cost of a backfill: seconds, peak resident memory, traces stored and traces fetched."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    traces: int
    fetched: int


def run_backfill(url: str, path: Path) -> BackfillCost:
    """Read a week into a new database with only the backfill running, as fast as the source allows."""
    tempo = {"url": url, "requests_per_second": 1000}
    config = Config.model_validate({"tempo": tempo, "storage": {"path": str(path)}})
    metrics = SelfMetrics()
    store = Store.open(config.storage.path)
    stop = threading.Event()
    log = get_logger("benchmark")
    backfill = Backfill(
        TempoClient(client_settings(config), metrics, log, stop=stop),
        store,
        SeriesFilter(series_rules(config)),
        build_calendar(config),
        backfill_settings(config),
        metrics,
        clock=time.time,
        monotonic=time.monotonic,
        stop=stop,
        log=log,
    )
    wall, cpu = time.monotonic(), time.process_time()
    backfill.run(patience=_PATIENCE)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    fetched = metrics.registry.get_sample_value("tempo_anomaly_traces_read_total", {"loop": "backfill"}) or 0
    traces = store.totals().traces
    store.close()
    return BackfillCost(wall, cpu, memory().most, traces, int(fetched))


def measure(context: Context) -> Iterator[Figure]:
    """Yield the figures of both budgets and their components."""
    if context.traces > _FEW_TRACES:
        with _source(_FEW_TRACES) as source:
            yield from _with_few_traces(context, source)
    with _source(context.traces) as source:
        yield from _against_fast_source(context, source)
        source.pace(REAL_TEMPO_TRACES_PER_SECOND)
        yield from _against_real_pace(context, source)


def _source(traces_a_week: int) -> TempoSource:
    now = int(time.time())
    traces = traces_a_week * (_WEEK_SECONDS + _LIVE_SECONDS) // _WEEK_SECONDS
    return TempoSource(Traffic(traces, now - _WEEK_SECONDS, now + _LIVE_SECONDS, _SERIES), live=True)


def _with_few_traces(context: Context, source: TempoSource) -> Iterator[Figure]:
    """Measure with so little traffic that the cost per window dominates."""
    source.pace(REAL_TEMPO_TRACES_PER_SECOND)
    filled = in_child(run_backfill, source.url, context.folder / "few.db")
    searches = _searches(source)
    fetched = in_child(fetch, source.url, searches, 4)
    yield Figure(
        f"backfill of 7 days, {filled.traces:,} traces, source at {REAL_TEMPO_TRACES_PER_SECOND:,} traces/s: wall time",
        filled.wall_seconds,
        "seconds",
        Reference("its searches fetched and discarded", fetched.wall_seconds),
        detail=f"CPU {amount(filled.cpu_seconds, 'seconds')}, {len(searches)} searches for {_WINDOWS} windows",
    )


def _against_fast_source(context: Context, source: TempoSource) -> Iterator[Figure]:
    filled = in_child(run_backfill, source.url, context.folder / "fast.db")
    searches = _searches(source)
    fetched = in_child(fetch, source.url, searches, 4)
    decoded = in_child(decode, source.url, searches[::_DECODED_EVERY])
    what = f"backfill of 7 days, {filled.traces:,} traces"
    share = decoded.bytes / fetched.bytes
    yield Figure(
        f"{what}, source faster than a reader: CPU",
        filled.cpu_seconds,
        "seconds",
        Reference("orjson.loads of the same bodies", decoded.orjson / share),
        Budget(1.5, "ratio"),
    )
    yield Figure(
        "  the same",
        filled.cpu_seconds,
        "seconds",
        Reference("orjson.loads with the garbage collector off", decoded.orjson_uncollected / share),
    )
    yield Figure(
        "  its decoding alone: CPU",
        decoded.spans / share,
        "seconds",
        Reference("msgspec.json.decode of the same bodies", decoded.msgspec / share),
    )
    yield Figure(
        "  the same backfill: wall time",
        filled.wall_seconds,
        "seconds",
        Reference("its searches fetched and discarded", fetched.wall_seconds),
    )
    yield Figure("  the same backfill: peak RSS", filled.peak_bytes, "bytes")
    yield Figure("  traces it fetched", filled.fetched, "count", Reference("stored", filled.traces))
    yield Figure("  searches it made", len(searches), "count", Reference("windows", _WINDOWS))
    yield Figure("  traces per second of the source", filled.fetched / fetched.wall_seconds, "count")


def _against_real_pace(context: Context, source: TempoSource) -> Iterator[Figure]:
    source.take_searches()  # discard earlier ones
    with ExporterProcess(context.folder, source.url, context.folder / "paced.db") as exporter:
        exporter.wait_until(lambda: exporter.value("backfill_completed_timestamp_seconds") is not None, 0.5)
        began = exporter.value("backfill_started_timestamp_seconds") or 0.0
        ended = exporter.value("backfill_completed_timestamp_seconds") or 0.0
        cpu, peak = exporter.cpu_seconds, exporter.memory.most
        searches = _searches(source)
    fetched = in_child(fetch, source.url, searches, 4)
    yield Figure(
        f"the whole exporter, source at {REAL_TEMPO_TRACES_PER_SECOND:,} traces/s: wall time of the backfill",
        ended - began,
        "seconds",
        Reference("its searches fetched and discarded", fetched.wall_seconds),
        Budget(1.25, "ratio"),
    )
    yield Figure("  CPU of the whole process", cpu, "seconds")
    yield Figure("  its peak RSS", peak, "bytes")


def _searches(source: TempoSource) -> Sequence[Search]:
    """Return the searches without the probes for Tempo's retention."""
    return [search for search in source.take_searches() if search.limit > 1]
