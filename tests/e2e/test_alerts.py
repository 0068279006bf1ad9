"""From traces to notifications: an exporter, Prometheus and Alertmanager with the shipped configuration."""

import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import Trace, TraceStore
from exporter.model.span import SeriesKey
from tests.support.alerting import ALERTMANAGER, PROMETHEUS, RULES, Document, load
from tests.support.monitoring import AlertmanagerServer, Notification, PrometheusServer, WebhookReceiver
from tests.support.processes import ExporterProcess, eventually, settings
from tests.support.traffic import HOUR, MINUTE, NS, Traffic

SLOW: Final = SeriesKey("checkout", 'POST /checkout/{id} "fast\\lane"')
HEALTHY: Final = (SeriesKey("checkout", "GET /checkout/summary"), SeriesKey("gateway", "GET /cart"))
WIDE: Final = tuple(SeriesKey("search", f"GET /search/{kind}") for kind in ("books", "films", "music"))

NORMAL_SECONDS: Final = 0.2
SLOW_SECONDS: Final = 1.0
_SHORTENED: Final = {"30s": "1s", "5m": "2s", "10m": "4s"}
_TIMEOUT_SECONDS: Final = 60.0


@dataclass
class Incident:
    """Traces of which some are slow until the test ends the incident.

    Attributes:
        slow: the traces with the incident.
        normal: the same traces without it.
        end_ns: end of the incident; later traces are normal.
    """

    slow: TraceStore
    normal: TraceStore
    end_ns: int | None = None

    def overlapping(self, start_ns: int, end_ns: int) -> Sequence[Trace]:
        """Return the traces that overlap a range."""
        incident_end_ns = self.end_ns
        if incident_end_ns is None:
            return self.slow.overlapping(start_ns, end_ns)
        slow = [trace for trace in self.slow.overlapping(start_ns, end_ns) if trace.start_ns < incident_end_ns]
        return slow + [
            trace for trace in self.normal.overlapping(start_ns, end_ns) if trace.start_ns >= incident_end_ns
        ]

    def find(self, trace_id: int) -> Trace | None:
        """Return the trace with an ID."""
        return self.slow.find(trace_id) or self.normal.find(trace_id)

    def end(self) -> None:
        """End the incident now."""
        self.end_ns = time.time_ns()


def incident() -> Incident:
    """Return three days of history, and an incident that started ten minutes ago."""
    now = time.time()
    this_hour = int(now) // HOUR * HOUR
    stores = []
    for seed, scale in ((1, SLOW_SECONDS), (2, NORMAL_SECONDS)):
        traffic = Traffic(seed)
        for endpoint in (SLOW, *HEALTHY, *WIDE):
            traffic.hourly(
                endpoint, range(this_hour - 72 * HOUR, this_hour - HOUR, HOUR), count=30, scale=NORMAL_SECONDS
            )
            current = scale if endpoint in (SLOW, *WIDE) else NORMAL_SECONDS
            traffic.spread(endpoint, now - 10 * MINUTE, now + 10 * MINUTE, count=4_000, scale=current)
        stores.append(traffic.store())
    slow, normal = stores
    return Incident(slow, normal)


def shortened_rules(document: Document) -> Document:
    """Shorten the waiting times of the latency rules from minutes to seconds.

    The rules about the exporter stay as they are; the test asserts that they do not fire.
    """
    for group in document["groups"]:
        for rule in group["rules"]:
            if group["name"] == "tempo-anomaly.latency":
                rule |= {key: _SHORTENED[rule[key]] for key in ("for", "keep_firing_for")}
    return document


