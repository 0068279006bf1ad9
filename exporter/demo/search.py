"""``/api/search`` of the embedded Tempo API.

If more traces match than the limit allows, the selection is as arbitrary as Tempo's: it goes through blocks of stored
traces, each in the order of trace ids, until it has enough.

Where parts of a trace are in several blocks, a search finds span sets in each of them and does not join them: of those
with the same values of ``by()``, it returns the one with most spans.
"""

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
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
from exporter.demo.traceql import DURATION, PARENT_ID, SPAN_ID, TRACE_ID, Query, field_value, parse
from exporter.demo.traces import Trace, TraceShape, TraceSource, parent_span_id
from exporter.model.traceql import NAME, Field, TraceQLError, Value

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


_SINGLE: Final = b'{"spans":[%b],"matched":1,"attributes":[{"key":"by(span:id)","value":{"stringValue":"%%016x"}}]}'

_SpanSet = tuple[tuple[Value | None, ...], tuple[int, ...]]
"""The values of the fields of ``by()``, and the positions of the spans."""


class _ShapeQuery:
    """A query compiled for one shape: JSON templates, and the matching spans unless they depend on durations."""

    def __init__(self, query: Query, shape: TraceShape) -> None:
        self._query = query
        self._shape = shape
        self._matching_positions: tuple[int, ...] | None = None
        if query.trace_ids() is not None:
            self._matching_positions = tuple(range(len(shape.operations)))
        elif not query.depends_on_duration():
            self._matching_positions = self._matching(None)
        self._shows_parents = PARENT_ID in query.selected
        self._head = _trace_head(shape)
        self._spans = [self._span_template(position) for position in range(len(shape.operations))]
        errors = shape.error_counts
        stats = [
            b'%b:{"spanCount":%d%b}'
            % (json_string(name), n, b',"errorCount":%d' % errors[name] if errors[name] else b"")
            for name, n in shape.span_counts.items()
        ]
        self._stats = b'"serviceStats":{%b}' % b",".join(stats)
        self._single = (
            [_SINGLE % span for span in self._spans]
            if query.group_by == (SPAN_ID,) and not self._shows_parents
            else None
        )

    def _matching(self, trace: Trace | None, part: Iterable[int] | None = None) -> tuple[int, ...]:
        """Return the positions of the matching spans, of all or those of a part; none unless each filter has some."""
        shape = self._shape
        durations = [0] * len(shape.operations) if trace is None else [span.duration_ns for span in trace.spans]
        positions = range(len(durations)) if part is None else part
        found = [
            [
                position
                for position in positions
                if condition.matches(partial(field_value, shape, position, duration_ns=durations[position]))
            ]
            for condition in self._query.conditions
        ]
        return tuple(sorted({*chain.from_iterable(found)})) if all(found) else ()

    def _span_template(self, position: int) -> bytes:
        # Like Tempo, which reads a compared field only where the comparison holds.
        met = chain.from_iterable(
            condition.matching_fields(partial(field_value, self._shape, position))
            for condition in self._query.conditions
        )
        shown = {*self._query.selected, *met} - {TRACE_ID}
        values = {
            selected.name: value
            for selected in self._query.shown_fields()
            if selected in shown
            and selected not in (NAME, DURATION, PARENT_ID)
            and (value := field_value(self._shape, position, selected)) is not None
        }
        name = self._shape.operations[position].name if NAME in shown else ""
        attributes = _literal(json_attributes(values))
        if self._shows_parents:
            comma = b"," if values else b""
            attributes = b'[{"key":"span:parentID","value":{"stringValue":"%%b"}}%b%b' % (comma, attributes[1:])
        return b'{"spanID":"%%016x",%b"startTimeUnixNano":"%%d",%%b"attributes":%b}' % (
            b'"name":%b,' % _literal(json_string(name)) if name else b"",
            attributes,
        )

    def matching(self, trace: Trace) -> tuple[int, ...]:
        """Return the positions of the matching spans."""
        return self._matching(trace) if self._matching_positions is None else self._matching_positions

    def span_sets(self, trace: Trace, parts: Iterable[tuple[int, ...]]) -> list[_SpanSet]:
        """Return the span sets of the parts of a trace that are in different blocks, as far as Tempo returns them."""
        best: dict[tuple[Value | None, ...], tuple[int, ...]] = {}
        whole = frozenset(self.matching(trace))
        for part in parts:
            # Of several filters, each has to match within the block.
            matching = frozenset(self._matching(trace, part)) if self._query.also else whole
            found: dict[tuple[Value | None, ...], list[int]] = {}
            for position in part:
                if position in matching:
                    values = tuple(self._group_value(trace, position, each) for each in self._query.group_by)
                    found.setdefault(values, []).append(position)
            for values, positions in found.items():
                if len(positions) > len(best.get(values, ())):
                    best[values] = tuple(positions)
        return list(best.items())

    def _group_value(self, trace: Trace, position: int, selected: Field) -> Value | None:
        span = trace.spans[position]
        if selected == SPAN_ID:
            return f"{span.span_id:016x}"
        return field_value(self._shape, position, selected, duration_ns=span.duration_ns)

    def render(self, trace: Trace, spans_per_span_set: int, span_sets: Sequence[_SpanSet] | None = None) -> bytes:
        """Render a matching trace as JSON, by default all of it."""
        rendered = None if span_sets is not None or self._single is None else self._single_spans(trace, self._single)
        if rendered is None:
            if span_sets is None:
                whole = (tuple(range(len(trace.spans))),)
                span_sets = self.span_sets(trace, whole) if self._query.group_by else [((), self.matching(trace))]
            rendered = [self._span_set(trace, each, spans_per_span_set) for each in span_sets]
        return b'{%b,"spanSet":%b,"spanSets":[%b],%b}' % (
            self._head % (trace.trace_id, trace.start_ns) + _duration_ms(trace),
            rendered[0],
            b",".join(rendered),
            self._stats,
        )

    def _single_spans(self, trace: Trace, templates: Sequence[bytes]) -> list[bytes] | None:
        """Render a span set for each span; None if spans share an id."""
        matching = self.matching(trace)
        if len({trace.spans[position].span_id for position in matching}) < len(matching):
            return None
        rendered = []
        for position in matching:
            span_id, start_ns, duration_ns = trace.spans[position]
            duration = b'"durationNanos":"%d",' % duration_ns if duration_ns else b""
            rendered.append(templates[position] % (span_id, start_ns, duration, span_id))
        return rendered

    def _span_set(self, trace: Trace, span_set: _SpanSet, most: int) -> bytes:
        values, positions = span_set
        spans = []
        for position in positions[:most]:
            span_id, start_ns, duration_ns = trace.spans[position]
            duration = b'"durationNanos":"%d",' % duration_ns if duration_ns else b""
            parent = (b"%016x" % (parent_span_id(trace, position) or 0),) if self._shows_parents else ()
            spans.append(self._spans[position] % (span_id, start_ns, duration, *parent))
        if not values:
            return b'{"spans":[%b],"matched":%d}' % (b",".join(spans), len(positions))
        named = {
            f"by({selected})": "nil" if value is None else value
            for selected, value in zip(self._query.group_by, values, strict=True)
        }
        return b'{"spans":[%b],"matched":%d,"attributes":%b}' % (
            b",".join(spans),
            len(positions),
            json_attributes(named),
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
        self._trace_ids = self.parsed.trace_ids()
        self._shapes: dict[TraceShape, _ShapeQuery] = {}

    def _shape_query(self, shape: TraceShape) -> _ShapeQuery:
        query = self._shapes.get(shape)
        if query is None:
            query = self._shapes[shape] = _ShapeQuery(self.parsed, shape)
        return query

    def matches(self, trace: Trace) -> bool:
        """Return whether any span of the trace matches."""
        if self._trace_ids is not None:
            return trace.trace_id in self._trace_ids
        return bool(self._shape_query(trace.shape).matching(trace))

    def span_sets(self, trace: Trace, parts: Iterable[tuple[int, ...]]) -> list[_SpanSet]:
        """Return the span sets of the parts of a trace that are in different blocks, as far as Tempo returns them."""
        if self._trace_ids is not None and trace.trace_id not in self._trace_ids:
            return []
        return self._shape_query(trace.shape).span_sets(trace, parts)

    def render(self, trace: Trace, spans_per_span_set: int, span_sets: Sequence[_SpanSet] | None = None) -> bytes:
        """Render a matching trace as JSON: some span sets of it, by default all spans that match."""
        return self._shape_query(trace.shape).render(trace, spans_per_span_set, span_sets)


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
    in_parts: dict[int, list[_SpanSet]] = {}

    def finds(trace: Trace) -> bool:
        if query is None or visibility.idle_ns is None:
            return visibility.shows(trace) and matches(trace)
        parts = [part for part in visibility.parts(trace) if _overlaps(trace, part, start_ns, end_ns)]
        # Which block Tempo reads first depends on nothing that a client knows.
        span_sets = query.span_sets(trace, parts if trace.trace_id % 2 else reversed(parts))
        if span_sets:
            in_parts[id(trace)] = span_sets
        return bool(span_sets)

    traces: list[Trace] = []
    for batch in _batches(source, start_ns, end_ns, newest_first):
        traces += [trace for trace in batch if finds(trace)]
        if len(traces) >= request.limit:
            break
    if len(traces) > request.limit and not newest_first:
        traces.sort(key=lambda trace: (trace.start_ns // BLOCK_NS, trace.trace_id))
        del traces[request.limit :]
    traces.sort(key=lambda trace: trace.start_ns, reverse=True)
    del traces[request.limit :]
    if query is not None:
        rendered = [query.render(trace, request.spans_per_span_set, in_parts.get(id(trace))) for trace in traces]
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


def _overlaps(trace: Trace, part: tuple[int, ...], start_ns: int, end_ns: int) -> bool:
    spans = [trace.spans[position] for position in part]
    return (
        min(span.start_ns for span in spans) <= end_ns
        and max(span.start_ns + span.duration_ns for span in spans) >= start_ns
    )


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
