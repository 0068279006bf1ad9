"""The ledger grows as windows settle, and expires windows beyond Tempo's retention."""

import time
from itertools import pairwise
from pathlib import Path

from exporter.model.span import SeriesKey
from tests.e2e.conftest import StartExporter, StartTempo
from tests.support.database import windows
from tests.support.processes import settings
from tests.support.traffic import HOUR, MINUTE, Traffic

CART = SeriesKey("shop", "GET /cart")


def test_windows_are_read_as_they_settle(tempo: StartTempo, exporter: StartExporter, tmp_path: Path) -> None:
    now = time.time()
    traffic = Traffic()
    traffic.spread(CART, now - 2 * MINUTE, now + 2 * MINUTE, count=2400, scale=0.5)
    polling = {"backfill_duration": "60s", "backfill_batch": "2s", "settle": "2s", "tempo_lookback": "2s"}
    running = exporter(settings(tempo(traffic).url, polling=polling))
    first = running.wait_until_filled()
    later = running.wait_for(lambda page: page["history_windows"] >= first["history_windows"] + 3)
    assert later["history_traces"] > first["history_traces"]
    assert running.stop() == 0

    ledger = sorted(windows(tmp_path / "tempo-anomaly.db"))
    assert all(end == start for (_, end, *_), (start, *_) in pairwise(ledger))
    for start, end, state, traces, *_ in ledger:
        assert (end - start, state, traces) == (2, "done", traffic.between(start, end))


def test_windows_beyond_tempos_retention_expire(tempo: StartTempo, exporter: StartExporter) -> None:
    traffic = Traffic()
    this_hour = int(time.time()) // HOUR * HOUR
    traffic.hourly(CART, range(this_hour - 200 * HOUR, this_hour, HOUR), count=10, scale=0.2)
    server = tempo(traffic, retention_seconds=30 * HOUR)
    # With so low a limit every window needs its own search.
    running = exporter(settings(server.url, tempo={"limit": 15}, polling={"backfill_duration": "168h"}))
    page = running.wait_until_filled()
    states = page.by("backfill_windows", "state")
    assert page["backfill_progress_ratio"] == 1
    assert (states["failed"], states["partial"], states["pending"]) == (0, 0, 0)
    assert states["expired"] > 100
    # A few wide probes instead of an empty search for every hour.
    searches = [search for search in server.searches() if int(search["start"]) < this_hour - 32 * HOUR]
    assert 0 < len(searches) < 40
