"""``/api/search`` of the embedded Tempo API.

If more traces match than the limit allows, the selection is as arbitrary as Tempo's: it goes through blocks of stored
traces, each in the order of trace ids, until it has enough.
"""

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Final

from exporter.demo.responses import (
    NS_PER_SECOND,
    ApiError,
    Visibility,
    go_duration,
    json_attributes,
    json_string,
    time_range,
    unsigned,
)
from exporter.demo.traceql import DURATION, NAME, Query, TraceQLError, field_value, parse
from exporter.demo.traces import Trace, TraceShape, TraceSource

BLOCK_NS: Final = 600 * NS_PER_SECOND
_BATCH_NS: Final = 6 * BLOCK_NS
# Without a range Tempo searches only traces that are not written to a block yet.
_RECENT_NS: Final = 3600 * NS_PER_SECOND
ROOT_NOT_RECEIVED: Final = "<root span not yet received>"
_DEFAULT_LIMIT: Final = 20
_DEFAULT_SPANS_PER_SPAN_SET: Final = 3
_BYTES_PER_TRACE: Final = 600


@dataclass(frozen=True)
class SearchLimits:
    """Limits of searches.

    Attributes:
        max_result_limit: maximum of ``limit``.
        max_duration_seconds: maximum range between ``start`` and ``end``.
        max_spans_per_span_set: maximum of ``spss``.
    """

    max_result_limit: int = 262_144
    max_duration_seconds: int = 168 * 3600
    max_spans_per_span_set: int = 100


@dataclass(frozen=True)
class SearchRequest:
    """A valid search; ``start`` and ``end`` in Unix seconds, both 0 for the last hour."""

    start: int
    end: int
    limit: int
    spans_per_span_set: int
    query_text: str
    tags: str

    @classmethod
    def parse(cls, params: Mapping[str, str], limits: SearchLimits) -> "SearchRequest":
        """Parse the query parameters, and check them in the same order as Tempo.

        Raises:
            ApiError: Tempo would reject the request.
            TraceQLError: the query is not supported.
        """
        start, end = time_range(params)
        limit = unsigned(params, "limit")
        if params.get("limit") and not limit:
            raise ApiError("invalid limit: must be a positive number")
        if limit > limits.max_result_limit:
            raise ApiError(f"limit {limit} exceeds max limit {limits.max_result_limit}")
        query_text = params.get("q", "")
        if query_text and parse(query_text).count_by is not None:
            raise TraceQLError("invalid TraceQL query: count_over_time() is only supported by /api/metrics/query_range")
        if end - start > limits.max_duration_seconds:
            longest = go_duration(limits.max_duration_seconds)
            raise ApiError(f"range specified by start and end exceeds {longest}. received start={start} end={end}")
        spss = unsigned(params, "spss")
        if spss > limits.max_spans_per_span_set:
            raise ApiError(f"spans per span set exceeds {limits.max_spans_per_span_set}. received {spss}")
        return cls(
            start=start,
            end=end,
            limit=limit or _DEFAULT_LIMIT,
            spans_per_span_set=spss or _DEFAULT_SPANS_PER_SPAN_SET,
            query_text=query_text,
            tags=params.get("tags", ""),
        )


class _ShapeQuery:
    """A query compiled for one shape: JSON templates, and the matching spans unless they depend on durations."""

    def __init__(self, query: Query, shape: TraceShape) -> None:
        self._query = query
        self._shape = shape
        self._matching_positions = None if query.depends_on_duration() else self._matching(None)
        self._head = _trace_head(shape)
        self._spans = [self._span_template(position) for position in range(len(shape.operations))]
        stats = b",".join(b'%b:{"spanCount":%d}' % (json_string(name), n) for name, n in shape.span_counts.items())
        self._stats = b'"serviceStats":{%b}' % stats

    def _matching(self, trace: Trace | None) -> tuple[int, ...]:
        shape, condition = self._shape, self._query.condition
        durations = [0] * len(shape.operations) if trace is None else [span.duration_ns for span in trace.spans]
        return tuple(
            position
            for position, duration_ns in enumerate(durations)
            if condition.matches(partial(field_value, shape, position, duration_ns=duration_ns))
        )

    def _span_template(self, position: int) -> bytes:
        shown = self._query.shown_fields()
        values = {
            selected.name: value
            for selected in shown
            if selected not in (NAME, DURATION) and (value := field_value(self._shape, position, selected)) is not None
        }
        name = self._shape.operations[position].name if NAME in shown else ""
        return b'{"spanID":"%%016x",%b"startTimeUnixNano":"%%d",%%b%b}' % (
            b'"name":%b,' % _literal(json_string(name)) if name else b"",
            b'"attributes":%b' % _literal(json_attributes(values)),
        )

    def matching(self, trace: Trace) -> tuple[int, ...]:
        """Return the positions of the matching spans."""
        return self._matching(trace) if self._matching_positions is None else self._matching_positions

    def render(self, trace: Trace, spans_per_span_set: int) -> bytes:
        """Render a matching trace as JSON."""
        matching = self.matching(trace)
        spans = []
        for position in matching[:spans_per_span_set]:
            span_id, start_ns, duration_ns = trace.spans[position]
            duration = b'"durationNanos":"%d",' % duration_ns if duration_ns else b""
            spans.append(self._spans[position] % (span_id, start_ns, duration))
        span_set = b'{"spans":[%b],"matched":%d}' % (b",".join(spans), len(matching))
        return b'{%b,"spanSet":%b,"spanSets":[%b],%b}' % (
            self._head % (trace.trace_id, trace.start_ns) + _duration_ms(trace),
            span_set,
            span_set,
            self._stats,
        )


