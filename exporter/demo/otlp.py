"""Encodes synthetic traces as OTLP/JSON and sends them to an OTLP/HTTP endpoint.

OTLP/JSON needs no library, and every OTLP/HTTP receiver accepts it besides protobuf. In OTLP/JSON ids are hexadecimal,
not base64 as in protobuf's JSON mapping; enumerations are numbers and 64-bit integers are strings.
"""

import json
import random
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, Self, get_args

import requests

from exporter.demo.responses import json_attributes, json_string
from exporter.demo.traces import Operation, SpanKind, Trace, TraceShape, parent_span_id
from exporter.tempo.failures import connection_problem, excerpt, retry_after_seconds

_PATH: Final = "/v1/traces"
_RETRYABLE: Final = frozenset({429, 502, 503, 504})
"""Statuses that OTLP defines as retryable."""
_TIMEOUT_SECONDS: Final = 30.0
_FIRST_PAUSE_SECONDS: Final = 0.5
_MAX_PAUSE_SECONDS: Final = 30.0
_GIVE_UP_SECONDS: Final = 300.0
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


class SendError(Exception):
    """The endpoint rejects requests or is down; the message says what to do."""


class SendStoppedError(Exception):
    """Sending was stopped during a pause."""


class SendResult(NamedTuple):
    """Result of an accepted request.

    Attributes:
        rejected_spans: number of spans that the endpoint rejected nevertheless.
        message: error or warning of the endpoint; empty for none.
    """

    rejected_spans: int
    message: str


class OtlpSender:
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
        give_up_seconds: float = _GIVE_UP_SECONDS,
    ) -> None:
        """Create a sender; it connects on the first request.

        Args:
            url: base URL of the endpoint, or the full URL that ends in ``/v1/traces``.
            headers: further headers, such as the tenant's.
            wait: sleeps for some seconds and returns whether to stop.
            report: called with the first of several consecutive failures, as text.
            monotonic: seconds of a monotonic clock.
            now: Unix seconds.
            give_up_seconds: how long a request is retried.
        """
        base = url.rstrip("/")
        self.address = base if base.endswith(_PATH) else base + _PATH
        self._wait = wait
        self._report = report
        self._monotonic = monotonic
        self._now = now
        self._give_up_seconds = give_up_seconds
        self._session = requests.Session()
        # Ignore proxies and credentials from the environment: requests go to this address only.
        self._session.trust_env = False
        self._session.headers.update({**headers, "Content-Type": CONTENT_TYPE, "Content-Encoding": "gzip"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def send(self, body: bytes) -> SendResult:
        """Send the body of a request, with retries.

        Raises:
            SendError: the endpoint rejects it, or all retries failed.
            SendStoppedError: sending was stopped.
        """
        compressor = zlib.compressobj(level=1, wbits=_GZIP_WBITS)
        data = compressor.compress(body) + compressor.flush()
        give_up_at = self._monotonic() + self._give_up_seconds
        pause = _FIRST_PAUSE_SECONDS
        failed = False
        while True:
            problem, retry_after = "", None
            try:
                response = self._session.post(self.address, data, timeout=_TIMEOUT_SECONDS, allow_redirects=False)
            except ValueError as error:
                # An invalid URL or header. The exception may quote a credential, so its text is not used.
                raise SendError(
                    f"cannot send to {self.address} ({type(error).__name__}): check --url and --header"
                ) from None
            except requests.RequestException as error:
                problem = connection_problem(error)[0]
            else:
                if response.status_code == 200:
                    return _parse_result(response.content)
                problem = f"{response.status_code} {excerpt(response.text or response.reason)}"
                if response.status_code not in _RETRYABLE:
                    raise SendError(f"{self.address} rejected a request: {problem}")
                retry_after = retry_after_seconds(response.headers.get("Retry-After"), self._now())
            seconds = pause * random.uniform(0.75, 1.25) if retry_after is None else retry_after
            if self._monotonic() + seconds > give_up_at:
                raise SendError(
                    f"{self.address} accepted no request for {self._give_up_seconds:g} s: {problem}. Check that --url "
                    "is the address of an OTLP/HTTP receiver"
                )
            if not failed:
                self._report(f"{self.address}: {problem}; retrying")
                failed = True
            if self._wait(seconds):
                raise SendStoppedError
            pause = min(2 * pause, _MAX_PAUSE_SECONDS)


def _parse_result(body: bytes) -> SendResult:
    """Parse the response to an accepted request; an invalid one counts as success without a message."""
    try:
        partial = json.loads(body or b"{}").get("partialSuccess") or {}
        return SendResult(max(0, int(partial.get("rejectedSpans", 0))), excerpt(str(partial.get("errorMessage", ""))))
    except (ValueError, TypeError, AttributeError):
        return SendResult(0, "")
