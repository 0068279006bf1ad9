import contextlib
import http.client
import logging
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from exporter.runtime.logs import get_logger
from exporter.web.http import HttpRequest, HttpResponse, Site, text
from exporter.web.server.server import Server
from exporter.web.server.tls import TlsSettings, server_context
from tests.support.certificates import write_authority, write_pair
from tests.support.samples import events

TIMEOUT = 30
LARGE = bytes(range(256)) * (32 << 10)
"""More than the buffers of two sockets take, and not the same everywhere."""


def small(request: HttpRequest) -> HttpResponse:
    return text("small")


class Running:
    """A server with TLS on a port of its own, and clients that trust it."""

    def __init__(self, directory: Path) -> None:
        self.authority = trustme.CA()
        self.failures: list[BaseException] = []
        certificate, key = write_pair(directory, self.authority, "server")
        self.clients_authority = trustme.CA()
        self.settings = TlsSettings(certificate, key, write_authority(directory, self.clients_authority, "clients"))
        self.context = server_context(self.settings)
        pages = {"/small": small, "/large": lambda request: HttpResponse(LARGE)}
        site = Site(pages, get_logger("web"))
        self.server = Server(site, "127.0.0.1", 0, context=lambda: self.context)
        ((self.host, self.port),) = self.server.addresses
        self.server.start(self.failures.append)

    def serve_with(self, **changes: object) -> None:
        """Other settings, for connections from now on."""
        self.context = server_context(replace(self.settings, **changes))  # type: ignore[arg-type]

    def client(self, signed_by: trustme.CA | None = None) -> ssl.SSLContext:
        """What a client trusts, and its own certificate."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if signed_by is not None:
            signed_by.issue_cert("prometheus.example").configure_cert(context)
        return context

    def connection(self, context: ssl.SSLContext | None = None) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self.host, self.port, timeout=TIMEOUT, context=context or self.client())

    def get(self, path: str, context: ssl.SSLContext | None = None) -> tuple[int, bytes]:
        with contextlib.closing(self.connection(context)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def plain(self, sends: bytes = b"") -> socket.socket:
        """A client that connects without TLS and sends something."""
        client = socket.create_connection((self.host, self.port), timeout=TIMEOUT)
        client.sendall(sends)
        return client

    def handshaken(self, sends: bytes = b"") -> ssl.SSLSocket:
        """A client that shakes hands, sends something and then does nothing any more."""
        client = self.client().wrap_socket(self.plain(), server_hostname=self.host, suppress_ragged_eofs=False)
        client.sendall(sends)
        return client


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    yield running
    began = time.monotonic()
    running.server.stop()
    assert time.monotonic() - began < 5
    assert running.failures == []


def client_hello(context: ssl.SSLContext) -> bytes:
    """The first thing a client says."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1").do_handshake()
    return outgoing.read()


