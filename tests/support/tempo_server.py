"""A scripted Tempo on loopback, for valid and faulty responses."""

import json
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from exporter.runtime.telemetry import (
    CauseOutcome,
    FailureReason,
    Loop,
    SkipReason,
    StorageFailure,
    Telemetry,
    VersionOutcome,
)
from tests.support.paths import RECORDINGS


@dataclass(frozen=True)
class Request:
    """A received request."""

    path: str
    params: dict[str, str]
    headers: dict[str, str]


class Handler(BaseHTTPRequestHandler):
    """Passes every request to the test's script."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.tempo.arrived(Request(parts.path, dict(parse_qsl(parts.query)), headers))
        try:
            self.server.tempo.next_responder()(self)
        except (ConnectionError, ssl.SSLError):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - name of the base class
        pass

    def send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def until_closed(self, seconds: float) -> bool:
        """Wait, and return whether the test is over."""
        return self.server.tempo.over.wait(seconds)


Responder = Callable[[Handler], None]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    tempo: "FakeTempo"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@dataclass
class FakeTempo:
    """Script and recorded requests of the server.

    Attributes:
        script: responders in order; the last one is repeated.
        requests: the received requests.
        over: set when the test ends, to release blocked responders.
        asked: set once a request was received.
    """

    url: str = ""
    script: deque[Responder] = field(default_factory=deque)
    requests: list[Request] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    asked: threading.Event = field(default_factory=threading.Event)

    def answer(self, *responders: Responder) -> None:
        self.script = deque(responders)

    def arrived(self, request: Request) -> None:
        with self.lock:
            self.requests.append(request)
        self.asked.set()

    def next_responder(self) -> Responder:
        with self.lock:
            return self.script.popleft() if len(self.script) > 1 else self.script[0]


@contextmanager
def fake_tempo(tls: ssl.SSLContext | None = None) -> Iterator[FakeTempo]:
    """Serve on a free port of loopback until the block ends."""
    server = _Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    scheme = "http" if tls is None else "https"
    tempo = FakeTempo(url=f"{scheme}://127.0.0.1:{server.server_address[1]}")
    tempo.answer(replying(search_body()))
    server.tempo = tempo
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield tempo
    finally:
        tempo.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def unused_url() -> str:
    """Return a URL on loopback without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


# Bodies


def search_body(*traces: Mapping[str, Any], **metrics: Any) -> dict[str, Any]:
    """Return a search response as Tempo sends it."""
    return {"traces": list(traces), "metrics": {"completedJobs": 1, "totalJobs": 1, **metrics}}


