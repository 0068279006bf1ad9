"""A real exporter process, started as users start it, and measurements of it from outside."""

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

_CHECK_SECONDS: Final = 0.02
_TIMEOUT_SECONDS: Final = 300.0


class TimedResponse(NamedTuple):
    """A response, and the seconds from the request to its last byte."""

    status: int
    body: bytes
    seconds: float


class Client:
    """An HTTP client that keeps one connection open, as Prometheus does."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> TimedResponse:
        """GET a path.

        Raises:
            OSError: the exporter does not listen yet, or any more.
        """
        began = time.perf_counter()
        try:
            self._connection.request("GET", path, headers=dict(headers or {}))
            response = self._connection.getresponse()
            body = response.read()
        except BaseException:
            self._connection.close()
            raise
        return TimedResponse(response.status, body, time.perf_counter() - began)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class ExporterProcess:
    """A running exporter.

    Attributes:
        client: an HTTP client of the exporter.
        port: where it listens.
        started: when the process was started, by the monotonic clock.
    """

    def __init__(self, folder: Path, tempo_url: str, database: Path, settings: Mapping[str, Any] | None = None) -> None:
        """Start the process.

        Args:
            folder: directory of its configuration and its log.
            tempo_url: base URL of its Tempo.
            database: path of its database.
            settings: more configuration, by section.
        """
        port = self.port = free_port()
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

    def wait_until(self, ready: Callable[[], bool], pause_seconds: float = _CHECK_SECONDS) -> float:
        """Wait for a condition; returns the seconds from the start of the process until it held.

        Raises:
            RuntimeError: the process ended, or the condition did not hold in time.
        """
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(f"the exporter ended with {self._process.returncode}:\n{self._log_tail()}")
            try:
                if ready():
                    return time.monotonic() - self.started
            except OSError:
                pass  # not listening yet
            if time.monotonic() - self.started > _TIMEOUT_SECONDS:
                raise RuntimeError(f"timeout while waiting for the exporter:\n{self._log_tail()}")
            time.sleep(pause_seconds)

    def is_ready(self) -> bool:
        """Whether a snapshot is published."""
        return self.client.get("/-/ready").status == http.HTTPStatus.OK

    def value(self, sample: str) -> float | None:
        """Return the value of a sample, or None if it is absent.

        Args:
            sample: the name without the prefix, with labels as written on the page.
        """
        page = self.client.get(f"/metrics?name[]=tempo_anomaly_{sample.partition('{')[0]}").body
        found = re.search(rb"^%b (.+)$" % re.escape(f"tempo_anomaly_{sample}".encode()), page, re.MULTILINE)
        return None if found is None else float(found[1])

    @property
    def memory(self) -> Memory:
        """Resident memory of the process."""
        return memory(self._process.pid)

    @property
    def cpu_seconds(self) -> float:
        """Processor time used by the process."""
        return cpu_seconds(self._process.pid)

    def close(self) -> None:
        """Stop the process with SIGTERM, or kill it after ten seconds."""
        self.client.close()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _log_tail(self) -> str:
        return "\n".join(self._log_file.read_text(errors="replace").splitlines()[-10:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
