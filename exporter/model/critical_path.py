"""Critical path of a trace: which spans account for the duration of its root.

The path is found by walking backwards in time from the end of the root, as critical-path analysis of Jaeger and CRISP
do. At every instant of the root's duration exactly one span is on the path: the deepest span that the root was waiting
for. At the end of a span that is the child that finished last; before that child started, the child that had finished
last by then; between them, the span itself. The self times of the spans on the path therefore sum to the duration of
the root.

A child that outlives its parent was not waited for (it is asynchronous) and is not on the path. Because the clocks of
services differ, a child that starts before its parent, or ends slightly after it, is shifted together with its subtree
by the smallest amount that fits it into the parent.

An id need not be unique: Zipkin, Brave and Envoy give the client and the server span of a call the same id and the same
parent. Then the server span is the child of the client span, and a span that names this id as its parent is the child
of the span of its own service, or else of the server span, as in Zipkin itself.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import Final, NamedTuple

from exporter.model.span import SeriesKey

_TOLERANCE_DIVISOR: Final = 100
_TOLERANCE_DIVISOR_ACROSS_SERVICES: Final = 10
"""Tolerated overlap, as a divisor of the child's duration: 1/100, or 1/10 across services, whose clocks may differ."""


class TraceSpan(NamedTuple):
    """One span of a trace.

    Attributes:
        span_id: of the span; the spans of one call may share it.
        parent_id: parent span; empty for a root.
        service_name: `service.name` of the resource.
        name: span name.
        kind: ``server``, ``client``, ``internal``, ``producer``, ``consumer``, or ``unspecified``.
        start_ns: start time in nanoseconds since the Unix epoch.
        duration_ns: duration in nanoseconds; 0 is valid.
        error: whether the status is an error.
        attributes: the attributes that were asked for and that the span or its resource has, as names and values.
        endpoint: what the endpoint is called, where that is not the name of the span; else empty.
        labels: the labels of its series.
    """

    span_id: str
    parent_id: str
    service_name: str
    name: str
    kind: str
    start_ns: int
    duration_ns: int
    error: bool = False
    attributes: tuple[tuple[str, str], ...] = ()
    endpoint: str = ""
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> SeriesKey:
        """The series, before its name is renamed."""
        return SeriesKey(self.service_name, self.endpoint or self.name, self.labels)

    @property
    def identity(self) -> tuple[str, str, str, str, int]:
        """What two records of the same span have in common: id, service, name, kind and start."""
        return self.span_id, self.service_name, self.name, self.kind, self.start_ns


class PathStep(NamedTuple):
    """A span on the critical path.

    Attributes:
        span: the span.
        depth: number of edges to the root.
        self_ns: time on the path that is not attributed to a descendant, in nanoseconds.
        begins_ns: start of its stretch of the path, in nanoseconds after the root's start.
    """

    span: TraceSpan
    depth: int
    self_ns: int
    begins_ns: int


@dataclass(frozen=True, slots=True)
class Oddities:
    """Numbers of spans that are irregular, or that were corrected.

    Attributes:
        roots: spans without a parent.
        missing_parents: spans whose parent was not received.
        in_cycles: spans that are their own ancestors.
        duplicates: spans that were received before, with the same :attr:`TraceSpan.identity`; the longest is used.
        elsewhere: spans that are not descendants of the explained root.
        not_waited_for: spans that outlive their parent, and all their descendants.
        moved: spans shifted to correct for clock skew, without their descendants.
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
    """The critical path of one root span.

    Attributes:
        root: the span whose duration is explained.
        steps: the spans on the path, in chronological order.
        services: self time on the path by service in nanoseconds, longest first; sums to the root's duration.
        longest: the longest descendants of the root, on the path or not.
        parents: the descendants of the root, on the path or not, and the parent of each.
        starts: when the root and each of its descendants started by the root's clock, in nanoseconds since the Unix
            epoch; none starts before its parent.
        spans: number of spans in the trace.
        oddities: irregular spans.
    """

    root: TraceSpan
    steps: tuple[PathStep, ...]
    services: tuple[tuple[str, int], ...]
    longest: tuple[TraceSpan, ...]
    parents: Mapping[TraceSpan, TraceSpan]
    starts: Mapping[TraceSpan, int]
    spans: int
    oddities: Oddities

    def share(self, nanoseconds: int) -> float | None:
        """Return a time as a share of the root's duration; None where the root took no time."""
        return nanoseconds / self.root.duration_ns if self.root.duration_ns else None


