"""Which endpoints and hours are looked at: spread over all of them, and the same ones every time."""

import hashlib
from collections.abc import Iterable
from typing import Final

from exporter.model.span import SeriesKey

MOST: Final = 40
_HOURS: Final = 168


def sample(keys: Iterable[SeriesKey], most: int = MOST) -> list[tuple[SeriesKey, int]]:
    """Some series, each with an hour of the coming week, as hours from now.

    Which ones depends on their names alone. Where there are fewer series than samples, each comes with several hours.
    """
    ranked = sorted(keys, key=lambda key: (_hash(key), key))
    if not ranked:
        return []
    chosen = []
    for number in range(most):
        turn, position = divmod(number, len(ranked))
        key = ranked[position]
        chosen.append((key, (_hash(key) + 7 * turn) % _HOURS))
    return chosen


def _hash(key: SeriesKey) -> int:
    name = "\0".join(key).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big")
