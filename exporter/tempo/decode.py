"""Reads the body of a search answer into spans.

An answer holds thousands of traces and a backfill reads millions, so the body is decoded straight into typed records:
what is not needed is skipped, 64-bit numbers that come as strings become numbers, and attributes stay unread. They
are the same few byte strings again and again, so the service that they name is looked up by those bytes.

What Tempo leaves out is zero or empty. A body with something unreadable in it is read again, trace by trace, so that
one bad trace costs that trace only.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec

from exporter.model.span import SeriesKey, Span
from exporter.tempo.settings import Scope

MAX_NAME_CHARACTERS: Final = 1024
"""A longer name of a service or a span is cut to this length, its last character an ellipsis; names that differ only
behind that are one series."""

_T = TypeVar("_T")

_ROOT_NOT_RECEIVED: Final = "<root span not yet received>"
_HEX: Final = "0123456789abcdef"
_TRACE_ID_DIGITS: Final = 32
_SPAN_ID_DIGITS: Final = 16
_MAX_NS: Final = 2**63 - 1
_MAX_MATCHED: Final = 2**32 - 1
_MAX_INTEGER_DIGITS: Final = 40
_QUOTED: Final = 40
_MAX_REMEMBERED: Final = 50_000
_MAX_REMEMBERED_BYTES: Final = 4096


# Tempo's names stand in `rename`, where they differ.
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
        "span_sets": "spanSets",
        "old_span_set": "spanSet",
    },
):
    trace_id: str = ""
    root_service_name: str = ""
    span_sets: list[_SpanSet] | None = None
    old_span_set: msgspec.Raw = msgspec.Raw(b"{}")


class _Metrics(msgspec.Struct, gc=False, rename="camel"):
    completed_jobs: int = 0
    total_jobs: int = 0


class _Body(msgspec.Struct, gc=False):
    traces: list[_Trace] | msgspec.UnsetType | None = msgspec.UNSET
    metrics: _Metrics | msgspec.UnsetType | None = msgspec.UNSET


class _UnreadBody(msgspec.Struct, gc=False):
    traces: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET
    metrics: _Metrics | msgspec.UnsetType | None = msgspec.UNSET


class _Value(msgspec.Struct, gc=False, rename="camel"):
    string_value: str = ""


class _Attribute(msgspec.Struct, gc=False):
    key: str = ""
    value: msgspec.Raw = msgspec.Raw(b"{}")


# Not strict, so that numbers may come as strings.
_BODY: Final = msgspec.json.Decoder(_Body, strict=False)
_UNREAD_BODY: Final = msgspec.json.Decoder(_UnreadBody, strict=False)
_TRACE: Final = msgspec.json.Decoder(_Trace, strict=False)
_SPAN_SET: Final = msgspec.json.Decoder(_SpanSet, strict=False)
_ATTRIBUTES: Final = msgspec.json.Decoder(list[_Attribute])
_VALUE: Final = msgspec.json.Decoder(_Value)

_UNREADABLE: Final = (ValueError, RecursionError)
"""What reading raises: the errors of msgspec and of Unicode are ValueErrors."""


@dataclass(slots=True)
class Decoded:
    """What a body holds.

    Attributes:
        spans: the spans in scope, each once.
        traces: how many traces came, readable or not.
        invalid: traces and spans that make no sense and are not in ``spans``.
        missing: spans that matched but did not come, as Tempo returns only so many of a trace.
        complete: whether Tempo has looked at all that it meant to look at; it stops early once it has found as many
            traces as it was asked for.
        problem: what is wrong with the first of the invalid ones; empty where there is none.
    """

    spans: list[Span] = field(default_factory=list)
    traces: int = 0
    invalid: int = 0
    missing: int = 0
    complete: bool = True
    problem: str = ""

    def reject(self, problem: str) -> None:
        """Count something invalid."""
        self.invalid += 1
        self.problem = self.problem or problem


class SearchDecoder:
    """Decodes bodies, and remembers names from one to the next. For any number of threads."""

    def __init__(self, scope: Scope) -> None:
        self._scope: Scope = scope
        self._names = _Names()

    def decode(self, body: bytes) -> Decoded:
        """Read a body.

        Raises:
            ValueError: it is not JSON, or not a search answer.
        """
        result = Decoded()
        read: _Body | _UnreadBody
        traces: Iterable[_Trace]
        try:
            read = whole = _BODY.decode(body)
            traces = whole.traces or ()
        except _UNREADABLE:
            read = parts = _split(body)
            traces = _readable(parts.traces or (), result)
        # An object without either is an answer with nothing in it only if there is nothing else in it.
        if read.traces is read.metrics is msgspec.UNSET and b"".join(body.split()) != b"{}":
            raise ValueError("neither traces nor metrics in it")
        if isinstance(read.metrics, _Metrics):
            result.complete = read.metrics.completed_jobs >= read.metrics.total_jobs
        names = self._names
        if names.size > _MAX_REMEMBERED:
            names = self._names = _Names()
        for trace in traces:
            result.traces += 1
            self._add(trace, names, result)
        return result

    def _add(self, trace: _Trace, names: "_Names", result: Decoded) -> None:
        trace_id = trace.trace_id
        if len(trace_id) != _TRACE_ID_DIGITS or trace_id.strip(_HEX):
            trace_id = _hex_id(trace_id, _TRACE_ID_DIGITS)
            if not trace_id:
                result.reject(f"trace id {trace.trace_id[:_QUOTED]!r}")
                return
        span_sets = trace.span_sets or _old_span_set(trace)
        spans = span_sets[0].spans if len(span_sets) == 1 else None
        if spans is None or len(spans) != 1:
            spans = _union(span_sets)
        if not spans:
            result.reject(f"trace {trace_id} has no spans")
            return
        for span_set in span_sets:
            if span_set.matched > len(span_set.spans or ()):
                result.missing += min(span_set.matched, _MAX_MATCHED) - len(span_set.spans or ())
        for span in spans:
            start_ns, duration_ns = span.start_ns, span.duration_ns
            if start_ns <= 0 or duration_ns < 0 or start_ns + duration_ns > _MAX_NS:
                result.reject(f"trace {trace_id} has a span that starts at {start_ns} ns and takes {duration_ns} ns")
                continue
            span_id = span.span_id
            if len(span_id) != _SPAN_ID_DIGITS or span_id.strip(_HEX):
                span_id = _hex_id(span_id or "0", _SPAN_ID_DIGITS)
                if not span_id:
                    result.reject(f"trace {trace_id} has a span with id {span.span_id[:_QUOTED]!r}")
                    continue
            attributes = bytes(span.attributes)
            keys = names.by_attributes.get(attributes)
            if keys is None:
                keys = names.learn(attributes, self._service_else(trace))
            result.spans.append(Span(trace_id, span_id, keys[span.name], start_ns, duration_ns))

    def _service_else(self, trace: _Trace) -> str:
        """The service of a span that names none.

        A root span is of the service that Tempo gives for the trace's root, unless that is the text that it puts
        where there is none. Of any other span nothing is known, and its service has the empty name.
        """
        known = self._scope == "root" and trace.root_service_name != _ROOT_NOT_RECEIVED
        return trace.root_service_name if known else ""


class _Keys(dict[str, SeriesKey]):
    """The series of one service by the span's name as it came; made when first asked for."""

    def __init__(self, service_name: str, names: "_Names") -> None:
        super().__init__()
        self._service_name = service_name
        self._names = names

    def __missing__(self, name: str) -> SeriesKey:
        key = SeriesKey(self._service_name, clean_name(name))
        if len(name) <= MAX_NAME_CHARACTERS:
            self[name] = key
            self._names.size += 1
        return key


