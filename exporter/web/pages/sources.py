"""The data that the pages show: where they get it, and a cache for what is slow to compute."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, Protocol, TypeVar

from exporter.detection.parameters import Parameters
from exporter.evaluation.query import BaselineReport, Profile
from exporter.evaluation.snapshot import SeriesStatus, Snapshot
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.model.calendar import HourClock, Slot
from exporter.model.label import DEFAULT_LABEL_NAMES, LabelNames
from exporter.model.span import SeriesKey
from exporter.runtime.locks import LockRank, new_lock
from exporter.web.http import HttpRequest
from exporter.web.pages.links import Explore, find_series, requested_series, series_url

_T = TypeVar("_T")

_BACKFILL_SECONDS: Final = 60
"""While backfill adds history, cached values expire after this time."""


class BaselineQueries(Protocol):
    """Queries of the stored history; both raise StoreError or DamagedDigestError if it cannot be read."""

    def report(self, key: SeriesKey, at: int, now: int) -> BaselineReport:
        """Return the baseline of a series for the hour of an instant."""

    def profile(self, key: SeriesKey, now: int) -> Profile:
        """Return the baselines of a series for all 48 slots."""


@dataclass(frozen=True)
class Sources:
    """Where the pages get their data.

    Attributes:
        snapshot: returns the current snapshot; None until the first.
        backfill: returns the status of the ledger; None if backfill is disabled.
        history: queries the stored history.
        clock: Unix seconds.
        hours: the local hours.
        local: returns the local time of an instant.
        parameters: settings of the shift detector.
        interval_seconds: time between polls of the live edge.
        tempo_url: address of Tempo, to be shown.
        explore: builds links to traces in Grafana.
        label_names: maps the names of series to those in URLs, which are the values of labels.
    """

    snapshot: Callable[[], Snapshot | None]
    backfill: Callable[[], BackfillStatus | None]
    history: BaselineQueries
    clock: Callable[[], float]
    hours: HourClock
    local: Callable[[float], datetime]
    parameters: Parameters
    interval_seconds: float
    tempo_url: str
    explore: Explore
    label_names: LabelNames = DEFAULT_LABEL_NAMES

    def requested_series(self, request: HttpRequest) -> SeriesStatus | None:
        """Return the series that a request names, if the current snapshot has it."""
        return find_series(self.snapshot(), requested_series(request), self.label_names)

    def series_url(self, page: str, key: SeriesKey) -> str:
        """Return the URL of a page about a series."""
        return series_url(page, key, self.label_names)

    def slot(self, now: float) -> Slot:
        """The slot of an instant."""
        return self.hours.hour(int(now)).slot


class HourlyCache(Generic[_T]):
    """LRU cache of values computed from the stored history of a series; they expire when the local hour ends.

    Thread-safe. One thread computes at a time, so that a page with fifty plots occupies one CPU at most and leaves the
    rest to scrapes.
    """

    def __init__(
        self,
        compute: Callable[[SeriesKey, int], _T],
        hours: HourClock,
        is_complete: Callable[[], bool],
        max_entries: int,
    ) -> None:
        """Create an empty cache.

        Args:
            compute: computes the value of a series at an instant, Unix seconds.
            hours: the local hours.
            is_complete: whether backfill is complete.
            max_entries: how many series to keep.
        """
        self._compute = compute
        self._hours = hours
        self._is_complete = is_complete
        self._max_entries = max_entries
        self._lock = new_lock(LockRank.PAGE_CACHE)
        self._entries: OrderedDict[SeriesKey, tuple[float, _T]] = OrderedDict()

    def get(self, key: SeriesKey, now: float) -> _T:
        """Return the value of a series, computed if necessary; raises what computing raises."""
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is None or not now < entry[0]:
                value = self._compute(key, int(now))
                expires_at = self._hours.hour(int(now)).end if self._is_complete() else now + _BACKFILL_SECONDS
                entry = expires_at, value
            self._entries[key] = entry
            if len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)
            return entry[1]
