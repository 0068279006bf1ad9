"""The exporter with a world around it that can be made to fail while it runs: its disk, its resolver, its clock.

Run as ``python -m tests.support.faulty``, with the exporter's own arguments. What fails stands in :data:`FILE` in the
working directory and may change at any time. Everything above these three is the real thing.
"""

import contextlib
import json
import socket
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any, Final

from tests.support.paths import REPOSITORY
from tests.support.processes import ExporterProcess, Settings, eventually

FILE: Final = "faults.json"
_TAKEN: Final = "faults.taken"
_LOOK_SECONDS: Final = 0.02
_MENDED: Final = ("PRAGMA query_only = OFF", "PRAGMA max_page_count = 4294967294")


class FaultyExporter(ExporterProcess):
    """A running exporter whose world the test can break."""

    module = "tests.support.faulty"

    def __init__(self, directory: Path, configuration: Settings, *arguments: str) -> None:
        super().__init__(directory, configuration, *arguments, PYTHONPATH=str(REPOSITORY))

    def breaks(self, *, sql: str = "", clock: float = 0.0, resolver: bool = False) -> None:
        """Break what is named and mend the rest; returns once that is so.

        Args:
            sql: executed on the database's connection: a pragma by which SQLite itself refuses writes.
            clock: how many seconds the clock is ahead.
            resolver: whether the name localhost is unknown.
        """
        text = json.dumps({"sql": sql, "clock": clock, "resolver": resolver})
        fresh = self.directory / f"{FILE}.new"
        fresh.write_text(text)
        fresh.replace(self.directory / FILE)
        taken = self.directory / _TAKEN
        eventually(lambda: taken.exists() and taken.read_text() == text, lambda: "the faults are not taken over", 30)


class World:
    """What the exporter believes to be the system."""

    def __init__(self) -> None:
        self.connections: list[sqlite3.Connection] = []
        self.ahead = 0.0
        self.resolver_is_down = False
        self._time, self._connect, self._getaddrinfo = time.time, sqlite3.connect, socket.getaddrinfo

    def install(self) -> None:
        """Take the place of the system."""
        time.time = lambda: self._time() + self.ahead
        sqlite3.connect = self.connect  # type: ignore[assignment]
        socket.getaddrinfo = self.getaddrinfo
        threading.Thread(target=self.follow, daemon=True).start()

    def connect(self, *args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = self._connect(*args, **options)
        self.connections.append(connection)
        return connection

    def getaddrinfo(self, host: Any, *args: Any, **options: Any) -> Any:
        if self.resolver_is_down and host == "localhost":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self._getaddrinfo(host, *args, **options)

    def follow(self) -> None:
        """Do as the file says."""
        seen = ""
        while True:
            time.sleep(_LOOK_SECONDS)
            with contextlib.suppress(OSError):
                text = Path(FILE).read_text()
                if text != seen:
                    self.apply(**json.loads(text))
                    Path(_TAKEN).write_text(seen := text)

    def apply(self, sql: str, clock: float, resolver: bool) -> None:
        self.ahead, self.resolver_is_down = clock, resolver
        for connection in self.connections:
            with contextlib.suppress(sqlite3.ProgrammingError):  # closed
                for statement in (*_MENDED, sql):
                    connection.execute(statement).fetchall()


if __name__ == "__main__":
    World().install()
    from exporter.cli.main import main

    main()
