"""Prometheus and Alertmanager as processes of their own, and a receiver of Alertmanager's notifications.

All of them listen on loopback and on a free port, and end with the ``with`` that started them.
"""

import json
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from signal import SIGTERM
from types import TracebackType
from typing import Any, ClassVar, Final, Self

import requests
import yaml

from tests.support.processes import Lines, eventually
from tests.support.tools import tool
from tools.processes import environment, free_port

_START_SECONDS: Final = 60.0
_END_SECONDS: Final = 30.0
_HTTP_SECONDS: Final = 10.0
_ATTEMPTS: Final = 3


class Program:
    """A server that a test runs as a process.

    Attributes:
        name: the program.
        directory: where it keeps its configuration and its data; its working directory, too.
        url: where it serves, without a slash at the end.
    """

    name: ClassVar[str]

    def __init__(self, directory: Path) -> None:
        """Prepare it; :meth:`start` starts it."""
        self.directory = directory
        self.url = ""
        self._process: subprocess.Popen[str] | None = None
        self._said: Lines | None = None

    def arguments(self, port: int) -> Sequence[str]:
        """Its command line, to listen on a port of loopback."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """Host and port."""
        return self.url.removeprefix("http://")

    def start(self) -> Self:
        """Start it and wait until it is ready."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, _ATTEMPTS + 1):
            self._launch(free_port())
            try:
                eventually(self._ready, lambda: f"{self.name} is not ready\n{self.tail()}", _START_SECONDS)
            except ChildProcessError:
                # The port was free when it was chosen, and somebody else may have taken it since.
                if attempt == _ATTEMPTS or "address already in use" not in self.tail():
                    raise
            else:
                break
        return self

    def _launch(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [tool(self.name), *self.arguments(port)],
            cwd=self.directory,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        assert self._process.stderr is not None
        self._said = Lines(self._process.stderr)

    def _ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            self._close()
            raise ChildProcessError(f"{self.name} ended with {self._process.returncode}:\n{self.tail()}")
        try:
            return requests.get(f"{self.url}/-/ready", timeout=_HTTP_SECONDS).status_code == 200
        except requests.ConnectionError:
            return False

    def tail(self) -> str:
        """The last that it has logged."""
        return self._said.tail() if self._said else ""

    @property
    def lines(self) -> Sequence[str]:
        """What it has logged."""
        return self._said.lines if self._said else ()

    def get(self, path: str, **parameters: Any) -> Any:
        """What the JSON API says at a path."""
        response = requests.get(self.url + path, params=parameters, timeout=_HTTP_SECONDS)
        assert response.ok, f"{response.status_code}: {response.text}"
        return response.json()

    def stop(self) -> None:
        """End it; one that has ended already stays as it is."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(SIGTERM)
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._close()

    def _close(self) -> None:
        assert self._process is not None
        self._process.wait()
        if self._said is not None:
            self._said.close()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


@dataclass(frozen=True)
class Sample:
    """One result of an instant query.

    Attributes:
        labels: its labels, the name among them as ``__name__``.
        value: its value.
    """

    labels: Mapping[str, str]
    value: float


def scraping(*addresses: str, interval: str = "1s", job: str = "tempo-anomaly-exporter") -> dict[str, Any]:
    """A configuration for Prometheus that scrapes some exporters, given by host and port, and no more."""
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "scrape_configs": [{"job_name": job, "static_configs": [{"targets": list(addresses)}]}],
    }


class PrometheusServer(Program):
    """A Prometheus."""

    name = "prometheus"

    def __init__(
        self, directory: Path, configuration: Mapping[str, Any] | None = None, *, retention: str = "90d"
    ) -> None:
        """Prepare it.

        Args:
            directory: its home. Blocks that lie in :attr:`data` before it starts are served.
            configuration: the content of its configuration file; nothing is scraped without one. Paths of rule files
                are relative to the directory.
            retention: older data is deleted, blocks that were there before included.
        """
        super().__init__(directory)
        self._configuration = configuration or {}
        self._retention = retention

    @property
    def data(self) -> Path:
        """Where its time series are."""
        return self.directory / "data"

    def arguments(self, port: int) -> Sequence[str]:
        """With exemplars."""
        file = self.directory / "prometheus.yml"
        file.write_text(yaml.safe_dump(dict(self._configuration)), "utf-8")
        return (
            f"--config.file={file}",
            f"--storage.tsdb.path={self.data}",
            f"--storage.tsdb.retention.time={self._retention}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
            # An alert that fires before an Alertmanager is found is lost, until it is sent again.
            "--rules.alert.resend-delay=5s",
        )

    def _ready(self) -> bool:
        # It finds even those Alertmanagers that its configuration names only seconds later, and forgets until then.
        return super()._ready() and ("alerting" not in self._configuration or bool(self.alertmanagers()))

    def alertmanagers(self) -> list[str]:
        """Where it sends alerts to."""
        return [each["url"] for each in self.get("/api/v1/alertmanagers")["data"]["activeAlertmanagers"]]

    def query(self, expression: str, at: float | None = None) -> list[Sample]:
        """The instant vector (or scalar) that an expression has, now or at a time; an error fails the test."""
        parameters = {} if at is None else {"time": at}
        data = self.get("/api/v1/query", query=expression, **parameters)["data"]
        if data["resultType"] == "scalar":
            return [Sample({}, float(data["result"][1]))]
        assert data["resultType"] == "vector", data["resultType"]
        return [Sample(each["metric"], float(each["value"][1])) for each in data["result"]]

    def query_range(
        self, expression: str, start: float, end: float, step: float
    ) -> list[tuple[Mapping[str, str], list[tuple[float, float]]]]:
        """The series of an expression over time: labels, and pairs of time and value."""
        data = self.get("/api/v1/query_range", query=expression, start=start, end=end, step=step)["data"]
        return [
            (each["metric"], [(float(time), float(value)) for time, value in each["values"]]) for each in data["result"]
        ]

    def exemplars(self, expression: str, start: float, end: float) -> list[Mapping[str, Any]]:
        """The exemplars of the series that an expression names."""
        found: list[Mapping[str, Any]] = self.get("/api/v1/query_exemplars", query=expression, start=start, end=end)[
            "data"
        ]
        return found

    def alerts(self) -> list[Mapping[str, Any]]:
        """The alerts that are pending or firing."""
        found: list[Mapping[str, Any]] = self.get("/api/v1/alerts")["data"]["alerts"]
        return found

    def firing(self) -> set[str]:
        """The names of the alerts that are firing."""
        return {alert["labels"]["alertname"] for alert in self.alerts() if alert["state"] == "firing"}

    def rules(self) -> Iterator[Mapping[str, Any]]:
        """The rules, each with its health and its last error."""
        for group in self.get("/api/v1/rules")["data"]["groups"]:
            yield from group["rules"]

    def wait_for(self, expression: str, timeout: float = 30) -> list[Sample]:
        """Query until something comes of it."""
        found: list[Sample] = []

        def met() -> bool:
            found[:] = self.query(expression)
            return bool(found)

        eventually(met, lambda: f"nothing comes of {expression}\n{self.tail()}", timeout)
        return found


class AlertmanagerServer(Program):
    """An Alertmanager, alone."""

    name = "prometheus-alertmanager"

    def __init__(self, directory: Path, configuration: Mapping[str, Any]) -> None:
        """Prepare it.

        Args:
            directory: its home.
            configuration: the content of its configuration file.
        """
        super().__init__(directory)
        self._configuration = configuration

    def arguments(self, port: int) -> Sequence[str]:
        """Without a cluster, which would listen on another port."""
        file = self.directory / "alertmanager.yml"
        file.write_text(yaml.safe_dump(dict(self._configuration)), "utf-8")
        return (
            f"--config.file={file}",
            f"--storage.path={self.directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        )

    def alerts(self, **parameters: Any) -> list[Mapping[str, Any]]:
        """The alerts that it knows, with their state and what inhibits them."""
        found: list[Mapping[str, Any]] = self.get("/api/v2/alerts", **parameters)
        return found


@dataclass(frozen=True)
class Notification:
    """What Alertmanager has sent to a webhook.

    Attributes:
        path: where it was sent to.
        body: the JSON that was sent.
    """

    path: str
    body: Mapping[str, Any]

    @property
    def status(self) -> str:
        """``firing`` while any of its alerts is, else ``resolved``."""
        return str(self.body["status"])

    @property
    def alerts(self) -> Sequence[Mapping[str, Any]]:
        """The alerts of the group."""
        found: Sequence[Mapping[str, Any]] = self.body["alerts"]
        return found

    def names(self) -> list[str]:
        """The names of its alerts, in order."""
        return sorted(alert["labels"]["alertname"] for alert in self.alerts)


class WebhookReceiver:
    """Takes notifications on loopback.

    Attributes:
        url: where it listens, without a slash at the end.
        received: everything that came, in order.
    """

    def __init__(self) -> None:
        self.received: list[Notification] = []
        self._new: queue.Queue[Notification] = queue.Queue()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver._take(Notification(self.path, body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def _take(self, notification: Notification) -> None:
        self.received.append(notification)
        self._new.put(notification)

    def next(self, timeout: float, what: Callable[[], str] = lambda: "") -> Notification:
        """The next notification; an AssertionError says that none came in time."""
        try:
            return self._new.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"no notification within {timeout:g} s\n{what()}") from None

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
