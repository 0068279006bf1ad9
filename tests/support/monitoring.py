"""Prometheus and Alertmanager processes, and a receiver of Alertmanager's notifications.

All are context managers and listen on a free port of loopback.
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
from tests.support.programs import program
from tools.processes import environment, free_port

_START_SECONDS: Final = 60.0
_END_SECONDS: Final = 60.0
_HTTP_SECONDS: Final = 30.0
_ATTEMPTS: Final = 3


class MonitoringServer:
    """A server process.

    Attributes:
        name: its program.
        directory: its working directory, with its configuration and data.
        url: base URL without a trailing slash.
    """

    name: ClassVar[str]

    def __init__(self, directory: Path) -> None:
        """Prepare the server; :meth:`start` starts it."""
        self.directory = directory
        self.url = ""
        self._process: subprocess.Popen[str] | None = None
        self._stderr: Lines | None = None

    def arguments(self, port: int) -> Sequence[str]:
        """Return its command line arguments to listen on a port."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """Host and port."""
        return self.url.removeprefix("http://")

    def start(self) -> Self:
        """Start the server and wait until it is ready."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, _ATTEMPTS + 1):
            self._launch(free_port())
            try:
                eventually(self._ready, lambda: f"{self.name} is not ready\n{self.tail()}", _START_SECONDS)
            except ChildProcessError:
                # Another process may have taken the port since it was chosen.
                if attempt == _ATTEMPTS or "address already in use" not in self.tail():
                    raise
            else:
                break
        return self

    def _launch(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [program(self.name), *self.arguments(port)],
            cwd=self.directory,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        assert self._process.stderr is not None
        self._stderr = Lines(self._process.stderr)

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
        """Return its last log lines."""
        return self._stderr.tail() if self._stderr else ""

    @property
    def lines(self) -> Sequence[str]:
        """Its log so far."""
        return self._stderr.lines if self._stderr else ()

    def get(self, path: str, **parameters: Any) -> Any:
        """GET a path of the JSON API."""
        response = requests.get(self.url + path, params=parameters, timeout=_HTTP_SECONDS)
        assert response.ok, f"{response.status_code}: {response.text}"
        return response.json()

    def stop(self) -> None:
        """Stop the server, unless it has ended."""
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
        if self._stderr is not None:
            self._stderr.close()

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
    """One result of an instant query; ``labels`` include ``__name__``."""

    labels: Mapping[str, str]
    value: float


def scraping(*addresses: str, interval: str = "1s", job: str = "tempo-anomaly-exporter") -> dict[str, Any]:
    """Return a Prometheus configuration that only scrapes exporters, given by host and port."""
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "scrape_configs": [{"job_name": job, "static_configs": [{"targets": list(addresses)}]}],
    }


