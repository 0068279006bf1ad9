"""What a terminal shows: how far long work has come, on one line that is written over; names that do it no harm."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TextIO

_REFRESH_SECONDS = 0.2
_BAR_CELLS = 24
_ERASE_LINE = "\r\x1b[2K"
_LONGEST_NAME = 200
_USUAL_COLUMNS = 80

_in_use: Final[set[TextIO]] = set()
"""Terminals that show a progress line now."""


def printable(name: str) -> str:
    """A name from outside on one line, with escapes for all that a terminal would act upon."""
    text = "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in name)
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"


def bar(ratio: float) -> str:
    """A progress bar with its percentage."""
    done = int(ratio * _BAR_CELLS)
    return f"[{'#' * done}{'.' * (_BAR_CELLS - done)}] {ratio:4.0%}"


def fresh_line(stream: TextIO) -> str:
    """What to write before other text, so that it takes the place of a progress line and does not stand behind it.

    Standard output and standard error are the same terminal, whichever of them the line is on.
    """
    return _ERASE_LINE if _in_use and stream.isatty() else ""


@contextmanager
def progress_line(describe: Callable[[], str], stream: TextIO) -> Iterator[None]:
    """Keep a line up to date while the body runs, and take it away afterwards.

    Whoever writes something else there meanwhile begins with :func:`fresh_line`.

    Args:
        describe: the line as it should read now; called from another thread. It is cut off at the terminal's width.
        stream: where to write; where that is no terminal, nothing is written.
    """
    if not stream.isatty():
        yield
        return
    finished = threading.Event()

    def keep_writing() -> None:
        while not finished.wait(_REFRESH_SECONDS):
            # A line that goes on below could not be taken away: only the last row of it would be.
            stream.write(f"{_ERASE_LINE}{describe()[: _columns(stream) - 1]}")
            stream.flush()
        stream.write(_ERASE_LINE)
        stream.flush()

    writer = threading.Thread(target=keep_writing, name="progress", daemon=True)
    _in_use.add(stream)
    writer.start()
    try:
        yield
    finally:
        finished.set()
        writer.join()
        _in_use.discard(stream)


def _columns(stream: TextIO) -> int:
    try:
        # A terminal that does not know its size says 0.
        return os.get_terminal_size(stream.fileno()).columns or _USUAL_COLUMNS
    except (OSError, ValueError):
        return _USUAL_COLUMNS
