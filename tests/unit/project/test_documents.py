"""Commands, configuration, JSON, links, paths and names in the documents are valid and exist."""

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
from exporter.metrics.families import DURATION_NAME
from tests.support.alerting import rules
from tests.support.paths import REPOSITORY
from tests.support.whole_page import WholePage

DOCUMENTS = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md"))]
FOREIGN = {
    "amtool", "cd", "curl", "cp", "docker", "git", "jq", "kubectl", "mv", "pip", "prometheus", "promtool", "sudo",
    "systemctl", "htpasswd", "openssl", "sqlite3", "install", "sed", "mkdir", "cat", "echo", "chown", "python3", "ls",
    "go", "tempo", "helm", "kill", "pidof",
}  # fmt: skip
"""Programs that are not part of the project; only the project's files among their arguments are checked."""
OURS = {"configs", "docs", "exporter", "grafana", "tests", "tools", "benchmarks"}
ALL_OPTIONS = {"--help", "-h"}


class Block(NamedTuple):
    """A fenced block of a document."""

    document: str
    line: int
    language: str
    text: str


def blocks() -> Iterator[Block]:
    """Yield all fenced blocks except those behind a ``begin`` marker, which other tests compare word for word."""
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        for found in re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            before = text[: found.start()]
            if not re.search(r"<!-- begin: [^>]+ -->\n\Z", before):
                yield Block(document.name, before.count("\n") + 1, found[1], found[2])


BLOCKS = list(blocks())


def of_language(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def path_of(document: object) -> str:
    return document.relative_to(REPOSITORY).as_posix() if isinstance(document, Path) else str(document)


def named(block: object) -> str:
    return f"{block.document}:{block.line}" if isinstance(block, Block) else str(block)


def commands(text: str) -> Iterator[list[str]]:
    """Yield the commands in shell lines: pipelines and lists split, assignments removed."""
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
def test_commands_options_and_paths_exist(block: Block) -> None:
    for program, *arguments in commands(block.text):
        name = Path(program).name
        if name == "tempo-anomaly-exporter":
            assert_is_ours(arguments)
        elif name == "make":
            assert_is_target(arguments)
        elif name == "python" and arguments[:1] == ["-m"]:
            assert find_spec(arguments[1]) is not None, arguments[1]
        else:
            assert name in FOREIGN, f"{name} is not a known program"
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
def test_configuration_examples_are_valid(block: Block, tmp_path: Path) -> None:
    document = yaml.safe_load(block.text)
    if isinstance(document, dict) and document.keys() <= Config.model_fields.keys():
        file = tmp_path / "exporter.yaml"
        file.write_text(block.text, "utf-8")
        load_config(file, {})
    else:
        assert document is not None


@pytest.mark.parametrize("block", of_language("json"), ids=named)
def test_json_examples_parse(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("document", DOCUMENTS, ids=path_of)
def test_named_time_series_exist(document: Path) -> None:
    named = re.findall(r"(?<![\w:/.])(?:\w+:)?tempo_anomaly_\w+(?::\w+)?", document.read_text("utf-8"))
    assert set(named) <= metric_names() | recorded_names()


def metric_names() -> set[str]:
    families = WholePage.full().families()
    # The native histogram is not in the text format.
    return (
        families.keys() | {DURATION_NAME} | {sample.name for family in families.values() for sample in family.samples}
    )


def recorded_names() -> set[str]:
    return set(rules("record"))


@pytest.mark.parametrize("block", [block for block in BLOCKS if not block.language], ids=named)
def test_only_drawings_have_no_language(block: Block) -> None:
    assert re.search("[─│├└→►]", block.text), "say what it is: sh, yaml, json, promql or text"


@pytest.mark.parametrize("document", DOCUMENTS, ids=path_of)
def test_paths_in_the_text_exist(document: Path) -> None:
    folders = "|".join(sorted(OURS))
    for path in re.findall(rf"`((?:{folders})/[\w./-]+)`", without_blocks(document)):
        assert (REPOSITORY / path).exists(), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=path_of)
def test_targets_in_the_text_exist(document: Path) -> None:
    for command in re.findall(r"`(make [^`]+)`", without_blocks(document)):
        assert_is_target(command.split()[1:])


@pytest.mark.parametrize("document", DOCUMENTS, ids=path_of)
def test_links_and_anchors_exist(document: Path) -> None:
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
    """Return the anchors that GitHub gives to headings: lower case, without punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
