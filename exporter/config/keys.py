"""The keys of the configuration as a list, derived from the schema."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from exporter.config.schema import Config

KeyPath = tuple[str, ...]
Shape = Literal["scalar", "list", "mapping"]


@dataclass(frozen=True)
class Key:
    """A key.

    Attributes:
        path: names from the top of the file to the key.
        shape: the kind of its value.
        default: its default, as a user would write it.
        description: its meaning, in one sentence.
    """

    path: KeyPath
    shape: Shape
    default: object
    description: str

    @property
    def dotted(self) -> str:
        """The path in the notation of messages and documents."""
        return ".".join(self.path)

    @cached_property
    def variable(self) -> str:
        """The name of its environment variable."""
        return "_".join(self.path).upper()


@dataclass(frozen=True)
class SectionKey:
    """A section and its description."""

    path: KeyPath
    description: str


def _shape(field: FieldInfo) -> Shape:
    origin = get_origin(field.annotation)
    if origin is tuple:
        return "list"
    return "mapping" if inspect.isclass(origin) and issubclass(origin, Mapping) else "scalar"


def _walk(model: type[BaseModel], path: KeyPath) -> Iterator[Key | SectionKey]:
    for name, field in model.model_fields.items():
        here = (*path, name)
        description = field.description or ""
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            yield SectionKey(here, description)
            yield from _walk(field.annotation, here)
        else:
            yield Key(here, _shape(field), field.default, description)


ENTRIES: Final[tuple[Key | SectionKey, ...]] = tuple(_walk(Config, ()))
"""Sections and keys in the order of the schema, each section before its keys."""

KEYS: Final[Mapping[KeyPath, Key]] = {entry.path: entry for entry in ENTRIES if isinstance(entry, Key)}
SECTIONS: Final[Mapping[KeyPath, SectionKey]] = {
    entry.path: entry for entry in ENTRIES if isinstance(entry, SectionKey)
}
VARIABLES: Final[Mapping[str, Key]] = {key.variable: key for key in KEYS.values()}
