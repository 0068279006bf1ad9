"""Known requests and their traces."""

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

from exporter.demo.traces import ROOT, Operation, SpanTimes, Trace, TraceShape, TraceSource, TraceStore, make_trace
from exporter.model.span import SeriesKey

NS: Final = 1_000_000_000
MINUTE: Final = 60
HOUR: Final = 3600
DAY: Final = 24 * HOUR


class Request(NamedTuple):
    """One request: a span of ``series``, in nanoseconds; the trace ID is zero-padded."""

    series: SeriesKey
    start_ns: int
    duration_ns: int
    trace_id: str

    @property
    def start(self) -> float:
        """Start in Unix seconds."""
        return self.start_ns / NS


@cache
def shape_of(series: SeriesKey, *, failed: bool = False, version: str = "") -> TraceShape:
    """Return the shape of a trace with only a root span, of a service with a version unless that is empty."""
    resource = (("service.version", version),) if version else ()
    operation = Operation(series.service_name, series.span_name, resource=resource)
    return TraceShape((operation.failed() if failed else operation,), (ROOT,))


class Traffic:
    """Seeded requests to some endpoints.

    Durations are between 70 % and 100 % of their scale. In such a narrow range no hour can be quarantined, so
    a test can compute the baseline in advance.
    """

    def __init__(self, seed: int = 1) -> None:
        self._rng = random.Random(seed)
        self._traces: list[Trace] = []
        self.requests: list[Request] = []

    def request(
        self, series: SeriesKey, start: float, seconds: float, *, failed: bool = False, version: str = ""
    ) -> None:
        """Add a request, of a service with a version unless that is empty."""
        # Some IDs have leading zeros, which Tempo strips.
        trace_id = self._rng.getrandbits(self._rng.choice((128, 128, 120, 64))) | 1
        request = Request(series, int(start * NS), int(seconds * NS), f"{trace_id:032x}")
        span = SpanTimes(self._rng.getrandbits(64), request.start_ns, request.duration_ns)
        self.requests.append(request)
        self._traces.append(make_trace(trace_id, shape_of(series, failed=failed, version=version), [span]))

    def add(self, trace: Trace) -> None:
        """Add a trace that is not among the known requests."""
        self._traces.append(trace)

    def spread(
        self,
        series: SeriesKey,
        start: float,
        end: float,
        *,
        count: int,
        scale: float,
        failed_every: int = 0,
        version: str = "",
    ) -> None:
        """Add requests that start in ``[start, end)``.

        Args:
            series: their series.
            start: Unix seconds.
            end: Unix seconds.
            count: their number.
            scale: the seconds that they take at most.
            failed_every: every so many of them fails; 0 for none.
            version: version of the service; empty for none.
        """
        for number in range(count):
            begin = start + self._rng.random() * (end - start)
            failed = failed_every > 0 and number % failed_every == 0
            self.request(series, begin, scale * self._rng.uniform(0.7, 1.0), failed=failed, version=version)

    def hourly(self, series: SeriesKey, hours: Iterable[int], *, count: int, scale: float, version: str = "") -> None:
        """Add ``count`` requests in each hour; hours are given by their start."""
        for hour in hours:
            self.spread(series, hour, hour + HOUR, count=count, scale=scale, version=version)

    def between(self, start: float, end: float) -> int:
        """Return the number of requests that started in ``[start, end)``."""
        return sum(start * NS <= request.start_ns < end * NS for request in self.requests)

    def store(self) -> TraceStore:
        """Return the traces."""
        return TraceStore(self._traces)


@dataclass
class EndingIncident:
    """Traces with an incident that lasts until the test ends it.

    Attributes:
        slow: the traces with the incident.
        normal: traces without it, with other ids.
        end_ns: end of the incident; later traces are normal.
    """

    slow: TraceSource
    normal: TraceSource
    end_ns: int | None = None

    def overlapping(self, start_ns: int, end_ns: int) -> Sequence[Trace]:
        """Return the traces that overlap a range."""
        incident_end_ns = self.end_ns
        if incident_end_ns is None:
            return self.slow.overlapping(start_ns, end_ns)
        slow = [trace for trace in self.slow.overlapping(start_ns, end_ns) if trace.start_ns < incident_end_ns]
        return slow + [
            trace for trace in self.normal.overlapping(start_ns, end_ns) if trace.start_ns >= incident_end_ns
        ]

    def find(self, trace_id: int) -> Trace | None:
        """Return the trace with an ID."""
        return self.slow.find(trace_id) or self.normal.find(trace_id)

    def end(self) -> None:
        """End the incident now."""
        self.end_ns = time.time_ns()


@dataclass(frozen=True)
class JoinedTraces:
    """The traces of several sources, which differ in their ids."""

    sources: Sequence[TraceSource]

    def overlapping(self, start_ns: int, end_ns: int) -> Sequence[Trace]:
        """Return the traces that overlap a range, by start."""
        found = [trace for source in self.sources for trace in source.overlapping(start_ns, end_ns)]
        return sorted(found, key=lambda trace: trace.start_ns)

    def find(self, trace_id: int) -> Trace | None:
        """Return the trace with an ID."""
        return next((trace for source in self.sources if (trace := source.find(trace_id)) is not None), None)
