"""Proxies from the environment, over real connections on loopback."""

import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from exporter.runtime.logs import get_logger
from exporter.tempo import ClientSettings, StoppedError, TempoClient, TempoError
from exporter.tempo.proxy import environment_proxy
from tests.support.certificates import write_authority, write_combined
from tests.support.samples import events
from tests.support.socks_proxy import SocksProxy, socks_proxy
from tests.support.tempo_server import FakeTempo, Recorder, a_trace, fake_tempo, hanging, replying, search_body

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
BODY = search_body(a_trace(1), a_trace(2))


@pytest.fixture(autouse=True)
def _without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)


@pytest.fixture
def tempo() -> Iterator[FakeTempo]:
    with fake_tempo() as server:
        server.answer(replying(BODY))
        yield server


@pytest.fixture
def socks() -> Iterator[SocksProxy]:
    with socks_proxy() as proxy:
        yield proxy


def client(url: str, *, stop: threading.Event | None = None, ca_file: str | None = None) -> TempoClient:
    settings = ClientSettings(url=url, timeout_seconds=10, ca_file=ca_file)
    return TempoClient(settings, Recorder(), get_logger("tempo"), stop=stop, pause=lambda _: False)


def search(url: str, ca_file: str | None = None) -> int:
    return client(url, ca_file=ca_file).search(1_795_077_000, 1_795_077_060, loop="poll").traces


def failure(url: str) -> TempoError:
    with pytest.raises(TempoError) as caught:
        search(url)
    assert "hunter2" not in str(caught.value)
    return caught.value


def address_of(tempo: FakeTempo) -> tuple[str, int]:
    parts = urlsplit(tempo.url)
    return parts.hostname or "", parts.port or 0


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
@pytest.mark.parametrize("variable", ["ALL_PROXY", "all_proxy", "http_proxy"])
def test_requests_go_through_a_socks_proxy(
    tempo: FakeTempo, socks: SocksProxy, monkeypatch: pytest.MonkeyPatch, scheme: str, variable: str
) -> None:
    monkeypatch.setenv(variable, f"{scheme}://me:hunter2@127.0.0.1:{socks.port}")
    assert search(tempo.url) == 2
    assert socks.targets == [address_of(tempo)]
    assert socks.credentials == [("me", "hunter2")]


