"""The poller and the page it is published on, in a process of its own that does what it is told.

The clock is told, too: a cycle reads what a source has for the minutes before some instant of the past, so cycles can
follow one another without waiting for traffic. Everything else is what an exporter consists of.
"""

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

from benchmarks.history import book_of, write_history
from benchmarks.source import Source
from benchmarks.told import Told, obey
from benchmarks.traffic import Traffic, series_key
from exporter.app.settings import client_settings, evaluation_settings, poll_settings, series_rules
from exporter.config import Config
from exporter.detection.flag import Flag
from exporter.evaluation.baseline_table import BaselineTable
from exporter.evaluation.live import LiveEvaluator
from exporter.evaluation.poller import Poller
from exporter.evaluation.snapshot import Snapshot
from exporter.ingest.live_reader import LiveReader
from exporter.ingest.series_filter import SeriesFilter
from exporter.metrics.exposition import Publisher
from exporter.metrics.self_metrics import SelfMetrics, StateCollector
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.runtime.tuning import freeze_gc, take_short_turns
from exporter.tempo import TempoClient
from exporter.web.http import HttpRequest, Site
from exporter.web.management import MetricsPage
from exporter.web.server.server import Server

_TRACES_PER_SECOND: Final = 1 / 30
"""Of every series: ten in an evaluation window of five minutes."""
_TRAFFIC_SECONDS: Final = 900
_BOOKED_SERIES: Final = 20
"""What is usual is worked out for so many series, and is then the same for all."""


class Cycle(NamedTuple):
    """What a cycle has cost, in seconds.

    Attributes:
        cpu: the processor time of all of it.
        snapshot: how long it took to judge every series and build the snapshot.
        publish: how long it took to render that in the formats that are asked for, and swap it in.
    """

    cpu: float
    snapshot: float
    publish: float


class Rig(Told):
    """The rig's process and the source it reads, seen from the one that measures.

    Attributes:
        port: where it serves.
        traces_per_cycle: how many traces a cycle reads.
    """

    def __init__(self, folder: Path, series: int) -> None:
        """Set up so many series, each with history and traffic, and go through the first cycle."""
        super().__init__(_run, folder, series)
        start = self.connection.recv()
        traces = int(series * _TRACES_PER_SECOND * _TRAFFIC_SECONDS)
        self._source = Source(Traffic(traces, start, start + _TRAFFIC_SECONDS, series, even=True), live=False)
        self.connection.send(self._source.url)
        self.port: int = self.connection.recv()

    def cycle(self, seconds: float) -> Cycle:
        """Go through a cycle so many seconds after the last."""
        return Cycle(*self.ask("cycle", seconds))

    def build(self, on: bool) -> int:
        """Begin or end going through one cycle after the other; returns how many there have been."""
        return int(self.ask("build", on))

    def reference_seconds(self, repeats: int) -> tuple[float, float]:
        """How long prometheus_client takes to render the samples of the page, as text and as OpenMetrics."""
        text, openmetrics = self.ask("reference_seconds", repeats)
        return text, openmetrics

    def close(self) -> None:
        """End the process and the source."""
        super().close()
        self._source.close()


class _Known:
    """A history in which the book is always at hand, as it is but for once an hour."""

    def __init__(self, book: BaselineTable) -> None:
        self._book = book

    def book(self, now: float) -> BaselineTable:  # noqa: ARG002 - there is only one
        return self._book

    def wait_for_book(self, seconds: float) -> bool:  # noqa: ARG002 - there is nothing to wait for
        return False

    def describe(self, snapshot: Snapshot) -> Snapshot:
        return snapshot

    def remember(self, flags: Mapping[SeriesKey, Flag], suspects: Mapping[SeriesKey, tuple[int, ...]]) -> None:
        """Nothing outlives the measurement."""


class _Parts:
    """What runs in the rig's process."""

    def __init__(self, url: str, book: BaselineTable) -> None:
        self._now = book.start + 360.0
        self._end = book.start + _TRAFFIC_SECONDS - 10.0
        self._building: threading.Thread | None = None
        self._stop_building = threading.Event()
        self._cycles = 0
        # Whatever there is, is read whole: what is measured is a cycle with traffic in each series.
        config = Config.model_validate(
            {
                "tempo": {"url": url, "requests_per_second": 1000},
                "polling": {"max_traces_per_poll": 1_000_000, "max_requests_per_poll": 1000},
            }
        )
        take_short_turns()
        log = get_logger("benchmark")
        metrics = SelfMetrics()
        stop = threading.Event()
        rules = series_rules(config)
        admission = SeriesFilter(rules)
        polling = poll_settings(config)
        self._publisher = publisher = Publisher()
        self._publish_seconds = 0.0
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
                admission.resolve,
                started_at=self._now,
                remembered_seconds=polling.remembered_seconds,
                flags={},
            ),
            _Known(book),
            self._publish,
            polling,
            metrics,
            clock=lambda: self._now,
            monotonic=time.monotonic,
            stop=stop,
            log=log,
            on_new_book=freeze_gc,
        )

        def snapshot() -> Snapshot | None:
            return None if publisher.page is None else publisher.page.snapshot

        metrics.registry.register(StateCollector(snapshot, lambda: None, admission, rules.max_series))
        self._page = MetricsPage(publisher, metrics.registry)
        self._poller.cycle()
        server = Server(Site({"/metrics": self._page}, log), "127.0.0.1", 0)
        server.start(lambda error: None)  # noqa: ARG005 - a scrape would fail
        self.port = server.addresses[0][1]

    def cycle(self, seconds: float) -> Cycle:
        self._now = min(self._now + seconds, self._end)
        began = time.process_time()
        if not self._poller.cycle():
            raise RuntimeError("the rig could not read its source")
        self._cycles += 1
        assert self._publisher.page is not None
        return Cycle(time.process_time() - began, self._publisher.page.snapshot.build_seconds, self._publish_seconds)

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

        class Same(Collector):
            def collect(self) -> list[Metric]:
                return families

        registry = CollectorRegistry()
        registry.register(Same())
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
    """Do what is asked until the other end of the connection is closed."""
    path = folder / f"rig-{series}.db"
    write_history(path, _BOOKED_SERIES)
    book = book_of(path)
    path.unlink()
    usual = [book.of(series_key(number)) for number in range(_BOOKED_SERIES)]
    all_ = {series_key(number): usual[number % _BOOKED_SERIES] for number in range(series)}
    connection.send(book.start)
    parts = _Parts(connection.recv(), replace(book, series=all_))
    connection.send(parts.port)
    obey(
        connection,
        {"cycle": parts.cycle, "build": parts.build, "reference_seconds": parts.reference_seconds},
    )
