"""SIGKILL during the backfill: nothing is lost, and nothing is counted twice."""

import random
import time
from pathlib import Path
from signal import SIGKILL

import pytest

from exporter.model.span import SeriesKey
from tests.e2e.conftest import StartExporter, StartTempo
from tests.support.database import Rows, digests, judgements, windows
from tests.support.processes import ExporterProcess, eventually, settings
from tests.support.scrape import Metrics
from tests.support.traffic import HOUR, Traffic

KILLS = 10
HOURS = 150
ENDPOINTS = [SeriesKey("shop", f"GET /page-{number}") for number in range(6)]
DATABASE = "tempo-anomaly.db"


def a_week(now: float) -> Traffic:
    """Return traffic with an incident inside the wanted range."""
    traffic = Traffic()
    last = int(now) // HOUR * HOUR - 2 * HOUR
    for hour in range(last - HOURS * HOUR, last, HOUR):
        for endpoint in ENDPOINTS:
            slow = endpoint == ENDPOINTS[0] and last - 9 * HOUR <= hour < last - 6 * HOUR
            traffic.hourly(endpoint, [hour], count=4, scale=0.8 if slow else 0.1)
    return traffic


def wait_until_evaluated(running: ExporterProcess) -> Metrics:
    """Wait until the history is read and evaluated; only then is there a verdict."""
    running.wait_until_filled()
    return running.wait_for(lambda page: page.get("anomalous", ENDPOINTS[0], kind="shift") is not None)


def with_traces(ledger: Rows) -> Rows:
    return {(start, end, state, traces, *rest) for start, end, state, traces, *rest in ledger if traces}


@pytest.mark.timeout(600)
def test_ten_kills_during_backfill_give_the_same_history_as_an_undisturbed_run(
    tempo: StartTempo, exporter: StartExporter, tmp_path: Path
) -> None:
    rng = random.Random(5)
    traffic = a_week(time.time())
    # A slow Tempo and a low limit, so that every window takes a while.
    server = tempo(traffic, delay_seconds=0.03)
    configuration = settings(server.url, tempo={"limit": 20}, polling={"backfill_duration": "168h"})
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    undisturbed.mkdir()
    disturbed.mkdir()

    running = exporter(configuration, directory=undisturbed)
    wait_until_evaluated(running)
    assert running.stop() == 0

    done_at_start = []
    for _ in range(KILLS):
        running = exporter(configuration, directory=disturbed)
        done_at_start.append(running.metrics().by("backfill_windows", "state")["done"])
        searches = len(server.searches()) + rng.randint(10, 25)
        eventually(lambda: len(server.searches()) >= searches, lambda: "no searches", 30)  # noqa: B023
        time.sleep(rng.uniform(0, 0.05))
        running.kill()
        assert running.process.returncode == -SIGKILL
    running = exporter(configuration, directory=disturbed)
    done_at_start.append(running.metrics().by("backfill_windows", "state")["done"])
    page = wait_until_evaluated(running)
    assert running.stop() == 0

    assert done_at_start == sorted(done_at_start)
    assert 0 < done_at_start[-1] < HOURS, "the kills were not during the backfill"
    assert page["history_traces"] == len(traffic.requests)
    assert page["quarantined_windows"] >= 3
    assert digests(disturbed / DATABASE) == digests(undisturbed / DATABASE)
    assert judgements(disturbed / DATABASE) == judgements(undisturbed / DATABASE)
    assert with_traces(windows(disturbed / DATABASE)) == with_traces(windows(undisturbed / DATABASE))
