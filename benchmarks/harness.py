"""The poller and its metrics page in a child process that runs poll cycles on demand.

The clock is simulated: a cycle reads the traffic before an instant of the past, so cycles need not wait for traffic.
Everything else is the real exporter's.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from benchmarks.child_process import ChildProcess, serve_calls
from benchmarks.history import baseline_table, write_history
from benchmarks.tempo_source import TempoSource
from benchmarks.traffic import Traffic, series_key
from exporter.app.settings import client_settings, evaluation_settings, poll_settings, series_rules
from exporter.config import Config
from exporter.detection.flag import SeriesFlags
from exporter.evaluation.baseline_table import BaselineTable
from exporter.evaluation.live.durations import DurationHistograms
from exporter.evaluation.live.evaluator import LiveEvaluator
from exporter.evaluation.live.poller import Poller
from exporter.evaluation.snapshot import HistoryFacts, Snapshot
from exporter.ingest.live_reader import LiveReader
from exporter.ingest.series_filter import SeriesFilter
from exporter.metrics.exposition import Publisher
from exporter.metrics.self_metrics import SelfMetrics, StateCollector
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.runtime.telemetry import SKIP_REASONS
from exporter.runtime.tuning import freeze_gc, take_short_turns
from exporter.tempo import TempoClient
from exporter.web.http import HttpRequest, Site
from exporter.web.management import MetricsPage
from exporter.web.server.server import Server

_TRACES_PER_SECOND: Final = 1 / 30
"""For each series: ten in an evaluation window of five minutes."""
_TRAFFIC_SECONDS: Final = 900
_DISTINCT_BASELINES: Final = 20
"""Baselines are built for this many series; all others share them."""


class CycleCost(NamedTuple):
    """Cost of a poll cycle.

    Attributes:
        cpu: processor time of the whole cycle in seconds.
        snapshot: wall time of evaluating every series and building the snapshot in seconds.
        publish: wall time of rendering the snapshot in the requested formats and publishing it in seconds.
        fetched: spans that Tempo returned.
        evaluated: spans among them that were new.
    """

    cpu: float
    snapshot: float
    publish: float
    fetched: float
    evaluated: float


class PollHarness(ChildProcess):
    """The child process of the poller, and the source that it reads.

    Attributes:
        port: port of the metrics page.
    """

    def __init__(self, folder: Path, series: int) -> None:
        """Prepare a number of series with history and traffic, and run the first cycle."""
        super().__init__(_run, folder, series)
        start = self.connection.recv()
        traces = int(series * _TRACES_PER_SECOND * _TRAFFIC_SECONDS)
        self._source = TempoSource(Traffic(traces, start, start + _TRAFFIC_SECONDS, series, even=True), live=False)
        self.connection.send(self._source.url)
        self.port: int = self.connection.recv()

    def cycle(self, seconds: float) -> CycleCost:
        """Run a cycle, a number of seconds after the last one."""
        return CycleCost(*self.call("cycle", seconds))

    def build(self, on: bool) -> int:
        """Start or stop running cycles without a pause; returns the number of cycles so far."""
        return int(self.call("build", on))

    def reference_seconds(self, repeats: int) -> tuple[float, float]:
        """Return the seconds that prometheus_client takes to render the page's samples, as text and as OpenMetrics."""
        text, openmetrics = self.call("reference_seconds", repeats)
        return text, openmetrics

    def close(self) -> None:
        """End the process and its source."""
        super().close()
        self._source.close()


class _ReadyHistory:
    """A history whose baseline table is always ready, and flags that are not saved: the harness never restarts."""

    def __init__(self, table: BaselineTable) -> None:
        self._table = table

    def table(self, now: float) -> BaselineTable:  # noqa: ARG002 - there is only one
        return self._table

    def facts(self) -> HistoryFacts:
        return HistoryFacts()

    def save(
        self, flags: Mapping[SeriesKey, SeriesFlags], suspects: Mapping[SeriesKey, tuple[int, ...]], at: float
    ) -> None:
        """Discard the flags."""


