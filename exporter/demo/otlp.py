"""Encodes synthetic traces as OTLP/JSON (:mod:`exporter.tempo.otlp`), fast enough for millions of spans."""

from collections.abc import Iterable
from typing import Final, NamedTuple, get_args

from exporter.demo.responses import json_attributes, json_string
from exporter.demo.traces import Operation, SpanKind, Trace, TraceShape, parent_span_id

# In the order of OTLP's enumeration, from 0.
_STATUS_CODES: Final = {"ok": 1, "error": 2}
_KINDS: Final[dict[str, int]] = {kind: number for number, kind in enumerate(get_args(SpanKind))}

Resource = tuple[tuple[str, str], ...]


class _SpanTemplate(NamedTuple):
    """Common part of the spans at one position of a shape.

    Attributes:
        resource: attributes of the resource.
        text: JSON with placeholders for both ids, the parent, start and end.
    """

    resource: Resource
    text: bytes


class OtlpEncoder:
    """Encodes traces as ``ExportTraceServiceRequest``. Caches the templates of each shape."""

    def __init__(self) -> None:
        self._templates: dict[TraceShape, list[_SpanTemplate]] = {}

    def encode(self, traces: Iterable[Trace]) -> bytes:
        """Return the body of a request with these traces, grouped by resource."""
        spans: dict[Resource, list[bytes]] = {}
        for trace in traces:
            trace_id, templates = trace.trace_id, self._templates_of(trace.shape)
            for position, (template, times) in enumerate(zip(templates, trace.spans, strict=True)):
                span_id, start_ns, duration_ns = times
                parent = parent_span_id(trace, position)
                # A root span has an empty parent id.
                parent_text = b"" if parent is None else b"%016x" % parent
                text = template.text % (trace_id, span_id, parent_text, start_ns, start_ns + duration_ns)
                spans.setdefault(template.resource, []).append(text)
        return b'{"resourceSpans":[%b]}' % b",".join(
            b'{"resource":{"attributes":%b},"scopeSpans":[{"scope":{"name":"tempo-anomaly-exporter"},"spans":[%b]}]}'
            % (json_attributes(dict(resource)), b",".join(texts))
            for resource, texts in spans.items()
        )

    def _templates_of(self, shape: TraceShape) -> list[_SpanTemplate]:
        templates = self._templates.get(shape)
        if templates is None:
            templates = self._templates[shape] = [_template(operation) for operation in shape.operations]
        return templates


def _template(operation: Operation) -> _SpanTemplate:
    fields_text = b'"name":%b,"kind":%d,"attributes":%b%b' % (
        json_string(operation.name),
        _KINDS[operation.kind],
        json_attributes(operation.span_attributes),
        b"" if operation.status == "unset" else b',"status":{"code":%d}' % _STATUS_CODES[operation.status],
    )
    text = (
        b'{"traceId":"%%032x","spanId":"%%016x","parentSpanId":"%%b",'
        b'"startTimeUnixNano":"%%d","endTimeUnixNano":"%%d",%b}' % fields_text.replace(b"%", b"%%")
    )
    return _SpanTemplate(tuple(operation.resource_attributes.items()), text)
