"""From requests that fail fast to one notification: an exporter, Prometheus and Alertmanager as they are shipped."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from exporter.demo.tempo_api import TempoServer
from exporter.model.span import SeriesKey
from tests.support.alerting import alerting_on
from tests.support.processes import ExporterProcess, eventually, settings
from tests.support.traffic import HOUR, MINUTE, EndingIncident, Traffic

FAILING: Final = SeriesKey("orders", "POST /orders")
HEALTHY: Final = SeriesKey("orders", "GET /orders")
_TIMEOUT_SECONDS: Final = 60.0


def incident() -> EndingIncident:
    """Return three days of history, and ten minutes in which every third request of one endpoint fails fast."""
    now = time.time()
    this_hour = int(now) // HOUR * HOUR
    stores = []
    for failed_every in (3, 0):
        traffic = Traffic(1)
        for endpoint in (FAILING, HEALTHY):
            traffic.hourly(endpoint, range(this_hour - 72 * HOUR, this_hour - HOUR, HOUR), count=30, scale=0.2)
            fails = failed_every if endpoint == FAILING else 0
            traffic.spread(
                endpoint,
                now - 10 * MINUTE,
                now + 10 * MINUTE,
                count=4_000,
                scale=0.1 if fails else 0.2,
                failed_every=fails,
            )
        stores.append(traffic.store())
    failing, normal = stores
    return EndingIncident(failing, normal)


@pytest.mark.timeout(600)
def test_an_endpoint_that_fails_fast_sends_one_firing_and_one_resolved_notification(tmp_path: Path) -> None:
    configuration = settings(
        "",
        polling={"backfill_duration": "72h", "tempo_lookback": "8s"},
        # A short evaluation window lets the flag resolve soon.
        detection={"hold": "1s", "clear_hold": "1s", "window": "8s", "max_window": "8s"},
    )
    traffic = incident()
    with ExitStack() as stack:
        tempo = stack.enter_context(TempoServer(traffic))
        configuration["tempo"]["url"] = tempo.url
        exporter = stack.enter_context(ExporterProcess(tmp_path, configuration))
        prometheus, alertmanager, webhook = stack.enter_context(alerting_on(exporter.url, tmp_path))

        def state() -> str:
            received = [(each.path, each.status, each.names()) for each in webhook.received]
            return f"firing: {prometheus.firing()}, received: {received}\n" + "\n".join(exporter.lines[-20:])

        fired = webhook.next(_TIMEOUT_SECONDS, state)
        assert (fired.path, fired.status, fired.names()) == ("/chat", "firing", ["TempoAnomalyErrors"])
        (alert,) = fired.alerts
        assert (alert["labels"]["service_name"], alert["labels"]["span_name"]) == FAILING[:2]
        text = alert["annotations"]["description"]
        assert text.startswith('More requests of "POST /orders" of "orders" fail than usual, since ')
        assert "% of the last requests failed, usual: 0%." in text

        traffic.end()
        resolved = webhook.next(_TIMEOUT_SECONDS, state)
        assert (resolved.path, resolved.status, resolved.names()) == ("/chat", "resolved", ["TempoAnomalyErrors"])
        eventually(lambda: not prometheus.firing(), state, _TIMEOUT_SECONDS)
        eventually(lambda: not alertmanager.alerts(), state, _TIMEOUT_SECONDS)
        assert len(webhook.received) == 2
