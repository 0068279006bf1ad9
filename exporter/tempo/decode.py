"""Decodes search responses into spans.

This is the hot path of a backfill, which reads millions of traces. The body is decoded straight into typed records;
attributes stay raw bytes. The same few attribute lists occur again and again, so the service is looked up by those
bytes.

Tempo omits fields that are zero or empty. If a body cannot be decoded as a whole, its traces are decoded one by one, so
that an invalid trace does not affect the others.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypeVar

import msgspec

from exporter.model.label import cut_mark
from exporter.model.span import SeriesKey, Span
from exporter.tempo.settings import Scope

MAX_NAME_CHARACTERS: Final = 8192
"""Longer service and span names are cut to this length; the end names the hash of the whole name, so that names which
differ only after the cut stay distinct."""

_T = TypeVar("_T")

_ROOT_NOT_RECEIVED: Final = "<root span not yet received>"
_NIL: Final = "nil"
"""What Tempo 2.10 sends for a selected attribute that a span lacks."""
_HEX: Final = "0123456789abcdef"
_TRACE_ID_DIGITS: Final = 32
_SPAN_ID_DIGITS: Final = 16
_NS: Final = 1_000_000_000
_MAX_NS: Final = 2**63 - 1
_MAX_MATCHED: Final = 2**32 - 1
_MAX_INTEGER_DIGITS: Final = 40
_EXCERPT_CHARACTERS: Final = 40
_MAX_CACHED: Final = 50_000
_CACHED_CHARACTERS: Final = 256
"""Longer names count as several cached entries."""
_MAX_CACHED_BYTES: Final = 4096


# `rename` maps to Tempo's JSON field names.
class _Span(
    msgspec.Struct,
    gc=False,
    rename={"span_id": "spanID", "start_ns": "startTimeUnixNano", "duration_ns": "durationNanos"},
):
    span_id: str = ""
    name: str = ""
    start_ns: int = 0
    duration_ns: int = 0
    attributes: msgspec.Raw = msgspec.Raw(b"[]")


class _SpanSet(msgspec.Struct, gc=False):
    spans: list[_Span] | None = None
    matched: int = 0


class _Trace(
    msgspec.Struct,
    gc=False,
    rename={
        "trace_id": "traceID",
        "root_service_name": "rootServiceName",
        "root_trace_name": "rootTraceName",
        "span_sets": "spanSets",
        "old_span_set": "spanSet",
    },
):
    trace_id: str = ""
    root_service_name: str = ""
    root_trace_name: str = ""
    span_sets: list[_SpanSet] | None = None
    old_span_set: msgspec.Raw = msgspec.Raw(b"{}")


class _Metrics(msgspec.Struct, gc=False, rename="camel"):
    completed_jobs: int = 0
    total_jobs: int = 0


class _Body(msgspec.Struct, gc=False):
    traces: list[_Trace] | msgspec.UnsetType | None = msgspec.UNSET
    metrics: _Metrics | msgspec.UnsetType | None = msgspec.UNSET


class _RawBody(msgspec.Struct, gc=False):
    traces: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET
    metrics: _Metrics | msgspec.UnsetType | None = msgspec.UNSET


class _Value(msgspec.Struct, gc=False, rename="camel"):
    string_value: str = ""


class _Attribute(msgspec.Struct, gc=False):
    key: str = ""
    value: msgspec.Raw = msgspec.Raw(b"{}")


# Not strict: Tempo sends 64-bit integers as strings.
_BODY: Final = msgspec.json.Decoder(_Body, strict=False)
_RAW_BODY: Final = msgspec.json.Decoder(_RawBody, strict=False)
_TRACE: Final = msgspec.json.Decoder(_Trace, strict=False)
_SPAN_SET: Final = msgspec.json.Decoder(_SpanSet, strict=False)
_ATTRIBUTES: Final = msgspec.json.Decoder(list[_Attribute])
_VALUE: Final = msgspec.json.Decoder(_Value)

_new_tuple: Final = tuple.__new__

_DECODE_ERRORS: Final = (ValueError, RecursionError)
"""Raised by decoding; msgspec's and Unicode errors are ValueErrors."""


