"""A real exporter, started as its users start it, and what can be seen of it from outside."""

import http.client
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import yaml

from benchmarks.machine import Memory, cpu_seconds, memory
from tools.processes import environment, free_port

_LOOK_SECONDS: Final = 0.02
_TIMEOUT_SECONDS: Final = 300.0


class Scraped(NamedTuple):
    """An answer, and how long it took from the request to its last byte."""

    status: int
    body: bytes
    seconds: float


class Client:
    """Asks one exporter over one connection, as Prometheus does."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Scraped:
        """Ask for a path.

        Raises:
            OSError: nobody listens.
        """
        began = time.perf_counter()
        try:
            self._connection.request("GET", path, headers=dict(headers or {}))
            response = self._connection.getresponse()
            body = response.read()
        except BaseException:
            self._connection.close()
            raise
        return Scraped(response.status, body, time.perf_counter() - began)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


class RunningExporter:
    """An exporter's process.

    Attributes:
        client: asks it.
        started: when it was started, by the monotonic clock.
    """

    def __init__(self, folder: Path, tempo_url: str, database: Path, settings: Mapping[str, Any] | None = None) -> None:
        """Start it.

        Args:
            folder: for its configuration and its log.
            tempo_url: what it reads.
            database: its history.
            settings: further sections of the configuration.
        """
        port = free_port()
        config = {
            "tempo": {"url": tempo_url},
            "storage": {"path": str(database)},
            "web": {"listen_address": f"127.0.0.1:{port}"},
        }
        for section, values in (settings or {}).items():
            config.setdefault(section, {}).update(values)
        file = folder / f"exporter-{port}.yaml"
        file.write_text(yaml.safe_dump(config))
        self._log_file = folder / f"exporter-{port}.log"
        self.client = Client(port)
        with self._log_file.open("wb") as log:
            self.started = time.monotonic()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "exporter", "--config", str(file)], env=environment(), stdout=log, stderr=log
            )

    def wait_until(self, ready: Callable[[], bool], pause_seconds: float = _LOOK_SECONDS) -> float:
        """Wait for something; returns how long after its start it came about.

        Raises:
            RuntimeError: it ended, or it took too long.
        """
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(f"the exporter ended with {self._process.returncode}:\n{self._last_words()}")
            try:
                if ready():
                    return time.monotonic() - self.started
            except OSError:
                pass  # it does not listen yet
            if time.monotonic() - self.started > _TIMEOUT_SECONDS:
                raise RuntimeError(f"the exporter has not come so far in time:\n{self._last_words()}")
            time.sleep(pause_seconds)

    def is_ready(self) -> bool:
        """Whether there is a snapshot to scrape."""
        return self.client.get("/-/ready").status == http.HTTPStatus.OK

    def value(self, sample: str) -> float | None:
        """One of its own samples by its name without the prefix, and its labels as they are written on the page.

        Nothing while there is no such sample.
        """
        page = self.client.get(f"/metrics?name[]=tempo_anomaly_{sample.partition('{')[0]}").body
        found = re.search(rb"^%b (.+)$" % re.escape(f"tempo_anomaly_{sample}".encode()), page, re.MULTILINE)
        return None if found is None else float(found[1])

    @property
    def memory(self) -> Memory:
        """Its resident memory."""
        return memory(self._process.pid)

    @property
    def cpu_seconds(self) -> float:
        """The processor time it has used."""
        return cpu_seconds(self._process.pid)

    def close(self) -> None:
        """End it."""
        self.client.close()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _last_words(self) -> str:
        return "\n".join(self._log_file.read_text(errors="replace").splitlines()[-10:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
