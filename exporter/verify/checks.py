"""The checks: each returns results that PASS, WARN or FAIL, with advice."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from http import HTTPStatus
from typing import Final

from exporter.config.units import format_duration
from exporter.model.span import FOLDED_NAME
from exporter.runtime.terminal import printable
from exporter.verify.state import NIGHT_HOUR, ExporterState

_FRESH_SECONDS: Final = 60
_STALE_SECONDS: Final = 300
_MAX_FAILURE_RATIO: Final = 0.01
_MIN_FAILURES: Final = 10
"""Fewer failures are ignored, even if they are a large share of all requests: Tempo often rejects counts."""
_MAX_PARTIAL_RATIO: Final = 0.1
"""Share of partial windows among those read up to which a backfill passes."""
_MIN_COVERAGE: Final = 0.99
_MAX_EMPTY_SECONDS: Final = 24 * 3600
_MAX_EMPTY_RATIO: Final = 0.25
"""The share of the wanted history that may have no traces at its start, because of quiet nights."""
_MAX_ROOTLESS_RATIO: Final = 0.01
_MIN_SERIES_RATIO: Final = 0.8
_MIN_SOURCE_TRAFFIC: Final = 0.6
"""That of the alert TempoAnomalySourceTrafficLow."""
_MAX_NAMED: Final = 5
_LEVEL_UNAVAILABLE: Final = 5


class Outcome(StrEnum):
    """Outcome of a check."""

    PASS = "PASS"  # noqa: S105 - a word, no secret
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of one check.

    Attributes:
        name: the check.
        outcome: PASS, WARN or FAIL.
        detail: what was observed.
        advice: what to do; empty if nothing.
    """

    name: str
    outcome: Outcome
    detail: str
    advice: str = ""


def run_checks(state: ExporterState) -> list[CheckResult]:
    """Run all checks, in the order in which their results are best read."""
    checks: Sequence[Callable[[ExporterState], Iterator[CheckResult]]] = (
        _health,
        _tempo,
        _freshness,
        _live_edge,
        _backfill,
        _retention,
        _completeness,
        _rootless,
        _saturation,
        _series,
        _failures,
        _traffic,
        _hours,
        _nights,
        _levels,
        _storage,
        _configuration,
        _marks,
    )
    return [result for check in checks for result in check(state)]


def _health(state: ExporterState) -> Iterator[CheckResult]:
    if state.healthy.status == HTTPStatus.OK:
        version = next(iter(state.metrics.by_label("build_info", "version")), "unknown")
        yield CheckResult("health", Outcome.PASS, f"the process is up, version {version}")
    else:
        yield CheckResult(
            "health", Outcome.FAIL, f"/-/healthy returned {state.healthy.status}", "see the exporter's log"
        )
    if state.ready.status == HTTPStatus.OK:
        yield CheckResult("ready", Outcome.PASS, "metrics can be scraped")
    else:
        yield CheckResult(
            "ready", Outcome.FAIL, state.ready.text or f"/-/ready returned {state.ready.status}", _CHECK_TEMPO
        )


_CHECK_TEMPO: Final = (
    "make sure that Tempo answers: see the exporter's log, and check tempo.url, tempo.tenant and credentials"
)


def _tempo(state: ExporterState) -> Iterator[CheckResult]:
    requests, failures = (
        state.metrics.total("tempo_requests_total"),
        state.metrics.total("tempo_request_failures_total"),
    )
    share = failures / requests if requests else 0.0
    counts = f"{requests:,.0f} requests, {failures:,.0f} failed"
    reasons = Counter(state.metrics.by_label("tempo_request_failures_total", "reason"))
    worst = next((reason for reason, count in reasons.most_common(1) if count), "")
    if state.metrics.get("tempo_up") != 1:
        yield CheckResult("tempo", Outcome.FAIL, f"Tempo did not answer the last request ({counts})", _CHECK_TEMPO)
    elif share > _MAX_FAILURE_RATIO and failures >= _MIN_FAILURES:
        advice = f"most failed with reason {worst}: see the exporter's log" if worst else ""
        yield CheckResult(
            "tempo", Outcome.WARN, f"Tempo answers, but {share:.1%} of requests failed ({counts})", advice
        )
    else:
        yield CheckResult("tempo", Outcome.PASS, f"Tempo answers ({counts})")


