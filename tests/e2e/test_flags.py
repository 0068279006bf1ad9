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


def test_streams_are_counted_and_never_flagged(tempo: StartTempo, exporter: StartExporter) -> None:
    """Two streams take five times as long as usual, as an endpoint does whose flag fires."""
    now = time.time()
    this_hour = int(now) // HOUR * HOUR
    by_name, by_durations = SeriesKey("chat", "GET /ws"), SeriesKey("feed", "GET /next")
    probe = SeriesKey("checkout", "GET /healthz")
    traffic = Traffic()
    for hour in range(this_hour - 72 * HOUR, this_hour - HOUR, HOUR):
        for number in range(40):
            start = hour + 80.0 * number
            traffic.request(CHECKOUT, start, 0.2)
            traffic.request(probe, start, 0.002)
            traffic.request(by_name, start, 2.0)
            traffic.request(by_durations, start, 10.01)
    for number in range(200):
        start = now - 10 * MINUTE + 5 * number
        traffic.request(CHECKOUT, start, 1.0)
        traffic.request(probe, start, 1.0)
        traffic.request(by_name, start, 10.0)
        traffic.request(by_durations, start, 50.05)
    running = exporter(settings(tempo(traffic).url, polling={"backfill_duration": "72h"}, detection={"hold": "1s"}))
    page = running.wait_for(lambda page: page.get("anomalous", CHECKOUT, kind="shift") == 1)
    assert page["series_streams"] == 2
    assert page.series() == {CHECKOUT, by_name, by_durations}
    for stream in (by_name, by_durations):
        assert (page.get("current_traces", stream) or 0) > 40
        assert (page.get("baseline_samples", stream) or 0) > 0
        for absent in ("score", "outlier_threshold_seconds", "anomalous_since_timestamp_seconds"):
            assert page.get(absent, stream) is None
        for kind in ("shift", "outlier"):
            assert page.get("anomalous", stream, kind=kind) is None
        assert page.get("outlier_traces_total", stream) == 0
    found = running.get("/api/v1/series?state=stream").json()["series"]
    assert [(each["span_name"], each["stream_reason"]) for each in found] == [
        ("GET /ws", "name"),
        ("GET /next", "durations"),
    ]
    (record,) = running.logged("stream_recognized")
    assert record["span_name"] == "GET /next"


def test_overrides_decide_what_is_judged_and_how_severe_it_is(
    tempo: StartTempo, exporter: StartExporter, traffic: Traffic
) -> None:
    overrides = [
        {"match": "^checkout/", "enabled": False},
        {"match": "^gateway/", "severity": "critical", "detection": {"ratio": 2}},
    ]
    running = exporter(
        settings(
            tempo(traffic).url,
            polling={"backfill_duration": "72h"},
            detection={"hold": "1s"},
            overrides=overrides,
        )
    )
    page = running.wait_for(
        lambda page: page.get("anomalous", CART, kind="shift") == 0 and page.get("baseline_samples", CHECKOUT)
    )
    assert page.get("anomalous", CHECKOUT, kind="shift") is None
    assert page.get("anomalous", CHECKOUT, kind="outlier") is None
    assert page.get("current_traces", CHECKOUT)
    assert page.get("alert_severity", CART, severity="critical") == 1
    assert page.get("alert_severity", CHECKOUT, severity="critical") is None
    found = {each["service_name"]: each for each in running.get("/api/v1/series").json()["series"]}
    assert (found["checkout"]["state"], found["checkout"]["enabled"]) == ("disabled", False)
    assert found["gateway"]["overrides"][0] == {"key": "ratio", "value": "2", "override": 1}
    assert running.logged("shift_firing") == []
