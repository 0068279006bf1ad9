"""Requests to stop: SIGTERM, SIGINT, or a part of the process that cannot go on."""

import signal
from queue import Empty, SimpleQueue


class StopRequest:
    """Waits, in the main thread, until somebody asks the process to stop.

    A queue and not a :class:`threading.Event`: a signal is handled between any two instructions of the main thread, and
    one that comes while that thread is inside the event, holding its lock, would wait for itself for ever.
    ``SimpleQueue.put`` is documented to be safe there.
    """

    def __init__(self) -> None:
        self._requests: SimpleQueue[None] = SimpleQueue()
        self._made = False

    def listen(self) -> None:
        """Take SIGTERM and SIGINT as requests; only the main thread may do this."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.make())

    def make(self) -> None:
        """Ask the process to stop; from any thread."""
        self._requests.put(None)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for a request, for so long at most; says whether there was one."""
        if not self._made:
            try:
                self._requests.get(timeout=seconds)
            except Empty:
                return False
            self._made = True
        return True