class PrometheusServer(MonitoringServer):
    """A Prometheus server."""

    name = "prometheus"

    def __init__(
        self,
        directory: Path,
        configuration: Mapping[str, Any] | None = None,
        *,
        retention: str = "90d",
        features: Sequence[str] = (),
    ) -> None:
        """Prepare the server.

        Args:
            directory: its working directory. Blocks in :attr:`data` are served.
            configuration: content of its configuration file; paths of rule files are relative to the directory.
            retention: older data is deleted, existing blocks included.
            features: features to enable besides exemplars.
        """
        super().__init__(directory)
        self._configuration = configuration or {}
        self._retention = retention
        self._features = features

    @property
    def data(self) -> Path:
        """Directory of its time series."""
        return self.directory / "data"

    def arguments(self, port: int) -> Sequence[str]:
        """Return arguments that enable exemplars and the wanted features."""
        file = self.directory / "prometheus.yml"
        file.write_text(yaml.safe_dump(dict(self._configuration)), "utf-8")
        return (
            f"--config.file={file}",
            f"--storage.tsdb.path={self.data}",
            f"--storage.tsdb.retention.time={self._retention}",
            f"--web.listen-address=127.0.0.1:{port}",
            f"--enable-feature={','.join(('exemplar-storage', *self._features))}",
            # An alert that fires before Alertmanager is discovered is lost until it is resent.
            "--rules.alert.resend-delay=5s",
        )

    def _ready(self) -> bool:
        # Even static Alertmanagers are discovered seconds after the start, and alerts before that are lost.
        return super()._ready() and ("alerting" not in self._configuration or bool(self.alertmanagers()))

    def alertmanagers(self) -> list[str]:
        """Return the URLs of discovered Alertmanagers."""
        return [each["url"] for each in self.get("/api/v1/alertmanagers")["data"]["activeAlertmanagers"]]

    def query(self, expression: str, at: float | None = None) -> list[Sample]:
        """Evaluate an expression, now or at a time, to an instant vector or scalar; an error fails the test."""
        parameters = {} if at is None else {"time": at}
        data = self.get("/api/v1/query", query=expression, **parameters)["data"]
        if data["resultType"] == "scalar":
            return [Sample({}, float(data["result"][1]))]
        assert data["resultType"] == "vector", data["resultType"]
        return [Sample(each["metric"], float(each["value"][1])) for each in data["result"]]

    def query_range(
        self, expression: str, start: float, end: float, step: float
    ) -> list[tuple[Mapping[str, str], list[tuple[float, float]]]]:
        """Evaluate an expression over a range; returns labels, and pairs of time and value."""
        data = self.get("/api/v1/query_range", query=expression, start=start, end=end, step=step)["data"]
        return [
            (each["metric"], [(float(time), float(value)) for time, value in each["values"]]) for each in data["result"]
        ]

    def exemplars(self, expression: str, start: float, end: float) -> list[Mapping[str, Any]]:
        """Return the exemplars of the series of an expression."""
        response = self.get("/api/v1/query_exemplars", query=expression, start=start, end=end)
        exemplars: list[Mapping[str, Any]] = response["data"]
        return exemplars

    def alerts(self) -> list[Mapping[str, Any]]:
        """Return the pending and firing alerts."""
        alerts: list[Mapping[str, Any]] = self.get("/api/v1/alerts")["data"]["alerts"]
        return alerts

    def firing(self) -> set[str]:
        """Return the names of the firing alerts."""
        return {alert["labels"]["alertname"] for alert in self.alerts() if alert["state"] == "firing"}

    def rules(self) -> Iterator[Mapping[str, Any]]:
        """Generate the rules with their health and last error."""
        for group in self.get("/api/v1/rules")["data"]["groups"]:
            yield from group["rules"]

    def wait_for(self, expression: str, timeout: float = 120) -> list[Sample]:
        """Query until the result is not empty."""
        result: list[Sample] = []

        def has_result() -> bool:
            result[:] = self.query(expression)
            return bool(result)

        eventually(has_result, lambda: f"empty result: {expression}\n{self.tail()}", timeout)
        return result


class AlertmanagerServer(MonitoringServer):
    """An Alertmanager without a cluster."""

    name = "prometheus-alertmanager"

    def __init__(self, directory: Path, configuration: Mapping[str, Any]) -> None:
        """Prepare the server; the configuration is the content of its configuration file."""
        super().__init__(directory)
        self._configuration = configuration

    def arguments(self, port: int) -> Sequence[str]:
        """Return arguments without a cluster, which would need another port."""
        file = self.directory / "alertmanager.yml"
        file.write_text(yaml.safe_dump(dict(self._configuration)), "utf-8")
        return (
            f"--config.file={file}",
            f"--storage.path={self.directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        )

    def alerts(self, **parameters: Any) -> list[Mapping[str, Any]]:
        """Return its alerts with their state and the alerts that inhibit them."""
        alerts: list[Mapping[str, Any]] = self.get("/api/v2/alerts", **parameters)
        return alerts


@dataclass(frozen=True)
class Notification:
    """A notification to a webhook: the path of the URL, and the JSON body."""

    path: str
    body: Mapping[str, Any]

    @property
    def status(self) -> str:
        """``firing`` while any of its alerts fires, else ``resolved``."""
        return str(self.body["status"])

    @property
    def alerts(self) -> Sequence[Mapping[str, Any]]:
        """The alerts of the group."""
        alerts: Sequence[Mapping[str, Any]] = self.body["alerts"]
        return alerts

    def names(self) -> list[str]:
        """Return the sorted names of its alerts."""
        return sorted(alert["labels"]["alertname"] for alert in self.alerts)

    def services(self) -> set[str]:
        """Return the services that its alerts are about."""
        return {alert["labels"]["service_name"] for alert in self.alerts if "service_name" in alert["labels"]}


class WebhookReceiver:
    """Receives notifications on loopback.

    Attributes:
        url: base URL without a trailing slash.
        received: all notifications in order.
    """

    def __init__(self) -> None:
        self.received: list[Notification] = []
        self._new: queue.Queue[Notification] = queue.Queue()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver._receive(Notification(self.path, body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Do not log requests."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def _receive(self, notification: Notification) -> None:
        self.received.append(notification)
        self._new.put(notification)

    def next(self, timeout: float, what: Callable[[], str] = lambda: "") -> Notification:
        """Wait for the next notification; AssertionError on timeout."""
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
