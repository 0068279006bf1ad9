"""Endpoints of a synthetic system: the calls behind each request, and the traces of its traffic."""

import math
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from exporter.demo.faults import INSTANCES, FastFailures, Fault, faulty_layout, with_fault
from exporter.demo.latency import HOUR_SECONDS, Incident, stream
from exporter.demo.traces import ROOT, Operation, SpanTimes, Trace, TraceShape, make_trace
from exporter.demo.traffic import MAX_DURATION_SECONDS, SeriesProfile, SeriesTraffic, SyntheticRequest

_NS: Final = 1_000_000_000
_HOUR_NS: Final = HOUR_SECONDS * _NS
_CACHED_HOURS: Final = 12
_ID_HOUR_BITS: Final = 16
_ID_DRAW_SHIFT: Final = 40
_GOLDEN: Final = 0x9E3779B97F4A7C15
_MASK_64: Final = 2**64 - 1
# A call takes between 75 % and 100 % of its share, depending on four bits of the trace id.
_JITTERS: Final = tuple(1.0 - step / 60 for step in range(16))


@dataclass(frozen=True)
class Call:
    """A child span. Shares are relative to the duration of its parent.

    Attributes:
        operation: service, name and kind.
        start_share: start after the start of the parent; 1 or more if it follows the parent.
        max_share: maximum duration.
        calls: its own child spans.
    """

    operation: Operation
    start_share: float
    max_share: float
    calls: tuple["Call", ...] = ()

    @property
    def end_share(self) -> float:
        """Latest end of the span and its children, as a share of its parent's duration."""
        return self.start_share + self.max_share * max([1.0, *(call.end_share for call in self.calls)])


@dataclass(frozen=True)
class Endpoint:
    """An endpoint with its calls and traffic.

    Attributes:
        operation: service, name and kind of the root span.
        profile: rate and latency of its requests.
        calls: child spans of the root span.
        trace_id_bits: 128, or 64 as old tracing libraries use.
        fault: where the extra time of the profile's incident passes; None stretches all spans alike.
        error_ratio: share of the requests that fail, independent of each other and of the duration.
        failures: an incident in which further requests fail, fast.
    """

    operation: Operation
    profile: SeriesProfile
    calls: tuple[Call, ...] = ()
    trace_id_bits: int = 128
    fault: Fault | None = None
    error_ratio: float = 0.0
    failures: FastFailures | None = None

    def seed(self, seed: int | str) -> str:
        """Derive the seed of its traffic from the seed of the system."""
        return f"{seed}/{self.operation.service}/{self.operation.name}"


class _FlatCall(NamedTuple):
    """A call with the position of its parent in the trace."""

    operation: Operation
    parent: int
    start_share: float
    max_share: float


def _flatten(calls: Sequence[Call], parent: int, next_position: int) -> Iterator[_FlatCall]:
    for call in calls:
        position = next_position
        yield _FlatCall(call.operation, parent, call.start_share, call.max_share)
        next_position += 1
        for below in _flatten(call.calls, position, next_position):
            yield below
            next_position += 1