@dataclass(slots=True)
class DecodedSearch:
    """Content of a search response.

    Attributes:
        spans: the spans in scope, without duplicates.
        traces: number of traces in the response, valid or not, each as often as it occurs.
        duplicates: number of spans that occurred before in the response, see :attr:`Span.identity`.
        invalid: number of traces and spans that are invalid and not in ``spans``.
        missing: number of spans that matched but are not in the response, because Tempo limits the spans of one trace.
        complete: whether Tempo finished all its jobs. It stops early once it has found as many traces as requested.
        problem: why the first malformed trace or span is invalid; empty if none is.
        implausible: the series that have invalid spans which are well-formed, but began too early or took too long,
            with the reason for the first span of each.
    """

    spans: list[Span] = field(default_factory=list)
    traces: int = 0
    duplicates: int = 0
    invalid: int = 0
    missing: int = 0
    complete: bool = True
    problem: str = ""
    implausible: dict[SeriesKey, str] = field(default_factory=dict)

    def reject(self, problem: str) -> None:
        """Count a malformed trace or span."""
        self.invalid += 1
        self.problem = self.problem or problem

    def reject_implausible(self, span: Span) -> None:
        """Count a span that began too early or took too long."""
        self.invalid += 1
        if span.key not in self.implausible:
            self.implausible[span.key] = (
                f"trace {span.trace_id} has a span that starts at {_utc(span.start_ns)} and takes "
                f"{span.duration_ns / _NS:.0f} s"
            )

    def drop_duplicates(self, first: int = 0) -> None:
        """Leave out the spans, from a position on, that occur there a second time, and count them."""
        spans = self.spans[first:]
        unique: dict[object, Span] = {}
        for span in spans:
            unique.setdefault(span.identity, span)
        self.duplicates += len(spans) - len(unique)
        self.spans[first:] = unique.values()


