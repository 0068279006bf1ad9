"""The command ``mcp``: what it refuses."""

import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from exporter.cli.main import main


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["mcp", *arguments])


@pytest.mark.parametrize("missing", ["mcp", "uvicorn"])
def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.delitem(sys.modules, "exporter.mcp_server.server", raising=False)
    for name in [each for each in sys.modules if each.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    result = invoke()
    assert result.exit_code == 2
    assert result.stderr == (
        f"the MCP server needs further packages ({missing} is missing): pip install 'tempo-anomaly-exporter[mcp]'\n"
    )


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:1", ":1", "[::]:1", "192.0.2.1:80", "example.com:80", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", "1"],
)
def test_only_loopback_addresses_are_served(address: str) -> None:
    result = invoke("--http", address)
    assert result.exit_code == 2
    assert result.stderr.startswith("--http must be a loopback address and a port, such as 127.0.0.1:9818")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--url", "localhost:9817"], "--url must be a URL such as http://localhost:9817; set a user with --user\n"),
        (["--url", "http://a:b@x"], "--url must be a URL such as http://localhost:9817; set a user with --user\n"),
        (["--user", "x"], "--user and --password-file must be used together\n"),
        (["--user", "x", "--password-file", "missing"], "--password-file cannot be read: "),
    ],
)
def test_options_that_make_no_sense_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(message)


def test_an_address_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = invoke("--http", address)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"cannot listen on {address}: ")
