"""Traffic: a silent endpoint is flagged, and a source that loses traces is one statement; with a simulated clock."""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from exporter.model.span import SeriesKey
from tests.support.samples import logged
from tests.support.scrape import Metrics
from tests.support.simulated import simulated
from tests.support.traffic import HOUR, MINUTE, Traffic

ENDPOINTS: Final = [SeriesKey("shop", f"GET /{name}") for name in ("cart", "search", "items", "login", "news", "help")]
SILENT, *OTHERS = ENDPOINTS
PER_HOUR: Final = 300
BEGIN: Final = datetime(2026, 3, 4, 10, 20, tzinfo=UTC).timestamp()
HISTORY: Final = {"backfill_duration": "48h"}


def spread(traffic: Traffic, endpoint: SeriesKey, start: float, end: float, share: float = 1.0) -> None:
    """Add the usual requests of an endpoint, or a share of them."""
    traffic.spread(endpoint, start, end, count=round(share * PER_HOUR * (end - start) / HOUR), scale=0.2)


def traffic_flags(page: Metrics) -> dict[SeriesKey, float | None]:
    return {each: page.get("anomalous", each, kind="traffic") for each in ENDPOINTS}


def test_an_endpoint_that_falls_silent_is_flagged_within_six_minutes_and_clears(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    traffic, until = Traffic(), BEGIN + 9 * MINUTE
    for endpoint in OTHERS:
        spread(traffic, endpoint, BEGIN - 48 * HOUR, BEGIN + 40 * MINUTE)
    spread(traffic, SILENT, BEGIN - 48 * HOUR, BEGIN)
    spread(traffic, SILENT, until, BEGIN + 40 * MINUTE)
    with simulated(tmp_path, traffic.store(), BEGIN, polling=HISTORY) as exporter:
        page = exporter.tick_until(lambda page: 1 in traffic_flags(page).values(), 6 * MINUTE)
        assert traffic_flags(page) == {SILENT: 1} | dict.fromkeys(OTHERS, 0)
        assert BEGIN < (page.get("traffic_since_timestamp_seconds", SILENT) or 0) <= exporter.now
        assert (page.get("traffic_ratio", SILENT) or 0) < 0.5
        assert (page.get("baseline_traces", SILENT) or 0) > 15
        assert (page.get("source_traffic_ratio") or 0) > 0.7
        (record,) = logged(caplog, "traffic_firing")
        assert SeriesKey(str(record["service_name"]), str(record["span_name"])) == SILENT
        assert "% of the usual traffic" in str(record["explanation"])
        exporter.tick_until(lambda page: 1 not in traffic_flags(page).values(), until + 6 * MINUTE - exporter.now)
        assert exporter.now > until
    assert len(logged(caplog, "traffic_firing")) == len(logged(caplog, "traffic_resolved")) == 1


def test_a_source_that_loses_most_traces_is_one_statement(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    traffic = Traffic()
    for endpoint in ENDPOINTS:
        spread(traffic, endpoint, BEGIN - 48 * HOUR, BEGIN)
        spread(traffic, endpoint, BEGIN, BEGIN + 40 * MINUTE, 0.3)
    with simulated(tmp_path, traffic.store(), BEGIN, polling=HISTORY) as exporter:
        exporter.tick_until(lambda page: (page.get("source_traffic_ratio") or 1) < 0.5, 10 * MINUTE)
        for _ in range(40):
            assert traffic_flags(exporter.tick()) == dict.fromkeys(ENDPOINTS, 0)
        assert exporter.page()["source_traffic_ratio"] == pytest.approx(0.3, abs=0.1)
    assert logged(caplog, "traffic_firing") == []
