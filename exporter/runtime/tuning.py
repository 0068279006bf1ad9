"""Interpreter settings: short thread turns, rare garbage collections, little memory.

With ten thousand series there are a million long-lived objects. A poll cycle creates enough new ones for the garbage
collector to visit all of them again, which stops every thread for 70 ms in each cycle. And a busy thread releases the
interpreter only at the end of its turn; building a large page takes many turns.
"""

import ctypes
import gc
import sys
from typing import Final

_TURN_SECONDS: Final = 0.001
"""Python's default is 5 ms. Shorter turns cost a busy thread next to nothing while few threads wait."""

_YOUNG_OBJECTS: Final = 10_000
"""Python's default is 700. Hardly any object here is part of a cycle, and evaluating history creates millions:
searching them for cycles that often takes a tenth of the time."""

_M_ARENA_MAX: Final = -8
"""``mallopt``'s parameter for the number of arenas, from glibc's ``malloc.h``."""


def collect_seldom() -> None:
    """Run the garbage collector less often; objects outside of cycles are freed at once regardless."""
    _, *older = gc.get_threshold()
    gc.set_threshold(_YOUNG_OBJECTS, *older)


def take_short_turns() -> None:
    """Let waiting threads have the interpreter sooner."""
    sys.setswitchinterval(_TURN_SECONDS)


def freeze_gc() -> None:
    """Collect garbage, then exempt all remaining objects from further collections.

    Call this after creating many objects that will stay. Nothing leaks: a frozen object is freed when its last
    reference goes, and a frozen cycle at the next call.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def share_one_arena() -> None:
    """Let all threads allocate from one arena, where the C library is glibc; elsewhere this does nothing.

    By default each thread has its own arena and cannot use what another thread has freed. Threads that read response
    bodies of megabytes in turn then hold several times the memory that one needs: 20 MB of 87 in a small installation.
    Python threads hardly ever allocate at the same moment, so sharing costs nothing. Call it before any thread starts.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_ARENA_MAX, 1)