def _freshness(state: ExporterState) -> Iterator[CheckResult]:
    evaluated_at = state.metrics.get("snapshot_timestamp_seconds")
    if evaluated_at is None:
        yield CheckResult("freshness", Outcome.FAIL, "current traffic has not been evaluated yet", _CHECK_TEMPO)
        return
    age = max(0.0, state.healthy.server_time - evaluated_at)
    detail = f"current traffic was evaluated {age:,.0f} s ago"
    if age <= _FRESH_SECONDS:
        yield CheckResult("freshness", Outcome.PASS, detail)
    elif age <= _STALE_SECONDS:
        advice = "polling.tempo_interval is long, or Tempo is slow: see tempo_anomaly_poll_duration_seconds"
        yield CheckResult("freshness", Outcome.WARN, detail, advice)
    else:
        yield CheckResult("freshness", Outcome.FAIL, detail, _CHECK_TEMPO)


_CHECK_CONDITIONS: Final = (
    "check tempo.tenant, tempo.filter and tempo.scope: event=backfill_empty in the log says what a search without "
    "filter and scope finds"
)


def _live_edge(state: ExporterState) -> Iterator[CheckResult]:
    blind = state.metrics.get("live_edge_blind")
    if blind:
        advice = (
            "raise polling.tempo_lookback above the lag (event=live_edge_blind in the log names it), and "
            "detection.window if the lag exceeds it; without a lag, check whether traces reach Tempo, and the clocks"
        )
        detail = "reading works, but next to nothing of the usual traffic is current"
        yield CheckResult("current traffic", Outcome.FAIL, detail, advice)
    elif blind is not None:
        yield CheckResult("current traffic", Outcome.PASS, "traffic is found while it is current")


def _backfill(state: ExporterState) -> Iterator[CheckResult]:
    metrics = state.metrics
    if metrics.get("backfill_enabled") != 1:
        advice = "set polling.backfill_enabled: true, or baselines do not change any more"
        yield CheckResult("backfill", Outcome.WARN, "backfill is disabled", advice)
        return
    windows = metrics.by_label("backfill_windows", "state")
    wanted, pending, failed = sum(windows.values()), windows.get("pending", 0), windows.get("failed", 0)
    ratio = metrics.get("backfill_progress_ratio") or 0.0
    by_state = ", ".join(f"{count:,.0f} {name}" for name, count in sorted(windows.items()) if count)
    detail = f"{ratio:.0%} of {wanted:,.0f} windows ({by_state or 'none'})"
    if failed:
        advice = "failed windows are retried automatically; the exporter's log says why they failed"
        outcome = Outcome.WARN if windows.get("done", 0) else Outcome.FAIL
        yield CheckResult("backfill", outcome, detail, advice)
    elif metrics.get("backfill_complete") != 1:
        advice = f"{pending:,.0f} windows are not read yet; run verify again when backfill is complete"
        yield CheckResult("backfill", Outcome.WARN, detail, advice)
    elif metrics.get("backfill_empty"):
        yield CheckResult("backfill", Outcome.WARN, f"{detail}: Tempo returned no traces at all", _CHECK_CONDITIONS)
    elif (partial := windows.get("partial", 0)) > _MAX_PARTIAL_RATIO * (partial + windows.get("done", 0)):
        advice = "partial windows lack traces: the exporter's log says why (event=window_truncated)"
        yield CheckResult("backfill", Outcome.WARN, detail, advice)
    else:
        yield CheckResult("backfill", Outcome.PASS, detail)


