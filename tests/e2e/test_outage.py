"""Tempo away at the start, and again in the middle: the exporter stays, says so, and catches up."""

import time

import pytest

from exporter.demo.routes import ApiOptions
from exporter.demo.tempo_api import TempoServer
from exporter.model.span import SeriesKey
from exporter.runtime.telemetry import FAILURE_REASONS
from tests.e2e.conftest import StartExporter
from tests.support.processes import ExporterProcess, eventually, settings
from tests.support.scrape import Metrics
from tests.support.traffic import HOUR, Traffic

CART = SeriesKey("shop", "GET /cart")


def failures(page: Metrics, loop: str) -> dict[str, float]:
    """Failed requests by reason, as far as there were any."""
    counts = {reason: page.get("tempo_request_failures_total", loop=loop, reason=reason) for reason in FAILURE_REASONS}
    return {reason: count for reason, count in counts.items() if count}


def told(running: ExporterProcess, event: str) -> int:
    return len(running.logged(event))


def assert_serving(running: ExporterProcess) -> None:
    for path in ("/", "/metrics", "/-/healthy"):
        assert running.get(path).status_code == 200, path


@pytest.mark.timeout(240)
def test_tempo_may_be_away_at_the_start_and_in_the_middle(exporter: StartExporter) -> None:
    now = time.time()
    traffic = Traffic()
    this_hour = int(now) // HOUR * HOUR
    traffic.hourly(CART, range(this_hour - 70 * HOUR, this_hour - HOUR, HOUR), count=40, scale=0.2)
    store = traffic.store()
    with TempoServer(store) as gone:
        url, port = gone.url, int(gone.url.rpartition(":")[2])

    running = exporter(settings(url, tempo={"limit": 100}, polling={"backfill_duration": "72h"}))
    page = running.wait_for(lambda page: failures(page, "poll") and failures(page, "backfill"))
    assert page["tempo_up"] == 0
    assert failures(page, "poll").keys() == failures(page, "backfill").keys() == {"connection"}
    assert page.get("poll_last_success_timestamp_seconds") is None
    assert_serving(running)

    with TempoServer(store, ApiOptions(delay_seconds=0.15), port=port):
        page = running.wait_for(lambda page: page["tempo_up"] == 1 and page["backfill_progress_ratio"] > 0.1)
        assert 0 < page["backfill_progress_ratio"] < 1

    page = running.wait_for(lambda page: page["tempo_up"] == 0 and page.by("backfill_windows", "state")["failed"] > 0)
    assert_serving(running)
    eventually(lambda: told(running, "poll_failed") > 0, lambda: "the outage is not told", 30)
    # What was cut off in the middle of an answer is no connection problem.
    assert failures(page, "backfill").keys() <= {"connection", "malformed"}

    with TempoServer(store, port=port):
        # A window that has failed rests for half a minute.
        page = running.wait_until_filled(timeout=90)
    assert page["tempo_up"] == 1
    # Of two outages within ten minutes one is told, and so is its end.
    assert told(running, "poll_recovered") == told(running, "poll_failed") == 1
    assert page.by("backfill_windows", "state")["failed"] == 0
    assert page["history_traces"] == len(traffic.requests)
