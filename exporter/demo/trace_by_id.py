"""``/api/traces/{id}`` and ``/api/v2/traces/{id}`` of the embedded Tempo API: a complete trace in OTLP/JSON."""

import base64
import json
from typing import Any

from exporter.demo.responses import ApiError, json_attributes
from exporter.demo.traces import Operation, SpanTimes, Trace, parent_span_id


def parse_trace_id(text: str) -> int:
    """Parse a trace id, with or without leading zeros.

    Raises:
        ApiError: it is invalid.
    """
    for position, character in enumerate(text):
        if character not in "0123456789abcdefABCDEF":
            raise ApiError(
                f"trace IDs can only contain hex characters: invalid character {character!r} at position {position + 1}"
            )
    if not 0 < len(text) <= 32:
        raise ApiError("trace IDs can't be larger than 128 bits" if text else "please provide a traceID")
    return int(text, 16)


def _base64(number: int, size: int) -> str:
    return base64.b64encode(number.to_bytes(size, "big")).decode()


def _attributes(operation_attributes: Any) -> Any:
    return json.loads(json_attributes(dict(operation_attributes)))


def _span(trace: Trace, operation: Operation, times: SpanTimes, parent_id: int | None) -> dict[str, Any]:
    span: dict[str, Any] = {"traceId": _base64(trace.trace_id, 16), "spanId": _base64(times.span_id, 8)}
    if parent_id is not None:
        span["parentSpanId"] = _base64(parent_id, 8)
    if operation.name:
        span["name"] = operation.name
    if operation.kind != "unspecified":
        span["kind"] = f"SPAN_KIND_{operation.kind.upper()}"
    span["startTimeUnixNano"] = str(times.start_ns)
    span["endTimeUnixNano"] = str(times.start_ns + times.duration_ns)
    if operation.attributes:
        span["attributes"] = _attributes(operation.attributes)
    span["status"] = {} if operation.status == "unset" else {"code": f"STATUS_CODE_{operation.status.upper()}"}
    return span


def resource_spans(trace: Trace) -> list[dict[str, Any]]:
    """Return the spans of a trace, grouped by resource."""
    by_resource: dict[tuple[tuple[str, str], ...], list[dict[str, Any]]] = {}
    for position, (operation, times) in enumerate(zip(trace.shape.operations, trace.spans, strict=True)):
        resource = tuple(operation.resource_attributes.items())
        by_resource.setdefault(resource, []).append(_span(trace, operation, times, parent_span_id(trace, position)))
    return [
        {"resource": {"attributes": _attributes(resource)}, "scopeSpans": [{"scope": {}, "spans": spans}]}
        for resource, spans in by_resource.items()
    ]


def render_v1(trace: Trace) -> bytes:
    """Return the response body of the v1 lookup."""
    return json.dumps({"batches": resource_spans(trace)}).encode()


def render_v2(trace: Trace | None) -> bytes:
    """Return the response body of the v2 lookup; an unknown trace is an empty one."""
    if trace is None:
        return b'{"trace":{},"metrics":{}}'
    metrics = {"inspectedBytes": str(1000 * len(trace.spans))}
    return json.dumps({"trace": {"resourceSpans": resource_spans(trace)}, "metrics": metrics}).encode()
