"""Keeps the process small."""

import ctypes
from typing import Final

_M_ARENA_MAX: Final = -8
"""``mallopt``'s name for the number of arenas, from glibc's ``malloc.h``."""


def share_one_arena() -> None:
    """Let all threads allocate from one arena, where the C library is glibc; elsewhere this does nothing.

    By default each thread gets an arena of its own, and what one has freed the others cannot use. Threads that read
    bodies of megabytes in turn so hold several times what one of them needs: 20 MB of 87 in a small installation.
    Python's threads hardly ever allocate at the same moment, so sharing costs nothing. To be called before any thread
    is started.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_ARENA_MAX, 1)
