"""The environment as a source of configuration: one variable for every key.

A misspelt variable must not pass unnoticed, but variables of other programs must not prevent the start: Kubernetes sets
variables such as ``TEMPO_PORT_3200_TCP_ADDR`` in every container next to a service named tempo. So an unknown variable
is an error only if it begins with the name of a section and is nearly equal to a known variable. All others are
ignored; `ignored_variables` lists them for the log.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from exporter.config.document import parse_document
from exporter.config.keys import SECTIONS, VARIABLES, Key, KeyPath
from exporter.config.wording import nearest, shown

_PREFIXES: Final = tuple(sorted({f"{path[0].upper()}_" for path in SECTIONS}))
_SLIP: Final = 0.88
"""Minimum similarity (`difflib`) of a misspelt name: it differs in one or two letters."""


@dataclass
class Overlay:
    """The values that the environment sets.

    Attributes:
        values: by path of the key.
        problems: invalid variables; their values are validated together with those of the file.
        invalid: keys whose variable is invalid or misspelt.
    """

    values: dict[KeyPath, object] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    invalid: set[KeyPath] = field(default_factory=set)


def read_environment(environ: Mapping[str, str]) -> Overlay:
    """Collect the values of all variables of keys."""
    overlay = Overlay()
    for variable, key in VARIABLES.items():
        text = environ.get(variable)
        if text is None or (not text and key.default != ""):
            continue  # an empty variable counts as unset, unless the default is empty text
        try:
            overlay.values[key.path] = _value(key, text)
        except ValueError as error:
            overlay.problems.append(f"{key.dotted} (environment variable {variable}) {error}")
            overlay.invalid.add(key.path)
    for variable, similar in _unknown(environ):
        if similar is not None:
            overlay.problems.append(
                f"{shown(variable)} is not an environment variable of the exporter; did you mean {similar.variable}?"
            )
            overlay.invalid.add(similar.path)
    return overlay


def ignored_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the variables that begin with the name of a section, but are neither known nor misspelt."""
    return tuple(sorted(variable for variable, similar in _unknown(environ) if similar is None))


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
        if document.problems:  # the value is not quoted, because it may be a secret
            raise ValueError(f"begins with {opening} and must be YAML: {document.problems[0]}")
        return document.tree
    if key.shape == "mapping":
        raise ValueError('must be a mapping in YAML, such as {X-Example: "a", X-Other: "b"}')
    return [item for item in (part.strip() for part in text.split(",")) if item]
