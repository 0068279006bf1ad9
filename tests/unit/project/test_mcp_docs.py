"""docs/mcp.md: its examples are real answers, its configurations start the command, its table has all tools."""

import json
import re
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from mcp import Client

from exporter.cli.main import load_command
from exporter.mcp_server.answers import MAX_BYTES
from exporter.mcp_server.server import HTTP_PATH, build_server
from exporter.mcp_server.tools import ExporterTools
from exporter.store import Store
from exporter.verify.client import ExporterClient
from tests.support.paths import REPOSITORY
from tests.support.wsgi import serving
from tests.unit.project.test_api_docs import differences
from tests.unit.web.test_api import Bench

TEXT = (REPOSITORY / "docs/mcp.md").read_text("utf-8")
EXAMPLES = {
    name: json.loads(body)
    for name, body in re.findall(r"<!-- example: ([^>]+) -->\n```json\n(.*?)```", TEXT, re.DOTALL)
}
CALLS = [name for name in EXAMPLES if "{" in name]


@pytest.fixture(scope="module")
def tools() -> Iterator[ExporterTools]:
    store = Store.in_memory()
    with serving(Bench(store).site) as url:
        yield ExporterTools(lambda: ExporterClient(url))
    store.close()


async def called(tools: ExporterTools, name: str, arguments: dict[str, Any]) -> Any:
    async with Client(build_server(tools)) as client:
        return await client.call_tool(name, arguments)


@pytest.mark.parametrize("example", CALLS)
def test_an_example_matches_the_answer(tools: ExporterTools, example: str) -> None:
    name, _, arguments = example.partition(" ")
    result = anyio.run(called, tools, name, json.loads(arguments))
    assert differences(EXAMPLES[example], json.loads(result.content[0].text)) == []
    assert result.is_error is ("error" in EXAMPLES[example])


def test_table_has_all_tools_with_their_arguments(tools: ExporterTools) -> None:
    async def run() -> Any:
        async with Client(build_server(tools)) as client:
            return await client.list_tools()

    documented = {
        name: re.findall(r"`(\w+)`", arguments)
        for name, arguments in re.findall(r"^\| `(\w+)` \| ([^|]+) \| .*`/api/v1/", TEXT, re.MULTILINE)
    }
    assert documented == {each.name: list(each.input_schema["properties"]) for each in anyio.run(run).tools}
    assert {name.partition(" ")[0] for name in CALLS} <= documented.keys()


def test_configurations_of_clients_start_the_command() -> None:
    for name in ("mcpServers", "servers"):
        (server,) = EXAMPLES[name][name].values()
        assert server["command"] == "tempo-anomaly-exporter"
        command, *options = server["args"]
        context = load_command(command).make_context(command, options[:2])
        assert context.params["url"] == options[1]
        assert {each for each in options if each.startswith("--")} <= {
            option for parameter in context.command.params for option in parameter.opts
        }


def test_options_limit_and_path_are_documented() -> None:
    options = {option for parameter in load_command("mcp").params for option in parameter.opts}
    for option in options - {"--config", "--log-level", "--version"}:
        assert f"`{option}`" in TEXT
    assert f"at most {MAX_BYTES:,} bytes" in TEXT
    assert f"`{HTTP_PATH}`" in TEXT
