"""Marks on a running exporter: over the API with a password, in a file that changes, and over a restart."""

import time
from pathlib import Path

import bcrypt
import requests

from exporter.model.span import SeriesKey
from tests.e2e.conftest import StartExporter, StartTempo
from tests.support.processes import settings
from tests.support.traffic import DAY, HOUR, Traffic

FLAGGED = SeriesKey("checkout", "POST /checkout")
OPS = ("ops", "example")
MARKS = "/api/v1/marks"


def test_false_alarm_that_is_marked_is_released_without_reading_tempo_and_stays_so(
    tempo: StartTempo, exporter: StartExporter, tmp_path: Path
) -> None:
    this_hour = int(time.time()) // HOUR * HOUR
    alarm = this_hour - DAY
    traffic = Traffic()
    for start in range(this_hour - 6 * DAY, this_hour, HOUR):
        slow = alarm <= start < alarm + 2 * HOUR
        traffic.hourly(FLAGGED, [start], count=40, scale=1.0 if slow else 0.2)
    web, marks = tmp_path / "web.yml", tmp_path / "marks.yml"
    web.write_text(f"basic_auth_users: {{ops: {bcrypt.hashpw(OPS[1].encode(), bcrypt.gensalt(4)).decode()}}}")
    marks.write_text("marks: []")
    configuration = settings(
        tempo(traffic).url,
        polling={"backfill_duration": "6d", "backfill_batch": "6h"},
        web={"config_file": str(web), "allow_marks": True},
        marks_file=str(marks),
    )
    first = exporter(configuration)
    first.access = {"auth": OPS}
    before = first.wait_for(lambda page: page.get("quarantined_windows") and page.get("backfill_complete"), timeout=240)
    assert before["marks_last_reload_successful"] == 1
    mark = {"match": "^checkout/", "from": _utc(alarm), "to": _utc(alarm + 2 * HOUR), "as": "normal"}
    assert first.get(MARKS, auth=None).status_code == 401
    assert requests.post(first.url + MARKS, json=mark, timeout=10).status_code == 401
    assert first.get(MARKS).json() == {"can_be_added": True, "marks": []}
    added = requests.post(first.url + MARKS, json=mark, auth=OPS, timeout=10)
    assert added.status_code == 201, added.text
    after = first.wait_for(lambda page: page.get("quarantined_windows") == 0)
    read = "tempo_requests_total"
    assert after.get(read, loop="backfill") == before.get(read, loop="backfill")
    assert len(first.logged("marks_reevaluated")) == 1

    marks.write_text("marks: [{match: x}]")
    first.wait_for(lambda page: page.get("marks_last_reload_successful") == 0)
    assert first.get(MARKS).json()["marks"] == [added.json()]
    assert first.stop() == 0

    second = exporter(configuration)
    second.access = {"auth": OPS}
    second.wait_for(lambda page: page.get("quarantined_windows") is not None)
    assert second.metrics()["quarantined_windows"] == 0
    assert second.get(MARKS).json()["marks"] == [added.json()]
    assert second.logged("marks_reevaluated") == []
    page = second.get("/endpoint?service_name=checkout&span_name=POST+%2Fcheckout").text
    assert "Marked by people" in page


def _utc(instant: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(instant))
