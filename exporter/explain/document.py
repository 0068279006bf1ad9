"""JSON documents of the explanations, the same from the API and the command line. docs/api.md describes every key.

A key keeps its name and meaning within an API version; new keys may be added. Instants are Unix seconds, durations are
seconds, shares are ratios, and unknown values are null. Where the name of a key was not the term of the glossary, the
value now has a second key with that term, and the old key remains as an alias.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from exporter.baseline.availability import SlotAvailability
from exporter.baseline.levels import Baseline, FallbackLevel
from exporter.detection.errors.verdict import ErrorExplanation
from exporter.detection.explanation import Explanation
from exporter.detection.flag import FlagKind
from exporter.detection.policy import SeriesPolicy
from exporter.detection.regression.verdict import Regression
from exporter.detection.streams import StreamReason
from exporter.evaluation.query import BaselineReport, SlotBaseline
from exporter.evaluation.regression_version import RegressionVersion
from exporter.evaluation.snapshot import SeriesStatus, ServiceStatus
from exporter.evaluation.timeline import PointState, Timeline, TimelinePoint, TimelineRange, heat_map
from exporter.evaluation.timeline_query import SlotSignals, UsualProfile
from exporter.explain.cause import cause_summary
from exporter.explain.check import Check, DurationVerdict
from exporter.explain.trace import TraceExplanation, trace_sentence
from exporter.explain.words import LEVEL_NAMES, check_sentence, service_sentence
from exporter.model.calendar import Calendar, DayType, Slot
from exporter.model.critical_path import CriticalPath, PathStep, TraceSpan
from exporter.model.histogram import bucket_upper_seconds
from exporter.model.span import SeriesKey
from exporter.model.time_mark import MarkRange, TimeMark

Json = dict[str, Any]

_NS: Final = 1_000_000_000
_MAX_MARKS: Final = 50
_MAX_STEPS: Final = 200
"""A critical path can have as many steps as the trace has spans; the document holds the longest."""


def baseline_document(report: BaselineReport, calendar: Calendar) -> Json:
    """The baseline of a series for one hour."""
    baseline = report.baseline
    return {
        **report.key.fields,
        **_kind(report.stream),
        **_policy(report.policy),
        "hour": {
            "start_unix": report.hour.start,
            "end_unix": report.hour.end,
            "local": calendar.local(report.hour.start).isoformat(),
            "timezone": str(calendar.zone),
        },
        **_slot(report.hour.slot),
        "known_until_unix": report.known_until,
        "level": int(report.level),
        "level_name": LEVEL_NAMES[report.level],
        "baseline": None
        if baseline is None
        else {
            **_baseline(baseline),
            "pooled_hours": [{"start_unix": hour.start, "traces": hour.traces} for hour in report.hours],
        },
        "outlier_threshold_seconds": report.outlier_threshold_seconds,
        "shift_thresholds": [
            {
                "quantile": each.quantile,
                **_baseline_seconds(each.baseline_seconds),
                "swing_factor": each.swing_factor,
                "limit_seconds": each.limit_seconds,
                "pattern_factor": each.pattern_factor,
                "pattern_minutes": [list(stretch) for stretch in each.pattern_minutes],
            }
            for each in report.shift
        ],
        "run_thresholds": None
        if report.runs is None
        else {
            "past_runs": report.runs.past_runs,
            **_baseline_seconds(report.runs.usual_seconds),
            "swing_factor": report.runs.swing_factor,
            "limit_seconds": report.runs.slow_seconds,
            "far_limit_seconds": report.runs.far_seconds,
            "longest_run_seconds": report.runs.longest_seconds,
        },
        "error_thresholds": None
        if report.errors is None
        else {
            "baseline_error_ratio": report.errors.ratio,
            "limit_error_ratio": report.errors.limit_ratio,
            "swing_error_ratio": report.errors.swing_ratio,
            "level": int(report.errors.level),
            "traces": report.errors.traces,
            "windows": report.errors.windows,
        },
        "traffic_thresholds": None
        if report.traffic is None
        else {
            "usual_requests": report.traffic.requests,
            "low_requests": report.traffic.low_requests if report.traffic.is_judged else None,
            "level": int(report.traffic.level),
            "windows": report.traffic.windows,
        },
        "no_shift_verdict": None if report.no_verdict is None else report.no_verdict.value,
        "levels": [
            {
                "level": int(each.level),
                "level_name": LEVEL_NAMES[each.level],
                "needed_traces": each.needed,
                "traces": each.traces,
                "windows": each.hours,
                "mature": each.mature,
            }
            for each in report.supply
        ],
        "kept_out_hours_unix": list(report.kept_out),
        **_changepoint(report.changepoint),
        **_regression(report.regression, report.regression_version, is_compared=report.is_compared),
        "marks": mark_ranges_document(report.marks),
    }


def mark_document(mark: TimeMark) -> Json:
    """A mark on time; its instants are those of the first range."""
    return {
        "id": mark.id or None,
        "as": mark.kind.value,
        "match": mark.match_text,
        "start_unix": mark.start,
        "end_unix": mark.end,
        "rrule": mark.rule or None,
        "comment": mark.comment or None,
        "source": mark.source.value,
    }


def mark_ranges_document(ranges: Sequence[MarkRange]) -> list[Json]:
    """The latest of the ranges that marks have in some time."""
    return [
        {**mark_document(each.mark), "start_unix": each.start, "end_unix": each.end} for each in ranges[-_MAX_MARKS:]
    ]


def check_document(check: Check, calendar: Calendar) -> Json:
    """The result of checking an endpoint."""
    return {
        "at_unix": check.at,
        "present": check.is_present,
        **baseline_document(check.report, calendar),
        "duration": None if check.duration is None else _duration(check.duration),
        "now": None if check.status is None else _now(check.status),
        "sentence": check_sentence(check, calendar),
    }


def profile_document(usual: UsualProfile) -> Json:
    """The baselines of a series for all 48 slots, with its usual failures and traffic."""
    profile = usual.profile
    return {
        **profile.key.fields,
        **_changepoint(profile.changepoint),
        "slots": [_slot_baseline(*each) for each in zip(profile.slots, usual.signals, strict=True)],
    }


def timeline_document(timeline: Timeline, range_: TimelineRange) -> Json:
    """The recent past of a series: points against the usual of their hours, flags, and the heat map of durations."""
    heat = heat_map(timeline)
    return {
        **timeline.key.fields,
        "range": range_.value,
        "start_unix": timeline.start,
        "end_unix": timeline.end,
        "step_seconds": timeline.step_seconds,
        **_changepoint(timeline.changepoint),
        "points": [_point(point) for point in timeline.points],
        "flags": [
            {"flag": flag.kind.value, "since_unix": flag.since, "until_unix": flag.until} for flag in timeline.flags
        ],
        "marks": mark_ranges_document(timeline.marks),
        "heat_map": {
            "bounds_seconds": [bucket_upper_seconds(bucket) for bucket in heat.bounds],
            "counts": [list(column) for column in heat.counts],
        },
    }


_ORIGINS: Final = {PointState.READ: "history", PointState.CURRENT: "live_edge", PointState.UNREAD: None}


def _point(point: TimelinePoint) -> Json:
    baseline = point.usual.baseline
    return {
        "start_unix": point.start,
        "end_unix": point.end,
        "origin": _ORIGINS[point.state],
        "traces": point.traces,
        "observed_p50_seconds": point.p50_seconds,
        "observed_p95_seconds": point.p95_seconds,
        "baseline": None
        if baseline is None
        else {"level": int(baseline.level), "p50_seconds": baseline.p50_seconds, "p95_seconds": baseline.p95_seconds},
        "failures": point.failures,
        "error_ratio": point.error_ratio,
        "baseline_error_ratio": point.usual.error_ratio,
        "total_requests": point.requests,
        "usual_requests": point.usual_requests,
        "quarantined": point.is_quarantined,
        "errors_quarantined": point.is_error_quarantined,
    }


def series_document(status: SeriesStatus) -> Json:
    """The current status of a series."""
    return {
        **status.key.fields,
        **_kind(status.stream),
        **_policy(status.policy),
        "state": state_of(status),
        "level": None if status.level is None else int(status.level),
        "level_name": None if status.level is None else LEVEL_NAMES[status.level],
        "baseline": None if status.baseline is None else _baseline(status.baseline),
        "outlier_threshold_seconds": status.outlier_threshold_seconds,
        **_changepoint(status.changepoint),
        **_regression(status.regression, status.regression_version, is_compared=status.regressed is not None),
        "marks": mark_ranges_document(status.marks),
        **_now(status),
    }


def traffic_document(status: SeriesStatus) -> Json | None:
    """The current traffic of a series against the usual; None while that is unknown and no flag fires."""
    current, flag = status.current_traffic, status.of_kind(FlagKind.TRAFFIC)
    if current is None and not flag.firing:
        return None
    evidence = None if current is None else current.verdict.evidence
    return {
        "anomalous": flag.firing,
        "since_unix": flag.since,
        "usual_requests": None if current is None else current.usual,
        "ratio": None if evidence is None else evidence.ratio,
        "window_seconds": None if evidence is None else evidence.seconds,
        "source_ratio": None if evidence is None else evidence.source,
        "sentence": None if evidence is None else str(evidence),
    }


def state_of(status: SeriesStatus) -> str:
    """The state of a series; of several that apply, the worst."""
    if status.shift:
        return "shifted"
    if status.of_kind(FlagKind.ERRORS).firing:
        return "failing"
    if status.of_kind(FlagKind.TRAFFIC).firing:
        return "unusual_traffic"
    if status.outlier:
        return "outlier"
    if not status.is_enabled:
        return "disabled"
    if status.stream is not None:
        return "stream"
    if status.level is FallbackLevel.UNAVAILABLE:
        return "unavailable"
    if status.learning:
        return "learning"
    return "unjudged" if status.shift is None else "usual"


STATES: Final = (
    "shifted",
    "failing",
    "unusual_traffic",
    "outlier",
    "disabled",
    "stream",
    "unavailable",
    "learning",
    "unjudged",
    "usual",
)
"""All states that :func:`state_of` returns."""


def availability_document(key: SeriesKey, standings: Mapping[Slot, SlotAvailability]) -> Json:
    """The fallback level of a series in each of the 48 slots; lists begin at midnight."""
    return {
        **key.fields,
        "level_by_hour": {
            day_type.value: [int(standings[Slot(hour, day_type)].level) for hour in range(24)] for day_type in DayType
        },
        "learning_hours": {
            day_type.value: [
                hour
                for hour in range(24)
                for standing in (standings[Slot(hour, day_type)],)
                if standing.level is not FallbackLevel.UNAVAILABLE and not standing.mature
            ]
            for day_type in DayType
        },
        "traces_by_hour": {
            day_type.value: [standings[Slot(hour, day_type)].traces for hour in range(24)] for day_type in DayType
        },
    }


def level_counts_document(available: Mapping[SeriesKey, Mapping[Slot, SlotAvailability]]) -> Json:
    """How many series are on each fallback level in each of the 48 slots: lists of five counts, from midnight on."""
    counts = {day_type: [[0] * len(FallbackLevel) for _ in range(24)] for day_type in DayType}
    for standings in available.values():
        for slot, standing in standings.items():
            counts[slot.day_type][slot.hour][standing.level - 1] += 1
    return {day_type.value: hours for day_type, hours in counts.items()}


def trace_document(trace: TraceExplanation, calendar: Calendar) -> Json:
    """The critical path of a trace."""
    path = trace.path
    longest_first = sorted(range(len(path.steps)), key=lambda position: (-path.steps[position].self_ns, position))
    steps = [path.steps[position] for position in sorted(longest_first[:_MAX_STEPS])]
    return {
        "trace_id": trace.trace_id,
        **trace.key.fields,
        "root": _span(path.root, path),
        "spans": path.spans,
        "services": [
            {
                "service_name": service,
                "self_seconds": nanoseconds / _NS,
                "share": path.share(nanoseconds),
            }
            for service, nanoseconds in path.services
        ],
        "critical_path": [_step(step, path) for step in steps],
        "critical_path_steps": len(path.steps),
        "longest_spans": [_span(span, path) for span in path.longest],
        "oddities": {
            "roots": path.oddities.roots,
            "missing_parents": path.oddities.missing_parents,
            "in_cycles": path.oddities.in_cycles,
            "duplicates": path.oddities.duplicates,
            "elsewhere": path.oddities.elsewhere,
            "not_waited_for": path.oddities.not_waited_for,
            "moved": path.oddities.moved,
        },
        "check": None if trace.check is None else check_document(trace.check, calendar),
        "sentence": trace_sentence(trace, calendar),
    }


def _kind(stream: StreamReason | None) -> Json:
    """What the spans of a series are, and if they are no requests, how that is known."""
    return {
        "kind": "request" if stream is None else "stream",
        "stream_reason": None if stream is None else stream.value,
    }


def _policy(policy: SeriesPolicy | None) -> Json:
    """Whether a series gets verdicts, the severity of its alerts, and the settings that overrides give it."""
    return {
        "enabled": policy is None or policy.is_enabled,
        "severity": None if policy is None else policy.severity,
        "overrides": []
        if policy is None
        else [{"key": each.key, "value": each.text, "override": each.override} for each in policy.applied],
    }


def _regression(regression: Regression | None, found: RegressionVersion | None, *, is_compared: bool) -> Json:
    """Whether the last days are slower than the weeks before, since when, and with which version that began."""
    return {
        "regressed": regression is not None if is_compared else None,
        "regression": None
        if regression is None
        else {
            "raised_at_unix": regression.raised_at,
            "began_after_unix": regression.began_after,
            "began_before_unix": regression.began_before,
            "quantile": regression.quantile,
            "ratio": regression.ratio,
            "before_seconds": regression.before_seconds,
            "hours": regression.hours,
            "deviations": regression.deviations,
            "version_outcome": None if found is None else found.outcome,
            "version": (found.version or None) if found is not None else None,
            "version_before": (found.before or None) if found is not None else None,
        },
    }


# Values with an alias: the term of the glossary first, then the name that the API had at first.


def _slot(slot: Slot) -> Json:
    document = {"hour": slot.hour, "day_type": slot.day_type.value, "name": str(slot)}
    return {"slot": document, "bucket": document}


def _changepoint(changepoint: int | None) -> Json:
    return {"changepoint_unix": changepoint, "epoch_unix": changepoint}


def _baseline_seconds(seconds: float) -> Json:
    return {"baseline_seconds": seconds, "usual_seconds": seconds}


def evaluated_at(instant: float | None) -> Json:
    """When the live edge was last evaluated."""
    return {"evaluated_at_unix": instant, "judged_at_unix": instant}


def _baseline(baseline: Baseline) -> Json:
    return {
        "level": int(baseline.level),
        "mature": baseline.mature,
        "windows": baseline.windows,
        "samples": baseline.count,
        "p50_seconds": baseline.p50_seconds,
        "p95_seconds": baseline.p95_seconds,
        "mad_seconds": baseline.mad_seconds,
    }


def _slot_baseline(slot: SlotBaseline, signals: SlotSignals) -> Json:
    level = FallbackLevel.UNAVAILABLE if slot.baseline is None else slot.baseline.level
    return {
        **_slot(slot.slot),
        "level": int(level),
        "baseline": None if slot.baseline is None else _baseline(slot.baseline),
        "outlier_threshold_seconds": slot.outlier_threshold_seconds,
        "own_traces": slot.traces,
        "own_windows": slot.hours,
        "baseline_error_ratio": signals.error_ratio,
        "usual_requests": signals.requests,
    }


def _duration(verdict: DurationVerdict) -> Json:
    return {
        "seconds": verdict.seconds,
        "outlier": verdict.is_outlier,
        "threshold_ratio": verdict.threshold_ratio,
        "p50_ratio": verdict.p50_ratio,
        "p95_ratio": verdict.p95_ratio,
        "slower_traces": verdict.slower_traces,
    }


def _now(status: SeriesStatus) -> Json:
    exemplar = status.exemplar
    return {
        "current_traces": status.current_traces,
        "current_p50_seconds": status.current_p50_seconds,
        "current_p95_seconds": status.current_p95_seconds,
        "shifted": status.shift,
        "shifted_since_unix": status.since,
        "score": status.score,
        "time_lost": None
        if status.time_lost is None
        else {
            "requests": status.time_lost.requests,
            "seconds": status.time_lost.seconds,
            "since_unix": status.time_lost.since,
        },
        "errors": _errors(status),
        "traffic": traffic_document(status),
        "excess_traces_total": status.excess_traces_total,
        "excess_seconds_total": status.excess_seconds_total,
        "outlier": status.outlier,
        "last_outlier": None
        if exemplar is None
        else {"trace_id": exemplar.trace_id, "seconds": exemplar.seconds, "at_unix": exemplar.at},
        "explanation": None if status.explanation is None else explanation_document(status.explanation),
        "shift_cause": None if status.cause is None else cause_summary(status.cause),
        "service_shift": None if status.service is None else _service_shift(status.service),
    }


def _service_shift(service: ServiceStatus) -> Json:
    """The shift of a service as a whole."""
    verdict = service.verdict
    return {
        "since_unix": service.since,
        "service_ratio": None if verdict is None else verdict.ratio,
        "service_limit_ratio": None if verdict is None else verdict.threshold_ratio,
        "compared_endpoints": None if verdict is None else verdict.endpoints,
        "sentence": service_sentence(service),
    }


def _errors(status: SeriesStatus) -> Json:
    """The failed requests of the evaluation window, and the verdict on them."""
    found = status.of_kind(FlagKind.ERRORS)
    explanation = found.explanation
    return {
        "anomalous": found.firing,
        "since_unix": found.since,
        "score": found.score,
        "failures": status.current_failures,
        "error_ratio": status.current_error_ratio,
        "baseline_error_ratio": status.baseline_error_ratio,
        "explanation": {
            "sentence": str(explanation),
            "traces": explanation.requests,
            "failures": explanation.failures,
            "allowed": explanation.allowed,
            "baseline_error_ratio": explanation.usual_ratio,
            "limit_error_ratio": explanation.limit_ratio,
            "swing_error_ratio": explanation.swing_ratio,
            "expected_error_ratio": explanation.expected_ratio,
            "chance": explanation.chance,
        }
        if isinstance(explanation, ErrorExplanation)
        else None,
    }


def explanation_document(explanation: Explanation) -> Json:
    """The evidence for a shift."""
    return {
        "sentence": str(explanation),
        "quantile": explanation.quantile,
        "traces": explanation.traces,
        "slow": explanation.slow,
        "allowed": explanation.allowed,
        "limit_seconds": explanation.limit_seconds,
        **_baseline_seconds(explanation.baseline_seconds),
        "current_seconds": explanation.current_seconds,
        "swing_factor": explanation.swing_factor,
        "chance": explanation.chance,
        "test": explanation.test.value.replace(" ", "_"),
        "pattern_factor": explanation.pattern_factor,
        "pattern_minutes": [list(stretch) for stretch in explanation.pattern_minutes],
        "level_factor": explanation.level_factor,
        "run_seconds": list(explanation.run_seconds),
        "longest_run_seconds": explanation.longest_run_seconds,
        "correlation": explanation.correlation,
        "traffic_ratio": explanation.traffic_ratio,
    }


def _span(span: TraceSpan, path: CriticalPath) -> Json:
    return {
        "service_name": span.service_name,
        "span_name": span.name,
        "span_id": span.span_id,
        "kind": span.kind,
        "error": span.error,
        "start_unix": span.start_ns / _NS,
        "begins_seconds": (span.start_ns - path.root.start_ns) / _NS,
        "duration_seconds": span.duration_ns / _NS,
    }


def _step(step: PathStep, path: CriticalPath) -> Json:
    return {
        **_span(step.span, path),
        "begins_seconds": step.begins_ns / _NS,
        "depth": step.depth,
        "self_seconds": step.self_ns / _NS,
        "share": path.share(step.self_ns),
    }
