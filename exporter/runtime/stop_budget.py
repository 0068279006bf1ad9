"""The stop budget: how the five seconds between SIGTERM and the end of the process are shared.

When stopping begins, the event that all background threads watch is set at once. Then the steps below wait for their
threads, one after the other. A thread that has not ended by then is a daemon and ends with the process: what it has not
committed is read again after the next start.
"""

import time
from collections.abc import Callable, Mapping
from typing import Final, Literal

STOP_SECONDS: Final = 5.0
"""The process ends within this time after SIGTERM or SIGINT."""

_RESERVED_SECONDS: Final = 0.5
"""Kept for closing the database, which writes back its write-ahead log, and for ending the interpreter."""

StopStep = Literal["web_config", "web_workers", "web_loop", "supervisor", "app"]
"""The steps that wait for threads, in their order."""

_SHARES_SECONDS: Final[Mapping[StopStep, float]] = {
    "web_config": 0.5,  # may be reading web.config_file and its certificates
    "web_workers": 1.0,  # all worker groups together: responses that are being built
    "web_loop": 0.5,  # ends with its current turn
    "supervisor": 1.0,  # may be replacing a damaged database
    "app": STOP_SECONDS,  # poller, baseline manager, causes and backfill: what is left, at least 1.5 s
}


class StopBudget:
    """The time that is left to stop; created when stopping begins and passed to every step."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._ends_at = monotonic() + STOP_SECONDS - _RESERVED_SECONDS

    def seconds_for(self, step: StopStep) -> float:
        """How long a step may wait now: its share, or what is left of the budget where that is less."""
        return max(0.0, min(_SHARES_SECONDS[step], self._ends_at - self._monotonic()))
