"""An exporter process whose SQLite connection, resolver and clock a test can break while it runs.

Run as ``python -m tests.support.faulty_exporter`` with the exporter's arguments. The faults are in :data:`FILE` in the
working directory, which may change at any time.
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
_APPLIED: Final = "faults.applied"
_CHECK_SECONDS: Final = 0.02
_REPAIRED: Final = ("PRAGMA query_only = OFF", "PRAGMA max_page_count = 4294967294")


class FaultyExporter(ExporterProcess):
    """A running exporter with injected faults."""

    module = "tests.support.faulty_exporter"

    def __init__(self, directory: Path, configuration: Settings, *arguments: str) -> None:
        super().__init__(directory, configuration, *arguments, PYTHONPATH=str(REPOSITORY))

    def inject(self, *, sql: str = "", clock: float = 0.0, resolver: bool = False) -> None:
        """Inject these faults, remove all others, and wait until the exporter has applied them.

        Args:
            sql: a pragma executed on the database connection, which makes SQLite refuse writes.
            clock: seconds by which the clock is ahead.
            resolver: make the name localhost unknown.
        """
        text = json.dumps({"sql": sql, "clock": clock, "resolver": resolver})
        new = self.directory / f"{FILE}.new"
        new.write_text(text)
        new.replace(self.directory / FILE)
        applied = self.directory / _APPLIED
        eventually(lambda: applied.exists() and applied.read_text() == text, lambda: "the faults are not applied", 30)


class FaultInjector:
    """Replaces functions of the standard library that the exporter uses."""

    def __init__(self) -> None:
        self.connections: list[sqlite3.Connection] = []
        self.clock_offset = 0.0
        self.is_resolver_down = False
        self._time, self._connect, self._getaddrinfo = time.time, sqlite3.connect, socket.getaddrinfo

    def install(self) -> None:
        """Replace the functions."""
        time.time = lambda: self._time() + self.clock_offset
        sqlite3.connect = self.connect  # type: ignore[assignment]
        socket.getaddrinfo = self.getaddrinfo
        threading.Thread(target=self.follow, daemon=True).start()

    def connect(self, *args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = self._connect(*args, **options)
        self.connections.append(connection)
        return connection

    def getaddrinfo(self, host: Any, *args: Any, **options: Any) -> Any:
        if self.is_resolver_down and host == "localhost":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self._getaddrinfo(host, *args, **options)

    def follow(self) -> None:
        """Apply the faults whenever the file changes."""
        last = ""
        while True:
            time.sleep(_CHECK_SECONDS)
            with contextlib.suppress(OSError):
                text = Path(FILE).read_text()
                if text != last:
                    self.apply(**json.loads(text))
                    Path(_APPLIED).write_text(last := text)

    def apply(self, sql: str, clock: float, resolver: bool) -> None:
        self.clock_offset, self.is_resolver_down = clock, resolver
        for connection in self.connections:
            with contextlib.suppress(sqlite3.ProgrammingError):  # closed
                for statement in (*_REPAIRED, sql):
                    connection.execute(statement).fetchall()


if __name__ == "__main__":
    FaultInjector().install()
    from exporter.cli.main import main

    main()
