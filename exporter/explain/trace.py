"""Explains where the time of one trace went, and compares it with the baseline of its endpoint at that time."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from exporter.detection.explanation import duration
from exporter.explain.check import BaselineReports, Check, check
from exporter.explain.words import check_sentence, counted, series_name
from exporter.model.calendar import Calendar
from exporter.model.critical_path import CriticalPath, TraceSpan, critical_path, longest_span
from exporter.model.label import DEFAULT_LABEL_NAMES, LabelNames
from exporter.model.span import SeriesKey
from exporter.runtime.terminal import printable

_NS: Final = 1_000_000_000


class NotInTraceError(Exception):
    """The trace has no span of the requested endpoint."""


@dataclass(frozen=True, slots=True)
class TraceExplanation:
    """Explanation of a trace.

    Attributes:
        trace_id: 32 hex digits.
        path: the critical path.
        key: the series of the explained span.
        check: comparison of the span's duration with the baseline; absent without a stored history.
    """

    trace_id: str
    path: CriticalPath
    key: SeriesKey
    check: Check | None


def explain_trace(
    trace_id: str,
    spans: Iterable[TraceSpan],
    *,
    renamed: Callable[[SeriesKey], SeriesKey],
    querier: BaselineReports | None,
    now: float,
    wanted: SeriesKey | None = None,
    root: TraceSpan | None = None,
    label_names: LabelNames = DEFAULT_LABEL_NAMES,
) -> TraceExplanation | None:
    """Explain a trace.

    Args:
        trace_id: 32 hex digits.
        spans: all spans of the trace.
        renamed: maps the names of a span to those of its series.
        querier: queries the stored history; absent without a stored history.
        now: the present, Unix seconds.
        wanted: explain the longest span of this endpoint instead of the root span.
        root: explain this span instead of the root span.
        label_names: maps the names of series to label values, which ``wanted`` may have instead.

    Returns:
        The explanation, or None if the trace has no spans.

    Raises:
        NotInTraceError: the trace has no span of the wanted endpoint.
        StoreError: the database cannot be read.
        DamagedDigestError: the stored history of the series is damaged.
    """
    spans = list(spans)
    if wanted is not None:
        root = longest_span(
            span
            for span in spans
            if label_names.is_named(span.key, wanted) or label_names.is_named(renamed(span.key), wanted)
        )
        if root is None and spans:
            raise NotInTraceError(f"trace {trace_id} has no span of {series_name(wanted)}")
    path = critical_path(spans, root=root)
    if path is None:
        return None
    key = renamed(path.root.key)
    found = None
    if querier is not None:
        # A span counts when it ends. If the clock of its service is ahead, that must not become a future hour.
        ended = min(now, (path.root.start_ns + path.root.duration_ns) / _NS)
        seconds = path.root.duration_ns / _NS
        found = check(querier, key, now=now, at=max(0.0, ended), duration_seconds=seconds)
    return TraceExplanation(trace_id, path, key, found)


def trace_sentence(trace: TraceExplanation, calendar: Calendar) -> str:
    """Summarise where the time went, in one sentence, and the comparison with the baseline, if there is one."""
    path = trace.path
    took = f"{series_name(trace.key)} took {duration(path.root.duration_ns / _NS)}"
    if not path.root.duration_ns:
        return f"{took}, so there is nothing to explain."
    service, nanoseconds = path.services[0]
    step = max(path.steps, key=lambda each: (each.self_ns, -each.begins_ns))
    share = path.share(nanoseconds) or 0.0
    summary = (
        f"{took}, {share:.0%} of it in {printable(service) or '(no service)'}; most of all in "
        f"{series_name(step.span.key)}, {duration(step.self_ns / _NS)} ({path.share(step.self_ns) or 0.0:.0%})."
    )
    return summary if trace.check is None else f"{summary} {check_sentence(trace.check, calendar)}"


def oddities(path: CriticalPath) -> list[str]:
    """List the irregularities of a trace, one line each."""
    found = path.oddities
    lines = [
        (found.roots == 0, "its root was not received; the longest part that was is explained"),
        (found.roots > 1, f"{counted(found.roots, 'span')} without a parent; the longest is explained"),
        (found.missing_parents, f"{counted(found.missing_parents, 'span')} of a parent that was not received"),
        (found.in_cycles, f"{counted(found.in_cycles, 'span')} in circles, being an ancestor of itself"),
        (found.duplicates, f"{counted(found.duplicates, 'span')} received more than once; the longest counts"),
        (found.elsewhere, f"{counted(found.elsewhere, 'span')} not belonging to what is explained"),
        (found.not_waited_for, f"{counted(found.not_waited_for, 'span')} outliving the parent, and not waited for"),
        (found.moved, f"{counted(found.moved, 'span')} moved in time, since the clocks of services differ"),
    ]
    return [line for odd, line in lines if odd]