class _EndpointTraces:
    """Generates the traces of one endpoint by hour."""

    def __init__(self, endpoint: Endpoint, seed: int | str) -> None:
        self._seed = endpoint.seed(seed)
        self._traffic = SeriesTraffic(endpoint.profile, self._seed)
        self._calls = tuple(_flatten(endpoint.calls, 0, 1))
        operations = (endpoint.operation, *(call.operation for call in self._calls))
        parents = (ROOT, *(call.parent for call in self._calls))
        self._fault = endpoint.fault
        self._incident = endpoint.profile.incidents[0] if endpoint.fault is not None else None
        self._shape = TraceShape(operations, parents)
        self._usual_shapes: list[TraceShape] = []
        self._faulty_shapes: list[TraceShape] = []
        if endpoint.fault is not None:
            fault = endpoint.fault
            self._position = fault.position(operations)
            layout = faulty_layout(fault, operations, parents)
            self._copies = len(layout.copied)
            for instance in range(INSTANCES):
                usual, faulty = (
                    TraceShape(
                        tuple(fault.labelled(each, instance, in_incident=in_incident) for each in shown_operations),
                        shown_parents,
                    )
                    for shown_operations, shown_parents, in_incident in (
                        (operations, parents, False),
                        (layout.operations, layout.parents, True),
                    )
                )
                self._usual_shapes.append(usual)
                self._faulty_shapes.append(faulty)
        self._random_id_bits = endpoint.trace_id_bits - _ID_HOUR_BITS
        self._failing_below = endpoint.error_ratio * (_MASK_64 + 1)
        self._failures = endpoint.failures
        self._rejected_shape = TraceShape((endpoint.operation.failed(),), (ROOT,))
        self._failed_shapes: dict[TraceShape, TraceShape] = {}

    def hour(self, hour: int) -> list[Trace]:
        """Generate the traces that start in an hour. The last 16 bits of their ids are the hour, for find()."""
        random_bits = stream(self._seed, "ids", hour).getrandbits
        hour_bits = hour % (1 << _ID_HOUR_BITS)
        return [
            self._trace(random_bits(self._random_id_bits) << _ID_HOUR_BITS | hour_bits, request)
            for request in self._traffic.hour(hour)
        ]

    def _trace(self, trace_id: int, request: SyntheticRequest) -> Trace:
        # Bits of the id that decide neither the jitter nor the instance.
        draw = (trace_id >> _ID_DRAW_SHIFT) * _GOLDEN & _MASK_64
        failures = self._failures
        if (
            failures is not None
            and failures.start * _NS <= request.start_ns < failures.end * _NS
            and draw < failures.share * (_MASK_64 + 1)
        ):
            rejected = SyntheticRequest(request.start_ns, int(request.duration_ns * failures.factor))
            return make_trace(trace_id, self._rejected_shape, self._spans(trace_id, rejected)[0][:1])
        trace = self._ordinary_trace(trace_id, request)
        if draw < self._failing_below:
            return trace._replace(shape=self._failed(trace.shape))
        return trace

    def _failed(self, shape: TraceShape) -> TraceShape:
        """Return the shape of the traces whose root span failed."""
        failed = self._failed_shapes.get(shape)
        if failed is None:
            root, *others = shape.operations
            failed = self._failed_shapes[shape] = TraceShape((root.failed(), *others), shape.parents)
        return failed

    def _ordinary_trace(self, trace_id: int, request: SyntheticRequest) -> Trace:
        if self._fault is not None and self._incident is not None:
            return self._trace_with_fault(trace_id, request, self._fault, self._incident)
        spans, end_ns = self._spans(trace_id, request)
        return Trace(trace_id, request.start_ns, end_ns, self._shape, tuple(spans))

    def _trace_with_fault(self, trace_id: int, request: SyntheticRequest, fault: Fault, incident: Incident) -> Trace:
        instance = (trace_id >> _ID_HOUR_BITS) % INSTANCES
        in_incident = incident.start * _NS <= request.start_ns < incident.end * _NS
        if not in_incident:
            spans, end_ns = self._spans(trace_id, request)
            return Trace(trace_id, request.start_ns, end_ns, self._usual_shapes[instance], tuple(spans))
        usual_ns = round(request.duration_ns / incident.factor)
        usual = SyntheticRequest(request.start_ns, usual_ns)
        spans, end_ns = self._spans(trace_id, usual)
        shape = self._faulty_shapes[instance]
        if self._copies:
            last_id = spans[-1].span_id
            spans += [
                SpanTimes(last_id + _GOLDEN * (copy + 1) & _MASK_64, request.start_ns, 0)
                for copy in range(self._copies)
            ]
        if fault.slows(instance):
            extra_ns = request.duration_ns - usual_ns
            spans = with_fault(fault, spans, shape.parents, self._position, extra_ns, self._copies)
        return make_trace(trace_id, shape, spans)

    def _spans(self, trace_id: int, request: SyntheticRequest) -> tuple[list[SpanTimes], int]:
        """Return the spans of a request whose calls take their usual shares of it, and the last end."""
        start_ns, duration_ns = request
        end_ns = start_ns + duration_ns
        noise = trace_id >> _ID_HOUR_BITS & _MASK_64
        span_id = noise * _GOLDEN & _MASK_64
        spans = [SpanTimes(span_id, start_ns, duration_ns)]
        for _, parent, start_share, max_share in self._calls:
            _, parent_start_ns, parent_duration_ns = spans[parent]
            takes_ns = int(parent_duration_ns * max_share * _JITTERS[noise & 0xF])
            begin_ns = parent_start_ns + int(parent_duration_ns * start_share)
            noise >>= 4
            span_id = span_id + _GOLDEN & _MASK_64
            spans.append(SpanTimes(span_id, begin_ns, takes_ns))
            if begin_ns + takes_ns > end_ns:
                end_ns = begin_ns + takes_ns
        return spans, end_ns


