"""Synthetic traces as OTLP: the JSON of an ``ExportTraceServiceRequest``.

In OTLP's JSON ids are hexadecimal, not base64 as in protobuf's own mapping, enumerations are numbers and 64-bit
integers are strings. It needs no library, and whoever takes OTLP over HTTP takes it beside protobuf.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple, get_args

from exporter.demo.answers import json_attributes, json_string
from exporter.demo.traces import Operation, SpanKind, Trace, TraceShape, parent_span_id

CONTENT_TYPE: Final = "application/json"
# In the order of OTLP's numbers, from 0.
_KINDS: Final[dict[str, int]] = {kind: number for number, kind in enumerate(get_args(SpanKind))}

Resource = tuple[tuple[str, str], ...]


class _SpanTemplate(NamedTuple):
    """What the spans at one position of a shape have in common.

    Attributes:
        resource: who sent it.
        text: its JSON, with places for both ids, the parent, start and end.
    """

    resource: Resource
    text: bytes


class Encoder:
    """Encodes traces, and remembers what those of one shape have in common."""

    def __init__(self) -> None:
        self._templates: dict[TraceShape, list[_SpanTemplate]] = {}

    def encode(self, traces: Iterable[Trace]) -> bytes:
        """The body of a request that carries some traces; spans stand with the resource that sent them."""
        spans: dict[Resource, list[bytes]] = {}
        for trace in traces:
            trace_id = trace.trace_id
            for position, (template, times) in enumerate(zip(self._of(trace.shape), trace.spans, strict=True)):
                span_id, start_ns, duration_ns = times
                parent = parent_span_id(trace, position)
                # Before the id of a root span's parent there is nothing, and nothing is an empty id.
                parent_text = b"" if parent is None else b"%016x" % parent
                text = template.text % (trace_id, span_id, parent_text, start_ns, start_ns + duration_ns)
                spans.setdefault(template.resource, []).append(text)
        return b'{"resourceSpans":[%b]}' % b",".join(
            b'{"resource":{"attributes":%b},"scopeSpans":[{"scope":{"name":"tempo-anomaly-exporter"},"spans":[%b]}]}'
            % (json_attributes(dict(resource)), b",".join(texts))
            for resource, texts in spans.items()
        )

    def _of(self, shape: TraceShape) -> list[_SpanTemplate]:
        known = self._templates.get(shape)
        if known is None:
            known = self._templates[shape] = [_template(operation) for operation in shape.operations]
        return known


def _template(operation: Operation) -> _SpanTemplate:
    fixed = b'"name":%b,"kind":%d,"attributes":%b' % (
        json_string(operation.name),
        _KINDS[operation.kind],
        json_attributes(operation.span_attributes),
    )
    text = (
        b'{"traceId":"%%032x","spanId":"%%016x","parentSpanId":"%%b",'
        b'"startTimeUnixNano":"%%d","endTimeUnixNano":"%%d",%b}' % fixed.replace(b"%", b"%%")
    )
    return _SpanTemplate(tuple(operation.resource_attributes.items()), text)
