"""Shows how far long work has come: one line on a terminal that is written over, and nothing where there is none."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

_REFRESH_SECONDS = 0.2
_BAR_CELLS = 24
_ERASE_LINE = "\r\x1b[2K"


def bar(ratio: float) -> str:
    """A progress bar with its percentage."""
    done = int(ratio * _BAR_CELLS)
    return f"[{'#' * done}{'.' * (_BAR_CELLS - done)}] {ratio:4.0%}"


def printable(name: str) -> str:
    """A name that somebody else has chosen, so that it neither begins a line of its own nor commands the terminal."""
    return name if name.isprintable() else repr(name)


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
