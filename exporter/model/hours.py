"""Stored history of one series, by local hour.

Hours are pooled by adding their digests, which is exact: the p95 of a pool is the p95 of all its traces, not a mean of
p95s.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, takewhile
from operator import add, attrgetter, sub
from typing import Final, NamedTuple

from exporter.model.calendar import HourClock, LocalHour, Slot
from exporter.model.histogram import Digest, RollingDigest
from exporter.model.histogram_codec import MARK_SECONDS, decode_counts, decode_marks

QUANTILES: Final = (0.5, 0.9, 0.99)
"""Quantiles that the shift test compares with the baseline."""

Swings = tuple[int, ...]
"""Sums of squared prediction errors over evaluation windows, as pairs of sum and number of terms.

One pair for each of :data:`QUANTILES`. Sums are in units of 1/4096 square octave; integers, so that adding and
subtracting hours is exact.
"""

NO_SWINGS: Final[Swings] = (0,) * (2 * len(QUANTILES))
"""Swings of an hour without prediction."""


class HourEvaluation(NamedTuple):
    """Result of evaluating a settled hour; stored beside its digest.

    Attributes:
        quarantined: the hour was anomalous: it is stored and shown, but not pooled and not part of the swing.
        swings: squared errors of the predictions for the hour's evaluation windows.
    """

    quarantined: bool = False
    swings: Swings = NO_SWINGS


NOT_EVALUATED: Final = HourEvaluation()

_by_start = attrgetter("start")


class StoredWindow(NamedTuple):
    """Stored traces of one series in one window of the ledger.

    Attributes:
        start: start of the window, Unix seconds.
        traces: number of traces.
        digest: their durations, encoded by :func:`.histogram_codec.encode_digest`.
        marks: the same by end time, encoded by :func:`.histogram_codec.encode_marks`; empty where the caller did not
            load it, because only hours that are not evaluated yet need it.
    """

    start: int
    traces: int
    digest: bytes
    marks: bytes = b""


class SeriesHour:
    """The traces of one series that started in one local hour.

    Consists of several windows where the ledger's windows are shorter than an hour. Digests are decoded on first use:
    most hours of a history are only counted.

    Attributes:
        start: start of the hour, Unix seconds.
        slot: hour of the local day and day type.
        day: local date as a proleptic Gregorian ordinal.
        count: number of traces.
        evaluation: result of the detector; set by :meth:`SeriesHours.set_evaluation`.
    """

    __slots__ = (
        "_counts",
        "_decoded_windows",
        "_digest",
        "_quantile_buckets",
        "_windows",
        "count",
        "day",
        "evaluation",
        "slot",
        "start",
    )

    def __init__(
        self, hour: LocalHour, windows: Sequence[StoredWindow], evaluation: HourEvaluation = NOT_EVALUATED
    ) -> None:
        """Combine the windows of one local hour, at least one."""
        self.start = hour.start
        self.slot = hour.slot
        self.day = hour.day
        self.count = sum([window.traces for window in windows])
        self.evaluation = evaluation
        self._windows = windows
        self._decoded_windows: list[tuple[StoredWindow, dict[int, int]]] | None = None
        self._counts: dict[int, int] | None = None
        self._digest: Digest | None = None
        self._quantile_buckets: tuple[int, ...] | None = None

    def __repr__(self) -> str:
        return f"SeriesHour({self.start}, {self.slot}, count={self.count}, {self.evaluation})"

    @property
    def counts(self) -> dict[int, int]:
        """Counts by bucket in ascending order; must not be modified.

        Raises:
            DamagedDigestError: the stored digest is damaged.
        """
        if self._counts is None:
            by_window = [counts for _, counts in self._decoded()]
            if len(by_window) == 1:
                self._counts = by_window[0]
            else:
                self._counts = dict(Digest.pool(map(Digest, by_window)))
        return self._counts

    @property
    def digest(self) -> Digest:
        """Durations of the traces."""
        if self._digest is None:
            self._digest = Digest(self.counts)
        return self._digest

    @property
    def quantile_buckets(self) -> tuple[int, ...]:
        """Buckets of the hour's own :data:`QUANTILES`."""
        if self._quantile_buckets is None:
            self._quantile_buckets = tuple(self.digest.quantile_buckets(QUANTILES))
        return self._quantile_buckets

    def marks(self) -> Iterator[tuple[int, list[int]]]:
        """Yield marks in Unix seconds with the sorted buckets of the traces that ended up to each.

        Marks may lie in later hours, because traces are assigned to the hour in which they started.

        Raises:
            DamagedDigestError: the stored marks are damaged.
        """
        for window, counts in self._decoded():
            if window.marks:
                # A window of, say, six minutes may start between two marks; offsets then count from the next mark.
                late = (window.start - self.start) % MARK_SECONDS
                first = window.start + (MARK_SECONDS - late if late else 0)
                for offset, buckets in decode_marks(window.marks, counts).items():
                    yield first + offset * MARK_SECONDS, buckets

    def _decoded(self) -> list[tuple[StoredWindow, dict[int, int]]]:
        if self._decoded_windows is None:
            self._decoded_windows = [(window, decode_counts(window.digest)) for window in self._windows]
        return self._decoded_windows


