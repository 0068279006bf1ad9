"""Explanations for a terminal: the facts, a few lines each, and a summary in sentences."""

import textwrap
from collections.abc import Iterable, Iterator
from typing import Final

from exporter.detection.explanation import compared_with, duration, minutes_text
from exporter.evaluation.query import BaselineReport
from exporter.explain.check import Check
from exporter.explain.trace import TraceExplanation, oddities, trace_sentence
from exporter.explain.words import (
    LEVEL_NAMES,
    check_sentence,
    counted,
    error_limits_text,
    hour_ranges,
    instant_text,
    mark_text,
    regression_measure,
    regression_reference,
    run_limits_text,
    series_name,
    traffic_limits_text,
)
from exporter.model.calendar import Calendar
from exporter.model.critical_path import CriticalPath, PathStep, TraceSpan
from exporter.runtime.terminal import printable

_NS: Final = 1_000_000_000
_LABEL: Final = 13
_WIDTH: Final = 110
_MOST_RANGES: Final = 12
_MOST_LINES: Final = 20
_NOTABLE_SHARE: Final = 0.01
"""Steps of the critical path with a smaller share are summed up in one line."""


def check_text(check: Check, calendar: Calendar) -> str:
    """Describe the result of checking an endpoint."""
    report = check.report
    begin, end = calendar.local(report.hour.start), calendar.local(report.hour.end)
    lines = [
        series_name(report.key),
        f"{begin:%A %Y-%m-%d %H:%M}–{end:%H:%M %Z}, {report.hour.slot.day_type} in the calendar",
        "",
        *_facts(report, calendar),
        "",
        *textwrap.wrap(check_sentence(check, calendar), _WIDTH),
    ]
    return "\n".join(lines)


def _facts(report: BaselineReport, calendar: Calendar) -> Iterator[str]:
    baseline = report.baseline
    if baseline is not None:
        yield _line(
            "usual",
            f"p50 {duration(baseline.p50_seconds)}, p95 {duration(baseline.p95_seconds)}, "
            f"MAD {duration(baseline.mad_seconds)}",
        )
        learning = "" if baseline.mature else ", still learning"
        yield _line("by", f"{compared_with(baseline)}: level {report.level:d}, {baseline.count:,} traces{learning}")
        yield from _listed("hours", hour_ranges([hour.start for hour in report.hours], calendar))
    if report.outlier_threshold_seconds is not None:
        yield _line("outlier", f"a single trace above {duration(report.outlier_threshold_seconds)}")
    for position, each in enumerate(report.shift):
        yield _line(
            "" if position else "shift",
            f"p{100 * each.quantile:g} above {duration(each.limit_seconds)} "
            f"(usually {duration(each.baseline_seconds)}; swings up to × {each.swing_factor:.2g} are usual"
            + (
                f"; at {minutes_text(each.pattern_minutes)} of the hour up to × {each.pattern_factor:.2g})"
                if each.pattern_minutes
                else ")"
            ),
        )
    if report.runs is not None:
        yield _line("shift", run_limits_text(report.runs))
    if report.errors is not None:
        yield _line("failures", error_limits_text(report.errors))
    if report.traffic is not None:
        yield _line("traffic", traffic_limits_text(report.traffic))
    if report.regression is not None:
        regression = report.regression
        yield _line(
            "regression",
            f"{regression_measure(regression)} {regression.ratio:.2f} × "
            f"{regression_reference(regression, 'the weeks before')}, began "
            f"{instant_text(regression.began_after, calendar)} to {instant_text(regression.began_before, calendar)}",
        )
        if report.regression_version is not None:
            yield _line("", report.regression_version.sentence)
    if report.policy is not None:
        for position, applied in enumerate(report.policy.applied):
            yield _line("" if position else "settings", str(applied))
    for position, supply in enumerate(report.supply):
        serves = "  <- serves" if supply.level is report.level else ""
        learning = "" if supply.mature or supply.traces < supply.needed else ", too few hours or days for a verdict"
        yield _line(
            "" if position else "levels",
            f"{supply.level:d} {LEVEL_NAMES[supply.level]:<12} {supply.traces:>9,} of {supply.needed:>3} traces, "
            f"{counted(supply.hours, 'hour')}{learning}{serves}",
        )
    if report.kept_out:
        yield from _listed("kept out", hour_ranges(report.kept_out, calendar))
    for position, marked in enumerate(report.marks[-_MOST_RANGES:]):
        yield _line("" if position else "marked", mark_text(marked, calendar))
    if report.changepoint is not None:
        yield _line("new normal", f"since {instant_text(report.changepoint, calendar)}; what was before does not count")


