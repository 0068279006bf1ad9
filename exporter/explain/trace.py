"""Where the time of one trace went, next to what is usual for its endpoint at that time."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from exporter.detection.explanation import duration
from exporter.evaluation.query import BaselineQuerier
from exporter.explain.check import Check, check
from exporter.explain.words import counted, sentence, series_name
from exporter.model.calendar import Calendar
from exporter.model.critical_path import CriticalPath, TraceSpan, critical_path, longest_span
from exporter.model.span import SeriesKey
from exporter.runtime.terminal import printable

_NS: Final = 1_000_000_000


class NotInTraceError(Exception):
    """The trace has no span of the endpoint that was asked about."""


@dataclass(frozen=True, slots=True)
class TraceAnswer:
    """The answer.

    Attributes:
        trace_id: 32 hex digits.
        path: where the time went.
        key: the series that the explained span belongs to.
        check: its duration against what is usual for it; absent where there is no history to ask.
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
    inquiry: BaselineQuerier | None,
    now: float,
    wanted: SeriesKey | None = None,
) -> TraceAnswer | None:
    """Explain a trace.

    Args:
        trace_id: its id, 32 hex digits.
        spans: its spans.
        renamed: under which name a series is kept.
        inquiry: the history; absent where there is none.
        now: the present, Unix seconds.
        wanted: explain the longest span of this endpoint instead of the root.

    Returns:
        The answer, or None where the trace has no spans.

    Raises:
        NotInTraceError: it has no span of the endpoint that is wanted.
        StoreError: the database cannot be read.
        DamagedDigestError: what is stored of the series is damaged.
    """
    spans = list(spans)
    root = None
    if wanted is not None:
        root = longest_span(span for span in spans if wanted in (_key(span), renamed(_key(span))))
        if root is None and spans:
            raise NotInTraceError(f"trace {trace_id} has no span of {series_name(wanted)}")
    path = critical_path(spans, root=root)
    if path is None:
        return None
    key = renamed(_key(path.root))
    found = None
    if inquiry is not None:
        # It was judged when it ended; a clock that is ahead must not make it one of the future.
        ended = min(now, (path.root.start_ns + path.root.duration_ns) / _NS)
        seconds = path.root.duration_ns / _NS
        found = check(inquiry, key, now=now, at=max(0.0, ended), duration_seconds=seconds)
    return TraceAnswer(trace_id, path, key, found)


def trace_sentence(answer: TraceAnswer, calendar: Calendar) -> str:
    """Where the time went, in a sentence or two."""
    path = answer.path
    took = f"{series_name(answer.key)} took {duration(path.root.duration_ns / _NS)}"
    if not path.root.duration_ns:
        return f"{took}, so there is nothing to explain."
    service, nanoseconds = path.services[0]
    step = max(path.steps, key=lambda each: (each.self_ns, -each.begins_ns))
    share = path.share(nanoseconds) or 0.0
    told = (
        f"{took}, {share:.0%} of it in {printable(service) or '(no service)'}; most of all in "
        f"{series_name(_key(step.span))}, {duration(step.self_ns / _NS)} ({path.share(step.self_ns) or 0.0:.0%})."
    )
    return told if answer.check is None else f"{told} {sentence(answer.check, calendar)}"


def oddities(path: CriticalPath) -> list[str]:
    """What is odd about a trace, a line each; what is as it should be is left out."""
    found = path.oddities
    lines = [
        (found.roots == 0, "its root was not received; the longest part that was is explained"),
        (found.roots > 1, f"{counted(found.roots, 'span')} without a parent; the longest is explained"),
        (found.missing_parents, f"{counted(found.missing_parents, 'span')} of a parent that was not received"),
        (found.in_cycles, f"{counted(found.in_cycles, 'span')} in circles, being an ancestor of itself"),
        (found.duplicates, f"{counted(found.duplicates, 'span')} with the id of another; the longest counts"),
        (found.elsewhere, f"{counted(found.elsewhere, 'span')} not belonging to what is explained"),
        (found.not_waited_for, f"{counted(found.not_waited_for, 'span')} outliving the parent, and not waited for"),
        (found.moved, f"{counted(found.moved, 'span')} moved in time, since the clocks of services differ"),
    ]
    return [line for odd, line in lines if odd]


def _key(span: TraceSpan) -> SeriesKey:
    return SeriesKey(span.service_name, span.name)