def _wait_advice(state: ExporterState) -> str:
    """Return advice for too little history while backfill is not complete; empty once it is."""
    metrics = state.metrics
    if metrics.get("backfill_enabled") != 1 or metrics.get("backfill_complete") == 1:
        return ""
    if metrics.get("tempo_up") != 1:
        return _CHECK_TEMPO
    return "history is still being read: run verify again when backfill is complete"


def _retention(state: ExporterState) -> Iterator[CheckResult]:
    metrics = state.metrics
    oldest = metrics.get("backfill_oldest_trace_timestamp_seconds")
    expired = metrics.by_label("backfill_windows", "state").get("expired", 0)
    if oldest is None:
        advice = (
            _CHECK_CONDITIONS
            if metrics.get("backfill_empty")
            else "check that tempo.filter matches traces, and that Tempo has traces older than polling.settle"
        )
        yield CheckResult("history", Outcome.FAIL, "no traces are stored", _wait_advice(state) or advice)
        return
    # Rounded down: the oldest trace is a little younger than the start of its window.
    hours = max(1, int((state.healthy.server_time - oldest) / 3600))
    back = format_duration(timedelta(hours=hours))
    detail = f"{metrics.get('history_traces') or 0:,.0f} traces, back to {back} ago"
    if expired:
        advice = (
            f"Tempo's retention seems to be {hours} h ({expired:,.0f} windows are older): set "
            f"polling.backfill_duration: {hours}h"
        )
        yield CheckResult("history", Outcome.WARN, detail, advice)
    elif empty_hours := _hours_without_traces(state, oldest):
        advice = (
            "Tempo may keep traces no longer than that, or there was no traffic then, or none that matches "
            f"tempo.filter. If it is Tempo's retention, set polling.backfill_duration: {hours}h"
        )
        detail = f"{detail}; Tempo had none for the {empty_hours} h of wanted history before"
        yield CheckResult("history", Outcome.WARN, detail, advice)
    else:
        yield CheckResult("history", Outcome.PASS, detail)


def _hours_without_traces(state: ExporterState, oldest: float) -> int:
    """Return for how many hours the wanted history has no traces at its start; 0 if no longer than a quiet night."""
    wanted_since = state.metrics.get("backfill_wanted_since_timestamp_seconds")
    if wanted_since is None or state.metrics.get("backfill_complete") != 1:
        return 0
    empty_seconds = oldest - wanted_since
    allowed = min(_MAX_EMPTY_SECONDS, (state.healthy.server_time - wanted_since) * _MAX_EMPTY_RATIO)
    return int(empty_seconds / 3600) if empty_seconds >= max(3600.0, allowed) else 0


def _completeness(state: ExporterState) -> Iterator[CheckResult]:
    metrics = state.metrics
    coverage, unsampled = metrics.get("backfill_coverage_ratio"), metrics.get("backfill_unsampled_coverage_ratio")
    late = metrics.get("backfill_late_windows") or 0
    checked_again = f"{late:,.0f} windows lack, or may lack, traces that Tempo received later, and are checked again"
    if coverage is None:
        if late:
            yield CheckResult("coverage", Outcome.PASS, f"not known yet: {checked_again}")
        return
    sampled = metrics.get("backfill_sampled_windows") or 0
    detail = f"{coverage:.1%} of the traces in the windows that were read"
    if late:
        detail += f"; {checked_again}"
    if sampled:
        detail += f"; {sampled:,.0f} windows exceed polling.max_traces_per_window and were sampled on purpose"
    if unsampled is None or unsampled >= _MIN_COVERAGE:
        yield CheckResult("coverage", Outcome.PASS, detail)
        return
    if sampled:
        detail += f"; {unsampled:.1%} in the others"
    if metrics.by_label("backfill_windows", "state").get("partial", 0):
        advice = "raise tempo.limit, so that the busiest seconds can be read completely"
    elif metrics.by_label("traces_skipped_total", "reason").get("span_limit", 0):
        advice = (
            "some traces have more spans in scope than Tempo returns of one trace and service: see the exporter's log "
            "(event=spans_missing)"
        )
    else:
        advice = (
            "Tempo counts more traces than it returned: if traces reach it later than polling.late, raise that. Traces "
            "that are delivered twice are counted twice; then nothing is missing"
        )
    yield CheckResult("coverage", Outcome.WARN, detail, advice)


