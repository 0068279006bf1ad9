"""The API, explain and verify on a known week, compared with values computed from the requests."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import trustme

from exporter.demo.traces import ROOT, Operation, SpanTimes, TraceShape, make_trace
from exporter.model.span import SeriesKey
from tests.e2e.conftest import StartExporter, StartTempo
from tests.e2e.test_baselines import BUSY, LEVELS, a_week
from tests.e2e.test_security import USER, authority, protected
from tests.support.expected_baselines import UTC_WEEK, Baseline, Week, await_baselines, baseline_at, days_ago
from tests.support.openapi import undescribed
from tests.support.processes import ExporterProcess, run, settings
from tests.support.traffic import DAY, HOUR, NS, Request, Traffic

__all__ = ["authority"]

TRACE_ID = 0xC0FFEE
SHAPE = TraceShape(
    (Operation(*BUSY[:2]), Operation("shop", "POST /reserve", "client"), Operation("stock", "POST /reserve", "server")),
    (ROOT, 0, 1),
)
SPAN_SECONDS = (5.0, 4.0, 3.0)
"""Durations of the nested spans of that trace."""


class KnownWeek:
    """An exporter that has read the week, and the expected baselines."""

    def __init__(
        self, running: ExporterProcess, requests: dict[SeriesKey, list[Request]], week: Week, now: float
    ) -> None:
        self.running = running
        self.week = week
        self.now = now
        self._requests = requests

    def expected(self, series: SeriesKey, at: float) -> Baseline:
        known_at = self.now if at > self.now else None
        return baseline_at(at, self._requests[series], self.week, known_at=known_at)

    def get(self, name: str, series: SeriesKey | None = None, **parameters: str | float) -> Any:
        labels = {} if series is None else series.parameters
        response = self.running.get(f"/api/v1/{name}", params={**labels, **parameters})
        assert response.status_code == 200, response.text
        document = response.json()
        assert undescribed(name, "200", document) == []
        return document

    def command(self, *arguments: str) -> Any:
        done = run("--config", "exporter.yaml", *arguments, "--json", directory=self.running.directory)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def known(tempo: StartTempo, exporter: StartExporter) -> KnownWeek:
    now = time.time()
    week = Week(UTC_WEEK.zone, days_ago(now, UTC_WEEK.zone, 5, 4))
    traffic = a_week(now, week)
    # Yesterday at this time, so it belongs to the baseline of the current hour.
    start_ns = int((now - DAY) * NS)
    times = [SpanTimes(number + 1, start_ns + number * NS // 10, int(s * NS)) for number, s in enumerate(SPAN_SECONDS)]
    traffic.add(make_trace(TRACE_ID, SHAPE, times))
    traffic.requests.append(Request(BUSY, start_ns, int(SPAN_SECONDS[0] * NS), f"{TRACE_ID:032x}"))
    running = exporter(
        settings(
            tempo(traffic).url,
            tempo={"scope": "root"},
            calendar={"weekend": list(week.weekend)},
            series={"stale_after": "8d"},
        )
    )
    since = week.floor(running.metrics()["backfill_started_timestamp_seconds"] - 168 * HOUR, HOUR)
    requests = {
        series: [request for request in traffic.requests if request.series == series and request.start >= since]
        for series in LEVELS
    }
    await_baselines(running, lambda at: {key: baseline_at(at, requests[key], week) for key in LEVELS})
    # Baselines are published before the history is evaluated.
    page = running.wait_for(lambda page: page.get("anomalous", BUSY, kind="shift") is not None)
    return KnownWeek(running, requests, week, page["snapshot_timestamp_seconds"])


def difference(response: Any, expected: Baseline) -> str:
    """Return how a response differs from the expected baseline; percentiles may differ by 2 %."""
    if response["level"] != expected.level:
        return f"level {response['level']}, not {expected.level}"
    if expected.level == 5:
        return "" if response["baseline"] is None else "a baseline at level 5"
    baseline = response["baseline"]
    values = [baseline[name] for name in ("samples", "windows", "mature", "p50_seconds", "p95_seconds")]
    expected_values = [
        expected.traces,
        expected.hours,
        expected.mature,
        pytest.approx(expected.p50_seconds, rel=0.02),
        pytest.approx(expected.p95_seconds, rel=0.02),
    ]
    return "" if values == expected_values else f"{values}, not {expected_values}"


def test_api_and_commands_agree_with_known_requests(known: KnownWeek) -> None:
    try:
        check_all(known)
    except AssertionError:
        if known.week.hour(known.now) == known.week.hour(time.time()):
            raise
        # The hour turned during the check, and the baselines with it.
        known.now = time.time()
        check_all(known)
    options = ("--duration", "300ms", "--at", str(int(known.now) - 4 * DAY))
    with_exporter = known.command("explain", "--service", BUSY.service_name, "--span", BUSY.span_name, *options)
    assert known.running.stop() == 0
    without_exporter = known.command("explain", "--service", BUSY.service_name, "--span", BUSY.span_name, *options)
    assert without_exporter == with_exporter


def check_all(known: KnownWeek) -> None:
    """Check every API and command that works with a running exporter."""
    hour = int(known.week.hour(known.now).timestamp())
    for series in LEVELS:
        for at in (hour - 2 * DAY - 3 * HOUR, hour - 4 * DAY, hour, hour + 5 * HOUR, hour + 2 * DAY, hour + 3 * DAY):
            check = known.get("check", series, at=at)
            assert not difference(check, known.expected(series, at)), (series, at)
            assert check["bucket"]["day_type"] == (
                "weekend" if known.week.is_weekend(known.week.hour(at)) else "weekday"
            )
            assert sum(each["traces"] for each in (check["baseline"] or {"pooled_hours": []})["pooled_hours"]) == (
                known.expected(series, at).traces
            )
    # Every slot of the coming week, for every endpoint.
    available = {
        SeriesKey(each["service_name"], each["span_name"]): each["level_by_hour"]
        for each in known.get("available")["series"]
    }
    assert set(available) == set(LEVELS)
    for series, levels in available.items():
        profile = {
            (slot["bucket"]["day_type"], slot["bucket"]["hour"]): slot
            for slot in known.get("baseline", series)["slots"]
        }
        for at in range(hour + HOUR, hour + 169 * HOUR, HOUR):
            local, expected = known.week.hour(at), known.expected(series, at)
            day_type = "weekend" if known.week.is_weekend(local) else "weekday"
            assert levels[day_type][local.hour] == expected.level, (series, local)
            assert not difference(profile[day_type, local.hour], expected), (series, local)

    # Durations on both sides of the threshold, over HTTP and on the command line.
    threshold = known.get("check", BUSY)["outlier_threshold_seconds"]
    below, above = (f"{int(threshold * 1000) + more}ms" for more in (0, 1))
    assert known.get("check", BUSY, duration=below)["duration"]["outlier"] is False
    at = hour - 4 * DAY
    check = known.get("check", BUSY, duration=above, at=at)
    explained = known.command(
        "explain", "--service", "shop", "--span", "GET /cart", "--duration", above, "--at", str(at)
    )
    assert explained == check
    assert known.get("check", BUSY, duration=above)["duration"]["outlier"] is True

    # The critical path of a trace.
    trace = known.get("trace", trace_id=f"{TRACE_ID:x}")
    assert [(each["service_name"], each["self_seconds"]) for each in trace["services"]] == [
        ("stock", 3.0),
        ("shop", 2.0),
    ]
    assert trace["check"]["duration"]["outlier"] is True
    assert not difference(trace["check"], known.expected(BUSY, known.now - DAY + 5))
    assert known.command("explain", "--trace", f"{TRACE_ID:032x}") == trace

    verified = known.command("verify", "--url", known.running.url)
    assert verified["totals"]["FAIL"] == 0
    lines = {line["name"]: line for line in verified["checks"]}
    for day_type in ("weekday", "weekend"):
        night = next(
            at
            for at in range(hour + HOUR, hour + 169 * HOUR, HOUR)
            if known.week.hour(at).hour == 3 and known.week.is_weekend(known.week.hour(at)) == (day_type == "weekend")
        )
        mature = sum(known.expected(series, night).mature for series in LEVELS)
        assert lines[f"03:00 {day_type}"]["detail"] == f"{mature} of 6 endpoints could be flagged"
    assert lines["backfill"]["outcome"] == "PASS"
    # The oldest window starts on a full hour, so from half past on it rounds to one hour more.
    assert re.search(r"back to 7d(1h)? ago$", lines["history"]["detail"])


def test_verify_names_a_retention_shorter_than_the_backfill(tempo: StartTempo, exporter: StartExporter) -> None:
    now = int(time.time())
    traffic = Traffic()
    traffic.hourly(BUSY, range(now - now % HOUR - 8 * DAY, now, HOUR), count=10, scale=0.2)
    # With so low a limit the exporter probes Tempo's retention.
    running = exporter(settings(tempo(traffic, retention_seconds=72 * HOUR).url, tempo={"limit": 15}))
    running.wait_until_filled()
    done = run("verify", "--url", running.url, directory=running.directory)
    text = " ".join(done.stdout.split())
    assert "WARN history" in text
    assert "Tempo's retention seems to be 72 h" in text
    assert "set polling.backfill_duration: 72h" in text


def test_verify_uses_tls_and_a_password(
    tempo: StartTempo, exporter: StartExporter, tmp_path: Path, authority: trustme.CA
) -> None:
    traffic = Traffic()
    traffic.spread(BUSY, time.time() - 100, time.time(), count=50, scale=0.1)
    running = protected(exporter, tempo(traffic).url, tmp_path, authority)
    running.wait_until_filled()
    (tmp_path / "password").write_text(f"{USER[1]}\n")
    (tmp_path / "wrong").write_text("other")
    url = running.url.replace("http://", "https://")

    def health(*arguments: str) -> str:
        done = run("verify", "--url", url, "--json", *arguments, directory=tmp_path)
        assert done.returncode == 1, done.stderr
        return str(json.loads(done.stdout)["checks"][0]["detail"])

    trusted = ("--ca-file", str(running.access["verify"]))
    assert health(*trusted, "--user", USER[0], "--password-file", "password").startswith("the process is up")
    assert "check --user" in health(*trusted, "--user", USER[0], "--password-file", "wrong")
    assert "pass the CA that signed it with --ca-file" in health()
