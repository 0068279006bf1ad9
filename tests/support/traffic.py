"""Known requests and their traces."""

import random
from collections.abc import Iterable
from functools import cache
from typing import Final, NamedTuple

from exporter.demo.traces import ROOT, Operation, SpanTimes, Trace, TraceShape, TraceStore, make_trace
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
def shape_of(series: SeriesKey) -> TraceShape:
    """Return the shape of a trace with only a root span."""
    return TraceShape((Operation(series.service_name, series.span_name),), (ROOT,))


class Traffic:
    """Seeded requests to some endpoints.

    Durations are between 70 % and 100 % of their scale. In such a narrow range no hour can be quarantined, so
    a test can compute the baseline in advance.
    """

    def __init__(self, seed: int = 1) -> None:
        self._rng = random.Random(seed)
        self._traces: list[Trace] = []
        self.requests: list[Request] = []

    def request(self, series: SeriesKey, start: float, seconds: float) -> None:
        """Add a request."""
        # Some IDs have leading zeros, which Tempo strips.
        trace_id = self._rng.getrandbits(self._rng.choice((128, 128, 120, 64))) | 1
        request = Request(series, int(start * NS), int(seconds * NS), f"{trace_id:032x}")
        span = SpanTimes(self._rng.getrandbits(64), request.start_ns, request.duration_ns)
        self.requests.append(request)
        self._traces.append(make_trace(trace_id, shape_of(series), [span]))

    def add(self, trace: Trace) -> None:
        """Add a trace that is not among the known requests."""
        self._traces.append(trace)

    def spread(self, series: SeriesKey, start: float, end: float, *, count: int, scale: float) -> None:
        """Add ``count`` requests that start in ``[start, end)`` and take up to ``scale`` seconds."""
        for _ in range(count):
            begin = start + self._rng.random() * (end - start)
            self.request(series, begin, scale * self._rng.uniform(0.7, 1.0))

    def hourly(self, series: SeriesKey, hours: Iterable[int], *, count: int, scale: float) -> None:
        """Add ``count`` requests in each hour; hours are given by their start."""
        for hour in hours:
            self.spread(series, hour, hour + HOUR, count=count, scale=scale)

    def between(self, start: float, end: float) -> int:
        """Return the number of requests that started in ``[start, end)``."""
        return sum(start * NS <= request.start_ns < end * NS for request in self.requests)

    def store(self) -> TraceStore:
        """Return the traces."""
        return TraceStore(self._traces)
