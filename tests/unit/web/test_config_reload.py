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
from exporter.web.http import HttpRequest, HttpResponse, Site, text
from tests.support.certificates import write_pair
from tests.support.samples import event_of, events
from tests.support.wsgi import Answer, ask

TLS = "tls_server_config: {cert_file: server.crt, key_file: server.key}\n"


def users(**passwords: str) -> str:
    lines = (
        f"  {name}: {bcrypt.hashpw(word.encode(), bcrypt.gensalt(4)).decode()}" for name, word in passwords.items()
    )
    return "\n".join(["basic_auth_users:", *lines, ""])


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class World:
    """A guarded site, its file, and the time."""

    def __init__(self, directory: Path, content: str) -> None:
        self.file = directory / "web.yml"
        self.file.write_text(content)
        self.now = 1000.0
        self.refused = 0
        self.protection = WebConfigReloader(
            lambda: web_config_state(self.file), get_logger("web"), clock=lambda: self.now
        )
        pages = {"/": lambda request: text("start"), "/-/healthy": healthy, "/-/ready": not_ready, "/fails": fails}
        self.guard = BasicAuthMiddleware(
            Site(pages, get_logger("web")), self.protection, get_logger("web"), on_refused=self.count
        )

    def count(self) -> None:
        self.refused += 1

    def write(self, content: str) -> None:
        """Replace the file as careful programs do, and let the exporter look."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(content)
        fresh.replace(self.file)
        self.now += 10
        self.protection.look()

    def ask(self, path: str = "/", authorization: str = "", method: str = "GET") -> Answer:
        return ask(self.guard, path, method, authorization=authorization)

    def in_force(self) -> bool:
        """Whether what the files say is in force."""
        return self.protection.status.successful

    def status(self, path: str = "/", authorization: str = "") -> int:
        return int(self.ask(path, authorization).status.split()[0])


def healthy(request: HttpRequest) -> HttpResponse:
    return text("healthy")


def not_ready(request: HttpRequest) -> HttpResponse:
    return text("not ready", HTTPStatus.SERVICE_UNAVAILABLE)


def fails(request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError


class TestGuard:
    def test_who_may_read(self, tmp_path: Path) -> None:
        world = World(tmp_path, users(alice="a", bob="b"))
        assert world.status("/", basic("alice", "a")) == 200
        assert world.status("/", basic("bob", "b")) == 200
        for wrong in ("", basic("alice", "b"), basic("carol", "a"), "nonsense"):
            assert world.status("/", wrong) == 401
        assert world.refused == 4

    def test_a_wrong_user_and_a_wrong_password_look_the_same(self, tmp_path: Path) -> None:
        world = World(tmp_path, users(alice="a"))
        answers = [world.ask(path, basic(*who)) for path in ("/", "/x") for who in (("alice", "x"), ("x", "a"))]
        assert all(answer == answers[0] for answer in answers)
        assert answers[0].headers["WWW-Authenticate"].startswith("Basic realm=")
        assert "default-src" in answers[0].headers["Content-Security-Policy"]

    def test_probes_are_open_and_nothing_else_is(self, tmp_path: Path) -> None:
        world = World(tmp_path, users(alice="a"))
        assert world.status("/-/healthy") == 200
        assert world.status("/-/ready") == 503
        for path in ("/", "/nothing", "/-/", "/-/healthy/", "//-/healthy", "/-/healthy/../../", "/-/Healthy"):
            assert world.status(path) == 401, path
        assert world.ask(method="POST").status.startswith("401")
        assert world.ask(method="HEAD").body == b""

    def test_without_users_everybody_may_read(self, tmp_path: Path) -> None:
        assert World(tmp_path, "").status() == 200

    def test_headers_take_the_place_of_those_that_would_be_there(self, tmp_path: Path) -> None:
        world = World(
            tmp_path,
            "http_server_config: {headers: {X-Frame-Options: sameorigin, Content-Security-Policy: '', "
            "Strict-Transport-Security: max-age=60}}\n" + users(alice="a"),
        )
        for answer in (world.ask(), world.ask("/fails", basic("alice", "a")), world.ask("/-/healthy")):
            assert answer.headers["X-Frame-Options"] == "sameorigin"
            assert answer.headers["Strict-Transport-Security"] == "max-age=60"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "Content-Security-Policy" not in answer.headers

    def test_refusals_are_logged_once_and_without_what_was_typed(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        world = World(tmp_path, users(alice="a"))
        for number in range(5):
            world.ask("/", basic(f"typed-{number}", "hunter2"))
        (record,) = caplog.records
        assert event_of(record) == "auth_failed"
        assert "typed" not in str(vars(record))
        assert "hunter2" not in str(vars(record))


class TestReload:
    def test_users_change_without_a_restart(self, tmp_path: Path) -> None:
        world = World(tmp_path, users(alice="a", bob="b"))
        assert world.status("/", basic("bob", "b")) == 200
        world.write(users(alice="new"))
        assert world.status("/", basic("alice", "new")) == 200
        for old in (basic("alice", "a"), basic("bob", "b")):
            assert world.status("/", old) == 401
        assert world.protection.status.succeeded_at == 1010

    def test_what_has_not_changed_is_not_read_again(self, tmp_path: Path) -> None:
        world = World(tmp_path, users(alice="a"))
        before = world.protection.rules
        world.protection.look()
        assert world.protection.rules is before

    def test_a_broken_file_leaves_what_was_in_force_and_is_said_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        world = World(tmp_path, users(alice="a"))
        world.write("basic_auth_users: {alice: hunter2}")
        world.protection.look()
        assert not world.in_force()
        assert world.protection.status.succeeded_at == 1000
        assert world.status("/", basic("alice", "a")) == 200
        (line,) = events(caplog, logging.ERROR)
        assert line == "web_config_invalid"
        assert "hunter2" not in str([vars(record) for record in caplog.records])
        world.file.unlink()
        world.protection.look()
        assert len(events(caplog, logging.ERROR)) == 2
        world.write(users(alice="b"))
        assert world.in_force()
        assert world.status("/", basic("alice", "b")) == 200

    def test_a_certificate_that_comes_before_its_key_is_taken_over_with_it(self, tmp_path: Path) -> None:
        authority = trustme.CA()
        write_pair(tmp_path, authority, "server")
        world = World(tmp_path, TLS)
        before = world.protection.context()
        certificate, key = write_pair(tmp_path, authority, "next")
        certificate.replace(tmp_path / "server.crt")
        world.protection.look()
        assert not world.in_force()
        assert world.protection.context() is before
        key.replace(tmp_path / "server.key")
        world.protection.look()
        assert world.in_force()
        assert world.protection.context() is not before

    @pytest.mark.parametrize("content", ["", "basic_auth_users:\n", "http_server_config: {http2: true}\n"])
    def test_a_file_that_is_being_written_opens_nothing(self, tmp_path: Path, content: str) -> None:
        write_pair(tmp_path, trustme.CA(), "server")
        world = World(tmp_path, TLS + users(alice="a"))
        for partly in (content, TLS + content):
            world.write(partly)
            assert world.status() == 401
            assert world.protection.rules.tls is not None
            assert not world.in_force()

    def test_tls_is_not_switched_on_halfway(self, tmp_path: Path) -> None:
        write_pair(tmp_path, trustme.CA(), "server")
        world = World(tmp_path, users(alice="a"))
        world.write(TLS + users(alice="b"))
        assert not world.in_force()
        assert world.status("/", basic("alice", "a")) == 200

    def test_passwords_may_be_added(self, tmp_path: Path) -> None:
        world = World(tmp_path, "")
        world.write(users(alice="a"))
        assert world.status() == 401

    def test_a_start_with_a_broken_file_fails(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError):
            World(tmp_path, "nonsense: 1")
