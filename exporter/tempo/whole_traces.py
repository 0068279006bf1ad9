"""Reads several traces whole with one search: the query by trace ids, and the decoder of its answer.

Parts of one trace may lie in several blocks of Tempo. A search returns one span set for each value of ``by()``, so with
``by(span:id)`` it returns the spans of all parts, each once. Joining very many span sets takes Tempo long, so traces of
very many spans are searched without it, and what is missing then is read by id.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from exporter.model.critical_path import TraceSpan
from exporter.tempo.decode import (
    SearchMetrics,
    SearchSpan,
    SearchSpanSet,
    attribute_text,
    clean_name,
    decode_leniently,
    hex_id,
)

MAX_IDS: Final = 60
"""Ids in one query: 3,600 characters of a URL, of which many proxies accept 8,000."""
MANY_SPANS: Final = 500
"""A trace with more spans costs Tempo seconds of CPU if each is a span set of its own."""
MAX_ATTRIBUTE_CHARACTERS: Final = 256
"""Longer attribute values are cut; they are compared and shown only."""

_FIELDS: Final = ("span:parentID", "resource.service.name", "name", "kind", "status")
_OWN_KEYS: Final = frozenset({"span:parentID", "service.name", "kind", "status"})
_KINDS: Final = frozenset({"unspecified", "internal", "server", "client", "producer", "consumer"})
_TRACE_ID_DIGITS: Final = 32
_SPAN_ID_DIGITS: Final = 16
_NO_PARENT: Final = "0" * _SPAN_ID_DIGITS
_MAX_NS: Final = 2**63 - 1
_DECODE_ERRORS: Final = (ValueError, RecursionError)


class _Trace(msgspec.Struct, gc=False, rename={"trace_id": "traceID", "span_sets": "spanSets", "span_set": "spanSet"}):
    trace_id: str = ""
    span_sets: list[SearchSpanSet] | None = None
    span_set: SearchSpanSet | None = None


class _Body(msgspec.Struct, gc=False):
    traces: list[msgspec.Raw] | None = None
    metrics: SearchMetrics | None = None


class _Attribute(msgspec.Struct, gc=False):
    key: str = ""
    value: msgspec.Raw = msgspec.Raw(b"{}")


# Not strict: Tempo sends 64-bit integers as strings.
_BODY: Final = msgspec.json.Decoder(_Body, strict=False)
_TRACE: Final = msgspec.json.Decoder(_Trace, strict=False)
_ATTRIBUTES: Final = msgspec.json.Decoder(list[_Attribute])


@dataclass(slots=True)
class WholeTraces:
    """Traces with all of their spans.

    Attributes:
        spans: the spans of each trace by trace id, unordered, each once; a trace that was not found is absent.
        cut: ids of the traces of which Tempo withheld spans.
        invalid: number of traces and spans that are invalid and left out.
    """

    spans: dict[str, list[TraceSpan]] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    invalid: int = 0

    @property
    def largest(self) -> int:
        """The most spans that a trace has."""
        return max(map(len, self.spans.values()), default=0)

    def update(self, other: "WholeTraces") -> None:
        """Add the traces of another answer."""
        self.spans.update(other.spans)
        self.cut |= other.cut
        self.invalid += other.invalid


def traces_by_id_query(trace_ids: Iterable[str], attributes: Sequence[str], *, joined: bool = True) -> str:
    """Return the query for all spans of some traces.

    Args:
        trace_ids: 32 hex digits each.
        attributes: attributes to return, with scope, such as ``resource.service.version``.
        joined: return all parts of a trace, although they may lie in several blocks.
    """
    condition = " || ".join(f'trace:id="{trace_id}"' for trace_id in trace_ids)
    by = " | by(span:id)" if joined else ""
    return f"{{{condition}}}{by} | select({', '.join((*_FIELDS, *attributes))})"


def id_groups(trace_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Divide trace ids into groups that fit into one query."""
    for position in range(0, len(trace_ids), MAX_IDS):
        yield trace_ids[position : position + MAX_IDS]


def decode_whole_traces(body: bytes, wanted: Iterable[str]) -> WholeTraces:
    """Decode the answer to :func:`traces_by_id_query`. Invalid traces and spans are left out.

    Args:
        body: the response body.
        wanted: the trace ids that were asked for; others are left out.

    Raises:
        ValueError: it is not JSON, not a search response, or Tempo did not finish the search.
    """
    try:
        response = decode_leniently(_BODY, body)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    if response.metrics is None and response.traces is None:
        raise ValueError("contains neither traces nor metrics")
    ids = frozenset(wanted)
    found = WholeTraces()
    for raw in response.traces or ():
        try:
            trace = decode_leniently(_TRACE, bytes(raw))
        except _DECODE_ERRORS:
            found.invalid += 1
            continue
        trace_id = hex_id(trace.trace_id, _TRACE_ID_DIGITS)
        if trace_id in ids:
            _add(found, trace_id, trace)
        else:
            found.invalid += 1
    is_done = response.metrics is None or response.metrics.completed_jobs >= response.metrics.total_jobs
    # Tempo stops early once it has found as many traces as were asked for.
    if not is_done and len(found.spans) < len(ids):
        raise ValueError("Tempo did not finish the search")
    return found


def _add(found: WholeTraces, trace_id: str, trace: _Trace) -> None:
    span_sets = trace.span_sets or ([trace.span_set] if trace.span_set is not None else [])
    spans: dict[object, TraceSpan] = {span.identity: span for span in found.spans.get(trace_id, ())}
    for span_set in span_sets:
        if span_set.matched > len(span_set.spans or ()):
            found.cut.add(trace_id)
        for each in span_set.spans or ():
            span = _trace_span(each)
            if span is None:
                found.invalid += 1
            else:
                spans.setdefault(span.identity, span)
    if spans:
        found.spans[trace_id] = list(spans.values())


def _trace_span(span: SearchSpan) -> TraceSpan | None:
    span_id = hex_id(span.span_id, _SPAN_ID_DIGITS)
    start_ns, duration_ns = span.start_ns, span.duration_ns
    if not span_id or start_ns <= 0 or duration_ns < 0 or start_ns + duration_ns > _MAX_NS:
        return None
    values = _values(bytes(span.attributes))
    parent_id = hex_id(values.get("span:parentID", ""), _SPAN_ID_DIGITS)
    kind = values.get("kind", "")
    return TraceSpan(
        span_id=span_id,
        parent_id="" if parent_id == _NO_PARENT else parent_id,
        service_name=values.get("service.name", ""),
        name=clean_name(span.name),
        kind=kind if kind in _KINDS else "unspecified",
        start_ns=start_ns,
        duration_ns=duration_ns,
        error=values.get("status") == "error",
        attributes=tuple(sorted((key, value) for key, value in values.items() if key not in _OWN_KEYS)),
    )


def _values(raw: bytes) -> Mapping[str, str]:
    """Return the attributes of a span as text. Their keys come without scope."""
    try:
        attributes = decode_leniently(_ATTRIBUTES, raw)
    except _DECODE_ERRORS:
        return {}
    values = {}
    for attribute in attributes:
        text = attribute_text(bytes(attribute.value))
        if text:
            key = attribute.key
            values[key] = clean_name(text) if key in _OWN_KEYS else clean_name(text)[:MAX_ATTRIBUTE_CHARACTERS]
    return values
