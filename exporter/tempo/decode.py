"""Decodes search responses into spans.

This is the hot path of a backfill, which reads millions of traces. The body is decoded straight into typed records;
attributes stay raw bytes. The same few attribute lists occur again and again, so the service, and what else decides the
series, is looked up by those bytes.

Tempo omits fields that are zero or empty. If a body cannot be decoded as a whole, its traces are decoded one by one, so
that an invalid trace does not affect the others.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypeVar

import msgspec

from exporter.model.failure_rule import STATUSES, FailureRule
from exporter.model.identity import BY_NAME, OWN_NAME, Attribute, SeriesIdentity
from exporter.model.label import cut_mark
from exporter.model.span import SeriesKey, Span
from exporter.model.traceql import Value
from exporter.tempo.settings import Scope

MAX_NAME_CHARACTERS: Final = 8192
"""Longer service and span names are cut to this length; the end names the hash of the whole name, so that names which
differ only after the cut stay distinct."""

_T = TypeVar("_T")

_ROOT_NOT_RECEIVED: Final = "<root span not yet received>"
_STATUS: Final = "status"
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
_ENTRIES_PER_VALUES: Final = 4
"""The cached names of spans with the same attributes take about as much memory as so many entries."""
_LARGEST_PLAIN_NUMBER: Final = 1e15


# `rename` maps to Tempo's JSON field names.
class SearchSpan(
    msgspec.Struct,
    gc=False,
    rename={"span_id": "spanID", "start_ns": "startTimeUnixNano", "duration_ns": "durationNanos"},
):
    """A span in a search response; its attributes stay raw JSON."""

    span_id: str = ""
    name: str = ""
    start_ns: int = 0
    duration_ns: int = 0
    attributes: msgspec.Raw = msgspec.Raw(b"[]")


class SearchSpanSet(msgspec.Struct, gc=False):
    """The spans of a trace that matched, or one group of them."""

    spans: list[SearchSpan] | None = None
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
    span_sets: list[SearchSpanSet] | None = None
    old_span_set: msgspec.Raw = msgspec.Raw(b"{}")


class SearchMetrics(msgspec.Struct, gc=False, rename="camel"):
    """How many of its jobs Tempo finished."""

    completed_jobs: int = 0
    total_jobs: int = 0


class _Body(msgspec.Struct, gc=False):
    traces: list[_Trace] | msgspec.UnsetType | None = msgspec.UNSET
    metrics: SearchMetrics | msgspec.UnsetType | None = msgspec.UNSET


class _RawBody(msgspec.Struct, gc=False):
    traces: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET
    metrics: SearchMetrics | msgspec.UnsetType | None = msgspec.UNSET


class _Value(msgspec.Struct, gc=False, rename="camel"):
    """A value of an attribute; 64-bit integers come as text, and so do numbers that are not finite."""

    string_value: str | None = None
    int_value: int | str | None = None
    double_value: float | str | None = None
    bool_value: bool | None = None
    array_value: "_Array | None" = None


class _Array(msgspec.Struct, gc=False):
    values: list[_Value] | None = None


class _Attribute(msgspec.Struct, gc=False):
    key: str = ""
    value: msgspec.Raw = msgspec.Raw(b"{}")


# Not strict: Tempo sends 64-bit integers as strings.
_BODY: Final = msgspec.json.Decoder(_Body, strict=False)
_RAW_BODY: Final = msgspec.json.Decoder(_RawBody, strict=False)
_TRACE: Final = msgspec.json.Decoder(_Trace, strict=False)
_SPAN_SET: Final = msgspec.json.Decoder(SearchSpanSet, strict=False)
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
        largest: the most spans of one trace that matched.
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
    largest: int = 0
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

    def __init__(
        self,
        scope: Scope,
        max_duration_ns: int = _MAX_NS,
        identity: SeriesIdentity = BY_NAME,
        failures: FailureRule | None = None,
    ) -> None:
        """Start without cached names.

        Args:
            scope: which spans are searched for.
            max_duration_ns: longer spans are invalid.
            identity: the rules by which a span gets its series.
            failures: the rule by which a span has failed; None where that is not read.
        """
        self._scope: Scope = scope
        self._max_duration_ns = max_duration_ns
        self._identity = identity
        self._failures = failures
        self._cache = _AttributesCache(identity, failures)

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
        if isinstance(response.metrics, SearchMetrics):
            result.complete = response.metrics.completed_jobs >= response.metrics.total_jobs
        cache = self._cache
        if cache.size > _MAX_CACHED:
            cache = self._cache = _AttributesCache(self._identity, self._failures)
        trace_ids: set[str] = set()
        for trace in traces:
            result.traces += 1
            trace_ids.add(self._add(trace, cache, oldest_ns, result))
        # The same trace more than once, or invalid ones.
        if len(trace_ids) < result.traces:
            result.drop_duplicates()
        return result

    def _add(self, trace: _Trace, cache: "_AttributesCache", oldest_ns: int, result: DecodedSearch) -> str:
        """Add the spans of a trace; return its id, or an empty text if that is invalid."""
        trace_id = trace.trace_id
        if len(trace_id) != _TRACE_ID_DIGITS or trace_id.strip(_HEX):
            trace_id = hex_id(trace_id, _TRACE_ID_DIGITS)
            if not trace_id:
                result.reject(f"trace id {trace.trace_id[:_EXCERPT_CHARACTERS]!r}")
                return ""
        span_sets = trace.span_sets or _old_span_set(trace)
        spans: list[SearchSpan] = []
        matched = 0
        for span_set in span_sets:
            if span_set.spans:
                spans += span_set.spans
            matched += span_set.matched
        if not spans:
            result.reject(f"trace {trace_id} has no spans")
            return trace_id
        if matched > len(spans):
            result.missing += min(matched, _MAX_MATCHED) - len(spans)
        result.largest = max(result.largest, matched, len(spans))
        first = len(result.spans)
        for span in spans:
            start_ns, duration_ns = span.start_ns, span.duration_ns
            if start_ns <= 0 or duration_ns < 0 or start_ns + duration_ns > _MAX_NS:
                result.reject(f"trace {trace_id} has a span that starts at {start_ns} ns and takes {duration_ns} ns")
                continue
            span_id = span.span_id
            if len(span_id) != _SPAN_ID_DIGITS or span_id.strip(_HEX):
                span_id = hex_id(span_id or "0", _SPAN_ID_DIGITS)
                if not span_id:
                    result.reject(f"trace {trace_id} has a span with id {span.span_id[:_EXCERPT_CHARACTERS]!r}")
                    continue
            attributes = bytes(span.attributes)
            cached = cache.by_attributes.get(attributes)
            if cached is None:
                cached = cache.add(attributes, self._default_service(trace))
            keys, failed = cached
            name = span.name or self._default_name(trace, spans)
            # The constructor of a named tuple takes twice as long.
            decoded = _new_tuple(Span, (trace_id, span_id, keys[name], start_ns, duration_ns, failed))
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

    def _default_name(self, trace: _Trace, spans: Sequence[SearchSpan]) -> str:
        """Return the name of a span without one.

        Some stores that are compatible with Tempo name only the trace, by its root span. Of several root spans, one of
        which has that name, it is not the name of the others.
        """
        known = self._scope == "root" and trace.root_trace_name != _ROOT_NOT_RECEIVED
        return trace.root_trace_name if known and not any(span.name for span in spans) else ""


def count_roots(body: bytes) -> tuple[int, int]:
    """Return the number of traces in a search response, and of those without a root span.

    Raises:
        ValueError: it is not JSON, or not a search response that Tempo has finished.
    """
    try:
        response = decode_leniently(_BODY, body)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    if not isinstance(response.metrics, SearchMetrics):
        raise ValueError("contains no metrics")  # noqa: TRY004 - about the content, not about an argument
    traces = response.traces or ()
    return len(traces), sum(trace.root_service_name == _ROOT_NOT_RECEIVED for trace in traces)


class _SpanKeys(dict[str, SeriesKey]):
    """The series keys of spans that differ in nothing but their name as received; created on first access."""

    def __init__(self, service_name: str, attributes: Mapping[Attribute, str], cache: "_AttributesCache") -> None:
        super().__init__()
        self._service_name = service_name
        self._attributes = attributes
        self._labels = cache.identity.labels_of(attributes)
        self._cache = cache

    def __missing__(self, name: str) -> SeriesKey:
        cache = self._cache
        span_name = clean_name(name if cache.is_by_name else cache.identity.span_name_of(name, self._attributes))
        key = SeriesKey(self._service_name, span_name, self._labels)
        cache.size += 1 + len(span_name) // _CACHED_CHARACTERS
        if not cache.is_by_name or span_name != name:
            # All spans of a series share one key, also those with other names.
            key = cache.shared(key, name)
        self[name] = key
        return key


class _AttributesCache:
    """Caches what the raw attributes of a span say: its series, together with its name, and whether it failed.

    Attributes:
        identity: the rules by which a span gets its series.
        is_by_name: whether the name of the span is that of its endpoint.
        by_attributes: the series keys of the spans with some attributes, and whether they failed, by their raw bytes.
        size: number of cached entries.
    """

    def __init__(self, identity: SeriesIdentity, failures: FailureRule | None) -> None:
        self.identity = identity
        self.is_by_name = identity.span_name == (OWN_NAME,)
        self.by_attributes: dict[bytes, tuple[_SpanKeys, bool | None]] = {}
        self.size = 0
        self._failures = failures
        self._by_name = {attribute.name: attribute for attribute in identity.attributes}
        self._by_values: dict[tuple[str, ...], _SpanKeys] = {}
        self._shared: dict[SeriesKey, SeriesKey] = {}

    def add(self, attributes: bytes, default_service: str) -> tuple[_SpanKeys, bool | None]:
        """Return the series keys of spans with these attributes and whether they failed, and cache that."""
        named, values = _read_attributes(attributes, self._by_name)
        failed = None if self._failures is None else _failed(attributes, self._failures)
        service_name = clean_name(named or default_service)
        by_values = (service_name, *(values.get(attribute, "") for attribute in self.identity.attributes))
        keys = self._by_values.get(by_values)
        if keys is None:
            keys = self._by_values[by_values] = _SpanKeys(service_name, values, self)
            self.size += _ENTRIES_PER_VALUES * _entries("".join(by_values)) if values else 0
        if named and len(attributes) <= _MAX_CACHED_BYTES:
            self.by_attributes[attributes] = keys, failed
            self.size += 1
        return keys, failed

    def shared(self, key: SeriesKey, name: str) -> SeriesKey:
        """Return the one object for a series; the name as received takes room in the cache, too."""
        self.size += len(name) // _CACHED_CHARACTERS
        return self._shared.setdefault(key, key)


def _entries(text: str) -> int:
    return 1 + len(text) // _CACHED_CHARACTERS


def _read_attributes(data: bytes, wanted: Mapping[str, Attribute]) -> tuple[str, dict[Attribute, str]]:
    """Return the service that attributes name, empty without one, and the values of the wanted attributes."""
    service_name = ""
    values: dict[Attribute, str] = {}
    try:
        for attribute in decode_leniently(_ATTRIBUTES, data):
            if attribute.key == "service.name":
                service_name = service_name or _service_name(bytes(attribute.value))
            elif (found := wanted.get(attribute.key)) is not None and (value := attribute_text(bytes(attribute.value))):
                # Tempo leaves out the scope; with the same name in two of them, which is rare, the first one counts.
                values.setdefault(found, clean_name(value))
    except _DECODE_ERRORS:
        pass
    return service_name, values


def _failed(data: bytes, rule: FailureRule) -> bool | None:
    """Return whether a span with these attributes failed; None if that is unknown."""
    wanted = {attribute.name: attribute for attribute in rule.attributes}
    status: str | None = None
    values: dict[Attribute, Value] = {}
    try:
        for attribute in decode_leniently(_ATTRIBUTES, data):
            if attribute.key == _STATUS and status is None:
                text = attribute_text(bytes(attribute.value))
                status = text if text in STATUSES else None
            elif (found := wanted.get(attribute.key)) is not None:
                value = _comparable(bytes(attribute.value))
                if value is not None:
                    values.setdefault(found, value)
    except _DECODE_ERRORS:
        return None
    return rule.failed(status, values)


def _comparable(data: bytes) -> Value | None:
    """Return the value of an attribute as a condition compares it; None for none, and for an array."""
    try:
        value = decode_leniently(_VALUE, data)
        if value.int_value is not None:
            return int(value.int_value)
        if value.double_value is not None:
            return float(value.double_value)
    except _DECODE_ERRORS:
        return None
    if value.string_value is not None:
        return None if value.string_value == _NIL else value.string_value
    return value.bool_value


def _service_name(data: bytes) -> str:
    """Return the service name, which is a string; empty for anything else."""
    value = decode_leniently(_VALUE, data).string_value or ""
    return "" if value == _NIL else value


def attribute_text(data: bytes) -> str:
    """Return the value of an attribute, in JSON, as text; empty for none, and for ``nil``, which stands for none.

    Elements of an array are in a JSON list; what cannot be decoded counts as none.
    """
    try:
        value = decode_leniently(_VALUE, data)
    except _DECODE_ERRORS:
        return ""
    text = _value_text(value)
    if text is not None:
        return "" if text == _NIL else text
    if value.array_value is None:
        return ""
    return json.dumps([_value_text(each) for each in value.array_value.values or ()], ensure_ascii=False)


def _value_text(value: _Value) -> str | None:
    if value.string_value is not None:
        return value.string_value
    if value.bool_value is not None:
        return "true" if value.bool_value else "false"
    number = value.double_value if value.int_value is None else value.int_value
    if isinstance(number, float) and number.is_integer() and abs(number) < _LARGEST_PLAIN_NUMBER:
        number = int(number)
    return None if number is None else str(number)


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


def hex_id(text: str, digits: int) -> str:
    """Normalize an id: lower case, with the leading zeros that Tempo strips; empty if it is invalid."""
    text = text.lower()
    if not text or len(text) > digits or text.strip(_HEX):
        return ""
    return text.zfill(digits)


def _old_span_set(trace: _Trace) -> list[SearchSpanSet]:
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
