"""From traces to notifications: an exporter, Prometheus and Alertmanager with the shipped configuration."""

import re
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from exporter.demo.tempo_api import TempoServer
from exporter.model.span import SeriesKey
from tests.support.alerting import alerting_on
from tests.support.monitoring import Notification
from tests.support.processes import ExporterProcess, eventually, settings
from tests.support.traffic import HOUR, MINUTE, NS, EndingIncident, Traffic

SLOW: Final = SeriesKey("checkout", 'POST /checkout/{id} "fast\\lane"')
HEALTHY: Final = (SeriesKey("checkout", "GET /checkout/summary"), SeriesKey("gateway", "GET /cart"))
WIDE: Final = tuple(SeriesKey("search", f"GET /search/{kind}") for kind in ("books", "films", "music"))

NORMAL_SECONDS: Final = 0.2
SLOW_SECONDS: Final = 1.0
_TIMEOUT_SECONDS: Final = 120.0
_QUIET_SECONDS: Final = 5.0


def incident() -> EndingIncident:
    """Return three days of history, and an incident that started ten minutes ago: one endpoint also fails."""
    now = time.time()
    this_hour = int(now) // HOUR * HOUR
    stores = []
    for seed, scale in ((1, SLOW_SECONDS), (2, NORMAL_SECONDS)):
        traffic = Traffic(seed)
        for endpoint in (SLOW, *HEALTHY, *WIDE):
            traffic.hourly(
                endpoint, range(this_hour - 72 * HOUR, this_hour - HOUR, HOUR), count=30, scale=NORMAL_SECONDS
            )
            is_slow = endpoint in (SLOW, *WIDE) and scale == SLOW_SECONDS
            traffic.spread(
                endpoint,
                now - 10 * MINUTE,
                now + 10 * MINUTE,
                count=4_000,
                scale=SLOW_SECONDS if is_slow else NORMAL_SECONDS,
                failed_every=3 if is_slow and endpoint == SLOW else 0,
            )
        stores.append(traffic.store())
    slow, normal = stores
    return EndingIncident(slow, normal)


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


def statuses(notifications: Iterable[Notification]) -> dict[tuple[str, str], list[str]]:
    """Return the notified statuses of each alert, by its name and span name; repetitions are left out."""
    found: dict[tuple[str, str], list[str]] = {}
    for notification in notifications:
        for alert in notification.alerts:
            key = alert["labels"]["alertname"], alert["labels"].get("span_name", "")
            if found.setdefault(key, [])[-1:] != [alert["status"]]:
                found[key].append(alert["status"])
    return found


RESOLVED: Final = {
    ("TempoAnomalyLatencyShift", SLOW.span_name): ["firing", "resolved"],
    ("TempoAnomalyServiceLatencyShift", ""): ["firing", "resolved"],
}
ONE_ENDPOINT: Final = {"to": "/checkout-chat", "alerts": ["TempoAnomalyLatencyShift"], "endpoints": [SLOW[:2]]}
ONE_SERVICE: Final = {"to": "/chat", "alerts": ["TempoAnomalyServiceLatencyShift"], "endpoints": [("search", None)]}


@pytest.mark.timeout(600)
def test_each_incident_sends_one_firing_notification_and_resolves_it(tmp_path: Path) -> None:
    # A short evaluation window lets the shift resolve soon.
    configuration = settings(
        "",
        # Endpoints without an incident: what causes are known depends on the time that this takes.
        cause={"enabled": False},
        polling={"backfill_duration": "72h", "tempo_lookback": "8s"},
        detection={"hold": "1s", "clear_hold": "1s", "window": "8s", "max_window": "8s"},
    )
    traffic = incident()
    with ExitStack() as stack:
        tempo = stack.enter_context(TempoServer(traffic))
        configuration["tempo"]["url"] = tempo.url
        exporter = stack.enter_context(ExporterProcess(tmp_path, configuration))
        prometheus, alertmanager, webhook = stack.enter_context(alerting_on(exporter.url, tmp_path))

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

        # So does the alert about the failures of the single endpoint; that about its latency inhibits it and says so.
        def alerts_about_it() -> dict[str, Any]:
            found = alertmanager.alerts(filter=[f"service_name={SLOW.service_name}"])
            return {alert["labels"]["alertname"]: alert for alert in found}

        eventually(lambda: "TempoAnomalyErrors" in alerts_about_it(), state, _TIMEOUT_SECONDS)
        failing = alerts_about_it()["TempoAnomalyErrors"]["status"]
        assert failing["state"] == "suppressed"
        assert failing["inhibitedBy"] == [alerts_about_it()["TempoAnomalyLatencyShift"]["fingerprint"]]
        sentence = re.compile(
            r"^More requests fail than usual, too: 3\d.*% of the last ones, usual: 0%\.$", re.MULTILINE
        )
        eventually(
            lambda: (
                sentence.search(alerts_about_it()["TempoAnomalyLatencyShift"]["annotations"]["description"]) is not None
            ),
            lambda: f"{alerts_about_it()}",
            _TIMEOUT_SECONDS,
        )

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

        # What resolves within some seconds may come in several notifications, since the interval of this test is short,
        # and the alert about failures may outlast the one that inhibits it. But each alert fires and resolves once.
        eventually(
            lambda: statuses(webhook.received).items() >= RESOLVED.items() and not prometheus.firing(),
            state,
            _TIMEOUT_SECONDS,
        )
        found = statuses(webhook.received)
        failing = ("TempoAnomalyErrors", SLOW.span_name)
        assert found.pop(failing, ["resolved"]) in (["resolved"], ["firing", "resolved"]), state()
        of_search = [("TempoAnomalyLatencyShift", endpoint.span_name) for endpoint in WIDE]
        assert [found.pop(each, ["resolved"]) for each in of_search] == [["resolved"]] * len(WIDE), state()
        assert found == RESOLVED, state()
        assert {each.path for each in webhook.received if "search" in each.services()} == {"/chat"}, state()
        assert {each.path for each in webhook.received if SLOW.service_name in each.services()} == {"/checkout-chat"}
        # With nothing firing there is no reason to send anything.
        received = len(webhook.received)
        time.sleep(_QUIET_SECONDS)
        assert len(webhook.received) == received, state()
