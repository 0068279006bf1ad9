"""The YAML file as a tree of text, with the line of each entry and everything that is wrong with it as YAML.

Every scalar stays the text that was written and the schema alone decides what it means. So ``holidays: NO`` is Norway
and not false, ``tenant: 007`` keeps its zeros, and the same words mean the same in the file and in an environment
variable. The text is only composed (`yaml.SafeLoader`): no objects are ever constructed from it.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from exporter.config.wording import shown_name

_MAX_BYTES: Final = 1024 * 1024
_STANDARD: Final = "tag:yaml.org,2002:"
_KNOWN_TAGS: Final = frozenset(
    _STANDARD + kind for kind in ("null", "bool", "int", "float", "str", "timestamp", "seq", "map", "merge", "value")
)

EntryPath = tuple[str | int, ...]


@dataclass
class Document:
    """What a YAML text holds.

    Attributes:
        tree: mappings, lists, text and ``None``; ``None`` also where the text is empty or broken.
        lines: the line, from 1, of each entry.
        problems: what is wrong, each with its line.
        broken: whether the tree lacks what was written.
    """

    tree: object = None
    lines: dict[EntryPath, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    broken: bool = False


def read_document(path: Path) -> Document:
    """Read a YAML file; what is wrong with it is in the result."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Document(problems=[f"{path} cannot be read: {reason}"], broken=True)
    if len(content) > _MAX_BYTES:
        return Document(problems=[f"{path} is larger than 1 MiB: not a configuration file"], broken=True)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return Document(problems=[f"{path} line {line}: not UTF-8 text"], broken=True)
    return parse_document(text, f"{path} line ")


def parse_document(text: str, where: str = "line ") -> Document:
    """Parse a YAML text.

    Args:
        text: the YAML.
        where: what messages put before the number of a line.
    """
    document = Document()
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            document.tree = _Reader(document, where).read(root, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        column = f", column {mark.column + 1}" if mark else ""
        document.problems.append(f"{where}{line}{column}: not valid YAML: {_without_content(error)}")
        document.broken = True
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        document.problems.append(f"{where}{line}: not valid YAML: it contains a control character")
        document.broken = True
    except RecursionError:
        document.problems.append(f"{where}1: not a configuration: nested too deeply")
        document.broken = True
    return document


def _without_content(error: yaml.MarkedYAMLError) -> str:
    """What the parser says, without the words it cites from the file: an unquoted password may be among them.

    Single characters and its own names for what it expected, ``'<block end>'``, stay.
    """
    begun = error.context or ""
    if error.context_mark and begun.startswith("while"):
        begun += f" that begins in line {error.context_mark.line + 1}"
    said = ", ".join(part for part in (begun, error.problem) if part)
    return re.sub(
        r"""'[^']*'|"[^"]*\"""", lambda cited: cited[0] if len(cited[0]) <= 3 or "<" in cited[0] else "…", said
    )


class _Reader:
    """Turns nodes into a tree and notes lines and problems on the way."""

    def __init__(self, document: Document, where: str) -> None:
        self._document = document
        self._where = where
        self._done: dict[int, object] = {}  # by node: an alias is read once, however often it is used
        self._open: set[int] = set()

    def read(self, node: Node, path: EntryPath) -> object:
        if id(node) in self._open:
            self._problem(node, "an alias stands inside of what it names")
            return None
        if id(node) not in self._done:
            self._open.add(id(node))
            self._done[id(node)] = self._convert(node, path)
            self._open.remove(id(node))
        return self._done[id(node)]

    def _convert(self, node: Node, path: EntryPath) -> object:
        if node.tag not in _KNOWN_TAGS:
            self._problem(node, "tags are not supported: put a value that begins with ! in quotes")
            return None
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            items = []
            for index, item in enumerate(node.value):
                self._document.lines[*path, index] = item.start_mark.line + 1
                items.append(self.read(item, (*path, index)))
            return items
        return None if node.tag == _STANDARD + "null" else node.value

    def _mapping(self, node: MappingNode, path: EntryPath) -> dict[str, object]:
        mapping: dict[str, object] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self._problem(key, "a key must be a single word")
                continue
            here = (*path, key.value)
            if key.value in mapping:
                first = self._document.lines[here]
                self._problem(key, f"the key {shown_name(key.value)} is there twice, first in line {first}")
                continue
            self._document.lines[here] = key.start_mark.line + 1
            mapping[key.value] = self.read(value, here)
        return mapping

    def _problem(self, node: Node, text: str) -> None:
        self._document.problems.append(f"{self._where}{node.start_mark.line + 1}: {text}")
        self._document.broken = True