class SearchDecoder:
    """Decodes response bodies and caches names between them. Thread-safe."""

    def __init__(self, scope: Scope, max_duration_ns: int = _MAX_NS) -> None:
        """Start without cached names.

        Args:
            scope: which spans are searched for.
            max_duration_ns: longer spans are invalid.
        """
        self._scope: Scope = scope
        self._max_duration_ns = max_duration_ns
        self._cache = _SeriesKeyCache()

    def decode(self, body: bytes, oldest_ns: int = 0) -> DecodedSearch:
        """Decode a response body.

        Args:
            body: the response body.
            oldest_ns: spans that began before this are invalid, Unix nanoseconds.

        Raises:
            ValueError: it is not JSON, or not a search response.
        """
        result = DecodedSearch()
        response: _Body | _RawBody
        traces: Iterable[_Trace]
        try:
            response = typed = _BODY.decode(body)
            traces = typed.traces or ()
        except _DECODE_ERRORS:
            response = raw = _decode_raw(body)
            traces = _valid_traces(raw.traces or (), result)
        # Tempo may send `{}` for no traces; any other object without these fields is not a search response.
        if response.traces is response.metrics is msgspec.UNSET and b"".join(body.split()) != b"{}":
            raise ValueError("contains neither traces nor metrics")
        if isinstance(response.metrics, _Metrics):
            result.complete = response.metrics.completed_jobs >= response.metrics.total_jobs
        cache = self._cache
        if cache.size > _MAX_CACHED:
            cache = self._cache = _SeriesKeyCache()
        trace_ids: set[str] = set()
        for trace in traces:
            result.traces += 1
            trace_ids.add(self._add(trace, cache, oldest_ns, result))
        # The same trace more than once, or invalid ones.
        if len(trace_ids) < result.traces:
            result.drop_duplicates()
        return result

    def _add(self, trace: _Trace, cache: "_SeriesKeyCache", oldest_ns: int, result: DecodedSearch) -> str:
        """Add the spans of a trace; return its id, or an empty text if that is invalid."""
        trace_id = trace.trace_id
        if len(trace_id) != _TRACE_ID_DIGITS or trace_id.strip(_HEX):
            trace_id = _hex_id(trace_id, _TRACE_ID_DIGITS)
            if not trace_id:
                result.reject(f"trace id {trace.trace_id[:_EXCERPT_CHARACTERS]!r}")
                return ""
        span_sets = trace.span_sets or _old_span_set(trace)
        spans = span_sets[0].spans if len(span_sets) == 1 else [s for each in span_sets for s in each.spans or ()]
        if not spans:
            result.reject(f"trace {trace_id} has no spans")
            return trace_id
        for span_set in span_sets:
            if span_set.matched > len(span_set.spans or ()):
                result.missing += min(span_set.matched, _MAX_MATCHED) - len(span_set.spans or ())
        first = len(result.spans)
        for span in spans:
            start_ns, duration_ns = span.start_ns, span.duration_ns
            if start_ns <= 0 or duration_ns < 0 or start_ns + duration_ns > _MAX_NS:
                result.reject(f"trace {trace_id} has a span that starts at {start_ns} ns and takes {duration_ns} ns")
                continue
            span_id = span.span_id
            if len(span_id) != _SPAN_ID_DIGITS or span_id.strip(_HEX):
                span_id = _hex_id(span_id or "0", _SPAN_ID_DIGITS)
                if not span_id:
                    result.reject(f"trace {trace_id} has a span with id {span.span_id[:_EXCERPT_CHARACTERS]!r}")
                    continue
            attributes = bytes(span.attributes)
            keys = cache.by_attributes.get(attributes)
            if keys is None:
                keys = cache.add(attributes, self._default_service(trace))
            name = span.name or self._default_name(trace, spans)
            # The constructor of a named tuple takes twice as long.
            decoded = _new_tuple(Span, (trace_id, span_id, keys[name], start_ns, duration_ns))
            if start_ns < oldest_ns or duration_ns > self._max_duration_ns:
                result.reject_implausible(decoded)
            else:
                result.spans.append(decoded)
        # Of spans with different ids none is a duplicate, and comparing ids alone is cheap.
        if len(spans) > 1 and len({span.span_id for span in result.spans[first:]}) < len(result.spans) - first:
            result.drop_duplicates(first)
        return trace_id

    def _default_service(self, trace: _Trace) -> str:
        """Return the service of a span without ``service.name``.

        A root span belongs to the trace's root service, unless Tempo sent its placeholder for a missing root. For any
        other span the service is unknown, and its name is empty.
        """
        known = self._scope == "root" and trace.root_service_name != _ROOT_NOT_RECEIVED
        return trace.root_service_name if known else ""

    def _default_name(self, trace: _Trace, spans: Sequence[_Span]) -> str:
        """Return the name of a span without one.

        Some stores that are compatible with Tempo name only the trace, by its root span. Of several root spans, one of
        which has that name, it is not the name of the others.
        """
        known = self._scope == "root" and trace.root_trace_name != _ROOT_NOT_RECEIVED
        return trace.root_trace_name if known and not any(span.name for span in spans) else ""


class _ServiceKeys(dict[str, SeriesKey]):
    """The series keys of one service by span name as received; created on first access."""

    def __init__(self, service_name: str, cache: "_SeriesKeyCache") -> None:
        super().__init__()
        self._service_name = service_name
        self._cache = cache

    def __missing__(self, name: str) -> SeriesKey:
        cleaned = clean_name(name)
        # All spans of a series share one key, however long its name was.
        key = self.get(cleaned)
        if key is None:
            key = self[cleaned] = SeriesKey(self._service_name, cleaned)
            self._cache.size += 1 + len(cleaned) // _CACHED_CHARACTERS
        return key


