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
"""What OTLP says is worth another attempt; everything else would be answered the same again."""
_TIMEOUT_SECONDS: Final = 30.0
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 30.0
_PATIENCE_SECONDS: Final = 300.0
_GZIP: Final = 31

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


class OtlpEncoder:
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


class SendError(Exception):
    """The endpoint does not take what is sent; the message says what to do."""


class SendStoppedError(Exception):
    """Sending was stopped while it waited."""


class SendResult(NamedTuple):
    """What became of a request that was taken.

    Attributes:
        rejected_spans: how many of its spans the endpoint left out all the same.
        message: what it says about that, or warns of; empty where it says nothing.
    """

    rejected_spans: int
    message: str


class OtlpSender:
    """One connection to an endpoint."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        wait: Callable[[float], bool],
        complain: Callable[[str], None],
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        """Prepare to send.

        Args:
            url: where to: the endpoint's base, or the whole address that ends in ``/v1/traces``.
            headers: further headers, such as the tenant's.
            wait: waits for some seconds; says whether to stop.
            complain: is told, in words, of the first of several failures in a row.
            monotonic: seconds that never jump.
            now: Unix seconds.
            patience_seconds: how long nothing may succeed before it is given up.
        """
        base = url.rstrip("/")
        self.address = base if base.endswith(_PATH) else base + _PATH
        self._wait = wait
        self._complain = complain
        self._monotonic = monotonic
        self._now = now
        self._patience_seconds = patience_seconds
        self._session = requests.Session()
        # No proxy and no password that the environment may name: nothing goes anywhere else.
        self._session.trust_env = False
        self._session.headers.update({**headers, "Content-Type": CONTENT_TYPE, "Content-Encoding": "gzip"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def send(self, body: bytes) -> SendResult:
        """Send the body of a request until it is taken.

        Raises:
            SendError: the endpoint refuses it, or has not taken anything for too long.
            StoppedError: it is to stop.
        """
        compressor = zlib.compressobj(level=1, wbits=_GZIP)
        data = compressor.compress(body) + compressor.flush()
        give_up_at = self._monotonic() + self._patience_seconds
        pause = _FIRST_PAUSE_SECONDS
        failed = False
        while True:
            trouble, asked_for = "", None
            try:
                response = self._session.post(self.address, data, timeout=_TIMEOUT_SECONDS, allow_redirects=False)
            except ValueError as error:
                # An address or a header that cannot be sent at all; what it says may quote a credential.
                raise SendError(
                    f"{self.address} cannot be asked ({type(error).__name__}): check --url and --header"
                ) from None
            except requests.RequestException as error:
                trouble = connection_problem(error)[0]
            else:
                if response.status_code == 200:
                    return _accepted(response.content)
                trouble = f"{response.status_code} {excerpt(response.text or response.reason)}"
                if response.status_code not in _RETRYABLE:
                    raise SendError(f"{self.address} refuses what is sent: {trouble}")
                asked_for = retry_after_seconds(response.headers.get("Retry-After"), self._now())
            seconds = pause * random.uniform(0.75, 1.25) if asked_for is None else asked_for
            if self._monotonic() + seconds > give_up_at:
                raise SendError(
                    f"{self.address} has not taken anything for {self._patience_seconds:g} s: {trouble}; is --url the "
                    "address of an OTLP/HTTP receiver?"
                )
            if not failed:
                self._complain(f"{self.address}: {trouble}; trying again")
                failed = True
            if self._wait(seconds):
                raise SendStoppedError
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _accepted(body: bytes) -> SendResult:
    """What an answer says; one that is not understood says nothing, for the request was taken."""
    try:
        partial = json.loads(body or b"{}").get("partialSuccess") or {}
        return SendResult(max(0, int(partial.get("rejectedSpans", 0))), excerpt(str(partial.get("errorMessage", ""))))
    except (ValueError, TypeError, AttributeError):
        return SendResult(0, "")
