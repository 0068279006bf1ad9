"""What pydantic finds wrong, in the words of this configuration: where it stands and what to write instead."""

from collections.abc import Callable
from typing import Final

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


def place_of(error: ErrorDetails) -> EntryPath:
    """Where an error is, without the marker that pydantic adds when it is the key that is wrong."""
    place = error["loc"]
    return place[:-1] if place and place[-1] == "[key]" else place


def dotted(place: EntryPath) -> str:
    """A place in the tree, such as ``series.include[0]``."""
    words = (f"[{part}]" if isinstance(part, int) else f".{shown_name(part)}" for part in place)
    return "".join(words).removeprefix(".")


def complaint(error: ErrorDetails, meant: Callable[[EntryPath], str | None]) -> str:
    """The second half of a sentence that begins with the key.

    Args:
        error: what is wrong.
        meant: the valid path that an unknown one most likely stands for.
    """
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        guess = meant(place_of(error))
        return "is not a known key" + (f"; did you mean {guess}?" if guess else "")
    if given is None:
        return "has no value: give it one or leave it out"
    if kind == "value_error":
        return str(context["error"])
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"{words} {context[name]}, not {shown(given)}"
    return _MESSAGES.get(kind, error["msg"])
