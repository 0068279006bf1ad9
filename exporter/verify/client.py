"""Asks a running exporter, as a scraper or a person would."""

import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import requests
from prometheus_client.parser import text_string_to_metric_families
from requests.auth import HTTPBasicAuth

from exporter.tempo.failures import connection_problem

_TIMEOUT_SECONDS: Final = 30
_ATTEMPTS: Final = 5
_PAUSE_SECONDS: Final = 0.5

Parameters = Mapping[str, str | int]
Labels = frozenset[tuple[str, str]]


class UnreachableError(Exception):
    """The exporter does not answer, or what answers is none; the message says what happened and what to do."""


class Probe(NamedTuple):
    """What a probe answered: its status, what it said, and what time the exporter's clock showed, Unix seconds."""

    status: int
    said: str
    at: float


class Metrics:
    """Some metrics of the exporter itself, by name and labels."""

    def __init__(self, text: str) -> None:
        """Read a page in the text format.

        Raises:
            ValueError: it is none.
        """
        self._samples: dict[tuple[str, Labels], float] = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def get(self, name: str, **labels: str) -> float | None:
        """A value, or None where there is no such sample."""
        return self._samples.get((f"tempo_anomaly_{name}", frozenset(labels.items())))

    def by(self, name: str, label: str) -> dict[str, float]:
        """The values of a metric by one of its labels, summed over the others."""
        found: dict[str, float] = {}
        for (known, labels), value in self._samples.items():
            named = dict(labels).get(label)
            if known == f"tempo_anomaly_{name}" and named is not None:
                found[named] = found.get(named, 0.0) + value
        return found

    def total(self, name: str) -> float:
        """The sum of a metric over all its labels; 0 where there is none."""
        return sum(value for (known, _), value in self._samples.items() if known == f"tempo_anomaly_{name}")


class ExporterClient:
    """One exporter."""

    def __init__(
        self,
        url: str,
        *,
        ca_file: str | None = None,
        user: str | None = None,
        password: str = "",
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connects to nothing yet.

        Args:
            url: where it serves, such as ``http://localhost:9817``.
            ca_file: the authority that signed its certificate; by default those that this machine trusts.
            user: for basic authentication.
            password: the same.
            pause: waits for some seconds.
        """
        self._url = url.rstrip("/")
        self._pause = pause
        self._session = requests.Session()
        if ca_file is not None:
            self._session.verify = ca_file
        if user is not None:
            self._session.auth = HTTPBasicAuth(user.encode(), password.encode())

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def probe(self, path: str) -> Probe:
        """What a probe would see.

        Raises:
            UnreachableError: nothing answers.
        """
        answer = self._get(path, {})
        try:
            at = parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
        except (ValueError, OverflowError):
            at = time.time()
        return Probe(answer.status_code, answer.text[:200].strip(), at)

    def metrics(self, names: Sequence[str]) -> Metrics:
        """Some metrics, by the names of their samples, without ``tempo_anomaly_``.

        Raises:
            UnreachableError: nothing answers, or something else.
        """
        answer = self._checked("/metrics", {"name[]": [f"tempo_anomaly_{name}" for name in names]})
        answer.encoding = "utf-8"
        try:
            return Metrics(answer.text)
        except ValueError:
            raise UnreachableError(f"{self._url}/metrics is no page of metrics: is this the exporter?") from None

    def ask(self, name: str, **parameters: str | float) -> dict[str, Any]:
        """What the API answers.

        Raises:
            UnreachableError: nothing answers, or something else.
        """
        path = f"/api/v1/{name}"
        answer = self._checked(path, parameters)
        try:
            document = answer.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise UnreachableError(f"{self._url}{path} answered with something that is not JSON: is this the exporter?")
        return document

    def _checked(self, path: str, parameters: Mapping[str, Any]) -> requests.Response:
        for _ in range(_ATTEMPTS - 1):
            answer = self._get(path, parameters)
            if answer.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
                break
            self._pause(_PAUSE_SECONDS)
        else:
            answer = self._get(path, parameters)
        status = answer.status_code
        if status == HTTPStatus.OK:
            return answer
        advice = {
            HTTPStatus.UNAUTHORIZED: "give the right --user and --password-file",
            HTTPStatus.NOT_FOUND: "is this the exporter, and not an older one?",
        }.get(HTTPStatus(status) if status in {*HTTPStatus} else HTTPStatus.OK, "see the exporter's log")
        raise UnreachableError(f"{self._url}{path} answered {status}: {advice}")

    def _get(self, path: str, parameters: Mapping[str, Any]) -> requests.Response:
        try:
            return self._session.get(
                self._url + path, params=parameters, timeout=_TIMEOUT_SECONDS, allow_redirects=False
            )
        except requests.exceptions.SSLError:
            raise UnreachableError(
                f"{self._url}: its certificate is not trusted; give the authority that signed it as --ca-file"
            ) from None
        except requests.Timeout:
            raise UnreachableError(f"{self._url}{path} was not answered within {_TIMEOUT_SECONDS} s") from None
        except (requests.RequestException, ValueError, OSError) as error:
            raise UnreachableError(
                f"{self._url} cannot be reached ({connection_problem(error)[0]}): is the exporter running, and is "
                "--url right?"
            ) from None
