"""Responses of the embedded Tempo API: errors in Tempo's wording, and helpers for parameters and JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from exporter.demo.traces import Trace, trace_parts
from exporter.model.traceql import Value

JSON_TYPE: Final = "application/json"
TEXT_TYPE: Final = "text/plain; charset=utf-8"

NS_PER_SECOND: Final = 1_000_000_000
_MAX_UINT32: Final = 2**32 - 1


class ApiResponse(NamedTuple):
    """Status, content type and body of an HTTP response."""

    status: int
    content_type: str
    body: bytes


class ApiError(ValueError):
    """A request that Tempo rejects. Holds the status of the response; the exception's text is the body."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Visibility:
    """Range of traces that can currently be found.

    Attributes:
        oldest_ns: traces that start earlier have expired.
        newest_ns: what ends later is not ingested yet.
        idle_ns: spans of a trace that arrive further apart than this are in different blocks, and can be found as soon
            as they have arrived; None: a trace is in one block, and can be found once all of it has ended.
    """

    oldest_ns: int
    newest_ns: int
    idle_ns: int | None = None

    def shows(self, trace: Trace) -> bool:
        """Return whether a trace can be found, or some part of it."""
        if trace.start_ns < self.oldest_ns:
            return False
        return trace.end_ns <= self.newest_ns if self.idle_ns is None else bool(self.parts(trace))

    def parts(self, trace: Trace) -> list[tuple[int, ...]]:
        """Return the positions of the spans in each block with a part of the trace, without spans yet to arrive."""
        if self.idle_ns is None:
            return [tuple(range(len(trace.spans)))]
        return trace_parts(trace, self.idle_ns, self.newest_ns)


def json_string(text: str) -> bytes:
    """Return a quoted JSON string in UTF-8."""
    return json.dumps(text, ensure_ascii=False).encode()


def json_value(value: Value) -> bytes:
    """Return a value in OTLP/JSON, where 64-bit integers are strings."""
    if isinstance(value, bool):
        return b'{"boolValue":%b}' % (b"true" if value else b"false")
    if isinstance(value, int):
        return b'{"intValue":"%d"}' % value
    if isinstance(value, float):
        return b'{"doubleValue":%b}' % json.dumps(value).encode()
    return b'{"stringValue":%b}' % json_string(value)


def json_attributes(attributes: Mapping[str, Value]) -> bytes:
    """Return a list of attributes in OTLP/JSON."""
    return b"[%b]" % b",".join(
        b'{"key":%b,"value":%b}' % (json_string(key), json_value(value)) for key, value in attributes.items()
    )


def unsigned(params: Mapping[str, str], name: str) -> int:
    """Parse a parameter as an unsigned 32-bit number; 0 if it is missing.

    Raises:
        ApiError: it is not one.
    """
    text = params.get(name, "")
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise ApiError(f'invalid {name}: strconv.ParseUint: parsing "{text}": invalid syntax')
    if (value := int(text)) > _MAX_UINT32:
        raise ApiError(f'invalid {name}: strconv.ParseUint: parsing "{text}": value out of range')
    return value


def time_range(params: Mapping[str, str]) -> tuple[int, int]:
    """Parse the parameters ``start`` and ``end``, in whole Unix seconds; both 0 if both are missing.

    Raises:
        ApiError: one is not a number, or they are not in order.
    """
    start, end = unsigned(params, "start"), unsigned(params, "end")
    if (start or end) and start >= end:
        raise ApiError(f"http parameter start must be before end. received start={start} end={end}")
    return start, end


def go_duration(seconds: int) -> str:
    """Format a duration as Go does: ``168h0m0s``."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}s" if hours else f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
