"""The container health check, against a server on this machine."""

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner

from exporter.cli.healthcheck import is_healthy, main
from tests.support.certificates import write_pair

Serve = Callable[..., int]


@contextmanager
def served(status: int, context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Iterator[int]:
    """Run a server whose health probe has this status; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/-/healthy" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def handle_error(self, *arguments: object) -> None:
            """Ignore clients that disconnect: that is what is tested."""

    server = Server((host, 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as servers:
        yield lambda *arguments, **options: servers.enter_context(served(*arguments, **options))


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "", "localhost"])
def test_requests_the_address_that_the_exporter_listens_on(serve: Serve, host: str) -> None:
    assert is_healthy(host, serve(200), tls=False)


def test_requests_the_ipv6_loopback_address_for_any_ipv6_address() -> None:
    try:
        with served(200, host="::1") as port:
            assert is_healthy("::", port, tls=False)
    except OSError:
        pytest.skip("this machine has no IPv6")


def test_an_exporter_that_fails_or_does_not_run_is_unhealthy(serve: Serve) -> None:
    assert not is_healthy("127.0.0.1", serve(500), tls=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
    assert not is_healthy("127.0.0.1", port, tls=False)


def test_a_server_without_http_is_unhealthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_as_a_mail_server() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"220 mail\r\n")

        thread = threading.Thread(target=answer_as_a_mail_server)
        thread.start()
        assert not is_healthy("127.0.0.1", server.getsockname()[1], tls=False)
        thread.join()


def test_imports_no_package_of_the_exporter_but_the_configuration() -> None:
    code = (
        "import sys, exporter.cli.healthcheck\n"
        "print(*sorted({name.split('.')[1] for name in sys.modules if name.startswith('exporter.')}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout.split() == ["cli", "config", "model", "runtime"], ran.stderr


class TestTls:
    @pytest.fixture
    def context(self, tmp_path: Path) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*write_pair(tmp_path, trustme.CA(), "server"))
        return context

    def test_the_certificate_is_not_verified(self, serve: Serve, context: ssl.SSLContext) -> None:
        port = serve(200, context)
        assert is_healthy("127.0.0.1", port, tls=True)
        assert not is_healthy("127.0.0.1", port, tls=False)

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_a_server_that_requires_a_client_certificate_is_healthy(
        self, serve: Serve, context: ssl.SSLContext, version: ssl.TLSVersion
    ) -> None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = context.maximum_version = version
        assert is_healthy("127.0.0.1", serve(200, context), tls=True)

    @pytest.mark.parametrize(("status", "expected"), [(200, True), (503, False)])
    def test_a_web_config_file_without_tls_is_requested_over_plain_http(
        self, serve: Serve, status: int, expected: bool
    ) -> None:
        assert is_healthy("127.0.0.1", serve(status), tls=True) is expected


class TestCommand:
    def test_exit_status_is_the_result(self, serve: Serve, tmp_path: Path) -> None:
        config = tmp_path / "c.yaml"
        for status, expected in ((200, 0), (503, 1)):
            config.write_text(f"web: {{listen_address: '127.0.0.1:{serve(status)}'}}")
            result = CliRunner().invoke(main, ["--config", str(config)])
            assert result.exit_code == expected, result.output

    def test_reports_an_invalid_configuration(self, tmp_path: Path) -> None:
        config = tmp_path / "c.yaml"
        config.write_text("web: {listen_adress: x}")
        result = CliRunner().invoke(main, ["--config", str(config)])
        assert result.exit_code == 2
        assert "listen_address" in result.output
