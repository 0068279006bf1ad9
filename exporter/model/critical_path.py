"""Where the time of one trace went: its critical path, found by walking back from the end of its root.

At every instant of the root's duration one span is responsible for its not being over: the deepest one on the way that
the root was waiting for. Starting at the end, that is the child that finished last; before that child began, it is the
child that had finished last by then; between them it is the parent itself. So the time that the spans on the path spend
themselves adds up to the root's duration, exactly.

What a parent did not wait for is not on its path: children that outlive it. The clocks of services differ, though, so a
child that begins before its parent, or ends a little after it, is moved with all below it, no farther than it must be.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import Final, NamedTuple

_LATE_SHARE: Final = 100
_LATE_SHARE_OF_SERVICES: Final = 10
"""A span that is late by up to this part of its length is taken for having been in time: the hundredth part, and the
tenth where it is of another service, whose clock may differ."""


class TraceSpan(NamedTuple):
    """One span of a trace.

    Attributes:
        span_id: unique within the trace.
        parent_id: the span that it belongs to; empty for a root.
        service_name: who did it.
        name: what was done.
        kind: ``server``, ``client``, ``internal``, ``producer``, ``consumer``, or ``unspecified``.
        start_ns: start, nanoseconds since the Unix epoch.
        duration_ns: how long it took; 0 is valid.
        error: whether it failed.
    """

    span_id: str
    parent_id: str
    service_name: str
    name: str
    kind: str
    start_ns: int
    duration_ns: int
    error: bool = False


class PathStep(NamedTuple):
    """A span on the critical path.

    Attributes:
        span: the span.
        depth: how far below the root it is.
        self_ns: how long nothing below it was waited for.
        begins_ns: when it was first waited for, from the root's start.
    """

    span: TraceSpan
    depth: int
    self_ns: int
    begins_ns: int


@dataclass(frozen=True, slots=True)
class Oddities:
    """What is not as it should be in a trace, or has been put right; mere numbers of spans.

    Attributes:
        roots: spans without a parent.
        missing_parents: spans whose parent was not received.
        in_cycles: spans that are their own ancestors.
        duplicates: spans with an id that another one has; of these the longest counts.
        elsewhere: spans that do not belong to the root whose path this is.
        not_waited_for: spans that outlive what they belong to, with all below them.
        moved: spans that were moved because the clocks of services differ, without those below them.
    """

    roots: int
    missing_parents: int
    in_cycles: int
    duplicates: int
    elsewhere: int
    not_waited_for: int
    moved: int


@dataclass(frozen=True, slots=True)
class CriticalPath:
    """Where the time of a trace went.

    Attributes:
        root: the span whose duration is explained.
        steps: the spans on its critical path in the order in which they were waited for.
        services: how long each service was waited for itself, longest first; adds up to the root's duration.
        longest: the longest spans below the root, on the path or not.
        spans: how many spans the trace has.
        oddities: what is not as it should be.
    """

    root: TraceSpan
    steps: tuple[PathStep, ...]
    services: tuple[tuple[str, int], ...]
    longest: tuple[TraceSpan, ...]
    spans: int
    oddities: Oddities

    def share(self, nanoseconds: int) -> float | None:
        """A time as a share of the root's duration; absent where that is 0."""
        return nanoseconds / self.root.duration_ns if self.root.duration_ns else None


def critical_path(
    spans: Iterable[TraceSpan], *, root: TraceSpan | None = None, longest: int = 10
) -> CriticalPath | None:
    """Where the time of a trace went.

    Args:
        spans: all that was received of it, in any order; the result does not depend on it.
        root: the span to explain. Otherwise it is the longest of those without a parent, or, where none was received,
            of those whose parent is missing.
        longest: how many of the longest spans to name.

    Returns:
        The path, or None where there are no spans.
    """
    tree = _Tree(spans)
    root = tree.root() if root is None else root
    if root is None:
        return None
    layout = _Layout(tree, root)
    steps = _walk(layout, root)
    services: dict[str, int] = {}
    for step in steps:
        services[step.span.service_name] = services.get(step.span.service_name, 0) + step.self_ns
    below = (span for span in layout.members if span.span_id != root.span_id)
    return CriticalPath(
        root=root,
        steps=steps,
        services=tuple(sorted(services.items(), key=lambda item: (-item[1], item[0]))),
        longest=tuple(nsmallest(longest, below, key=_longest_first)),
        spans=len(tree.by_id),
        oddities=Oddities(
            roots=len(tree.roots),
            missing_parents=len(tree.orphans),
            in_cycles=tree.in_cycles,
            duplicates=tree.duplicates,
            elsewhere=len(tree.by_id) - len(layout.members),
            not_waited_for=layout.not_waited_for,
            moved=layout.moved,
        ),
    )