def critical_path(
    spans: Iterable[TraceSpan], *, root: TraceSpan | None = None, longest: int = 10
) -> CriticalPath | None:
    """Return the critical path of a trace, or None where there are no spans.

    Args:
        spans: all spans received, in any order; the result does not depend on it.
        root: the span to explain; by default the longest span without a parent, or, if none was received, the longest
            span whose parent is missing.
        longest: maximum length of :attr:`CriticalPath.longest`.
    """
    tree = _Tree(spans)
    root = tree.root() if root is None else tree.received(root)
    if root is None:
        return None
    layout = _Layout(tree, root)
    steps = _walk(layout, root)
    services: dict[str, int] = {}
    for step in steps:
        services[step.span.service_name] = services.get(step.span.service_name, 0) + step.self_ns
    below = (span for span in layout.members if span != root)
    return CriticalPath(
        root=root,
        steps=steps,
        services=tuple(sorted(services.items(), key=lambda item: (-item[1], item[0]))),
        longest=tuple(nsmallest(longest, below, key=_longest_first)),
        parents=layout.parents,
        starts=layout.start,
        spans=len(tree.spans),
        oddities=Oddities(
            roots=len(tree.roots),
            missing_parents=len(tree.orphans),
            in_cycles=tree.in_cycles,
            duplicates=tree.duplicates,
            elsewhere=len(tree.spans) - len(layout.members),
            not_waited_for=layout.not_waited_for,
            moved=layout.moved,
        ),
    )


def _longest_first(span: TraceSpan) -> tuple[int, int, TraceSpan]:
    return -span.duration_ns, span.start_ns, span


def _earliest_first(span: TraceSpan) -> tuple[int, TraceSpan]:
    return span.start_ns, span


_CALLERS: Final = frozenset({"client", "producer"})
_CALLED: Final = frozenset({"server", "consumer"})


class _SameId:
    """The spans that share an id, mostly one.

    Attributes:
        caller: the span that made the call, if this is known; not one that names its own id as its parent.
        outermost: the span that is above the ones that name their own id as their parent.
        called: the span that others name as their parent.
        by_service: the same for spans of a service that has one of its own here.
    """

    __slots__ = ("by_service", "called", "caller", "outermost")

    def __init__(self, spans: Sequence[TraceSpan]) -> None:
        outer = [span for span in spans if span.parent_id != span.span_id]
        callers = (span for span in outer if span.kind in _CALLERS)
        self.caller = min(callers, key=_longest_first, default=None)
        self.outermost = self.caller or min(outer, key=_longest_first, default=None)
        ranked = sorted(spans, key=lambda span: (span.kind not in _CALLED, *_longest_first(span)))
        self.called = ranked[0]
        self.by_service = {span.service_name: span for span in reversed(ranked)}


