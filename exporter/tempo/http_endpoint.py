"""Requests to one HTTP endpoint with the headers of the command line, with retries and errors for the user."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

import requests

from exporter.tempo.failures import connection_problem, excerpt, retry_after_seconds

TIMEOUT_SECONDS: Final = 30.0
_FIRST_PAUSE_SECONDS: Final = 0.5
_MAX_PAUSE_SECONDS: Final = 30.0
GIVE_UP_SECONDS: Final = 300.0


class SendError(Exception):
    """The endpoint rejects requests or is down; the message says what to do."""


class RejectedError(SendError):
    """The endpoint rejects a request, so that repeating it is vain.

    Attributes:
        status: the HTTP status.
        body: the body of the response.
    """

    def __init__(self, message: str, status: int, body: bytes) -> None:
        super().__init__(message)
        self.status = status
        self.body = body


class SendStoppedError(Exception):
    """Sending was stopped during a pause."""


@dataclass(frozen=True, slots=True)
class EndpointRole:
    """What an endpoint is, for messages and for retries.

    Attributes:
        option: the option that names its address.
        request: what is sent to it, in the singular, such as ``search``.
        description: what should be at the address.
        is_retryable: whether a request with this status is repeated.
    """

    option: str
    request: str
    description: str
    is_retryable: Callable[[int], bool]


class RetryingEndpoint:
    """Sends requests to one address.

    Attributes:
        address: the URL of all requests.
    """

    def __init__(
        self,
        address: str,
        headers: Mapping[str, str],
        role: EndpointRole,
        *,
        wait: Callable[[float], bool],
        report: Callable[[str], None],
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        give_up_seconds: float = GIVE_UP_SECONDS,
    ) -> None:
        """Create an endpoint; it connects on the first request.

        Args:
            address: the URL of all requests.
            headers: headers of all requests, such as the tenant's.
            role: what is at the address.
            wait: sleeps for some seconds and returns whether to stop.
            report: called with the first of several consecutive failures, as text.
            monotonic: seconds of a monotonic clock.
            now: Unix seconds.
            give_up_seconds: how long a request is retried.
        """
        self.address = address
        self._role = role
        self._wait = wait
        self._report = report
        self._monotonic = monotonic
        self._now = now
        self._give_up_seconds = give_up_seconds
        self._session = requests.Session()
        # Ignore proxies and credentials from the environment: requests go to this address only.
        self._session.trust_env = False
        self._session.headers.update(headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def request(self, send: Callable[[requests.Session], requests.Response]) -> requests.Response:
        """Call ``send`` until it returns a response with status 200, and return that.

        Raises:
            RejectedError: the endpoint rejects the request.
            SendError: the request is invalid, or all retries failed.
            SendStoppedError: sending was stopped.
        """
        role = self._role
        give_up_at = self._monotonic() + self._give_up_seconds
        pause = _FIRST_PAUSE_SECONDS
        failed = False
        while True:
            retry_after = None
            try:
                response = send(self._session)
            except ValueError as error:
                # An invalid URL or header. The exception may quote a credential, so its text is not used.
                raise SendError(
                    f"cannot send to {self.address} ({type(error).__name__}): check {role.option} and --header"
                ) from None
            except requests.RequestException as error:
                problem = connection_problem(error)[0]
            else:
                if response.status_code == 200:
                    return response
                problem = f"{response.status_code} {excerpt(response.text or response.reason)}"
                if not role.is_retryable(response.status_code):
                    raise RejectedError(
                        f"{self.address} rejected a {role.request}: {problem}. Check {role.option} and --header",
                        response.status_code,
                        response.content,
                    )
                retry_after = retry_after_seconds(response.headers.get("Retry-After"), self._now())
            seconds = pause * random.uniform(0.75, 1.25) if retry_after is None else retry_after
            if self._monotonic() + seconds > give_up_at:
                raise SendError(
                    f"{self.address} accepted no {role.request} for {self._give_up_seconds:g} s: {problem}. Check that "
                    f"{role.option} is the address of {role.description}"
                )
            if not failed:
                self._report(f"{self.address}: {problem}; retrying")
                failed = True
            if self._wait(seconds):
                raise SendStoppedError
            pause = min(2 * pause, _MAX_PAUSE_SECONDS)