def _rootless(state: ExporterState) -> Iterator[CheckResult]:
    """Check which share of all traces scope `root` cannot see; with scope `entry` there is no such share."""
    ratio = state.metrics.get("rootless_traces_ratio")
    if ratio is None:
        return
    detail = f"{ratio:.1%} of the traces have no root span in Tempo, and tempo.scope: root does not read them"
    if ratio > _MAX_ROOTLESS_RATIO:
        advice = (
            "set tempo.scope: entry, with another storage.path: then every service is watched, regardless of "
            "gateways in front of it"
        )
        yield CheckResult("scope", Outcome.WARN, detail, advice)
    else:
        yield CheckResult("scope", Outcome.PASS, detail)


def _saturation(state: ExporterState) -> Iterator[CheckResult]:
    """Check what searches could not return. Of history the ledger knows it, also what was read before a restart."""
    metrics = state.metrics
    partial = metrics.by_label("backfill_windows", "state").get("partial", 0)
    polls = metrics.by_label("search_truncated_windows_total", "loop").get("poll", 0)
    detail = (
        f"{metrics.total('search_saturations_total'):,.0f} searches hit their limit, "
        f"{metrics.total('search_splits_total'):,.0f} were split; incomplete: {partial:,.0f} windows of history, "
        f"{polls:,.0f} polls"
    )
    if partial or polls:
        loops = " and ".join(loop for loop, count in (("backfill", partial), ("poll", polls)) if count)
        advice = f"raise tempo.limit ({loops}), and query_frontend.search.max_result_limit in Tempo if it is lower"
        yield CheckResult("saturation", Outcome.WARN, detail, advice)
    else:
        yield CheckResult("saturation", Outcome.PASS, detail)


def _series(state: ExporterState) -> Iterator[CheckResult]:
    metrics = state.metrics
    series, limit, dropped = (
        metrics.get("series") or 0,
        metrics.get("series_limit") or 0,
        metrics.total("series_dropped_total"),
    )
    learning = metrics.get("series_learning") or 0
    detail = f"{series:,.0f} endpoints (limit {limit:,.0f}), {learning:,.0f} still learning"
    if not series:
        advice = "no endpoints were found: check tempo.scope, tempo.filter and series.include"
        yield CheckResult("series", Outcome.FAIL, detail, _wait_advice(state) or advice)
    elif dropped:
        advice = "raise series.max, or use series.rename to merge names that contain ids"
        yield CheckResult("series", Outcome.WARN, f"{detail}, {dropped:,.0f} left out", advice)
    else:
        yield CheckResult("series", Outcome.PASS, detail)
    folded = sorted(metrics.by_label("series_folded_total", "service_name"))
    if folded:
        rest = len(folded) - _MAX_NAMED
        names = ", ".join(map(printable, folded[:_MAX_NAMED])) + (f" and {rest:,} more" if rest > 0 else "")
        advice = (
            "merge names that contain ids with series.rename (event=service_folded in the log has examples), or raise "
            "series.max_per_service"
        )
        detail = f"further span names share one endpoint, {FOLDED_NAME}, for {names}"
        yield CheckResult("span names", Outcome.WARN, detail, advice)


