"""``python -m tools.prose [FILE ...]``: find the expressions of ``tools/idioms.txt`` in the project's texts.

In Python files it reads comments, docstrings, names of functions and classes and, outside of tests, string literals of
several words; in other text files every line. It skips code in backquotes, and fenced blocks behind a
``<!-- begin: … -->`` marker, which show real output.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
IDIOMS: Final = Path(__file__).with_name("idioms.txt")
FOLDERS: Final = ("exporter", "tools", "benchmarks", "tests", "docs", "configs", "grafana", ".github")
TOP: Final = ("*.md", "*.toml", "Makefile", "Dockerfile", ".pre-commit-config.yaml", ".editorconfig")
SUFFIXES: Final = frozenset({".py", ".md", ".yml", ".yaml", ".json", ".service", ".css"})
DATA: Final = ("tests/recordings", "benchmarks/data")
"""Folders that hold data."""

SERVED_SENTENCES: Final = frozenset(
    {
        "exporter/detection/explanation.py",
        "exporter/explain/words.py",
    }
)
"""Modules whose string literals are sentences of the API: a contract, so only the rest of them is checked."""


@dataclass(frozen=True, slots=True)
class Idiom:
    """An expression to avoid, and what to write instead."""

    pattern: re.Pattern[str]
    advice: str


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of prose, and the line of its file on which it starts, counted from 1."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """An idiom found in a file; `line` is counted from 1."""

    path: str
    line: int
    words: str
    advice: str

    def __str__(self) -> str:
        return f'{self.path}:{self.line}: "{self.words}": {self.advice}'


def parse_idioms(text: str) -> list[Idiom]:
    """Parse a list of idioms.

    Raises:
        ValueError: a line has no advice, or no valid regular expression.
    """
    idioms = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        expression, _, advice = (part.strip() for part in line.partition(" => "))
        if not advice:
            raise ValueError(f"line {number} is not of the form 'regular expression => advice'")
        spaced = expression.replace(" ", r"\s+")
        bounded = rf"\b{spaced}\b" if re.match(r"\w", spaced) else rf"{spaced}\b"
        try:
            idioms.append(Idiom(re.compile(bounded, re.IGNORECASE), advice))
        except re.error as error:
            raise ValueError(f"line {number}: {error}") from error
    return idioms


def passages(path: str, text: str) -> Iterator[Passage]:
    """Yield the prose of a file; `path` is relative to the root of the repository."""
    if not path.endswith(".py"):
        yield Passage(1, _without_output(text) if path.endswith(".md") else text)
        return
    yield from _comments(text)
    with_strings = not path.startswith("tests/") and path not in SERVED_SENTENCES
    yield from _syntax(ast.parse(text), with_strings=with_strings)


def _without_output(markdown: str) -> str:
    """Blank the fenced blocks that show real output, and all fences, keeping line numbers."""
    output = re.compile(r"^<!-- begin: [^\n]*-->\n```.*?^```$", re.DOTALL | re.MULTILINE)
    shown = output.sub(lambda block: "\n" * block[0].count("\n"), markdown)
    return re.sub(r"^```.*$", "", shown, flags=re.MULTILINE)


def _comments(source: str) -> list[Passage]:
    """Return the comments; those that fill consecutive lines are one passage."""
    found: list[Passage] = []
    continued_on = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line, text = token.start[0], token.string.lstrip("#: ")
            fills_line = token.line.lstrip().startswith("#")
            if fills_line and line == continued_on:
                found[-1] = Passage(found[-1].line, f"{found[-1].text}\n{text}")
            else:
                found.append(Passage(line, text))
            continued_on = line + 1 if fills_line else 0
    return found


def _syntax(tree: ast.AST, *, with_strings: bool) -> Iterator[Passage]:
    """Yield docstrings, names of functions and classes, and string literals of several words."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield Passage(node.lineno, node.name.strip("_").replace("_", " "))
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Constant) and isinstance(child.value, str):
                is_docstring = isinstance(node, ast.Expr)
                if is_docstring or (with_strings and " " in child.value.strip()):
                    yield Passage(child.lineno, child.value)


def findings(path: str, text: str, idioms: Iterable[Idiom]) -> list[Finding]:
    """Find idioms in a file, in the order of their lines."""
    found = []
    for passage in passages(path, text):
        prose = _without_code(passage.text)
        for idiom in idioms:
            for match in idiom.pattern.finditer(prose):
                line = passage.line + prose.count("\n", 0, match.start())
                found.append(Finding(path, line, " ".join(match[0].split()), idiom.advice))
    return sorted(found, key=lambda finding: finding.line)


def _without_code(text: str) -> str:
    """Blank what is in backquotes within a paragraph, keeping line numbers."""
    code = re.compile(r"(`+)(?:(?!\n\n).)+?\1", re.DOTALL)
    return code.sub(lambda quoted: "\n" * quoted[0].count("\n"), text)


def files(root: Path) -> Iterator[Path]:
    """Yield the files of the repository that hold texts."""
    for pattern in TOP:
        yield from sorted(root.glob(pattern))
    for folder in FOLDERS:
        yield from sorted(
            file
            for file in (root / folder).rglob("*")
            if file.suffix in SUFFIXES and not file.relative_to(root).as_posix().startswith(DATA)
        )


def main(arguments: Sequence[str]) -> int:
    """Print every finding; return 1 when there are any."""
    idioms = parse_idioms(IDIOMS.read_text("utf-8"))
    chosen = [Path(argument).resolve() for argument in arguments] or list(files(ROOT))
    found = [
        finding
        for file in chosen
        for finding in findings(file.relative_to(ROOT).as_posix(), file.read_text("utf-8"), idioms)
    ]
    for finding in found:
        print(finding)  # noqa: T201 - its output
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
