"""Baseline tables, their stored form, and the cache through which one thread hands them to others.

A table holds the baselines of all series for one local hour. It is built once and never changes.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Condition
from typing import NamedTuple

import msgspec

from exporter.baseline.levels import Baseline
from exporter.baseline.traffic import TrafficBaseline
from exporter.detection.errors.verdict import ErrorBaseline
from exporter.detection.regression.verdict import Regression
from exporter.detection.runs import RunThresholds
from exporter.detection.schedule import HourThresholds, Schedule
from exporter.detection.service_shift import ServiceBaseline
from exporter.detection.streams import StreamReason
from exporter.detection.thresholds import Thresholds
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.model.service import ServiceKey
from exporter.model.span import SeriesKey
from exporter.runtime.locks import LockRank, new_condition


@dataclass(frozen=True, slots=True)
class SeriesBaseline:
    """The baseline of one series for one hour, and the thresholds derived from it.

    Field names are part of the stored format.

    Attributes:
        last_seen: end of the latest stored hour with traffic, Unix seconds; 0 without stored history.
        baseline: the published baseline; None at level 5.
        outlier_threshold_seconds: a single trace slower than this is an outlier; None at level 5.
        thresholds: limits of the shift test; None at level 5 and while the series is learning.
        changepoint: start of the present behaviour, Unix seconds, if a lasting change was accepted.
        stream: why the series is a stream, which has neither threshold nor thresholds; None if its spans are requests.
        runs: thresholds of a series that is evaluated by run.
        is_compared: whether the last days could be compared with the weeks before.
        regression: the present regression.
        errors: the usual failures; None while no level is mature, and if the history is not evaluated far enough.
        traffic: the usual traffic; None while it is not known well enough for verdicts.
    """

    last_seen: float = 0.0
    baseline: Baseline | None = None
    outlier_threshold_seconds: float | None = None
    thresholds: Thresholds | None = None
    changepoint: int | None = None
    stream: StreamReason | None = None
    runs: RunThresholds | None = None
    is_compared: bool = False
    regression: Regression | None = None
    errors: ErrorBaseline | None = None
    traffic: TrafficBaseline | None = None

    @property
    def has_verdict(self) -> bool:
        """Whether the series gets verdicts, by window or by run."""
        return self.thresholds is not None or self.runs is not None


NO_BASELINE = SeriesBaseline()
"""Stands for a series without stored history."""


@dataclass(frozen=True)
class BaselineTable:
    """The baselines of all series for one local hour.

    Attributes:
        start: start of the hour, Unix seconds.
        series: one entry for each series with stored history.
        before: the table of the preceding hour, if the evaluation window can reach into it; it holds thresholds only.
        is_built: False only for a placeholder: then a missing series says nothing about that series.
        is_evaluated: whether the history was evaluated far enough for verdicts. If not, missing thresholds do not
            resolve a firing flag.
        backfill: state of the ledger before the table was built and the history was counted; None if not recorded.
        services: the baselines of services as a whole; those of which too little is known are missing.
    """

    start: int
    series: Mapping[SeriesKey, SeriesBaseline] = field(default_factory=dict, repr=False)
    before: "BaselineTable | None" = field(default=None, repr=False)
    is_built: bool = field(default=True, repr=False)
    is_evaluated: bool = field(default=True, repr=False)
    backfill: BackfillStatus | None = field(default=None, repr=False, compare=False)
    services: Mapping[ServiceKey, ServiceBaseline] = field(default_factory=dict, repr=False)

    def get(self, key: SeriesKey) -> SeriesBaseline:
        """The baseline of a series."""
        return self.series.get(key, NO_BASELINE)

    def covers(self, status: BackfillStatus) -> bool:
        """Whether the table contains every window that a state of the ledger counts."""
        if self.backfill is None:
            return True
        return (status.progress, status.wanted_since) == (self.backfill.progress, self.backfill.wanted_since)

    def schedule(self, key: SeriesKey) -> Schedule:
        """The thresholds for the evaluation window of a series, newest hour first, up to the first gap."""
        schedule = []
        table: BaselineTable | None = self
        while table is not None:
            thresholds = table.get(key).thresholds
            if thresholds is None:
                break
            schedule.append(HourThresholds(table.start, thresholds))
            table = table.before
        return schedule

    def error_baselines(self, key: SeriesKey, since: float) -> list[ErrorBaseline]:
        """The usual failures in the hours after an instant (Unix seconds), newest hour first, up to the first gap."""
        found: list[ErrorBaseline] = []
        table: BaselineTable | None = self
        while table is not None:
            errors = table.get(key).errors
            if errors is None:
                break
            found.append(errors)
            if table.start <= since:
                break
            table = table.before
        return found


EMPTY_TABLE = BaselineTable(0, is_built=False, is_evaluated=False)
"""Placeholder until the first table is built."""


class _EncodedHour(NamedTuple):
    start: int
    series: list[tuple[SeriesKey, SeriesBaseline]]


class _EncodedTable(NamedTuple):
    basis: str
    hours: list[_EncodedHour]
    backfill: BackfillStatus | None = None
    services: Sequence[tuple[ServiceKey, ServiceBaseline]] = ()


def encode_table(table: BaselineTable, basis: str) -> bytes:
    """Encode a table and the hours before it for storage.

    Args:
        table: a table built from evaluated history.
        basis: identifies everything else the table depends on: version, settings, calendar.
    """
    hours = []
    each: BaselineTable | None = table
    while each is not None:
        hours.append(_EncodedHour(each.start, list(each.series.items())))
        each = each.before
    # Level 1: ten thousand similar series compress well at any level, and other work waits for this.
    encoded = _EncodedTable(basis, hours, table.backfill, list(table.services.items()))
    return zlib.compress(msgspec.msgpack.encode(encoded), level=1)


def decode_table(data: bytes, basis: str) -> BaselineTable | None:
    """Decode a stored table; None if it is damaged or was built on another basis."""
    try:
        encoded = msgspec.msgpack.decode(zlib.decompress(data), type=_EncodedTable)
    except (zlib.error, msgspec.DecodeError):
        return None
    if encoded.basis != basis:
        return None
    table: BaselineTable | None = None
    for hour in reversed(encoded.hours):
        table = BaselineTable(hour.start, dict(hour.series), before=table)
    return None if table is None else replace(table, services=dict(encoded.services), backfill=encoded.backfill)


class BaselineCache:
    """Holds the table in use and, once prepared, the table of the next hour. Thread-safe."""

    def __init__(
        self,
        patience_seconds: float,
        monotonic: Callable[[], float],
        on_missed: Callable[[BaselineTable], None],
        *,
        changed: Condition | None = None,
    ) -> None:
        """Start with :data:`EMPTY_TABLE`.

        Args:
            patience_seconds: how long callers of :meth:`get` wait in total for the table of each hour.
            monotonic: seconds that never jump.
            on_missed: called once for each hour whose table was not there in time, with the table used instead.
            changed: guards the cache; notified when a table arrives and when the cache is closed.
        """
        self._patience_seconds = patience_seconds
        self._monotonic = monotonic
        self._on_missed = on_missed
        self._changed = new_condition(LockRank.BASELINE_TABLES) if changed is None else changed
        self._table = EMPTY_TABLE
        self._next: BaselineTable | None = None
        self._requested_hour: int | None = None
        self._wait_until = 0.0
        self._missed_hour: int | None = None
        self._is_closed = False

    # For readers

    def get(self, hour_start: int) -> BaselineTable:
        """The table of an hour; if it does not arrive within the patience, the previous one.

        Callers block for at most ``patience_seconds``.
        """
        with self._changed:
            if not self._has(hour_start):
                self._changed.wait_for(lambda: self._is_closed or self._has(hour_start), self._patience(hour_start))
            if self._next is not None and self._next.start == hour_start:
                self._table, self._next = self._next, None
            table = self._table
            missed_hour = None if table.start == hour_start else hour_start
            newly_missed = missed_hour is not None and missed_hour != self._missed_hour
            self._missed_hour = missed_hour
        if newly_missed:
            self._on_missed(table)
        return table

    def _has(self, hour_start: int) -> bool:
        return self._table.start == hour_start or (self._next is not None and self._next.start == hour_start)

    def _patience(self, hour_start: int) -> float:
        now = self._monotonic()
        if self._requested_hour != hour_start:
            self._requested_hour, self._wait_until = hour_start, now + self._patience_seconds
        return max(0.0, self._wait_until - now)

    # For the thread that builds tables

    @property
    def current(self) -> BaselineTable:
        """The table in use."""
        return self._table

    def has(self, hour_start: int) -> bool:
        """Whether the table of an hour is in use or prepared."""
        with self._changed:
            return self._has(hour_start)

    def put(self, table: BaselineTable) -> bool:
        """Put a table into use; returns whether a reader has already missed it."""
        with self._changed:
            self._table, self._next = table, None
            self._changed.notify_all()
            return self._missed_hour == table.start

    def renew(self, table: BaselineTable) -> bool:
        """Put a newer build into use, unless the table of a later hour already is; returns whether it was put."""
        with self._changed:
            # The prepared table was built from older history.
            self._next = None
            if self._table.start > table.start:
                return False
            self._table = table
            self._changed.notify_all()
            return True

    def prepare(self, table: BaselineTable) -> None:
        """Keep a table until its hour begins."""
        with self._changed:
            if self._table.start < table.start:
                self._next = table
                self._changed.notify_all()

    def close(self) -> None:
        """Release readers that wait: no table will arrive any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
