"""A complete ``/metrics`` page, with every metric of the exporter."""

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from exporter.evaluation.snapshot import Snapshot
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.ingest.series_filter import SeriesFilter, SeriesRules
from exporter.metrics.exposition import Publisher
from exporter.metrics.self_metrics import SelfMetrics, StateCollector, WebConfigCollector
from exporter.web.config_reload import ReloadStatus
from exporter.web.http import HttpRequest, HttpResponse
from exporter.web.management import MetricsPage
from tests.support.samples import backfill_status, small_snapshot

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class WholePage:
    """The ``/metrics`` page of an exporter.

    Attributes:
        metrics: the exporter's own metrics, without any event counted.
        publisher: holds the snapshot.
    """

    def __init__(self, snapshot: Snapshot | None = None, backfill: BackfillStatus | None = None) -> None:
        self.metrics = SelfMetrics()
        self.publisher = Publisher()
        if snapshot is not None:
            self.publisher.publish(snapshot)
        series_filter = SeriesFilter(SeriesRules(max_series=100), dropped=4)
        self.metrics.state = StateCollector(
            lambda: None if self.publisher.page is None else self.publisher.page.snapshot,
            lambda: backfill,
            series_filter,
            series_limit=100,
        )
        if snapshot is not None:
            self.metrics.registry.register(WebConfigCollector(lambda: ReloadStatus(True, 1_750_000_000.0)))
        self.page = MetricsPage(self.publisher, self.metrics.registry)

    @classmethod
    def full(cls) -> "WholePage":
        """A page on which no metric is absent."""
        page = cls(small_snapshot(), backfill_status())
        page.metrics.source_counts_available(True)
        return page

    def get(self, accept: str = "", *names: str, gzip: bool = False) -> HttpResponse:
        """Scrape the page."""
        return self.page(HttpRequest("/metrics", {"name[]": list(names)} if names else {}, accept, gzip))

    def text(self, accept: str = "", *names: str) -> str:
        """Scrape the page and decode it."""
        return self.get(accept, *names).body.decode()

    def families(self) -> dict[str, Metric]:
        """The families of the text format by sample name (counters with ``_total``)."""
        return {
            f"{family.name}_total" if family.type == "counter" else family.name: family
            for family in text_string_to_metric_families(self.text())
        }

    def values(self) -> dict[tuple[str, ...], float]:
        """The values by sample name and label values."""
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in self.families().values()
            for sample in family.samples
        }
