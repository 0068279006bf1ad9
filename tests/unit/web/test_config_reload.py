import base64
import logging
from http import HTTPStatus
from pathlib import Path

import bcrypt
import pytest
import trustme

from exporter.app.settings import web_config_state
from exporter.config import ConfigError
from exporter.runtime.logs import get_logger
from exporter.web.auth import BasicAuthMiddleware
from exporter.web.config_reload import WebConfigReloader
from exporter.web.http import HttpRequest, HttpResponse, Site, text_response
from tests.support.certificates import write_pair
from tests.support.samples import event_of, events
from tests.support.wsgi import WsgiResponse, ask

TLS = "tls_server_config: {cert_file: server.crt, key_file: server.key}\n"


def users(**passwords: str) -> str:
    lines = (
        f"  {name}: {bcrypt.hashpw(word.encode(), bcrypt.gensalt(4)).decode()}" for name, word in passwords.items()
    )
    return "\n".join(["basic_auth_users:", *lines, ""])


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class ProtectedSite:
    """A site behind the middleware, with its configuration file and a clock."""

    def __init__(self, directory: Path, content: str) -> None:
        self.file = directory / "web.yml"
        self.file.write_text(content)
        self.now = 1000.0
        self.refused = 0
        self.reloader = WebConfigReloader(
            lambda: web_config_state(self.file), get_logger("web"), clock=lambda: self.now
        )
        handlers = {
            "/": lambda request: text_response("start"),
            "/-/healthy": healthy,
            "/-/ready": not_ready,
            "/fails": fails,
        }
        self.middleware = BasicAuthMiddleware(
            Site(handlers, get_logger("web")), self.reloader, get_logger("web"), on_refused=self.count_refused
        )

    def count_refused(self) -> None:
        self.refused += 1

    def write(self, content: str) -> None:
        """Replace the file atomically, and let the reloader check it ten seconds later."""
        new = self.file.with_suffix(".new")
        new.write_text(content)
        new.replace(self.file)
        self.now += 10
        self.reloader.reload_if_changed()

    def ask(self, path: str = "/", authorization: str = "", method: str = "GET") -> WsgiResponse:
        return ask(self.middleware, path, method, authorization=authorization)

    def is_up_to_date(self) -> bool:
        """Whether the configuration in use is that of the files."""
        return self.reloader.status.successful

    def status(self, path: str = "/", authorization: str = "") -> int:
        return int(self.ask(path, authorization).status.split()[0])


def healthy(request: HttpRequest) -> HttpResponse:
    return text_response("healthy")


def not_ready(request: HttpRequest) -> HttpResponse:
    return text_response("not ready", HTTPStatus.SERVICE_UNAVAILABLE)


