"""``/api/metrics/query_range`` of the embedded Tempo API: counts of matching spans, by field and step."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Final, Literal

from exporter.demo.responses import (
    NS_PER_SECOND,
    ApiError,
    Visibility,
    go_duration,
    json_attributes,
    time_range,
)
from exporter.demo.traceql import DURATION, Query, field_value, parse
from exporter.demo.traces import TraceSource
from exporter.model.traceql import TraceQLError, Value

MetricsMode = Literal["enabled", "empty", "refused"]
"""How metrics queries are answered: ``enabled`` as by Tempo 3; ``empty`` without series, as by Tempo 2 for old ranges
whose blocks its metrics-generator does not keep; ``refused`` with an error, as by Tempo 2 for recent ranges."""

_STEP_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600}
_MAX_POINTS: Final = 11_000
_MAX_COUNT_FIELDS: Final = 5


@dataclass(frozen=True)
class MetricsRequest:
    """A valid request, in Unix seconds. Data points are at ``start``, ``start + step`` … ``end``."""

    query: Query
    start: int
    end: int
    step: int

    @classmethod
    def parse(cls, params: Mapping[str, str], max_duration_seconds: int) -> "MetricsRequest":
        """Parse the query parameters.

        The range is widened to whole steps, plus one step at its start, before its length is checked.

        Raises:
            ApiError: Tempo would reject the request.
            TraceQLError: the query is not supported.
        """
        start, end = time_range(params)
        if not end:
            raise ApiError("start and end required")
        match = re.fullmatch(r"(\d+)([smh]?)", params.get("step", ""))
        step = int(match[1]) * _STEP_UNITS[match[2]] if match else 0
        if not step:
            raise ApiError(f"invalid step: {params.get('step', '')!r} is not a positive number of s, m or h")
        query = parse(params.get("q", ""))
        if query.count_by is None or DURATION in query.count_by:
            raise TraceQLError("invalid TraceQL query: count_over_time() by fields is the only supported aggregate")
        if len(query.count_by) > _MAX_COUNT_FIELDS:
            raise ApiError(f"compiling query: metrics group by {len(query.count_by)} values not yet supported")
        start -= start % step
        end += -end % step
        if end - start + step > max_duration_seconds:
            raise ApiError(
                f"metrics query time range exceeds the maximum allowed duration of {go_duration(max_duration_seconds)}"
            )
        if (end - start) // step >= _MAX_POINTS:
            raise ApiError(f"the step {step}s is too short: more than {_MAX_POINTS} points")
        return cls(query, start, end, step)


def count_spans(source: TraceSource, request: MetricsRequest, visibility: Visibility) -> bytes:
    """Return the response body: exact counts, each at the end of its step; the start of a step is excluded."""
    query, step_ns = request.query, request.step * NS_PER_SECOND
    start_ns = (request.start - request.step) * NS_PER_SECOND
    end_ns = request.end * NS_PER_SECOND
    points = (request.end - request.start) // request.step + 1
    counts: dict[tuple[Value | None, ...], list[int]] = {}
    by = query.count_by or ()
    inspected = 0
    for trace in source.overlapping(start_ns, end_ns):
        if not visibility.shows(trace):
            continue
        shape = trace.shape
        for position in chain(*visibility.parts(trace)):
            span = trace.spans[position]
            if not start_ns < span.start_ns <= end_ns:
                continue
            inspected += 1
            if query.condition.matches(partial(field_value, shape, position, duration_ns=span.duration_ns)):
                key = tuple(field_value(shape, position, selected) for selected in by)
                series = counts.setdefault(key, [0] * points)
                series[(span.start_ns - start_ns - 1) // step_ns] += 1
    rendered = []
    for key, series in counts.items():
        labels: dict[str, Value] = {
            str(selected): "nil" if value is None else value for selected, value in zip(by, key, strict=True)
        }
        samples = b",".join(
            b'{"timestampMs":"%d"%b}'
            % ((request.start + point * request.step) * 1000, b',"value":%d' % count if count else b"")
            for point, count in enumerate(series)
        )
        names = json_attributes(labels or {"__name__": "count_over_time"})
        rendered.append(b'{"labels":%b,"samples":[%b]}' % (names, samples))
    return (
        b'{"series":[%b],"metrics":{"inspectedBytes":"%d","totalBlocks":1,"completedJobs":1,"totalJobs":1,'
        b'"totalBlockBytes":"%d","inspectedSpans":"%d"}}'
    ) % (b",".join(rendered), (inspected + 1) * 100, (inspected + 1) * 100, inspected)
