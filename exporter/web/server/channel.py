"""A connection of waitress that sends large answers as they are, and the same bytes to all who ask for them.

waitress copies an answer into a buffer for each who asks, and out of that again, for each time that it sends some of
it, as much as a socket might take, which is more than it does take. Four clients that read a page of 17 MB at once
cost hundreds of megabytes that way, and most of the time that they wait.

And waitress ends a connection once it can be written to. One whose client has stopped reading cannot, so it would be
kept for as long as that client likes, and its page with it.
"""

import time
from typing import TYPE_CHECKING, Any, Final

from waitress.buffers import ReadOnlyFileBasedBuffer
from waitress.channel import HTTPChannel

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_LARGE_BYTES: Final = 64 << 10
"""What is smaller costs less to copy than a further buffer."""
_LONGEST_ANSWER_SECONDS: Final = 300
"""Whoever takes longer for an answer than the longest scrape may last does not want it."""


class Channel(HTTPChannel):
    """A connection."""

    _active_at = 0.0
    _sending_since = 0.0

    @property
    def last_activity(self) -> float:
        """When something was last read or sent, in seconds that never jump."""
        return self._active_at

    @last_activity.setter
    def last_activity(self, value: float) -> None:  # noqa: ARG002 - what it is instead, this says itself
        # waitress says what the clock on the wall says, which somebody may set.
        self._active_at = time.monotonic()

    def overdue(self, now: float, silent_seconds: float) -> bool:
        """Whether to end it, whatever is left to be sent: its client is silent for too long, or much too slow.

        Args:
            now: seconds that never jump.
            silent_seconds: how long it may be silent.
        """
        if self.requests:
            return False
        slow = self.total_outbufs_len > 0 and now - self._sending_since > _LONGEST_ANSWER_SECONDS
        return slow or now - self._active_at > silent_seconds

    def write_soon(self, data: Any) -> int:
        """Send something, now or once there is room; called by workers."""
        if not self.total_outbufs_len:
            self._sending_since = time.monotonic()
        large = isinstance(data, bytes) and len(data) >= _LARGE_BYTES
        written: int = super().write_soon(_Shared(data) if large else data)  # type: ignore[arg-type] # any buffer, too
        return written


class _Shared(ReadOnlyFileBasedBuffer):
    """Bytes that are read where they are.

    What is read-only a channel puts in its queue as it is, and asks no more of it than there is here.
    """

    def __init__(self, data: "ReadableBuffer") -> None:
        self._left = memoryview(data)

    def __len__(self) -> int:
        return len(self._left)

    def get(self, numbytes: int = -1, skip: bool = False) -> memoryview:  # type: ignore[override] # is only sent
        """So much of what is left, or all of it."""
        found = self._left if numbytes < 0 else self._left[:numbytes]
        if skip:
            self.skip(len(found))
        return found

    def skip(self, numbytes: int, allow_prune: int = 0) -> None:  # noqa: ARG002 - there is nothing to prune
        """So much was sent."""
        self._left = self._left[numbytes:]

    def close(self) -> None:
        """Nothing of it is needed any more."""
        self._left = memoryview(b"")
