"""Terminal output: a progress line that is rewritten in place, and names with control characters escaped."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TextIO

_REFRESH_SECONDS = 0.2
_BAR_CELLS = 24
_ERASE_LINE = "\r\x1b[2K"
_MAX_NAME_LENGTH = 200
_DEFAULT_COLUMNS = 80

_in_use: Final[set[TextIO]] = set()
"""Terminals that show a progress line now."""


def printable(name: str) -> str:
    """Return a name from outside on one line, with escapes for all characters that a terminal would act upon."""
    text = "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in name)
    return text if len(text) <= _MAX_NAME_LENGTH else f"{text[:_MAX_NAME_LENGTH]}…"


def bar(ratio: float) -> str:
    """Return a progress bar with its percentage."""
    done = int(ratio * _BAR_CELLS)
    return f"[{'#' * done}{'.' * (_BAR_CELLS - done)}] {ratio:4.0%}"


def fresh_line(stream: TextIO) -> str:
    """Return what to write before other text, so that the text replaces a progress line instead of following it.

    Standard output and standard error are the same terminal, so the line may be on either of them.
    """
    return _ERASE_LINE if _in_use and stream.isatty() else ""


@contextmanager
def progress_line(describe: Callable[[], str], stream: TextIO, *, line_seconds: float | None = None) -> Iterator[None]:
    """Keep a line up to date while the body runs, and erase it afterwards.

    Other text that is written to the terminal in the body begins with :func:`fresh_line`.

    Args:
        describe: returns the line; called from another thread. The line is cut off at the terminal's width.
        stream: where to write.
        line_seconds: interval of whole lines where the stream is no terminal; None writes nothing there.
    """
    is_terminal = stream.isatty()
    if not is_terminal and line_seconds is None:
        yield
        return
    finished = threading.Event()

    def refresh() -> None:
        while not finished.wait(_REFRESH_SECONDS):
            # Of a line that wraps, only the last row could be erased.
            stream.write(f"{_ERASE_LINE}{describe()[: _columns(stream) - 1]}")
            stream.flush()
        stream.write(_ERASE_LINE)
        stream.flush()

    def write_lines() -> None:
        while not finished.wait(line_seconds):
            stream.write(f"{describe()}\n")
            stream.flush()

    writer = threading.Thread(target=refresh if is_terminal else write_lines, name="progress", daemon=True)
    if is_terminal:
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
        # A terminal that does not know its size reports 0.
        return os.get_terminal_size(stream.fileno()).columns or _DEFAULT_COLUMNS
    except (OSError, ValueError):
        return _DEFAULT_COLUMNS