def hours_of(
    windows: Iterable[StoredWindow], clock: HourClock, evaluations: Mapping[int, HourEvaluation] | None = None
) -> list[SeriesHour]:
    """Group the windows of one series into local hours, in time order; hours without traces are omitted.

    Args:
        windows: stored windows, in any order.
        clock: maps instants to local hours.
        evaluations: results of evaluated hours, by start of the hour.
    """
    evaluations = evaluations or {}
    parts: dict[int, list[StoredWindow]] = {}
    for window in windows:
        if window.traces:
            parts.setdefault(clock.hour(window.start).start, []).append(window)
    return [
        SeriesHour(clock.hour(start), parts[start], evaluations.get(start, NOT_EVALUATED)) for start in sorted(parts)
    ]


class HourGroup:
    """Hours of some slots, in time order, with range queries and a cached pool.

    The digest of the last pool is kept and updated by difference: successive pools mostly share their hours, with a few
    added at the end.
    """

    __slots__ = ("_hours", "_pooled", "_rolling", "_starts", "_traces")

    def __init__(self, hours: list[SeriesHour]) -> None:
        """Take ownership of hours in time order."""
        self._hours = hours
        self._starts = [hour.start for hour in self._hours]
        # Prefix sums: traces[i] counts the traces before hours[i], from an arbitrary origin.
        self._traces = list(accumulate([hour.count for hour in self._hours], initial=0))
        self._pooled: Sequence[SeriesHour] = []
        self._rolling = RollingDigest()

    def append(self, hour: SeriesHour) -> None:
        """Add an hour later than all others."""
        self._hours.append(hour)
        self._starts.append(hour.start)
        self._traces.append(self._traces[-1] + hour.count)

    def discard_before(self, start: int) -> None:
        """Drop the hours that began before an instant."""
        stale = bisect_left(self._starts, start)
        del self._hours[:stale], self._starts[:stale], self._traces[:stale]

    def between(self, since: int, until: int, min_traces: int = 0) -> tuple[Sequence[SeriesHour], int]:
        """Return the hours that began in ``[since, until)`` and their number of traces.

        Where they have fewer than ``min_traces``, the list of hours is empty; the number is still theirs.
        """
        first, last = bisect_left(self._starts, since), bisect_left(self._starts, until)
        count = self._traces[last] - self._traces[first]
        return self._hours[first:last] if count >= min_traces else (), count

    def pool(self, hours: Sequence[SeriesHour]) -> Digest:
        """Return the sum of the digests of some of the hours, given in time order."""
        previous = self._pooled
        added = hours[len(previous) :]
        if hours[: len(previous)] != previous:
            added, dropped = _difference(hours, previous), _difference(previous, hours)
            if len(added) + len(dropped) >= len(hours):
                self._rolling = RollingDigest()
                added, dropped = hours, []
            for hour in dropped:
                self._rolling.subtract(hour.counts)
        for hour in added:
            self._rolling.add(hour.counts)
        self._pooled = hours
        return self._rolling.digest()


