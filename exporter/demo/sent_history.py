"""Asks Tempo which of the demo's traces it has, so that a repeated run sends only what is missing."""

import time
from collections.abc import Callable, Mapping
from typing import Final

from exporter.tempo.errors import LimitTooHighError
from exporter.tempo.failures import HttpResponse, excerpt, status_failure
from exporter.tempo.http_endpoint import TIMEOUT_SECONDS, EndpointRole, RejectedError, RetryingEndpoint, SendError

_PATH: Final = "/api/search"
_QUERY: Final = '{nestedSetParent<0 && resource.deployment.environment="demo"}'
_LIMIT: Final = 5000
"""More than an hour of the demo's traffic has."""


def _is_retryable(status: int) -> bool:
    return status == 429 or status >= 500


_TEMPO: Final = EndpointRole("--query-url", "search", "Tempo's HTTP API (usually port 3200)", _is_retryable)


class SentHistory(RetryingEndpoint):
    """Searches a Tempo for the demo's traces."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        wait: Callable[[float], bool],
        report: Callable[[str], None],
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Create a client; it connects on the first search.

        Args:
            url: base URL of Tempo's HTTP API.
            headers: further headers, such as the tenant's.
            wait: sleeps for some seconds and returns whether to stop.
            report: called with the first of several consecutive failures, as text.
            monotonic: seconds of a monotonic clock.
            now: Unix seconds.
        """
        super().__init__(
            url.rstrip("/") + _PATH, headers, _TEMPO, wait=wait, report=report, monotonic=monotonic, now=now
        )
        self._limit = _LIMIT

    def has_traces(self, start: int, end: int) -> bool:
        """Return whether Tempo finds a trace that overlaps a range of Unix seconds.

        Raises:
            SendError: Tempo rejects the search, or all retries failed.
            SendStoppedError: sending was stopped.
        """
        return bool(self._search(start, end, 1))

    def trace_ids(self, start: int, end: int) -> set[int]:
        """Return the ids of the traces that overlap a range of Unix seconds.

        A range with more traces than one search returns is searched in halves, down to a second.

        Raises:
            SendError: Tempo rejects the search, or all retries failed.
            SendStoppedError: sending was stopped.
        """
        found: set[int] = set()
        ranges = [(start, end)]
        while ranges:
            start, end = ranges.pop()
            try:
                ids = self._search(start, end, self._limit)
            except RejectedError as error:
                self._lower_limit(error)
                ranges.append((start, end))
                continue
            found |= ids
            if len(ids) >= self._limit and end - start > 1:
                middle = (start + end) // 2
                ranges += [(start, middle), (middle, end)]
        return found

    def _search(self, start: int, end: int, limit: int) -> set[int]:
        parameters: dict[str, str | int] = {"q": _QUERY, "start": start, "end": end, "limit": limit}
        response = self.request(
            lambda session: session.get(self.address, params=parameters, timeout=TIMEOUT_SECONDS, allow_redirects=False)
        )
        try:
            # Tempo leaves the list out where it is empty.
            return {int(trace["traceID"], 16) for trace in response.json().get("traces") or ()}
        except (ValueError, TypeError, AttributeError, LookupError):
            text = excerpt(response.text[:1000]) or "nothing"
            raise SendError(f"{self.address} returned no search result of Tempo: {text}. Check --query-url") from None

    def _lower_limit(self, error: RejectedError) -> None:
        """Take the maximum of ``limit`` over from Tempo's refusal; other refusals are raised again."""
        failure = status_failure(HttpResponse(self.address, error.status, {}, error.body), self._now(), str)
        if not isinstance(failure, LimitTooHighError) or failure.max_limit >= self._limit:
            raise error
        self._limit = failure.max_limit
