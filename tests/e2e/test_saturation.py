"""More traces than a search returns: not one is lost, or it is known which."""

import time

from exporter.core.span import SeriesKey
from exporter.demo.search import SearchLimits
from tests.e2e.conftest import StartExporter, StartTempo
from tests.e2e.processes import settings
from tests.e2e.traffic import HOUR, Traffic

LIMIT = 50
CART = SeriesKey("shop", "GET /cart")
EXPORT = SeriesKey("shop", "POST /export")


def dense(now: float) -> Traffic:
    """Seven settled hours of dense traffic; some requests lie on edges of windows and seconds, some reach over them."""
    traffic = Traffic()
    this_hour = int(now) // HOUR * HOUR
    for hour in range(this_hour - 8 * HOUR, this_hour - HOUR, HOUR):
        traffic.hourly(CART, [hour], count=400, scale=0.2)
        for edge in (hour, hour + HOUR // 2, hour + HOUR // 4, hour + 1):
            traffic.request(CART, edge, 0.2)
            traffic.request(CART, edge - 0.1, 0.2)
            traffic.request(EXPORT, edge - 3, 90)
    return traffic


def test_a_limit_of_fifty_loses_not_one_trace(tempo: StartTempo, exporter: StartExporter) -> None:
    traffic = dense(time.time())
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


def test_a_second_with_more_than_the_limit_is_partial_and_the_rest_is_whole(
    tempo: StartTempo, exporter: StartExporter
) -> None:
    now = time.time()
    traffic = dense(now)
    crowded = int(now) // HOUR * HOUR - 3 * HOUR + 1234
    traffic.spread(CART, crowded + 0.1, crowded + 0.5, count=LIMIT + 10, scale=0.05)
    server = tempo(traffic)
    running = exporter(settings(server.url, tempo={"limit": LIMIT}, polling={"backfill_duration": "12h"}))
    page = running.wait_until_filled()

    in_that_second = traffic.between(crowded, crowded + 1)
    elsewhere = len(traffic.requests) - in_that_second
    assert elsewhere < page["history_traces"] <= elsewhere + LIMIT
    assert page.get("search_truncated_windows_total", loop="backfill") == 1
    assert page.by("backfill_windows", "state")["partial"] == 1
    assert page["backfill_complete"] == 1
    assert running.get("/-/healthy").status_code == 200
    (warning,) = [record for record in running.logged() if "start within one second" in record["msg"]]
    assert warning["level"] == "warning"
    assert "raise tempo.limit" in warning["msg"]


def test_what_tempo_allows_is_learned_from_its_refusals(tempo: StartTempo, exporter: StartExporter) -> None:
    traffic = dense(time.time())
    server = tempo(traffic, limits=SearchLimits(max_result_limit=60, max_duration_seconds=2 * HOUR))
    running = exporter(settings(server.url, polling={"backfill_duration": "24h"}))
    page = running.wait_until_filled()
    assert page["history_traces"] == len(traffic.requests)
    assert page.get("search_truncated_windows_total", loop="backfill") == 0
    assert page.by("backfill_windows", "state")["failed"] == 0
    (warning,) = running.logged(
        "Tempo allows fewer traces a search than configured; set tempo.limit to that, or raise "
        "query_frontend.search.max_result_limit in Tempo"
    )
    assert (warning["allowed"], warning["configured"]) == (60, 5000)