class _Tree:
    """Parent-child relation of the spans; a cycle is broken at its earliest span, which then counts as an orphan."""

    def __init__(self, spans: Iterable[TraceSpan]) -> None:
        self._by_identity: dict[tuple[str, str, str, str, int], TraceSpan] = {}
        self.duplicates = 0
        for span in spans:
            other = self._by_identity.get(span.identity)
            self.duplicates += other is not None
            self._by_identity[span.identity] = span if other is None else min(span, other, key=_longest_first)
        self.spans = list(self._by_identity.values())
        self._by_id = _by_id(self.spans)
        self._parents = {span: self._parent(span) for span in self.spans}
        self.children: dict[TraceSpan, list[TraceSpan]] = {}
        self.roots: list[TraceSpan] = []
        self.orphans: list[TraceSpan] = []
        for span, parent in self._parents.items():
            if parent is not None:
                self.children.setdefault(parent, []).append(span)
            elif span.parent_id:
                self.orphans.append(span)
            else:
                self.roots.append(span)
        self.in_cycles = self._break_cycles()

    def received(self, span: TraceSpan) -> TraceSpan:
        """Return the record of a span that is used, of those with its identity."""
        return self._by_identity.get(span.identity, span)

    def root(self) -> TraceSpan | None:
        """Return the span to explain by default."""
        return min(self.roots or self.orphans, key=_longest_first, default=None)

    def _parent(self, span: TraceSpan) -> TraceSpan | None:
        """Return the parent of a span, if it has one that was received."""
        own = self._by_id[span.span_id]
        if span.parent_id == span.span_id:
            return own.outermost or span
        if span.kind in _CALLED and own.caller is not None:
            return own.caller
        above = self._by_id.get(span.parent_id) if span.parent_id else None
        return None if above is None else above.by_service.get(span.service_name, above.called)

    def _break_cycles(self) -> int:
        """Turn one span of every cycle into an orphan; return the number of spans on cycles."""
        reached: set[TraceSpan] = set()
        for span in (*self.roots, *self.orphans):
            reached.update(self.below(span))
        on_cycles = 0
        # Every span not reached yet is on a cycle or below one, so following the parents leads into it.
        for span in sorted(self.spans, key=_earliest_first):
            if span in reached:
                continue
            cycle = self._cycle_above(span)
            on_cycles += len(cycle)
            first = min(cycle, key=_earliest_first)
            parent = self._parents[first]
            assert parent is not None  # noqa: S101 - every span on a cycle has one
            self.children[parent].remove(first)
            self.orphans.append(first)
            reached.update(self.below(first))
        return on_cycles

    def _cycle_above(self, span: TraceSpan) -> Sequence[TraceSpan]:
        ancestors: dict[TraceSpan, None] = {}
        above: TraceSpan | None = span
        while above is not None and above not in ancestors:
            ancestors[above] = None
            above = self._parents[above]
        assert above is not None  # noqa: S101 - otherwise the span would be below a root
        passed = list(ancestors)
        return passed[passed.index(above) :]

    def below(self, span: TraceSpan) -> Iterator[TraceSpan]:
        """Yield a span and all its descendants."""
        stack = [span]
        while stack:
            each = stack.pop()
            yield each
            stack += self.children.get(each, ())


def _by_id(spans: Iterable[TraceSpan]) -> dict[str, _SameId]:
    groups: dict[str, list[TraceSpan]] = {}
    for span in spans:
        groups.setdefault(span.span_id, []).append(span)
    return {span_id: _SameId(group) for span_id, group in groups.items()}


class _Layout:
    """Start times of the descendants of a root by the root's clock, and which children their parents waited for."""

    def __init__(self, tree: _Tree, root: TraceSpan) -> None:
        self.start: dict[TraceSpan, int] = {root: root.start_ns}
        self.waited_for: dict[TraceSpan, list[TraceSpan]] = {}
        self.members: list[TraceSpan] = []
        self.parents: dict[TraceSpan, TraceSpan] = {}
        self.not_waited_for = self.moved = 0
        late: list[TraceSpan] = []
        stack = [root]
        while stack:
            parent = stack.pop()
            self.members.append(parent)
            start = self.start[parent]
            for child in tree.children.get(parent, ()):
                if child == root:
                    # The requested root is on a cycle.
                    continue
                self.parents[child] = parent
                recorded = start + child.start_ns - parent.start_ns
                begins = _fit(child, recorded, parent, start)
                if begins is None:
                    late.append(child)
                    continue
                self.moved += begins != recorded
                self.start[child] = begins
                self.waited_for.setdefault(parent, []).append(child)
                stack.append(child)
        for child in late:
            subtree = [each for each in tree.below(child) if each != root]
            for each in subtree:
                above = self.parents[each]
                self.start[each] = self.start[above] + max(0, each.start_ns - above.start_ns)
                self.parents.update((below, each) for below in tree.children.get(each, ()) if below != root)
            self.members += subtree
            self.not_waited_for += len(subtree)

    def end(self, span: TraceSpan) -> int:
        """Return the end time of a span by the root's clock."""
        return self.start[span] + span.duration_ns

    def by_end(self, span: TraceSpan) -> list[TraceSpan]:
        """Return the children that a span waited for, by rising end time; children of zero duration are omitted."""
        timed = [child for child in self.waited_for.get(span, ()) if child.duration_ns]
        return sorted(timed, key=lambda child: (self.end(child), self.start[child], child))


