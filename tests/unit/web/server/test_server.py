import base64
import contextlib
import http.client
import logging
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import bcrypt
import pytest
from waitress import wasyncore

from exporter.runtime.logs import get_logger
from exporter.web.auth import BasicAuthMiddleware
from exporter.web.config_reload import WebConfigReloader, WebConfigState
from exporter.web.http import HttpRequest, HttpResponse, Site, text
from exporter.web.passwords import Passwords
from exporter.web.server.server import Server
from exporter.web.server.workers import workers_for
from tests.support.samples import events

TIMEOUT = 30
LARGE = b"x" * (8 << 20)
"""More than the buffers of two sockets take."""


def small(request: HttpRequest) -> HttpResponse:
    return text("small")


def large(request: HttpRequest) -> HttpResponse:
    return HttpResponse(LARGE)


def in_parts(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"the end", before=LARGE)


def broken(request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError


class Running:
    """A server that runs, on a port of its own."""

    def __init__(self, host: str = "127.0.0.1", passwords: Passwords | None = None) -> None:
        self.failures: list[BaseException] = []
        self.go_on = threading.Event()
        pages = {
            "/small": small,
            "/large": large,
            "/in-parts": in_parts,
            "/broken": broken,
            "/waiting": self.waiting,
            "/api/waiting": self.waiting,
            "/api/small": small,
            "/metrics": small,
            "/-/healthy": small,
            "/-/ready": small,
        }
        log = get_logger("web")
        site = BasicAuthMiddleware(
            Site(pages, log), WebConfigReloader(lambda: WebConfigState({}, passwords=passwords), log), log
        )
        self.server = Server(site, host, 0)
        ((self.host, self.port),) = self.server.addresses
        self.server.start(self.failures.append)

    def waiting(self, request: HttpRequest) -> HttpResponse:
        assert self.go_on.wait(TIMEOUT)
        return text("at last")

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT)

    def get(
        self, path: str, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = self.connection()
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def client(self, sends: bytes = b"") -> socket.socket:
        """A client that connects, sends something and then does nothing any more."""
        client = socket.create_connection((self.host, self.port), timeout=TIMEOUT)
        client.sendall(sends)
        return client


@pytest.fixture
def running() -> Iterator[Running]:
    running = Running()
    yield running
    running.go_on.set()
    running.server.stop()
    assert running.failures == []


class TestServing:
    def test_a_request(self, running: Running) -> None:
        assert running.get("/small") == (200, b"small\n")
        assert running.get("/nothing")[0] == 404
        assert running.get("/large", "HEAD") == (200, b"")

    def test_one_connection_serves_many(self, running: Running) -> None:
        connection = running.connection()
        with contextlib.closing(connection):
            for _ in range(3):
                connection.request("GET", "/small")
                answer = connection.getresponse()
                assert (answer.status, answer.read()) == (200, b"small\n")
                assert answer.getheader("Server") == "tempo-anomaly-exporter"

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_an_answer_in_parts_is_one_answer(self, running: Running, method: str) -> None:
        with contextlib.closing(running.connection()) as connection:
            for _ in range(3):
                connection.request(method, "/in-parts")
                answer = connection.getresponse()
                assert answer.getheader("Content-Length") == str(len(LARGE) + 7)
                assert answer.read() == (LARGE + b"the end" if method == "GET" else b"")

    def test_a_page_that_fails_costs_no_worker(self, running: Running, caplog: pytest.LogCaptureFixture) -> None:
        assert [running.get("/broken")[0] for _ in range(10)] == [500] * 10
        assert running.get("/small")[0] == 200
        assert len(events(caplog, logging.ERROR)) == 10

    def test_nothing_is_stored_that_nobody_asked_for(self, running: Running) -> None:
        assert running.get("/small", "POST", b"x" * 1000)[0] == 405
        with running.client(b"POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n") as client:
            assert client.recv(1000).startswith(b"HTTP/1.1 413 ")

    @pytest.mark.parametrize(
        "request_", [b"nonsense\r\n\r\n", b"GET /small HTTP/9.9\r\nA\r\n\r\n", b"\x16\x03\x01\x02\0\r\n\r\n"]
    )
    def test_what_is_no_http_does_no_harm(self, running: Running, request_: bytes) -> None:
        with running.client(request_) as client:
            client.shutdown(socket.SHUT_WR)
            client.recv(1000)
        assert running.get("/small")[0] == 200


class TestSlowClients:
    def test_they_hold_up_nobody(self, running: Running, caplog: pytest.LogCaptureFixture) -> None:
        silent = [running.client() for _ in range(20)]
        halfway = [running.client(b"GET /small HTTP/1.1\r\nHos") for _ in range(20)]
        never_reading = [running.client(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(8)]
        gone = [running.client(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(8)]
        for client in gone:
            client.close()
        with ThreadPoolExecutor(10) as scrapers:
            answers = list(scrapers.map(running.get, ["/small"] * 30 + ["/large"] * 3))
        assert answers == [(200, b"small\n")] * 30 + [(200, LARGE)] * 3
        halfway[0].sendall(b"t: x\r\n\r\n")
        assert halfway[0].recv(1000).startswith(b"HTTP/1.1 200 ")
        for client in (*silent, *halfway, *never_reading):
            client.close()
        assert events(caplog, logging.WARNING) == []

    @pytest.mark.parametrize("path", ["/large", "/in-parts"])
    def test_a_large_answer_is_kept_once_for_all_of_them(self, running: Running, path: str) -> None:
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(contextlib.closing(running.connection())) for _ in range(4)]
            tracemalloc.start()
            stack.callback(tracemalloc.stop)
            for connection in connections:
                connection.request("GET", path)
                assert connection.sock.recv(9, socket.MSG_PEEK) == b"HTTP/1.1 "
            # A worker that is free for this has taken up what it was to send before.
            assert running.get("/small")[0] == 200
            _, most = tracemalloc.get_traced_memory()
            assert most < len(LARGE)
            for connection in connections:
                assert connection.getresponse().read().startswith(LARGE)

    @pytest.mark.parametrize("limit", ["server._SILENT_SECONDS", "channel._LONGEST_ANSWER_SECONDS"])
    def test_who_stops_reading_does_not_keep_a_page(self, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
        # Whoever takes a little now and then is never silent for long, but slow.
        monkeypatch.setattr(f"exporter.web.server.{limit}", 2)
        monkeypatch.setattr("exporter.web.server.server._SWEEP_SECONDS", 0)
        kept_before = sys.getrefcount(LARGE)
        running = Running()
        try:
            with running.client(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n") as client:
                assert client.recv(9, socket.MSG_PEEK) == b"HTTP/1.1 "
                deadline = time.monotonic() + TIMEOUT
                while sys.getrefcount(LARGE) > kept_before:
                    assert time.monotonic() < deadline, "it is kept for ever"
                    time.sleep(0.01)
        finally:
            running.server.stop()
        assert running.failures == []


class TestSlowAnswers:
    @pytest.mark.parametrize(
        ("slow", "others"),
        [
            pytest.param("/waiting", ("/metrics", "/-/healthy", "/-/ready"), id="pages"),
            pytest.param("/api/waiting", ("/small", "/metrics", "/-/healthy"), id="questions"),
        ],
    )
    def test_those_that_hang_hold_up_no_others(self, running: Running, slow: str, others: tuple[str, ...]) -> None:
        with ThreadPoolExecutor(12) as clients:
            hanging = [clients.submit(running.get, slow) for _ in range(12)]
            for path in others * 3:
                assert running.get(path) == (200, b"small\n")
            assert not any(each.done() for each in hanging)
            running.go_on.set()
            assert [each.result() for each in hanging] == [(200, b"at last\n")] * 12

    @pytest.mark.parametrize("path", ["/small", "/metrics", "/api/small"])
    def test_a_flood_of_wrong_passwords_holds_up_nobody(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        right = {"Authorization": "Basic YWxpY2U6d29uZGVy"}
        passwords = Passwords({"alice": bcrypt.hashpw(b"wonder", bcrypt.gensalt(4))})
        running = Running(passwords=passwords)
        assert running.get(path, headers=right)[0] == 200

        under_way = threading.Semaphore(0)

        def checkpw(password: bytes, hash_: bytes) -> bool:
            under_way.release()
            return not running.go_on.wait(TIMEOUT)

        monkeypatch.setattr(bcrypt, "checkpw", checkpw)
        try:
            with ThreadPoolExecutor(12) as flood:
                wrong = [f"Basic {base64.b64encode(b'alice:%d' % number).decode()}" for number in range(12)]
                refused = [flood.submit(running.get, path, headers={"Authorization": each}) for each in wrong]
                assert all(under_way.acquire(timeout=TIMEOUT) for _ in range(workers_for(path).threads - 1))
                for _ in range(3):
                    assert running.get(path, headers=right) == (200, b"small\n")
                running.go_on.set()
                assert {each.result()[0] for each in refused} <= {401, 503}
        finally:
            running.go_on.set()
            running.server.stop()


class TestListening:
    def test_an_address_in_use_is_refused(self, running: Running) -> None:
        with pytest.raises(OSError, match="Address already in use"):
            Server(Site({}, get_logger("web")), running.host, running.port)

    def test_a_name_that_is_none_is_refused(self) -> None:
        with pytest.raises(OSError):
            Server(Site({}, get_logger("web")), "no such host.invalid", 0)

    def test_an_address_that_is_not_ours_is_refused(self) -> None:
        with pytest.raises(OSError, match="assign requested address"):
            Server(Site({}, get_logger("web")), "192.0.2.1", 0)

    @pytest.mark.parametrize(("host", "bound"), [("", "0.0.0.0"), ("0.0.0.0", "0.0.0.0"), ("localhost", "127.0.0.1")])
    def test_it_listens_where_it_should(self, host: str, bound: str) -> None:
        server = Server(Site({}, get_logger("web")), host, 0)
        ((address, port),) = server.addresses
        server.stop()
        assert address == bound
        assert port > 0

    def test_ipv6(self) -> None:
        try:
            running = Running("::1")
        except OSError:
            pytest.skip("this machine has no IPv6")
        assert running.host == "::1"
        assert running.get("/small")[0] == 200
        running.server.stop()

    def test_when_it_is_stopped_the_port_is_free(self) -> None:
        running = Running()
        with running.client():
            running.server.stop()
            again = Server(Site({}, get_logger("web")), running.host, running.port)
            again.stop()
        assert running.failures == []

    def test_that_it_has_failed_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        told = threading.Event()
        failures: list[BaseException] = []

        def fail(error: BaseException) -> None:
            failures.append(error)
            told.set()

        def loop(*args: object, **options: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(wasyncore, "loop", loop)
        server = Server(Site({}, get_logger("web")), "127.0.0.1", 0)
        server.start(fail)
        assert told.wait(TIMEOUT)
        server.stop()
        assert [type(failure) for failure in failures] == [ZeroDivisionError]
