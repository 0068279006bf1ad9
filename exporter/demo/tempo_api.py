"""Embedded Tempo API over synthetic traces: the part of Tempo's HTTP API that the exporter uses.

It behaves like recorded real Tempo versions: searches match what overlaps a range of whole seconds, limits and errors
have the same wording, ids have no leading zeros, and zero values are omitted. Run as a module it is a process that
prints its URL as the first line:

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

from exporter.demo.faults import FAULT_KINDS
from exporter.demo.metrics_query import MetricsMode
from exporter.demo.responses import TEXT_TYPE, ApiResponse
from exporter.demo.routes import ApiOptions, TempoApi
from exporter.demo.scenario import INCIDENT_AFTER_SECONDS, SEED, demo_scenario
from exporter.demo.search import SearchLimits
from exporter.demo.traces import TraceSource
from exporter.runtime.signals import StopRequest

_MAX_RECORDED_REQUESTS: Final = 100_000


class ReceivedRequest(NamedTuple):
    """A received GET request."""

    path: str
    params: Mapping[str, str]


class _Handler(BaseHTTPRequestHandler):
    """Handles GET requests."""

    server: "_HttpServer"
    server_version = "EmbeddedTempo"
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Record the request and respond."""
        target = urlsplit(self.path)
        received = ReceivedRequest(unquote(target.path), dict(parse_qsl(target.query, keep_blank_values=True)))
        self.server.received.append(received)
        try:
            response = self.server.api.respond(received.path, received.params)
        except Exception as error:  # noqa: BLE001 - reported to the client; the server keeps running
            response = ApiResponse(500, TEXT_TYPE, f"the embedded Tempo API failed: {error!r}".encode())
        self.server.delay()
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(response.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - name of the base class
        """Log nothing: the demo uses the terminal."""


class _HttpServer(ThreadingHTTPServer):
    """Tracks its connections, so that closing the server ends them like the end of a process."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], api: TempoApi, delay: Callable[[], None]) -> None:
        super().__init__(address, _Handler)
        self.api = api
        self.delay = delay
        self.received: deque[ReceivedRequest] = deque(maxlen=_MAX_RECORDED_REQUESTS)
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
        """Ignore clients that closed the connection."""


class TempoServer:
    """HTTP server for the embedded Tempo API, running from construction until :meth:`close`.

    Attributes:
        url: base URL without trailing slash.
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
        """Bind the address and start serving.

        Args:
            source: the traces.
            options: behaviour of the API.
            clock: returns Unix seconds.
            sleep: sleeps for some seconds.
            host: address to bind.
            port: port to bind; 0 means any free port.

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
        """Return the parameters of the searches among them."""
        return [request.params for request in self.received if request.path == "/api/search"]

    def close(self) -> None:
        """Stop serving, release the port and close all connections."""
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


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m exporter.demo.tempo_api", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (%(default)s)")
    parser.add_argument("--port", type=int, default=3200, help="port to bind, 0 for a free one (%(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the traffic (%(default)s)")
    parser.add_argument(
        "--anchor", type=float, default=None, metavar="UNIX_SECONDS",
        help="reference time of the scenario; the same value continues the same traffic (now)",
    )  # fmt: skip
    parser.add_argument(
        "--incident-after", type=float, default=INCIDENT_AFTER_SECONDS, metavar="SECONDS",
        help="start of the incident after the anchor (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--fault", choices=FAULT_KINDS, default="slow_call", help="what is wrong during the incident (%(default)s)"
    )
    parser.add_argument(
        "--traffic", type=float, default=1.0, metavar="FACTOR", help="multiplies the traffic (%(default)s)"
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
    parser.add_argument("--retention", type=float, metavar="SECONDS", help="older traces have expired (all are kept)")
    parser.add_argument(
        "--visible-after", type=float, default=ApiOptions.visible_after_seconds, metavar="SECONDS",
        help="delay until an ended trace can be found (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--delay", type=float, default=ApiOptions.delay_seconds, metavar="SECONDS",
        help="added to the duration of every response (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--exit-with-parent", action="store_true", help="exit when standard input is closed")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the demo's scenario until SIGTERM, SIGINT, or with ``--exit-with-parent`` the end of standard input."""
    arguments = _parse_arguments(argv)
    stop = StopRequest()
    stop.listen()
    if arguments.exit_with_parent:
        # The pipe is closed when the parent process ends for any reason. Read the descriptor, not sys.stdin: a blocked
        # thread would hold the lock of sys.stdin when the interpreter exits.
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
        fault=arguments.fault,
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
