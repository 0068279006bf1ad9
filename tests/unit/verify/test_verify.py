"""The checks of ``verify``, sampling, and the command."""

import json
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from exporter.cli.main import main
from exporter.model.span import SeriesKey
from exporter.verify.checks import CheckResult, Outcome, run_checks
from exporter.verify.client import Metrics, Probe
from exporter.verify.state import METRICS, BaselineCheck, ExporterState, sample
from tests.support.samples import HOUR, KEY, NOON
from tests.support.tempo_server import fake_tempo, replying

SAMPLES = {
    'build_info{version="1.2.3",python_version="3.11"}': 1,
    "tempo_up": 1,
    'tempo_requests_total{loop="poll"}': 900,
    'tempo_requests_total{loop="backfill"}': 100,
    'tempo_request_failures_total{loop="poll",reason="timeout"}': 0,
    "snapshot_timestamp_seconds": NOON - 12,
    "live_edge_blind": 0,
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
    "backfill_late_windows": 0,
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
    **{f'anomalous{{kind="shift",span_name="{number}"}}': 0 for number in range(5)},
    **{f'error_traces_total{{span_name="{number}"}}': 3 for number in range(5)},
    **{f'baseline_error_ratio{{span_name="{number}"}}': 0.004 for number in range(4)},
    'baseline_traces{span_name="0"}': 120,
    "source_counts_available": 1,
    "source_traffic_ratio": 0.97,
    "config_last_reload_successful": 1,
    "config_last_reload_success_timestamp_seconds": NOON - 3 * HOUR,
    'marks{source="configuration"}': 2,
    'marks{source="file"}': 1,
    'marks{source="api"}': 0,
    "marks_last_reload_successful": 1,
}
NO_FAILURES = {name: None for name in SAMPLES if name.startswith(("error_traces", "baseline_error"))}


def metrics(**changes: float | None) -> Metrics:
    """Return the metrics of a healthy exporter, with changes."""
    samples: dict[str, float | None] = {**SAMPLES, **changes}
    return Metrics("".join(f"tempo_anomaly_{name} {value}\n" for name, value in samples.items() if value is not None))


def baseline_check(level: int = 1, day_type: str = "weekday", *, has_shift_verdict: bool = True) -> BaselineCheck:
    return BaselineCheck(KEY, 3, day_type, level, has_shift_verdict)


HEALTHY = ExporterState(
    healthy=Probe(200, "", NOON),
    ready=Probe(200, "", NOON),
    metrics=metrics(),
    series=10,
    by_level={day_type: [[8, 1, 0, 0, 1]] * 24 for day_type in ("weekday", "weekend")},
    mature_at_night={"weekday": 9, "weekend": 8},
    samples=[baseline_check(1)] * 30 + [baseline_check(2)] * 6 + [baseline_check(5)] * 4,
    nights={day_type: baseline_check(1, day_type) for day_type in ("weekday", "weekend")},
)


def results_by_name(state: ExporterState) -> dict[str, CheckResult]:
    return {result.name: result for result in run_checks(state)}


def test_healthy_exporter_passes_all_checks() -> None:
    results = results_by_name(HEALTHY)
    assert {result.outcome for result in results.values()} == {Outcome.PASS}
    assert {result.advice for result in results.values()} == {""}
    assert results["health"].detail == "the process is up, version 1.2.3"
    assert results["tempo"].detail == "Tempo answers (1,000 requests, 0 failed)"
    assert results["freshness"].detail == "current traffic was evaluated 12 s ago"
    assert results["backfill"].detail == "100% of 168 windows (160 done, 8 empty)"
    assert results["history"].detail == "123,456 traces, back to 7d ago"
    assert results["03:00 weekend"].detail == "8 of 10 endpoints could be flagged"
    assert results["levels"].detail == (
        "of 40 sampled endpoints and hours 30 on level 1, 6 on level 2, 0 on level 3, 0 on level 4, 4 on level 5"
    )


