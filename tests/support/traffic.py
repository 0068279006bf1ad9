"""Requests that a test knows one by one, and the traces that they become."""

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
    """What became of one request: a span of ``series``; times in nanoseconds, the trace id with its leading zeros."""

    series: SeriesKey
    start_ns: int
    duration_ns: int
    trace_id: str

    @property
    def start(self) -> float:
        """When it began, unix seconds."""
        return self.start_ns / NS


@cache
def shape_of(series: SeriesKey) -> TraceShape:
    """A trace of nothing but its root span."""
    return TraceShape((Operation(series.service_name, series.span_name),), (ROOT,))


class Traffic:
    """Requests to some endpoints, always the same for the same seed.

    Durations lie within 70 % and 100 % of their scale. So narrow a range holds nothing that any hour could be
    quarantined for, whatever the hour, which makes it possible to say beforehand what a baseline consists of.
    """

    def __init__(self, seed: int = 1) -> None:
        self._rng = random.Random(seed)
        self._traces: list[Trace] = []
        self.requests: list[Request] = []

    def request(self, series: SeriesKey, start: float, seconds: float) -> None:
        """One request."""
        # Some ids begin with zeros, which Tempo strips.
        trace_id = self._rng.getrandbits(self._rng.choice((128, 128, 120, 64))) | 1
        request = Request(series, int(start * NS), int(seconds * NS), f"{trace_id:032x}")
        span = SpanTimes(self._rng.getrandbits(64), request.start_ns, request.duration_ns)
        self.requests.append(request)
        self._traces.append(make_trace(trace_id, shape_of(series), [span]))

    def add(self, trace: Trace) -> None:
        """A trace of its own, which stands for no request that is known."""
        self._traces.append(trace)

    def spread(self, series: SeriesKey, start: float, end: float, *, count: int, scale: float) -> None:
        """So many requests that begin in ``[start, end)``, which take about ``scale`` seconds each."""
        for _ in range(count):
            begin = start + self._rng.random() * (end - start)
            self.request(series, begin, scale * self._rng.uniform(0.7, 1.0))

    def hourly(self, series: SeriesKey, hours: Iterable[int], *, count: int, scale: float) -> None:
        """So many requests in each of some hours, given by when they begin."""
        for hour in hours:
            self.spread(series, hour, hour + HOUR, count=count, scale=scale)

    def between(self, start: float, end: float) -> int:
        """How many requests began in ``[start, end)``."""
        return sum(start * NS <= request.start_ns < end * NS for request in self.requests)

    def store(self) -> TraceStore:
        """The traces."""
        return TraceStore(self._traces)
