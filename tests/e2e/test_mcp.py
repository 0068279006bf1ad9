"""The command ``mcp`` as a process, with the client of the library on both transports."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM
from typing import Any

import anyio
import pytest
import requests
from mcp import Client, StdioServerParameters

from exporter import __version__
from exporter.store import Store
from tests.support.processes import command
from tests.support.wsgi import ask, serving
from tests.unit.web.test_api import Bench
from tools.processes import environment

ARGUMENTS = {"service_name": "checkout", "span_name": "GET /cart", "duration": "500ms"}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    store = Store.in_memory()
    yield Bench(store)
    store.close()


@pytest.fixture(scope="module")
def url(bench: Bench) -> Iterator[str]:
    with serving(bench.site) as url:
        yield url


async def asked(server: Any) -> tuple[Any, Any]:
    """Ask the server for its tools, and for an explanation."""
    async with Client(server) as client:
        assert client.server_info is not None
        assert client.server_info.version == __version__
        return await client.list_tools(), await client.call_tool("explain_endpoint", ARGUMENTS)


def check(bench: Bench, listed: Any, result: Any) -> None:
    assert len(listed.tools) == 7
    assert not result.is_error
    answer = json.loads(result.content[0].text)
    path, _, query = answer["api"].partition("?")
    whole = json.loads(ask(bench.site, path, query=query).body)
    assert answer["duration"] == whole["duration"]
    assert answer["baseline"]["p95_seconds"] == whole["baseline"]["p95_seconds"]


def status(url: str, **headers: str) -> int:
    """Ask for the tools without the library; returns the status of the response."""
    headers |= {"Accept": "application/json, text/event-stream"}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    return requests.post(url, json=body, headers=headers, timeout=10).status_code


def test_standard_input_and_output(bench: Bench, url: str, tmp_path: Path) -> None:
    program, *arguments = command("mcp", "--url", url)
    with (tmp_path / "errors").open("w") as errors:
        from mcp.client.stdio import stdio_client

        parameters = StdioServerParameters(command=program, args=arguments, env=environment(), cwd=tmp_path)
        check(bench, *anyio.run(asked, stdio_client(parameters, errlog=errors)))
    assert (tmp_path / "errors").read_text() == ""


def test_streamable_http_refuses_other_hosts_and_origins(bench: Bench, url: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("mcp", "--url", url, "--http", "127.0.0.1:0"),
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        found = re.fullmatch(r"serving MCP at (http://127\.0\.0\.1:\d+/mcp)\n", process.stderr.readline())
        assert found is not None
        check(bench, *anyio.run(asked, found[1]))
        assert status(found[1], Host="evil.example") == 421
        assert status(found[1], Origin="http://evil.example") == 403
        assert status(found[1], Origin="http://localhost:3000") == 200
        process.send_signal(SIGTERM)
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, errors
    assert output == ""
    assert "Traceback" not in errors
