"""Baselines of a known week at every fallback level, compared with exact percentiles of the requests."""

import time
from zoneinfo import ZoneInfo

import pytest

from exporter.model.span import SeriesKey
from tests.e2e.conftest import StartExporter, StartTempo
from tests.support.expected_baselines import Baseline, Week, await_baselines, baseline_at, days_ago
from tests.support.processes import settings
from tests.support.traffic import DAY, HOUR, Traffic

BUSY = SeriesKey("shop", "GET /cart")
QUIET = SeriesKey("shop", "POST /refunds")
JOB = SeriesKey("batch", "cron: export")
WEEKEND_WORK = SeriesKey("batch", "cron: weekly report")
LEARNING = SeriesKey("shop", "GET /v2/cart")
NEW = SeriesKey("shop", "GET /v3/cart")
LEVELS = {BUSY: 1, QUIET: 2, JOB: 3, WEEKEND_WORK: 4, LEARNING: 1, NEW: 5}


def a_week(now: float, week: Week) -> Traffic:
    """Return somewhat more than a week of traffic in which every level serves an endpoint, at any hour."""
    traffic = Traffic(seed=11)
    this_hour = int(week.hour(now).timestamp())
    for start in range(this_hour - 170 * HOUR, this_hour + HOUR, HOUR):
        local = week.hour(start)
        weekend = week.is_weekend(local)
        # Different at every hour and day type, but not enough for an anomaly.
        pace = (1 + 0.25 * local.hour / 23) * (0.95 if weekend else 1)
        traffic.hourly(BUSY, [start], count=20, scale=0.2 * pace)
        traffic.hourly(QUIET, [start], count=3, scale=0.9 * pace)
        if not weekend and (local.hour - week.hour(now).hour) % 24 in (8, 9, 10, 11):
            traffic.hourly(JOB, [start], count=6, scale=30 * pace)
        if weekend:
            traffic.hourly(WEEKEND_WORK, [start], count=2, scale=4 * pace)
        if start == this_hour - DAY:
            traffic.hourly(LEARNING, [start, start + HOUR], count=60, scale=0.07)
        if this_hour - 12 * HOUR <= start:
            traffic.hourly(NEW, [start], count=1, scale=0.05)
    return traffic


@pytest.mark.parametrize(("zone", "batch_seconds"), [("UTC", HOUR), ("Asia/Kolkata", HOUR // 2)])
def test_baselines_of_a_known_week_are_exact_at_every_level(
    tempo: StartTempo, exporter: StartExporter, zone: str, batch_seconds: int
) -> None:
    now = time.time()
    week = Week(ZoneInfo(zone), days_ago(now, ZoneInfo(zone), 5, 4))
    traffic = a_week(now, week)
    running = exporter(
        settings(
            tempo(traffic).url,
            timezone=zone,
            calendar={"weekend": list(week.weekend)},
            polling={"backfill_duration": "168h", "backfill_batch": f"{batch_seconds}s"},
            series={"stale_after": "8d"},
        )
    )
    started = running.metrics()["backfill_started_timestamp_seconds"]
    since = week.floor(started - 168 * HOUR, batch_seconds)
    requests_by_series = {
        series: [request for request in traffic.requests if request.series == series and request.start >= since]
        for series in LEVELS
    }

    def expected_at(at: float) -> dict[SeriesKey, Baseline]:
        return {series: baseline_at(at, requests, week) for series, requests in requests_by_series.items()}

    page = await_baselines(running, expected_at)

    expected = expected_at(page["snapshot_timestamp_seconds"])
    assert {series: baseline.level for series, baseline in expected.items()} == LEVELS
    for series, baseline in expected.items():
        has_baseline = baseline.level < 5
        assert (page.get("baseline_mad_seconds", series) is not None) == has_baseline, series
        assert (page.get("outlier_threshold_seconds", series) is not None) == has_baseline, series
        assert (page.get("anomalous", series, kind="outlier") is not None) == has_baseline, series
        # A shift verdict needs a mature baseline.
        assert (page.get("anomalous", series, kind="shift") is not None) == baseline.mature, series
    assert page.series() == set(LEVELS)
    assert page.by("series_by_fallback_level", "level") == {"1": 2, "2": 1, "3": 1, "4": 1, "5": 1}
    assert page["series_learning"] == 1
    assert page["quarantined_windows"] == 0