def _fit(child: TraceSpan, begins: int, parent: TraceSpan, parent_begins: int) -> int | None:
    """Return the start of a child corrected for clock skew; None where the parent did not wait for it."""
    # An effect cannot precede its cause.
    begins = max(begins, parent_begins)
    overhang = begins + child.duration_ns - (parent_begins + parent.duration_ns)
    if overhang <= 0:
        return begins
    tolerance = _tolerance(child, parent)
    if overhang <= tolerance or _is_call(child, parent):
        if begins - overhang >= parent_begins:
            return begins - overhang
        if child.duration_ns - parent.duration_ns <= tolerance:
            return parent_begins
    return None


def _tolerance(child: TraceSpan, parent: TraceSpan) -> int:
    """Return by how many nanoseconds a child may end too late."""
    same_clock = child.service_name == parent.service_name
    return child.duration_ns // (_TOLERANCE_DIVISOR if same_clock else _TOLERANCE_DIVISOR_ACROSS_SERVICES)


def _is_call(child: TraceSpan, parent: TraceSpan) -> bool:
    """Whether parent and child are the client and server side of one call, so that the parent waited for the child."""
    return child.service_name != parent.service_name and parent.kind == "client" and child.kind == "server"


class _Frame:
    """A span on the stack of the walk; its time after `cursor` is already attributed."""

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
    """Return the spans on the critical path. Iterative, because a trace may be as deep as it has spans."""
    steps: list[PathStep] = []
    stack = [_Frame(root, 0, 0, root.start_ns, root.start_ns + root.duration_ns, layout)]
    while stack:
        frame = stack[-1]
        child = _last_to_finish(frame, layout)
        if child is not None:
            ends = layout.end(child) + frame.offset
            # A child within the tolerance is shifted to end at the cursor, and its subtree with it.
            offset = frame.offset + min(0, frame.cursor - ends)
            # The subtree is shifted as a whole: what is early in it may come before the start of its parent.
            ends = max(frame.begins, min(ends, frame.cursor))
            begins = max(frame.begins, layout.start[child] + offset)
            frame.self_ns += frame.cursor - ends
            frame.cursor = begins
            stack.append(_Frame(child, frame.depth + 1, offset, begins, ends, layout))
            continue
        frame.self_ns += frame.cursor - frame.begins
        steps.append(PathStep(frame.span, frame.depth, frame.self_ns, frame.begins - root.start_ns))
        stack.pop()
    return tuple(sorted(steps, key=lambda step: (step.begins_ns, step.depth, step.span)))


def _last_to_finish(frame: _Frame, layout: _Layout) -> TraceSpan | None:
    """Pop the child that had finished last by the cursor; children that end later are dropped."""
    while frame.children:
        child = frame.children.pop()
        late = layout.end(child) + frame.offset - frame.cursor
        if late <= _tolerance(child, frame.span) and frame.cursor > frame.begins:
            return child
    return None


def longest_span(spans: Iterable[TraceSpan]) -> TraceSpan | None:
    """Return the longest span, independent of their order; None where there are none."""
    return min(spans, key=_longest_first, default=None)