class SeriesHours:
    """History of one series: its hours with traffic, in time order and by slot.

    Attributes:
        quarantined: starts of the quarantined hours.
    """

    __slots__ = ("_all", "_by_slot", "_by_start", "_groups", "_latest_swing", "_swings", "quarantined")

    def __init__(self, hours: Iterable[SeriesHour] = ()) -> None:
        """Take hours in any order."""
        self._by_start: dict[int, SeriesHour] = {}
        self._all: list[SeriesHour] = []
        self._by_slot: dict[Slot, list[SeriesHour]] = {}
        # Created on request, by set of slots.
        self._groups: dict[frozenset[Slot], HourGroup] = {}
        self.quarantined: set[int] = set()
        # Sum over all hours that are not quarantined, and an upper bound for the start of the latest of them.
        self._swings = NO_SWINGS
        self._latest_swing = 0
        for hour in sorted(hours, key=_by_start):
            self.append(hour)

    def __iter__(self) -> Iterator[SeriesHour]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def append(self, hour: SeriesHour) -> None:
        """Add an hour later than all others."""
        self._by_start[hour.start] = hour
        self._all.append(hour)
        self._by_slot.setdefault(hour.slot, []).append(hour)
        for slots, group in self._groups.items():
            if hour.slot in slots:
                group.append(hour)
        self._include(hour)

    def set_evaluation(self, hour: SeriesHour, evaluation: HourEvaluation) -> None:
        """Replace the evaluation of one of the hours."""
        self._exclude(hour)
        hour.evaluation = evaluation
        self._include(hour)

    def discard_before(self, start: int) -> None:
        """Drop the hours that began before an instant."""
        if not self._all or self._all[0].start >= start:
            return
        while self._all and self._all[0].start < start:
            hour = self._all.pop(0)
            del self._by_start[hour.start]
            self._by_slot[hour.slot].pop(0)
            self._exclude(hour)
        for group in self._groups.values():
            group.discard_before(start)

    def at(self, start: int) -> SeriesHour | None:
        """Return the hour that began at an instant; None where it had no traffic."""
        return self._by_start.get(start)

    def group(self, slots: frozenset[Slot]) -> HourGroup:
        """Return the hours of some slots. Groups are cached, so callers use few distinct sets."""
        group = self._groups.get(slots)
        if group is None:
            members = list(chain.from_iterable([self._by_slot[slot] for slot in slots if slot in self._by_slot]))
            if len(slots) > 1:
                members.sort(key=_by_start)
            group = self._groups[slots] = HourGroup(members)
        return group

    def swings(self, until: int, released: Iterable[SeriesHour] = ()) -> Swings:
        """Return the sum of the swings of all hours before an instant that are not quarantined.

        Args:
            until: Unix seconds.
            released: quarantined hours before ``until`` that are added nevertheless.
        """
        swings = self._swings
        if self._latest_swing >= until:
            for hour in takewhile(lambda hour: hour.start >= until, reversed(self._all)):
                if not hour.evaluation.quarantined:
                    swings = tuple(map(sub, swings, hour.evaluation.swings))
        for hour in released:
            swings = tuple(map(add, swings, hour.evaluation.swings))
        return swings

    def _include(self, hour: SeriesHour) -> None:
        if hour.evaluation.quarantined:
            self.quarantined.add(hour.start)
        elif hour.evaluation.swings != NO_SWINGS:
            self._swings = tuple(map(add, self._swings, hour.evaluation.swings))
            if hour.start > self._latest_swing:
                self._latest_swing = hour.start

    def _exclude(self, hour: SeriesHour) -> None:
        if hour.evaluation.quarantined:
            self.quarantined.discard(hour.start)
        elif hour.evaluation.swings != NO_SWINGS:
            self._swings = tuple(map(sub, self._swings, hour.evaluation.swings))


def _difference(hours: Sequence[SeriesHour], others: Sequence[SeriesHour]) -> Sequence[SeriesHour]:
    excluded = set(others)
    return [hour for hour in hours if hour not in excluded]
