"""Terminal output: the progress line, and names that are safe to print."""

import io
import os
import threading

import pytest

from exporter.runtime import logs
from exporter.runtime.terminal import bar, fresh_line, printable, progress_line

ERASE = "\r\x1b[2K"


class Terminal(io.StringIO):
    """A terminal that counts how often a line was drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = threading.Semaphore(0)

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        self.drawn.release()


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [
        (0.0, "[........................]   0%"),
        (0.5, "[############............]  50%"),
        (0.999, "[#######################.] 100%"),
        (1.0, "[########################] 100%"),
    ],
)
def test_bar_shows_ratio_and_percentage(ratio: float, shown: str) -> None:
    assert bar(ratio) == shown


def test_the_progress_line_is_refreshed_and_erased() -> None:
    terminal = Terminal()
    numbers = iter(range(1000))
    with progress_line(lambda: f"{next(numbers)} windows", terminal):
        for _ in range(2):
            assert terminal.drawn.acquire(timeout=30)
    written = terminal.getvalue().split(ERASE)
    assert written[:3] == ["", "0 windows", "1 windows"]
    assert written[-1] == ""


def test_the_progress_line_is_erased_after_an_error() -> None:
    terminal = Terminal()
    with pytest.raises(ZeroDivisionError), progress_line(lambda: "working", terminal):
        assert terminal.drawn.acquire(timeout=30)
        raise ZeroDivisionError
    assert terminal.getvalue().endswith(f"working{ERASE}")
    assert all(thread.name != "progress" for thread in threading.enumerate())


def test_log_lines_replace_the_progress_line() -> None:
    terminal = Terminal()
    logs.configure("info", "logfmt", terminal)
    try:
        with progress_line(lambda: "half of it", terminal):
            assert terminal.drawn.acquire(timeout=30)
            logs.get_logger("test").info("tested", "something happened")
        logs.get_logger("test").info("tested", "it is over")
        logs.get_logger("test").info("tested", "plain text again")
    finally:
        logs.configure("info", "logfmt")
    during, first, second, end = (line.split(ERASE)[-1] for line in terminal.getvalue().split("\n"))
    assert "something happened" in during
    assert "half of it" not in during
    assert "it is over" in first
    assert terminal.getvalue().endswith(f"\n{second}\n{end}")
    assert end == ""


def test_fresh_line_erases_on_any_terminal_and_not_in_files() -> None:
    terminal = Terminal()
    with progress_line(lambda: "half of it", terminal):
        assert fresh_line(Terminal()) == ERASE
        assert fresh_line(io.StringIO()) == ""
    assert fresh_line(terminal) == ""


def test_the_progress_line_is_cut_off_at_the_width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a line that wraps, only the last row could be erased."""
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((20, 30)))
    terminal = Terminal()
    monkeypatch.setattr(terminal, "fileno", lambda: 1)
    with progress_line(lambda: "x" * 50, terminal):
        assert terminal.drawn.acquire(timeout=30)
    assert terminal.getvalue().split(ERASE)[1] == "x" * 19


def test_nothing_is_written_without_a_terminal() -> None:
    stream = io.StringIO()
    with progress_line(lambda: "working", stream):
        pass
    assert stream.getvalue() == ""


def test_whole_lines_are_written_without_a_terminal_at_intervals() -> None:
    stream = io.StringIO()
    described = threading.Semaphore(0)
    numbers = iter(range(1000))

    def describe() -> str:
        described.release()
        return f"{next(numbers)} windows"

    with progress_line(describe, stream, line_seconds=0.001):
        for _ in range(2):
            assert described.acquire(timeout=30)
    assert stream.getvalue().startswith("0 windows\n1 windows\n")
    assert stream.getvalue().endswith(" windows\n")


@pytest.mark.parametrize("name", ["plain", "", "日本語 🙂", 'quotes "'])
def test_printable_names_are_unchanged(name: str) -> None:
    assert printable(name) == name


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "\u202e", "\r", "\ud83d", "\x85"])
def test_control_characters_are_escaped(name: str) -> None:
    assert printable(name).isprintable()
    assert printable(name) != name
