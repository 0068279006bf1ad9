"""docs/logs.md lists every event that the exporter logs, with its level, and no other."""

import ast
import re
from collections.abc import Iterator

from tests.support.paths import REPOSITORY

TEXT = (REPOSITORY / "docs" / "logs.md").read_text("utf-8")
LEVEL_OF = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
"""Levels by the methods of `exporter.runtime.logs.Log`."""


def logged() -> Iterator[tuple[str, str]]:
    """Events and levels of all calls on a log, found by their first argument: a key of lower-case words."""
    for file in sorted((REPOSITORY / "exporter").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVEL_OF
                and len(node.args) == 2
            ):
                yield from ((event, LEVEL_OF[node.func.attr]) for event in texts(node.args[0]))


def texts(argument: ast.expr) -> list[str]:
    """The values that an event may have: a literal, or either side of a conditional."""
    if isinstance(argument, ast.IfExp):
        return [*texts(argument.body), *texts(argument.orelse)]
    assert isinstance(argument, ast.Constant) and isinstance(argument.value, str), ast.unparse(argument)
    return [argument.value]


def rows() -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| `")
    ]


def test_every_event_is_listed_once_with_its_level() -> None:
    documented = [(event.strip("`"), level) for event, level, _, _ in rows()]
    assert len(documented) > 40
    assert sorted(documented) == sorted(set(logged()))


def test_every_event_has_a_meaning_and_what_to_do_is_a_sentence_or_a_link() -> None:
    for event, _, meaning, advice in rows():
        assert meaning.endswith("."), event
        assert not advice or advice.endswith((".", ")")), event


def test_events_named_elsewhere_in_the_documents_are_logged() -> None:
    events = {event for event, _ in logged()}
    documents = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *(REPOSITORY / ".github").rglob("*.*")]
    named = {event for file in documents for event in re.findall(r"event=([a-z_]+)", file.read_text("utf-8"))}
    assert {"started", "window_read", "shift_firing"} <= named
    assert named <= events
