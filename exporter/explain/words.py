"""Sentences for people. Names are made printable, since span names may contain control characters."""

from collections.abc import Iterator, Sequence
from typing import Final

from exporter.baseline.levels import (
    MATURE_DAYS,
    MATURE_TRACES,
    MATURE_WINDOWS,
    FallbackLevel,
)
from exporter.detection.explanation import compared_with, duration
from exporter.evaluation.query import BaselineReport, LevelSupply, NoVerdict
from exporter.explain.check import Check, DurationVerdict
from exporter.model.calendar import HOUR_SECONDS, Calendar, DayType, Slot
from exporter.model.span import SeriesKey
from exporter.runtime.terminal import printable

LEVEL_NAMES: Final = {
    FallbackLevel.EXACT: "exact hour",
    FallbackLevel.NEARBY: "nearby hours",
    FallbackLevel.DAYTYPE: "type of day",
    FallbackLevel.GLOBAL: "everything",
    FallbackLevel.UNAVAILABLE: "unavailable",
}


def check_sentence(check: Check, calendar: Calendar) -> str:
    """Describe the result of checking an endpoint in one or more sentences."""
    return " ".join(_sentences(check, calendar))


def _sentences(check: Check, calendar: Calendar) -> Iterator[str]:
    report, name = check.report, series_name(check.report.key)
    if check.duration is not None:
        yield _duration_sentence(name, check.duration, report)
    elif report.baseline is None or report.outlier_threshold_seconds is None:
        yield f"Nothing is known of what is usual for {name} {slot_text(report.hour.slot)}."
    else:
        baseline = report.baseline
        yield (
            f"{name} usually takes {duration(baseline.p50_seconds)} (p50) to {duration(baseline.p95_seconds)} (p95) "
            f"{slot_text(report.hour.slot)}, {_pooled_from(report)}; a single trace above "
            f"{duration(report.outlier_threshold_seconds)} is an outlier."
        )
    reason = why_no_verdict(report)
    if reason:
        yield reason
    status = check.status
    if status is None:
        return
    if status.shift:
        since = "" if status.since is None else f" since {instant_text(status.since, calendar)}"
        yield f"Its latency is shifted{since}" + ("." if status.explanation is None else f": {status.explanation}")
    elif status.shift is not None:
        score = "" if status.score is None else f" (score {status.score:.2f}; 1 is where it matters)"
        yield f"Its latency as a whole is not shifted now{score}."


def _duration_sentence(name: str, verdict: DurationVerdict, report: BaselineReport) -> str:
    shown = duration(verdict.seconds)
    baseline, threshold = report.baseline, report.outlier_threshold_seconds
    if baseline is None or threshold is None or verdict.slower_traces is None:
        return f"Whether {shown} is much for {name} {slot_text(report.hour.slot)} cannot be told: there is no baseline."
    verb = "is an outlier" if verdict.is_outlier else "is no outlier"
    side = "above" if verdict.is_outlier else "not above"
    slower = f"{verdict.slower_traces:,}" if verdict.slower_traces else "none"
    ratio = "" if verdict.p50_ratio is None else f"{verdict.p50_ratio:.2g} × the usual median, and "
    return (
        f"{shown} {verb} for {name} {slot_text(report.hour.slot)}: it is {side} the threshold of {duration(threshold)} "
        f"(usual p50 {duration(baseline.p50_seconds)}, p95 {duration(baseline.p95_seconds)}); that is {ratio}"
        f"{slower} of the {baseline.count:,} traces that it is compared with took longer "
        f"({compared_with(baseline)}, level {baseline.level:d})."
    )


def _pooled_from(report: BaselineReport) -> str:
    if report.baseline is None:
        return ""
    return f"by {compared_with(report.baseline)} (level {report.level:d}, {report.baseline.count:,} traces)"


def why_no_verdict(report: BaselineReport) -> str:
    """Say why there is no verdict on a shift, and what to do; empty if there is a verdict."""
    match report.no_verdict:
        case None:
            return ""
        case NoVerdict.UNAVAILABLE:
            return _unavailable(report.supply)
        case NoVerdict.LEARNING:
            baseline = report.baseline
            so_far = "" if baseline is None else f", and so far there are {counted(baseline.windows, 'hour')}"
            return (
                f"It is still learning: a verdict on a shift takes {MATURE_TRACES} traces from {MATURE_WINDOWS} hours, "
                f"around the clock from {MATURE_DAYS} days{so_far}. Time helps, and so does a longer "
                "polling.backfill_duration where Tempo still has older traces."
            )
        case NoVerdict.NOT_EVALUATED:
            return (
                "There is no verdict on a shift, since the past is not judged up to this hour: an incident might stand "
                "in the baseline. It is once backfill has caught up (tempo_anomaly_backfill_progress_ratio)."
            )


def _unavailable(supply: Sequence[LevelSupply]) -> str:
    have = ", ".join(f"{LEVEL_NAMES[each.level]} {each.traces:,} of {each.needed:,} traces" for each in supply)
    switched_off = {*FallbackLevel} - {FallbackLevel.UNAVAILABLE} - {each.level for each in supply}
    enable = ", enable more levels (fallback.*_enabled)" if switched_off else ""
    return (
        f"It is at level 5, so there is no verdict: {have}. Wait for traffic, read further back "
        f"(polling.backfill_duration){enable}, or lower the minimums (stats.min_samples, fallback.*_min_samples)."
    )


def slot_text(slot: Slot) -> str:
    """Describe a slot, such as ``on weekdays 14–15 h``."""
    days = "on weekdays" if slot.day_type is DayType.WEEKDAY else "on weekend days"
    return f"{days} {slot.hour}–{(slot.hour + 1) % 24} h"


def series_name(key: SeriesKey) -> str:
    """Service and span name of a series, on one line."""
    return f"{printable(key.service_name) or '(no service)'} {printable(key.span_name) or '(no name)'}"


def instant_text(unix_seconds: float, calendar: Calendar) -> str:
    """Format an instant as local time, to the second."""
    return f"{calendar.local(unix_seconds):%Y-%m-%d %H:%M:%S %Z}"


def hour_ranges(starts: Sequence[int], calendar: Calendar) -> list[str]:
    """Join consecutive hours into ranges, such as ``2026-01-05 14:00–17:00``."""
    ranges: list[tuple[int, int]] = []
    for start in starts:
        if ranges and ranges[-1][1] == start:
            ranges[-1] = ranges[-1][0], start + HOUR_SECONDS
        else:
            ranges.append((start, start + HOUR_SECONDS))
    shown = []
    for start, end in ranges:
        begin, until = calendar.local(start), calendar.local(end)
        same_day = begin.date() == until.date()
        shown.append(f"{begin:%Y-%m-%d %H:%M}–" + (f"{until:%H:%M}" if same_day else f"{until:%Y-%m-%d %H:%M}"))
    return shown


def counted(number: int, noun: str) -> str:
    """A number and a noun, in the plural unless the number is 1."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
