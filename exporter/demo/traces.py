"""Traces of the embedded Tempo API, and their sources.

What traces of one kind have in common (services, names, kinds, parents) is a shared shape, so that a query is evaluated
once per shape. A trace adds ids and times.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

from exporter.model.traceql import Value

SpanKind = Literal["unspecified", "internal", "server", "client", "producer", "consumer"]

ROOT = -1
"""Parent of a root span."""
ORPHAN = -2
"""Parent of a span whose parent was not received."""


@dataclass(frozen=True)
class Operation:
    """Everything about a span except its id and times.

    Attributes:
        service: the resource attribute ``service.name``.
        name: the span's name.
        kind: the span's kind.
        resource: further resource attributes, names without scope.
        attributes: span attributes, names without scope.
        status: the span's status.
        late_seconds: time from the end of a span until Tempo receives it, where that matters: see :func:`trace_parts`.
    """

    service: str
    name: str
    kind: SpanKind = "server"
    resource: tuple[tuple[str, str], ...] = ()
    attributes: tuple[tuple[str, Value], ...] = ()
    status: Literal["unset", "ok", "error"] = "unset"
    late_seconds: float = 0.0

    @cached_property
    def resource_attributes(self) -> Mapping[str, str]:
        """All attributes of the resource."""
        return {"service.name": self.service, **dict(self.resource)}

    @cached_property
    def span_attributes(self) -> Mapping[str, Value]:
        """All attributes of the span."""
        return dict(self.attributes)

    def failed(self) -> "Operation":
        """Return the same with the status of a failed request, and its HTTP or gRPC code where it has one."""
        codes: tuple[tuple[str, Value], ...] = ()
        if "http.route" in self.span_attributes:
            codes = (("http.response.status_code", 500),)
        elif self.span_attributes.get("rpc.system") == "grpc":
            codes = (("rpc.grpc.status_code", 13),)
        return replace(self, status="error", attributes=(*self.attributes, *codes))


@dataclass(frozen=True, eq=False)
class TraceShape:
    """Common structure of traces.

    Attributes:
        operations: one per span.
        parents: for each span the position of its parent, which precedes it, or ``ROOT`` or ``ORPHAN``.
    """

    operations: tuple[Operation, ...]
    parents: tuple[int, ...]

    @cached_property
    def root(self) -> Operation | None:
        """The root span that names the trace: the last one if there are several."""
        roots = [operation for operation, parent in zip(self.operations, self.parents, strict=True) if parent == ROOT]
        return roots[-1] if roots else None

    @cached_property
    def span_counts(self) -> Mapping[str, int]:
        """Number of spans by service."""
        return Counter(operation.service for operation in self.operations)

    @cached_property
    def error_counts(self) -> Mapping[str, int]:
        """Number of failed spans by service."""
        return Counter(operation.service for operation in self.operations if operation.status == "error")

    @cached_property
    def nested_set_parents(self) -> tuple[int, ...]:
        """``nestedSetParent`` of each span: -1 for a root, 0 without a root above, else the parent's left number.

        Left and right numbers are assigned in a depth-first walk, counting on the way down and on the way up.
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
    """Build a trace from spans, one for each operation of the shape.

    Raises:
        ValueError: the number of spans is zero or differs from the shape.
    """
    if not spans or len(spans) != len(shape.operations):
        raise ValueError(f"{len(spans)} spans do not fit a shape of {len(shape.operations)}")
    start_ns = min(span.start_ns for span in spans)
    end_ns = max(span.start_ns + span.duration_ns for span in spans)
    return Trace(trace_id, start_ns, end_ns, shape, tuple(spans))


def trace_parts(trace: Trace, idle_ns: int, newest_ns: int) -> list[tuple[int, ...]]:
    """Return the positions of the spans in each block that has a part of a trace, oldest block first.

    Args:
        trace: the trace.
        idle_ns: a span that arrives longer than this after the one before begins another part.
        newest_ns: spans that arrive later have not arrived yet.
    """
    arrivals = sorted(
        (span.start_ns + span.duration_ns + round(operation.late_seconds * 1e9), position)
        for position, (span, operation) in enumerate(zip(trace.spans, trace.shape.operations, strict=True))
    )
    parts: list[list[int]] = []
    before_ns = -idle_ns
    for arrival_ns, position in arrivals:
        if arrival_ns > newest_ns:
            break
        if not parts or arrival_ns - before_ns > idle_ns:
            parts.append([])
        parts[-1].append(position)
        before_ns = arrival_ns
    return [tuple(sorted(part)) for part in parts]


def parent_span_id(trace: Trace, position: int) -> int | None:
    """Return the parent id of the span at a position; None for a root span."""
    parent = trace.shape.parents[position]
    if parent == ROOT:
        return None
    # A missing parent needs an id, too, that no other span has.
    return trace.spans[position].span_id ^ 1 if parent == ORPHAN else trace.spans[parent].span_id


class TraceSource(Protocol):
    """Source of traces for the embedded Tempo API; must be thread-safe."""

    def overlapping(self, start_ns: int, end_ns: int) -> Sequence[Trace]:
        """Return the traces that overlap ``[start_ns, end_ns]``, bounds included, by start."""

    def find(self, trace_id: int) -> Trace | None:
        """Return the trace with this id, or None."""


class TraceStore:
    """Traces in memory, for tests and benchmarks."""

    def __init__(self, traces: Iterable[Trace]) -> None:
        self._traces = sorted(traces, key=lambda trace: trace.start_ns)
        self._starts = [trace.start_ns for trace in self._traces]
        self._max_duration_ns = max((trace.end_ns - trace.start_ns for trace in self._traces), default=0)

    def __len__(self) -> int:
        return len(self._traces)

    def overlapping(self, start_ns: int, end_ns: int) -> Sequence[Trace]:
        """Return the traces that overlap ``[start_ns, end_ns]``, bounds included, by start."""
        first = bisect_left(self._starts, start_ns - self._max_duration_ns)
        start_index = bisect_left(self._starts, start_ns)
        end_index = bisect_right(self._starts, end_ns)
        earlier = [trace for trace in self._traces[first:start_index] if trace.end_ns >= start_ns]
        return earlier + self._traces[start_index:end_index]

    def find(self, trace_id: int) -> Trace | None:
        """Return the trace with this id, or None."""
        return next((trace for trace in self._traces if trace.trace_id == trace_id), None)
