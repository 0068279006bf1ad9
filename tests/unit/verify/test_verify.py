"""``verify``: what is said of an exporter in every state, from what its metrics and its API say."""

import json
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from exporter.cli.main import main
from exporter.model.span import SeriesKey
from exporter.verify.checks import CheckResult, Outcome, lines
from exporter.verify.client import Metrics, Probe
from exporter.verify.facts import METRICS, Facts, SampledVerdict
from exporter.verify.sample import sample
from tests.support.samples import HOUR, KEY, NOON
from tests.support.tempo_server import fake_tempo, replying

GOOD = {
    'build_info{version="1.2.3",python_version="3.11"}': 1,
    "tempo_up": 1,
    'tempo_requests_total{loop="poll"}': 900,
    'tempo_requests_total{loop="backfill"}': 100,
    'tempo_request_failures_total{loop="poll",reason="timeout"}': 0,
    "snapshot_timestamp_seconds": NOON - 12,
    "backfill_enabled": 1,
    "backfill_complete": 1,
    "backfill_progress_ratio": 1,
    'backfill_windows{state="done"}': 160,
    'backfill_windows{state="empty"}': 8,
    'backfill_windows{state="expired"}': 0,
    'backfill_windows{state="failed"}': 0,
    'backfill_windows{state="pending"}': 0,
    "backfill_coverage_ratio": 1,
    "backfill_unsampled_coverage_ratio": 1,
    "backfill_sampled_windows": 0,
    "backfill_wanted_since_timestamp_seconds": NOON - 168 * HOUR,
    "backfill_oldest_trace_timestamp_seconds": NOON - 168 * HOUR,
    "history_traces": 123456,
    'search_saturations_total{loop="backfill"}': 3,
    'search_splits_total{loop="backfill"}': 3,
    'search_truncated_windows_total{loop="backfill"}': 0,
    'search_truncated_windows_total{loop="poll"}': 0,
    "series": 10,
    "series_limit": 10000,
    "series_dropped_total": 0,
    "series_learning": 1,
    'storage_failures_total{reason="full"}': 0,
}


def metrics(**changes: float | None) -> Metrics:
    """Those of an exporter that is well, but for some."""
    samples: dict[str, float | None] = {**GOOD, **changes}
    return Metrics("".join(f"tempo_anomaly_{name} {value}\n" for name, value in samples.items() if value is not None))


def judged(level: int = 1, day_type: str = "weekday", *, verdict: bool = True) -> SampledVerdict:
    return SampledVerdict(KEY, 3, day_type, level, verdict)


WELL = Facts(
    healthy=Probe(200, "", NOON),
    ready=Probe(200, "", NOON),
    metrics=metrics(),
    series=10,
    by_level={day_type: [[8, 1, 0, 0, 1]] * 24 for day_type in ("weekday", "weekend")},
    able={"weekday": 9, "weekend": 8},
    sampled=[judged(1)] * 30 + [judged(2)] * 6 + [judged(5)] * 4,
    nights={day_type: judged(1, day_type) for day_type in ("weekday", "weekend")},
)


def said(facts: Facts) -> dict[str, CheckResult]:
    return {line.name: line for line in lines(facts)}


def test_an_exporter_that_is_well_passes_in_everything() -> None:
    found = said(WELL)
    assert {line.outcome for line in found.values()} == {Outcome.PASS}
    assert {line.advice for line in found.values()} == {""}
    assert found["health"].detail == "the process works, version 1.2.3"
    assert found["tempo"].detail == "it answers (1,000 requests, 0 failed)"
    assert found["freshness"].detail == "the current traffic was judged 12 s ago"
    assert found["backfill"].detail == "100% of 168 windows (160 done, 8 empty)"
    assert found["history"].detail == "123,456 traces, back to 7d ago"
    assert found["03:00 weekend"].detail == "8 of 10 endpoints could be flagged"
    assert found["levels"].detail == (
        "of 40 sampled endpoints and hours 30 on level 1, 6 on level 2, 0 on level 3, 0 on level 4, 4 on level 5"
    )