class SyntheticTraces:
    """Source of traces that are generated on demand, by hour, reproducibly.

    It is infinite and includes traces of the future; callers must leave those out.
    """

    def __init__(self, endpoints: Sequence[Endpoint], seed: int | str, begin: float) -> None:
        """Create a source.

        Args:
            endpoints: the endpoints, with distinct service and name.
            seed: another seed gives different traffic of the same kind.
            begin: time of the first request, Unix seconds.
        """
        self.endpoints = tuple(endpoints)
        self._begin_ns = math.ceil(begin * _NS)
        self._endpoint_traces = [_EndpointTraces(endpoint, seed) for endpoint in endpoints]
        end_share = max([1.0, *(call.end_share for endpoint in endpoints for call in endpoint.calls)])
        self._max_duration_ns = math.ceil(MAX_DURATION_SECONDS * end_share) * _NS
        self._cached_hour = lru_cache(maxsize=_CACHED_HOURS)(self._make_hour)
        self._lock = threading.Lock()

    def _hour(self, hour: int) -> tuple[list[Trace], list[int]]:
        """Return the traces of an hour from the cache, or generate them in one thread at a time."""
        with self._lock:
            return self._cached_hour(hour)

    def _make_hour(self, hour: int) -> tuple[list[Trace], list[int]]:
        """Generate the traces that start in an hour, sorted by start, and return them with their starts."""
        traces = [
            trace
            for endpoint_traces in self._endpoint_traces
            for trace in endpoint_traces.hour(hour)
            if trace.start_ns >= self._begin_ns
        ]
        traces.sort(key=lambda trace: trace.start_ns)
        return traces, [trace.start_ns for trace in traces]

    def overlapping(self, start_ns: int, end_ns: int) -> Sequence[Trace]:
        """Return the traces that overlap ``[start_ns, end_ns]``, bounds included, by start."""
        overlapping_traces: list[Trace] = []
        first_ns = max(start_ns - self._max_duration_ns, self._begin_ns)
        for hour in range(first_ns // _HOUR_NS, end_ns // _HOUR_NS + 1):
            traces, starts = self._hour(hour)
            end_index = bisect_right(starts, end_ns)
            start_index = bisect_left(starts, start_ns, 0, end_index)
            overlapping_traces += [trace for trace in traces[:start_index] if trace.end_ns >= start_ns]
            overlapping_traces += traces[start_index:end_index]
        return overlapping_traces

    def find(self, trace_id: int) -> Trace | None:
        """Return the trace with this id, which contains its hour."""
        begin_hour = self._begin_ns // _HOUR_NS
        hour = begin_hour + (trace_id - begin_hour) % (1 << _ID_HOUR_BITS)
        return next((trace for trace in self._hour(hour)[0] if trace.trace_id == trace_id), None)
