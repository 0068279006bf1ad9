"""A restart reads only windows that the ledger lacks."""

import time
from pathlib import Path

from exporter.model.span import SeriesKey
from tests.e2e.conftest import StartExporter, StartTempo
from tests.support.database import digests, windows
from tests.support.expected_baselines import UTC_WEEK, Baseline, await_baselines, baseline_at
from tests.support.processes import settings
from tests.support.traffic import HOUR, Traffic

CART = SeriesKey("shop", "GET /cart")
DATABASE = "tempo-anomaly.db"
# The live edge then searches only ranges that have not settled, so its searches differ from the backfill's.
SHORT_WINDOW = {"max_window": "5m"}


def some_days(now: float) -> Traffic:
    traffic = Traffic()
    this_hour = int(now) // HOUR * HOUR
    traffic.hourly(CART, range(this_hour - 80 * HOUR, this_hour - HOUR, HOUR), count=20, scale=0.2)
    return traffic


def test_restart_with_a_full_ledger_reads_no_window_twice(
    tempo: StartTempo, exporter: StartExporter, tmp_path: Path
) -> None:
    traffic = some_days(time.time())
    server = tempo(traffic)
    configuration = settings(server.url, polling={"backfill_duration": "72h"}, detection=SHORT_WINDOW)
    first = exporter(configuration)
    since = UTC_WEEK.floor(first.metrics()["backfill_started_timestamp_seconds"] - 72 * HOUR, HOUR)
    requests = [request for request in traffic.requests if request.start >= since]

    def expected_at(at: float) -> dict[SeriesKey, Baseline]:
        return {CART: baseline_at(at, requests, UTC_WEEK)}

    await_baselines(first, expected_at)
    assert first.stop() == 0
    ledger, history = windows(tmp_path / DATABASE), digests(tmp_path / DATABASE)
    ledger_end = max(end for _, end, *_ in ledger)
    searches_before = len(server.searches())

    second = exporter(configuration)
    await_baselines(second, expected_at)
    assert second.stop() == 0

    # Windows that settled since are new to the ledger.
    searches = server.searches()[searches_before:]
    assert searches
    assert [search for search in searches if int(search["start"]) < ledger_end] == []
    assert ledger <= windows(tmp_path / DATABASE)
    assert history <= digests(tmp_path / DATABASE)


def test_longer_backfill_duration_reads_only_the_missing_windows(
    tempo: StartTempo, exporter: StartExporter, tmp_path: Path
) -> None:
    traffic = some_days(time.time())
    server = tempo(traffic)
    first = exporter(settings(server.url, polling={"backfill_duration": "24h"}, detection=SHORT_WINDOW))
    first.wait_until_filled()
    assert first.stop() == 0
    ledger = windows(tmp_path / DATABASE)
    ledger_start, ledger_end = min(start for start, *_ in ledger), max(end for _, end, *_ in ledger)
    searches_before = len(server.searches())

    second = exporter(settings(server.url, polling={"backfill_duration": "72h"}, detection=SHORT_WINDOW))
    page = second.wait_until_filled()
    assert second.stop() == 0

    # Searches with a limit of one are probes of Tempo's retention.
    reads = [search for search in server.searches()[searches_before:] if search["limit"] != "1"]
    assert [search for search in reads if ledger_start < int(search["end"]) and int(search["start"]) < ledger_end] == []
    assert ledger <= windows(tmp_path / DATABASE)
    since = UTC_WEEK.floor(page["backfill_started_timestamp_seconds"] - 72 * HOUR, HOUR)
    assert page["history_traces"] == sum(request.start >= since for request in traffic.requests)