def trace_text(trace: TraceExplanation, calendar: Calendar) -> str:
    """Describe where the time of a trace went."""
    path, root = trace.path, trace.path.root
    took = (
        f"trace {trace.trace_id}: {duration(root.duration_ns / _NS)} "
        f"from {instant_text(root.start_ns / _NS, calendar)}, "
        f"{counted(path.spans, 'span')}{', failed' if root.error else ''}"
    )
    lines = [
        series_name(trace.key),
        took,
        "",
        "services on the critical path",
        *_cut([_share(ns, path, printable(service) or "(no service)") for service, ns in path.services if ns]),
        "",
        "critical path",
        *_path(path),
    ]
    if path.longest:
        lines += ["", "longest spans below", *(_long(span) for span in path.longest)]
    notes = [f"note: {line}" for line in oddities(path)]
    lines += ["", *notes] if notes else []
    lines += ["", *textwrap.wrap(trace_sentence(trace, calendar), _WIDTH)]
    return "\n".join(lines)


def _path(path: CriticalPath) -> Iterator[str]:
    notable = [step for step in path.steps if (path.share(step.self_ns) or 0.0) >= _NOTABLE_SHARE]
    shown: Iterable[PathStep] = notable
    if len(notable) > _MOST_LINES:
        least = sorted((step.self_ns for step in notable), reverse=True)[_MOST_LINES - 1]
        shown = [step for step in notable if step.self_ns >= least][:_MOST_LINES]
    shown = list(shown)
    for step in shown:
        indent = "  " * min(step.depth, 12)
        yield _share(step.self_ns, path, f"{indent}{_span_name(step.span)}")
    rest = len(path.steps) - len(shown)
    if rest:
        left = sum(step.self_ns for step in path.steps) - sum(step.self_ns for step in shown)
        yield _share(left, path, f"{counted(rest, 'further step')}")


def _share(nanoseconds: int, path: CriticalPath, name: str) -> str:
    share = path.share(nanoseconds)
    return f"  {'–' if share is None else f'{share:.1%}':>6}  {duration(nanoseconds / _NS):>8}  {name}"


def _long(span: TraceSpan) -> str:
    return f"          {duration(span.duration_ns / _NS):>8}  {_span_name(span)}"


def _span_name(span: TraceSpan) -> str:
    name = f"{printable(span.service_name) or '(no service)'} {printable(span.name) or '(no name)'}"
    return f"{name} ({span.kind}{', failed' if span.error else ''})"


def _cut(lines: list[str]) -> list[str]:
    more = len(lines) - _MOST_LINES
    return lines if more <= 0 else [*lines[:_MOST_LINES], f"  and {more:,} more"]


def _listed(label: str, items: list[str]) -> Iterator[str]:
    shown = items[-_MOST_RANGES:]
    more = f", and {len(items) - len(shown):,} earlier" if len(items) > len(shown) else ""
    for position, line in enumerate(textwrap.wrap(", ".join(reversed(shown)) + more, _WIDTH - _LABEL)):
        yield _line("" if position else label, line)


def _line(label: str, text: str) -> str:
    return f"  {label:<{_LABEL - 2}}{text}"
