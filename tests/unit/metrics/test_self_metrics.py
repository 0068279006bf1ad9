import math
import re
import subprocess
from itertools import product

import pytest

from exporter.cause.verdict import Outcome
from exporter.evaluation.snapshot import HistoryFacts, SeriesStatus, Snapshot
from exporter.runtime.telemetry import (
    CAUSE_OUTCOMES,
    FAILURE_REASONS,
    LOOPS,
    SKIP_REASONS,
    STORAGE_FAILURES,
    VERSION_OUTCOMES,
)
from tests.support.programs import program
from tests.support.samples import KEY, NOON, baseline
from tests.support.whole_page import WholePage

PER_SERIES = {
    "baseline_p50_seconds": "gauge",
    "baseline_p95_seconds": "gauge",
    "baseline_mad_seconds": "gauge",
    "baseline_samples": "gauge",
    "baseline_windows": "gauge",
    "baseline_fallback_level": "gauge",
    "outlier_threshold_seconds": "gauge",
    "current_p50_seconds": "gauge",
    "current_p95_seconds": "gauge",
    "current_traces": "gauge",
    "current_error_ratio": "gauge",
    "baseline_error_ratio": "gauge",
    "error_score": "gauge",
    "errors_since_timestamp_seconds": "gauge",
    "traffic_since_timestamp_seconds": "gauge",
    "baseline_traces": "gauge",
    "traffic_ratio": "gauge",
    "score": "gauge",
    "anomalous": "gauge",
    "anomalous_since_timestamp_seconds": "gauge",
    "regression_ratio": "gauge",
    "regression_began_timestamp_seconds": "gauge",
    "regression_began_uncertainty_seconds": "gauge",
    "regression_version_info": "gauge",
    "alert_severity": "gauge",
    "shift_cause_pending": "gauge",
    "shift_cause_ratio": "gauge",
    "incident_info": "gauge",
    "traces_total": "counter",
    "error_traces_total": "counter",
    "outlier_traces_total": "counter",
    "excess_traces_total": "counter",
    "excess_seconds_total": "counter",
}
PER_SERVICE = {
    "service_shift_ratio": set(),
    "service_shift_limit_ratio": set(),
    "service_anomalous": {"kind"},
}
"""Gauges of services, with their labels besides the name of the service."""
OWN = {
    "build_info": ("gauge", {"version", "python_version"}),
    "tempo_up": ("gauge", set()),
    "tempo_requests_total": ("counter", {"loop"}),
    "tempo_request_failures_total": ("counter", {"loop", "reason"}),
    "tempo_request_duration_seconds": ("histogram", {"loop", "le"}),
    "search_saturations_total": ("counter", {"loop"}),
    "search_splits_total": ("counter", {"loop"}),
    "search_truncated_windows_total": ("counter", {"loop"}),
    "search_sampled_windows_total": ("counter", {"loop"}),
    "source_counts_available": ("gauge", set()),
    "rootless_traces_ratio": ("gauge", set()),
    "traces_read_total": ("counter", {"loop"}),
    "traces_skipped_total": ("counter", {"loop", "reason"}),
    "poll_last_success_timestamp_seconds": ("gauge", set()),
    "poll_duration_seconds": ("gauge", set()),
    "poll_coverage_ratio": ("gauge", set()),
    "poll_read_amplification_ratio": ("gauge", set()),
    "span_searchable_delay_seconds": ("histogram", {"le"}),
    "source_traffic_ratio": ("gauge", set()),
    "live_edge_blind": ("gauge", set()),
    "backfill_enabled": ("gauge", set()),
    "backfill_complete": ("gauge", set()),
    "backfill_progress_ratio": ("gauge", set()),
    "backfill_windows": ("gauge", {"state"}),
    "backfill_coverage_ratio": ("gauge", set()),
    "backfill_unsampled_coverage_ratio": ("gauge", set()),
    "backfill_sampled_windows": ("gauge", set()),
    "backfill_late_windows": ("gauge", set()),
    "backfill_empty": ("gauge", set()),
    "backfill_wanted_since_timestamp_seconds": ("gauge", set()),
    "history_traces": ("gauge", set()),
    "history_windows": ("gauge", set()),
    "backfill_oldest_trace_timestamp_seconds": ("gauge", set()),
    "backfill_started_timestamp_seconds": ("gauge", set()),
    "backfill_completed_timestamp_seconds": ("gauge", set()),
    "series": ("gauge", set()),
    "series_limit": ("gauge", set()),
    "series_dropped_total": ("counter", set()),
    "series_folded_total": ("counter", {"service_name"}),
    "series_streams": ("gauge", set()),
    "series_by_fallback_level": ("gauge", {"level"}),
    "series_learning": ("gauge", set()),
    "quarantined_windows": ("gauge", set()),
    "baseline_shifts_accepted_total": ("counter", set()),
    "search_by_id_available": ("gauge", set()),
    "cause_attempts_total": ("counter", {"outcome"}),
    "regression_version_attempts_total": ("counter", {"outcome"}),
    "cause_duration_seconds": ("histogram", {"le"}),
    "cause_pending": ("gauge", set()),
    "marks": ("gauge", {"source"}),
    "marks_last_reload_successful": ("gauge", set()),
    "marks_last_reload_success_timestamp_seconds": ("gauge", set()),
    "silence_read_failures_total": ("counter", set()),
    "storage_size_bytes": ("gauge", set()),
    "storage_failures_total": ("counter", {"reason"}),
    "snapshot_timestamp_seconds": ("gauge", set()),
    "snapshot_build_duration_seconds": ("gauge", set()),
    "clock_jumps_total": ("counter", set()),
    "config_last_reload_successful": ("gauge", set()),
    "config_last_reload_success_timestamp_seconds": ("gauge", set()),
    "web_config_last_reload_successful": ("gauge", set()),
    "web_config_last_reload_success_timestamp_seconds": ("gauge", set()),
    "web_unauthorized_total": ("counter", set()),
}
"""All metrics with type and labels: users have built alerts on them."""