class _Poller:
    """The poller and the server of the child process."""

    def __init__(self, url: str, table: BaselineTable) -> None:
        self._now = table.start + 360.0
        self._end = table.start + _TRAFFIC_SECONDS - 10.0
        self._building: threading.Thread | None = None
        self._stop_building = threading.Event()
        self._cycles = 0
        # Limits high enough to read everything: the cycle must have traffic in every series.
        config = Config.model_validate(
            {
                "tempo": {"url": url, "requests_per_second": 1000},
                "polling": {"max_traces_per_poll": 1_000_000, "max_requests_per_poll": 1000},
            }
        )
        take_short_turns()
        log = get_logger("benchmark")
        self._metrics = metrics = SelfMetrics()
        stop = threading.Event()
        rules = series_rules(config)
        series_filter = SeriesFilter(rules)
        polling = poll_settings(config)
        self._publisher = publisher = Publisher()
        self._publish_seconds = 0.0
        history = _ReadyHistory(table)
        self._poller = Poller(
            LiveReader(
                TempoClient(client_settings(config), metrics, log, stop=stop),
                metrics,
                polling.budget,
                poll_seconds=polling.lookback_seconds,
                hold_seconds=polling.window_seconds,
            ),
            LiveEvaluator(
                evaluation_settings(config),
                series_filter.resolve,
                started_at=self._now,
                remembered_seconds=polling.remembered_seconds,
                flags={},
                durations=DurationHistograms(
                    started_at=self._now,
                    window_start=lambda second: second - second % HOUR_SECONDS,
                    kept_seconds=math.inf,
                ),
            ),
            history,
            history,
            self._publish,
            polling,
            metrics,
            clock=lambda: self._now,
            monotonic=time.monotonic,
            stop=stop,
            log=log,
            on_new_table=freeze_gc,
        )

        def snapshot() -> Snapshot | None:
            return None if publisher.page is None else publisher.page.snapshot

        metrics.registry.register(StateCollector(snapshot, lambda: None, series_filter, rules.max_series))
        self._page = MetricsPage(publisher, metrics.registry, has_native_histograms=True)
        self._poller.cycle()
        server = Server(Site({"/metrics": self._page}, log), "127.0.0.1", 0)
        server.start(lambda error: None)  # noqa: ARG005 - a scrape fails then
        self.port = server.addresses[0][1]

    def cycle(self, seconds: float) -> CycleCost:
        self._now = min(self._now + seconds, self._end)
        fetched, evaluated = self._spans()
        began = time.process_time()
        if not self._poller.cycle():
            raise RuntimeError("the poll cycle failed")
        cpu = time.process_time() - began
        self._cycles += 1
        assert self._publisher.page is not None
        fetched_now, evaluated_now = self._spans()
        return CycleCost(
            cpu,
            self._publisher.page.snapshot.build_seconds,
            self._publish_seconds,
            fetched_now - fetched,
            evaluated_now - evaluated,
        )

    def _spans(self) -> tuple[float, float]:
        """Spans fetched and evaluated by polls so far."""
        registry, loop = self._metrics.registry, "poll"
        fetched = registry.get_sample_value("tempo_anomaly_traces_read_total", {"loop": loop}) or 0.0
        skipped = (
            registry.get_sample_value("tempo_anomaly_traces_skipped_total", {"loop": loop, "reason": reason}) or 0.0
            for reason in SKIP_REASONS
        )
        return fetched, fetched - sum(skipped)

    def _publish(self, snapshot: Snapshot) -> None:
        began = time.monotonic()
        self._publisher.publish(snapshot)
        self._publish_seconds = time.monotonic() - began

    def build(self, on: bool) -> int:
        if on:
            self._stop_building.clear()
            self._building = threading.Thread(target=self._build, daemon=True)
            self._building.start()
        elif self._building is not None:
            self._stop_building.set()
            self._building.join()
        return self._cycles

    def _build(self) -> None:
        while not self._stop_building.is_set():
            self.cycle(1)

    def reference_seconds(self, repeats: int) -> tuple[float, float]:
        request = HttpRequest("/metrics", {}, accept="text/plain", accepts_gzip=False)
        families = list(text_string_to_metric_families(self._page(request).body.decode()))

        class ParsedPage(Collector):
            def collect(self) -> list[Metric]:
                return families

        registry = CollectorRegistry()
        registry.register(ParsedPage())
        return _best(repeats, partial(generate_latest, registry)), _best(
            repeats, partial(generate_openmetrics, registry)
        )


def _best(repeats: int, work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _run(folder: Path, series: int, connection: Connection) -> None:
    """Serve calls until the other end of the pipe is closed."""
    path = folder / f"harness-{series}.db"
    write_history(path, _DISTINCT_BASELINES)
    table = baseline_table(path)
    path.unlink()
    distinct = [table.get(series_key(number)) for number in range(_DISTINCT_BASELINES)]
    baselines = {series_key(number): distinct[number % _DISTINCT_BASELINES] for number in range(series)}
    connection.send(table.start)
    poller = _Poller(connection.recv(), replace(table, series=baselines))
    connection.send(poller.port)
    serve_calls(
        connection,
        {"cycle": poller.cycle, "build": poller.build, "reference_seconds": poller.reference_seconds},
    )
