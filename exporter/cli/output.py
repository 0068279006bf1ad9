"""Standard output: a failure to write to it ends any command with one line on standard error and status 1."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import click


class OutputError(click.ClickException):
    """Standard output cannot be written to: it is full, or its encoding lacks a character."""

    def __init__(self, error: OSError | UnicodeEncodeError, encoding: str) -> None:
        if isinstance(error, UnicodeEncodeError):
            character = ascii(error.object[error.start])
            reason = f"its encoding, {encoding}, has no {character}; set PYTHONIOENCODING=utf-8"
        else:
            reason = error.strerror or str(error)
        super().__init__(f"cannot write to standard output: {reason}")


class _CheckedStream:
    """A stream whose errors are those of the user's standard output; a closed pipe stays a BrokenPipeError.

    After an error of the system every further call fails, too: click swallows errors when it probes a stream.
    """

    def __init__(self, stream: Any, failures: "list[OutputError] | None" = None) -> None:
        self._stream = stream
        self._failures = [] if failures is None else failures

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def buffer(self) -> "_CheckedStream":
        """The binary stream below."""
        return _CheckedStream(self._stream.buffer, self._failures)

    def write(self, content: Any) -> int:
        """Write text or bytes."""
        with self._checked():
            return int(self._stream.write(content))

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        with self._checked():
            self._stream.writelines(lines)

    def flush(self) -> None:
        """Write what is buffered."""
        with self._checked():
            self._stream.flush()

    @contextmanager
    def _checked(self) -> Iterator[None]:
        if self._failures:
            raise self._failures[0]
        try:
            yield
        except BrokenPipeError:
            raise
        except (OSError, UnicodeEncodeError) as error:
            failure = OutputError(error, getattr(self._stream, "encoding", ""))
            if isinstance(error, OSError):
                self._failures.append(failure)
                self._discard()
            raise failure from error

    def _discard(self) -> None:
        """Send what is buffered nowhere: otherwise the interpreter fails again when it flushes it at the end."""
        with suppress(OSError, ValueError):
            descriptor = self._stream.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


@contextmanager
def checked_output() -> Iterator[None]:
    """Let failures to write to standard output raise :class:`OutputError` in the body."""
    stream = sys.stdout
    # None where standard output is closed.
    if stream is None:
        yield
        return
    checked = cast("Any", _CheckedStream(stream))
    sys.stdout = checked
    try:
        yield
    finally:
        # Click replaces it after a BrokenPipeError.
        if sys.stdout is checked:
            sys.stdout = stream
