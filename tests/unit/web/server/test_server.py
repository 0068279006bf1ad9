import base64
import contextlib
import http.client
import logging
import socket
import ssl
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import bcrypt
import pytest

from exporter.runtime.logs import get_logger
from exporter.web.auth import BasicAuthMiddleware
from exporter.web.config_reload import WebConfigReloader, WebConfigState
from exporter.web.http import HttpRequest, HttpResponse, Site, text_response
from exporter.web.passwords import Passwords
from exporter.web.server.server import Server
from exporter.web.server.workers import worker_group
from tests.support.samples import Clock, events

TIMEOUT = 30
LARGE = b"x" * (8 << 20)
"""More than the send and receive buffers of two sockets hold."""


def small(request: HttpRequest) -> HttpResponse:
    return text_response("small")


def large(request: HttpRequest) -> HttpResponse:
    return HttpResponse(LARGE)


def with_prefix(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"the end", prefix=(LARGE,))


def broken(request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError


class RunningServer:
    """A server on a free port."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        *,
        passwords: Passwords | None = None,
        silent_seconds: float = 30.0,
        max_response_seconds: float = 300.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failures: list[BaseException] = []
        self.unblock = threading.Event()
        handlers = {
            "/small": small,
            "/large": large,
            "/with-prefix": with_prefix,
            "/broken": broken,
            "/blocking": self.blocking,
            "/api/blocking": self.blocking,
            "/api/small": small,
            "/metrics": small,
            "/-/healthy": small,
            "/-/ready": small,
        }
        log = get_logger("web")
        reloader = WebConfigReloader(lambda: WebConfigState({}, passwords=passwords), log)
        application = BasicAuthMiddleware(Site(handlers, log), reloader, log)
        self.server = Server(
            application,
            host,
            0,
            silent_seconds=silent_seconds,
            max_response_seconds=max_response_seconds,
            monotonic=monotonic,
        )
        ((self.host, self.port),) = self.server.addresses
        self.server.start(self.failures.append)

    def blocking(self, request: HttpRequest) -> HttpResponse:
        assert self.unblock.wait(TIMEOUT)
        return text_response("unblocked")

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT)

    def get(
        self, path: str, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = self.connection()
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read()

    def client(self, sends: bytes = b"") -> socket.socket:
        """Connect and send some bytes; the caller decides what follows."""
        client = socket.create_connection((self.host, self.port), timeout=TIMEOUT)
        client.sendall(sends)
        return client


@pytest.fixture
def server() -> Iterator[RunningServer]:
    server = RunningServer()
    yield server
    server.unblock.set()
    server.server.stop()
    assert server.failures == []


@contextlib.contextmanager
def running(server: RunningServer) -> Iterator[RunningServer]:
    try:
        yield server
    finally:
        server.server.stop()
    assert server.failures == []


class TestServing:
    def test_requests_get_the_response_of_their_path(self, server: RunningServer) -> None:
        assert server.get("/small") == (200, b"small\n")
        assert server.get("/nothing")[0] == 404
        assert server.get("/large", "HEAD") == (200, b"")

    def test_a_connection_serves_several_requests(self, server: RunningServer) -> None:
        connection = server.connection()
        with contextlib.closing(connection):
            for _ in range(3):
                connection.request("GET", "/small")
                response = connection.getresponse()
                assert (response.status, response.read()) == (200, b"small\n")
                assert response.getheader("Server") == "tempo-anomaly-exporter"

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_prefix_and_content_are_one_body(self, server: RunningServer, method: str) -> None:
        with contextlib.closing(server.connection()) as connection:
            for _ in range(3):
                connection.request(method, "/with-prefix")
                response = connection.getresponse()
                assert response.getheader("Content-Length") == str(len(LARGE) + 7)
                assert response.read() == (LARGE + b"the end" if method == "GET" else b"")

    def test_a_handler_that_raises_costs_no_worker(
        self, server: RunningServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert [server.get("/broken")[0] for _ in range(10)] == [500] * 10
        assert server.get("/small")[0] == 200
        assert len(events(caplog, logging.ERROR)) == 10

    def test_large_request_bodies_are_refused_before_they_are_read(self, server: RunningServer) -> None:
        assert server.get("/small", "POST", b"x" * 1000)[0] == 405
        with server.client(b"POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n") as client:
            assert client.recv(1000).startswith(b"HTTP/1.1 413 ")

    @pytest.mark.parametrize(
        "request_", [b"nonsense\r\n\r\n", b"GET /small HTTP/9.9\r\nA\r\n\r\n", b"\x16\x03\x01\x02\0\r\n\r\n"]
    )
    def test_invalid_http_does_not_affect_later_requests(self, server: RunningServer, request_: bytes) -> None:
        with server.client(request_) as client:
            client.shutdown(socket.SHUT_WR)
            client.recv(1000)
        assert server.get("/small")[0] == 200

    @pytest.mark.parametrize("start", [b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
    def test_a_client_that_speaks_tls_is_disconnected_at_once(self, server: RunningServer, start: bytes) -> None:
        with server.client(start) as client:
            client.settimeout(5)
            assert client.recv(1000) == b""
        assert server.get("/small")[0] == 200

    def test_a_tls_handshake_at_the_plain_port_fails_at_once(self, server: RunningServer) -> None:
        context = ssl.create_default_context()
        with server.client() as client, pytest.raises((ssl.SSLError, ConnectionError)):
            client.settimeout(5)
            context.wrap_socket(client, server_hostname="exporter")


class TestSlowClients:
    def test_slow_silent_and_gone_clients_delay_no_other(
        self, server: RunningServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        silent = [server.client() for _ in range(20)]
        halfway = [server.client(b"GET /small HTTP/1.1\r\nHos") for _ in range(20)]
        never_reading = [server.client(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(8)]
        gone = [server.client(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(8)]
        for client in gone:
            client.close()
        with ThreadPoolExecutor(10) as scrapers:
            responses = list(scrapers.map(server.get, ["/small"] * 30 + ["/large"] * 3))
        assert responses == [(200, b"small\n")] * 30 + [(200, LARGE)] * 3
        halfway[0].sendall(b"t: x\r\n\r\n")
        assert halfway[0].recv(1000).startswith(b"HTTP/1.1 200 ")
        for client in (*silent, *halfway, *never_reading):
            client.close()
        assert events(caplog, logging.WARNING) == []

    @pytest.mark.parametrize("path", ["/large", "/with-prefix"])
    def test_clients_share_one_copy_of_a_large_response(self, server: RunningServer, path: str) -> None:
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(contextlib.closing(server.connection())) for _ in range(4)]
            tracemalloc.start()
            stack.callback(tracemalloc.stop)
            for connection in connections:
                connection.request("GET", path)
                assert connection.sock.recv(9, socket.MSG_PEEK) == b"HTTP/1.1 "
            # A worker that is free to serve this has queued its earlier response.
            assert server.get("/small")[0] == 200
            _, peak = tracemalloc.get_traced_memory()
            assert peak < len(LARGE)
            for connection in connections:
                assert connection.getresponse().read().startswith(LARGE)

    @pytest.mark.parametrize(
        ("silent_seconds", "max_response_seconds"),
        [pytest.param(30.0, float("inf"), id="silent"), pytest.param(float("inf"), 300.0, id="slow")],
    )
    def test_a_client_that_stops_reading_is_disconnected_and_its_response_released(
        self, silent_seconds: float, max_response_seconds: float
    ) -> None:
        clock = Clock()
        references = sys.getrefcount(LARGE)
        server = RunningServer(
            silent_seconds=silent_seconds, max_response_seconds=max_response_seconds, monotonic=clock
        )
        with running(server), server.client(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n") as client:
            assert client.recv(9, socket.MSG_PEEK) == b"HTTP/1.1 "
            deadline = time.monotonic() + TIMEOUT
            while sys.getrefcount(LARGE) > references:
                assert time.monotonic() < deadline, "the response is still queued"
                clock.now += 31
                time.sleep(0.01)

    def test_received_bytes_count_as_activity(self) -> None:
        clock = Clock()
        server = RunningServer(monotonic=clock)
        with running(server), server.client(b"GET /small HTTP/1.1\r\n") as client:
            assert server.get("/small")[0] == 200
            clock.now += 20
            client.sendall(b"Host: ")
            # The loop serves this after it has read the bytes above.
            assert server.get("/small")[0] == 200
            clock.now += 20
            assert server.get("/small")[0] == 200
            client.sendall(b"x\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")

    def test_a_silent_client_is_disconnected(self) -> None:
        clock = Clock()
        server = RunningServer(monotonic=clock)
        with running(server), server.client(b"GET /small HTTP/1.1\r\n") as client:
            assert server.get("/small")[0] == 200
            clock.now += 31
            assert client.recv(1000) == b""

    def test_a_client_that_waits_for_its_response_is_not_silent(self) -> None:
        clock = Clock()
        server = RunningServer(monotonic=clock)
        with running(server), server.client(b"GET /blocking HTTP/1.1\r\nHost: x\r\n\r\n") as client:
            assert server.get("/small")[0] == 200
            clock.now += 1000
            assert server.get("/small")[0] == 200
            server.unblock.set()
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


class TestWorkerGroups:
    @pytest.mark.parametrize(
        ("slow", "others"),
        [
            pytest.param("/blocking", ("/metrics", "/-/healthy", "/-/ready"), id="pages"),
            pytest.param("/api/blocking", ("/small", "/metrics", "/-/healthy"), id="api"),
        ],
    )
    def test_slow_responses_delay_no_other_group(
        self, server: RunningServer, slow: str, others: tuple[str, ...]
    ) -> None:
        with ThreadPoolExecutor(12) as clients:
            blocked = [clients.submit(server.get, slow) for _ in range(12)]
            for path in others * 3:
                assert server.get(path) == (200, b"small\n")
            assert not any(each.done() for each in blocked)
            server.unblock.set()
            assert [each.result() for each in blocked] == [(200, b"unblocked\n")] * 12

    @pytest.mark.parametrize("path", ["/small", "/metrics", "/api/small"])
    def test_a_flood_of_wrong_passwords_does_not_delay_known_users(
        self, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        right = {"Authorization": "Basic YWxpY2U6d29uZGVy"}
        server = RunningServer(passwords=Passwords({"alice": bcrypt.hashpw(b"wonder", bcrypt.gensalt(4))}))
        assert server.get(path, headers=right)[0] == 200

        check_started = threading.Semaphore(0)

        def checkpw(password: bytes, hash_: bytes) -> bool:
            check_started.release()
            return not server.unblock.wait(TIMEOUT)

        monkeypatch.setattr(bcrypt, "checkpw", checkpw)
        try:
            with ThreadPoolExecutor(12) as flood:
                wrong = [f"Basic {base64.b64encode(b'alice:%d' % number).decode()}" for number in range(12)]
                refused = [flood.submit(server.get, path, headers={"Authorization": each}) for each in wrong]
                assert all(check_started.acquire(timeout=TIMEOUT) for _ in range(worker_group(path).threads - 1))
                for _ in range(3):
                    assert server.get(path, headers=right) == (200, b"small\n")
                server.unblock.set()
                assert {each.result()[0] for each in refused} <= {401, 503}
        finally:
            server.unblock.set()
            server.server.stop()


class TestListening:
    def test_an_address_in_use_is_an_error(self, server: RunningServer) -> None:
        with pytest.raises(OSError, match="Address already in use"):
            Server(Site({}, get_logger("web")), server.host, server.port)

    def test_an_unknown_name_is_an_error(self) -> None:
        with pytest.raises(OSError):
            Server(Site({}, get_logger("web")), "no such host.invalid", 0)

    def test_an_address_of_another_machine_is_an_error(self) -> None:
        with pytest.raises(OSError, match="assign requested address"):
            Server(Site({}, get_logger("web")), "192.0.2.1", 0)

    @pytest.mark.parametrize(("host", "bound"), [("", "0.0.0.0"), ("0.0.0.0", "0.0.0.0"), ("localhost", "127.0.0.1")])
    def test_host_names_are_bound_to_their_address(self, host: str, bound: str) -> None:
        server = Server(Site({}, get_logger("web")), host, 0)
        ((address, port),) = server.addresses
        server.stop()
        assert address == bound
        assert port > 0

    def test_ipv6(self) -> None:
        try:
            server = RunningServer("::1")
        except OSError:
            pytest.skip("this machine has no IPv6")
        assert server.host == "::1"
        assert server.get("/small")[0] == 200
        server.server.stop()

    def test_stop_frees_the_port(self) -> None:
        server = RunningServer()
        with server.client():
            server.server.stop()
            again = Server(Site({}, get_logger("web")), server.host, server.port)
            again.stop()
        assert server.failures == []

    def test_on_failure_is_called_when_the_loop_fails(self) -> None:
        failed = threading.Event()
        failures: list[BaseException] = []

        def on_failure(error: BaseException) -> None:
            failures.append(error)
            failed.set()

        def broken_clock() -> float:
            raise ZeroDivisionError

        server = Server(Site({}, get_logger("web")), "127.0.0.1", 0, monotonic=broken_clock)
        server.start(on_failure)
        assert failed.wait(TIMEOUT)
        server.stop()
        assert [type(failure) for failure in failures] == [ZeroDivisionError]
