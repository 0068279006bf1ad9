"""Arranges the spans of a trace for a waterfall: which ones to show, in which order, and where the path runs.

A trace can have ten thousand spans, so not all are shown: first those on the critical path, then level by level, of
each level the longest. What is left out is counted at the span it is below of.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from exporter.model.critical_path import CriticalPath, TraceSpan, critical_path

MAX_ROWS: Final = 1000
"""Spans that a waterfall shows at most."""
_MAX_PARTS: Final = 8
"""Parts of a trace that are arranged at most: of one without any parent, each span is a part."""
_MAX_REACH: Final = 3
"""The time axis ends at most this many root durations after the root, so that the root stays visible."""


class Row(NamedTuple):
    """A span in a waterfall. Times are nanoseconds after the start of the root, by the clock of the root.

    Attributes:
        span: the span.
        depth: number of edges to the root.
        begins_ns: its start.
        on_path: its own stretches of the critical path as start and end; None if it is not on the path.
        folded: number of spans below it that are not shown, without those below a shown child.
    """

    span: TraceSpan
    depth: int
    begins_ns: int
    on_path: tuple[tuple[int, int], ...] | None
    folded: int

    @property
    def self_ns(self) -> int:
        """Time on the critical path that is its own."""
        return sum(end - begin for begin, end in self.on_path or ())


@dataclass(frozen=True, slots=True)
class Part:
    """A root and what is below it.

    Attributes:
        path: its critical path.
        rows: the spans to show, every one below its parent; the first is the root.
        axis_ns: length of the time axis from the start of the root; spans may exceed it.
    """

    path: CriticalPath
    rows: tuple[Row, ...]
    axis_ns: int


@dataclass(frozen=True, slots=True)
class Waterfall:
    """The spans of a trace in rows.

    Attributes:
        parts: the explained root, then the other parts of the trace, longest first.
        spans: spans of the parts, shown or not.
        left_out: spans of the trace that belong to none of the parts.
        services: names of the services in the parts, those with most time on the critical path first.
    """

    parts: tuple[Part, ...]
    spans: int
    left_out: int
    services: tuple[str, ...]

    @property
    def rows(self) -> Iterator[Row]:
        """The rows of all parts."""
        for part in self.parts:
            yield from part.rows


def waterfall(path: CriticalPath, others: Sequence[CriticalPath] = (), *, max_rows: int = MAX_ROWS) -> Waterfall:
    """Arrange a trace.

    Args:
        path: the explained root.
        others: the other parts to show, see :func:`other_parts`.
        max_rows: the most spans to show.
    """
    parts: list[Part] = []
    room = max_rows
    for number, each in enumerate((path, *others)):
        # Every part has a row at least, however large those before it are.
        part = _part(each, max(1, room - (len(others) - number)))
        room -= len(part.rows)
        parts.append(part)
    spans = sum(len(part.path.starts) for part in parts)
    return Waterfall(tuple(parts), spans, path.spans - spans, _services(parts))


def other_parts(spans: Iterable[TraceSpan], path: CriticalPath) -> list[CriticalPath]:
    """Return the longest parts of a trace that are not connected with its root, since spans in between are missing."""
    parts: list[CriticalPath] = []
    rest = _without(spans, path)
    while rest and len(parts) < _MAX_PARTS:
        part = critical_path(rest)
        assert part is not None  # noqa: S101 - there are spans
        parts.append(part)
        rest = _without(rest, part)
    return parts


def _without(spans: Iterable[TraceSpan], part: CriticalPath) -> list[TraceSpan]:
    # Of a span that was received twice, only one record is part of a path.
    members = {span.identity for span in part.starts}
    return [span for span in spans if span.identity not in members]


def _services(parts: Iterable[Part]) -> tuple[str, ...]:
    times: dict[str, tuple[int, int]] = {}
    for part in parts:
        on_path = dict(part.path.services)
        for service, nanoseconds in on_path.items():
            before, total = times.get(service, (0, 0))
            times[service] = before + nanoseconds, total
        for span in part.path.starts:
            before, total = times.get(span.service_name, (0, 0))
            times[span.service_name] = before, total + span.duration_ns
    return tuple(sorted(times, key=lambda service: (-times[service][0], -times[service][1], service)))


def _part(path: CriticalPath, max_rows: int) -> Part:
    children: dict[TraceSpan, list[TraceSpan]] = {}
    for child, parent in path.parents.items():
        children.setdefault(parent, []).append(child)
    depths = _depths(path.root, children)
    shown = _shown(path, depths, max_rows)
    below = _numbers_below(depths, path.parents)
    stretches = _stretches(path)
    starts = path.starts

    def by_start(span: TraceSpan) -> tuple[int, int, TraceSpan]:
        return starts[span], -span.duration_ns, span

    rows: list[Row] = []
    stack = [path.root]
    while stack:
        span = stack.pop()
        own = children.get(span, ())
        visible = [child for child in own if child in shown]
        rows.append(
            Row(
                span=span,
                depth=depths[span],
                begins_ns=starts[span] - path.root.start_ns,
                on_path=stretches.get(span),
                folded=sum(1 + below[child] for child in own if child not in shown),
            )
        )
        stack += sorted(visible, key=by_start, reverse=True)
    last = max(row.begins_ns + row.span.duration_ns for row in rows)
    duration = path.root.duration_ns
    axis = min(last, (1 + _MAX_REACH) * duration) if duration else last
    return Part(path, tuple(rows), max(1, axis))


def _depths(root: TraceSpan, children: Mapping[TraceSpan, Sequence[TraceSpan]]) -> dict[TraceSpan, int]:
    """Return the depths of all spans; parents come before their children."""
    depths: dict[TraceSpan, int] = {}
    level, depth = [root], 0
    while level:
        depths.update(dict.fromkeys(level, depth))
        level, depth = [child for span in level for child in children.get(span, ())], depth + 1
    return depths


def _shown(path: CriticalPath, depths: Mapping[TraceSpan, int], max_rows: int) -> set[TraceSpan]:
    """Choose the spans to show; with each of them its parent."""
    on_path = sorted(path.steps, key=lambda step: (step.depth, -step.self_ns, step.begins_ns))
    shown = {step.span for step in on_path[:max_rows]}
    others = sorted((span for span in depths if span not in shown), key=lambda span: (depths[span], -span.duration_ns))
    for span in others:
        if len(shown) >= max_rows:
            break
        if path.parents[span] in shown:
            shown.add(span)
    return shown


def _numbers_below(depths: Mapping[TraceSpan, int], parents: Mapping[TraceSpan, TraceSpan]) -> dict[TraceSpan, int]:
    """Return the number of descendants of each span."""
    below = dict.fromkeys(depths, 0)
    for span in reversed(list(depths)):
        parent = parents.get(span)
        if parent is not None:
            below[parent] += 1 + below[span]
    return below


def _stretches(path: CriticalPath) -> dict[TraceSpan, tuple[tuple[int, int], ...]]:
    """Return the parts of the critical path that belong to each of its spans and to none below it."""
    begins = {step.span: step.begins_ns for step in path.steps}
    lengths = {step.span: step.self_ns for step in path.steps}
    on_path: dict[TraceSpan, list[TraceSpan]] = {}
    for step in sorted(path.steps, key=lambda step: -step.depth):
        parent = path.parents.get(step.span)
        if parent is not None:
            lengths[parent] += lengths[step.span]
            on_path.setdefault(parent, []).append(step.span)
    found: dict[TraceSpan, tuple[tuple[int, int], ...]] = {}
    for span, begin in begins.items():
        own: list[tuple[int, int]] = []
        cursor = begin
        for child in sorted(on_path.get(span, ()), key=lambda child: begins[child]):
            if begins[child] > cursor:
                own.append((cursor, begins[child]))
            cursor = begins[child] + lengths[child]
        if begin + lengths[span] > cursor:
            own.append((cursor, begin + lengths[span]))
        found[span] = tuple(own)
    return found
