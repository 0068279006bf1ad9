"""The past of a series: its hours, each the digest of the traces that started in one hour of the local clock.

Hours are pooled by adding their digests, which is exact: p95 of some hours is the p95 of all their traces, never a mean
of p95s.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, takewhile
from operator import add, attrgetter, sub
from typing import Final, NamedTuple, Self

from exporter.model.calendar import HOUR_SECONDS, Calendar, Slot
from exporter.model.histogram import Digest, Tally
from exporter.model.histogram_codec import MARK_SECONDS, decode_counts, decode_marks

QUANTILES: Final = (0.5, 0.9, 0.99)
"""The quantiles of a window that a shift verdict compares with the baseline."""


Swings = tuple[int, ...]
"""How far quantiles lay from their predictions, added up over marks of the clock; whole numbers, so sums are exact.

For each of :data:`QUANTILES` in turn the sum of the squared distances, in units of 1/4096 square octave, and the number
of marks that were summed.
"""

NO_SWINGS: Final[Swings] = (0,) * (2 * len(QUANTILES))
"""Those of an hour that was not judged."""


class Judgement(NamedTuple):
    """What the detector found about a past hour; stored beside its digest.

    Attributes:
        quarantined: the hour was anomalous, so it is kept and shown but neither pooled nor part of the swing.
        swings: how far the hour lay from its own prediction.
    """

    quarantined: bool = False
    swings: Swings = NO_SWINGS


UNJUDGED: Final = Judgement()

by_start = attrgetter("start")


class StoredWindow(NamedTuple):
    """What the store has of one series in one window of the ledger.

    Attributes:
        start: start of the window, unix seconds.
        traces: how many traces it holds.
        digest: their durations, as :func:`.histogram_codec.encode_digest` returns them.
        marks: the same by when they ended, as :func:`.histogram_codec.encode_marks` returns them; only hours that
            are still to be judged need it.
    """

    start: int
    traces: int
    digest: bytes
    marks: bytes = b""


class Hour:
    """The traces of one series that started in one hour of the local clock.

    Where the ledger's windows are shorter than an hour, several of them make up an hour. Digests are decoded when
    they are first needed: most hours of a history are only counted.

    Attributes:
        start: when the hour began, unix seconds.
        slot: hour of the local day and type of the day.
        day: the local date as a proleptic ordinal, to tell days apart.
        count: how many traces it holds.
        judgement: what the detector found; see :meth:`SeriesHours.judge`.
    """

    __slots__ = (
        "_counts",
        "_digest",
        "_parts",
        "_quantile_buckets",
        "_windows",
        "count",
        "day",
        "judgement",
        "slot",
        "start",
    )

    def __init__(self, civil: "CivilHour", windows: Sequence[StoredWindow], judgement: Judgement = UNJUDGED) -> None:
        """Take the windows, at least one, that the hour consists of."""
        self.start = civil.start
        self.slot = civil.slot
        self.day = civil.day
        self.count = sum([window.traces for window in windows])
        self.judgement = judgement
        self._windows = windows
        self._parts: list[tuple[StoredWindow, dict[int, int]]] | None = None
        self._counts: dict[int, int] | None = None
        self._digest: Digest | None = None
        self._quantile_buckets: tuple[int, ...] | None = None

    def __repr__(self) -> str:
        return f"Hour({self.start}, {self.slot}, count={self.count}, {self.judgement})"

    @property
    def counts(self) -> dict[int, int]:
        """Sparse counts by bucket; not to be changed.

        Raises:
            DamagedDigestError: the stored bytes are no digest.
        """
        if self._counts is None:
            parts = [part for _, part in self._decoded()]
            if len(parts) == 1:
                self._counts = parts[0]
            else:
                self._counts = dict(Digest.pool(map(Digest, parts)))
        return self._counts

    @property
    def digest(self) -> Digest:
        """The durations of its traces."""
        if self._digest is None:
            self._digest = Digest(self.counts)
        return self._digest

    @property
    def quantile_buckets(self) -> tuple[int, ...]:
        """The bucket of each of :data:`QUANTILES` within the hour alone."""
        if self._quantile_buckets is None:
            self._quantile_buckets = tuple(self.digest.quantile_buckets(QUANTILES))
        return self._quantile_buckets

    def marks(self) -> Iterator[tuple[int, list[int]]]:
        """Marks of the clock in unix seconds, and the buckets of the traces that ended by each, from fast to slow.

        A long trace may have ended in a later hour.

        Raises:
            DamagedDigestError: the stored bytes are no marks.
        """
        for window, part in self._decoded():
            if window.marks:
                # Windows of, say, six minutes do not begin at marks of the clock: take the next mark.
                late = (window.start - self.start) % MARK_SECONDS
                first = window.start + (MARK_SECONDS - late if late else 0)
                for offset, buckets in decode_marks(window.marks, part).items():
                    yield first + offset * MARK_SECONDS, buckets

    def _decoded(self) -> list[tuple[StoredWindow, dict[int, int]]]:
        if self._parts is None:
            self._parts = [(window, decode_counts(window.digest)) for window in self._windows]
        return self._parts


class CivilHour(NamedTuple):
    """An hour of the local clock.

    Attributes:
        start: when it begins, unix seconds.
        end: when the next one begins.
        slot: hour of the local day and type of the day.
        day: the local date as a proleptic ordinal, to tell days apart.
    """

    start: int
    end: int
    slot: Slot
    day: int


class HourClock:
    """Tells which local hour an instant lies in, and remembers: ten thousand series ask about the same instants."""

    _REMEMBERED: Final = 100_000
    _QUARTER_SECONDS: Final = 900
    """In time zones of today, hours of the local clock begin at multiples of this."""

    def __init__(self, calendar: Calendar) -> None:
        self._calendar = calendar
        # By quarters that begin in the hour: whoever looks at the clock asks about every second there is.
        self._known: dict[int, CivilHour] = {}

    def __reduce__(self) -> tuple[type[Self], tuple[Calendar]]:
        """For another process: the calendar, without what was asked about so far."""
        return type(self), (self._calendar,)

    def hour(self, unix_seconds: int) -> CivilHour:
        """The local hour that an instant in whole unix seconds lies in."""
        # Windows mostly begin with a quarter.
        known = self._known.get(unix_seconds)
        return self._within(unix_seconds) if known is None else known

    def _within(self, unix_seconds: int) -> CivilHour:
        quarter = unix_seconds - unix_seconds % self._QUARTER_SECONDS
        known = self._known.get(quarter)
        if known is not None and unix_seconds < known.end:
            return known
        start = self._calendar.grid_floor(unix_seconds, HOUR_SECONDS)
        local = self._calendar.local(start)
        end = self._calendar.grid_next(start, HOUR_SECONDS)
        slot = Slot(local.hour, self._calendar.day_type(local.date()))
        found = CivilHour(start, end, slot, local.toordinal())
        if start <= quarter:
            if len(self._known) >= self._REMEMBERED:
                self._known.clear()
            self._known[quarter] = found
        return found


def hours_of(
    windows: Iterable[StoredWindow], clock: HourClock, judgements: Mapping[int, Judgement] | None = None
) -> list[Hour]:
    """The hours that some windows of one series make up, in time order; empty windows make none.

    Args:
        windows: what is stored, in any order.
        clock: tells the local hours.
        judgements: what the detector found about the hours already judged, by the start of the hour.
    """
    judged = judgements or {}
    parts: dict[int, list[StoredWindow]] = {}
    for window in windows:
        if window.traces:
            parts.setdefault(clock.hour(window.start).start, []).append(window)
    return [Hour(clock.hour(start), parts[start], judged.get(start, UNJUDGED)) for start in sorted(parts)]


class Group:
    """Hours that may be pooled together, in time order.

    What was added up last is gone on from: questions mostly move on with time, so the next pool is the same hours and a
    few more.
    """

    __slots__ = ("_members", "_pooled", "_starts", "_tally", "_traces")

    def __init__(self, hours: list[Hour]) -> None:
        """Take over some hours, in time order."""
        self._members = hours
        self._starts = [hour.start for hour in self._members]
        # In all hours before each one, and before the one that is still to come; from wherever that is counted.
        self._traces = list(accumulate([hour.count for hour in self._members], initial=0))
        self._pooled: Sequence[Hour] = []
        self._tally = Tally()

    def append(self, hour: Hour) -> None:
        """Add an hour that is later than all others."""
        self._members.append(hour)
        self._starts.append(hour.start)
        self._traces.append(self._traces[-1] + hour.count)

    def discard_before(self, start: int) -> None:
        """Forget the hours that began before an instant."""
        stale = bisect_left(self._starts, start)
        del self._members[:stale], self._starts[:stale], self._traces[:stale]

    def between(self, since: int, until: int, min_traces: int = 0) -> tuple[Sequence[Hour], int]:
        """The hours that began in ``[since, until)``, and their traces; no hours where those are too few."""
        first, last = bisect_left(self._starts, since), bisect_left(self._starts, until)
        count = self._traces[last] - self._traces[first]
        return self._members[first:last] if count >= min_traces else (), count

    def pooled(self, hours: Sequence[Hour]) -> Digest:
        """All traces of some of its hours together."""
        known = self._pooled
        added = hours[len(known) :]
        if hours[: len(known)] != known:
            added, dropped = _difference(hours, known), _difference(known, hours)
            if len(added) + len(dropped) >= len(hours):
                self._tally = Tally()
                added, dropped = hours, []
            for hour in dropped:
                self._tally.subtract(hour.counts)
        for hour in added:
            self._tally.add(hour.counts)
        self._pooled = hours
        return self._tally.digest()


class SeriesHours:
    """The history of one series: its hours that had traffic, by slot and in time order."""

    __slots__ = ("_all", "_by_slot", "_by_start", "_groups", "_last_swinging", "_swings", "quarantined")

    def __init__(self, hours: Iterable[Hour] = ()) -> None:
        """Take hours in any order."""
        self._by_start: dict[int, Hour] = {}
        self._all: list[Hour] = []
        self._by_slot: dict[Slot, list[Hour]] = {}
        # Those that were asked for, by the slots that they take in.
        self._groups: dict[frozenset[Slot], Group] = {}
        self.quarantined: set[int] = set()
        """Starts of the hours that are quarantined."""
        self._swings = NO_SWINGS
        # No later hour is among those.
        self._last_swinging = 0
        for hour in sorted(hours, key=by_start):
            self.append(hour)

    def __iter__(self) -> Iterator[Hour]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def append(self, hour: Hour) -> None:
        """Add an hour that is later than all others."""
        self._by_start[hour.start] = hour
        self._all.append(hour)
        self._by_slot.setdefault(hour.slot, []).append(hour)
        for slots, group in self._groups.items():
            if hour.slot in slots:
                group.append(hour)
        self._take_in(hour)

    def judge(self, hour: Hour, judgement: Judgement) -> None:
        """Replace the judgement of one of the hours."""
        self._take_out(hour)
        hour.judgement = judgement
        self._take_in(hour)

    def discard_before(self, start: int) -> None:
        """Forget the hours that began before an instant."""
        if not self._all or self._all[0].start >= start:
            return
        while self._all and self._all[0].start < start:
            hour = self._all.pop(0)
            del self._by_start[hour.start]
            self._by_slot[hour.slot].pop(0)
            self._take_out(hour)
        for group in self._groups.values():
            group.discard_before(start)

    def at(self, start: int) -> Hour | None:
        """The hour that began at an instant, if it had traffic."""
        return self._by_start.get(start)

    def among(self, slots: frozenset[Slot]) -> Group:
        """The hours of some slots; to be asked for with few different sets of them."""
        group = self._groups.get(slots)
        if group is None:
            members = list(chain.from_iterable([self._by_slot[slot] for slot in slots if slot in self._by_slot]))
            if len(slots) > 1:
                members.sort(key=by_start)
            group = self._groups[slots] = Group(members)
        return group

    def swings(self, until: int, released: Iterable[Hour] = ()) -> Swings:
        """What the swings of all hours that began before an instant and are not quarantined add up to.

        Args:
            until: the instant, unix seconds.
            released: quarantined hours before it that count all the same.
        """
        swings = self._swings
        if self._last_swinging >= until:
            for hour in takewhile(lambda hour: hour.start >= until, reversed(self._all)):
                if not hour.judgement.quarantined:
                    swings = tuple(map(sub, swings, hour.judgement.swings))
        for hour in released:
            swings = tuple(map(add, swings, hour.judgement.swings))
        return swings

    def _take_in(self, hour: Hour) -> None:
        if hour.judgement.quarantined:
            self.quarantined.add(hour.start)
        elif hour.judgement.swings != NO_SWINGS:
            self._swings = tuple(map(add, self._swings, hour.judgement.swings))
            if hour.start > self._last_swinging:
                self._last_swinging = hour.start

    def _take_out(self, hour: Hour) -> None:
        if hour.judgement.quarantined:
            self.quarantined.discard(hour.start)
        elif hour.judgement.swings != NO_SWINGS:
            self._swings = tuple(map(sub, self._swings, hour.judgement.swings))


def _difference(hours: Sequence[Hour], others: Sequence[Hour]) -> Sequence[Hour]:
    known = set(others)
    return [hour for hour in hours if hour not in known]
