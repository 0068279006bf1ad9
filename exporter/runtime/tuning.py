"""Keeps the interpreter from holding up whoever waits for an answer, and from looking for garbage that is not there.

With ten thousand series there are a million long-lived objects, and a poll cycle makes as many short-lived ones as it
takes to have the garbage collector look at all of them again: 70 ms in which no other thread runs, in each cycle. And a
thread that is busy gives way only once its turn is over, of which a large page needs many.

Keeps the process small.
"""

import ctypes
import gc
import sys
from typing import Final

_TURN_SECONDS: Final = 0.001
"""Python's own is 5 ms. Shorter ones cost the busy thread next to nothing as long as few others wait."""


_YOUNG_OBJECTS: Final = 10_000
"""Python's own is 700. Hardly anything here refers to itself, and judging the past makes millions of objects: looking
among them for cycles that often takes a tenth of the time."""


def collect_seldom() -> None:
    """Look for garbage among more new objects at a time; what nothing refers to is freed at once all the same."""
    _, *older = gc.get_threshold()
    gc.set_threshold(_YOUNG_OBJECTS, *older)


def take_short_turns() -> None:
    """Let threads that wait have the interpreter sooner."""
    sys.setswitchinterval(_TURN_SECONDS)


def freeze_gc() -> None:
    """Collect once, and spare the collector from then on whatever is left.

    To be called whenever much has been made that will stay, or the collector finds all of that again and again. Nothing
    leaks: what is set aside is still freed once nothing refers to it, and cycles at the next call.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


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
