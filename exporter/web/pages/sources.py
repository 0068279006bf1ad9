"""The data that the pages show: where they get it, and a cache for what is slow to compute."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import is_
from typing import Final, Generic, Protocol, TypeVar

from exporter.detection.flag import FlagPeriod
from exporter.detection.parameters import Parameters
from exporter.evaluation.causes.shift_cause import ShiftCause
from exporter.evaluation.incident_tracker import IncidentHistory
from exporter.evaluation.query import Profile
from exporter.evaluation.snapshot import SeriesStatus, Snapshot
from exporter.evaluation.timeline import Timeline, TimelineRange
from exporter.evaluation.timeline_query import UsualProfile
from exporter.explain.check import BaselineReports
from exporter.explain.drilldown import NO_LINKS, Drilldown
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.model.calendar import HourClock, Slot
from exporter.model.label import DEFAULT_LABEL_NAMES, LabelNames
from exporter.model.span import SeriesKey
from exporter.runtime.locks import LockRank, new_lock
from exporter.web.http import HttpRequest
from exporter.web.pages.links import Explore, find_series, requested_series, series_url

_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")

_BACKFILL_SECONDS: Final = 60
"""While backfill adds history, cached values expire after this time."""


class BaselineQueries(BaselineReports, Protocol):
    """Queries of the stored history; both raise StoreError or DamagedDigestError if it cannot be read."""

    def profile(self, key: SeriesKey, now: int) -> Profile:
        """Return the baselines of a series for all 48 slots."""


LastDay = Sequence[tuple[SeriesKey, Sequence[FlagPeriod]]]
"""The flags of the last 24 hours, by series."""


class TimelineQueries(Protocol):
    """Queries of the past of a series; all raise StoreError or DamagedDigestError if the history cannot be read."""

    def usual(self, key: SeriesKey, now: int) -> UsualProfile:
        """Return the baselines of a series for all 48 slots."""

    def timeline(
        self, key: SeriesKey, range_: TimelineRange, now: int, usual: UsualProfile, status: SeriesStatus | None
    ) -> Timeline:
        """Return the recent past of a series."""

    def last_day(self, now: float) -> LastDay:
        """Return the flags that fired in the last 24 hours, by series; the latest come first."""


@dataclass(frozen=True)
class Sources:
    """Where the pages get their data.

    Attributes:
        snapshot: returns the current snapshot; None until the first.
        backfill: returns the status of the ledger; None if backfill is disabled.
        history: queries the stored history.
        timelines: queries it over time.
        clock: Unix seconds.
        hours: the local hours.
        local: returns the local time of an instant.
        parameters: settings of the shift detector.
        interval_seconds: time between polls of the live edge.
        tempo_url: address of Tempo, to be shown.
        explore: builds links to traces in Grafana.
        incidents: reads incidents.
        drilldown: builds links to comparisons in Grafana.
        label_names: maps the names of series to those in URLs, which are the values of labels.
        folded_names: returns the number of span names that share one series, by service.
        last_causes: returns the latest cause of each shift that was looked at, also of some that are over.
        history_version: returns objects that are replaced when marks have changed or history was evaluated.
    """

    snapshot: Callable[[], Snapshot | None]
    backfill: Callable[[], BackfillStatus | None]
    history: BaselineQueries
    timelines: TimelineQueries
    clock: Callable[[], float]
    hours: HourClock
    local: Callable[[float], datetime]
    parameters: Parameters
    interval_seconds: float
    tempo_url: str
    explore: Explore
    incidents: IncidentHistory
    drilldown: Drilldown = NO_LINKS
    label_names: LabelNames = DEFAULT_LABEL_NAMES
    folded_names: Callable[[], Mapping[str, int]] = dict
    last_causes: Callable[[], Mapping[SeriesKey, ShiftCause]] = dict
    history_version: Callable[[], Sequence[object]] = tuple

    def series_parameters(self, status: SeriesStatus) -> Parameters:
        """Return the settings of the shift detector for a series."""
        return self.parameters if status.policy is None else status.policy.parameters

    def requested_series(self, request: HttpRequest) -> SeriesStatus | None:
        """Return the series that a request names, if the current snapshot has it."""
        snapshot = self.snapshot()
        return find_series(snapshot, requested_series(request, snapshot), self.label_names)

    def series_url(self, page: str, key: SeriesKey) -> str:
        """Return the URL of a page about a series."""
        return series_url(page, key, self.label_names)

    def slot(self, now: float) -> Slot:
        """The slot of an instant."""
        return self.hours.hour(int(now)).slot


def hourly(hours: HourClock, is_complete: Callable[[], bool]) -> Callable[[float], float]:
    """Return a function for when values expire: when the local hour ends, or earlier while backfill adds history."""
    return lambda now: hours.hour(int(now)).end if is_complete() else now + _BACKFILL_SECONDS


class HistoryCache(Generic[_K, _T]):
    """LRU cache of values computed from the stored history.

    Thread-safe. One thread computes at a time, so that a page with fifty plots occupies one CPU at most and leaves the
    rest to scrapes.
    """

    def __init__(
        self,
        compute: Callable[[_K, int], _T],
        expires_at: Callable[[float], float],
        max_entries: int,
        version: Callable[[], Sequence[object]] = tuple,
    ) -> None:
        """Create an empty cache.

        Args:
            compute: computes the value of a key, such as a series, at an instant, Unix seconds.
            expires_at: returns when a value that is computed at an instant expires, Unix seconds.
            max_entries: how many values to keep.
            version: returns objects that are replaced when values must be computed again before they expire.
        """
        self._compute = compute
        self._expires_at = expires_at
        self._max_entries = max_entries
        self._version = version
        self._lock = new_lock(LockRank.PAGE_CACHE)
        self._entries: OrderedDict[_K, tuple[float, Sequence[object], _T]] = OrderedDict()

    def get(self, key: _K, now: float) -> _T:
        """Return the value of a key, computed if necessary; raises what computing raises."""
        with self._lock:
            entry = self._entries.pop(key, None)
            # Before computing, so that a change in between is noticed later.
            version = self._version()
            if entry is None or not now < entry[0] or not all(map(is_, entry[1], version)):
                value = self._compute(key, int(now))
                entry = self._expires_at(now), version, value
            self._entries[key] = entry
            if len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)
            return entry[2]
