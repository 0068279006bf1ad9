"""What is wrong with the requests of an endpoint during an incident.

Most faults make them slow, by extra time at one place of their traces. Without a fault an incident stretches all spans
of a request alike, which no real cause does. Other faults make requests fail, or none arrive.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple, get_args

from exporter.demo.traces import Operation, SpanTimes

FaultKind = Literal["slow_call", "slow_instance", "more_calls", "slow_network", "retries", "errors", "silence"]
"""A slow call of something that is not traced, a slow instance of a service, one call that has become many after a
deployment, a slow network between two services, calls that fail and are repeated; requests that fail fast; or no
requests at all."""

FAULT_KINDS: Final[tuple[FaultKind, ...]] = get_args(FaultKind)

INSTANCES: Final = 3
"""Instances of the service at fault; requests are spread evenly over them."""
SLOW_INSTANCE: Final = 1
MORE_CALLS: Final = 24
RETRIES: Final = 12
_USUAL_VERSION: Final = "2.3.1"
_NEW_VERSION: Final = "2.4.0"


class FastFailures(NamedTuple):
    """Requests that fail before anything is called for them.

    Attributes:
        start: start of the incident, Unix seconds.
        end: its end.
        share: share of the requests that fail.
        factor: multiplies the duration of those.
    """

    start: float
    end: float
    share: float
    factor: float


@dataclass(frozen=True)
class Fault:
    """A fault that makes requests slow.

    Attributes:
        kind: what is wrong.
        service: service of the span in which the extra time passes.
        name: name of that span; of spans with one name, the first counts.
        span_kind: its kind: ``client`` for calls, ``server`` for a slow instance.
        owner: the service whose instances and version are shown.
    """

    kind: FaultKind
    service: str
    name: str
    span_kind: Literal["client", "server"]
    owner: str

    def position(self, operations: Sequence[Operation]) -> int:
        """Return the position of the span in a trace.

        Raises:
            StopIteration: no span has this service, name and kind.
        """
        wanted = (self.service, self.name, self.span_kind)
        return next(number for number, each in enumerate(operations) if (each.service, each.name, each.kind) == wanted)

    def labelled(self, operation: Operation, instance: int, *, in_incident: bool) -> Operation:
        """Return an operation with the instance and the version of its service, if that is the owner."""
        if operation.service != self.owner:
            return operation
        is_new = in_incident and self.kind == "more_calls"
        labels = (
            ("k8s.pod.name", f"{self.owner}-7c9f-{instance}"),
            ("service.version", _NEW_VERSION if is_new else _USUAL_VERSION),
        )
        return replace(operation, resource=(*operation.resource, *labels))

    def slows(self, instance: int) -> bool:
        """Whether requests are slow that this instance serves."""
        return self.kind != "slow_instance" or instance == SLOW_INSTANCE


class FaultyLayout(NamedTuple):
    """The spans of a request that a fault has made slower.

    Attributes:
        operations: one for each span.
        parents: the position of the parent of each span.
        copied: for each span beyond those of a usual request, the position of the one it repeats.
    """

    operations: tuple[Operation, ...]
    parents: tuple[int, ...]
    copied: tuple[int, ...]


def faulty_layout(fault: Fault, operations: Sequence[Operation], parents: Sequence[int]) -> FaultyLayout:
    """Return the spans that requests have during the incident: those of usual ones, and repeated calls."""
    position = fault.position(operations)
    repeated: list[int] = []
    if fault.kind == "more_calls":
        repeated = [position]
    elif fault.kind == "retries":
        children = [number for number, parent in enumerate(parents) if parent == position]
        repeated = [position, *children[:1]]
    times = MORE_CALLS if fault.kind == "more_calls" else RETRIES
    all_operations, all_parents, copied = list(operations), list(parents), []
    for _ in range(times if repeated else 0):
        first = len(all_operations)
        for each in repeated:
            operation = operations[each]
            if fault.kind == "retries":
                code = "http.response.status_code"
                attributes = tuple(pair for pair in operation.attributes if pair[0] != code)
                operation = replace(operation, status="error", attributes=(*attributes, (code, 503)))
            all_operations.append(operation)
            all_parents.append(parents[position] if each == position else first)
            copied.append(each)
    return FaultyLayout(tuple(all_operations), tuple(all_parents), tuple(copied))


def with_fault(
    fault: Fault, spans: Sequence[SpanTimes], parents: Sequence[int], position: int, extra_ns: int, copies: int
) -> list[SpanTimes]:
    """Return the times of the spans of a request that takes longer.

    Args:
        fault: the fault.
        spans: the spans of a usual request, and one with any time for each copy.
        parents: the position of the parent of each span.
        position: the span at fault.
        extra_ns: how much longer the request takes, in nanoseconds.
        copies: number of copies at the end of ``spans``.
    """
    usual = len(spans) - copies
    at_fault = spans[position]
    end_ns = at_fault.start_ns + at_fault.duration_ns
    ancestors = {position}
    while (above := parents[min(ancestors)]) >= 0:
        ancestors.add(above)
    if fault.kind in ("more_calls", "retries"):
        ancestors.discard(position)
    below = {position}
    for number in range(position + 1, usual):
        if parents[number] in below:
            below.add(number)
    moved_below = {"slow_network": extra_ns // 2, "retries": extra_ns}.get(fault.kind, 0)
    result = []
    for number, span in enumerate(spans[:usual]):
        start_ns, duration_ns = span.start_ns, span.duration_ns
        if number in ancestors:
            duration_ns += extra_ns
        if number == position:
            start_ns += extra_ns if fault.kind == "retries" else 0
        elif number in below:
            start_ns += moved_below
        elif number not in ancestors and start_ns >= end_ns:
            start_ns += extra_ns
        result.append(span._replace(start_ns=start_ns, duration_ns=duration_ns))
    if copies:
        result += _copies(fault, spans[usual:], at_fault, extra_ns)
    return result


def _copies(fault: Fault, spans: Sequence[SpanTimes], at_fault: SpanTimes, extra_ns: int) -> list[SpanTimes]:
    """Return the times of the repeated calls, one after the other: before the call that succeeds, or after it."""
    times = MORE_CALLS if fault.kind == "more_calls" else RETRIES
    each_ns, spans_each = extra_ns // times, len(spans) // times
    begin_ns = at_fault.start_ns + (at_fault.duration_ns if fault.kind == "more_calls" else 0)
    result = []
    for number, span in enumerate(spans):
        start_ns = begin_ns + number // spans_each * each_ns
        # The server span within a client span.
        margin_ns = each_ns // 50 * (number % spans_each)
        result.append(span._replace(start_ns=start_ns + margin_ns, duration_ns=each_ns - 2 * margin_ns))
    return result
