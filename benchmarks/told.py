"""A process that does what it is told: what is asked of it goes through a pipe, and it ends when that is closed."""

import multiprocessing
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

Call = Callable[..., Any]


class Told:
    """Such a process, seen from the one that measures."""

    def __init__(self, target: Callable[..., None], *arguments: object, daemon: bool = False) -> None:
        """Start it.

        Args:
            target: what it does; is given the arguments and the other end of the pipe, and calls :func:`obey`.
            arguments: for it.
            daemon: it ends with this process, however that ends; such a process cannot have processes of its own.
        """
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(*arguments, theirs), daemon=daemon)
        self._process.start()
        theirs.close()

    def ask(self, what: str, *arguments: object) -> Any:
        """Let it do something, and return what came of it."""
        self.connection.send((what, arguments))
        return self.connection.recv()

    def close(self) -> None:
        """End it."""
        self.connection.close()
        self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def obey(connection: Connection, calls: Mapping[str, Call]) -> None:
    """Do what is asked until the other end of the pipe is closed."""
    try:
        while True:
            what, arguments = connection.recv()
            connection.send(calls[what](*arguments))
    except EOFError:
        pass
