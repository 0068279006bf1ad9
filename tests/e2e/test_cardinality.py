"""Limits on names: ids become placeholders, services with too many names are folded, further series are dropped."""

import string
import time

from exporter.model.span import SeriesKey
from tests.e2e.conftest import StartExporter, StartTempo
from tests.support.database import digests
from tests.support.processes import settings
from tests.support.traffic import HOUR, Traffic

SERIES_MAX = 20
FLOOD = 2_000
CART = SeriesKey("shop", "GET /cart")
ORDERS = SeriesKey("shop", "GET /orders/{number}")


def shop(now: float) -> Traffic:
    """Return traffic of a shop with order numbers in span names."""
    traffic = Traffic()
    this_hour = int(now) // HOUR * HOUR
    for hour in range(this_hour - 5 * HOUR, this_hour - HOUR, HOUR):
        traffic.hourly(CART, [hour], count=60, scale=0.2)
        for number in range(60):
            traffic.request(SeriesKey("shop", f"GET /orders/{10_000 + number}"), hour + number, 0.1)
    return traffic


def test_series_beyond_the_limit_are_dropped_and_known_series_stay(tempo: StartTempo, exporter: StartExporter) -> None:
    limited = {"polling": {"backfill_duration": "6h", "tempo_interval": "500ms"}, "series": {"max": SERIES_MAX}}
    first = exporter(settings(tempo(shop(time.time())).url, **limited))
    page = first.wait_until_filled()
    assert page["series"] == 2
    assert page["series_dropped_total"] == 0
    assert first.stop() == 0

    flooded = shop(time.time())
    for number in range(FLOOD):
        name = "".join(string.ascii_lowercase[number // 26**place % 26] for place in range(3))
        flooded.request(SeriesKey("scanner", f"GET /{name}.php"), time.time() - 30, 0.01)
    running = exporter(settings(tempo(flooded).url, **limited))
    page = running.wait_for(lambda page: page["series_dropped_total"] > 0)
    page = running.wait_for(lambda page: page["series"] == SERIES_MAX == len(page.series()))

    assert {CART, ORDERS} <= page.series()
    assert page["series_limit"] == SERIES_MAX
    assert page["series_dropped_total"] == FLOOD - (SERIES_MAX - 2)
    assert (page.get("traces_skipped_total", loop="poll", reason="series_limit") or 0) >= FLOOD - (SERIES_MAX - 2)
    (record,) = running.logged("series_limit_reached")
    assert (record["level"], record["series_max"]) == ("warning", SERIES_MAX)
    assert running.stop() == 0
    names = {row[:2] for row in digests(running.directory / "tempo-anomaly.db")}
    assert names == {CART[:2], ORDERS[:2]}


NAMES = 100_000
PER_SERVICE = 50


def test_a_service_with_100000_span_names_costs_bounded_memory_and_leaves_the_others_alone(
    tempo: StartTempo, exporter: StartExporter
) -> None:
    now = time.time()
    traffic = shop(now)
    this_hour = int(now) // HOUR * HOUR
    for number in range(NAMES):
        name = "".join(string.ascii_lowercase[number // 26**place % 26] for place in range(4))
        start = this_hour - 5 * HOUR + number % (4 * HOUR) if number % 100 else now - 30
        traffic.request(SeriesKey("scanner", f"GET /{name}.php"), start, 0.01)
    folding = {
        "polling": {"backfill_duration": "6h", "tempo_interval": "500ms"},
        "tempo": {"limit": 20_000},
        "series": {"max": PER_SERVICE + 3, "max_per_service": PER_SERVICE},
    }
    url = tempo(traffic).url
    running = exporter(settings(url, **folding))
    page = running.wait_until_filled()
    rest = SeriesKey("scanner", "{other}")
    assert {CART, ORDERS, rest} <= page.series()
    assert page["series"] == PER_SERVICE + 3
    assert page["series_dropped_total"] == 0
    assert (page.get("series_folded_total", service_name="scanner") or 0) >= NAMES - PER_SERVICE
    assert page.get("current_traces", rest) == NAMES / 100 - PER_SERVICE
    resident = page.samples["process_resident_memory_bytes", frozenset()]
    assert resident < 200e6, f"{resident:,.0f} bytes"
    (record,) = running.logged("service_folded")
    assert (record["service_name"], len(record["examples"])) == ("scanner", 3)
    assert running.stop() == 0
    database = running.directory / "tempo-anomaly.db"
    stored = {SeriesKey(*row[:2]) for row in digests(database)}
    assert {CART, ORDERS, rest} <= stored
    assert len(stored) <= PER_SERVICE + 3

    again = exporter(settings(url, **folding))
    page = again.wait_until_filled()
    assert {CART, ORDERS, rest} <= page.series()
    assert (page["series"], page["series_dropped_total"]) == (PER_SERVICE + 3, 0)
