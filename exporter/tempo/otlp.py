"""Sends spans as OTLP/JSON to an OTLP/HTTP endpoint.

OTLP/JSON needs no library, and every OTLP/HTTP receiver accepts it besides protobuf. In OTLP/JSON ids are hexadecimal,
not base64 as in protobuf's JSON mapping; enumerations are numbers and 64-bit integers are strings.
"""

import json
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from exporter.tempo.failures import excerpt
from exporter.tempo.http_endpoint import GIVE_UP_SECONDS, TIMEOUT_SECONDS, EndpointRole, RetryingEndpoint

_PATH: Final = "/v1/traces"
# OTLP defines these statuses as retryable.
_is_retryable: Final = frozenset({429, 502, 503, 504}).__contains__
_GZIP_WBITS: Final = 31

CONTENT_TYPE: Final = "application/json"


class SendResult(NamedTuple):
    """Result of an accepted request.

    Attributes:
        rejected_spans: number of spans that the endpoint rejected nevertheless.
        message: error or warning of the endpoint; empty for none.
    """

    rejected_spans: int
    message: str


class OtlpSender(RetryingEndpoint):
    """Sends requests to one OTLP/HTTP endpoint, with retries."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        wait: Callable[[float], bool],
        report: Callable[[str], None],
        option: str = "--url",
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        give_up_seconds: float = GIVE_UP_SECONDS,
    ) -> None:
        """Create a sender; it connects on the first request.

        Args:
            url: base URL of the endpoint, or the full URL that ends in ``/v1/traces``.
            headers: further headers, such as the tenant's.
            wait: sleeps for some seconds and returns whether to stop.
            report: called with the first of several consecutive failures, as text.
            option: the option that names the URL, for messages.
            monotonic: seconds of a monotonic clock.
            now: Unix seconds.
            give_up_seconds: how long a request is retried.
        """
        base = url.rstrip("/")
        super().__init__(
            base if base.endswith(_PATH) else base + _PATH,
            {**headers, "Content-Type": CONTENT_TYPE, "Content-Encoding": "gzip"},
            EndpointRole(option, "request", "an OTLP/HTTP receiver", _is_retryable),
            wait=wait,
            report=report,
            monotonic=monotonic,
            now=now,
            give_up_seconds=give_up_seconds,
        )

    def send(self, body: bytes) -> SendResult:
        """Send the body of a request, with retries.

        Raises:
            SendError: the endpoint rejects it, or all retries failed.
            SendStoppedError: sending was stopped.
        """
        compressor = zlib.compressobj(level=1, wbits=_GZIP_WBITS)
        data = compressor.compress(body) + compressor.flush()
        response = self.request(
            lambda session: session.post(self.address, data, timeout=TIMEOUT_SECONDS, allow_redirects=False)
        )
        return _parse_result(response.content)


def _parse_result(body: bytes) -> SendResult:
    """Parse the response to an accepted request; an invalid one counts as success without a message."""
    try:
        partial = json.loads(body or b"{}").get("partialSuccess") or {}
        return SendResult(max(0, int(partial.get("rejectedSpans", 0))), excerpt(str(partial.get("errorMessage", ""))))
    except (ValueError, TypeError, AttributeError):
        return SendResult(0, "")
