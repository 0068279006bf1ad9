"""An exporter in this process that reads an embedded Tempo over HTTP, with a simulated clock."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from exporter.app.app import App, build_app
from exporter.config import Config
from exporter.demo.routes import ApiOptions
from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import TraceSource
from exporter.metrics.self_metrics import SelfMetrics
from exporter.store import Store
from tests.support.scrape import Metrics

TICK_SECONDS: Final = 15.0


class SimulatedExporter:
    """The exporter at a simulated time.

    Attributes:
        app: its components; no thread runs.
        now: the time, Unix seconds.
    """

    def __init__(self, now: float) -> None:
        """Set the clock; :func:`simulated` builds the components."""
        self.app: App
        self.now = now

    def tick(self, seconds: float = TICK_SECONDS) -> Metrics:
        """Let time pass, run one poll cycle and return the page."""
        self.now += seconds
        self.app.evaluation.manager.open_table(self.now)
        self.app.evaluation.poller.cycle()
        return self.page()

    def tick_until(self, condition: Callable[[Metrics], object], seconds: float) -> Metrics:
        """Run poll cycles until a page meets a condition and return that page; AssertionError after some seconds."""
        end = self.now + seconds
        while self.now < end:
            page = self.tick()
            if condition(page):
                return page
        raise AssertionError(f"no page meets the condition within {seconds:g} s:\n{self.app.exposition()}")

    def page(self) -> Metrics:
        """Return the metrics page."""
        return Metrics.parse(self.app.exposition())


@contextmanager
def simulated(
    directory: Path, traces: TraceSource, now: float, **sections: Mapping[str, Any]
) -> Iterator[SimulatedExporter]:
    """Start an exporter that has read and evaluated the history.

    Args:
        directory: where its database is written.
        traces: what Tempo has; traces of the future are hidden until then.
        now: the time at the start, Unix seconds.
        sections: of the configuration; ``tempo`` is given.
    """
    exporter = SimulatedExporter(now)
    with ExitStack() as stack:
        options = ApiOptions(visible_after_seconds=9.0, idle_seconds=10.0)
        tempo = stack.enter_context(TempoServer(traces, options, clock=lambda: exporter.now))
        config = Config.model_validate({"tempo": {"url": tempo.url, "requests_per_second": 2000}, **sections})
        exporter.app = build_app(
            config, Store.open(directory / "history.db"), SelfMetrics(), clock=lambda: exporter.now
        )
        stack.callback(exporter.app.close)
        exporter.app.one_pass()
        yield exporter
