"""Remembers what is usual for the series whose plots were asked for of late, until the hour turns."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from exporter.core.hours import HourClock
from exporter.core.span import SeriesKey
from exporter.detector.inquiry import Profile

_MOST: Final = 100
"""Two pages of the start page's table; a profile takes 26 kB, and 12 ms to work out."""
_UNSETTLED_SECONDS: Final = 60
"""While history still comes in, a profile is good for so long."""


class RememberedProfiles:
    """Profiles of series, each worked out once an hour. For several threads, one of which works at a time.

    That bounds what pages take away from scrapes: a page of plots costs one thread, whoever else asks.
    """

    def __init__(
        self,
        profile: Callable[[SeriesKey, int], Profile],
        hours: HourClock,
        complete: Callable[[], bool],
        most: int = _MOST,
    ) -> None:
        """Remember nothing yet.

        Args:
            profile: works out a profile for the present.
            hours: tells when the hour turns.
            complete: whether all history is read.
            most: how many profiles are remembered.
        """
        self._profile = profile
        self._hours = hours
        self._complete = complete
        self._most = most
        self._mutex = threading.Lock()
        self._known: OrderedDict[SeriesKey, tuple[float, Profile]] = OrderedDict()

    def of(self, key: SeriesKey, now: float) -> Profile:
        """The profile of a series at an instant; raises what working it out raises."""
        with self._mutex:
            good_until, profile = self._known.pop(key, (0.0, None))
            if profile is None or not now < good_until:
                profile = self._profile(key, int(now))
                good_until = self._hours.hour(int(now)).end if self._complete() else now + _UNSETTLED_SECONDS
            self._known[key] = good_until, profile
            if len(self._known) > self._most:
                self._known.popitem(last=False)
            return profile