class _SeriesKeyCache:
    """Caches series keys by the raw attributes and the name of a span.

    Attributes:
        by_attributes: the series keys of a service, by the raw attributes that name it.
        size: number of cached entries.
    """

    def __init__(self) -> None:
        self.by_attributes: dict[bytes, _ServiceKeys] = {}
        self.size = 0
        self._by_service: dict[str, _ServiceKeys] = {}

    def add(self, attributes: bytes, default_service: str) -> _ServiceKeys:
        """Return the series keys of the service that these attributes name, and cache them."""
        named = _service_of(attributes)
        service_name = clean_name(named or default_service)
        keys = self._by_service.setdefault(service_name, _ServiceKeys(service_name, self))
        if named and len(attributes) <= _MAX_CACHED_BYTES:
            self.by_attributes[attributes] = keys
            self.size += 1
        return keys


def _service_of(attributes: bytes) -> str:
    try:
        for attribute in decode_leniently(_ATTRIBUTES, attributes):
            if attribute.key == "service.name":
                value = decode_leniently(_VALUE, bytes(attribute.value)).string_value
                return "" if value == _NIL else value
    except _DECODE_ERRORS:
        pass
    return ""


def clean_name(name: str) -> str:
    """Make a name safe to store and display: without NUL characters, and of limited length."""
    name = name.replace("\0", "\ufffd")
    if len(name) <= MAX_NAME_CHARACTERS:
        return name
    mark = cut_mark(name)
    return name[: MAX_NAME_CHARACTERS - len(mark)] + mark


def _utc(ns: int) -> str:
    """Format an instant in Unix nanoseconds, which may be beyond the years that a date can have."""
    try:
        return f"{datetime.fromtimestamp(ns // _NS, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{ns} ns"


def _hex_id(text: str, digits: int) -> str:
    """Normalize an id: lower case, with the leading zeros that Tempo strips; empty if it is invalid."""
    text = text.lower()
    if not text or len(text) > digits or text.strip(_HEX):
        return ""
    return text.zfill(digits)


def _old_span_set(trace: _Trace) -> list[_SpanSet]:
    """Return the single ``spanSet`` that older versions of Tempo send instead of ``spanSets``."""
    try:
        return [decode_leniently(_SPAN_SET, bytes(trace.old_span_set))]
    except _DECODE_ERRORS:
        return []


def _decode_raw(body: bytes) -> _RawBody:
    """Decode a body but leave its traces as raw JSON."""
    try:
        return decode_leniently(_RAW_BODY, body)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None


def _valid_traces(traces: Iterable[msgspec.Raw], result: DecodedSearch) -> Iterator[_Trace]:
    """Decode traces one by one; those that fail are counted in the result and skipped."""
    for raw in traces:
        try:
            yield decode_leniently(_TRACE, bytes(raw))
        except _DECODE_ERRORS as error:
            result.traces += 1
            result.reject(f"unreadable trace: {error}")


def decode_leniently(decoder: msgspec.json.Decoder[_T], data: bytes) -> _T:
    """Decode JSON; if that fails, repair what the decoder does not accept (see :func:`_repair`) and try again."""
    try:
        return decoder.decode(data)
    except _DECODE_ERRORS:
        return decoder.decode(_repair(data))


def _repair(data: bytes) -> bytes:
    """Replace invalid Unicode in JSON with U+FFFD, and non-finite or oversized numbers with null.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    value = json.loads(
        data.decode("utf-8", "replace"), parse_int=_parse_int, parse_float=_parse_float, parse_constant=lambda _: None
    )
    # JSON escapes can contain unpaired surrogates. UTF-8 cannot encode them; UTF-16 can, and replaces them on decoding.
    text = json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.encode()


def _parse_int(text: str) -> int | None:
    return int(text) if len(text) <= _MAX_INTEGER_DIGITS else None


def _parse_float(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None
