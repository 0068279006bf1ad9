"""A complete ``/metrics`` page, with every metric of the exporter."""

from dataclasses import replace

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from exporter.baseline.levels import FallbackRules
from exporter.detection.flag import FlagKind
from exporter.detection.parameters import Parameters
from exporter.detection.policy import SeriesPolicy
from exporter.evaluation.snapshot import KindStatus, Snapshot
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.ingest.series_filter import SeriesFilter, SeriesRules
from exporter.metrics.exposition import Publisher
from exporter.metrics.self_metrics import ReloadCollector, SelfMetrics, StateCollector
from exporter.model.span import SeriesKey
from exporter.runtime.reload import ReloadStatus
from exporter.web.http import HttpRequest, HttpResponse
from exporter.web.management import MetricsPage
from tests.support.causes import with_cause
from tests.support.samples import NOON, REGRESSION, VERSION, backfill_status, small_snapshot

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
        series_filter = SeriesFilter(SeriesRules(max_series=100, max_per_service=1), dropped=4)
        for span_name in ("GET /a", "GET /b", "GET /c"):
            series_filter.resolve(SeriesKey("scanned", span_name))
        self.metrics.state = StateCollector(
            lambda: None if self.publisher.page is None else self.publisher.page.snapshot,
            lambda: backfill,
            series_filter,
            series_limit=100,
        )
        if snapshot is not None:
            for collect in (ReloadCollector.of_config, ReloadCollector.of_web_config):
                self.metrics.registry.register(collect(lambda: ReloadStatus(True, 1_750_000_000.0)))
        self.page = MetricsPage(self.publisher, self.metrics.registry)

    @classmethod
    def full(cls) -> "WholePage":
        """A page on which no metric is absent."""
        snapshot = with_cause(small_snapshot())
        severe = SeriesPolicy(FallbackRules(), Parameters(), Parameters(), severity="critical")
        first = replace(
            snapshot.series[0],
            policy=severe,
            is_cause_pending=True,
            regressed=True,
            regression=REGRESSION,
            kinds=(KindStatus(FlagKind.TRAFFIC, True, NOON - 45.0),),
            regression_version=VERSION,
        )
        series = (first, *snapshot.series[1:])
        page = cls(replace(snapshot, series=series), backfill_status())
        page.metrics.source_counts_available(True)
        page.metrics.rootless_traces(0.02)
        page.metrics.search_by_id_available(True)
        page.metrics.marks_file_loaded(True, 1_750_000_000.0)
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
