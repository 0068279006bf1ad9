"""HTTP client for a running exporter: probes, metrics and API."""

import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import requests
from prometheus_client.parser import text_string_to_metric_families
from requests.auth import HTTPBasicAuth

from exporter.tempo.failures import connection_problem, is_untrusted

_TIMEOUT_SECONDS: Final = 30
_ATTEMPTS: Final = 5
_PAUSE_SECONDS: Final = 0.5

Parameters = Mapping[str, str | int]
Labels = frozenset[tuple[str, str]]


class UnreachableError(Exception):
    """No exporter responds at the URL; the message says what happened and what to do."""


class RefusedError(UnreachableError):
    """The exporter responded with an error.

    Attributes:
        problem: the problem details (RFC 9457) of the response; empty if it has none.
    """

    def __init__(self, message: str, problem: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.problem = problem


class Probe(NamedTuple):
    """Response of a probe: status, text, and the exporter's time in Unix seconds."""

    status: int
    text: str
    server_time: float


class Metrics:
    """Samples of metrics, by name without ``tempo_anomaly_`` and labels."""

    def __init__(self, text: str) -> None:
        """Parse a page in the text format.

        Raises:
            ValueError: it is not in that format.
        """
        self._samples: dict[tuple[str, Labels], float] = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def get(self, name: str, **labels: str) -> float | None:
        """Return the value of a sample, or None if there is no such sample."""
        return self._samples.get((f"tempo_anomaly_{name}", frozenset(labels.items())))

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """Return the values of a metric by one label, summed over the others."""
        sums: dict[str, float] = {}
        for (sample_name, labels), value in self._samples.items():
            label_value = dict(labels).get(label)
            if sample_name == f"tempo_anomaly_{name}" and label_value is not None:
                sums[label_value] = sums.get(label_value, 0.0) + value
        return sums

    def count(self, name: str, **labels: str) -> int:
        """Return the number of samples of a metric that have some labels."""
        wanted = labels.items()
        return sum(
            sample_name == f"tempo_anomaly_{name}" and wanted <= dict(sample_labels).items()
            for sample_name, sample_labels in self._samples
        )

    def total(self, name: str) -> float:
        """Return the sum of a metric over all labels; 0 if there is no such metric."""
        return sum(value for (sample_name, _), value in self._samples.items() if sample_name == f"tempo_anomaly_{name}")


class ExporterClient:
    """Client for one exporter."""

    def __init__(
        self,
        url: str,
        *,
        ca_file: str | None = None,
        user: str | None = None,
        password: str = "",
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Create a client; it connects on the first request.

        Args:
            url: base URL, such as ``http://localhost:9817``.
            ca_file: CA that signed the exporter's certificate; by default the CAs that this machine trusts.
            user: for basic authentication; None for none.
            password: for basic authentication.
            pause: sleeps for some seconds.
        """
        self._url = url.rstrip("/")
        self._pause = pause
        self._session = requests.Session()
        if ca_file is not None:
            self._session.verify = ca_file
        if user is not None:
            self._session.auth = HTTPBasicAuth(user.encode(), password.encode())

    def close(self) -> None:
        """Close idle connections."""
        self._session.close()

    def probe(self, path: str) -> Probe:
        """Request a probe; the response may have any status.

        Raises:
            UnreachableError: there is no response.
        """
        response = self._get(path, {})
        try:
            server_time = parsedate_to_datetime(response.headers.get("Date", "")).timestamp()
        except (ValueError, OverflowError):
            server_time = time.time()
        return Probe(response.status_code, response.text[:200].strip(), server_time)

    def metrics(self, names: Sequence[str]) -> Metrics:
        """Scrape some metrics, by sample name without ``tempo_anomaly_``.

        Raises:
            UnreachableError: there is no response, or it is not a page of metrics.
        """
        response = self._get_ok("/metrics", {"name[]": [f"tempo_anomaly_{name}" for name in names]})
        response.encoding = "utf-8"
        try:
            return Metrics(response.text)
        except ValueError:
            raise UnreachableError(
                f"{self._url}/metrics did not return metrics: is this the exporter? Check --url"
            ) from None

    def query(self, name: str, /, **parameters: str | float) -> dict[str, Any]:
        """Query the API.

        Raises:
            UnreachableError: there is no response, or it is not a JSON object.
            RefusedError: the response is an error.
        """
        path = f"/api/v1/{name}"
        document = _json_object(self._get_ok(path, parameters))
        if document is None:
            raise UnreachableError(f"{self._url}{path} did not return JSON: is this the exporter? Check --url")
        return document

    def _get_ok(self, path: str, parameters: Mapping[str, Any]) -> requests.Response:
        for _ in range(_ATTEMPTS - 1):
            response = self._get(path, parameters)
            if response.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
                break
            self._pause(_PAUSE_SECONDS)
        else:
            response = self._get(path, parameters)
        status = response.status_code
        if status == HTTPStatus.OK:
            return response
        advice = {
            HTTPStatus.UNAUTHORIZED: "check --user and --password-file",
            HTTPStatus.NOT_FOUND: "is this the exporter, and is it at least as new as this program?",
        }.get(HTTPStatus(status) if status in {*HTTPStatus} else HTTPStatus.OK, "see the exporter's log")
        is_problem = response.headers.get("Content-Type") == "application/problem+json"
        problem = _json_object(response) if is_problem else None
        raise RefusedError(f"{self._url}{path} returned {status}: {advice}", problem or {})

    def _get(self, path: str, parameters: Mapping[str, Any]) -> requests.Response:
        try:
            return self._session.get(
                self._url + path, params=parameters, timeout=_TIMEOUT_SECONDS, allow_redirects=False
            )
        except requests.exceptions.SSLError as error:
            if is_untrusted(error):
                problem = "the certificate is not trusted; pass the CA that signed it with --ca-file"
            else:
                problem = "the TLS handshake failed; if the exporter has no TLS, begin --url with http://"
            raise UnreachableError(f"{self._url}: {problem}") from None
        except requests.Timeout:
            raise UnreachableError(f"{self._url}{path} did not respond within {_TIMEOUT_SECONDS} s") from None
        except (requests.RequestException, ValueError, OSError) as error:
            raise UnreachableError(
                f"cannot connect to {self._url} ({connection_problem(error)[0]}). Check that the exporter is running "
                "and that --url is correct"
            ) from None


def _json_object(response: requests.Response) -> dict[str, Any] | None:
    """Return the JSON object of a response, or None if it is none."""
    try:
        document = response.json()
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
