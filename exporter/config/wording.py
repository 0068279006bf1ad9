"""How messages show a value, and how they guess what was meant."""

import difflib
import re
from collections.abc import Iterable
from typing import Final

_MAX_SHOWN: Final = 60


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


def nearest(name: str, valid: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The valid name that a misspelt one most likely meant, whatever its case."""
    by_folded = {candidate.casefold(): candidate for candidate in valid}
    matches = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=cutoff)
    return by_folded[matches[0]] if matches else None


def hint(name: str, valid: Iterable[str]) -> str:
    """``; did you mean X?``, or nothing where no valid name is near."""
    match = nearest(name, valid)
    return f"; did you mean {match}?" if match else ""