P = "tempo_anomaly_"
FURTHER_LABELS = {
    "anomalous": {"kind"},
    "alert_severity": {"severity"},
    "shift_cause_ratio": {"cause", "cause_service_name", "cause_span_name"},
    "incident_info": {"incident", "role"},
    "regression_version_info": {"version"},
}


class TestContract:
    def test_the_page_has_exactly_these_metrics(self) -> None:
        types = {
            name.removeprefix(P): family.type
            for name, family in WholePage.full().families().items()
            if not name.startswith("process_")
        }
        own = {name: kind for name, (kind, _) in OWN.items()}
        assert types == PER_SERIES | dict.fromkeys(PER_SERVICE, "gauge") | own

    def test_labels(self) -> None:
        families = WholePage.full().families()
        for name, (_, labels) in OWN.items():
            assert {label for sample in families[P + name].samples for label in sample.labels} == labels, name
        for name in PER_SERIES:
            further = FURTHER_LABELS.get(name, set())
            for sample in families[P + name].samples:
                assert set(sample.labels) == {"service_name", "span_name", *further}, name

        for name, labels in PER_SERVICE.items():
            for sample in families[P + name].samples:
                assert set(sample.labels) == {"service_name", *labels}, name

    def test_no_value_is_nan(self) -> None:
        values = {**WholePage.full().values(), **WholePage().values()}
        assert [key for key, value in values.items() if math.isnan(value)] == []

    def test_every_family_has_a_help_sentence(self) -> None:
        for name, family in WholePage.full().families().items():
            assert re.fullmatch(r"[A-Z0-9].+\.", family.documentation), name

    def test_promtool_has_no_complaint(self) -> None:
        checked = subprocess.run(
            [program("promtool"), "check", "metrics"],
            input=WholePage.full().get().body,
            capture_output=True,
            timeout=60,
        )
        found = (checked.stdout + checked.stderr).decode()
        # The process metrics are named by the client library.
        assert [line for line in found.splitlines() if not line.startswith("process_")] == []


