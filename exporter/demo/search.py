"""``/api/search`` of the embedded Tempo API: which traces a search finds, and their JSON.

What a search returns when there is more than its limit is as unhelpful as in Tempo: blocks of stored traces are gone
through one after the other and each in the order of trace ids, until there are enough.
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
_STRETCH_NS: Final = 6 * BLOCK_NS
# Without a window Tempo looks only at what it has not written to a block yet.
_RECENT_NS: Final = 3600 * NS_PER_SECOND
ROOT_NOT_RECEIVED: Final = "<root span not yet received>"
_DEFAULT_LIMIT: Final = 20
_DEFAULT_SPANS_PER_SPAN_SET: Final = 3
_BYTES_PER_TRACE: Final = 600


@dataclass(frozen=True)
class SearchLimits:
    """What a search may ask for.

    Attributes:
        max_result_limit: the highest ``limit``.
        max_duration_seconds: the longest range between ``start`` and ``end``.
        max_spans_per_span_set: the highest ``spss``.
    """

    max_result_limit: int = 262_144
    max_duration_seconds: int = 168 * 3600
    max_spans_per_span_set: int = 100


@dataclass(frozen=True)
class SearchRequest:
    """A search that Tempo accepts; ``start`` and ``end`` in unix seconds, both 0 for the last hour."""

    start: int
    end: int
    limit: int
    spans_per_span_set: int
    query_text: str
    tags: str

    @classmethod
    def parse(cls, params: Mapping[str, str], limits: SearchLimits) -> "SearchRequest":
        """The search that some parameters ask for.

        Raises:
            Refused: Tempo would refuse it; what it checks first comes first.
            TraceQLError: the query is not understood.
        """
        start, end = time_range(params)
        limit = unsigned(params, "limit")
        if params.get("limit") and not limit:
            raise ApiError("invalid limit: must be a positive number")
        if limit > limits.max_result_limit:
            raise ApiError(f"limit {limit} exceeds max limit {limits.max_result_limit}")
        query_text = params.get("q", "")
        if query_text and parse(query_text).count_by is not None:
            raise TraceQLError("invalid TraceQL query: count_over_time() belongs to /api/metrics/query_range")
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


class _ShapePlan:
    """What a query means for all traces of one shape: templates of their JSON, and often also what matches."""

    def __init__(self, query: Query, shape: TraceShape) -> None:
        self._query = query
        self._shape = shape
        self._always = None if query.depends_on_duration() else self._matching(None)
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
            wanted.name: value
            for wanted in shown
            if wanted not in (NAME, DURATION) and (value := field_value(self._shape, position, wanted)) is not None
        }
        name = self._shape.operations[position].name if NAME in shown else ""
        return b'{"spanID":"%%016x",%b"startTimeUnixNano":"%%d",%%b%b}' % (
            b'"name":%b,' % _literal(json_string(name)) if name else b"",
            b'"attributes":%b' % _literal(json_attributes(values)),
        )

    def matching(self, trace: Trace) -> tuple[int, ...]:
        """The positions of the spans that match."""
        return self._matching(trace) if self._always is None else self._always

    def render(self, trace: Trace, spans_per_span_set: int) -> bytes:
        """The JSON of a trace that was found."""
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
    """Template of the fields of a trace, for its id (whose leading zeros Tempo leaves out) and its start."""
    service, name = (shape.root.service, shape.root.name) if shape.root else (ROOT_NOT_RECEIVED, "")
    return b'"traceID":"%%x",%b%b"startTimeUnixNano":"%%d"' % (
        b'"rootServiceName":%b,' % _literal(json_string(service)) if service else b"",
        b'"rootTraceName":%b,' % _literal(json_string(name)) if name else b"",
    )


def _duration_ms(trace: Trace) -> bytes:
    milliseconds = (trace.end_ns - trace.start_ns) // 1_000_000
    return b',"durationMs":%d' % milliseconds if milliseconds else b""


class CompiledQuery:
    """A query, and what it means for each shape it has met."""

    def __init__(self, query_text: str) -> None:
        """Parse the query.

        Raises:
            TraceQLError: it is not understood.
        """
        self.query = parse(query_text)
        self._shapes: dict[TraceShape, _ShapePlan] = {}

    def _for(self, shape: TraceShape) -> _ShapePlan:
        plan = self._shapes.get(shape)
        if plan is None:
            plan = self._shapes[shape] = _ShapePlan(self.query, shape)
        return plan

    def matches(self, trace: Trace) -> bool:
        """Whether a span of the trace matches."""
        return bool(self._for(trace.shape).matching(trace))

    def render(self, trace: Trace, spans_per_span_set: int) -> bytes:
        """The JSON of a trace that matches."""
        return self._for(trace.shape).render(trace, spans_per_span_set)


def _batches(source: TraceSource, start_ns: int, end_ns: int, newest_first: bool) -> Iterator[list[Trace]]:
    """The traces that overlap a window, each once: those of one stretch of some blocks after the other."""
    cuts = [start_ns, *range((start_ns // _STRETCH_NS + 1) * _STRETCH_NS, end_ns + 1, _STRETCH_NS), end_ns + 1]
    stretches = list(pairwise(cuts))
    for begin_ns, behind_ns in reversed(stretches) if newest_first else stretches:
        traces = source.overlapping(begin_ns, behind_ns - 1)
        yield [trace for trace in traces if begin_ns == start_ns or trace.start_ns >= begin_ns]


def search(source: TraceSource, request: SearchRequest, plan: CompiledQuery | None, visibility: Visibility) -> bytes:
    """The body of an answer; ``plan`` is that of the request's query, None where it has none.

    Raises:
        Refused: the tags cannot be read.
    """
    newest_first = plan is not None and plan.query.most_recent
    end_ns = min(request.end * NS_PER_SECOND if request.end else visibility.newest_ns, visibility.newest_ns)
    start_ns = max(request.start * NS_PER_SECOND if request.end else end_ns - _RECENT_NS, visibility.oldest_ns)
    matches = _matcher(request, plan)
    found: list[Trace] = []
    for batch in _batches(source, start_ns, end_ns, newest_first):
        found += [trace for trace in batch if visibility.shows(trace) and matches(trace)]
        if len(found) >= request.limit:
            break
    if len(found) > request.limit and not newest_first:
        found.sort(key=lambda trace: (trace.start_ns // BLOCK_NS, trace.trace_id))
        del found[request.limit :]
    found.sort(key=lambda trace: trace.start_ns, reverse=True)
    del found[request.limit :]
    if plan is not None:
        rendered = [plan.render(trace, request.spans_per_span_set) for trace in found]
    else:
        rendered = [
            b"{%b}" % (_trace_head(trace.shape) % (trace.trace_id, trace.start_ns) + _duration_ms(trace))
            for trace in found
        ]
    inspected = (len(found) + 1) * _BYTES_PER_TRACE
    blocks = max(1, (end_ns - start_ns) // BLOCK_NS + 1)
    return (
        b'{"traces":[%b],"metrics":{"inspectedBytes":"%d","totalBlocks":%d,"completedJobs":%d,"totalJobs":%d,'
        b'"totalBlockBytes":"%d"}}'
    ) % (b",".join(rendered), inspected, blocks, blocks, blocks, inspected)


def _matcher(request: SearchRequest, plan: CompiledQuery | None) -> Callable[[Trace], bool]:
    if plan is not None:
        return plan.matches
    try:
        wanted = dict(tag.partition("=")[::2] for tag in shlex.split(request.tags))
    except ValueError as error:
        raise ApiError(f"invalid tags: {error}") from None
    return lambda trace: any(
        wanted.items() <= {**operation.resource_attributes, **operation.span_attributes, "name": operation.name}.items()
        for operation in trace.shape.operations
    )
