"""JSON documents of the explanations, the same from the API and the command line. docs/api.md describes every key.

A key keeps its name and meaning within an API version; new keys may be added. Instants are Unix seconds, durations are
seconds, shares are ratios, and unknown values are null. Where the name of a key was not the term of the glossary, the
value now has a second key with that term, and the old key remains as an alias.
"""

from collections.abc import Mapping
from typing import Any, Final

from exporter.baseline.availability import SlotAvailability
from exporter.baseline.levels import Baseline, FallbackLevel
from exporter.detection.explanation import Explanation
from exporter.evaluation.query import BaselineReport, Profile, SlotBaseline
from exporter.evaluation.snapshot import SeriesStatus
from exporter.explain.check import Check, DurationVerdict
from exporter.explain.trace import TraceExplanation, trace_sentence
from exporter.explain.words import LEVEL_NAMES, check_sentence
from exporter.model.calendar import Calendar, DayType, Slot
from exporter.model.critical_path import CriticalPath, PathStep, TraceSpan
from exporter.model.span import SeriesKey

Json = dict[str, Any]

_NS: Final = 1_000_000_000
_MAX_STEPS: Final = 200
"""A critical path can have as many steps as the trace has spans; the document holds the longest."""


def baseline_document(report: BaselineReport, calendar: Calendar) -> Json:
    """The baseline of a series for one hour."""
    baseline = report.baseline
    return {
        **_names(report.key),
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
            }
            for each in report.shift
        ],
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
    }


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


def profile_document(profile: Profile) -> Json:
    """The baselines of a series for all 48 slots."""
    return {
        **_names(profile.key),
        **_changepoint(profile.changepoint),
        "slots": [_slot_baseline(slot) for slot in profile.slots],
    }


def series_document(status: SeriesStatus) -> Json:
    """The current status of a series."""
    return {
        **_names(status.key),
        "state": state_of(status),
        "level": None if status.level is None else int(status.level),
        "level_name": None if status.level is None else LEVEL_NAMES[status.level],
        "baseline": None if status.baseline is None else _baseline(status.baseline),
        "outlier_threshold_seconds": status.outlier_threshold_seconds,
        **_changepoint(status.changepoint),
        **_now(status),
    }


def state_of(status: SeriesStatus) -> str:
    """The state of a series; of several that apply, the worst."""
    if status.shift:
        return "shifted"
    if status.outlier:
        return "outlier"
    if status.level is FallbackLevel.UNAVAILABLE:
        return "unavailable"
    if status.learning:
        return "learning"
    return "unjudged" if status.shift is None else "usual"


STATES: Final = ("shifted", "outlier", "unavailable", "learning", "unjudged", "usual")
"""All states that :func:`state_of` returns."""


def availability_document(key: SeriesKey, standings: Mapping[Slot, SlotAvailability]) -> Json:
    """The fallback level of a series in each of the 48 slots; lists begin at midnight."""
    return {
        **_names(key),
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
        **_names(trace.key),
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


def _names(key: SeriesKey) -> Json:
    return {"service_name": key.service_name, "span_name": key.span_name}


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


def _slot_baseline(slot: SlotBaseline) -> Json:
    level = FallbackLevel.UNAVAILABLE if slot.baseline is None else slot.baseline.level
    return {
        **_slot(slot.slot),
        "level": int(level),
        "baseline": None if slot.baseline is None else _baseline(slot.baseline),
        "outlier_threshold_seconds": slot.outlier_threshold_seconds,
        "own_traces": slot.traces,
        "own_windows": slot.hours,
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
        "outlier": status.outlier,
        "last_outlier": None
        if exemplar is None
        else {"trace_id": exemplar.trace_id, "seconds": exemplar.seconds, "at_unix": exemplar.at},
        "explanation": None if status.explanation is None else explanation_document(status.explanation),
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