def _literal(text: bytes) -> bytes:
    return text.replace(b"%", b"%%")


def _trace_head(shape: TraceShape) -> bytes:
    """Return a JSON template with placeholders for the trace id (without leading zeros, as in Tempo) and the start."""
    service, name = (shape.root.service, shape.root.name) if shape.root else (ROOT_NOT_RECEIVED, "")
    return b'"traceID":"%%x",%b%b"startTimeUnixNano":"%%d"' % (
        b'"rootServiceName":%b,' % _literal(json_string(service)) if service else b"",
        b'"rootTraceName":%b,' % _literal(json_string(name)) if name else b"",
    )


def _duration_ms(trace: Trace) -> bytes:
    milliseconds = (trace.end_ns - trace.start_ns) // 1_000_000
    return b',"durationMs":%d' % milliseconds if milliseconds else b""


class CompiledQuery:
    """A parsed query, compiled for each shape on first use."""

    def __init__(self, query_text: str) -> None:
        """Parse the query.

        Raises:
            TraceQLError: it is not understood.
        """
        self.parsed = parse(query_text)
        self._shapes: dict[TraceShape, _ShapeQuery] = {}

    def _shape_query(self, shape: TraceShape) -> _ShapeQuery:
        query = self._shapes.get(shape)
        if query is None:
            query = self._shapes[shape] = _ShapeQuery(self.parsed, shape)
        return query

    def matches(self, trace: Trace) -> bool:
        """Return whether any span of the trace matches."""
        return bool(self._shape_query(trace.shape).matching(trace))

    def render(self, trace: Trace, spans_per_span_set: int) -> bytes:
        """Render a matching trace as JSON."""
        return self._shape_query(trace.shape).render(trace, spans_per_span_set)


def _batches(source: TraceSource, start_ns: int, end_ns: int, newest_first: bool) -> Iterator[list[Trace]]:
    """Yield the traces that overlap a range without duplicates, in batches of some blocks."""
    cuts = [start_ns, *range((start_ns // _BATCH_NS + 1) * _BATCH_NS, end_ns + 1, _BATCH_NS), end_ns + 1]
    ranges = list(pairwise(cuts))
    for begin_ns, next_ns in reversed(ranges) if newest_first else ranges:
        traces = source.overlapping(begin_ns, next_ns - 1)
        yield [trace for trace in traces if begin_ns == start_ns or trace.start_ns >= begin_ns]


def search(source: TraceSource, request: SearchRequest, query: CompiledQuery | None, visibility: Visibility) -> bytes:
    """Run a search and return the response body; ``query`` is the compiled query of the request, if it has one.

    Raises:
        ApiError: the tags are invalid.
    """
    newest_first = query is not None and query.parsed.most_recent
    end_ns = min(request.end * NS_PER_SECOND if request.end else visibility.newest_ns, visibility.newest_ns)
    start_ns = max(request.start * NS_PER_SECOND if request.end else end_ns - _RECENT_NS, visibility.oldest_ns)
    matches = _matcher(request, query)
    traces: list[Trace] = []
    for batch in _batches(source, start_ns, end_ns, newest_first):
        traces += [trace for trace in batch if visibility.shows(trace) and matches(trace)]
        if len(traces) >= request.limit:
            break
    if len(traces) > request.limit and not newest_first:
        traces.sort(key=lambda trace: (trace.start_ns // BLOCK_NS, trace.trace_id))
        del traces[request.limit :]
    traces.sort(key=lambda trace: trace.start_ns, reverse=True)
    del traces[request.limit :]
    if query is not None:
        rendered = [query.render(trace, request.spans_per_span_set) for trace in traces]
    else:
        rendered = [
            b"{%b}" % (_trace_head(trace.shape) % (trace.trace_id, trace.start_ns) + _duration_ms(trace))
            for trace in traces
        ]
    inspected = (len(traces) + 1) * _BYTES_PER_TRACE
    blocks = max(1, (end_ns - start_ns) // BLOCK_NS + 1)
    return (
        b'{"traces":[%b],"metrics":{"inspectedBytes":"%d","totalBlocks":%d,"completedJobs":%d,"totalJobs":%d,'
        b'"totalBlockBytes":"%d"}}'
    ) % (b",".join(rendered), inspected, blocks, blocks, blocks, inspected)


def _matcher(request: SearchRequest, query: CompiledQuery | None) -> Callable[[Trace], bool]:
    if query is not None:
        return query.matches
    try:
        tags = dict(tag.partition("=")[::2] for tag in shlex.split(request.tags))
    except ValueError as error:
        raise ApiError(f"invalid tags: {error}") from None
    return lambda trace: any(
        tags.items() <= {**operation.resource_attributes, **operation.span_attributes, "name": operation.name}.items()
        for operation in trace.shape.operations
    )
