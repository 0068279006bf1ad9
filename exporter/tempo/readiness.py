"""Asks ``/ready`` when a request has timed out: Tempo that hangs while it stops still answers there, and says so.

At most once in a while for all requests together, outside of the request limits, and for a short time. Other requests
that time out meanwhile do not wait; they get the previous answer.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from exporter.runtime.locks import LockRank, new_lock
from exporter.tempo.errors import TempoError
from exporter.tempo.failures import HttpResponse, excerpt

PATH: Final = "/ready"
TIMEOUT_SECONDS: Final = 2.0

_INTERVAL_SECONDS: Final = 60.0
_QUOTED: Final = (HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE)
_MAX_BYTES: Final = 1000
"""A longer body is a page of something else."""


class Readiness:
    """What Tempo says about itself while requests time out. Thread-safe.

    Attributes:
        is_unready: whether the last answer says that Tempo is starting or stopping.
    """

    def __init__(
        self, request: Callable[[], HttpResponse], *, mask: Callable[[str], str], monotonic: Callable[[], float]
    ) -> None:
        """Create it; nothing is requested yet.

        Args:
            request: requests :data:`PATH` within :data:`TIMEOUT_SECONDS`, or raises TempoError.
            mask: removes secrets from a text.
            monotonic: seconds of a monotonic clock.
        """
        self._request = request
        self._mask = mask
        self._monotonic = monotonic
        self._lock = new_lock(LockRank.TEMPO_READINESS)
        self._asked_at: float | None = None
        self._answer = ""
        self.is_unready = False

    def explanation(self) -> str:
        """Return what Tempo says, as a sentence; empty if it says nothing of use. Call it after a timeout."""
        now = self._monotonic()
        with self._lock:
            if self._asked_at is not None and now - self._asked_at < _INTERVAL_SECONDS:
                return self._answer
            self._asked_at = now
            self._answer, self.is_unready = "", False
        answer, is_unready = self._ask()
        with self._lock:
            self._answer, self.is_unready = answer, is_unready
        return answer

    def forget(self) -> None:
        """Forget the answer: a request was successful."""
        if self._answer:
            with self._lock:
                self._answer, self.is_unready = "", False

    def _ask(self) -> tuple[str, bool]:
        try:
            response = self._request()
        except TempoError as error:
            return f"Tempo does not answer {PATH} either." if error.reason == "timeout" else "", False
        text = excerpt(self._mask(response.body[:_MAX_BYTES].decode("utf-8", "replace"))).rstrip(".")
        if response.status not in _QUOTED or not text or text[0] in "<{[" or len(response.body) > _MAX_BYTES:
            return "", False
        return f"Tempo says: {text}.", response.status == HTTPStatus.SERVICE_UNAVAILABLE
