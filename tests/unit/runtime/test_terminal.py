import io
import os
import threading

import pytest

from exporter.runtime import logs
from exporter.runtime.terminal import bar, fresh_line, printable, progress_line

ERASE = "\r\x1b[2K"


class Terminal(io.StringIO):
    """Shows what is written, and says when a line was drawn so often."""

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
def test_a_bar(ratio: float, shown: str) -> None:
    assert bar(ratio) == shown


def test_the_line_is_kept_up_to_date_and_taken_away() -> None:
    terminal = Terminal()
    numbers = iter(range(1000))
    with progress_line(lambda: f"{next(numbers)} windows", terminal):
        for _ in range(2):
            assert terminal.drawn.acquire(timeout=30)
    written = terminal.getvalue().split(ERASE)
    assert written[:3] == ["", "0 windows", "1 windows"]
    assert written[-1] == ""


def test_it_is_taken_away_when_the_work_fails() -> None:
    terminal = Terminal()
    with pytest.raises(ZeroDivisionError), progress_line(lambda: "working", terminal):
        assert terminal.drawn.acquire(timeout=30)
        raise ZeroDivisionError
    assert terminal.getvalue().endswith(f"working{ERASE}")
    assert all(thread.name != "progress" for thread in threading.enumerate())


def test_what_is_logged_meanwhile_does_not_stand_behind_it() -> None:
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
    meanwhile, over, afterwards, end = (line.split(ERASE)[-1] for line in terminal.getvalue().split("\n"))
    assert "something happened" in meanwhile
    assert "half of it" not in meanwhile
    assert "it is over" in over
    assert terminal.getvalue().endswith(f"\n{afterwards}\n{end}")
    assert end == ""


def test_other_streams_of_the_terminal_make_room_as_well_and_files_do_not() -> None:
    terminal = Terminal()
    with progress_line(lambda: "half of it", terminal):
        assert fresh_line(Terminal()) == ERASE
        assert fresh_line(io.StringIO()) == ""
    assert fresh_line(terminal) == ""


def test_a_line_does_not_go_on_below(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last row of a line can be taken away."""
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((20, 30)))
    terminal = Terminal()
    monkeypatch.setattr(terminal, "fileno", lambda: 1)
    with progress_line(lambda: "x" * 50, terminal):
        assert terminal.drawn.acquire(timeout=30)
    assert terminal.getvalue().split(ERASE)[1] == "x" * 19


def test_where_there_is_no_terminal_nothing_is_written() -> None:
    stream = io.StringIO()
    with progress_line(lambda: "working", stream):
        pass
    assert stream.getvalue() == ""


@pytest.mark.parametrize("name", ["plain", "", "日本語 🙂", 'quotes "'])
def test_what_can_be_printed_is_printed(name: str) -> None:
    assert printable(name) == name


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "\u202e", "\r", "\ud83d", "\x85"])
def test_what_would_command_a_terminal_is_escaped(name: str) -> None:
    assert printable(name).isprintable()
    assert printable(name) != name