def _failures(state: ExporterState) -> Iterator[CheckResult]:
    """Check whether it is known how many requests fail, now and in the history."""
    metrics = state.metrics
    judged = metrics.count("anomalous", kind="shift")
    read, usual = metrics.count("error_traces_total"), metrics.count("baseline_error_ratio")
    if not read and not usual:
        if judged:
            detail = "whether requests fail is not read (detection.errors.enabled: false)"
            yield CheckResult("failures", Outcome.PASS, detail)
        return
    detail = f"the usual error ratio of {usual:,} of {judged:,} endpoints with a verdict is known"
    if judged and not read:
        advice = "Tempo returns no status of spans: it is older than 2.5, or another exporter runs at --url"
        yield CheckResult("failures", Outcome.WARN, f"{detail}, but not whether current requests fail", advice)
    elif usual < _MIN_SERIES_RATIO * judged:
        advice = (
            "how many requests failed is unknown in history that was read by an older version or with another "
            "detection.errors.when: wait for new history, or set storage.path to a new file to read it again"
        )
        yield CheckResult("failures", Outcome.WARN, detail, advice)
    else:
        yield CheckResult("failures", Outcome.PASS, detail)


def _traffic(state: ExporterState) -> Iterator[CheckResult]:
    """Check where the counts of requests come from, and whether the source has its usual traffic."""
    metrics = state.metrics
    ratio, judged = metrics.get("source_traffic_ratio"), metrics.count("baseline_traces")
    detail = f"the usual traffic of {judged:,} endpoints is known"
    if ratio is not None:
        detail += f", all together have {ratio:.0%} of theirs"
    available = metrics.get("source_counts_available")
    if available is not None:
        counts = "Tempo counts requests" if available else "Tempo does not count requests, so those read are counted"
        detail += f"; {counts}"
    if ratio is not None and ratio < _MIN_SOURCE_TRAFFIC:
        advice = (
            "Tempo or a collector loses traces, the sampling has changed, or all services have less traffic: "
            "no endpoint is flagged for it"
        )
        yield CheckResult("traffic", Outcome.WARN, detail, advice)
    elif judged or available is not None:
        yield CheckResult("traffic", Outcome.PASS, detail)


def _hours(state: ExporterState) -> Iterator[CheckResult]:
    """Check how many endpoints have a baseline, by day type; the worst hour counts."""
    for day_type, hours in state.by_level.items():
        known = [sum(levels) - levels[_LEVEL_UNAVAILABLE - 1] for levels in hours]
        worst = min(range(len(hours)), key=known.__getitem__, default=0)
        share = known[worst] / state.series if state.series else 0.0
        exact = sum(levels[0] for levels in hours) / max(1, sum(map(sum, hours)))
        detail = (
            f"at every hour at least {share:.0%} of {state.series:,} endpoints have a baseline (fewest at "
            f"{worst:02d}:00), {exact:.0%} from the exact hour"
        )
        if not known[worst]:
            detail = f"at {worst:02d}:00 no endpoint has a baseline" if state.series else "no endpoint has history"
            advice = "raise polling.backfill_duration, or enable fallback levels 2 to 4 (fallback.*)"
            yield CheckResult(f"{day_type}s", Outcome.FAIL, detail, _wait_advice(state) or advice)
        elif share < _MIN_SERIES_RATIO:
            advice = "new or rare endpoints take time; a longer polling.backfill_duration helps"
            yield CheckResult(f"{day_type}s", Outcome.WARN, detail, _wait_advice(state) or advice)
        else:
            yield CheckResult(f"{day_type}s", Outcome.PASS, detail)


def _nights(state: ExporterState) -> Iterator[CheckResult]:
    for day_type in state.by_level:
        name = f"{NIGHT_HOUR:02d}:00 {day_type}"
        mature, night = state.mature_at_night.get(day_type, 0), state.nights.get(day_type)
        detail = f"{mature:,} of {state.series:,} endpoints could be flagged"
        if night is not None and not night.has_shift_verdict:
            advice = "history is not evaluated yet: wait a few minutes, then run verify again"
            yield CheckResult(name, Outcome.FAIL, f"{detail} once history is evaluated", _wait_advice(state) or advice)
        elif not mature or night is None:
            advice = f"there is too little history of {day_type}s: raise polling.backfill_duration"
            yield CheckResult(name, Outcome.FAIL, "no endpoint could be flagged", _wait_advice(state) or advice)
        elif mature < _MIN_SERIES_RATIO * state.series:
            advice = "the others have too few traces or days of history; this improves with time"
            yield CheckResult(name, Outcome.WARN, detail, _wait_advice(state) or advice)
        else:
            yield CheckResult(name, Outcome.PASS, detail)


