"""Encodes synthetic traces as OTLP/JSON and sends them to an OTLP/HTTP endpoint.

OTLP/JSON needs no library, and every OTLP/HTTP receiver accepts it besides protobuf. In OTLP/JSON ids are hexadecimal,
not base64 as in protobuf's JSON mapping; enumerations are numbers and 64-bit integers are strings.
"""

import json
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, get_args

from exporter.demo.http_endpoint import TIMEOUT_SECONDS, EndpointRole, RetryingEndpoint
from exporter.demo.responses import json_attributes, json_string
from exporter.demo.traces import Operation, SpanKind, Trace, TraceShape, parent_span_id
from exporter.tempo.failures import excerpt

_PATH: Final = "/v1/traces"
# OTLP defines these statuses as retryable.
_RECEIVER: Final = EndpointRole(
    "--url", "request", "an OTLP/HTTP receiver", frozenset({429, 502, 503, 504}).__contains__
)
_GZIP_WBITS: Final = 31

CONTENT_TYPE: Final = "application/json"
# In the order of OTLP's enumeration, from 0.
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
    fields_text = b'"name":%b,"kind":%d,"attributes":%b' % (
        json_string(operation.name),
        _KINDS[operation.kind],
        json_attributes(operation.span_attributes),
    )
    text = (
        b'{"traceId":"%%032x","spanId":"%%016x","parentSpanId":"%%b",'
        b'"startTimeUnixNano":"%%d","endTimeUnixNano":"%%d",%b}' % fields_text.replace(b"%", b"%%")
    )
    return _SpanTemplate(tuple(operation.resource_attributes.items()), text)


class SendResult(NamedTuple):
    """Result of an accepted request.

    Attributes:
        rejected_spans: number of spans that the endpoint rejected nevertheless.
        message: error or warning of the endpoint; empty for none.
    """

    rejected_spans: int
    message: str


class OtlpSender(RetryingEndpoint):
    """Sends requests to one OTLP/HTTP endpoint, with retries."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        wait: Callable[[float], bool],
        report: Callable[[str], None],
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Create a sender; it connects on the first request.

        Args:
            url: base URL of the endpoint, or the full URL that ends in ``/v1/traces``.
            headers: further headers, such as the tenant's.
            wait: sleeps for some seconds and returns whether to stop.
            report: called with the first of several consecutive failures, as text.
            monotonic: seconds of a monotonic clock.
            now: Unix seconds.
        """
        base = url.rstrip("/")
        super().__init__(
            base if base.endswith(_PATH) else base + _PATH,
            {**headers, "Content-Type": CONTENT_TYPE, "Content-Encoding": "gzip"},
            _RECEIVER,
            wait=wait,
            report=report,
            monotonic=monotonic,
            now=now,
        )

    def send(self, body: bytes) -> SendResult:
        """Send the body of a request, with retries.

        Raises:
            SendError: the endpoint rejects it, or all retries failed.
            SendStoppedError: sending was stopped.
        """
        compressor = zlib.compressobj(level=1, wbits=_GZIP_WBITS)
        data = compressor.compress(body) + compressor.flush()
        response = self.request(
            lambda session: session.post(self.address, data, timeout=TIMEOUT_SECONDS, allow_redirects=False)
        )
        return _parse_result(response.content)


def _parse_result(body: bytes) -> SendResult:
    """Parse the response to an accepted request; an invalid one counts as success without a message."""
    try:
        partial = json.loads(body or b"{}").get("partialSuccess") or {}
        return SendResult(max(0, int(partial.get("rejectedSpans", 0))), excerpt(str(partial.get("errorMessage", ""))))
    except (ValueError, TypeError, AttributeError):
        return SendResult(0, "")
