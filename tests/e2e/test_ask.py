"""Asking a real exporter about a known week: the API, explain and verify, against what follows from the requests."""

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
from tests.support.processes import ExporterProcess, run, settings
from tests.support.traffic import DAY, HOUR, NS, Request, Traffic

__all__ = ["authority"]

TRACE_ID = 0xC0FFEE
SHAPE = TraceShape(
    (Operation(*BUSY), Operation("shop", "POST /reserve", "client"), Operation("stock", "POST /reserve", "server")),
    (ROOT, 0, 1),
)
PARTS = (5.0, 4.0, 3.0)
"""Seconds of the spans of that trace, each within the one before."""


class Asked:
    """An exporter that has read the week, and what it must answer."""

    def __init__(
        self, running: ExporterProcess, wanted: dict[SeriesKey, list[Request]], week: Week, now: float
    ) -> None:
        self.running = running
        self.week = week
        self.now = now
        self._wanted = wanted

    def expected(self, series: SeriesKey, at: float) -> Baseline:
        known_at = self.now if at > self.now else None
        return baseline_at(at, self._wanted[series], self.week, known_at=known_at)

    def ask(self, name: str, series: SeriesKey | None = None, **parameters: str | float) -> Any:
        named = {} if series is None else series._asdict()
        answer = self.running.get(f"/api/v1/{name}", params={**named, **parameters})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def command(self, *arguments: str) -> Any:
        done = run("--config", "exporter.yaml", *arguments, "--json", directory=self.running.directory)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def asked(tempo: StartTempo, exporter: StartExporter) -> Asked:
    now = time.time()
    week = Week(UTC_WEEK.zone, days_ago(now, UTC_WEEK.zone, 5, 4))
    traffic = a_week(now, week)
    # Yesterday; so it is one of the requests of the hour, too.
    start_ns = int((now - DAY) * NS)
    times = [SpanTimes(number + 1, start_ns + number * NS // 10, int(s * NS)) for number, s in enumerate(PARTS)]
    traffic.add(make_trace(TRACE_ID, SHAPE, times))
    traffic.requests.append(Request(BUSY, start_ns, int(PARTS[0] * NS), f"{TRACE_ID:032x}"))
    running = exporter(
        settings(tempo(traffic).url, calendar={"weekend": list(week.weekend)}, series={"stale_after": "8d"})
    )
    since = week.floor(running.metrics()["backfill_started_timestamp_seconds"] - 168 * HOUR, HOUR)
    wanted = {
        series: [request for request in traffic.requests if request.series == series and request.start >= since]
        for series in LEVELS
    }
    await_baselines(running, lambda at: {key: baseline_at(at, wanted[key], week) for key in LEVELS})
    # Baselines are there before the past is judged.
    page = running.wait_for(lambda page: page.get("anomalous", BUSY, kind="shift") is not None)
    return Asked(running, wanted, week, page["snapshot_timestamp_seconds"])


def differs(answer: Any, expected: Baseline) -> str:
    """What an answer says otherwise than expected; percentiles must be within 2 % of the exact ones."""
    if answer["level"] != expected.level:
        return f"level {answer['level']}, not {expected.level}"
    if expected.level == 5:
        return "" if answer["baseline"] is None else "a baseline at level 5"
    baseline = answer["baseline"]
    found = [baseline[name] for name in ("samples", "windows", "mature", "p50_seconds", "p95_seconds")]
    wanted = [
        expected.traces,
        expected.hours,
        expected.mature,
        pytest.approx(expected.p50_seconds, rel=0.02),
        pytest.approx(expected.p95_seconds, rel=0.02),
    ]
    return "" if found == wanted else f"{found}, not {wanted}"


def test_a_known_week_is_explained_as_it_was(asked: Asked) -> None:
    try:
        check_all(asked)
    except AssertionError:
        if asked.week.hour(asked.now) == asked.week.hour(time.time()):
            raise
        # The hour has turned in between, and with it everything that is usual now.
        asked.now = time.time()
        check_all(asked)
    question = ("--duration", "300ms", "--at", str(int(asked.now) - 4 * DAY))
    beside = asked.command("explain", "--service", BUSY.service_name, "--span", BUSY.span_name, *question)
    assert asked.running.stop() == 0
    alone = asked.command("explain", "--service", BUSY.service_name, "--span", BUSY.span_name, *question)
    assert alone == beside


def check_all(asked: Asked) -> None:
    """Whatever can be asked while it runs."""
    hour = int(asked.week.hour(asked.now).timestamp())
    for series in LEVELS:
        for at in (hour - 2 * DAY - 3 * HOUR, hour - 4 * DAY, hour, hour + 5 * HOUR, hour + 2 * DAY, hour + 3 * DAY):
            answer = asked.ask("check", series, at=at)
            assert not differs(answer, asked.expected(series, at)), (series, at)
            assert answer["bucket"]["day_type"] == (
                "weekend" if asked.week.is_weekend(asked.week.hour(at)) else "weekday"
            )
            assert sum(each["traces"] for each in (answer["baseline"] or {"pooled_hours": []})["pooled_hours"]) == (
                asked.expected(series, at).traces
            )
    # All of the coming week: every slot, of every endpoint.
    available = {
        SeriesKey(each["service_name"], each["span_name"]): each["level_by_hour"]
        for each in asked.ask("available")["series"]
    }
    assert set(available) == set(LEVELS)
    for series, levels in available.items():
        profile = {
            (slot["bucket"]["day_type"], slot["bucket"]["hour"]): slot
            for slot in asked.ask("baseline", series)["slots"]
        }
        for at in range(hour + HOUR, hour + 169 * HOUR, HOUR):
            local, expected = asked.week.hour(at), asked.expected(series, at)
            day_type = "weekend" if asked.week.is_weekend(local) else "weekday"
            assert levels[day_type][local.hour] == expected.level, (series, local)
            assert not differs(profile[day_type, local.hour], expected), (series, local)

    # A duration on either side of the threshold, on the command line as over HTTP, and without the exporter.
    threshold = asked.ask("check", BUSY)["outlier_threshold_seconds"]
    below, above = (f"{int(threshold * 1000) + more}ms" for more in (0, 1))
    assert asked.ask("check", BUSY, duration=below)["duration"]["outlier"] is False
    at = hour - 4 * DAY
    answer = asked.ask("check", BUSY, duration=above, at=at)
    explained = asked.command(
        "explain", "--service", "shop", "--span", "GET /cart", "--duration", above, "--at", str(at)
    )
    assert explained == answer
    assert asked.ask("check", BUSY, duration=above)["duration"]["outlier"] is True

    # Where the time of a trace went.
    traced = asked.ask("trace", trace_id=f"{TRACE_ID:x}")
    assert [(each["service_name"], each["self_seconds"]) for each in traced["services"]] == [
        ("stock", 3.0),
        ("shop", 2.0),
    ]
    assert traced["check"]["duration"]["outlier"] is True
    assert not differs(traced["check"], asked.expected(BUSY, asked.now - DAY + 5))
    assert asked.command("explain", "--trace", f"{TRACE_ID:032x}") == traced

    verified = asked.command("verify", "--url", asked.running.url)
    assert verified["totals"]["FAIL"] == 0
    lines = {line["name"]: line for line in verified["checks"]}
    for day_type in ("weekday", "weekend"):
        night = next(
            at
            for at in range(hour + HOUR, hour + 169 * HOUR, HOUR)
            if asked.week.hour(at).hour == 3 and asked.week.is_weekend(asked.week.hour(at)) == (day_type == "weekend")
        )
        able = sum(asked.expected(series, night).mature for series in LEVELS)
        assert lines[f"03:00 {day_type}"]["detail"] == f"{able} of 6 endpoints could be flagged"
    assert lines["backfill"]["outcome"] == "PASS"
    # The oldest window begins with an hour of the clock, so from half past on it is an hour more.
    assert re.search(r"back to 7d(1h)? ago$", lines["history"]["detail"])


def test_a_short_retention_is_named(tempo: StartTempo, exporter: StartExporter) -> None:
    now = int(time.time())
    traffic = Traffic()
    traffic.hourly(BUSY, range(now - now % HOUR - 8 * DAY, now, HOUR), count=10, scale=0.2)
    # With so low a limit it asks how far back Tempo's traces go, before it reads on.
    running = exporter(settings(tempo(traffic, retention_seconds=72 * HOUR).url, tempo={"limit": 15}))
    running.wait_until_filled()
    done = run("verify", "--url", running.url, directory=running.directory)
    text = " ".join(done.stdout.split())
    assert "WARN history" in text
    assert "Tempo's retention seems to be 72 h" in text
    assert "set polling.backfill_duration: 72h" in text


def test_verify_through_tls_and_with_a_password(
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