def a_trace(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a trace with one root span."""
    span = a_span(number)
    return {
        "traceID": f"{number:032x}",
        "rootServiceName": "shop",
        "rootTraceName": "GET /",
        "spanSets": [{"spans": [span], "matched": 1}],
        **changes,
    }


def a_span(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a root span of ``shop``; spans are one second apart."""
    return {
        "spanID": f"{number:016x}",
        "name": "GET /",
        "startTimeUnixNano": str((1_795_077_000 + number) * 1_000_000_000),
        "durationNanos": "5000000",
        "attributes": [
            {"key": "nestedSetParent", "value": {"intValue": "-1"}},
            {"key": "service.name", "value": {"stringValue": "shop"}},
        ],
        **changes,
    }


# Responders


def replying(body: Any, status: int = 200, content_type: str = "application/json", **headers: str) -> Responder:
    """Send a complete response; underscores in header names become hyphens."""
    data = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    renamed_headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def respond(handler: Handler) -> None:
        handler.send(status, data, {"Content-Type": content_type, "Content-Length": str(len(data)), **renamed_headers})

    return respond


def chunked(body: Any, pieces: int = 7, **headers: str) -> Responder:
    """Respond with chunked transfer encoding."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    size = max(1, len(data) // pieces)
    coded = b"".join(
        b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (data[i : i + size] for i in range(0, len(data), size))
    )
    renamed_headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def respond(handler: Handler) -> None:
        handler.send(200, coded + b"0\r\n\r\n", {"Transfer-Encoding": "chunked", **renamed_headers})

    return respond


def truncating(body: Any, *, keep: int) -> Responder:
    """Announce the whole body, send its start, and close the connection."""
    data = json.dumps(body).encode()

    def respond(handler: Handler) -> None:
        handler.send(200, data[:keep], {"Content-Type": "application/json", "Content-Length": str(len(data))})
        handler.close_connection = True

    return respond


def hanging(handler: Handler) -> None:
    """Accept the request and never respond."""
    handler.until_closed(60)
    handler.close_connection = True


def hanging_up(handler: Handler) -> None:
    """Accept the request and close the connection."""
    handler.close_connection = True


def dripping(prefix: bytes) -> Responder:
    """Send a prefix, then one byte at a time until the connection is closed."""

    def respond(handler: Handler) -> None:
        handler.wfile.write(prefix)
        while not handler.until_closed(0.02):
            handler.wfile.write(b" ")
        handler.close_connection = True

    return respond


def raw(data: bytes) -> Responder:
    """Send arbitrary bytes and close the connection."""

    def respond(handler: Handler) -> None:
        handler.wfile.write(data)
        handler.close_connection = True

    return respond


# Recordings


@dataclass(frozen=True)
class Recording:
    """A recorded response of a real Tempo."""

    version: str
    name: str
    path: str
    params: dict[str, Any]
    status: int
    content_type: str
    body: Any

    def __str__(self) -> str:
        return f"{self.version}/{self.name}"

    @property
    def responder(self) -> Responder:
        return replying(self.body, self.status, self.content_type)


def recordings(pattern: str = "*") -> list[Recording]:
    """Return the recordings whose name matches a pattern, of all versions."""
    matching = []
    for path in sorted(RECORDINGS.glob(f"tempo-*/{pattern}.json")):
        content = json.loads(path.read_text("utf-8"))
        request, response = content["request"], content["response"]
        matching.append(
            Recording(
                path.parent.name,
                path.stem,
                request["path"],
                request["params"],
                response["status"],
                response["content_type"],
                response["body"],
            )
        )
    return matching


# Telemetry


class Recorder(Telemetry):
    """Records what the client reports, and fails on reports that other parts have to make."""

    def __init__(self) -> None:
        self.requests: list[Loop] = []
        self.failures: list[tuple[Loop, FailureReason]] = []
        self.answered: list[bool] = []
        self.saturations: list[Loop] = []
        self.read: list[tuple[Loop, int]] = []
        self.skipped: list[tuple[Loop, SkipReason, int]] = []
        self.search_by_id: list[bool] = []

    def request(self, loop: Loop, seconds: float) -> None:
        assert seconds >= 0
        self.requests.append(loop)

    def request_failed(self, loop: Loop, reason: FailureReason) -> None:
        self.failures.append((loop, reason))

    def tempo_answered(self, answered: bool) -> None:
        self.answered.append(answered)

    def sampled(self, loop: Loop) -> None:
        raise AssertionError("only the readers report this")

    def rootless_traces(self, ratio: float) -> None:
        raise AssertionError("the client does not report this")

    def source_counts_available(self, available: bool) -> None:
        raise AssertionError("only the readers report this")

    def saturated(self, loop: Loop) -> None:
        self.saturations.append(loop)

    def traces_read(self, loop: Loop, count: int) -> None:
        self.read.append((loop, count))

    def traces_skipped(self, loop: Loop, reason: SkipReason, count: int) -> None:
        self.skipped.append((loop, reason, count))

    def split(self, loop: Loop) -> None:
        raise AssertionError("the client does not report this")

    def truncated(self, loop: Loop) -> None:
        raise AssertionError("the client does not report this")

    def searchable_delays(self, delays: Mapping[float, int]) -> None:
        raise AssertionError("only the readers report this")

    def storage_failed(self, reason: StorageFailure) -> None:
        raise AssertionError("the client does not report this")

    def search_by_id_available(self, available: bool) -> None:
        self.search_by_id.append(available)

    def cause_sought(self, outcome: CauseOutcome, seconds: float) -> None:
        raise AssertionError("the client does not report this")

    def causes_pending(self, count: int) -> None:
        raise AssertionError("the client does not report this")

    def version_sought(self, outcome: VersionOutcome) -> None:
        raise AssertionError("the client does not report this")
