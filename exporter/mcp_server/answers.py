"""Answers of the tools: excerpts of the API's documents, as JSON of at most 4,000 bytes.

An answer has the keys and values of the document unchanged, so that each number can be looked up there; only long texts
are cut, and lists end early. Keys without a value are left out. Names come from traces, so they are hostile: they stay
strings of a JSON document, in which everything is escaped that could look like markup or move the cursor.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from exporter.model.label import shortened

Json = dict[str, Any]
Excerpt: TypeAlias = Mapping[str, "Excerpt | None"]
"""The keys to keep, in order; with those of the object, or of the objects of the list, below a key."""

MAX_BYTES: Final = 4000
"""Maximum length of an answer in UTF-8."""

_NAME_BYTES: Final = (160, 100, 64)
"""Lengths to which a name is cut until its JSON has at most the first of them, or else to the last one."""
_SENTENCE_BYTES: Final = 1000
_SENTENCES: Final = frozenset({"sentence", "detail"})
_MINOR_ITEMS: Final = (8, 4, 2, 1, 0)
"""How many items the lists beside the main one may have: the first number with which an answer fits."""
_IN_API: Final = "the response of `api`"
_UNSAFE: Final = re.compile(r"[<>]|[^\x20-\x7e]")


class AnswerTooLongError(Exception):
    """Not even an answer without any list fits."""


def keys(names: str, **below: Excerpt) -> Excerpt:
    """Return an excerpt: names of keys, separated by spaces, and those with keys below them."""
    return {**dict.fromkeys(names.split()), **below}


def excerpt(document: Json, kept: Excerpt) -> Json:
    """Return some keys of a document. Unknown values are left out, and long texts are cut."""
    found = {name: _value(name, document.get(name), below) for name, below in kept.items()}
    return {name: value for name, value in found.items() if value is not None and value != {}}


def _value(name: str, value: Any, below: Excerpt | None) -> Any:
    if isinstance(value, str):
        return cut_sentence(value) if name in _SENTENCES else cut_name(value)
    if isinstance(value, list):
        return [_value(name, item, below) for item in value]
    if isinstance(value, dict):
        # A key without an excerpt of its own has names and plain values below it: the labels of a series.
        return excerpt(value, dict.fromkeys(value) if below is None else below)
    return value


def cut_name(name: str) -> str:
    """Return a name that fits into an answer: a long one is cut, and the API still finds it by that."""
    return next(
        (cut for size in _NAME_BYTES if _size(cut := shortened(name, size)) <= _NAME_BYTES[0] + 2),
        shortened(name, _NAME_BYTES[-1]),
    )


def cut_sentence(text: str) -> str:
    """Return the beginning of a text that fits into an answer."""
    if _size(text) <= _SENTENCE_BYTES:
        return text
    end = len(text)
    while _size(text[:end]) > _SENTENCE_BYTES:
        end = min(end - 1, end * _SENTENCE_BYTES // _size(text[:end]))
    return f"{text[:end]}…"


def fitted(document: Json, *, main: str = "", minor: Iterable[str] = (), skip: int = 0, beyond: int | None = 0) -> Json:
    """Return as much of a document as fits into an answer.

    Lists end early; ``left_out`` says how many items are missing, and how to get them.

    Args:
        document: the excerpt.
        main: name of the list of which as much is kept as fits; dots separate the keys that lead to it.
        minor: names of the lists that are kept short; they are cut first.
        skip: how many items come before those of the main list.
        beyond: how many items come behind them; None for an unknown number.

    Raises:
        AnswerTooLongError: nothing fits.
    """
    lists = {name: found for name in minor if (found := _find(document, name)) is not None}
    items = (_find(document, main) if main else None) or []
    for most in _MINOR_ITEMS:
        cuts = {name: min(most, len(found)) for name, found in lists.items()}

        def answer(shown: int, cuts: Mapping[str, int] = cuts) -> Json:
            left_out = [
                {"list": name, "items": len(lists[name]) - kept, "get": _IN_API}
                for name, kept in cuts.items()
                if kept < len(lists[name])
            ]
            missing = len(items) - shown + (beyond or 0)
            if missing or beyond is None:
                rest = {"list": main, "items": missing, "get": f"skip={skip + shown}" if shown else _IN_API}
                left_out.insert(0, rest if beyond is not None else {**rest, "at_least": True})
            found = document
            for name, kept in {**cuts, **({main: shown} if items else {})}.items():
                found = _with_list(found, name.split("."), kept)
            return {**found, "left_out": left_out} if left_out else found

        shown = _largest(len(items), lambda count: _size(answer(count)) <= MAX_BYTES)
        if shown is not None and (shown or not items or not most):
            return answer(shown)
    raise AnswerTooLongError


def _largest(most: int, fits: Callable[[int], bool]) -> int | None:
    """Return the largest number up to a maximum that fits, if all smaller ones fit; None if not even 0 fits."""
    if fits(most):
        return most
    if not fits(0):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _find(document: Json, name: str) -> Sequence[Any] | None:
    value: Any = document
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, list) else None


def _with_list(document: Json, path: Sequence[str], kept: int) -> Json:
    key, *rest = path
    value = _with_list(document[key], rest, kept) if rest else document[key][:kept]
    return {**document, key: value}


def encode(document: Json) -> str:
    """Encode an answer. Everything that is not printable, and angle brackets, are escaped."""
    return _UNSAFE.sub(_escaped, json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False))


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if character in "<>":
        return f"\\u{ord(character):04x}"
    return character if character.isprintable() else json.dumps(character)[1:-1]


def _size(value: Any) -> int:
    """Return how many bytes the JSON of a value takes."""
    return len(encode(value).encode())