class _Names:
    """Remembers which series a span belongs to, by the bytes of its attributes and its name.

    Attributes:
        by_attributes: the series of a service, by the bytes of attributes that name it.
        size: how much is remembered.
    """

    def __init__(self) -> None:
        self.by_attributes: dict[bytes, _Keys] = {}
        self.size = 0
        self._by_service: dict[str, _Keys] = {}

    def learn(self, attributes: bytes, otherwise: str) -> _Keys:
        """The series of the service that attributes name, or of another where they name none."""
        named = _service_of(attributes)
        service_name = clean_name(named or otherwise)
        keys = self._by_service.setdefault(service_name, _Keys(service_name, self))
        if named and len(attributes) <= _MAX_REMEMBERED_BYTES:
            self.by_attributes[attributes] = keys
            self.size += 1
        return keys


def _service_of(attributes: bytes) -> str:
    try:
        for attribute in decode_leniently(_ATTRIBUTES, attributes):
            if attribute.key == "service.name":
                return decode_leniently(_VALUE, bytes(attribute.value)).string_value
    except _UNREADABLE:
        pass
    return ""


def clean_name(name: str) -> str:
    """A name that databases and pages can hold: no NUL characters, and not endless."""
    name = name.replace("\0", "\ufffd")
    return name if len(name) <= MAX_NAME_CHARACTERS else name[: MAX_NAME_CHARACTERS - 1] + "…"


def _hex_id(text: str, digits: int) -> str:
    """An id with the leading zeros that Tempo strips, in lower case; empty where it is none."""
    text = text.lower()
    if not text or len(text) > digits or text.strip(_HEX):
        return ""
    return text.zfill(digits)


def _union(span_sets: Sequence[_SpanSet]) -> list[_Span]:
    """The spans of several sets, each once. A span without an id equals no other."""
    spans: dict[str | int, _Span] = {}
    for span_set in span_sets:
        for span in span_set.spans or ():
            spans.setdefault(span.span_id or id(span), span)
    return list(spans.values())


def _old_span_set(trace: _Trace) -> list[_SpanSet]:
    """The one set of spans that an older Tempo returns instead of several."""
    try:
        return [decode_leniently(_SPAN_SET, bytes(trace.old_span_set))]
    except _UNREADABLE:
        return []


def _split(body: bytes) -> _UnreadBody:
    """A body whose traces are still to be read, one by one."""
    try:
        return decode_leniently(_UNREAD_BODY, body)
    except RecursionError:
        raise ValueError("nested beyond reason") from None


def _readable(traces: Iterable[msgspec.Raw], result: Decoded) -> Iterator[_Trace]:
    """Those of some traces that can be read; the others are counted."""
    for raw in traces:
        try:
            yield decode_leniently(_TRACE, bytes(raw))
        except _UNREADABLE as error:
            result.traces += 1
            result.reject(f"unreadable trace: {error}")


def decode_leniently(decoder: msgspec.json.Decoder[_T], data: bytes) -> _T:
    """Decode, if need be after mending what JSON permits or what is easily mended, but the decoder does not take."""
    try:
        return decoder.decode(data)
    except _UNREADABLE:
        return decoder.decode(_mended(data))


def _mended(data: bytes) -> bytes:
    """The same JSON with U+FFFD for what is not Unicode, and null for numbers that are none.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    value = json.loads(
        data.decode("utf-8", "replace"), parse_int=_integer, parse_float=_number, parse_constant=lambda _: None
    )
    # Only UTF-16 can carry half a surrogate pair, which JSON can write and UTF-8 cannot.
    text = json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.encode()


def _integer(text: str) -> int | None:
    return int(text) if len(text) <= _MAX_INTEGER_DIGITS else None


def _number(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None
