"""Reads the answer to a lookup of one trace: OTLP's JSON with ids in base64, names as hostile as anywhere."""

import base64
import binascii
from typing import Final

import msgspec

from exporter.model.critical_path import TraceSpan
from exporter.tempo.decode import clean_name, decode_leniently

_MAX_NS: Final = 2**63 - 1
_MAX_ID_CHARACTERS: Final = 64
_ROOT_PARENTS: Final = frozenset({"", "0000000000000000"})
_KINDS: Final = ("unspecified", "internal", "server", "client", "producer", "consumer")
_ERROR_CODES: Final = ("STATUS_CODE_ERROR", 2)


class _Status(msgspec.Struct, gc=False):
    code: str | int | None = None


class _Span(msgspec.Struct, gc=False, rename="camel"):
    span_id: str | None = None
    parent_span_id: str | None = None
    name: str | None = None
    kind: str | int | None = None
    start_time_unix_nano: int | str = 0
    end_time_unix_nano: int | str = 0
    status: _Status | None = None


class _ScopeSpans(msgspec.Struct, gc=False):
    spans: list[_Span] | None = None


class _Value(msgspec.Struct, gc=False, rename="camel"):
    string_value: str | None = None


class _Attribute(msgspec.Struct, gc=False):
    key: str = ""
    value: _Value | None = None


class _Resource(msgspec.Struct, gc=False):
    attributes: list[_Attribute] | None = None


class _ResourceSpans(msgspec.Struct, gc=False, rename="camel"):
    resource: _Resource | None = None
    scope_spans: list[_ScopeSpans] | None = None
    instrumentation_library_spans: list[_ScopeSpans] | None = None


class _Trace(msgspec.Struct, gc=False, rename="camel"):
    resource_spans: list[_ResourceSpans] | None = None


class _Body(msgspec.Struct, gc=False):
    """Both lookups at once: the newer one answers with a trace, the older one with its batches."""

    trace: _Trace | msgspec.UnsetType | None = msgspec.UNSET
    batches: list[_ResourceSpans] | msgspec.UnsetType | None = msgspec.UNSET


_BODY: Final = msgspec.json.Decoder(_Body)


def decode_trace(body: bytes) -> list[TraceSpan]:
    """The spans of a trace; none where Tempo does not know it. What makes no sense among them is left out.

    Raises:
        ValueError: the body is not JSON, or no answer to a lookup.
    """
    try:
        read = decode_leniently(_BODY, body)
    except RecursionError:
        raise ValueError("nested beyond reason") from None
    if isinstance(read.trace, _Trace):
        batches = read.trace.resource_spans
    elif isinstance(read.batches, list):
        batches = read.batches
    elif read.trace is None or read.batches is None:
        batches = None
    else:
        raise ValueError("neither a trace nor its batches in it")
    return [span for batch in batches or () for span in _spans_of(batch)]


def _spans_of(batch: _ResourceSpans) -> list[TraceSpan]:
    attributes = batch.resource.attributes if batch.resource is not None else None
    named = (each.value for each in attributes or () if each.key == "service.name")
    service_name = clean_name(next((value.string_value or "" for value in named if value is not None), ""))
    return [
        read
        for scope in batch.scope_spans or batch.instrumentation_library_spans or ()
        for span in scope.spans or ()
        if (read := _span(span, service_name)) is not None
    ]


def _span(span: _Span, service_name: str) -> TraceSpan | None:
    span_id = _hex_id(span.span_id or "")
    start_ns, end_ns = _number(span.start_time_unix_nano), _number(span.end_time_unix_nano)
    if span_id in _ROOT_PARENTS or start_ns is None or end_ns is None or start_ns > end_ns:
        return None
    parent_id = _hex_id(span.parent_span_id or "")
    return TraceSpan(
        span_id=span_id,
        parent_id="" if parent_id in _ROOT_PARENTS else parent_id,
        service_name=service_name,
        name=clean_name(span.name or ""),
        kind=_kind(span.kind),
        start_ns=start_ns,
        duration_ns=end_ns - start_ns,
        error=span.status is not None and span.status.code in _ERROR_CODES,
    )


def _hex_id(text: str) -> str:
    """An id as hex digits; what is neither base64 nor hex stands for itself, since ids need only differ."""
    if len(text) == 12:
        try:
            return base64.b64decode(text, validate=True).hex()
        except binascii.Error:
            pass
    return text.lower()[:_MAX_ID_CHARACTERS]


def _number(value: int | str) -> int | None:
    """Nanoseconds, which come as strings; nothing where they cannot be."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdecimal() and len(value) < 20 else -1
    return value if 0 <= value <= _MAX_NS else None


def _kind(kind: str | int | None) -> str:
    if isinstance(kind, int):
        return _KINDS[kind] if 0 <= kind < len(_KINDS) else _KINDS[0]
    name = (kind or "").removeprefix("SPAN_KIND_").lower()
    return name if name in _KINDS else _KINDS[0]
