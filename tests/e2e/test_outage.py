"""Outages of Tempo at the start and during the backfill: the exporter keeps serving, logs them, and catches up."""

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
    """Return the failed requests by reason, without zeros."""
    counts = {reason: page.get("tempo_request_failures_total", loop=loop, reason=reason) for reason in FAILURE_REASONS}
    return {reason: count for reason, count in counts.items() if count}


def count_logged(running: ExporterProcess, event: str) -> int:
    return len(running.logged(event))


def assert_serving(running: ExporterProcess) -> None:
    for path in ("/", "/metrics", "/-/healthy"):
        assert running.get(path).status_code == 200, path


@pytest.mark.timeout(600)
def test_backfill_completes_after_outages_at_the_start_and_in_between(exporter: StartExporter) -> None:
    now = time.time()
    traffic = Traffic()
    this_hour = int(now) // HOUR * HOUR
    traffic.hourly(CART, range(this_hour - 70 * HOUR, this_hour - HOUR, HOUR), count=40, scale=0.2)
    store = traffic.store()
    with TempoServer(store) as stopped:
        url, port = stopped.url, int(stopped.url.rpartition(":")[2])

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
    eventually(lambda: count_logged(running, "poll_failed") > 0, lambda: "the outage is not logged", 30)
    # A response cut off by the stop counts as malformed.
    assert failures(page, "backfill").keys() <= {"connection", "malformed"}

    with TempoServer(store, port=port):
        # A failed window is retried after half a minute.
        page = running.wait_until_filled(timeout=240)
    assert page["tempo_up"] == 1
    # The rate limit logs one of two outages within ten minutes, and its end.
    assert count_logged(running, "poll_recovered") == count_logged(running, "poll_failed") == 1
    assert page.by("backfill_windows", "state")["failed"] == 0
    assert page["history_traces"] == len(traffic.requests)
