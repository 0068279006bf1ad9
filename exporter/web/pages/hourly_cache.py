"""Remembers what was worked out of the history for the series that were asked for of late, until the hour turns."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from exporter.model.calendar import HourClock
from exporter.model.span import SeriesKey

_T = TypeVar("_T")

_UNSETTLED_SECONDS: Final = 60
"""While history still comes in, what is worked out of it is good for so long."""


class HourlyCache(Generic[_T]):
    """What the history says of a series, worked out once an hour. For several threads, one of which works at a time.

    That bounds what pages take away from scrapes: fifty plots cost one thread, whoever else asks.
    """

    def __init__(
        self, work_out: Callable[[SeriesKey, int], _T], hours: HourClock, complete: Callable[[], bool], most: int
    ) -> None:
        """Remember nothing yet.

        Args:
            work_out: asks the history at an instant, Unix seconds.
            hours: tells when the hour turns.
            complete: whether all history is read.
            most: of how many series it is remembered.
        """
        self._work_out = work_out
        self._hours = hours
        self._complete = complete
        self._most = most
        self._mutex = threading.Lock()
        self._known: OrderedDict[SeriesKey, tuple[float, _T]] = OrderedDict()

    def of(self, key: SeriesKey, now: float) -> _T:
        """What it says of a series at an instant; raises what working it out raises."""
        with self._mutex:
            known = self._known.pop(key, None)
            if known is None or not now < known[0]:
                found = self._work_out(key, int(now))
                good_until = self._hours.hour(int(now)).end if self._complete() else now + _UNSETTLED_SECONDS
                known = good_until, found
            self._known[key] = known
            if len(self._known) > self._most:
                self._known.popitem(last=False)
            return known[1]
