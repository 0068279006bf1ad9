import contextlib
import http.client
import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from exporter.runtime.logs import get_logger
from exporter.web.http import HttpRequest, HttpResponse, Site, text_response
from exporter.web.server.server import Server
from exporter.web.server.tls import TlsSettings, server_context
from tests.support.certificates import write_authority, write_pair
from tests.support.samples import Clock, events

TIMEOUT = 30
LARGE = bytes(range(256)) * (32 << 10)
"""More than the buffers of two sockets hold, and not the same byte throughout."""


def small(request: HttpRequest) -> HttpResponse:
    return text_response("small")


class RunningServer:
    """A server with TLS on a free port, and clients that trust it."""

    def __init__(self, directory: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.authority = trustme.CA()
        self.failures: list[BaseException] = []
        certificate, key = write_pair(directory, self.authority, "server")
        self.clients_authority = trustme.CA()
        self.settings = TlsSettings(certificate, key, write_authority(directory, self.clients_authority, "clients"))
        self.context = server_context(self.settings)
        handlers = {"/small": small, "/large": lambda request: HttpResponse(LARGE)}
        site = Site(handlers, get_logger("web"))
        self.server = Server(site, "127.0.0.1", 0, context=lambda: self.context, monotonic=monotonic)
        ((self.host, self.port),) = self.server.addresses
        self.server.start(self.failures.append)

    def serve_with(self, **changes: object) -> None:
        """Use other settings for new connections."""
        self.context = server_context(replace(self.settings, **changes))  # type: ignore[arg-type]

    def client_context(self, signed_by: trustme.CA | None = None) -> ssl.SSLContext:
        """A client's TLS context, with a certificate of its own if an authority for it is given."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if signed_by is not None:
            signed_by.issue_cert("prometheus.example").configure_cert(context)
        return context

    def connection(self, context: ssl.SSLContext | None = None) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            self.host, self.port, timeout=TIMEOUT, context=context or self.client_context()
        )

    def get(self, path: str, context: ssl.SSLContext | None = None) -> tuple[int, bytes]:
        with contextlib.closing(self.connection(context)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()

    def plain_client(self, sends: bytes = b"") -> socket.socket:
        """Connect without TLS and send some bytes."""
        client = socket.create_connection((self.host, self.port), timeout=TIMEOUT)
        client.sendall(sends)
        return client

    def tls_client(self, sends: bytes = b"") -> ssl.SSLSocket:
        """Connect, complete the handshake and send some bytes; the caller decides what follows."""
        context = self.client_context()
        client = context.wrap_socket(self.plain_client(), server_hostname=self.host, suppress_ragged_eofs=False)
        client.sendall(sends)
        return client


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    server = RunningServer(tmp_path)
    yield server
    began = time.monotonic()
    server.server.stop()
    assert time.monotonic() - began < 5
    assert server.failures == []


def client_hello(context: ssl.SSLContext) -> bytes:
    """The first message of a client's handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1").do_handshake()
    return outgoing.read()


class TestServing:
    def test_requests_get_the_response_of_their_path(self, server: RunningServer) -> None:
        assert server.get("/small") == (200, b"small\n")
        assert server.get("/large") == (200, LARGE)
        assert server.get("/nothing")[0] == 404

    def test_a_connection_serves_several_requests(self, server: RunningServer) -> None:
        with contextlib.closing(server.connection()) as connection:
            for path, body in [("/small", b"small\n"), ("/large", LARGE)] * 3:
                connection.request("GET", path)
                assert connection.getresponse().read() == body

    def test_pipelined_requests_are_all_served(self, server: RunningServer) -> None:
        with server.tls_client(b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n" * 50) as client:
            received = b""
            while received.count(b"small\n") < 50:
                chunk = client.recv(100_000)
                assert chunk
                received += chunk

    def test_concurrent_requests_get_their_own_responses(self, server: RunningServer) -> None:
        paths = ["/small", "/large", "/small"] * 12
        with ThreadPoolExecutor(12) as scrapers:
            responses = list(scrapers.map(server.get, paths))
        assert responses == [(200, LARGE if path == "/large" else b"small\n") for path in paths]

    def test_closing_sends_close_notify(self, server: RunningServer) -> None:
        with server.tls_client(b"GET /small HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as client:
            while client.recv(1000):
                pass


class TestSlowClients:
    def test_slow_silent_and_gone_clients_delay_no_other(
        self, server: RunningServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        hello = client_hello(server.client_context())
        request = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"
        silent = [server.plain_client() for _ in range(50)]
        halfway = [server.plain_client(hello[: len(hello) // 2]) for _ in range(10)]
        shaking = [server.plain_client(hello) for _ in range(10)]
        never_asking = [server.tls_client(b"GET /large HTT") for _ in range(10)]
        never_reading = [server.tls_client(request) for _ in range(8)]
        for client in [server.plain_client(hello) for _ in range(5)] + [server.tls_client(request) for _ in range(5)]:
            client.close()
        began = time.monotonic()
        with ThreadPoolExecutor(10) as scrapers:
            responses = list(scrapers.map(server.get, ["/small"] * 20 + ["/large"] * 3))
        assert responses == [(200, b"small\n")] * 20 + [(200, LARGE)] * 3
        assert time.monotonic() - began < TIMEOUT, "a request waited until silent clients were closed"
        for client in (*silent, *halfway, *shaking, *never_asking, *never_reading):
            client.close()
        assert events(caplog, logging.WARNING) == []

    def test_received_bytes_count_as_activity(self, tmp_path: Path) -> None:
        clock = Clock()
        server = RunningServer(tmp_path, monotonic=clock)
        try:
            with server.tls_client(b"GET /small HTTP/1.1\r\n") as client:
                assert server.get("/small")[0] == 200
                clock.now += 20
                client.sendall(b"Host: ")
                # The loop serves this after it has read the bytes above.
                assert server.get("/small")[0] == 200
                clock.now += 20
                assert server.get("/small")[0] == 200
                client.sendall(b"x\r\n\r\n")
                assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        finally:
            server.server.stop()
        assert server.failures == []

    @pytest.mark.parametrize("handshake", [True, False])
    def test_a_silent_client_is_disconnected(self, tmp_path: Path, handshake: bool) -> None:
        clock = Clock()
        server = RunningServer(tmp_path, monotonic=clock)
        try:
            with server.tls_client(b"GET /small HTT") if handshake else server.plain_client() as client:
                assert server.get("/small")[0] == 200
                clock.now += 31
                assert client.recv(1000) == b""
        finally:
            server.server.stop()
        assert server.failures == []

    def test_non_tls_data_does_not_affect_later_requests(
        self, server: RunningServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        for nonsense in (
            b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\0" * 10_000,
            b"\x16\x03\x01\xff\xff" + b"x" * 70_000,
        ):
            with server.plain_client() as client, contextlib.suppress(OSError):
                client.sendall(nonsense)
                client.shutdown(socket.SHUT_WR)
                assert b"small" not in client.recv(1000)
        assert server.get("/small")[0] == 200
        assert events(caplog, logging.WARNING) == []


class TestHandshake:
    def test_a_client_that_does_not_trust_the_authority_refuses(self, server: RunningServer) -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            server.get("/small", ssl.create_default_context())
        assert server.get("/small")[0] == 200

    def is_refused(self, server: RunningServer, context: ssl.SSLContext) -> bool:
        """Whether a client gets no response; with TLS 1.3 it learns that only after its request."""
        try:
            server.get("/small", context)
        except (ssl.SSLError, OSError, http.client.RemoteDisconnected):
            return True
        return False

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_required_client_certificates(self, server: RunningServer, version: ssl.TLSVersion) -> None:
        server.serve_with(client_auth="required", minimum=version, maximum=version)
        assert self.is_refused(server, server.client_context())
        assert self.is_refused(server, server.client_context(signed_by=trustme.CA()))
        assert self.is_refused(server, server.client_context(signed_by=server.authority))
        assert server.get("/small", server.client_context(signed_by=server.clients_authority))[0] == 200

    def test_optional_client_certificates(self, server: RunningServer) -> None:
        server.serve_with(client_auth="if_given")
        assert server.get("/small")[0] == 200
        assert self.is_refused(server, server.client_context(signed_by=trustme.CA()))
        assert server.get("/small", server.client_context(signed_by=server.clients_authority))[0] == 200

    def test_tls_versions(self, server: RunningServer) -> None:
        old = server.client_context()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        new = server.client_context()
        new.minimum_version = ssl.TLSVersion.TLSv1_3
        assert server.get("/small", old)[0] == server.get("/small", new)[0] == 200
        server.serve_with(minimum=ssl.TLSVersion.TLSv1_3)
        assert self.is_refused(server, old)
        assert server.get("/small", new)[0] == 200
        server.serve_with(maximum=ssl.TLSVersion.TLSv1_2)
        assert self.is_refused(server, new)
        assert server.get("/small", old)[0] == 200

    def test_cipher_suites_and_curves(self, server: RunningServer) -> None:
        suite = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"
        server.serve_with(maximum=ssl.TLSVersion.TLSv1_2, suites=[suite], curve="CurveP384")
        with server.tls_client() as client:
            cipher = client.cipher()
        assert cipher is not None
        assert cipher[0] == "ECDHE-ECDSA-CHACHA20-POLY1305"
        context = server.client_context()
        context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        assert self.is_refused(server, context)
        context = server.client_context()
        context.set_ecdh_curve("prime256v1")
        assert self.is_refused(server, context)


def test_a_new_certificate_applies_to_new_connections(server: RunningServer, tmp_path: Path) -> None:
    with contextlib.closing(server.connection()) as before:
        before.request("GET", "/small")
        before.getresponse().read()
        write_pair(tmp_path, trustme.CA(), "server")
        server.serve_with()
        before.request("GET", "/small")
        assert before.getresponse().status == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        server.get("/small")