@pytest.mark.parametrize(
    ("name", "changes", "outcome", "text"),
    [
        ("configuration", {}, "PASS", "loaded 3h ago"),
        ("configuration", {"config_last_reload_success_timestamp_seconds": NOON - 20}, "PASS", "loaded just now"),
        ("configuration", {"config_last_reload_successful": 0}, "WARN", "reload of the configuration was rejected"),
        ("configuration", {"web_config_last_reload_successful": 0}, "WARN", "reload of web.config_file was rejected"),
        ("marks", {}, "PASS", "2 from the configuration, 1 from marks_file"),
        ("marks", {"marks_last_reload_successful": 0}, "WARN", "marks_file is invalid; marks in use: 2 from the"),
        ("tempo", {"tempo_up": 0}, "FAIL", "check tempo.url"),
        (
            "tempo",
            {'tempo_request_failures_total{loop="poll",reason="timeout"}': 50},
            "WARN",
            "most failed with reason timeout",
        ),
        ("tempo", {'tempo_request_failures_total{loop="poll",reason="timeout"}': 10}, "PASS", "10 failed"),
        (
            # Tempo rejected some counts, and few other requests were sent yet.
            "tempo",
            {
                'tempo_requests_total{loop="poll"}': 20,
                'tempo_requests_total{loop="backfill"}': 30,
                'tempo_request_failures_total{loop="backfill",reason="server_error"}': 3,
            },
            "PASS",
            "Tempo answers (50 requests, 3 failed)",
        ),
        ("freshness", {"snapshot_timestamp_seconds": NOON - 61}, "WARN", "polling.tempo_interval"),
        ("freshness", {"snapshot_timestamp_seconds": NOON - 301}, "FAIL", "301 s ago"),
        ("freshness", {"snapshot_timestamp_seconds": None}, "FAIL", "not been evaluated yet"),
        ("backfill", {"backfill_empty": 1}, "WARN", "check tempo.tenant, tempo.filter and tempo.scope"),
        ("current traffic", {"live_edge_blind": 1}, "FAIL", "raise polling.tempo_lookback above the lag"),
        ("current traffic", {"live_edge_blind": 0}, "PASS", "found while it is current"),
        ("backfill", {"backfill_enabled": 0}, "WARN", "polling.backfill_enabled"),
        (
            "backfill",
            {"backfill_complete": 0, "backfill_progress_ratio": 0.25, 'backfill_windows{state="pending"}': 500},
            "WARN",
            "500 windows are not read yet",
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
        # No window counts as older than Tempo's retention, but the oldest ones have no traces.
        (
            "history",
            {"backfill_oldest_trace_timestamp_seconds": NOON - 100 * HOUR},
            "WARN",
            "back to 4d4h ago; Tempo had none for the 68 h of wanted history before",
        ),
        ("history", {"backfill_oldest_trace_timestamp_seconds": NOON - 145 * HOUR}, "PASS", "back to 6d1h ago"),
        (
            "history",
            {
                "backfill_wanted_since_timestamp_seconds": NOON - 12 * HOUR,
                "backfill_oldest_trace_timestamp_seconds": NOON - 9 * HOUR,
            },
            "WARN",
            "for the 3 h of wanted history before",
        ),
        # Stored history may be longer than wanted; and windows that are not read yet may have traces.
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
            "if traces reach it later than polling.late, raise that",
        ),
        (
            "coverage",
            {
                "backfill_coverage_ratio": 0.98,
                "backfill_unsampled_coverage_ratio": 0.98,
                'traces_skipped_total{loop="backfill",reason="span_limit"}': 7,
            },
            "WARN",
            "event=spans_missing",
        ),
        ("failures", {}, "PASS", "the usual error ratio of 4 of 5 endpoints with a verdict is known"),
        ("failures", {'baseline_error_ratio{span_name="0"}': None}, "WARN", "set storage.path to a new file"),
        (
            "failures",
            {name: None for name in NO_FAILURES if name.startswith("error_traces")},
            "WARN",
            "Tempo returns no status of spans",
        ),
        ("failures", NO_FAILURES, "PASS", "detection.errors.enabled: false"),
        ("traffic", {}, "PASS", "usual traffic of 1 endpoints is known, all together have 97% of theirs; Tempo counts"),
        ("traffic", {"source_counts_available": 0}, "PASS", "Tempo does not count requests"),
        ("traffic", {"source_traffic_ratio": None}, "PASS", "the usual traffic of 1 endpoints is known; Tempo counts"),
        ("traffic", {"source_traffic_ratio": 0.3}, "WARN", "the sampling has changed"),
        ("scope", {"rootless_traces_ratio": 0.0}, "PASS", "0.0% of the traces have no root span"),
        ("scope", {"rootless_traces_ratio": 0.123}, "WARN", "set tempo.scope: entry, with another storage.path"),
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
        ("coverage", {"backfill_late_windows": 3}, "PASS", "; 3 windows lack, or may lack, traces that Tempo received"),
        ("coverage", {"backfill_coverage_ratio": None, "backfill_late_windows": 3}, "PASS", "not known yet: 3 windows"),
        # Windows sampled on purpose need no action. Other missing traces are still reported.
        (
            "coverage",
            {"backfill_coverage_ratio": 0.2, "backfill_sampled_windows": 40},
            "PASS",
            "; 40 windows exceed polling.max_traces_per_window and were sampled on purpose",
        ),
        (
            "coverage",
            {"backfill_coverage_ratio": 0.2, "backfill_unsampled_coverage_ratio": None, "backfill_sampled_windows": 9},
            "PASS",
            "9 windows exceed",
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
        (
            "backfill",
            {'backfill_windows{state="partial"}': 100},
            "WARN",
            "the exporter's log says why (event=window_truncated)",
        ),
        ("backfill", {'backfill_windows{state="partial"}': 1}, "PASS", "1 partial"),
        ("saturation", {'search_truncated_windows_total{loop="poll"}': 2}, "WARN", "raise tempo.limit (poll)"),
        # Of history the ledger decides: after a restart the counters are 0.
        ("saturation", {'backfill_windows{state="partial"}': 1}, "WARN", "incomplete: 1 windows of history, 0 polls"),
        ("saturation", {'search_truncated_windows_total{loop="backfill"}': 5}, "PASS", "0 windows of history"),
        ("series", {"series": 0}, "FAIL", "tempo.filter"),
        ("series", {"series_dropped_total": 7}, "WARN", "7 left out"),
        ("span names", {'series_folded_total{service_name="scanned"}': 7}, "WARN", "{other}, for scanned"),
        ("storage", {'storage_failures_total{reason="full"}': 2}, "WARN", "2 full"),
    ],
)
def test_check_result_by_metrics(name: str, changes: dict[str, float | None], outcome: str, text: str) -> None:
    result = results_by_name(replace(HEALTHY, metrics=metrics(**changes)))[name]
    assert result.outcome == outcome
    assert text in f"{result.detail} {result.advice}"


@pytest.mark.parametrize(
    ("name", "changes", "outcome", "text"),
    [
        ("health", {"healthy": Probe(500, "", NOON)}, "FAIL", "returned 500"),
        ("ready", {"ready": Probe(503, "not ready: no traffic yet", NOON)}, "FAIL", "not ready: no traffic yet"),
        ("weekends", {"by_level": {"weekend": [[7, 0, 0, 0, 3]] * 24}}, "WARN", "at least 70% of 10"),
        (
            "weekdays",
            {"by_level": {"weekday": [[9, 0, 0, 0, 1]] * 4 + [[0, 0, 0, 0, 10]] + [[9, 0, 0, 0, 1]] * 19}},
            "FAIL",
            "at 04:00 no endpoint has a baseline",
        ),
        ("03:00 weekend", {"mature_at_night": {"weekday": 9, "weekend": 7}}, "WARN", "7 of 10"),
        ("03:00 weekend", {"mature_at_night": {}, "nights": {}}, "FAIL", "too little history of weekends"),
        (
            "03:00 weekday",
            {"nights": {"weekday": baseline_check(has_shift_verdict=False)}},
            "FAIL",
            "not evaluated yet",
        ),
        ("levels", {"samples": [baseline_check(5)] * 40}, "FAIL", "0 on level 1"),
        ("levels", {"samples": [baseline_check(5)] * 9 + [baseline_check(2)] * 31}, "WARN", "9 on level 5"),
        ("levels", {"samples": []}, "FAIL", "no endpoint to sample"),
    ],
)
def test_check_result_by_responses(name: str, changes: dict[str, Any], outcome: str, text: str) -> None:
    result = results_by_name(replace(HEALTHY, **changes))[name]
    assert result.outcome == outcome
    assert text in f"{result.detail} {result.advice}"


def test_failures_advise_waiting_while_history_is_read() -> None:
    incomplete = metrics(backfill_complete=0, backfill_oldest_trace_timestamp_seconds=None)
    empty = replace(HEALTHY, metrics=incomplete, series=0, samples=[], mature_at_night={}, nights={}, by_level={
        day_type: [[0] * 5] * 24 for day_type in ("weekday", "weekend")
    })  # fmt: skip
    failing = [result for result in run_checks(empty) if result.outcome is Outcome.FAIL]
    assert {result.name for result in failing} == {
        "history", "weekdays", "weekends", "03:00 weekday", "03:00 weekend", "levels",
    }  # fmt: skip
    assert {result.advice for result in failing} == {
        "history is still being read: run verify again when backfill is complete"
    }


def test_warnings_advise_waiting_while_history_is_read() -> None:
    by_level = {day_type: [[1, 1, 0, 0, 8]] * 24 for day_type in ("weekday", "weekend")}
    short_history = replace(
        HEALTHY,
        metrics=metrics(backfill_complete=0),
        by_level=by_level,
        mature_at_night={"weekday": 1, "weekend": 1},
        samples=[baseline_check(1)] * 8 + [baseline_check(5)] * 32,
    )
    results = results_by_name(short_history)
    for name in ("weekdays", "weekends", "03:00 weekday", "03:00 weekend", "levels"):
        assert results[name].outcome is Outcome.WARN
        assert results[name].advice == "history is still being read: run verify again when backfill is complete"


def test_failures_advise_checking_tempo_while_it_is_down() -> None:
    down = metrics(backfill_complete=0, tempo_up=0, series=0, backfill_oldest_trace_timestamp_seconds=None)
    results = results_by_name(replace(HEALTHY, metrics=down))
    for name in ("tempo", "history", "series"):
        assert results[name].outcome is Outcome.FAIL
        assert results[name].advice.startswith("make sure that Tempo answers")


class TestSample:
    def test_sample_does_not_depend_on_the_order(self) -> None:
        keys = [SeriesKey("svc", f"GET /{number}") for number in range(500)]
        samples = sample(keys)
        assert sample(reversed(keys)) == samples
        assert len({key for key, _ in samples}) == len(samples) == 40
        # The hours cover the whole week.
        assert len({hours // 24 for _, hours in samples}) == 7

    def test_sample_repeats_few_series_at_different_hours(self) -> None:
        samples = sample([KEY])
        assert len(samples) == 40
        assert len({hours % 168 for _, hours in samples}) > 20
        assert sample([]) == []


def test_tested_metrics_are_queried() -> None:
    documented = {name.partition("{")[0] for name in SAMPLES}
    assert documented <= set(METRICS)


class TestCommand:
    @pytest.mark.parametrize(
        "arguments",
        [["--url", "localhost:9817"], ["--url", "http://"], ["--url", "http://u:p@x"], ["--url", "http://[", "--json"],
         ["--user", "x"], ["--user", "x", "--password-file", "missing"], ["--ca-file", "missing"]],
    )  # fmt: skip
    def test_invalid_options_exit_with_2(self, arguments: list[str]) -> None:
        result = CliRunner().invoke(main, ["verify", *arguments])
        assert result.exit_code == 2

    def test_connection_refused_is_a_failed_check(self) -> None:
        result = CliRunner().invoke(main, ["verify", "--url", "http://127.0.0.1:1", "--json"])
        assert result.exit_code == 1
        results = json.loads(result.stdout)
        assert (results["passed"], results["totals"]) == (False, {"PASS": 0, "WARN": 0, "FAIL": 1})
        assert results["checks"][0]["detail"] == (
            "cannot connect to http://127.0.0.1:1 (connection refused). Check that the exporter is running and that "
            "--url is correct"
        )

    def test_https_to_a_server_without_tls_is_no_untrusted_certificate(self) -> None:
        with fake_tempo() as server:
            url = server.url.replace("http://", "https://")
            result = CliRunner().invoke(main, ["verify", "--url", url, "--json"])
        assert result.exit_code == 1
        assert json.loads(result.stdout)["checks"][0]["detail"] == (
            f"{url}: the TLS handshake failed; if the exporter has no TLS, begin --url with http://"
        )

    @pytest.mark.parametrize("body", [b"hello", b"<html>", b"[]", b"{}"])
    def test_foreign_response_is_a_failed_check(self, body: bytes) -> None:
        with fake_tempo() as server:
            server.answer(replying(body))
            result = CliRunner().invoke(main, ["verify", "--url", server.url])
        assert result.exit_code == 1
        assert "is this the exporter?" in result.stdout
        assert "0 PASS, 0 WARN, 1 FAIL" in result.stdout
