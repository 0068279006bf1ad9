"""From traces to a notification: an exporter, Prometheus and Alertmanager with the shipped rules and routes."""

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

USUAL_SECONDS: Final = 0.2
SLOW_SECONDS: Final = 1.0
_HASTE: Final = {"30s": "1s", "5m": "2s", "10m": "4s"}
_WAIT_SECONDS: Final = 60.0


@dataclass
class Incident:
    """Traces of which some are slow until the test says that it is over: the same requests go on, as fast as usual.

    Attributes:
        slow: the traces with the incident.
        usual: the traces without it.
        over_at_ns: what begins from then on is as usual.
    """

    slow: TraceStore
    usual: TraceStore
    over_at_ns: int | None = None

    def overlapping(self, start_ns: int, end_ns: int) -> Sequence[Trace]:
        """The traces of which a part lies in a range."""
        over_at_ns = self.over_at_ns
        if over_at_ns is None:
            return self.slow.overlapping(start_ns, end_ns)
        slow = [trace for trace in self.slow.overlapping(start_ns, end_ns) if trace.start_ns < over_at_ns]
        return slow + [trace for trace in self.usual.overlapping(start_ns, end_ns) if trace.start_ns >= over_at_ns]

    def find(self, trace_id: int) -> Trace | None:
        """The trace with an id."""
        return self.slow.find(trace_id) or self.usual.find(trace_id)

    def end(self) -> None:
        """It is over."""
        self.over_at_ns = time.time_ns()


def incident() -> Incident:
    """Three days of history, and an incident that began ten minutes ago."""
    now = time.time()
    this_hour = int(now) // HOUR * HOUR
    stores = []
    for seed, scale in ((1, SLOW_SECONDS), (2, USUAL_SECONDS)):
        traffic = Traffic(seed)
        for endpoint in (SLOW, *HEALTHY, *WIDE):
            traffic.hourly(
                endpoint, range(this_hour - 72 * HOUR, this_hour - HOUR, HOUR), count=30, scale=USUAL_SECONDS
            )
            current = scale if endpoint in (SLOW, *WIDE) else USUAL_SECONDS
            traffic.spread(endpoint, now - 10 * MINUTE, now + 10 * MINUTE, count=4_000, scale=current)
        stores.append(traffic.store())
    slow, usual = stores
    return Incident(slow, usual)


def hastened_rules(document: Document) -> Document:
    """The same rules, of which those about latency wait for seconds instead of minutes.

    Those about the exporter stay as they are: that they do not fire within the test is part of it.
    """
    for group in document["groups"]:
        for rule in group["rules"]:
            if group["name"] == "tempo-anomaly.latency":
                rule |= {key: _HASTE[rule[key]] for key in ("for", "keep_firing_for")}
    return document