class TestInitialState:
    def test_known_label_sets_start_at_zero(self) -> None:
        values = WholePage().values()
        expected = {
            *(
                (f"{P}{name}_total", loop)
                for name in (
                    "tempo_requests", "search_saturations", "search_splits", "search_truncated_windows", "traces_read",
                    "search_sampled_windows",
                )
                for loop in LOOPS
            ),
            *product([f"{P}tempo_request_failures_total"], LOOPS, FAILURE_REASONS),
            *product([f"{P}traces_skipped_total"], LOOPS, SKIP_REASONS),
            *product([f"{P}storage_failures_total"], STORAGE_FAILURES),
            *product([f"{P}cause_attempts_total"], CAUSE_OUTCOMES),
            *product([f"{P}regression_version_attempts_total"], VERSION_OUTCOMES),
            *product([f"{P}tempo_request_duration_seconds_count"], LOOPS),
            (f"{P}baseline_shifts_accepted_total",),
        }  # fmt: skip
        assert {key: value for key, value in values.items() if key in expected} == dict.fromkeys(expected, 0.0)

    def test_values_of_closed_label_sets(self) -> None:
        assert LOOPS == ("poll", "backfill", "api", "cause", "version")
        assert {each.value for each in Outcome} == set(CAUSE_OUTCOMES)
        assert {"outside_window", "duplicate", "invalid", "filtered", "series_limit"} <= set(SKIP_REASONS)
        assert len(set(FAILURE_REASONS)) == len(FAILURE_REASONS)

    def test_unknown_values_are_absent(self) -> None:
        names = {name.removeprefix(P) for name in WholePage().families() if name.startswith(P)}
        assert names == {
            name
            for name in OWN
            if not name.startswith(
                (
                    "backfill_",
                    "history_",
                    "poll_",
                    "snapshot_",
                    "quarantined_",
                    "series",
                    "config_",
                    "web_config_",
                    "marks_last_",
                )
            )
            and name
            not in (
                "storage_size_bytes",
                "source_counts_available",
                "search_by_id_available",
                "rootless_traces_ratio",
                "live_edge_blind",
                "source_traffic_ratio",
            )
        } | {"backfill_enabled", "series_limit", "series_dropped_total", "series_folded_total"}

    def test_tempo_is_down_until_it_answers(self) -> None:
        assert WholePage().values()[P + "tempo_up",] == 0

    def test_build_info_has_the_versions(self) -> None:
        (name,) = [key for key in WholePage().values() if key[0] == P + "build_info"]
        assert re.fullmatch(r"\d+\.\d+\.\d+.*", name[2])
        assert re.fullmatch(r"3\.\d+\.\d+.*", name[1])

    def test_counters_have_no_created_series(self) -> None:
        assert "_created" not in WholePage.full().text()


