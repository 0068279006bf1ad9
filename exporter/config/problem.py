"""Validation errors of pydantic as messages of this configuration: where the mistake is and what to write."""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from pydantic_core import ErrorDetails

from exporter.config.document import EntryPath
from exporter.config.wording import shown, shown_name

_MESSAGES: Final = {
    "missing": "is missing",
    "string_type": "must be text",
    "string_unicode": "must be valid UTF-8",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of names to values",
    "model_type": "must be a mapping of names to values",
    "path_type": "must be the path of a file",
    "finite_number": "must be finite",
}
_BOUNDS: Final = {
    "greater_than": ("gt", "must be greater than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"),
    "less_than_equal": ("le", "must be at most"),
}


class EntryProblem(NamedTuple):
    """What is wrong with one entry.

    Attributes:
        path: path of the entry.
        text: the predicate of a sentence about it.
    """

    path: EntryPath
    text: str

    @classmethod
    def of(cls, error: ErrorDetails, suggest: Callable[[EntryPath], str | None]) -> "EntryProblem":
        """Take a validation error.

        Args:
            error: the error.
            suggest: returns the valid path that is most similar to an unknown one, if any.
        """
        return cls(error_path(error), _predicate(error, suggest))

    def within(self, parent: EntryPath) -> "EntryProblem":
        """Return the problem of the same entry where its path begins further up."""
        return self._replace(path=(*parent, *self.path))

    def message(self, origins: Mapping[EntryPath, str]) -> str:
        """Return the sentence.

        Args:
            origins: where entries were written, such as ``exporter.yaml line 3``. That of the closest entry around it
                serves where its own is unknown.
        """
        ends = range(len(self.path), 0, -1)
        origin = next((origins[self.path[:end]] for end in ends if self.path[:end] in origins), None)
        return f"{dotted(self.path)}{f' ({origin})' if origin else ''} {self.text}"


def error_path(error: ErrorDetails) -> EntryPath:
    """Return the path of the entry, without the marker that pydantic adds when the key itself is invalid."""
    path = error["loc"]
    return path[:-1] if path and path[-1] == "[key]" else path


def dotted(path: EntryPath) -> str:
    """Format a path, such as ``series.include[0]``."""
    names = (f"[{name}]" if isinstance(name, int) else f".{shown_name(name)}" for name in path)
    return "".join(names).removeprefix(".")


def _predicate(error: ErrorDetails, suggest: Callable[[EntryPath], str | None]) -> str:
    """Return the predicate of a sentence whose subject is the key: "must be at least 1, not 0"."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        suggestion = suggest(error_path(error))
        return "is not a known key" + (f"; did you mean {suggestion}?" if suggestion else "")
    if value is None:
        return "has no value: set one, or leave the key out"
    if kind == "value_error":
        return str(context["error"])
    if kind in _BOUNDS:
        name, bound = _BOUNDS[kind]
        return f"{bound} {context[name]}, not {shown(value)}"
    return _MESSAGES.get(kind, error["msg"])
