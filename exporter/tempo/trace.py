"""Decodes responses of the trace lookup, which are OTLP JSON with span ids in base64."""

import base64
import binascii
from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec

from exporter.model.critical_path import TraceSpan
from exporter.model.identity import BY_NAME, Attribute, SeriesIdentity
from exporter.tempo.decode import attribute_text, clean_name, decode_leniently

_MAX_NS: Final = 2**63 - 1
_MAX_ID_CHARACTERS: Final = 64
_ROOT_PARENTS: Final = frozenset({"", "0000000000000000"})
_KINDS: Final = ("unspecified", "internal", "server", "client", "producer", "consumer")
_ERROR_CODES: Final = ("STATUS_CODE_ERROR", 2)


class _Status(msgspec.Struct, gc=False):
    code: str | int | None = None


class _Attribute(msgspec.Struct, gc=False):
    key: str = ""
    value: msgspec.Raw = msgspec.Raw(b"{}")


class _Span(msgspec.Struct, gc=False, rename="camel"):
    span_id: str | None = None
    parent_span_id: str | None = None
    name: str | None = None
    kind: str | int | None = None
    start_time_unix_nano: int | str = 0
    end_time_unix_nano: int | str = 0
    status: _Status | None = None
    attributes: list[_Attribute] | None = None


class _ScopeSpans(msgspec.Struct, gc=False):
    spans: list[_Span] | None = None


class _Resource(msgspec.Struct, gc=False):
    attributes: list[_Attribute] | None = None


class _ResourceSpans(msgspec.Struct, gc=False, rename="camel"):
    resource: _Resource | None = None
    scope_spans: list[_ScopeSpans] | None = None
    instrumentation_library_spans: list[_ScopeSpans] | None = None


class _Trace(msgspec.Struct, gc=False, rename="camel"):
    resource_spans: list[_ResourceSpans] | None = None


class _Body(msgspec.Struct, gc=False):
    """Response of either API version: v2 returns ``trace``, v1 returns ``batches``."""

    trace: _Trace | msgspec.UnsetType | None = msgspec.UNSET
    batches: list[_ResourceSpans] | msgspec.UnsetType | None = msgspec.UNSET


_BODY: Final = msgspec.json.Decoder(_Body)


def decode_trace(
    body: bytes, identity: SeriesIdentity = BY_NAME, attributes: frozenset[Attribute] = frozenset()
) -> list[TraceSpan]:
    """Decode a response body into spans. Invalid spans are left out; an unknown trace has none.

    Args:
        body: the response body.
        identity: the rules by which a span gets its series.
        attributes: attributes to return with each span.

    Raises:
        ValueError: it is not JSON, or not the response of a trace lookup.
    """
    try:
        response = decode_leniently(_BODY, body)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    if isinstance(response.trace, _Trace):
        batches = response.trace.resource_spans
    elif isinstance(response.batches, list):
        batches = response.batches
    elif response.trace is None or response.batches is None:
        batches = None
    else:
        raise ValueError("contains neither a trace nor batches")
    return [span for batch in batches or () for span in _spans_of(batch, identity, attributes)]


def _spans_of(batch: _ResourceSpans, identity: SeriesIdentity, wanted: frozenset[Attribute]) -> list[TraceSpan]:
    attributes = (batch.resource.attributes if batch.resource is not None else None) or ()
    service_name = clean_name(next((_text(each) for each in attributes if each.key == "service.name"), ""))
    of_resource = _values(attributes, "resource", {*identity.attributes, *wanted})
    return [
        trace_span
        for scope in batch.scope_spans or batch.instrumentation_library_spans or ()
        for span in scope.spans or ()
        if (trace_span := _trace_span(span, service_name, of_resource, identity, wanted)) is not None
    ]


def _text(attribute: _Attribute) -> str:
    return clean_name(attribute_text(bytes(attribute.value)))


def _values(attributes: Iterable[_Attribute], scope: str, known: Collection[Attribute]) -> dict[Attribute, str]:
    wanted = {each.name: each for each in known if each.scope == scope}
    return {wanted[each.key]: _text(each) for each in attributes if each.key in wanted} if wanted else {}


def _trace_span(
    span: _Span,
    service_name: str,
    of_resource: Mapping[Attribute, str],
    identity: SeriesIdentity,
    wanted: frozenset[Attribute],
) -> TraceSpan | None:
    span_id = _hex_id(span.span_id or "")
    start_ns, end_ns = _nanoseconds(span.start_time_unix_nano), _nanoseconds(span.end_time_unix_nano)
    if span_id in _ROOT_PARENTS or start_ns is None or end_ns is None or start_ns > end_ns:
        return None
    parent_id = _hex_id(span.parent_span_id or "")
    name = clean_name(span.name or "")
    values = {**of_resource, **_values(span.attributes or (), "span", {*identity.attributes, *wanted})}
    endpoint = clean_name(identity.span_name_of(name, values))
    return TraceSpan(
        span_id=span_id,
        parent_id="" if parent_id in _ROOT_PARENTS else parent_id,
        service_name=service_name,
        name=name,
        kind=_kind(span.kind),
        start_ns=start_ns,
        duration_ns=end_ns - start_ns,
        error=span.status is not None and span.status.code in _ERROR_CODES,
        endpoint="" if endpoint == name else endpoint,
        labels=identity.labels_of(values),
        attributes=tuple(sorted((each.name, text) for each, text in values.items() if each in wanted and text)),
    )


def _hex_id(text: str) -> str:
    """Decode an id to hex digits; anything else is kept as it is, because ids are only compared."""
    if len(text) == 12:
        try:
            return base64.b64decode(text, validate=True).hex()
        except binascii.Error:
            pass
    return text.lower()[:_MAX_ID_CHARACTERS]


def _nanoseconds(value: int | str) -> int | None:
    """Parse a number of nanoseconds, usually sent as a string; None if it is out of range."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdecimal() and len(value) < 20 else -1
    return value if 0 <= value <= _MAX_NS else None


def _kind(kind: str | int | None) -> str:
    if isinstance(kind, int):
        return _KINDS[kind] if 0 <= kind < len(_KINDS) else _KINDS[0]
    name = (kind or "").removeprefix("SPAN_KIND_").lower()
    return name if name in _KINDS else _KINDS[0]