@pytest.mark.parametrize(
    ("name", "changes", "outcome", "words"),
    [
        ("tempo", {"tempo_up": 0}, "FAIL", "check tempo.url"),
        ("tempo", {'tempo_request_failures_total{loop="poll",reason="timeout"}': 50}, "WARN", "most failed as timeout"),
        ("tempo", {'tempo_request_failures_total{loop="poll",reason="timeout"}': 10}, "PASS", "10 failed"),
        (
            # It refuses to count, which it is asked for a few times, and little else was asked as yet.
            "tempo",
            {
                'tempo_requests_total{loop="poll"}': 20,
                'tempo_requests_total{loop="backfill"}': 30,
                'tempo_request_failures_total{loop="backfill",reason="server_error"}': 3,
            },
            "PASS",
            "it answers (50 requests, 3 failed)",
        ),
        ("freshness", {"snapshot_timestamp_seconds": NOON - 61}, "WARN", "polling.tempo_interval"),
        ("freshness", {"snapshot_timestamp_seconds": NOON - 301}, "FAIL", "301 s ago"),
        ("freshness", {"snapshot_timestamp_seconds": None}, "FAIL", "not been judged yet"),
        ("backfill", {"backfill_enabled": 0}, "WARN", "polling.backfill_enabled"),
        (
            "backfill",
            {"backfill_complete": 0, "backfill_progress_ratio": 0.25, 'backfill_windows{state="pending"}': 500},
            "WARN",
            "500 windows are still to be read",
        ),
        ("backfill", {'backfill_windows{state="failed"}': 3}, "WARN", "log says why"),
        ("backfill", {'backfill_windows{state="failed"}': 3, 'backfill_windows{state="done"}': 0}, "FAIL", "3 failed"),
        (
            "history",
            {
                'backfill_windows{state="expired"}': 96,
                "backfill_oldest_trace_timestamp_seconds": NOON - 72 * HOUR - 2800,
            },
            "WARN",
            "set polling.backfill_duration: 72h",
        ),
        ("history", {"backfill_oldest_trace_timestamp_seconds": None}, "FAIL", "tempo.filter"),
        # Nothing was taken for older than Tempo's retention, and still there is nothing to begin with.
        (
            "history",
            {"backfill_oldest_trace_timestamp_seconds": NOON - 100 * HOUR},
            "WARN",
            "back to 4d4h ago; in the 68 h before, which are wanted too, Tempo had none",
        ),
        ("history", {"backfill_oldest_trace_timestamp_seconds": NOON - 145 * HOUR}, "PASS", "back to 6d1h ago"),
        (
            "history",
            {
                "backfill_wanted_since_timestamp_seconds": NOON - 12 * HOUR,
                "backfill_oldest_trace_timestamp_seconds": NOON - 9 * HOUR,
            },
            "WARN",
            "in the 3 h before",
        ),
        # What is stored may go farther back than what is wanted; and what is still to be read may hold traces.
        ("history", {"backfill_oldest_trace_timestamp_seconds": NOON - 400 * HOUR}, "PASS", "back to 16d16h ago"),
        (
            "history",
            {"backfill_oldest_trace_timestamp_seconds": NOON - 100 * HOUR, "backfill_complete": 0},
            "PASS",
            "back to 4d4h ago",
        ),
        (
            "coverage",
            {"backfill_coverage_ratio": 0.98, "backfill_unsampled_coverage_ratio": 0.98},
            "WARN",
            "if traces reach it late, raise polling.settle",
        ),
        (
            "coverage",
            {
                "backfill_coverage_ratio": 0.98,
                "backfill_unsampled_coverage_ratio": 0.98,
                'backfill_windows{state="partial"}': 2,
            },
            "WARN",
            "raise tempo.limit",
        ),
        # Sampled on purpose: nothing is to be done. What else is missing is still said.
        (
            "coverage",
            {"backfill_coverage_ratio": 0.2, "backfill_sampled_windows": 40},
            "PASS",
            "; 40 windows are too dense for polling.max_traces_per_window and were sampled on purpose",
        ),
        (
            "coverage",
            {"backfill_coverage_ratio": 0.2, "backfill_unsampled_coverage_ratio": None, "backfill_sampled_windows": 9},
            "PASS",
            "9 windows are too dense",
        ),
        (
            "coverage",
            {
                "backfill_coverage_ratio": 0.2,
                "backfill_unsampled_coverage_ratio": 0.97,
                "backfill_sampled_windows": 40,
                'backfill_windows{state="partial"}': 1,
            },
            "WARN",
            "; 97.0% in the others raise tempo.limit,",
        ),
        ("saturation", {'search_truncated_windows_total{loop="poll"}': 2}, "WARN", "raise tempo.limit (poll)"),
        ("series", {"series": 0}, "FAIL", "tempo.filter"),
        ("series", {"series_dropped_total": 7}, "WARN", "7 left out"),
        ("storage", {'storage_failures_total{reason="full"}': 2}, "WARN", "2 full"),
    ],
)
def test_what_its_metrics_say(name: str, changes: dict[str, float | None], outcome: str, words: str) -> None:
    line = said(replace(WELL, metrics=metrics(**changes)))[name]
    assert line.outcome == outcome
    assert words in f"{line.detail} {line.advice}"


