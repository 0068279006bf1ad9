"""What a request to Tempo can end with other than an answer."""

from exporter.runtime.telemetry import FailureReason


class TempoError(Exception):
    """A request to Tempo failed; the message says what happened, to which URL, and what to do about it.

    It never holds a secret, fits on one line, and can be logged or shown as it is.

    Attributes:
        reason: the kind of failure, from the closed list that is published.
        retryable: whether the same request may succeed later without anybody doing anything.
        status: the HTTP status, or None where no HTTP answer came.
        retry_after_seconds: how long Tempo asked to be left alone, if it did.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: FailureReason,
        retryable: bool = False,
        status: int | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason: FailureReason = reason
        self.retryable = retryable
        self.status = status
        self.retry_after_seconds = retry_after_seconds

    @property
    def answered(self) -> bool:
        """Whether Tempo itself, or what guards it, was there and said no."""
        return self.reason in ("unauthorized", "refused", "rate_limited")


class RangeTooLongError(TempoError):
    """The range asked for is longer than Tempo allows.

    Attributes:
        max_seconds: the longest range it allows.
    """

    def __init__(self, message: str, *, max_seconds: int, status: int | None = None) -> None:
        super().__init__(message, reason="refused", status=status)
        self.max_seconds = max_seconds


class LimitTooHighError(TempoError):
    """More traces were asked for than Tempo returns at once.

    Attributes:
        max_limit: the highest limit it allows.
    """

    def __init__(self, message: str, *, max_limit: int, status: int | None = None) -> None:
        super().__init__(message, reason="refused", status=status)
        self.max_limit = max_limit


class TooManySpansError(TempoError):
    """More spans of each trace were asked for than Tempo returns.

    Attributes:
        max_spans: the most it allows.
    """

    def __init__(self, message: str, *, max_spans: int, status: int | None = None) -> None:
        super().__init__(message, reason="refused", status=status)
        self.max_spans = max_spans


class StoppedError(Exception):
    """The exporter is being stopped, and the request was given up for that.

    Not a :class:`TempoError`: nothing failed, and what was being read is neither read nor unreadable.
    """
