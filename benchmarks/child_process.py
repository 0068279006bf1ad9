"""A child process that serves calls over a pipe and ends when the pipe is closed."""

import multiprocessing
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

Call = Callable[..., Any]


class ChildProcess:
    """The parent's side of the child process."""

    def __init__(self, target: Callable[..., None], *arguments: object, daemon: bool = False) -> None:
        """Start the process.

        Args:
            target: runs in the child with the arguments and its end of the pipe; ends with :func:`serve_calls`.
            arguments: positional arguments of the target.
            daemon: end the child with this process, however that ends; a daemon cannot have child processes.
        """
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(*arguments, theirs), daemon=daemon)
        self._process.start()
        theirs.close()

    def call(self, name: str, *arguments: object) -> Any:
        """Call a function of the child by name and return its result."""
        self.connection.send((name, arguments))
        return self.connection.recv()

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def serve_calls(connection: Connection, calls: Mapping[str, Call]) -> None:
    """Serve calls by name until the other end of the pipe is closed."""
    try:
        while True:
            name, arguments = connection.recv()
            connection.send(calls[name](*arguments))
    except EOFError:
        pass
