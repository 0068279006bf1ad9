"""Traces as the embedded Tempo API stores them, and where it gets them from.

What traces of one kind have in common (services, names, kinds, who called whom) is a shape that they share, so that
a query looks at it once; a trace adds ids and times.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

SpanKind = Literal["unspecified", "internal", "server", "client", "producer", "consumer"]

ROOT = -1
"""Parent of a root span."""
ORPHAN = -2
"""Parent of a span whose parent was never received."""


@dataclass(frozen=True)
class Operation:
    """What a span is about.

    Attributes:
        service: the resource attribute ``service.name``.
        name: the span's name.
        kind: the span's kind.
        resource: further resource attributes, by name without the scope.
        attributes: span attributes, by name without the scope.
    """

    service: str
    name: str
    kind: SpanKind = "server"
    resource: tuple[tuple[str, str], ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()

    @cached_property
    def resource_attributes(self) -> Mapping[str, str]:
        """All attributes of the resource."""
        return {"service.name": self.service, **dict(self.resource)}

    @cached_property
    def span_attributes(self) -> Mapping[str, str]:
        """All attributes of the span."""
        return dict(self.attributes)


@dataclass(frozen=True, eq=False)
class TraceShape:
    """What traces of one kind have in common.

    Attributes:
        operations: one for each span.
        parents: for each span the position of its parent, which comes before it, or ``ROOT`` or ``ORPHAN``.
    """

    operations: tuple[Operation, ...]
    parents: tuple[int, ...]

    @cached_property
    def root(self) -> Operation | None:
        """The root span that gives the trace its name: the last, where there are several."""
        roots = [operation for operation, parent in zip(self.operations, self.parents, strict=True) if parent == ROOT]
        return roots[-1] if roots else None

    @cached_property
    def span_counts(self) -> Mapping[str, int]:
        """How many spans each service has."""
        return Counter(operation.service for operation in self.operations)

    @cached_property
    def nested_set_parents(self) -> tuple[int, ...]:
        """What TraceQL calls ``nestedSetParent``: -1 for a root, 0 below no root, else the parent's left number.

        Numbers are given by walking the tree depth first and counting on the way down and on the way up.
        """
        children: dict[int, list[int]] = {}
        for position, parent in enumerate(self.parents):
            children.setdefault(parent, []).append(position)
        left = [0] * len(self.parents)
        counter = 1
        walk = [(position, True) for position in reversed(children.get(ROOT, []))]
        while walk:
            position, down = walk.pop()
            if down:
                left[position] = counter
                walk.append((position, False))
                walk.extend((child, True) for child in reversed(children.get(position, [])))
            counter += 1
        return tuple(-1 if parent == ROOT else left[parent] if parent >= 0 else 0 for parent in self.parents)


class SpanTimes(NamedTuple):
    """One span of a trace: id (64 bits), start in nanoseconds since the Unix epoch, duration in nanoseconds."""

    span_id: int
    start_ns: int
    duration_ns: int


class Trace(NamedTuple):
    """One trace: id (128 bits), first start and last end of its spans, shape, and a ``SpanTimes`` for each span."""

    trace_id: int
    start_ns: int
    end_ns: int
    shape: TraceShape
    spans: tuple[SpanTimes, ...]


def make_trace(trace_id: int, shape: TraceShape, spans: Sequence[SpanTimes]) -> Trace:
    """A trace of some spans, one for each of the shape's operations.

    Raises:
        ValueError: there are none, or not as many as the shape has.
    """
    if not spans or len(spans) != len(shape.operations):
        raise ValueError(f"{len(spans)} spans do not fit a shape of {len(shape.operations)}")
    start_ns = min(span.start_ns for span in spans)
    end_ns = max(span.start_ns + span.duration_ns for span in spans)
    return Trace(trace_id, start_ns, end_ns, shape, tuple(spans))


def parent_span_id(trace: Trace, position: int) -> int | None:
    """The id of the parent of the span at a position; a root span has none."""
    parent = trace.shape.parents[position]
    if parent == ROOT:
        return None
    # The parent that never came is somebody, too: any id that is nobody else's.
    return trace.spans[position].span_id ^ 1 if parent == ORPHAN else trace.spans[parent].span_id


class TraceSource(Protocol):
    """Where the embedded Tempo API gets its traces; called from several threads."""

    def overlapping(self, start_ns: int, end_ns: int) -> Sequence[Trace]:
        """The traces of which a part lies in ``[start_ns, end_ns]``, both ends inclusive, by start."""

    def find(self, trace_id: int) -> Trace | None:
        """The trace with an id."""


class TraceStore:
    """Traces in memory, for tests and measurements."""

    def __init__(self, traces: Iterable[Trace]) -> None:
        self._traces = sorted(traces, key=lambda trace: trace.start_ns)
        self._starts = [trace.start_ns for trace in self._traces]
        self._longest_ns = max((trace.end_ns - trace.start_ns for trace in self._traces), default=0)

    def __len__(self) -> int:
        return len(self._traces)

    def overlapping(self, start_ns: int, end_ns: int) -> Sequence[Trace]:
        """The traces of which a part lies in ``[start_ns, end_ns]``, both ends inclusive, by start."""
        first = bisect_left(self._starts, start_ns - self._longest_ns)
        inside = bisect_left(self._starts, start_ns)
        behind = bisect_right(self._starts, end_ns)
        earlier = [trace for trace in self._traces[first:inside] if trace.end_ns >= start_ns]
        return earlier + self._traces[inside:behind]

    def find(self, trace_id: int) -> Trace | None:
        """The trace with an id."""
        return next((trace for trace in self._traces if trace.trace_id == trace_id), None)
