"""An incident from before the exporter was started is listed after the backfill, also after a restart."""

import time
from typing import Any

import pytest

from exporter.detection.parameters import Parameters
from exporter.model.span import SeriesKey
from tests.e2e.conftest import StartExporter, StartTempo
from tests.support.processes import ExporterProcess, eventually, settings
from tests.support.traffic import HOUR, MINUTE, Traffic

PAY = SeriesKey("checkout", "POST /pay")
CANCEL = SeriesKey("checkout", "POST /cancel")
CART = SeriesKey("gateway", "GET /cart")


def listed(running: ExporterProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = running.get("/api/v1/incidents").json()["incidents"]
    return found


@pytest.mark.timeout(600)
def test_incident_of_three_hours_ago_is_listed_once_also_after_a_restart(
    tempo: StartTempo, exporter: StartExporter
) -> None:
    this_hour = int(time.time()) // HOUR * HOUR
    begin, end = this_hour - 3 * HOUR + 5 * MINUTE, this_hour - 3 * HOUR + 45 * MINUTE
    recent = this_hour - 5 * HOUR
    traffic = Traffic()
    for endpoint in (PAY, CANCEL, CART):
        traffic.hourly(endpoint, range(this_hour - 72 * HOUR, recent, HOUR), count=30, scale=0.2)
        traffic.spread(endpoint, recent, begin, count=2000, scale=0.2)
        traffic.spread(endpoint, begin, end, count=700, scale=0.2 if endpoint is CART else 1.2)
        traffic.spread(endpoint, end, this_hour, count=2200, scale=0.2)
    configuration = settings(tempo(traffic).url, polling={"backfill_duration": "72h"})

    first = exporter(configuration)
    first.wait_until_filled(90)
    eventually(lambda: bool(listed(first)), lambda: f"no incident is listed: {first.lines[-5:]}", 60)
    (incident,) = listed(first)
    window = Parameters().window_seconds
    assert incident["start_unix"] == pytest.approx(begin, abs=window)
    assert incident["end_unix"] == pytest.approx(end, abs=window)
    assert (incident["reconstructed"], incident["cause"], incident["time_lost"]) == (True, None, None)
    document = first.get("/api/v1/incident", params={"id": incident["incident"]}).json()
    assert {each["span_name"] for each in document["endpoints"]} == {PAY.span_name, CANCEL.span_name}
    page = first.get("/incident", params={"id": incident["incident"]}).text
    assert "Found in the history; the cause is not known." in page
    assert "from history" in first.get("/incidents").text
    assert "tempo_anomaly_incident_info{" not in first.get("/metrics").text
    assert first.stop() == 0
    assert first.logged("incident_started") == []

    second = exporter(configuration)
    second.wait_until_filled(90)
    assert listed(second) == [incident]
    assert second.stop() == 0
