"""A scripted OTLP/HTTP receiver on loopback, for spans in JSON."""

import base64
import gzip
import json
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Self

from exporter.demo.trace_by_id import resource_spans
from exporter.demo.traces import Trace

KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")


class ReceivedSpan(NamedTuple):
    """A received span: ids as numbers, absent values empty."""

    trace_id: int
    span_id: int
    parent_id: int | None
    name: str
    kind: str
    start_ns: int
    end_ns: int
    resource: Mapping[str, object]
    attributes: Mapping[str, object]


class Answer(NamedTuple):
    """A response of the receiver; status 0 closes the connection without one."""

    status: int = 200
    body: bytes = b'{"partialSuccess":{}}'
    headers: Mapping[str, str] = {}


ACCEPTED = Answer()


class OtlpReceiver:
    """Receives and records spans.

    Attributes:
        url: base URL without trailing slash.
        script: responses in order; afterwards all requests are accepted.
        headers: headers of every request, in lower case.
        spans: all accepted spans.
        paths: path of every request.
    """

    def __init__(self, script: Sequence[Answer] = ()) -> None:
        self.script = deque(script)
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.spans: list[ReceivedSpan] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm: ClassVar[bool] = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.paths.append(self.path)
                receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
                response = receiver.script.popleft() if receiver.script else ACCEPTED
                if not response.status:
                    self.close_connection = True
                    return
                if response.status == 200:
                    receiver.spans += decoded(gzip.decompress(body))
                self.send_response(response.status)
                for name, value in {"Content-Type": "application/json", **response.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(response.body)))
                self.end_headers()
                self.wfile.write(response.body)

            def log_message(self, *args: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def decoded(body: bytes) -> list[ReceivedSpan]:
    """Decode a request, and check that it is OTLP/JSON: hexadecimal ids, kinds as numbers, times as text."""
    spans = []
    for group in json.loads(body)["resourceSpans"]:
        resource = _attributes(group["resource"]["attributes"])
        for scope in group["scopeSpans"]:
            for span in scope["spans"]:
                assert (len(span["traceId"]), len(span["spanId"])) == (32, 16)
                assert len(span["parentSpanId"]) in (0, 16)
                assert isinstance(span["kind"], int)
                assert isinstance(span["startTimeUnixNano"], str)
                spans.append(
                    ReceivedSpan(
                        int(span["traceId"], 16),
                        int(span["spanId"], 16),
                        int(span["parentSpanId"], 16) if span["parentSpanId"] else None,
                        span["name"],
                        KINDS[span["kind"]],
                        int(span["startTimeUnixNano"]),
                        int(span["endTimeUnixNano"]),
                        resource,
                        _attributes(span["attributes"]),
                    )
                )
    return spans


def _attributes(pairs: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """Read attributes, each of which is a text or a whole number; as JSON has 64 bits, that is a text, too."""
    return {
        pair["key"]: int(pair["value"]["intValue"]) if "intValue" in pair["value"] else pair["value"]["stringValue"]
        for pair in pairs
    }


def served(trace: Trace) -> list[ReceivedSpan]:
    """Return the spans of a trace as the embedded Tempo API serves them."""

    def number(text: str) -> int:
        return int.from_bytes(base64.b64decode(text), "big")

    return [
        ReceivedSpan(
            number(span["traceId"]),
            number(span["spanId"]),
            number(span["parentSpanId"]) if "parentSpanId" in span else None,
            span.get("name", ""),
            span.get("kind", "SPAN_KIND_UNSPECIFIED").removeprefix("SPAN_KIND_").lower(),
            int(span["startTimeUnixNano"]),
            int(span["endTimeUnixNano"]),
            _attributes(group["resource"]["attributes"]),
            _attributes(span.get("attributes", ())),
        )
        for group in resource_spans(trace)
        for scope in group["scopeSpans"]
        for span in scope["spans"]
    ]
