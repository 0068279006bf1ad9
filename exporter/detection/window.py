"""Recent traces of one series by end time, and the evaluation windows over them.

Traces are keyed by when they *ended*. Keyed by their start, the newest minutes of a window would lack exactly the slow
traces, which are still running.

An evaluation window ending at ``now`` is ``(now - window_seconds, now]``. If it has fewer than ``min_traces`` traces,
its start moves back until it has, by whole seconds and to at most ``max_window_seconds`` before ``now``.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, compress, pairwise, repeat
from math import ceil
from typing import Final, NamedTuple

from exporter.detection.parameters import (
    FRESH_SECONDS,
    FRESH_TRACES,
    LEVEL_MARKS,
    MIN_EVALUATED_TRACES,
    MIN_EXCEEDANCES,
    TAIL_WINDOWS_MARKS,
    Parameters,
)
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.histogram import ZERO_BUCKET, bucket_middle_seconds
from exporter.model.histogram_codec import MARK_SECONDS, decode_counts, encode_counts
from exporter.model.hour_evaluation import QUANTILES

_NANOSECONDS: Final = 1_000_000_000
_ROUNDING: Final = 1e-9
_RUN_SECONDS: Final = 4 * HOUR_SECONDS
_RUN_ENTRIES: Final = 128
"""The runs of sparse series are needed from where the evaluated history ends, which may be three hours ago."""


def end_second(end_ns: int) -> int:
    """Round an end time up to whole seconds: second s represents ``(s - 1, s]``."""
    return -(-end_ns // _NANOSECONDS)


@lru_cache(maxsize=4096)
def rank_of(q: float, n: int) -> int:
    """Return the nearest rank ``max(1, ceil(q n))`` of quantile ``q`` among ``n`` traces, counted from 1."""
    return max(1, ceil(q * n - _ROUNDING))


@lru_cache(maxsize=4096)
def quantile_positions(n: int) -> tuple[int, ...]:
    """Return the indices of the :data:`QUANTILES` in a sorted window of ``n`` traces."""
    return tuple(rank_of(q, n) - 1 for q in QUANTILES)


@lru_cache(maxsize=4096)
def gated_positions(n: int) -> tuple[int, ...]:
    """Return, for each quantile, the index in a sorted window of ``n`` traces that lies above the gate in a shift.

    In a shift the quantile and the :data:`MIN_EXCEEDANCES` slowest traces lie above the gate, so this is the lower of
    the two indices. Empty if the window has too few traces.
    """
    first_exceedance = n - MIN_EXCEEDANCES
    return tuple(min(position, first_exceedance) for position in quantile_positions(n)) if first_exceedance >= 0 else ()


def past_mark(now: float) -> int:
    """Return the last mark at or before an instant, Unix seconds."""
    return int(now // MARK_SECONDS) * MARK_SECONDS


def next_mark(second: float) -> int:
    """Return the first mark at or after an instant, Unix seconds."""
    return ceil(second / MARK_SECONDS) * MARK_SECONDS


def _marks_reach(now: float) -> tuple[int, int]:
    """Return the instants between which the oldest window of the level lies, for ticks at or after ``now``."""
    newest = past_mark(now) - LEVEL_MARKS * MARK_SECONDS
    return newest - MARK_SECONDS, newest


def _tail_reach(now: float) -> int:
    """Return the mark up to which traces are too old for the windows of the slowest ones, for ticks behind ``now``."""
    return past_mark(now) - TAIL_WINDOWS_MARKS[-1] * MARK_SECONDS


MarkedBuckets = tuple[int, list[int]]
"""The traces that ended up to a mark (Unix seconds), and after the one before: their buckets in ascending order."""


class MarkedTail(NamedTuple):
    """The slowest traces that ended up to a mark, and after the one before.

    Attributes:
        mark: Unix seconds.
        traces: number of all that ended then.
        slowest: buckets above some limit, in ascending order.
    """

    mark: int
    traces: int
    slowest: Sequence[int]


class RecentTraces:
    """Traces of one series in order of their end.

    Those that an evaluation window may need have a resolution of one second and take ten bytes each. Older ones are
    counted by mark, for the long window and the level.
    """

    __slots__ = ("_buckets", "_by_mark", "_old", "_seconds", "_tails")

    def __init__(self, entries: Iterable[tuple[int, int, int]] = ()) -> None:
        """Add traces given as second, bucket and count, as yielded by iteration."""
        # The last result of by_mark() up to a mark: all ticks within five minutes ask for the same, to know the level.
        self._by_mark: tuple[int, float, list[MarkedBuckets]] | None = None
        # The same of tails(), with the limit.
        self._tails: tuple[int, float, int, list[MarkedTail]] | None = None
        self._seconds = array("q")
        self._buckets = array("h")
        # Ascending: mark, bucket and count, packed into one integer each.
        self._old = array("q")
        for second, bucket, count in entries:
            self.add(second, bucket, count)

    def __len__(self) -> int:
        """Return the number of entries in memory: one for each trace, or for some old ones of the same bucket."""
        return len(self._seconds) + len(self._old)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Yield second, bucket and count in ascending order, each pair of second and bucket once.

        Of old traces the second is the mark up to which they ended.
        """
        entries = Counter(zip(self._seconds, self._buckets, strict=True))
        recent = ((second, bucket, count) for (second, bucket), count in sorted(entries.items()))
        return chain(map(_unpack, self._old), recent)

    @property
    def is_sparse(self) -> bool:
        """Whether no window can be evaluated: there are too few traces."""
        return len(self._seconds) < MIN_EVALUATED_TRACES

    def add(self, second: int, bucket: int, count: int = 1) -> None:
        """Add traces that ended in a second (see :func:`end_second`), in any order."""
        if self._by_mark is not None and second <= self._by_mark[1]:
            self._by_mark = None
        if self._tails is not None and second <= self._tails[1]:
            self._tails = None
        seconds = self._seconds
        if not seconds or second >= seconds[-1]:
            seconds.extend([second] * count)
            self._buckets.extend([bucket] * count)
            return
        position = bisect_right(seconds, second)
        seconds[position:position] = array("q", [second]) * count
        self._buckets[position:position] = array("h", [bucket]) * count

    def extend(self, second: int, buckets: Sequence[int]) -> None:
        """Add traces that ended in a second, given by their buckets."""
        if self._seconds and second < self._seconds[-1]:
            for bucket in buckets:
                self.add(second, bucket)
        else:
            self._forget()
            self._buckets.extend(buckets)
            self._seconds.extend([second] * len(buckets))

    def discard(self, now: float, parameters: Parameters) -> bool:
        """Drop the traces that no window ending at or after ``now`` contains; returns whether there were any."""
        seconds = self._seconds
        if not seconds:
            return False
        length = max(parameters.window_seconds, FRESH_SECONDS)
        # Whole marks only, so that this is done every five minutes and not at every tick.
        oldest = past_mark(now - length) if parameters.needs_marks else now - min(length, parameters.max_window_seconds)
        if seconds[0] > oldest:
            return False
        first = bisect_right(seconds, oldest)
        needed = bisect_right(seconds, now) - max(parameters.min_traces, FRESH_TRACES)
        kept = max(self._start_of_second(needed), bisect_right(seconds, now - parameters.max_window_seconds))
        first = min(first, kept)
        if first > 0:
            self._forget()
            if parameters.needs_marks:
                self._age(first, now, parameters)
            del seconds[:first]
            del self._buckets[:first]
        return first > 0

    def _age(self, first: int, now: float, parameters: Parameters) -> None:
        """Count the traces before a position by mark, and drop the marks that no tick at or after ``now`` needs."""
        counts = Counter(zip(map(next_mark, self._seconds[:first]), self._buckets[:first], strict=True))
        added = sorted([_pack(mark, bucket, count) for (mark, bucket), count in counts.items()])
        in_order = not self._old or self._old[-1] < added[0]
        self._old.extend(added)
        if not in_order:
            self._old = array("q", sorted(self._old))
        # The oldest window of the level is extended into the past where it has few traces.
        since, until = _marks_reach(now)
        oldest, traces, previous = until - parameters.max_window_seconds, 0, until
        for packed in reversed(self._old):
            mark, _, count = _unpack(packed)
            if mark > until:
                continue
            if mark <= since and traces >= parameters.min_traces and mark != previous:
                oldest = max(oldest, mark)
                break
            traces += count
            previous = mark
        if parameters.parts.tail:
            oldest = min(oldest, _tail_reach(now))
        if parameters.parts.runs and len(self._old) <= _RUN_ENTRIES:
            oldest = min(oldest, past_mark(now) - _RUN_SECONDS)
        del self._old[: bisect_left(self._old, _pack(oldest + 1, ZERO_BUCKET, 0))]

    def by_mark(self, since: int, until: float) -> list[MarkedBuckets]:
        """Return the traces that ended in ``(since, until]`` by mark, in order; marks without traces are left out.

        Args:
            since: a mark, Unix seconds.
            until: Unix seconds.

        Returns:
            Must not be modified.
        """
        if self._by_mark is not None and self._by_mark[:2] == (since, until):
            return self._by_mark[2]
        found = self._grouped(since, until)
        marked = [(mark, sorted(found[mark])) for mark in sorted(found)]
        if until % MARK_SECONDS == 0:
            self._by_mark = since, until, marked
        return marked

    def tails(self, since: int, until: float, limit: int) -> list[MarkedTail]:
        """Return the slowest traces that ended in ``(since, until]`` by mark; marks without traces are left out.

        Args:
            since: a mark, Unix seconds.
            until: Unix seconds.
            limit: traces above this bucket are returned, others only counted.

        Returns:
            Must not be modified.
        """
        if self._tails is not None and self._tails[:3] == (since, until, limit):
            return self._tails[3]
        grouped = self._grouped(since, until)
        found = [
            MarkedTail(mark, len(grouped[mark]), sorted([bucket for bucket in grouped[mark] if bucket > limit]))
            for mark in sorted(grouped)
        ]
        if until % MARK_SECONDS == 0:
            self._tails = since, until, limit, found
        return found

    def _grouped(self, since: int, until: float) -> dict[int, list[int]]:
        """Return the buckets of the traces that ended in ``(since, until]`` by mark, in any order."""
        found: dict[int, list[int]] = {}
        for mark, bucket, count in map(_unpack, self._old[bisect_left(self._old, _pack(since + 1, ZERO_BUCKET, 0)) :]):
            if mark > until:
                break
            found.setdefault(mark, []).extend([bucket] * count)
        first, last = bisect_right(self._seconds, since), bisect_right(self._seconds, ceil(until))
        while first < last:
            mark = next_mark(self._seconds[first])
            middle = bisect_right(self._seconds, mark, first, last)
            found.setdefault(mark, []).extend(self._buckets[first:middle])
            first = middle
        return found

    def _forget(self) -> None:
        self._by_mark = self._tails = None

    def keep(self, predicate: Callable[[int], bool]) -> None:
        """Keep only the traces that ended in seconds for which ``predicate(start of the second)`` holds.

        Old traces have no second, so they are dropped.
        """
        self._forget()
        self._old = array("q")
        seconds = self._seconds
        kept = {second for second in set(seconds) if predicate(second - 1)}
        selectors = [second in kept for second in seconds]
        self._seconds = array("q", compress(seconds, selectors))
        self._buckets = array("h", compress(self._buckets, selectors))

    def drop(self, since: int, until: int) -> None:
        """Drop the traces that ended in ``(since, until]``, and old ones of which some may have."""
        self._forget()
        first, last = bisect_right(self._seconds, since), bisect_right(self._seconds, until)
        del self._seconds[first:last], self._buckets[first:last]
        if any(since < mark and mark - MARK_SECONDS < until for mark, _, _ in map(_unpack, self._old)):
            self._old = array("q", [each for each in self._old if not since < _unpack(each)[0] < until + MARK_SECONDS])

    def has_counted_after(self, second: int) -> bool:
        """Whether traces that are only counted by mark may have ended after a second."""
        return bool(self._old) and _unpack(self._old[-1])[0] > second

    def window(self, now: float, parameters: Parameters) -> "EvaluationWindow":
        """Return the evaluation window that ends at ``now``."""
        return self.between(*self.bounds(now, parameters))

    def fresh_window(self, now: float, parameters: Parameters) -> "EvaluationWindow":
        """Return the newest :data:`FRESH_SECONDS`, extended like an evaluation window to :data:`FRESH_TRACES`.

        It is never longer than an evaluation window can be.
        """
        return self.newest(now, FRESH_SECONDS, FRESH_TRACES, parameters)

    def newest(self, now: float, length_seconds: int, min_traces: int, parameters: Parameters) -> "EvaluationWindow":
        """Return the traces of the last seconds, extended like an evaluation window to a number of traces."""
        length = min(length_seconds, parameters.max_window_seconds)
        return self.between(*self._bounds(now, length, min_traces, parameters.max_window_seconds))

    def bounds(self, now: float, parameters: Parameters) -> tuple[int, int]:
        """Return the positions at which the evaluation window begins and ends.

        As long as no traces are added or dropped, equal bounds mean the same window.
        """
        return self._bounds(now, parameters.window_seconds, parameters.min_traces, parameters.max_window_seconds)

    def between(self, first: int, last: int) -> "EvaluationWindow":
        """Return the traces at positions in ``[first, last)``."""
        return EvaluationWindow(self._seconds, self._buckets, first, last)

    def _bounds(self, now: float, length_seconds: int, min_traces: int, max_seconds: int) -> tuple[int, int]:
        seconds = self._seconds
        last = bisect_right(seconds, ceil(now))
        first = bisect_right(seconds, now - length_seconds, 0, last)
        if last - first < min_traces and first > 0:
            oldest = bisect_right(seconds, now - max_seconds, 0, first)
            first = max(oldest, self._start_of_second(last - min_traces))
        return first, last

    def _start_of_second(self, position: int) -> int:
        """Return the position of the first trace that ended in the same second as the one at ``position``.

        Windows contain whole seconds, so that they do not depend on the order in which traces were added.
        """
        return bisect_left(self._seconds, self._seconds[position]) if position > 0 else 0