def _longest_first(span: TraceSpan) -> tuple[int, int, str]:
    return -span.duration_ns, span.start_ns, span.span_id


class _Tree:
    """Who belongs to whom; where that goes round in a circle, the earliest span of it counts as one without parent."""

    def __init__(self, spans: Iterable[TraceSpan]) -> None:
        self.by_id: dict[str, TraceSpan] = {}
        self.duplicates = 0
        for span in spans:
            other = self.by_id.get(span.span_id)
            self.duplicates += other is not None
            if other is None or (*_longest_first(span), span) < (*_longest_first(other), other):
                self.by_id[span.span_id] = span
        self.children: dict[str, list[TraceSpan]] = {}
        self.roots: list[TraceSpan] = []
        self.orphans: list[TraceSpan] = []
        for span in self.by_id.values():
            if not span.parent_id:
                self.roots.append(span)
            elif span.parent_id not in self.by_id:
                self.orphans.append(span)
            else:
                self.children.setdefault(span.parent_id, []).append(span)
        self.in_cycles = self._break_cycles()

    def root(self) -> TraceSpan | None:
        """The span to explain."""
        return min(self.roots or self.orphans, key=_longest_first, default=None)

    def _break_cycles(self) -> int:
        """Make a root of one span of every cycle; how many spans lie on cycles."""
        reached: set[str] = set()
        for span in (*self.roots, *self.orphans):
            reached.update(each.span_id for each in self.below(span))
        on_cycles = 0
        # Whatever is left hangs on a cycle: going up from anywhere ends in it.
        for span in sorted(self.by_id.values(), key=lambda each: (each.start_ns, each.span_id)):
            if span.span_id in reached:
                continue
            cycle = self._cycle_above(span)
            on_cycles += len(cycle)
            first = min(cycle, key=lambda each: (each.start_ns, each.span_id))
            self.children[first.parent_id].remove(first)
            self.orphans.append(first)
            reached.update(each.span_id for each in self.below(first))
        return on_cycles

    def _cycle_above(self, span: TraceSpan) -> Sequence[TraceSpan]:
        way: dict[str, TraceSpan] = {}
        while span.span_id not in way:
            way[span.span_id] = span
            span = self.by_id[span.parent_id]
        ids = list(way)
        return list(way.values())[ids.index(span.span_id) :]

    def below(self, span: TraceSpan) -> Iterator[TraceSpan]:
        """A span and all that belongs to it."""
        rest = [span]
        while rest:
            each = rest.pop()
            yield each
            rest += self.children.get(each.span_id, ())


class _Layout:
    """When the spans below a root took place by the root's clock, and which of them were waited for."""

    def __init__(self, tree: _Tree, root: TraceSpan) -> None:
        self.start: dict[str, int] = {root.span_id: root.start_ns}
        self.waited_for: dict[str, list[TraceSpan]] = {}
        self.members: list[TraceSpan] = []
        self.not_waited_for = self.moved = 0
        late: list[TraceSpan] = []
        rest = [root]
        while rest:
            parent = rest.pop()
            self.members.append(parent)
            start = self.start[parent.span_id]
            for child in tree.children.get(parent.span_id, ()):
                if child.span_id == root.span_id:
                    # The root that was asked for lies on a cycle.
                    continue
                as_is = start + child.start_ns - parent.start_ns
                begins = _placed(child, as_is, parent, start)
                if begins is None:
                    late.append(child)
                    continue
                self.moved += begins != as_is
                self.start[child.span_id] = begins
                self.waited_for.setdefault(parent.span_id, []).append(child)
                rest.append(child)
        for child in late:
            aside = [each for each in tree.below(child) if each.span_id != root.span_id]
            self.members += aside
            self.not_waited_for += len(aside)

    def end(self, span: TraceSpan) -> int:
        """When a span ended."""
        return self.start[span.span_id] + span.duration_ns

    def by_end(self, span: TraceSpan) -> list[TraceSpan]:
        """The children that a span waited for, the last to finish at the end; those that took no time are left out."""
        timed = [child for child in self.waited_for.get(span.span_id, ()) if child.duration_ns]
        return sorted(timed, key=lambda child: (self.end(child), self.start[child.span_id], child.span_id))


