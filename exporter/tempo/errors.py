"""Errors of requests to Tempo."""

from exporter.runtime.telemetry import FailureReason


class TempoError(Exception):
    """A request to Tempo failed; the message says what happened, to which URL, and what to do about it.

    The message fits on one line and never holds a secret, so it can be logged and shown unchanged.

    Attributes:
        reason: label value of the failure counter.
        retryable: whether the same request may succeed later without a change of configuration.
        status: the HTTP status, or None when no HTTP response arrived.
        retry_after_seconds: the value of ``Retry-After``, if Tempo sent it.
        is_slow: whether Tempo took too long for this request, so that one that asks for less may succeed.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: FailureReason,
        retryable: bool = False,
        status: int | None = None,
        retry_after_seconds: float | None = None,
        is_slow: bool = False,
    ) -> None:
        super().__init__(message)
        self.reason: FailureReason = reason
        self.retryable = retryable
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        self.is_slow = is_slow

    @property
    def answered(self) -> bool:
        """Whether Tempo, or the gateway in front of it, was up and rejected the request."""
        return self.reason in ("unauthorized", "refused", "rate_limited")


class RangeTooLongError(TempoError):
    """The requested time range exceeds the maximum that Tempo allows.

    Attributes:
        max_seconds: that maximum.
    """

    def __init__(self, message: str, *, max_seconds: int, status: int | None = None) -> None:
        super().__init__(message, reason="refused", status=status)
        self.max_seconds = max_seconds


class LimitTooHighError(TempoError):
    """The ``limit`` of a search exceeds the maximum that Tempo allows.

    Attributes:
        max_limit: that maximum, in traces.
    """

    def __init__(self, message: str, *, max_limit: int, status: int | None = None) -> None:
        super().__init__(message, reason="refused", status=status)
        self.max_limit = max_limit


class TooManySpansError(TempoError):
    """The ``spss`` (spans per span set) of a search exceeds the maximum that Tempo allows.

    Attributes:
        max_spans: that maximum, in spans of one trace.
    """

    def __init__(self, message: str, *, max_spans: int, status: int | None = None) -> None:
        super().__init__(message, reason="refused", status=status)
        self.max_spans = max_spans


class StoppedError(Exception):
    """The request was abandoned because the exporter is stopping.

    Not a :class:`TempoError`: nothing failed, so callers neither count it nor mark the range as failed.
    """