def test_socks5h_leaves_the_name_to_the_proxy(
    tempo: FakeTempo, socks: SocksProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", f"socks5h://127.0.0.1:{socks.port}")
    socks.connect_to = address_of(tempo)
    assert search("http://tempo.invalid:3200") == 2
    assert socks.targets == [("tempo.invalid", 3200)]


def test_tls_works_through_a_socks_proxy(tmp_path: Path, socks: SocksProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    write_authority(tmp_path, authority, "authority")
    write_combined(tmp_path, authority, "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    monkeypatch.setenv("HTTPS_PROXY", f"socks5://127.0.0.1:{socks.port}")
    with fake_tempo(context) as tempo:
        tempo.answer(replying(BODY))
        assert search(tempo.url, str(tmp_path / "authority.crt")) == 2
    assert len(socks.targets) == 1


def test_stopping_ends_a_request_through_a_socks_proxy(
    tempo: FakeTempo, socks: SocksProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{socks.port}")
    tempo.answer(hanging)
    stop = threading.Event()

    def stop_once_asked() -> None:
        tempo.asked.wait(30)
        stop.set()

    threading.Thread(target=stop_once_asked, daemon=True).start()
    with pytest.raises(StoppedError):
        client(tempo.url, stop=stop).search(1_795_077_000, 1_795_077_060, loop="poll")


@pytest.mark.parametrize("refusal", [1, 5])
def test_a_proxy_that_refuses_is_named(
    tempo: FakeTempo, socks: SocksProxy, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    socks.refusal = refusal
    monkeypatch.setenv("ALL_PROXY", f"socks5://me:hunter2@127.0.0.1:{socks.port}")
    error = failure(tempo.url)
    assert (error.reason, error.retryable) == ("connection", True)
    assert "the proxy from the environment did not work" in str(error)
    assert f"the proxy in ALL_PROXY (socks5://127.0.0.1:{socks.port}): check it, or list" in str(error)


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks4"])
def test_a_proxy_that_is_down_is_named(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("http_proxy", f"{scheme}://me:hunter2@127.0.0.1:9")
    error = failure("http://127.0.0.1:3200")
    assert (error.reason, error.retryable) == ("connection", True)
    assert f"the proxy in http_proxy ({scheme}://127.0.0.1:9): check it, or list Tempo's host in NO_PROXY" in str(error)


@pytest.mark.parametrize(
    ("address", "shown", "problem"),
    [
        ("ftp://me:hunter2@127.0.0.1:9", "ftp://127.0.0.1:9", "only http, https, socks4, socks4a, socks5, socks5h are"),
        ("socks5://", "socks5://", "it has no host"),
        ("http://me:hunter2@[::1", "not a URL", "it is not a valid URL"),
        ("http://127.0.0.1:hunter2", "not a URL", "it is not a valid URL"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named_at_the_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, address: str, shown: str, problem: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", address)
    client("http://127.0.0.1:3200")
    assert events(caplog) == ["proxy_unsupported"]
    assert "hunter2" not in caplog.text
    error = failure("http://127.0.0.1:3200")
    assert (error.reason, error.retryable) == ("connection", False)
    assert f"the proxy in ALL_PROXY ({shown}) cannot be used, because {problem}" in str(error)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "urllib3.contrib.socks", None)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setattr("requests.adapters.SOCKSProxyManager", _without_pysocks)
    assert "the proxy in ALL_PROXY (socks5://127.0.0.1:9) cannot be used, because the Python package PySocks" in str(
        failure("http://127.0.0.1:3200")
    )


def _without_pysocks(*args: object, **kwargs: object) -> None:
    from requests.exceptions import InvalidSchema

    raise InvalidSchema("Missing dependencies for SOCKS support.")


def test_which_proxy_is_used_is_logged_without_its_password(
    tempo: FakeTempo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    client(tempo.url)
    assert events(caplog) == []
    monkeypatch.setenv("HTTP_PROXY", "http://me:hunter2@proxy.example:3128")
    client(tempo.url)
    assert events(caplog) == ["proxy_used"]
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    ("url", "no_proxy", "is_used"),
    [
        ("http://127.0.0.1:3200", "127.0.0.1:3200", False),
        ("http://127.0.0.1:3200", "127.0.0.1:3201", True),
        ("http://127.0.0.1:3200", "other, 127.0.0.1:3200", False),
        ("http://127.0.0.1:3200", "127.0.0.1", False),
        ("http://127.0.0.1:3200", "127.0.0.0/8", False),
        ("http://127.0.0.1", "127.0.0.1:80", False),
        ("https://127.0.0.1", "127.0.0.1:443", False),
        ("http://tempo.svc:3200", "tempo.svc:3200", False),
        ("http://tempo.svc:3200", "TEMPO.svc:3200", False),
        ("http://tempo.svc", "tempo.svc:80", False),
        ("http://tempo.svc:3200", "tempo.svc:3201", True),
        ("http://tempo.svc:3200", ".svc", False),
        ("http://tempo.svc:3200", "*", False),
        ("http://[::1]:3200", "[::1]:3200", False),
        ("http://[::1]:3200", "[::1]", False),
        ("http://[::1]:3200", "::1", False),
        ("http://[::1]:3200", "[::1]:3201", True),
        ("http://tempo:3200", "", True),
    ],
)
def test_no_proxy_lists_hosts_with_or_without_a_port(
    monkeypatch: pytest.MonkeyPatch, url: str, no_proxy: str, is_used: bool
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", no_proxy)
    assert (environment_proxy(url) is not None) == is_used


def test_an_address_with_its_port_in_no_proxy_is_reached_directly(
    tempo: FakeTempo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", f"127.0.0.1:{address_of(tempo)[1]}")
    assert search(tempo.url) == 2


def test_the_variable_of_the_scheme_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://a:1")
    monkeypatch.setenv("HTTP_PROXY", "b:2")
    proxy = environment_proxy("http://tempo:3200")
    assert proxy is not None
    assert (proxy.variable, proxy.address, proxy.problem) == ("HTTP_PROXY", "http://b:2", "")
