"""From requests that fail, or do not come, to one notification: exporter, Prometheus and Alertmanager as shipped."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from exporter.demo.tempo_api import TempoServer
from exporter.model.span import SeriesKey
from tests.support.alerting import alerting_on
from tests.support.monitoring import Notification
from tests.support.processes import ExporterProcess, eventually, settings
from tests.support.traffic import HOUR, MINUTE, EndingIncident, Traffic

FAILING: Final = SeriesKey("orders", "POST /orders")
HEALTHY: Final = SeriesKey("orders", "GET /orders")
SILENT: Final = SeriesKey("news", "GET /news")
_PER_HOUR: Final = 240
"""Of the endpoint that falls silent: as many requests as a verdict on its traffic needs within five minutes."""
_HISTORY_HOURS: Final = 8 * 24
"""Also on a Saturday there is a day before with the same traffic."""
_TIMEOUT_SECONDS: Final = 120.0


def incident() -> EndingIncident:
    """Return a week of history, and ten minutes in which one endpoint fails fast and another one is silent."""
    now = time.time()
    begin, this_hour = now - 10 * MINUTE, int(now) // HOUR * HOUR
    stores = []
    for is_incident in (True, False):
        traffic = Traffic(1)
        for endpoint, per_hour in ((FAILING, 30), (HEALTHY, 30), (SILENT, _PER_HOUR)):
            hours = range(this_hour - _HISTORY_HOURS * HOUR, this_hour - HOUR, HOUR)
            traffic.hourly(endpoint, hours, count=per_hour, scale=0.2)
        for endpoint in (FAILING, HEALTHY):
            fails = is_incident and endpoint == FAILING
            traffic.spread(
                endpoint,
                begin,
                now + 10 * MINUTE,
                count=4_000,
                scale=0.1 if fails else 0.2,
                failed_every=3 if fails else 0,
            )
        if not is_incident:
            traffic.spread(SILENT, begin, now + 10 * MINUTE, count=_PER_HOUR // 3, scale=0.2)
        stores.append(traffic.store())
    failing, normal = stores
    return EndingIncident(failing, normal)


@pytest.mark.timeout(600)
def test_an_endpoint_that_fails_fast_and_one_that_falls_silent_send_one_notification_each(tmp_path: Path) -> None:
    configuration = settings(
        "",
        polling={"backfill_duration": f"{_HISTORY_HOURS}h", "tempo_lookback": "8s"},
        # A short evaluation window lets the flag about errors resolve soon.
        detection={"hold": "1s", "clear_hold": "1s", "window": "8s", "max_window": "10m"},
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

        both = [webhook.next(_TIMEOUT_SECONDS, state) for _ in range(2)]
        fired = {alert["labels"]["span_name"]: each for each in both for alert in each.alerts}
        assert {span_name: _summary(each) for span_name, each in fired.items()} == {
            FAILING.span_name: ("/chat", "firing", ["TempoAnomalyErrors"]),
            SILENT.span_name: ("/chat", "firing", ["TempoAnomalyTrafficDrop"]),
        }
        text = _description(fired[FAILING.span_name])
        assert text.startswith('More requests of "POST /orders" of "orders" fail than usual, since ')
        assert "% of the last requests failed, usual: 0%." in text
        text = _description(fired[SILENT.span_name])
        assert text.startswith('"GET /news" of "news" has 0% of its usual traffic')

        traffic.end()
        assert _summary(webhook.next(_TIMEOUT_SECONDS, state)) == ("/chat", "resolved", ["TempoAnomalyErrors"])
        # A flag about traffic stays for as many minutes as its window needs; no more is sent about it meanwhile.
        eventually(lambda: prometheus.firing() == {"TempoAnomalyTrafficDrop"}, state, _TIMEOUT_SECONDS)
        assert [alert["labels"]["span_name"] for alert in alertmanager.alerts()] == [SILENT.span_name]
        assert len(webhook.received) == 3


def _summary(notification: Notification) -> tuple[str, str, list[str]]:
    return notification.path, notification.status, notification.names()


def _description(notification: Notification) -> str:
    (alert,) = notification.alerts
    return str(alert["annotations"]["description"])