_BUCKET_BITS: Final = 12
_COUNT_BITS: Final = 19
_MAX_COUNT: Final = (1 << _COUNT_BITS) - 1


def _pack(mark: int, bucket: int, count: int) -> int:
    """Pack a mark, a bucket and a count, at most 524,287, into 63 bits that sort in this order."""
    return (mark << _BUCKET_BITS | bucket - ZERO_BUCKET) << _COUNT_BITS | min(count, _MAX_COUNT)


def _unpack(packed: int) -> tuple[int, int, int]:
    rest = packed >> _COUNT_BITS
    return rest >> _BUCKET_BITS, (rest & (1 << _BUCKET_BITS) - 1) + ZERO_BUCKET, packed & _MAX_COUNT


class EvaluationWindow:
    """The traces of one evaluation window: a view of :class:`RecentTraces`, valid until those change."""

    __slots__ = ("_buckets", "_first", "_last", "_seconds", "_sorted")

    def __init__(self, seconds: "array[int]", buckets: "array[int]", first: int, last: int) -> None:
        self._seconds = seconds
        self._buckets = buckets
        self._sorted: list[int] | None = None
        self._first = first
        self._last = last

    @property
    def traces(self) -> int:
        """Number of traces."""
        return self._last - self._first

    @property
    def first_second(self) -> int:
        """End second of the first trace; the window must not be empty."""
        return self._seconds[self._first]

    @property
    def buckets(self) -> list[int]:
        """Buckets of the traces in ascending order."""
        if self._sorted is None:
            self._sorted = sorted(self._buckets[self._first : self._last])
        return self._sorted

    def quantile_bucket(self, q: float) -> int:
        """Return the bucket of quantile ``q`` (nearest rank); the window must not be empty."""
        return self.buckets[rank_of(q, self.traces) - 1]

    def quantile_seconds(self, q: float) -> float:
        """Return quantile ``q`` in seconds; the window must not be empty."""
        return bucket_middle_seconds(self.quantile_bucket(q))

    def after(self, second: int) -> "EvaluationWindow":
        """Return the part of the window that ended after a second."""
        if not self.traces or self._seconds[self._first] > second:
            return self
        first = bisect_right(self._seconds, second, self._first, self._last)
        return EvaluationWindow(self._seconds, self._buckets, first, self._last)

    def split(self, instants: Sequence[int]) -> list[list[int]]:
        """Split the window at descending instants into sorted lists of buckets, newest first.

        Each part contains what ended after its instant, up to the previous one; what ended up to the last is omitted.
        """
        parts = []
        last = self._last
        for instant in instants:
            middle = bisect_right(self._seconds, instant, self._first, last)
            parts.append(sorted(self._buckets[middle:last]))
            last = middle
        return parts


