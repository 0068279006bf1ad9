"""What a terminal shows: how far long work has come, on one line that is written over; names that do it no harm."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

_REFRESH_SECONDS = 0.2
_BAR_CELLS = 24
_ERASE_LINE = "\r\x1b[2K"
_LONGEST_NAME = 200


def printable(name: str) -> str:
    """A name from outside on one line, with escapes for all that a terminal would act upon."""
    text = "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in name)
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"


def bar(ratio: float) -> str:
    """A progress bar with its percentage."""
    done = int(ratio * _BAR_CELLS)
    return f"[{'#' * done}{'.' * (_BAR_CELLS - done)}] {ratio:4.0%}"


@contextmanager
def progress_line(describe: Callable[[], str], stream: TextIO) -> Iterator[None]:
    """Keep a line up to date while the body runs, and take it away afterwards.

    Args:
        describe: the line as it should read now; called from another thread.
        stream: where to write; where that is no terminal, nothing is written.
    """
    if not stream.isatty():
        yield
        return
    finished = threading.Event()

    def keep_writing() -> None:
        while not finished.wait(_REFRESH_SECONDS):
            stream.write(f"{_ERASE_LINE}{describe()}")
            stream.flush()
        stream.write(_ERASE_LINE)
        stream.flush()

    writer = threading.Thread(target=keep_writing, name="progress", daemon=True)
    writer.start()
    try:
        yield
    finally:
        finished.set()
        writer.join()
