"""The environment as a source of configuration: one variable for every key.

A misspelt variable must not pass unnoticed, and a variable of somebody else must not stop the start: Kubernetes alone
adds ``TEMPO_PORT_3200_TCP_ADDR`` and the like to every container next to a service called tempo. So an unknown variable
is a mistake only when it begins like one of our sections and differs from one of our names by no more than a slip; the
rest are ignored, and `ignored_variables` names them for the log.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from exporter.config.document import parse_document
from exporter.config.keys import SECTIONS, VARIABLES, Key, KeyPath
from exporter.config.wording import nearest, shown

_PREFIXES: Final = tuple(sorted({f"{path[0].upper()}_" for path in SECTIONS}))
_SLIP: Final = 0.88
"""Similarity (`difflib`) from which on an unknown name is taken for a misspelt one: one or two letters of a name."""


@dataclass
class Overlay:
    """What the environment sets.

    Attributes:
        values: by path of the key.
        problems: what is wrong with the variables as such; their values are checked with those of the file.
        doubtful: keys that were meant to be set, but could not be.
    """

    values: dict[KeyPath, object] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    doubtful: set[KeyPath] = field(default_factory=set)


def read_environment(environ: Mapping[str, str]) -> Overlay:
    """Collect the values of all variables that belong to a key."""
    overlay = Overlay()
    for variable, key in VARIABLES.items():
        text = environ.get(variable)
        if text is None or (not text and key.default != ""):
            continue  # an empty variable is no value, except where empty is what the default is
        try:
            overlay.values[key.path] = _value(key, text)
        except ValueError as error:
            overlay.problems.append(f"{key.dotted} (environment variable {variable}) {error}")
            overlay.doubtful.add(key.path)
    for variable, meant in _unknown(environ):
        if meant is not None:
            overlay.problems.append(
                f"{shown(variable)} is no environment variable of the exporter; did you mean {meant.variable}?"
            )
            overlay.doubtful.add(meant.path)
    return overlay


def ignored_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Variables that begin like ours, but are no keys and are not taken for misspelt ones."""
    return tuple(sorted(variable for variable, meant in _unknown(environ) if meant is None))


def _unknown(environ: Mapping[str, str]) -> Iterator[tuple[str, Key | None]]:
    for variable in environ:
        prefix = next((prefix for prefix in _PREFIXES if variable.startswith(prefix)), None)
        if prefix is None or variable in VARIABLES:
            continue
        match = nearest(variable, (known for known in VARIABLES if known.startswith(prefix)), _SLIP)
        yield variable, VARIABLES[match] if match else None


def _value(key: Key, text: str) -> object:
    if key.shape == "scalar":
        return text
    opening = "[" if key.shape == "list" else "{"
    if text.lstrip().startswith(opening):
        document = parse_document(text)
        if document.problems:  # without the citation: it may be a secret
            raise ValueError(f"begins with {opening} and must be YAML: {document.problems[0]}")
        return document.tree
    if key.shape == "mapping":
        raise ValueError('must be a mapping in YAML, such as {X-Example: "a", X-Other: "b"}')
    return [item for item in (part.strip() for part in text.split(",")) if item]
