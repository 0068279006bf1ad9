"""Finds out which share of the traces has no root span in Tempo, where only root spans are read.

The trace of a request may begin elsewhere: at a proxy, a partner, in a browser, or before a sampler that dropped the
root. With scope ``root`` such a trace is not seen at all. A count cannot tell: Tempo counts spans, and a span in
another block than its root looks like one without a root. So a sample of whole traces is searched now and then.
"""

import math
import threading
from collections.abc import Callable
from typing import Final, Protocol

from exporter.ingest.exact_reader import CAUTIOUS_LIMIT
from exporter.runtime.logs import Log
from exporter.runtime.telemetry import Loop, Telemetry
from exporter.tempo.errors import StoppedError, TempoError

_INTERVAL_SECONDS: Final = 3600.0
_RANGES_SECONDS: Final = (3600, 600, 60, 10, 1)
_ENOUGH_TRACES: Final = 200
_MIN_TRACES: Final = 20
"""Fewer traces say nothing about a share."""
_NOTABLE_RATIO: Final = 0.01


class RootSample(Protocol):
    """Traces found by a search."""

    @property
    def traces(self) -> int:
        """Number of traces."""

    @property
    def rootless(self) -> int:
        """Those of which Tempo has no root span."""

    @property
    def saturated(self) -> bool:
        """Whether there may be more."""


class RootClient(Protocol):
    """Searches Tempo."""

    def sample_roots(self, start: int, end: int, limit: int, *, loop: Loop) -> RootSample:
        """Search for the traces that overlap ``[start, end]``, with a root or without; raises TempoError."""


class RootlessTraces:
    """Measures the share of traces without a root; for one thread."""

    def __init__(
        self,
        client: RootClient,
        telemetry: Telemetry,
        log: Log,
        *,
        clock: Callable[[], float],
        settle_seconds: float,
    ) -> None:
        """Prepare to measure.

        Args:
            client: Tempo.
            telemetry: receives the share.
            log: receives a warning if the share is notable, once.
            clock: Unix seconds.
            settle_seconds: age from which on all of a trace has arrived.
        """
        self._client = client
        self._telemetry = telemetry
        self._log = log
        self._once_log = log.limited(math.inf, clock)
        self._clock = clock
        self._settle_seconds = settle_seconds
        self._step = 0
        self._measured_at = -math.inf

    def run(self, stop: threading.Event) -> None:
        """Measure once an hour until stopped."""
        while not stop.is_set():
            self.measure()
            stop.wait(_INTERVAL_SECONDS)

    def measure(self) -> None:
        """Search for a sample and report the share, unless that was done within the hour.

        Without a meaningful sample, the last share stays.
        """
        now = self._clock()
        if 0 <= now - self._measured_at < 0.9 * _INTERVAL_SECONDS:
            return
        self._measured_at = now
        end = int(now - self._settle_seconds)
        try:
            sample = self._sample(end)
        except StoppedError:
            return
        except TempoError as error:
            self._log.debug("rootless_unknown", "cannot search for traces without a root", error=error)
            return
        # A saturated search has not looked at all parts of a trace.
        if sample.saturated or sample.traces < _MIN_TRACES:
            return
        ratio = sample.rootless / sample.traces
        self._telemetry.rootless_traces(ratio)
        if ratio > _NOTABLE_RATIO:
            self._once_log.warning(
                "traces_without_root",
                "traces have no root span in Tempo and are not read; set tempo.scope: entry, with another "
                "storage.path, to watch every service, regardless of gateways in front of it",
                share=round(ratio, 4),
                traces=sample.traces,
            )

    def _sample(self, end: int) -> RootSample:
        while True:
            seconds = _RANGES_SECONDS[self._step]
            sample = self._client.sample_roots(end - seconds, end, CAUTIOUS_LIMIT, loop="backfill")
            is_shortest = self._step + 1 == len(_RANGES_SECONDS)
            if sample.saturated and not is_shortest:
                self._step += 1
                continue
            if sample.traces < _ENOUGH_TRACES and self._step:
                self._step -= 1
            return sample