@lru_cache(maxsize=1)
def decoded_traces(traces: tuple[tuple[int, bytes], ...]) -> tuple[MarkedBuckets, ...]:
    """Decode traces as returned by :meth:`MarkedTraces.encoded`; those of a state are checked first, then used.

    Raises:
        DamagedDigestError: the bytes are damaged.
    """
    return tuple([(mark, _expanded(decode_counts(digest))) for mark, digest in traces])


def _counted(buckets: Iterable[int]) -> dict[int, int]:
    """Return how often each bucket occurs, in the same order."""
    # Counter() takes as long for a few buckets as this for fifty.
    counts: dict[int, int] = {}
    for bucket in buckets:
        counts[bucket] = counts.get(bucket, 0) + 1
    return counts


def _expanded(counts: Mapping[int, int]) -> list[int]:
    return list(chain.from_iterable(map(repeat, counts, counts.values())))


SweptWindow = tuple[list[int], list[int], int]
"""An evaluation window shared by some instants: these in Unix seconds, its buckets in ascending order, and the last
second before its first mark."""


class MarkedTraces:
    """Traces of one series by the mark up to which they ended: :class:`RecentTraces` for history.

    Has the resolution of stored history, and computes all windows of an hour in one pass, because the evaluation of
    history visits millions of them.
    """

    __slots__ = ("_buckets", "_marks", "_recent", "_starts")

    def __init__(self, traces: tuple[tuple[int, bytes], ...] = ()) -> None:
        """Add traces as returned by :meth:`encoded`.

        Raises:
            DamagedDigestError: the bytes are damaged.
        """
        self._marks: list[int] = []
        # _buckets concatenates the sorted buckets of all marks. Those of marks[i] begin at starts[i] - starts[0], and
        # the last element of _starts is the end; so dropping marks at the front needs no renumbering.
        self._buckets: list[int] = []
        self._starts: list[int] = [0]
        self._recent: RecentTraces | None = None
        self.add(decoded_traces(traces))

    def __len__(self) -> int:
        return len(self._buckets)

    def any_after(self, second: int) -> bool:
        """Whether some traces ended after an instant."""
        return bool(self._marks) and self._marks[-1] > second

    def encoded(self) -> tuple[tuple[int, bytes], ...]:
        """Return the marks, each with the encoded digest of its traces."""
        traces = self.by_mark(self._marks[0] - 1, self._marks[-1]) if self._marks else []
        return tuple([(mark, encode_counts(_counted(buckets))) for mark, buckets in traces])

    def add(self, traces: Iterable[tuple[int, Sequence[int]]]) -> None:
        """Add traces given as marks with their sorted buckets."""
        self._recent = None
        marks, starts, buckets = self._marks, self._starts, self._buckets
        newest, end = marks[-1] if marks else -1, starts[-1]
        for mark, ended in traces:
            if mark > newest:
                newest = mark
                marks.append(mark)
                buckets += ended
                end += len(ended)
                starts.append(end)
            else:
                self._insert(mark, ended)
                end = starts[-1]

    def _insert(self, mark: int, ended: Sequence[int]) -> None:
        marks, starts, buckets = self._marks, self._starts, self._buckets
        index = bisect_left(marks, mark)
        if marks[index] != mark:
            marks.insert(index, mark)
            starts.insert(index, starts[index])
        first, last = starts[index] - starts[0], starts[index + 1] - starts[0]
        buckets[first:last] = sorted([*buckets[first:last], *ended])
        starts[index + 1 :] = [start + len(ended) for start in starts[index + 1 :]]

    def discard(self, now: int, parameters: Parameters) -> None:
        """Drop the traces that no window ending at or after ``now`` contains."""
        needed = max(parameters.min_traces, FRESH_TRACES)
        length = max(parameters.window_seconds, FRESH_SECONDS)
        first = self._first_needed(now - length, now, needed, parameters)
        if parameters.needs_marks:
            first = min(first, self._first_needed(*_marks_reach(now), parameters.min_traces, parameters))
        if parameters.parts.tail:
            first = min(first, bisect_right(self._marks, _tail_reach(now)))
        if first > 0:
            self._recent = None
            del self._buckets[: self._starts[first] - self._starts[0]]
            del self._marks[:first], self._starts[:first]

    def drop(self, since: int, until: int) -> None:
        """Drop the traces that ended at the marks in ``(since, until]``."""
        if not self._marks or bisect_right(self._marks, since) == bisect_right(self._marks, until):
            return
        kept = self.by_mark(self._marks[0] - 1, since) + self.by_mark(until, self._marks[-1])
        self._marks, self._buckets, self._starts = [], [], [0]
        self.add(kept)

    def _first_needed(self, since: int, until: int, needed: int, parameters: Parameters) -> int:
        """Return the index of the first mark of a window ``(since, until]`` that is extended to some traces."""
        marks, starts = self._marks, self._starts
        first = bisect_right(marks, since)
        enough = bisect_right(starts, starts[bisect_right(marks, until)] - needed) - 1
        if enough < first:
            first = max(enough, bisect_right(marks, until - parameters.max_window_seconds))
        return first

    def by_mark(self, since: int, until: float) -> list[MarkedBuckets]:
        """Return the traces that ended in ``(since, until]`` by mark, as :meth:`RecentTraces.by_mark` does."""
        starts, base = self._starts, self._starts[0]
        first, last = bisect_right(self._marks, since), bisect_right(self._marks, until)
        return [
            (self._marks[i], self._buckets[starts[i] - base : starts[i + 1] - base])
            for i in range(first, last)
            if starts[i] < starts[i + 1]
        ]

    def tails(self, since: int, until: float, limit: int) -> list[MarkedTail]:
        """Return the slowest traces that ended in ``(since, until]`` by mark, as :meth:`RecentTraces.tails` does."""
        marks, starts, buckets, base = self._marks, self._starts, self._buckets, self._starts[0]
        found = []
        for i in range(bisect_right(marks, since), bisect_right(marks, until)):
            first, last = starts[i] - base, starts[i + 1] - base
            if first < last:
                slowest = buckets[bisect_right(buckets, limit, first, last) : last]
                found.append(MarkedTail(marks[i], last - first, slowest))
        return found

    def between(self, since: int, until: float) -> list[int]:
        """Return the buckets of the traces that ended in ``(since, until]``, in ascending order."""
        marks, starts = self._marks, self._starts
        first, last = starts[bisect_right(marks, since)], starts[bisect_right(marks, until)]
        return sorted(self._buckets[first - starts[0] : last - starts[0]])

    def count_between(self, since: int, until: float) -> int:
        """Return the number of traces that ended in ``(since, until]``."""
        marks, starts = self._marks, self._starts
        return starts[bisect_right(marks, until)] - starts[bisect_right(marks, since)]

    def recent(self) -> RecentTraces:
        """Return the same traces as :class:`RecentTraces`, for a full tick; must not be modified."""
        if self._recent is None:
            self._recent = RecentTraces()
            for mark, (first, last) in zip(self._marks, pairwise(self._starts), strict=True):
                self._recent.extend(mark, self._buckets[first - self._starts[0] : last - self._starts[0]])
        return self._recent

    def sweep(self, instants: Sequence[int], since: int, parameters: Parameters) -> list[SweptWindow]:
        """Return the evaluation windows at ascending instants (at least one), without what ended up to ``since``."""
        marks, starts, buckets = self._marks, self._starts, self._buckets
        length, min_traces, longest = parameters.window_seconds, parameters.min_traces, parameters.max_window_seconds
        size, base, oldest = len(marks), starts[0], starts[bisect_right(marks, since)]
        windows: list[SweptWindow] = []
        previous_first = previous_last = enough = -1
        # Both bounds only move forward, because instants ascend.
        last = bisect_right(marks, instants[0])
        unextended = bisect_right(marks, instants[0] - length)
        for now in instants:
            while last < size and marks[last] <= now:
                last += 1
            while unextended < last and marks[unextended] <= now - length:
                unextended += 1
            if last != previous_last:
                enough = bisect_right(starts, starts[last] - min_traces) - 1
            first = unextended
            if enough < first:
                first = bisect_right(marks, now - longest)
                if enough > first:
                    first = enough
            if first == previous_first and last == previous_last:
                windows[-1][0].append(now)
            else:
                previous_first, previous_last = first, last
                begin = starts[first]
                if begin < oldest:
                    begin = oldest
                window = buckets[begin - base : starts[last] - base]
                window.sort()
                before = (marks[first] if first < last else now) - MARK_SECONDS
                if before < since:
                    before = since
                windows.append(([now], window, before))
        return windows