def prometheus_configuration(exporter: str, alertmanager: str) -> Document:
    """The shipped configuration with these addresses, once a second."""
    document = load(PROMETHEUS)
    document["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (scraped,), (told,) = document["scrape_configs"], document["alerting"]["alertmanagers"]
    scraped["static_configs"] = [{"targets": [exporter]}]
    told["static_configs"] = [{"targets": [alertmanager]}]
    return document


def alertmanager_configuration(webhook: str) -> Document:
    """The shipped configuration with this receiver, and groups that wait for seconds."""
    document = load(ALERTMANAGER)
    for receiver in document["receivers"]:
        for hook in receiver["webhook_configs"]:
            hook["url"] = hook["url"].replace("http://127.0.0.1:9099", webhook)
    document["route"] |= {"group_wait": "3s", "group_interval": "1s"}
    return document


def described(notification: Notification) -> dict[str, Any]:
    """What a notification says, in short."""
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
def test_one_incident_is_one_notification_that_names_it_and_one_that_it_is_over(tmp_path: Path) -> None:
    rules = tmp_path / "prometheus" / "rules"
    rules.mkdir(parents=True)
    for file in RULES:
        (rules / file.name).write_text(yaml.safe_dump(hastened_rules(load(file))), "utf-8")
    # What decides how soon a shift is over is the newest part of the window, so the window is short.
    quick = settings(
        "",
        polling={"backfill_duration": "72h", "tempo_lookback": "8s"},
        detection={"hold": "1s", "clear_hold": "1s", "window": "8s", "max_window": "8s"},
    )
    traffic = incident()
    with ExitStack() as stack:
        tempo = stack.enter_context(TempoServer(traffic))
        quick["tempo"]["url"] = tempo.url
        exporter = stack.enter_context(ExporterProcess(tmp_path, quick))
        webhook = stack.enter_context(WebhookReceiver())
        alertmanager = stack.enter_context(
            AlertmanagerServer(tmp_path / "alertmanager", alertmanager_configuration(webhook.url))
        )
        configuration = prometheus_configuration(exporter.url.removeprefix("http://"), alertmanager.address)
        prometheus = stack.enter_context(PrometheusServer(tmp_path / "prometheus", configuration))

        def state() -> str:
            return f"firing: {prometheus.firing()}, received: {[described(each) for each in webhook.received]}"

        fired = [webhook.next(_WAIT_SECONDS, state), webhook.next(_WAIT_SECONDS, state)]
        assert sorted(map(described, fired), key=lambda each: each["to"]) == [
            {**ONE_SERVICE, "status": "firing"},
            {**ONE_ENDPOINT, "status": "firing"},
        ]
        texts = {alert["labels"]["alertname"]: alert for notification in fired for alert in notification.alerts}
        single = texts["TempoAnomalyLatencyShift"]
        first_line, p95, *_ = single["annotations"]["description"].splitlines()
        assert '"POST /checkout/{id} \\"fast\\\\lane\\"" of "checkout" is slower than usual, since' in first_line
        assert "times as long" in p95
        assert re.search(r"\(level [1-4]\): \d+ traces in \d+ hours\.$", single["annotations"]["description"])
        assert single["annotations"]["dashboard_url"].endswith(
            "&var-endpoint=POST+%2Fcheckout%2F%7Bid%7D+%22fast%5Clane%22"
        )
        assert "3 of 3 endpoints" in texts["TempoAnomalyServiceLatencyShift"]["annotations"]["description"]

        # The three endpoints of the service fire as well, and the alert of the service is why nobody was told.
        silenced = {
            alert["labels"]["span_name"]: alert["status"]
            for alert in alertmanager.alerts(filter=['alertname="TempoAnomalyLatencyShift"', 'service_name="search"'])
        }
        assert set(silenced) == {endpoint.span_name for endpoint in WIDE}
        assert all(status["state"] == "suppressed" and status["inhibitedBy"] for status in silenced.values())

        # Everything that was loaded works: rules without errors, and exemplars that lead to traces of the incident.
        assert [rule["name"] for rule in prometheus.rules() if rule["health"] != "ok" or rule.get("lastError")] == []
        found: list[Any] = []

        def exemplars() -> bool:
            found[:] = prometheus.exemplars("tempo_anomaly_outlier_traces_total", time.time() - HOUR, time.time())
            return bool(found)

        eventually(exemplars, lambda: f"no exemplars\n{prometheus.tail()}", _WAIT_SECONDS)
        trace_id = found[0]["exemplars"][0]["labels"]["trace_id"]
        trace = traffic.find(int(trace_id, 16))
        assert trace is not None
        assert trace.end_ns - trace.start_ns > USUAL_SECONDS * NS

        traffic.end()
        resolved = [webhook.next(_WAIT_SECONDS, state), webhook.next(_WAIT_SECONDS, state)]
        of_service, of_endpoint = sorted(map(described, resolved), key=lambda each: each["to"])
        assert of_endpoint == {**ONE_ENDPOINT, "status": "resolved"}
        # Endpoints that were silenced and are over at the same moment may be told of together with their service.
        assert (of_service["to"], of_service["status"]) == ("/chat", "resolved")
        assert "TempoAnomalyServiceLatencyShift" in of_service["alerts"]
        assert {service for service, _ in of_service["endpoints"]} == {"search"}
        eventually(lambda: not prometheus.firing(), state, _WAIT_SECONDS)
        assert len(webhook.received) == 4
