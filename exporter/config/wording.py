"""How messages show a value, and how they guess what was meant."""

import difflib
import re
from collections.abc import Iterable
from typing import Final

_MAX_SHOWN: Final = 60
_SIMILAR: Final = 0.6
_COMPARED_CHARACTERS: Final = 200


def shown(value: object) -> str:
    """A value for a message: quoted, on one line, of bounded length; of a list or mapping only that it is one."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    text = value if isinstance(value, str) else str(value)
    return repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…")


def shown_name(name: str) -> str:
    """A key for a message, as far as it is a plain word.

    What follows may be a value: without the space after the colon, ``{password:hunter2}`` is a key.
    """
    word = re.match(r"[\w-]{0,60}", name)
    return name if word and word[0] == name else f"{word[0] if word else ''}…"


def nearest(name: str, valid: Iterable[str], cutoff: float = _SIMILAR) -> str | None:
    """The valid name that a misspelt one most likely meant, whatever its case."""
    return next(iter(all_near(name, valid, most=1, cutoff=cutoff)), None)


def all_near(name: str, valid: Iterable[str], *, most: int, cutoff: float = _SIMILAR) -> list[str]:
    """The valid names that a misspelt one may have meant, best first, whatever their case.

    Args:
        name: the misspelt one; of very long names the beginnings are compared.
        valid: the valid ones.
        most: so many of them.
        cutoff: how similar they must be, from 0 to 1.
    """
    by_folded: dict[str, list[str]] = {}
    for candidate in valid:
        by_folded.setdefault(_comparable(candidate), []).append(candidate)
    matches = difflib.get_close_matches(_comparable(name), by_folded, n=most, cutoff=cutoff)
    return [candidate for match in matches for candidate in by_folded[match]][:most]


def _comparable(name: str) -> str:
    return name[:_COMPARED_CHARACTERS].casefold()


def hint(name: str, valid: Iterable[str]) -> str:
    """``; did you mean X?``, or nothing where no valid name is near."""
    match = nearest(name, valid)
    return f"; did you mean {match}?" if match else ""
