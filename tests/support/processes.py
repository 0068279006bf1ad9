"""The exporter as a child process."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from signal import SIGTERM, Signals
from types import TracebackType
from typing import IO, Any, Final, Self

import requests
import yaml

from tests.support.scrape import Metrics
from tools.processes import environment

Settings = Mapping[str, Any]

_START_SECONDS: Final = 30.0
_END_SECONDS: Final = 60.0
_CHECK_SECONDS: Final = 0.02
_HTTP_SECONDS: Final = 30.0
_TAIL_LINES: Final = 20
_DEFECT_SIGNS: Final = ("unexpectedly", "Traceback", "page_failed", "worker_died")


def settings(tempo_url: str, **changes: Any) -> dict[str, Any]:
    """Return a configuration for tests, with frequent polls and no throttling of requests.

    Args:
        tempo_url: tempo.url.
        changes: sections, merged key by key.
    """
    base: dict[str, Any] = {
        "tempo": {"url": tempo_url, "requests_per_second": 2000},
        "polling": {"tempo_interval": "500ms"},
        "web": {"listen_address": "127.0.0.1:0"},
        "log": {"format": "json"},
    }
    for section, value in changes.items():
        base[section] = {**base.get(section, {}), **value} if isinstance(value, dict) else value
    return base


def write_settings(directory: Path, configuration: Settings) -> Path:
    """Write the configuration file of a directory and return its path."""
    file = directory / "exporter.yaml"
    file.write_text(yaml.safe_dump(dict(configuration)), "utf-8")
    return file


def command(*arguments: str, module: str = "exporter") -> list[str]:
    """Return the exporter's command line."""
    return [sys.executable, "-m", module, *arguments]


def run(*arguments: str, directory: Path, timeout: float = 180, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the exporter until it ends."""
    return subprocess.run(
        command(*arguments),
        cwd=directory,
        env=environment(**environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def _is_no_record(line: str) -> bool:
    return not line.startswith("{")


class Lines:
    """Collects the lines of a stream in a thread."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        for line in self._stream:
            self.lines.append(line.rstrip("\n"))

    def close(self) -> None:
        """Read the rest of the stream after its process has ended."""
        self._thread.join()
        self._stream.close()

    def tail(self) -> str:
        """Return the last lines, for the message of a failed test."""
        return "\n".join(self.lines[-_TAIL_LINES:])


def eventually(condition: Callable[[], bool], what: Callable[[], str], timeout: float) -> None:
    """Wait until a condition holds; on timeout raise AssertionError with ``what()``."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what()}"
        time.sleep(_CHECK_SECONDS)


class ExporterProcess:
    """A running exporter.

    Attributes:
        url: base URL without a trailing slash.
        directory: its working directory, with its configuration and database.
        access: options of ``requests`` for TLS and authentication.
    """

    module = "exporter"
    """The module to run."""

    def __init__(self, directory: Path, configuration: Settings, *arguments: str, **environ: str) -> None:
        """Prepare a process; :meth:`start` starts it.

        Args:
            directory: its working directory.
            configuration: content of its configuration file.
            arguments: options besides ``--config``.
            environ: additional environment variables.
        """
        self._environ = environ
        self.directory = directory
        self.url = ""
        self.access: dict[str, Any] = {}
        self._arguments = ("--config", str(write_settings(directory, configuration)), *arguments)
        self._process: subprocess.Popen[str] | None = None
        self._stderr: Lines | None = None

    def start(self) -> Self:
        """Start the process and wait until it serves."""
        self.launch()
        self._await("the exporter has not started", lambda: any(self.logged("started")), _START_SECONDS)
        (started,) = self.logged("started")
        ((host, port),) = started["listening"]
        self.url = f"{'https' if started['tls'] else 'http'}://{host}:{port}"
        return self

    def launch(self) -> None:
        """Start the process without waiting."""
        self._process = subprocess.Popen(
            command(*self._arguments, module=self.module),
            cwd=self.directory,
            env=environment(**self._environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        assert self._process.stderr is not None
        self._stderr = Lines(self._process.stderr)

    # Output

    @property
    def process(self) -> subprocess.Popen[str]:
        """The process."""
        assert self._process is not None, "not started"
        return self._process

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    @property
    def lines(self) -> Sequence[str]:
        """Lines of its standard error so far."""
        return self._stderr.lines if self._stderr else ()

    def logged(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the logged records, or those of one event."""
        records = [json.loads(line) for line in list(self.lines) if line.startswith("{")]
        return [record for record in records if event in (None, record.get("event"))]

    def defects(self) -> list[str]:
        """Return what is logged only because of a bug of the exporter, each with its traceback."""
        lines = list(self.lines)
        starts = [number for number, line in enumerate(lines) if any(sign in line for sign in _DEFECT_SIGNS)]
        return ["\n".join([lines[start], *takewhile(_is_no_record, lines[start + 1 :])]) for start in starts]

    # Requests

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET a path."""
        return requests.get(self.url + path, timeout=_HTTP_SECONDS, **self.access | options)

    def metrics(self) -> Metrics:
        """Scrape the metrics page."""
        response = self.get("/metrics")
        assert response.status_code == 200, response.text
        response.encoding = "utf-8"
        return Metrics.parse(response.text)

    def wait_for(self, condition: Callable[[Metrics], object], timeout: float = 120) -> Metrics:
        """Scrape until a page meets a condition and return that page; a KeyError in the condition counts as false."""
        page: Metrics | None = None

        def is_met() -> bool:
            nonlocal page
            page = self.metrics()
            try:
                return bool(condition(page))
            except KeyError:
                return False

        self._await("no page meets the condition", is_met, timeout)
        assert page is not None
        return page

    def wait_until_filled(self, timeout: float = 120) -> Metrics:
        """Wait until the backfill is complete and the series on the page were evaluated with all stored windows.

        After a restart the page counts the stored windows at once, and has series only once their baselines are built.
        """

        def is_filled(page: Metrics) -> bool:
            windows = page.by("backfill_windows", "state")
            stored = sum(windows.values()) - windows["expired"]
            # Absent until the baselines are built.
            has_baselines = page.get("series_learning") is not None
            return has_baselines and page["backfill_complete"] == 1 and (page.get("history_windows") or 0) >= stored

        return self.wait_for(is_filled, timeout)

    def _await(self, what: str, condition: Callable[[], bool], timeout: float) -> None:
        def checked() -> bool:
            assert self.running, f"the exporter ended with {self.process.returncode}:\n{self._tail()}"
            return condition()

        eventually(checked, lambda: f"{what}\n{self._tail()}", timeout)

    def _tail(self) -> str:
        return self._stderr.tail() if self._stderr else ""

    # Stop

    def wait(self, timeout: float = _END_SECONDS) -> int:
        """Wait for the end of the process and return its exit status."""
        status = self.process.wait(timeout)
        if self._stderr is not None:
            self._stderr.close()
        return status

    def stop(self, number: Signals = SIGTERM, timeout: float = _END_SECONDS) -> int:
        """Send a signal, wait for the end and return the exit status."""
        self.process.send_signal(number)
        return self.wait(timeout)

    def kill(self) -> None:
        """Kill the process, unless it has ended."""
        if self._process is not None and self.running:
            self.process.kill()
        if self._process is not None:
            self.wait()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.kill()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        if error is None:
            assert not (defects := self.defects()), "\n".join(defects)