def fails(request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError


class TestBasicAuth:
    def test_only_configured_users_may_read(self, tmp_path: Path) -> None:
        site = ProtectedSite(tmp_path, users(alice="a", bob="b"))
        assert site.status("/", basic("alice", "a")) == 200
        assert site.status("/", basic("bob", "b")) == 200
        for wrong in ("", basic("alice", "b"), basic("carol", "a"), "nonsense"):
            assert site.status("/", wrong) == 401
        assert site.refused == 4

    def test_an_unknown_user_and_a_wrong_password_get_the_same_response(self, tmp_path: Path) -> None:
        site = ProtectedSite(tmp_path, users(alice="a"))
        responses = [site.ask(path, basic(*who)) for path in ("/", "/x") for who in (("alice", "x"), ("x", "a"))]
        assert all(response == responses[0] for response in responses)
        assert responses[0].headers["WWW-Authenticate"].startswith("Basic realm=")
        assert "default-src" in responses[0].headers["Content-Security-Policy"]

    def test_probes_need_no_password_and_all_other_paths_do(self, tmp_path: Path) -> None:
        site = ProtectedSite(tmp_path, users(alice="a"))
        assert site.status("/-/healthy") == 200
        assert site.status("/-/ready") == 503
        for path in ("/", "/nothing", "/-/", "/-/healthy/", "//-/healthy", "/-/healthy/../../", "/-/Healthy"):
            assert site.status(path) == 401, path
        assert site.ask(method="POST").status.startswith("401")
        assert site.ask(method="HEAD").body == b""

    def test_without_users_no_password_is_needed(self, tmp_path: Path) -> None:
        assert ProtectedSite(tmp_path, "").status() == 200

    def test_configured_headers_replace_those_of_responses(self, tmp_path: Path) -> None:
        site = ProtectedSite(
            tmp_path,
            "http_server_config: {headers: {X-Frame-Options: sameorigin, Content-Security-Policy: '', "
            "Strict-Transport-Security: max-age=60}}\n" + users(alice="a"),
        )
        for response in (site.ask(), site.ask("/fails", basic("alice", "a")), site.ask("/-/healthy")):
            assert response.headers["X-Frame-Options"] == "sameorigin"
            assert response.headers["Strict-Transport-Security"] == "max-age=60"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert "Content-Security-Policy" not in response.headers

    def test_refused_requests_are_logged_once_and_without_credentials(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        site = ProtectedSite(tmp_path, users(alice="a"))
        for number in range(5):
            site.ask("/", basic(f"typed-{number}", "hunter2"))
        (record,) = caplog.records
        assert event_of(record) == "auth_failed"
        assert "typed" not in str(vars(record))
        assert "hunter2" not in str(vars(record))


class TestReload:
    def test_reload_changes_users(self, tmp_path: Path) -> None:
        site = ProtectedSite(tmp_path, users(alice="a", bob="b"))
        assert site.status("/", basic("bob", "b")) == 200
        site.write(users(alice="new"))
        assert site.status("/", basic("alice", "new")) == 200
        for old in (basic("alice", "a"), basic("bob", "b")):
            assert site.status("/", old) == 401
        assert site.reloader.status.succeeded_at == 1010

    def test_unchanged_files_are_not_loaded_again(self, tmp_path: Path) -> None:
        site = ProtectedSite(tmp_path, users(alice="a"))
        before = site.reloader.state
        site.reloader.reload_if_changed()
        assert site.reloader.state is before

    def test_reload_keeps_previous_config_and_logs_once_when_file_is_invalid(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        site = ProtectedSite(tmp_path, users(alice="a"))
        site.write("basic_auth_users: {alice: hunter2}")
        site.reloader.reload_if_changed()
        assert not site.is_up_to_date()
        assert site.reloader.status.succeeded_at == 1000
        assert site.status("/", basic("alice", "a")) == 200
        (line,) = events(caplog, logging.ERROR)
        assert line == "web_config_invalid"
        assert "hunter2" not in str([vars(record) for record in caplog.records])
        site.file.unlink()
        site.reloader.reload_if_changed()
        assert len(events(caplog, logging.ERROR)) == 2
        site.write(users(alice="b"))
        assert site.is_up_to_date()
        assert site.status("/", basic("alice", "b")) == 200

    def test_a_certificate_written_before_its_key_is_loaded_with_it(self, tmp_path: Path) -> None:
        authority = trustme.CA()
        write_pair(tmp_path, authority, "server")
        site = ProtectedSite(tmp_path, TLS)
        before = site.reloader.tls_context()
        certificate, key = write_pair(tmp_path, authority, "next")
        certificate.replace(tmp_path / "server.crt")
        site.reloader.reload_if_changed()
        assert not site.is_up_to_date()
        assert site.reloader.tls_context() is before
        key.replace(tmp_path / "server.key")
        site.reloader.reload_if_changed()
        assert site.is_up_to_date()
        assert site.reloader.tls_context() is not before

    @pytest.mark.parametrize("content", ["", "basic_auth_users:\n", "http_server_config: {http2: true}\n"])
    def test_an_incomplete_file_does_not_switch_off_security(self, tmp_path: Path, content: str) -> None:
        write_pair(tmp_path, trustme.CA(), "server")
        site = ProtectedSite(tmp_path, TLS + users(alice="a"))
        for partial in (content, TLS + content):
            site.write(partial)
            assert site.status() == 401
            assert site.reloader.state.tls is not None
            assert not site.is_up_to_date()

    def test_reload_does_not_switch_on_tls(self, tmp_path: Path) -> None:
        write_pair(tmp_path, trustme.CA(), "server")
        site = ProtectedSite(tmp_path, users(alice="a"))
        site.write(TLS + users(alice="b"))
        assert not site.is_up_to_date()
        assert site.status("/", basic("alice", "a")) == 200

    def test_reload_can_add_passwords(self, tmp_path: Path) -> None:
        site = ProtectedSite(tmp_path, "")
        site.write(users(alice="a"))
        assert site.status() == 401

    def test_an_invalid_file_fails_the_start(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError):
            ProtectedSite(tmp_path, "nonsense: 1")
