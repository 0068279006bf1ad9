"""Tempo's HTTP API, as far as the exporter uses it, over synthetic traces and on loopback.

It behaves as real Tempo was recorded to: exact windows of whole seconds that match what overlaps them, limits and
refusals in the same words, ids without leading zeros, absent zeros. Run as a module it is a process of its own that
prints its address as its first line:

    python -m exporter.demo.tempo_api --port 0 --exit-with-parent
"""

import argparse
import contextlib
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from exporter.demo.metrics_query import MetricsMode
from exporter.demo.responses import TEXT_TYPE, ApiResponse
from exporter.demo.routes import ApiOptions, TempoApi
from exporter.demo.scenario import INCIDENT_AFTER_SECONDS, SEED, demo_scenario
from exporter.demo.search import SearchLimits
from exporter.demo.traces import TraceSource
from exporter.runtime.signals import StopRequest

_REMEMBERED_REQUESTS: Final = 100_000


class ReceivedRequest(NamedTuple):
    """A GET request that the server has received."""

    path: str
    params: Mapping[str, str]


class _Handler(BaseHTTPRequestHandler):
    """Answers GET; the rest of HTTP is the base class's."""

    server: "_HttpServer"
    server_version = "EmbeddedTempo"
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Remember the request and answer it."""
        target = urlsplit(self.path)
        received = ReceivedRequest(unquote(target.path), dict(parse_qsl(target.query, keep_blank_values=True)))
        self.server.received.append(received)
        try:
            answer = self.server.api.answer(received.path, received.params)
        except Exception as error:  # noqa: BLE001 - the client gets to know, and the server goes on
            answer = ApiResponse(500, TEXT_TYPE, f"the embedded Tempo API failed: {error!r}".encode())
        self.server.delay()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing: the demo's terminal belongs to the exporter."""


class _HttpServer(ThreadingHTTPServer):
    """Knows its connections, so that closing it ends them as the end of a process would."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], api: TempoApi, delay: Callable[[], None]) -> None:
        super().__init__(address, _Handler)
        self.api = api
        self.delay = delay
        self.received: deque[ReceivedRequest] = deque(maxlen=_REMEMBERED_REQUESTS)
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._connections_lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._connections_lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        with self._connections_lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's problem."""


class TempoServer:
    """The embedded Tempo API on a port of its own, served by threads from construction until it is closed.

    Attributes:
        url: where it listens, without a slash at the end.
    """

    def __init__(
        self,
        source: TraceSource,
        options: ApiOptions | None = None,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        """Bind and serve.

        Args:
            source: the traces.
            options: how the API behaves.
            clock: returns unix seconds.
            sleep: waits for some seconds.
            host: the address to bind.
            port: the port to bind; 0 takes a free one.

        Raises:
            OSError: the address cannot be bound.
        """
        options = options or ApiOptions()
        delay_seconds = options.delay_seconds
        self._server = _HttpServer(
            (host, port), TempoApi(source, options, clock), lambda: sleep(delay_seconds) if delay_seconds else None
        )
        self.url = f"http://{host}:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="tempo-api", daemon=True
        )
        self._thread.start()

    @property
    def received(self) -> Sequence[ReceivedRequest]:
        """The last 100,000 requests, oldest first."""
        return tuple(self._server.received)

    def searches(self) -> list[Mapping[str, str]]:
        """The parameters of the searches among them."""
        return [request.params for request in self.received if request.path == "/api/search"]

    def close(self) -> None:
        """Stop serving, free the port and end every connection."""
        self._server.shutdown()
        self._server.server_close()
        self._server.end_connections()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m exporter.demo.tempo_api", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (%(default)s)")
    parser.add_argument("--port", type=int, default=3200, help="port to bind, 0 for a free one (%(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the traffic (%(default)s)")
    parser.add_argument(
        "--anchor", type=float, default=None, metavar="UNIX_SECONDS",
        help="the instant the scenario is arranged around; give it again to go on with the same traffic (now)",
    )  # fmt: skip
    parser.add_argument(
        "--incident-after", type=float, default=INCIDENT_AFTER_SECONDS, metavar="SECONDS",
        help="the incident begins so long after the anchor (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--traffic", type=float, default=1.0, metavar="FACTOR", help="so much more traffic (%(default)s)"
    )
    parser.add_argument("--max-result-limit", type=int, default=SearchLimits.max_result_limit, help="(%(default)s)")
    parser.add_argument(
        "--max-duration", type=int, default=SearchLimits.max_duration_seconds, metavar="SECONDS", help="(%(default)s)"
    )
    parser.add_argument("--metrics", choices=get_args(MetricsMode), default=ApiOptions.metrics, help="(%(default)s)")
    parser.add_argument(
        "--metrics-max-duration", type=int, default=ApiOptions.metrics_max_duration_seconds, metavar="SECONDS",
        help="(%(default)s)",
    )  # fmt: skip
    parser.add_argument("--retention", type=float, metavar="SECONDS", help="older traces are gone (kept)")
    parser.add_argument(
        "--visible-after", type=float, default=ApiOptions.visible_after_seconds, metavar="SECONDS",
        help="a trace can be found so long after its end (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--delay", type=float, default=ApiOptions.delay_seconds, metavar="SECONDS",
        help="every answer takes so much longer (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--exit-with-parent", action="store_true", help="end when standard input is closed")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the demo's scenario until SIGTERM, SIGINT, or the end of standard input where that was asked for."""
    arguments = _arguments(argv)
    stop = StopRequest()
    stop.listen()
    if arguments.exit_with_parent:
        # The parent holds the other end of the pipe: however it dies, the pipe is closed. The descriptor is read and
        # not sys.stdin, whose lock a thread that still waits would hold when the interpreter ends.
        def wait_for_parent() -> None:
            while os.read(sys.stdin.fileno(), 4096):
                pass
            stop.make()

        threading.Thread(target=wait_for_parent, name="parent", daemon=True).start()
    options = ApiOptions(
        limits=SearchLimits(max_result_limit=arguments.max_result_limit, max_duration_seconds=arguments.max_duration),
        metrics=arguments.metrics,
        metrics_max_duration_seconds=arguments.metrics_max_duration,
        retention_seconds=arguments.retention,
        visible_after_seconds=arguments.visible_after,
        delay_seconds=arguments.delay,
    )
    scenario = demo_scenario(
        time.time() if arguments.anchor is None else arguments.anchor,
        seed=arguments.seed,
        incident_after_seconds=arguments.incident_after,
        traffic_factor=arguments.traffic,
    )
    try:
        server = TempoServer(scenario, options, host=arguments.host, port=arguments.port)
    except OSError as error:
        sys.stderr.write(f"cannot listen on {arguments.host}:{arguments.port}: {error}; choose another --port\n")
        return 1
    with server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
