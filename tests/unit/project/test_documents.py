"""What the documents tell people to type, write and click works: commands, configuration, JSON, links."""

import json
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import click
import pytest
import yaml

from exporter.cli.main import COMMANDS, load_command, main
from exporter.config import Config, load_config
from tests.support.alerting import rules
from tests.support.paths import REPOSITORY
from tests.support.whole_page import WholePage

DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
FOREIGN = {
    "amtool", "cd", "curl", "cp", "docker", "git", "jq", "kubectl", "mv", "pip", "prometheus", "promtool", "sudo",
    "systemctl", "htpasswd", "openssl", "sqlite3", "install", "sed", "mkdir", "cat", "echo", "chown", "python3", "ls",
}  # fmt: skip
"""Programs that are not ours: only the files of the project that they are given are looked at."""
OURS = {"configs", "docs", "exporter", "grafana", "tests", "tools", "benchmarks"}
ALL_OPTIONS = {"--help", "-h"}


class Block(NamedTuple):
    """A fenced block of a document."""

    document: str
    line: int
    language: str
    text: str


def blocks() -> Iterator[Block]:
    """All fenced blocks but those behind a ``begin`` marker: these are held word for word by tests of their own."""
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        for found in re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            before = text[: found.start()]
            if not re.search(r"<!-- begin: [^>]+ -->\n\Z", before):
                yield Block(document.name, before.count("\n") + 1, found[1], found[2])


BLOCKS = list(blocks())


def of_language(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def named(block: object) -> str:
    return f"{block.document}:{block.line}" if isinstance(block, Block) else str(block)


def commands(text: str) -> Iterator[list[str]]:
    """The commands in some lines of shell: pipelines and lists taken apart, assignments and redirections left out."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for is_operator, words in groupby(lexer, key=lambda word: bool(re.fullmatch(r"[|&;]+", word))):
            if not is_operator:
                command = list(words)
                while command and re.fullmatch(r"\w+=.*", command[0], re.DOTALL):
                    command.pop(0)
                if command:
                    yield command


@pytest.mark.parametrize("block", of_language("sh", "shell", "bash", "console"), ids=named)
def test_every_command_can_be_typed(block: Block) -> None:
    for program, *arguments in commands(block.text):
        name = Path(program).name
        if name == "tempo-anomaly-exporter":
            assert_is_ours(arguments)
        elif name == "make":
            assert_is_target(arguments)
        elif name == "python" and arguments[:1] == ["-m"]:
            assert find_spec(arguments[1]) is not None, arguments[1]
        else:
            assert name in FOREIGN, f"{name} is not a program that is known here"
        for argument in arguments:
            path = argument.partition("=")[2] or argument
            if path.split("/")[0] in OURS and "/" in path and not re.search(r"[<*]", path):
                assert (REPOSITORY / path).exists(), path


def assert_is_ours(arguments: list[str]) -> None:
    command: click.Command = main
    options = options_of(command)
    for argument in arguments:
        if argument in {">", "<", ">>", "2>"}:
            break
        if argument.startswith("-") and argument != "-":
            assert argument.partition("=")[0] in options | ALL_OPTIONS, f"{command.name} has no {argument}"
        elif command is main and argument in COMMANDS:
            command = load_command(argument)
            options = options_of(command)


def options_of(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def assert_is_target(arguments: list[str]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text("utf-8"), re.MULTILINE))
    for argument in arguments:
        assert argument in targets or "=" in argument, argument


@pytest.mark.parametrize("block", of_language("yaml", "yml"), ids=named)
def test_every_configuration_is_one(block: Block, tmp_path: Path) -> None:
    document = yaml.safe_load(block.text)
    if isinstance(document, dict) and document.keys() <= Config.model_fields.keys():
        file = tmp_path / "exporter.yaml"
        file.write_text(block.text, "utf-8")
        load_config(file, {})
    else:
        assert document is not None


@pytest.mark.parametrize("block", of_language("json"), ids=named)
def test_all_json_is_json(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_time_series_of_which_a_document_speaks_exists(document: Path) -> None:
    spoken_of = re.findall(r"(?<![\w:/.])(?:\w+:)?tempo_anomaly_\w+(?::\w+)?", document.read_text("utf-8"))
    assert set(spoken_of) <= metric_names() | recorded_names()


def metric_names() -> set[str]:
    families = WholePage.full().families()
    return families.keys() | {sample.name for family in families.values() for sample in family.samples}


def recorded_names() -> set[str]:
    return set(rules("record"))


@pytest.mark.parametrize("block", [block for block in BLOCKS if not block.language], ids=named)
def test_a_block_without_a_language_is_a_drawing(block: Block) -> None:
    assert re.search("[─│├└→►]", block.text), "say what it is: sh, yaml, json, promql or text"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(document)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def without_blocks(document: Path) -> str:
    return re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """The names that a forge gives to headings: lower case, punctuation dropped, spaces to hyphens."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
