"""From one fault, which makes the endpoints of several services slow, to one notification that names it."""

import math
import re
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from exporter.demo.endpoints import SyntheticTraces
from exporter.demo.latency import Incident, Lognormal
from exporter.demo.scenario import FAULT_CALL, FAULT_SERVICE, demo_endpoints
from exporter.demo.tempo_api import TempoServer
from exporter.demo.traffic import SeriesProfile
from tests.support.alerting import alerting_on
from tests.support.processes import ExporterProcess, eventually, settings
from tests.support.scrape import PREFIX, Metrics
from tests.support.traffic import HOUR, MINUTE, EndingIncident

CAUSE: Final = (FAULT_SERVICE, "ledger.v1.Ledger/Book")
VICTIMS: Final = (("checkout", "POST /checkout"), ("payments", "POST /charges"))
FACTOR: Final = 8.0
_HISTORY_HOURS: Final = 72
_TIMEOUT_SECONDS: Final = 90.0


def traffic(now: float) -> EndingIncident:
    """Return three days of a checkout that waits for a ledger, and a slow call of the ledger since ten minutes."""
    began = now - 10 * MINUTE
    first_hour = began // HOUR * HOUR
    checkout = demo_endpoints(now, fault="slow_call")[0]
    assert checkout.operation.name == VICTIMS[0][1]
    stores = []
    for seed, factor in ((1, FACTOR), (2, 1.0)):
        incident = Incident(began, math.inf, factor)
        # Few requests in the past, which is read quickly, and many in the short evaluation window.
        past = SeriesProfile(
            rate_per_minute=0.5, base_seconds=0.2, shape=Lognormal(0.2), gaps=((first_hour, math.inf),),
            incidents=(incident,),
        )  # fmt: skip
        present = replace(past, rate_per_minute=400, gaps=(), begins_at=began)
        endpoints = [replace(checkout, profile=profile) for profile in (past, present)]
        stores.append(SyntheticTraces(endpoints, seed, begin=first_hour - _HISTORY_HOURS * HOUR))
    slow, normal = stores
    return EndingIncident(slow, normal)


def roles(page: Metrics) -> list[str]:
    """Return what the endpoints are in the incidents, sorted."""
    return sorted(dict(labels)["role"] for name, labels in page.samples if name == PREFIX + "incident_info")


@pytest.mark.timeout(600)
def test_an_incident_sends_one_notification_that_names_its_cause_and_another_at_its_end(tmp_path: Path) -> None:
    configuration = settings(
        "",
        polling={"backfill_duration": f"{_HISTORY_HOURS}h", "tempo_lookback": "8s"},
        # A short evaluation window lets the shifts resolve soon.
        detection={"hold": "1s", "clear_hold": "1s", "window": "8s", "max_window": "8s"},
    )
    synthetic = traffic(time.time())
    with ExitStack() as stack:
        tempo = stack.enter_context(TempoServer(synthetic))
        configuration["tempo"]["url"] = tempo.url
        exporter = stack.enter_context(ExporterProcess(tmp_path, configuration))
        # What is found before the cause is known depends on the time that this takes.
        exporter.wait_for(lambda page: roles(page) == ["cause", "victim", "victim"], _TIMEOUT_SECONDS)
        prometheus, alertmanager, webhook = stack.enter_context(alerting_on(exporter.url, tmp_path))

        def state() -> str:
            received = [(each.path, each.status, each.names()) for each in webhook.received]
            return f"firing: {prometheus.firing()}, received: {received}\n" + "\n".join(exporter.lines[-20:])

        fired = webhook.next(_TIMEOUT_SECONDS, state)
        assert (fired.path, fired.status, fired.names()) == ("/chat", "firing", ["TempoAnomalyIncident"])
        (alert,) = fired.alerts
        text = alert["annotations"]["description"]
        count, cause, lost, of_cause, cause_line, of_victims, *victim_lines = text.splitlines()
        assert re.match(r"3 endpoint\(s\) are slower than usual, the first since \d\d:\d\d UTC", count)
        assert cause == f'The cause: "{FAULT_SERVICE}", "{FAULT_CALL}": each call takes longer.'
        assert re.fullmatch(r"Since it began [1-9]\d* requests lost .*\d+.* beyond their baseline p95\.", lost)
        assert of_cause.startswith("Endpoints of the cause")
        assert of_victims.startswith("Slow for the same reason")
        named = [re.sub(r'^- "(.*)" of "(.*)": score [\d.]+$', r"\2 \1", line) for line in (cause_line, *victim_lines)]
        assert named[0] == " ".join(CAUSE)
        assert sorted(named[1:]) == [" ".join(each) for each in VICTIMS]

        # The API says the same.
        incident = exporter.get(f"/api/v1/incident?id={alert['labels']['incident']}").json()
        assert (incident["cause_service_name"], incident["cause_span_name"]) == (FAULT_SERVICE, FAULT_CALL)
        assert incident["endpoints_by_role"] == {"cause": 1, "victim": 2, "unexplained": 0}

        # The alerts about its endpoints fire, and each is inhibited.
        single = alertmanager.alerts(filter=['alertname=~"TempoAnomaly(Service)?LatencyShift.*"'])
        assert {(each["labels"]["service_name"], each["labels"]["span_name"]) for each in single} == {CAUSE, *VICTIMS}
        assert all(each["status"]["state"] == "suppressed" and each["status"]["inhibitedBy"] for each in single)

        synthetic.end()
        resolved = webhook.next(_TIMEOUT_SECONDS, state)
        assert (resolved.path, resolved.status, resolved.names()) == ("/chat", "resolved", ["TempoAnomalyIncident"])
        assert resolved.alerts[0]["labels"] == alert["labels"]
        eventually(lambda: not prometheus.firing(), state, _TIMEOUT_SECONDS)
        # Nothing follows: no alert is left in Alertmanager for which a notification could be due.
        eventually(lambda: not alertmanager.alerts(), state, _TIMEOUT_SECONDS)
        assert len(webhook.received) == 2
