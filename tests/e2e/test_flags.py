"""Flags at the live edge: a shift fires, its state survives a crash, and outliers have exemplars."""

import time

import pytest

from exporter.model.span import SeriesKey
from tests.e2e.conftest import StartExporter, StartTempo
from tests.support.processes import settings
from tests.support.scrape import OPENMETRICS, Metrics
from tests.support.traffic import HOUR, MINUTE, NS, Traffic

CHECKOUT = SeriesKey("checkout", "POST /checkout")
CART = SeriesKey("gateway", "GET /cart")


@pytest.fixture
def traffic() -> Traffic:
    """Three days of history, and an incident of one endpoint that started ten minutes ago."""
    now = time.time()
    traffic = Traffic()
    this_hour = int(now) // HOUR * HOUR
    for endpoint in (CHECKOUT, CART):
        traffic.hourly(endpoint, range(this_hour - 72 * HOUR, this_hour - HOUR, HOUR), count=30, scale=0.2)
    begin = now - 10 * MINUTE
    traffic.spread(CHECKOUT, begin, now + 10 * MINUTE, count=400, scale=1.0)
    traffic.spread(CART, begin, now + 10 * MINUTE, count=400, scale=0.2)
    return traffic


def test_firing_flag_survives_a_crash(tempo: StartTempo, exporter: StartExporter, traffic: Traffic) -> None:
    url = tempo(traffic).url
    configuration = settings(url, polling={"backfill_duration": "72h"}, detection={"hold": "1s"})
    first = exporter(configuration)
    before = first.wait_for(lambda page: page.get("anomalous", CHECKOUT, kind="shift") == 1)
    since = before.get("anomalous_since_timestamp_seconds", CHECKOUT)
    assert since is not None
    assert before["backfill_started_timestamp_seconds"] <= since <= before["snapshot_timestamp_seconds"]
    assert (before.get("score", CHECKOUT) or 0) > 1
    assert before.get("anomalous", CART, kind="shift") == 0
    assert before.get("anomalous_since_timestamp_seconds", CART) is None
    (record,) = first.logged("shift_firing")
    assert SeriesKey(record["service_name"], record["span_name"]) == CHECKOUT
    assert "× the usual" in record["explanation"]
    first.kill()

    # With a poll a minute, the page shows the first snapshot.
    second = exporter(settings(url, polling={"backfill_duration": "72h", "tempo_interval": "60s"}))
    after = second.wait_for(lambda page: page.get("snapshot_timestamp_seconds") is not None)
    assert after.get("anomalous", CHECKOUT, kind="shift") == 1
    assert after.get("anomalous_since_timestamp_seconds", CHECKOUT) == since
    assert after.get("anomalous", CART, kind="shift") == 0
    assert second.logged("shift_firing") == []
    page = second.get("/").text
    assert "POST /checkout" in page[page.index("Anomalous now") : page.index("<h2>History")]


def test_outlier_counter_has_an_exemplar_of_the_trace(
    tempo: StartTempo, exporter: StartExporter, traffic: Traffic
) -> None:
    running = exporter(settings(tempo(traffic).url, polling={"backfill_duration": "72h"}))
    # Only spans that ended after the start are counted.
    running.wait_for(lambda page: page.get("outlier_traces_total", CHECKOUT))
    response = running.get("/metrics", headers={"Accept": OPENMETRICS})
    family = Metrics.parse(response.text, openmetrics=True).families["tempo_anomaly_outlier_traces"]
    exemplars = {sample.labels["service_name"]: sample.exemplar for sample in family.samples}
    assert exemplars["gateway"] is None
    exemplar = exemplars["checkout"]
    assert exemplar is not None
    (request,) = [request for request in traffic.requests if request.trace_id == exemplar.labels["trace_id"]]
    assert request.series == CHECKOUT
    assert exemplar.value == pytest.approx(request.duration_ns / NS)
    assert exemplar.timestamp is not None
    assert float(exemplar.timestamp) == pytest.approx((request.start_ns + request.duration_ns) / NS, abs=0.001)
