"""Native histograms of the durations, scraped by the real Prometheus."""

import math
import time
from pathlib import Path

import pytest

from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import TraceSource
from exporter.model.span import SeriesKey
from tests.e2e.conftest import StartExporter
from tests.support.monitoring import PrometheusServer, scraping
from tests.support.processes import settings
from tests.support.traffic import NS, JoinedTraces, Traffic

HOSTILE = SeriesKey("shop", 'POST "/a\\b"\n{x="y"} 订单')
BUCKET = 0.0111
"""Relative error of a quantile of such a histogram: half a bucket."""


def test_prometheus_computes_quantiles_from_native_histograms(exporter: StartExporter, tmp_path: Path) -> None:
    served: list[TraceSource] = []
    with TempoServer(JoinedTraces(served)) as tempo:
        running = exporter(settings(tempo.url, polling={"backfill_enabled": False}, web={"native_histograms": True}))
        running.wait_for(lambda page: page.get("snapshot_timestamp_seconds") is not None)
        # Only spans that end after the start of the exporter count.
        traffic, now = Traffic(), time.time()
        traffic.spread(HOSTILE, now, now + 2, count=1500, scale=0.4)
        traffic.spread(HOSTILE, now, now + 2, count=500, scale=3.0)
        served.append(traffic.store())
        host = running.url.removeprefix("http://")
        prometheus = PrometheusServer(tmp_path / "prometheus", scraping(host), features=("native-histograms",))
        prometheus.directory.mkdir()
        with prometheus:
            prometheus.wait_for(f"histogram_count(tempo_anomaly_duration_seconds) == {len(traffic.requests)}", 60)
            durations = sorted(request.duration_ns / NS for request in traffic.requests)
            for q in (0.5, 0.95):
                (found,) = prometheus.query(f"histogram_quantile({q}, tempo_anomaly_duration_seconds)")
                assert found.labels["span_name"] == HOSTILE.span_name
                nearest = durations[math.ceil(q * len(durations)) - 1]
                assert found.value == pytest.approx(nearest, rel=BUCKET)
            (total,) = prometheus.query("histogram_sum(tempo_anomaly_duration_seconds)")
            assert total.value == pytest.approx(sum(durations))
            # The other metrics arrive in the same format.
            (traces,) = prometheus.query("tempo_anomaly_traces_total")
            assert traces.value == len(durations)
            assert prometheus.query("tempo_anomaly_tempo_request_duration_seconds_bucket")
            assert prometheus.query("process_cpu_seconds_total")