class TestEvents:
    def test_events_are_counted_by_loop_and_reason(self) -> None:
        page = WholePage()
        metrics = page.metrics
        metrics.request("poll", 0.2)
        metrics.request("poll", 40.0)
        metrics.request_failed("backfill", "timeout")
        metrics.tempo_answered(True)
        metrics.saturated("api")
        metrics.split("backfill")
        metrics.truncated("poll")
        metrics.sampled("backfill")
        metrics.traces_read("poll", 70)
        metrics.traces_skipped("poll", "duplicate", 60)
        metrics.storage_failed("full")
        metrics.shift_accepted()
        before, after = WholePage().values(), page.values()
        grown = {key: after[key] - before[key] for key in before if after[key] != before[key] and key[0].startswith(P)}
        expected: dict[tuple[str, ...], float] = {
            (P + "tempo_requests_total", "poll"): 2,
            (P + "tempo_request_duration_seconds_count", "poll"): 2,
            (P + "tempo_request_duration_seconds_sum", "poll"): 40.2,
            **{(P + "tempo_request_duration_seconds_bucket", le, "poll"): 1
               for le in ("0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "30.0")},
            (P + "tempo_request_duration_seconds_bucket", "+Inf", "poll"): 2,
            (P + "tempo_request_failures_total", "backfill", "timeout"): 1,
            (P + "tempo_up",): 1,
            (P + "search_saturations_total", "api"): 1,
            (P + "search_splits_total", "backfill"): 1,
            (P + "search_truncated_windows_total", "poll"): 1,
            (P + "search_sampled_windows_total", "backfill"): 1,
            (P + "traces_read_total", "poll"): 70,
            (P + "traces_skipped_total", "poll", "duplicate"): 60,
            (P + "storage_failures_total", "full"): 1,
            (P + "baseline_shifts_accepted_total",): 1,
        }  # fmt: skip
        assert grown == expected

    def test_source_counts_available_appears_once_known(self) -> None:
        page = WholePage()
        for available in (False, True):
            page.metrics.source_counts_available(available)
            assert page.values()[P + "source_counts_available",] == available

    def test_tempo_up_returns_to_zero(self) -> None:
        page = WholePage()
        page.metrics.tempo_answered(True)
        page.metrics.tempo_answered(False)
        assert page.values()[P + "tempo_up",] == 0


class TestState:
    def test_baseline_metrics_are_absent_while_baselines_are_computed(self) -> None:
        values = WholePage(
            Snapshot(NOON, series=(SeriesStatus(KEY, is_baseline_known=False),), has_baselines=False)
        ).values()
        names = {name.removeprefix(P) for name, *_ in values}
        assert names & (PER_SERIES.keys() | {"series_by_fallback_level", "series_learning"}) == {
            "traces_total",
            "outlier_traces_total",
        }
        assert values[P + "series",] == 1

    def test_ledger(self) -> None:
        values = WholePage.full().values()
        assert {key[1:]: value for key, value in values.items() if key[0] == P + "backfill_windows"} == {
            ("pending",): 10, ("done",): 120, ("empty",): 20, ("partial",): 2, ("failed",): 1, ("expired",): 15,
        }  # fmt: skip
        assert values[P + "backfill_enabled",] == 1
        assert values[P + "backfill_complete",] == 0
        assert values[P + "backfill_progress_ratio",] == pytest.approx(157 / 168)
        assert values[P + "backfill_coverage_ratio",] == 0.99
        assert values[P + "backfill_unsampled_coverage_ratio",] == pytest.approx(888 / 890)
        assert values[P + "backfill_sampled_windows",] == 3
        assert values[P + "backfill_late_windows",] == 4
        assert values[P + "backfill_wanted_since_timestamp_seconds",] == NOON - 7 * 86400 - 3600
        assert values[P + "backfill_started_timestamp_seconds",] == NOON - 60
        assert values[P + "backfill_completed_timestamp_seconds",] == NOON - 10

    def test_without_backfill_its_metrics_are_absent(self) -> None:
        values = WholePage(Snapshot(NOON)).values()
        assert {key[0]: value for key, value in values.items() if "backfill_" in key[0] and len(key) == 1} == {
            P + "backfill_enabled": 0
        }

    def test_history(self) -> None:
        values = WholePage.full().values()
        assert values[P + "history_windows",] == 168
        assert values[P + "history_traces",] == 1_000_000
        assert values[P + "backfill_oldest_trace_timestamp_seconds",] == NOON - 7 * 86400
        assert values[P + "storage_size_bytes",] == 4_194_304
        assert values[P + "quarantined_windows",] == 3

    def test_an_empty_history_has_no_oldest_trace(self) -> None:
        values = WholePage(Snapshot(NOON, history=HistoryFacts())).values()
        assert (P + "backfill_oldest_trace_timestamp_seconds",) not in values
        assert (P + "storage_size_bytes",) not in values

    def test_snapshot_and_series(self) -> None:
        values = WholePage.full().values()
        assert values[P + "series",] == 3
        assert values[P + "series_limit",] == 100
        assert values[P + "series_dropped_total",] == 4
        assert values[P + "series_folded_total", "scanned"] == 2
        assert values[P + "series_learning",] == 1
        assert [values[P + "series_by_fallback_level", str(level)] for level in range(1, 6)] == [1, 0, 0, 1, 1]
        assert values[P + "snapshot_timestamp_seconds",] == NOON + 0.25
        assert values[P + "poll_last_success_timestamp_seconds",] == NOON + 0.25
        assert values[P + "poll_duration_seconds",] == 0.5
        assert values[P + "poll_read_amplification_ratio",] == 2.5
        assert values[P + "snapshot_build_duration_seconds",] == 0.125

    def test_a_snapshot_without_evaluation_has_no_timestamp(self) -> None:
        values = WholePage(Snapshot(None, series=(SeriesStatus(KEY, baseline()),))).values()
        assert values[P + "series",] == 1
        assert (P + "snapshot_timestamp_seconds",) not in values
        assert (P + "poll_last_success_timestamp_seconds",) not in values
        assert (P + "poll_duration_seconds",) not in values
        assert (P + "poll_read_amplification_ratio",) not in values

    def test_delays_are_a_histogram(self) -> None:
        page = WholePage()
        page.metrics.searchable_delays({0.5: 10, 2.5: 2, 10.5: 4})
        page.metrics.searchable_delays({10.5: 1, 9999.5: 1})
        values = page.values()
        name = P + "span_searchable_delay_seconds"
        assert [values[name + "_bucket", le] for le in ("1.0", "2.5", "5.0", "10.0", "15.0", "900.0", "+Inf")] == [
            *(10, 12, 12, 12, 17, 17, 18)
        ]
        assert values[name + "_count",] == 18
        assert values[name + "_sum",] == pytest.approx(5 + 5 + 5 * 10.5 + 9999.5)

    def test_state_is_read_at_each_scrape(self) -> None:
        page = WholePage()
        assert (P + "series",) not in page.values()
        page.publisher.publish(Snapshot(NOON))
        assert page.values()[P + "series",] == 0