class TestServing:
    def test_requests(self, running: Running) -> None:
        assert running.get("/small") == (200, b"small\n")
        assert running.get("/large") == (200, LARGE)
        assert running.get("/nothing")[0] == 404

    def test_one_connection_serves_many(self, running: Running) -> None:
        with contextlib.closing(running.connection()) as connection:
            for path, body in [("/small", b"small\n"), ("/large", LARGE)] * 3:
                connection.request("GET", path)
                assert connection.getresponse().read() == body

    def test_requests_that_come_in_one_piece(self, running: Running) -> None:
        with running.handshaken(b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n" * 50) as client:
            received = b""
            while received.count(b"small\n") < 50:
                piece = client.recv(100_000)
                assert piece
                received += piece

    def test_many_at_once_get_each_what_they_asked_for(self, running: Running) -> None:
        paths = ["/small", "/large", "/small"] * 12
        with ThreadPoolExecutor(12) as scrapers:
            answers = list(scrapers.map(running.get, paths))
        assert answers == [(200, LARGE if path == "/large" else b"small\n") for path in paths]

    def test_it_says_goodbye(self, running: Running) -> None:
        with running.handshaken(b"GET /small HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as client:
            while client.recv(1000):
                pass


class TestClientsThatAreInNobodysWay:
    def test_silent_slow_and_gone_ones(self, running: Running, caplog: pytest.LogCaptureFixture) -> None:
        hello = client_hello(running.client())
        request = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"
        silent = [running.plain() for _ in range(50)]
        halfway = [running.plain(hello[: len(hello) // 2]) for _ in range(10)]
        shaking = [running.plain(hello) for _ in range(10)]
        never_asking = [running.handshaken(b"GET /large HTT") for _ in range(10)]
        never_reading = [running.handshaken(request) for _ in range(8)]
        for client in [running.plain(hello) for _ in range(5)] + [running.handshaken(request) for _ in range(5)]:
            client.close()
        began = time.monotonic()
        with ThreadPoolExecutor(10) as scrapers:
            answers = list(scrapers.map(running.get, ["/small"] * 20 + ["/large"] * 3))
        assert answers == [(200, b"small\n")] * 20 + [(200, LARGE)] * 3
        assert time.monotonic() - began < TIMEOUT, "somebody had to wait until the silent ones were closed"
        for client in (*silent, *halfway, *shaking, *never_asking, *never_reading):
            client.close()
        assert events(caplog, logging.WARNING) == []

    def test_what_is_no_tls_does_no_harm(self, running: Running, caplog: pytest.LogCaptureFixture) -> None:
        for nonsense in (
            b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\0" * 10_000,
            b"\x16\x03\x01\xff\xff" + b"x" * 70_000,
        ):
            with running.plain() as client, contextlib.suppress(OSError):
                client.sendall(nonsense)
                client.shutdown(socket.SHUT_WR)
                assert b"small" not in client.recv(1000)
        assert running.get("/small")[0] == 200
        assert events(caplog, logging.WARNING) == []


class TestWhoMayConnect:
    def test_a_client_that_does_not_trust_it(self, running: Running) -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            running.get("/small", ssl.create_default_context())
        assert running.get("/small")[0] == 200

    def refused(self, running: Running, context: ssl.SSLContext) -> bool:
        """Whether a client gets no answer; with TLS 1.3 it hears of that only after its request."""
        try:
            running.get("/small", context)
        except (ssl.SSLError, OSError, http.client.RemoteDisconnected):
            return True
        return False

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_clients_certificates(self, running: Running, version: ssl.TLSVersion) -> None:
        running.serve_with(client_auth="required", minimum=version, maximum=version)
        assert self.refused(running, running.client())
        assert self.refused(running, running.client(signed_by=trustme.CA()))
        assert self.refused(running, running.client(signed_by=running.authority))
        assert running.get("/small", running.client(signed_by=running.clients_authority))[0] == 200

    def test_clients_certificates_if_they_have_one(self, running: Running) -> None:
        running.serve_with(client_auth="if_given")
        assert running.get("/small")[0] == 200
        assert self.refused(running, running.client(signed_by=trustme.CA()))
        assert running.get("/small", running.client(signed_by=running.clients_authority))[0] == 200

    def test_versions(self, running: Running) -> None:
        old = running.client()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        new = running.client()
        new.minimum_version = ssl.TLSVersion.TLSv1_3
        assert running.get("/small", old)[0] == running.get("/small", new)[0] == 200
        running.serve_with(minimum=ssl.TLSVersion.TLSv1_3)
        assert self.refused(running, old)
        assert running.get("/small", new)[0] == 200
        running.serve_with(maximum=ssl.TLSVersion.TLSv1_2)
        assert self.refused(running, new)
        assert running.get("/small", old)[0] == 200

    def test_suites_and_curves(self, running: Running) -> None:
        suite = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"
        running.serve_with(maximum=ssl.TLSVersion.TLSv1_2, suites=[suite], curve="CurveP384")
        with running.handshaken() as client:
            cipher = client.cipher()
        assert cipher is not None
        assert cipher[0] == "ECDHE-ECDSA-CHACHA20-POLY1305"
        context = running.client()
        context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        assert self.refused(running, context)
        context = running.client()
        context.set_ecdh_curve("prime256v1")
        assert self.refused(running, context)


def test_a_new_certificate_is_for_new_connections(running: Running, tmp_path: Path) -> None:
    with contextlib.closing(running.connection()) as before:
        before.request("GET", "/small")
        before.getresponse().read()
        write_pair(tmp_path, trustme.CA(), "server")
        running.serve_with()
        before.request("GET", "/small")
        assert before.getresponse().status == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        running.get("/small")
