"""The YAML file as a tree of text, with the line of each entry and all YAML errors.

Every scalar stays text; the schema alone decides its type. So ``holidays: NO`` is Norway and not false, ``tenant: 007``
keeps its zeros, and a text means the same in the file and in an environment variable. The YAML is only composed
(`yaml.SafeLoader`): no objects are constructed from it.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from exporter.config.wording import shown_name

_MAX_BYTES: Final = 1024 * 1024
_MAX_MERGED: Final = 10_000
"""Entries that merge keys may add in all; aliases could otherwise make a small file fill the memory."""

_STANDARD: Final = "tag:yaml.org,2002:"
_KNOWN_TAGS: Final = frozenset(
    _STANDARD + kind for kind in ("null", "bool", "int", "float", "str", "timestamp", "seq", "map", "merge", "value")
)

EntryPath = tuple[str | int, ...]


@dataclass
class Document:
    """A parsed YAML text.

    Attributes:
        tree: mappings, lists, text and None; None also where the text is empty or cannot be parsed.
        lines: the line of each entry, from 1.
        problems: the errors, each with its line.
        broken: whether an error kept entries out of the tree.
    """

    tree: object = None
    lines: dict[EntryPath, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    broken: bool = False


def read_document(path: Path) -> Document:
    """Read a YAML file; errors are in the result."""
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
        where: prefix of the line number in messages.
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
    """Return the parser's message without the words that it quotes from the file, which may be a password.

    Single characters and the parser's own names of tokens, such as ``'<block end>'``, stay.
    """
    context = error.context or ""
    if error.context_mark and context.startswith("while"):
        context += f" that begins in line {error.context_mark.line + 1}"
    message = ", ".join(text for text in (context, error.problem) if text)
    return re.sub(
        r"""'[^']*'|"[^"]*\"""", lambda quoted: quoted[0] if len(quoted[0]) <= 3 or "<" in quoted[0] else "…", message
    )


class _Reader:
    """Converts nodes into a tree and collects lines and problems."""

    def __init__(self, document: Document, where: str) -> None:
        self._document = document
        self._where = where
        self._done: dict[int, object] = {}  # by node, so that an alias is converted once
        self._open: set[int] = set()
        self._merged = 0

    def read(self, node: Node, path: EntryPath) -> object:
        if id(node) in self._open:
            self._problem(node, "an alias refers to a node that contains it")
            return None
        if id(node) not in self._done:
            self._open.add(id(node))
            self._done[id(node)] = self._convert(node, path)
            self._open.remove(id(node))
        return self._done[id(node)]

    def _convert(self, node: Node, path: EntryPath) -> object:
        if node.tag not in _KNOWN_TAGS:
            self._problem(node, "tags are not supported: quote a value that begins with !")
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
        merged: dict[str, object] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self._problem(key, "a key must be plain text")
                continue
            if key.tag == _STANDARD + "merge":
                self._merge(merged, key, value, path)
                continue
            here = (*path, key.value)
            if key.value in mapping:
                first = self._document.lines[here]
                self._problem(key, f"the key {shown_name(key.value)} is a duplicate of the one in line {first}")
                continue
            self._document.lines[here] = key.start_mark.line + 1
            mapping[key.value] = self.read(value, here)
        return {**merged, **mapping}

    def _merge(self, merged: dict[str, object], key: ScalarNode, value: Node, path: EntryPath) -> None:
        """Add the entries of a merge key (``<<``), of which the first mapping that has a name wins."""
        for source in value.value if isinstance(value, SequenceNode) else [value]:
            entries = self.read(source, path) if isinstance(source, MappingNode) else None
            if not isinstance(entries, dict):
                self._problem(key, "<< must be followed by a mapping, or by a list of mappings")
                return
            self._merged += len(entries)
            if self._merged > _MAX_MERGED:
                self._problem(key, f"<< adds more than {_MAX_MERGED:,} entries in all")
                return
            for name, entry in entries.items():
                self._document.lines.setdefault((*path, name), key.start_mark.line + 1)
                merged.setdefault(name, entry)

    def _problem(self, node: Node, text: str) -> None:
        self._document.problems.append(f"{self._where}{node.start_mark.line + 1}: {text}")
        self._document.broken = True
