"""Endpoints of a synthetic system: the calls behind each request, and the traces that come of its traffic."""

import math
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from exporter.demo.latency import HOUR_SECONDS, stream
from exporter.demo.traces import ROOT, Operation, SpanTimes, Trace, TraceShape
from exporter.demo.traffic import MAX_DURATION_SECONDS, SeriesProfile, SeriesTraffic, SyntheticRequest

_NS: Final = 1_000_000_000
_HOUR_NS: Final = HOUR_SECONDS * _NS
_HOURS_KEPT: Final = 12
_ID_HOUR_BITS: Final = 16
_GOLDEN: Final = 0x9E3779B97F4A7C15
_MASK_64: Final = 2**64 - 1
# A call takes between three quarters of its share and all of it, depending on four bits of the trace id.
_JITTERS: Final = tuple(1.0 - step / 60 for step in range(16))


@dataclass(frozen=True)
class Call:
    """A span below another one.

    Attributes:
        operation: what it is about.
        begins: when it begins, as a share of its parent's duration; 1 or more for what follows afterwards.
        takes: how long it takes at most, as a share of its parent's duration.
        calls: the spans below it.
    """

    operation: Operation
    begins: float
    takes: float
    calls: tuple["Call", ...] = ()

    @property
    def ends(self) -> float:
        """When the last span of it ends at the latest, as a share of its parent's duration."""
        return self.begins + self.takes * max([1.0, *(call.ends for call in self.calls)])


@dataclass(frozen=True)
class Endpoint:
    """An endpoint: its root span, what it calls, and its traffic.

    Attributes:
        operation: what the root span is about.
        profile: when requests come and how long they take.
        calls: the spans below the root span.
        trace_id_bits: 128, or 64 where an old tracing library gives shorter ids.
    """

    operation: Operation
    profile: SeriesProfile
    calls: tuple[Call, ...] = ()
    trace_id_bits: int = 128

    def seed(self, seed: int | str) -> str:
        """The seed of its traffic in a system that has this seed."""
        return f"{seed}/{self.operation.service}/{self.operation.name}"


class _FlatCall(NamedTuple):
    """A call with the position of its parent in the trace."""

    operation: Operation
    parent: int
    begins: float
    takes: float


def _flatten(calls: Sequence[Call], parent: int, next_position: int) -> Iterator[_FlatCall]:
    for call in calls:
        position = next_position
        yield _FlatCall(call.operation, parent, call.begins, call.takes)
        next_position += 1
        for below in _flatten(call.calls, position, next_position):
            yield below
            next_position += 1


class _EndpointTraces:
    """The traces of one endpoint, by the hour."""

    def __init__(self, endpoint: Endpoint, seed: int | str) -> None:
        self._seed = endpoint.seed(seed)
        self._traffic = SeriesTraffic(endpoint.profile, self._seed)
        self._calls = tuple(_flatten(endpoint.calls, 0, 1))
        self._shape = TraceShape(
            operations=(endpoint.operation, *(call.operation for call in self._calls)),
            parents=(ROOT, *(call.parent for call in self._calls)),
        )
        self._random_id_bits = endpoint.trace_id_bits - _ID_HOUR_BITS

    def hour(self, hour: int) -> list[Trace]:
        """The traces that begin in an hour; the last 16 bits of their ids are the hour, so that they can be found."""
        random_bits = stream(self._seed, "ids", hour).getrandbits
        hour_bits = hour % (1 << _ID_HOUR_BITS)
        return [
            self._trace(random_bits(self._random_id_bits) << _ID_HOUR_BITS | hour_bits, request)
            for request in self._traffic.hour(hour)
        ]

    def _trace(self, trace_id: int, request: SyntheticRequest) -> Trace:
        start_ns, duration_ns = request
        end_ns = start_ns + duration_ns
        noise = trace_id >> _ID_HOUR_BITS & _MASK_64
        span_id = noise * _GOLDEN & _MASK_64
        spans = [SpanTimes(span_id, start_ns, duration_ns)]
        for _, parent, begins, takes in self._calls:
            _, parent_start_ns, parent_duration_ns = spans[parent]
            takes_ns = int(parent_duration_ns * takes * _JITTERS[noise & 0xF])
            begin_ns = parent_start_ns + int(parent_duration_ns * begins)
            noise >>= 4
            span_id = span_id + _GOLDEN & _MASK_64
            spans.append(SpanTimes(span_id, begin_ns, takes_ns))
            if begin_ns + takes_ns > end_ns:
                end_ns = begin_ns + takes_ns
        return Trace(trace_id, start_ns, end_ns, self._shape, tuple(spans))


class SyntheticTraces:
    """A source of traces that are made when they are asked for, hour by hour, and always the same.

    It has no end: the traces of the future are there as well, for whoever asks to leave out.
    """

    def __init__(self, endpoints: Sequence[Endpoint], seed: int | str, begin: float) -> None:
        """Make the traffic of some endpoints.

        Args:
            endpoints: the endpoints; no two have the same service and name.
            seed: another one makes other traffic of the same kind.
            begin: nothing happened before this instant (unix seconds).
        """
        self.endpoints = tuple(endpoints)
        self._begin_ns = math.ceil(begin * _NS)
        self._parts = [_EndpointTraces(endpoint, seed) for endpoint in endpoints]
        ends = max([1.0, *(call.ends for endpoint in endpoints for call in endpoint.calls)])
        self._longest_ns = math.ceil(MAX_DURATION_SECONDS * ends) * _NS
        self._kept_hours = lru_cache(maxsize=_HOURS_KEPT)(self._make_hour)
        self._lock = threading.Lock()

    def _hour(self, hour: int) -> tuple[list[Trace], list[int]]:
        """An hour's traces; neighbouring windows share hours, and none is made by two threads at once."""
        with self._lock:
            return self._kept_hours(hour)

    def _make_hour(self, hour: int) -> tuple[list[Trace], list[int]]:
        """The traces that begin in an hour, by start, and their starts."""
        traces = [trace for part in self._parts for trace in part.hour(hour) if trace.start_ns >= self._begin_ns]
        traces.sort(key=lambda trace: trace.start_ns)
        return traces, [trace.start_ns for trace in traces]

    def overlapping(self, start_ns: int, end_ns: int) -> Sequence[Trace]:
        """The traces of which a part lies in ``[start_ns, end_ns]``, both ends inclusive, by start."""
        found: list[Trace] = []
        first_ns = max(start_ns - self._longest_ns, self._begin_ns)
        for hour in range(first_ns // _HOUR_NS, end_ns // _HOUR_NS + 1):
            traces, starts = self._hour(hour)
            behind = bisect_right(starts, end_ns)
            inside = bisect_left(starts, start_ns, 0, behind)
            found += [trace for trace in traces[:inside] if trace.end_ns >= start_ns]
            found += traces[inside:behind]
        return found

    def find(self, trace_id: int) -> Trace | None:
        """The trace with an id, from the hour that the id names."""
        begin_hour = self._begin_ns // _HOUR_NS
        hour = begin_hour + (trace_id - begin_hour) % (1 << _ID_HOUR_BITS)
        return next((trace for trace in self._hour(hour)[0] if trace.trace_id == trace_id), None)