def _levels(state: ExporterState) -> Iterator[CheckResult]:
    """Check the fallback levels of sampled endpoints and hours."""
    counts = Counter(sample.level for sample in state.samples)
    total = sum(counts.values())
    by_level = ", ".join(f"{counts[level]} on level {level}" for level in range(1, _LEVEL_UNAVAILABLE + 1))
    detail = f"of {total} sampled endpoints and hours {by_level}"
    known = total - counts[_LEVEL_UNAVAILABLE]
    if not known:
        advice = "no verdict is possible: raise polling.backfill_duration"
        yield CheckResult(
            "levels", Outcome.FAIL, detail if total else "no endpoint to sample", _wait_advice(state) or advice
        )
    elif known < _MIN_SERIES_RATIO * total:
        advice = "level 5 means no verdict; a longer polling.backfill_duration or lower minimums (fallback.*) help"
        yield CheckResult("levels", Outcome.WARN, detail, _wait_advice(state) or advice)
    else:
        yield CheckResult("levels", Outcome.PASS, detail)


def _storage(state: ExporterState) -> Iterator[CheckResult]:
    failures = {
        reason: count for reason, count in state.metrics.by_label("storage_failures_total", "reason").items() if count
    }
    if failures:
        counts = ", ".join(f"{count:,.0f} {reason}" for reason, count in sorted(failures.items()))
        yield CheckResult(
            "storage", Outcome.WARN, f"reads or writes of the database failed ({counts})", "see the exporter's log"
        )
    else:
        yield CheckResult("storage", Outcome.PASS, "no read or write of the database failed")


def _configuration(state: ExporterState) -> Iterator[CheckResult]:
    """Check whether the exporter works with the configuration that its files have now."""
    metrics = state.metrics
    loaded_at = metrics.get("config_last_reload_success_timestamp_seconds")
    if loaded_at is None:
        return
    age = timedelta(seconds=max(0, round((state.healthy.server_time - loaded_at) / 60)) * 60)
    files = {"config": "the configuration", "web_config": "web.config_file"}
    rejected = [name for file, name in files.items() if metrics.get(f"{file}_last_reload_successful") == 0]
    if rejected:
        detail = f"the last reload of {' and '.join(rejected)} was rejected; what was valid before is in use"
        advice = "see event=config_invalid or event=web_config_invalid in the log; a restart would fail"
        yield CheckResult("configuration", Outcome.WARN, detail, advice)
    else:
        yield CheckResult(
            "configuration", Outcome.PASS, f"loaded {format_duration(age)} ago" if age else "loaded just now"
        )


def _marks(state: ExporterState) -> Iterator[CheckResult]:
    """Check what people have marked, if there is anything."""
    counts = {source: count for source, count in state.metrics.by_label("marks", "source").items() if count}
    detail = ", ".join(f"{count:,.0f} from {_MARK_SOURCES.get(source, source)}" for source, count in counts.items())
    if state.metrics.get("marks_last_reload_successful") == 0:
        yield CheckResult(
            "marks",
            Outcome.WARN,
            f"marks_file is invalid; marks in use: {detail or 'none'}",
            "see event=marks_file_invalid in the log",
        )
    elif counts:
        yield CheckResult("marks", Outcome.PASS, detail)


_MARK_SOURCES: Final = {
    "configuration": "the configuration",
    "file": "marks_file",
    "api": "the API",
    "alertmanager": "silences of Alertmanager",
}
