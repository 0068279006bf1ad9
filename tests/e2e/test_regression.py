"""A regression in the history that is read at the start, on everything that shows it."""

import time

import pytest

from exporter.model.span import SeriesKey
from tests.e2e.conftest import StartExporter, StartTempo
from tests.support.processes import settings
from tests.support.traffic import DAY, HOUR, Traffic

SLOWER = SeriesKey("checkout", "POST /checkout")
STEADY = SeriesKey("gateway", "GET /cart")
YOUNG = SeriesKey("gateway", "GET /v2/cart")
NEW = '2.4.0 <b>"x"'
"""A version that must be escaped wherever it is shown."""


def test_step_of_three_days_ago_is_flagged_and_survives_a_restart(tempo: StartTempo, exporter: StartExporter) -> None:
    now = time.time()
    this_hour = int(now) // HOUR * HOUR
    began = this_hour - 3 * DAY
    traffic = Traffic()
    for endpoint, scale in ((SLOWER, 0.25), (STEADY, 0.2)):
        traffic.hourly(endpoint, range(this_hour - 20 * DAY, began, HOUR), count=20, scale=0.2, version="2.3.1")
        traffic.hourly(endpoint, range(began, this_hour, HOUR), count=20, scale=scale, version=NEW)
    traffic.hourly(YOUNG, range(this_hour - 4 * DAY, this_hour, HOUR), count=20, scale=0.2)
    configuration = settings(tempo(traffic).url, polling={"backfill_duration": "20d", "backfill_batch": "6h"})
    first = exporter(configuration)
    page = first.wait_for(lambda page: page.get("anomalous", SLOWER, kind="regression") == 1, timeout=240)
    assert page.get("regression_ratio", SLOWER) == pytest.approx(1.25, abs=0.04)
    middle = page.get("regression_began_timestamp_seconds", SLOWER)
    uncertain = page.get("regression_began_uncertainty_seconds", SLOWER)
    assert middle is not None
    assert uncertain is not None
    assert middle - uncertain <= began <= middle + uncertain
    assert uncertain <= 6 * HOUR
    assert page.get("anomalous", STEADY, kind="regression") == 0
    assert page.get("regression_ratio", STEADY) is None
    assert page.get("anomalous", YOUNG, kind="regression") is None
    # It is not large enough for a shift, for which someone would be paged.
    assert page.get("anomalous", SLOWER, kind="shift") == 0
    (record,) = first.logged("regression_raised")
    assert SeriesKey(record["service_name"], record["span_name"]) == SLOWER
    query = "?service_name=checkout&span_name=POST+%2Fcheckout"
    document = first.get(f"/api/v1/check{query}").json()
    assert document["regressed"] is True
    assert document["regression"]["began_after_unix"] == middle - uncertain
    assert "is higher than in the weeks before" in document["sentence"]
    page = first.wait_for(lambda page: page.get("regression_version_info", SLOWER, version=NEW) == 1)
    assert page.get("regression_version_attempts_total", outcome="appeared") == 1
    found = first.get(f"/api/v1/check{query}").json()["regression"]
    assert (found["version_outcome"], found["version"], found["version_before"]) == ("appeared", NEW, "2.3.1")
    (record,) = first.logged("regression_version")
    assert (record["version"], record["version_before"]) == (NEW, "2.3.1")
    shown = first.get(f"/endpoint{query}").text
    assert "slower than before" in shown
    assert "Version 2.4.0 &lt;b&gt;" in shown
    assert '<b>"x' not in shown
    assert "POST /checkout" in first.get("/?state=regression").text
    assert "GET /cart" not in first.get("/?state=regression").text
    assert first.stop() == 0

    second = exporter(configuration)
    after = second.wait_for(lambda page: page.get("anomalous", SLOWER, kind="regression") is not None)
    assert after.get("anomalous", SLOWER, kind="regression") == 1
    assert after.get("regression_began_timestamp_seconds", SLOWER) == middle
    assert second.logged("regression_raised") == []
    # What Tempo was asked for once is known.
    assert "Version 2.4.0" in second.get(f"/api/v1/check{query}").json()["sentence"]
    assert second.metrics().get("regression_version_info", SLOWER, version=NEW) == 1
    assert second.logged("regression_version") == []