def _placed(child: TraceSpan, begins: int, parent: TraceSpan, parent_begins: int) -> int | None:
    """When a child really began, seen from its parent; None where the parent did not wait for it."""
    # Nothing begins before what caused it.
    placed = max(begins, parent_begins)
    overhang = placed + child.duration_ns - (parent_begins + parent.duration_ns)
    if overhang <= 0:
        return placed
    tolerance = _tolerance(child, parent)
    if overhang <= tolerance or _is_call(child, parent):
        if placed - overhang >= parent_begins:
            return placed - overhang
        if child.duration_ns - parent.duration_ns <= tolerance:
            return parent_begins
    return None


def _tolerance(child: TraceSpan, parent: TraceSpan) -> int:
    """How late a child may be."""
    same_clock = child.service_name == parent.service_name
    return child.duration_ns // (_LATE_SHARE if same_clock else _LATE_SHARE_OF_SERVICES)


def _is_call(child: TraceSpan, parent: TraceSpan) -> bool:
    """Whether a child is the other side of a call, so that it took place while its parent was waiting for it."""
    return child.service_name != parent.service_name and parent.kind == "client" and child.kind == "server"


class _Frame:
    """A span on the way, and up to where its time is accounted for."""

    __slots__ = ("begins", "children", "cursor", "depth", "offset", "self_ns", "span")

    def __init__(self, span: TraceSpan, depth: int, offset: int, begins: int, cursor: int, layout: _Layout) -> None:
        self.span = span
        self.depth = depth
        self.offset = offset
        self.begins = begins
        self.cursor = cursor
        self.children = layout.by_end(span)
        self.self_ns = 0


def _walk(layout: _Layout, root: TraceSpan) -> tuple[PathStep, ...]:
    """The spans on the critical path; walks without recursion, since traces can be as deep as they are long."""
    steps: list[PathStep] = []
    stack = [_Frame(root, 0, 0, root.start_ns, root.start_ns + root.duration_ns, layout)]
    while stack:
        frame = stack[-1]
        child = _last_to_finish(frame, layout)
        if child is not None:
            ends = layout.end(child) + frame.offset
            # A little too late is as good as just in time, and then everything below it is.
            offset = frame.offset + min(0, frame.cursor - ends)
            ends = min(ends, frame.cursor)
            begins = max(frame.begins, layout.start[child.span_id] + offset)
            frame.self_ns += frame.cursor - ends
            frame.cursor = begins
            stack.append(_Frame(child, frame.depth + 1, offset, begins, ends, layout))
            continue
        frame.self_ns += frame.cursor - frame.begins
        steps.append(PathStep(frame.span, frame.depth, frame.self_ns, frame.begins - root.start_ns))
        stack.pop()
    return tuple(sorted(steps, key=lambda step: (step.begins_ns, step.depth, step.span.span_id)))


def _last_to_finish(frame: _Frame, layout: _Layout) -> TraceSpan | None:
    """The child that had finished last when what came after it began; children that are looked at are used up."""
    while frame.children:
        child = frame.children.pop()
        late = layout.end(child) + frame.offset - frame.cursor
        if late <= _tolerance(child, frame.span) and frame.cursor > frame.begins:
            return child
    return None


def longest_span(spans: Iterable[TraceSpan]) -> TraceSpan | None:
    """The longest of some spans, whatever their order; None where there are none."""
    return min(spans, key=lambda span: (_longest_first(span), span), default=None)