def prometheus_configuration(exporter: str, alertmanager: str) -> Document:
    """Return the shipped configuration with other addresses and an interval of one second."""
    document = load(PROMETHEUS)
    document["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (scrape_config,), (alertmanagers,) = document["scrape_configs"], document["alerting"]["alertmanagers"]
    scrape_config["static_configs"] = [{"targets": [exporter]}]
    alertmanagers["static_configs"] = [{"targets": [alertmanager]}]
    return document


def alertmanager_configuration(webhook: str) -> Document:
    """Return the shipped configuration with another receiver and short group intervals."""
    document = load(ALERTMANAGER)
    for receiver in document["receivers"]:
        for hook in receiver["webhook_configs"]:
            hook["url"] = hook["url"].replace("http://127.0.0.1:9099", webhook)
    document["route"] |= {"group_wait": "3s", "group_interval": "1s"}
    return document


def summary(notification: Notification) -> dict[str, Any]:
    """Summarise a notification."""
    return {
        "to": notification.path,
        "status": notification.status,
        "alerts": notification.names(),
        "endpoints": [
            (alert["labels"]["service_name"], alert["labels"].get("span_name")) for alert in notification.alerts
        ],
    }


ONE_ENDPOINT: Final = {"to": "/checkout-chat", "alerts": ["TempoAnomalyLatencyShift"], "endpoints": [tuple(SLOW)]}
ONE_SERVICE: Final = {"to": "/chat", "alerts": ["TempoAnomalyServiceLatencyShift"], "endpoints": [("search", None)]}


@pytest.mark.timeout(240)
def test_each_incident_sends_one_firing_and_one_resolved_notification(tmp_path: Path) -> None:
    rules = tmp_path / "prometheus" / "rules"
    rules.mkdir(parents=True)
    for file in RULES:
        (rules / file.name).write_text(yaml.safe_dump(shortened_rules(load(file))), "utf-8")
    # A short evaluation window lets the shift resolve soon.
    configuration = settings(
        "",
        polling={"backfill_duration": "72h", "tempo_lookback": "8s"},
        detection={"hold": "1s", "clear_hold": "1s", "window": "8s", "max_window": "8s"},
    )
    traffic = incident()
    with ExitStack() as stack:
        tempo = stack.enter_context(TempoServer(traffic))
        configuration["tempo"]["url"] = tempo.url
        exporter = stack.enter_context(ExporterProcess(tmp_path, configuration))
        webhook = stack.enter_context(WebhookReceiver())
        alertmanager = stack.enter_context(
            AlertmanagerServer(tmp_path / "alertmanager", alertmanager_configuration(webhook.url))
        )
        scraping = prometheus_configuration(exporter.url.removeprefix("http://"), alertmanager.address)
        prometheus = stack.enter_context(PrometheusServer(tmp_path / "prometheus", scraping))

        def state() -> str:
            return f"firing: {prometheus.firing()}, received: {[summary(each) for each in webhook.received]}"

        fired = [webhook.next(_TIMEOUT_SECONDS, state), webhook.next(_TIMEOUT_SECONDS, state)]
        assert sorted(map(summary, fired), key=lambda each: each["to"]) == [
            {**ONE_SERVICE, "status": "firing"},
            {**ONE_ENDPOINT, "status": "firing"},
        ]
        alerts = {alert["labels"]["alertname"]: alert for notification in fired for alert in notification.alerts}
        single = alerts["TempoAnomalyLatencyShift"]
        first_line, p95, *_ = single["annotations"]["description"].splitlines()
        assert '"POST /checkout/{id} \\"fast\\\\lane\\"" of "checkout" is slower than usual, since' in first_line
        assert "times as long" in p95
        assert re.search(r"\(level [1-4]\): \d+ traces in \d+ hours\.$", single["annotations"]["description"])
        assert single["annotations"]["dashboard_url"].endswith(
            "&var-endpoint=POST+%2Fcheckout%2F%7Bid%7D+%22fast%5Clane%22"
        )
        assert "3 of 3 endpoints" in alerts["TempoAnomalyServiceLatencyShift"]["annotations"]["description"]

        # The alerts of the service's three endpoints fire too, and the alert of the service inhibits them.
        inhibited = {
            alert["labels"]["span_name"]: alert["status"]
            for alert in alertmanager.alerts(filter=['alertname="TempoAnomalyLatencyShift"', 'service_name="search"'])
        }
        assert set(inhibited) == {endpoint.span_name for endpoint in WIDE}
        assert all(status["state"] == "suppressed" and status["inhibitedBy"] for status in inhibited.values())

        # All rules evaluate without errors, and exemplars lead to traces of the incident.
        assert [rule["name"] for rule in prometheus.rules() if rule["health"] != "ok" or rule.get("lastError")] == []
        series: list[Any] = []

        def has_exemplars() -> bool:
            series[:] = prometheus.exemplars("tempo_anomaly_outlier_traces_total", time.time() - HOUR, time.time())
            return bool(series)

        eventually(has_exemplars, lambda: f"no exemplars\n{prometheus.tail()}", _TIMEOUT_SECONDS)
        trace_id = series[0]["exemplars"][0]["labels"]["trace_id"]
        trace = traffic.find(int(trace_id, 16))
        assert trace is not None
        assert trace.end_ns - trace.start_ns > NORMAL_SECONDS * NS

        traffic.end()
        resolved = [webhook.next(_TIMEOUT_SECONDS, state), webhook.next(_TIMEOUT_SECONDS, state)]
        of_service, of_endpoint = sorted(map(summary, resolved), key=lambda each: each["to"])
        assert of_endpoint == {**ONE_ENDPOINT, "status": "resolved"}
        # The inhibited alerts may resolve in the same notification as the alert of the service.
        assert (of_service["to"], of_service["status"]) == ("/chat", "resolved")
        assert "TempoAnomalyServiceLatencyShift" in of_service["alerts"]
        assert {service for service, _ in of_service["endpoints"]} == {"search"}
        eventually(lambda: not prometheus.firing(), state, _TIMEOUT_SECONDS)
        assert len(webhook.received) == 4
