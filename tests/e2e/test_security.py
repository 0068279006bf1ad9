"""TLS and basic authentication as documented in docs/security.md."""

import re
import socket
import ssl
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import bcrypt
import pytest
import requests
import trustme

from tests.e2e.conftest import StartExporter, StartTempo
from tests.support.certificates import write_authority, write_pair
from tests.support.paths import REPOSITORY
from tests.support.processes import ExporterProcess, eventually, run, settings, write_settings
from tests.support.programs import run_program
from tests.support.traffic import Traffic

DOCUMENT = (REPOSITORY / "docs" / "security.md").read_text("utf-8")
USER = ("prometheus", "example")


def example(name: str) -> str:
    """Return the block of the document after a marker."""
    block = re.search(rf"<!-- example: {name} -->\n```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    assert block
    return block[1]


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    write_pair(tmp_path, authority, "exporter")
    (tmp_path / "web.yml").write_text(example("web-config"))
    return authority


def protected(exporter: StartExporter, url: str, directory: Path, authority: trustme.CA) -> ExporterProcess:
    running = exporter(settings(url, web={"config_file": str(directory / "web.yml")}))
    running.access = {"verify": str(write_authority(directory, authority, "authority")), "auth": USER}
    return running


def status(running: ExporterProcess, path: str, auth: tuple[str, str] | None) -> int:
    return running.get(path, auth=auth).status_code


def promtool(*arguments: str) -> None:
    checked = run_program("promtool", *arguments)
    assert checked.returncode == 0, checked.stdout


def test_documented_examples_are_valid(authority: trustme.CA, tmp_path: Path) -> None:
    promtool("check", "web-config", str(tmp_path / "web.yml"))
    (tmp_path / "prometheus.yml").write_text(example("scrape"))
    promtool("check", "config", "--syntax-only", str(tmp_path / "prometheus.yml"))


def test_serves_over_tls_with_valid_credentials_only(
    tempo: StartTempo, exporter: StartExporter, authority: trustme.CA, tmp_path: Path
) -> None:
    running = protected(exporter, tempo(Traffic()).url, tmp_path, authority)
    assert running.url.startswith("https://")
    assert (running.logged("started")[0]["tls"], running.logged("started")[0]["passwords"]) == (True, True)
    assert running.metrics()["web_config_last_reload_successful"] == 1

    for path in ("/", "/metrics", "/nothing"):
        for auth in (None, ("prometheus", "wrong"), ("nobody", "example")):
            assert status(running, path, auth) == 401, path
    assert running.metrics()["web_unauthorized_total"] == 9
    assert status(running, "/-/healthy", None) == 200
    page = running.get("/")
    assert page.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert page.headers["Content-Security-Policy"] in DOCUMENT
    with pytest.raises(requests.exceptions.SSLError):
        running.get("/metrics", verify=True)
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(running.url.replace("https", "http") + "/-/healthy", timeout=10)

    # Fifty clients that never finish their handshake, during scrapes and at the stop.
    address = urlsplit(running.url)
    with ExitStack() as clients:
        for number in range(50):
            client = clients.enter_context(socket.create_connection((address.hostname, address.port), timeout=10))
            client.sendall(b"\x16\x03\x01"[: number % 4])
        for _ in range(5):
            assert running.metrics()["web_unauthorized_total"] == 9
        assert running.stop(timeout=5) == 0


def test_web_config_is_reloaded_without_a_restart(
    tempo: StartTempo, exporter: StartExporter, authority: trustme.CA, tmp_path: Path
) -> None:
    running = protected(exporter, tempo(Traffic()).url, tmp_path, authority)
    web = tmp_path / "web.yml"
    renewed = trustme.CA()
    write_pair(tmp_path, renewed, "exporter")
    trusting = {"verify": str(write_authority(tmp_path, renewed, "renewed"))}

    def serves_the_new_certificate() -> bool:
        try:
            return running.get("/-/healthy", **trusting).status_code == 200
        except requests.exceptions.SSLError:
            return False

    eventually(serves_the_new_certificate, lambda: "the old certificate is still served", 30)
    running.access |= trusting

    new_file = web.with_suffix(".new")
    new_file.write_text(web.read_text() + "nonsense: true\n")
    new_file.replace(web)
    page = running.wait_for(lambda page: page["web_config_last_reload_successful"] == 0)
    eventually(lambda: bool(running.logged("web_config_invalid")), lambda: "web_config_invalid is not logged", 30)
    (record,) = running.logged("web_config_invalid")
    assert "nonsense" in record["error"]

    password = "n3w-pässword"
    hash_ = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    new_file.write_text(re.sub(r"prometheus: \S+", f"prometheus: {hash_}", example("web-config")))
    new_file.replace(web)
    new = ("prometheus", password.encode().decode("latin-1"))  # requests would encode it as Latin-1
    eventually(lambda: status(running, "/", new) == 200, lambda: "the new password is refused", 30)
    assert status(running, "/", USER) == 401
    running.access["auth"] = new
    later = running.metrics()
    name = "web_config_last_reload_success_timestamp_seconds"
    assert later["web_config_last_reload_successful"] == 1
    assert page[name] < later[name] <= time.time()
    assert running.stop() == 0
    for secret in (password, hash_, "$2b$"):
        assert secret not in "\n".join(running.lines)


def test_client_certificates_are_required_if_configured(
    tempo: StartTempo, exporter: StartExporter, authority: trustme.CA, tmp_path: Path
) -> None:
    clients = trustme.CA()
    write_authority(tmp_path, clients, "clients")
    (tmp_path / "web.yml").write_text(
        "tls_server_config: {cert_file: exporter.crt, key_file: exporter.key, client_ca_file: clients.crt, "
        "client_auth_type: RequireAndVerifyClientCert, max_version: TLS12}"
    )
    running = protected(exporter, tempo(Traffic()).url, tmp_path, authority)
    with pytest.raises(requests.exceptions.ConnectionError):
        running.get("/-/healthy")
    certificate, key = write_pair(tmp_path, clients, "prometheus", "prometheus.example")
    running.access["cert"] = (str(certificate), str(key))
    assert running.metrics()["web_config_last_reload_successful"] == 1
    # The TLS version is the configured one.
    address = urlsplit(running.url)
    context = ssl.create_default_context(cafile=running.access["verify"])
    context.load_cert_chain(certificate, key)
    client = socket.create_connection((address.hostname, address.port), timeout=10)
    with context.wrap_socket(client, server_hostname=address.hostname) as wrapped:
        assert wrapped.version() == "TLSv1.2"


def test_invalid_web_config_prevents_the_start(tempo: StartTempo, tmp_path: Path) -> None:
    (tmp_path / "web.yml").write_text("basic_auth_users: {prometheus: hunter2}\ntls_server_config: {cert_fil: x}\n")
    configuration = settings(tempo(Traffic()).url, web={"config_file": "web.yml"})
    for arguments in ((), ("--check-config",)):
        ended = run(*arguments, "--config", str(write_settings(tmp_path, configuration)), directory=tmp_path)
        assert ended.returncode == 2
        assert ended.stderr.startswith("web.config_file: 2 problems in web.yml:")
        assert "hunter2" not in ended.stderr + ended.stdout
        assert list(tmp_path.glob("*.db")) == []
