"""More traces than a search returns: none is lost, or the loss is counted."""

import time
from pathlib import Path

import pytest

from exporter.demo.metrics_query import MetricsMode
from exporter.demo.search import SearchLimits
from exporter.model.span import SeriesKey
from tests.e2e.conftest import StartExporter, StartTempo
from tests.support.database import digests
from tests.support.processes import settings
from tests.support.traffic import HOUR, Traffic

LIMIT = 50
CART = SeriesKey("shop", "GET /cart")
EXPORT = SeriesKey("shop", "POST /export")


def dense(now: float) -> Traffic:
    """Return seven settled hours of dense traffic, with requests on and across the edges of windows and seconds."""
    traffic = Traffic()
    this_hour = int(now) // HOUR * HOUR
    for hour in range(this_hour - 8 * HOUR, this_hour - HOUR, HOUR):
        traffic.hourly(CART, [hour], count=400, scale=0.2)
        for edge in (hour, hour + HOUR // 2, hour + HOUR // 4, hour + 1):
            traffic.request(CART, edge, 0.2)
            traffic.request(CART, edge - 0.1, 0.2)
            traffic.request(EXPORT, edge - 3, 90)
    return traffic


def test_saturated_searches_are_split_without_loss(tempo: StartTempo, exporter: StartExporter) -> None:
    now = time.time()
    traffic = dense(now)
    # A burst that nothing announces: the traffic before and after it has a tenth of a search in that time.
    burst = int(now) // HOUR * HOUR - 3 * HOUR + 1234
    traffic.spread(CART, burst, burst + 20, count=4 * LIMIT, scale=0.05)
    server = tempo(traffic)
    running = exporter(settings(server.url, tempo={"limit": LIMIT}, polling={"backfill_duration": "12h"}))
    page = running.wait_until_filled()

    assert page["history_traces"] == len(traffic.requests)
    assert page["backfill_coverage_ratio"] == 1
    assert (page.get("search_saturations_total", loop="backfill") or 0) > 0
    assert (page.get("search_splits_total", loop="backfill") or 0) > 0
    assert page.get("search_truncated_windows_total", loop="backfill") == 0
    assert page.by("backfill_windows", "state")["partial"] == 0
    assert all(int(search["limit"]) <= LIMIT for search in server.searches())


def test_second_beyond_the_limit_of_tempo_makes_one_window_partial(tempo: StartTempo, exporter: StartExporter) -> None:
    now = time.time()
    traffic = dense(now)
    crowded = int(now) // HOUR * HOUR - 3 * HOUR + 1234
    traffic.spread(CART, crowded + 0.1, crowded + 0.5, count=LIMIT + 10, scale=0.05)
    server = tempo(traffic, limits=SearchLimits(max_result_limit=LIMIT))
    running = exporter(settings(server.url, tempo={"limit": LIMIT}, polling={"backfill_duration": "12h"}))
    page = running.wait_until_filled()

    in_that_second = traffic.between(crowded, crowded + 1)
    elsewhere = len(traffic.requests) - in_that_second
    # Tempo returns an arbitrary part of such a second, so none of it is kept; its size is known, because this Tempo
    # counts.
    assert page["history_traces"] == elsewhere
    assert page["source_counts_available"] == 1
    assert page["backfill_coverage_ratio"] == pytest.approx(elsewhere / len(traffic.requests))
    assert page.get("search_truncated_windows_total", loop="backfill") == 1
    assert page.by("backfill_windows", "state")["partial"] == 1
    # The window is partial, not sampled.
    assert page["backfill_sampled_windows"] == 0
    assert page["backfill_unsampled_coverage_ratio"] == page["backfill_coverage_ratio"]
    assert page["backfill_complete"] == 1
    assert running.get("/-/healthy").status_code == 200
    (warning,) = running.logged("window_truncated")
    assert warning["level"] == "warning"
    assert "raise tempo.limit" in warning["msg"]


@pytest.mark.parametrize("metrics", ["enabled", "refused"])
def test_traffic_beyond_the_budget_is_sampled(
    tempo: StartTempo, exporter: StartExporter, tmp_path: Path, metrics: MetricsMode
) -> None:
    now = time.time()
    traffic = Traffic()
    this_hour = int(now) // HOUR * HOUR
    hours = [this_hour - ago * HOUR for ago in (2, 3, 4)]
    traffic.hourly(CART, hours, count=8000, scale=0.2)
    traffic.hourly(EXPORT, hours, count=7, scale=3.0)
    traffic.spread(CART, now - 400, now, count=8000, scale=0.2)
    server = tempo(traffic, metrics=metrics)
    running = exporter(
        settings(
            server.url,
            tempo={"limit": 400, "requests_per_second": 1000},
            polling={"backfill_duration": "4h", "max_traces_per_window": 1000, "max_traces_per_poll": 1000},
        )
    )
    page = running.wait_until_filled()

    total = traffic.between(hours[-1], hours[0] + HOUR)
    # The current hour has recent traffic only, none of it settled.
    assert 0.05 * total < page["history_traces"] < 0.25 * total
    assert page["backfill_coverage_ratio"] == pytest.approx(page["history_traces"] / total, rel=0.15)
    assert page.get("search_sampled_windows_total", loop="backfill") == 3
    assert page["backfill_sampled_windows"] == 3
    # The other windows are complete, if there are any.
    assert page.get("backfill_unsampled_coverage_ratio") in (None, 1)
    assert page.get("search_truncated_windows_total", loop="backfill") == 0
    assert page["source_counts_available"] == (metrics == "enabled")
    assert page["backfill_complete"] == 1
    # A rare endpoint is read completely if Tempo counts by series.
    rare = sum(
        traces
        for service, name, _, traces, *_ in digests(tmp_path / "tempo-anomaly.db")
        if (service, name) == EXPORT[:2]
    )
    assert rare == 3 * 7 or metrics == "refused"
    # The live edge is sampled, too.
    assert page["poll_coverage_ratio"] < 0.5
    assert page.get("current_p50_seconds", CART) == pytest.approx(0.17, rel=0.1)


def test_tempos_limits_are_learned_from_its_refusals(tempo: StartTempo, exporter: StartExporter) -> None:
    traffic = dense(time.time())
    server = tempo(traffic, limits=SearchLimits(max_result_limit=60, max_duration_seconds=2 * HOUR))
    running = exporter(settings(server.url, polling={"backfill_duration": "24h"}))
    page = running.wait_until_filled()
    assert page["history_traces"] == len(traffic.requests)
    assert page.get("search_truncated_windows_total", loop="backfill") == 0
    assert page.by("backfill_windows", "state")["failed"] == 0
    (warning,) = running.logged("search_limit_lowered")
    assert (warning["allowed"], warning["configured"]) == (60, 20_000)
