"""Uniform numbers that depend on nothing but a seed, so that the same question always gets the same answer."""

from hashlib import shake_256
from struct import unpack
from typing import Final

_BYTES: Final = 4
_RANGE: Final = 1 << (8 * _BYTES)


def uniform(seed: str, count: int) -> list[float]:
    """Return numbers in ``[0, 1)`` that look independent.

    Args:
        seed: any text.
        count: how many.
    """
    digest = shake_256(seed.encode("utf-8", "backslashreplace")).digest(_BYTES * count)
    return [number / _RANGE for number in unpack(f"<{count}I", digest)]
