"""Wording of error messages: how they show a value, and how they suggest a valid name."""

import difflib
import re
from collections.abc import Iterable
from typing import Final

_MAX_SHOWN: Final = 60
_SIMILAR: Final = 0.6
_COMPARED_CHARACTERS: Final = 200


def shown(value: object) -> str:
    """Return a value for a message: quoted, on one line, of bounded length; a list or mapping only by its type."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    text = value if isinstance(value, str) else str(value)
    return repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…")


def shown_name(name: str) -> str:
    """Return a key for a message, cut off at the first character that a key cannot have.

    The rest may be a secret: without the space after the colon, ``{password:hunter2}`` is a key.
    """
    word = re.match(r"[\w-]{0,60}", name)
    return name if word and word[0] == name else f"{word[0] if word else ''}…"


def nearest(name: str, valid: Iterable[str], cutoff: float = _SIMILAR) -> str | None:
    """Return the valid name that is most similar to an invalid one, ignoring case; None if none is similar."""
    return next(iter(all_near(name, valid, most=1, cutoff=cutoff)), None)


def all_near(name: str, valid: Iterable[str], *, most: int, cutoff: float = _SIMILAR) -> list[str]:
    """Return the valid names that are similar to an invalid one, ignoring case, best match first.

    Args:
        name: the invalid name; of very long names only the beginnings are compared.
        valid: the valid names.
        most: maximum number of results.
        cutoff: minimum similarity, from 0 to 1.
    """
    by_folded: dict[str, list[str]] = {}
    for candidate in valid:
        by_folded.setdefault(_comparable(candidate), []).append(candidate)
    matches = difflib.get_close_matches(_comparable(name), by_folded, n=most, cutoff=cutoff)
    return [candidate for match in matches for candidate in by_folded[match]][:most]


def _comparable(name: str) -> str:
    return name[:_COMPARED_CHARACTERS].casefold()


def hint(name: str, valid: Iterable[str]) -> str:
    """Return ``; did you mean X?``, or an empty text if no valid name is similar."""
    match = nearest(name, valid)
    return f"; did you mean {match}?" if match else ""