@pytest.mark.parametrize(
    ("name", "changes", "outcome", "words"),
    [
        ("health", {"healthy": Probe(500, "", NOON)}, "FAIL", "answered 500"),
        ("ready", {"ready": Probe(503, "not ready: no traffic yet", NOON)}, "FAIL", "not ready: no traffic yet"),
        ("weekends", {"by_level": {"weekend": [[7, 0, 0, 0, 3]] * 24}}, "WARN", "at least 70% of 10"),
        (
            "weekdays",
            {"by_level": {"weekday": [[9, 0, 0, 0, 1]] * 4 + [[0, 0, 0, 0, 10]] + [[9, 0, 0, 0, 1]] * 19}},
            "FAIL",
            "at 04:00 no endpoint has a baseline",
        ),
        ("03:00 weekend", {"able": {"weekday": 9, "weekend": 7}}, "WARN", "7 of 10"),
        ("03:00 weekend", {"able": {}, "nights": {}}, "FAIL", "too little history of weekends"),
        ("03:00 weekday", {"nights": {"weekday": judged(verdict=False)}}, "FAIL", "not judged yet"),
        ("levels", {"sampled": [judged(5)] * 40}, "FAIL", "0 on level 1"),
        ("levels", {"sampled": [judged(5)] * 9 + [judged(2)] * 31}, "WARN", "9 on level 5"),
        ("levels", {"sampled": []}, "FAIL", "no endpoint to look at"),
    ],
)
def test_what_its_answers_say(name: str, changes: dict[str, Any], outcome: str, words: str) -> None:
    line = said(replace(WELL, **changes))[name]
    assert line.outcome == outcome
    assert words in f"{line.detail} {line.advice}"


def test_while_history_is_read_the_advice_is_to_wait() -> None:
    under_way = metrics(backfill_complete=0, backfill_oldest_trace_timestamp_seconds=None)
    empty = replace(WELL, metrics=under_way, series=0, sampled=[], able={}, nights={}, by_level={
        day_type: [[0] * 5] * 24 for day_type in ("weekday", "weekend")
    })  # fmt: skip
    failing = [line for line in lines(empty) if line.outcome is Outcome.FAIL]
    assert {line.name for line in failing} == {
        "history", "weekdays", "weekends", "03:00 weekday", "03:00 weekend", "levels",
    }  # fmt: skip
    assert {line.advice for line in failing} == {"history is still being read: verify again when backfill is complete"}


def test_nor_is_it_then_to_read_further_back() -> None:
    some = {day_type: [[1, 1, 0, 0, 8]] * 24 for day_type in ("weekday", "weekend")}
    little = replace(
        WELL,
        metrics=metrics(backfill_complete=0),
        by_level=some,
        able={"weekday": 1, "weekend": 1},
        sampled=[judged(1)] * 8 + [judged(5)] * 32,
    )
    found = said(little)
    for name in ("weekdays", "weekends", "03:00 weekday", "03:00 weekend", "levels"):
        assert found[name].outcome is Outcome.WARN
        assert found[name].advice == "history is still being read: verify again when backfill is complete"


def test_while_tempo_is_away_the_advice_is_to_mend_that() -> None:
    away = metrics(backfill_complete=0, tempo_up=0, series=0, backfill_oldest_trace_timestamp_seconds=None)
    found = said(replace(WELL, metrics=away))
    for name in ("tempo", "history", "series"):
        assert found[name].outcome is Outcome.FAIL
        assert found[name].advice.startswith("Tempo must answer first")


class TestSample:
    def test_it_is_the_same_every_time_whatever_the_order(self) -> None:
        keys = [SeriesKey("svc", f"GET /{number}") for number in range(500)]
        chosen = sample(keys)
        assert sample(reversed(keys)) == chosen
        assert len({key for key, _ in chosen}) == len(chosen) == 40
        # Hours of the whole week.
        assert len({hours // 24 for _, hours in chosen}) == 7

    def test_few_series_come_several_times_at_different_hours(self) -> None:
        chosen = sample([KEY])
        assert len(chosen) == 40
        assert len({hours % 168 for _, hours in chosen}) > 20
        assert sample([]) == []


def test_it_asks_for_metrics_that_exist() -> None:
    documented = {name.partition("{")[0] for name in GOOD}
    assert documented <= set(METRICS)


class TestCommand:
    @pytest.mark.parametrize(
        "arguments",
        [["--url", "localhost:9817"], ["--url", "http://"], ["--url", "http://u:p@x"], ["--url", "http://[", "--json"],
         ["--user", "x"], ["--user", "x", "--password-file", "missing"], ["--ca-file", "missing"]],
    )  # fmt: skip
    def test_mistakes(self, arguments: list[str]) -> None:
        result = CliRunner().invoke(main, ["verify", *arguments])
        assert result.exit_code == 2

    def test_nobody_there(self) -> None:
        result = CliRunner().invoke(main, ["verify", "--url", "http://127.0.0.1:1", "--json"])
        assert result.exit_code == 1
        found = json.loads(result.stdout)
        assert (found["passed"], found["totals"]) == (False, {"PASS": 0, "WARN": 0, "FAIL": 1})
        assert found["checks"][0]["detail"] == (
            "http://127.0.0.1:1 cannot be reached (connection refused): is the exporter running, and is --url right?"
        )

    @pytest.mark.parametrize("body", [b"hello", b"<html>", b"[]", b"{}"])
    def test_something_else_answers(self, body: bytes) -> None:
        with fake_tempo() as server:
            server.answer(replying(body))
            result = CliRunner().invoke(main, ["verify", "--url", server.url])
        assert result.exit_code == 1
        assert "is this the exporter?" in result.stdout
        assert "0 PASS, 0 WARN, 1 FAIL" in result.stdout
