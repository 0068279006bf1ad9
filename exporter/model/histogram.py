"""Mergeable digests of durations: base-2 exponential histograms at scale 5.

Bucket ``i`` holds durations in ``(2^(i/32), 2^((i+1)/32)]`` seconds: the exponential histogram of the OpenTelemetry
metrics data model and the native histogram of Prometheus (schema 5). Buckets grow by 2^(1/32), so the geometric
middle of a bucket is within 2^(1/64) - 1 = 1.1 % of everything in it. A duration of zero has no logarithm and a
bucket of its own below all others.

Merging adds counts, which is exact: the digest of pooled samples is the sum of their digests. No quantile is ever
interpolated; it is the bucket that holds the sample of that rank.

The sum of digests that come and go: what a sliding pool of hours keeps, so that it need not be added up anew.

Pools are added to far more often than they are looked at, and their buckets lie close together. So they are kept as one
stretch of counts, most of them not zero, instead of by bucket.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from math import ceil, log2
from typing import Final, Self

BUCKETS_PER_OCTAVE: Final = 32
ZERO_BUCKET: Final = -1024
"""Holds durations of exactly zero; one nanosecond falls into bucket -957."""
HIGHEST_BUCKET: Final = 1087
"""Holds durations up to 2^34 s, five centuries: more than the nanoseconds that 64 bits can count."""

_LOG2_NANOSECOND: Final = log2(1e-9)
_BUCKETS: Final = tuple(range(ZERO_BUCKET, HIGHEST_BUCKET + 1))
# Absorbs the rounding of log2, so that an exact power of two lands at its bucket's upper, inclusive bound.
_EPSILON: Final = 1e-9


def bucket_of_ns(duration_ns: int) -> int:
    """The bucket of a duration in whole nanoseconds (not negative)."""
    if duration_ns <= 0:
        return ZERO_BUCKET
    return ceil((log2(duration_ns) + _LOG2_NANOSECOND) * BUCKETS_PER_OCTAVE - _EPSILON) - 1


def bucket_of_seconds(seconds: float) -> int:
    """The bucket of a duration in seconds.

    Samples in higher buckets are certainly longer than ``seconds``.
    """
    if seconds <= 0:
        return ZERO_BUCKET
    return max(ZERO_BUCKET, ceil(log2(seconds) * BUCKETS_PER_OCTAVE - _EPSILON) - 1)


def bucket_upper_seconds(bucket: int) -> float:
    """The largest duration that a bucket holds, in seconds."""
    return 0.0 if bucket <= ZERO_BUCKET else 2.0 ** ((bucket + 1) / BUCKETS_PER_OCTAVE)


def bucket_middle_seconds(bucket: int) -> float:
    """The geometric middle of a bucket in seconds: what stands for its samples."""
    return 0.0 if bucket <= ZERO_BUCKET else 2.0 ** ((bucket + 0.5) / BUCKETS_PER_OCTAVE)


class Digest:
    """An immutable digest of durations.

    Two digests with the same counts are equal. An empty digest has no quantiles; asking for one is a
    :class:`ValueError`.
    """

    __slots__ = ("_buckets", "_cumulative", "count")

    count: int
    """How many durations it holds."""

    def __init__(self, counts: Mapping[int, int]) -> None:
        """Take over sparse counts by bucket; none may be negative, and those of zero are dropped."""
        if not all(counts.values()):
            counts = {bucket: count for bucket, count in counts.items() if count}
        self._buckets: Sequence[int] = sorted(counts)
        self._cumulative = list(accumulate(map(counts.__getitem__, self._buckets)))
        self.count = self._cumulative[-1] if self._cumulative else 0

    @classmethod
    def of_stretch(cls, lowest: int, counts: Iterable[int]) -> Self:
        """The digest of a stretch of neighbouring buckets.

        Args:
            lowest: the first bucket of the stretch; unless the stretch is empty, it must hold something.
            counts: how many durations each of them holds; may be none.
        """
        self = cls.__new__(cls)
        self._cumulative = list(accumulate(counts))
        self._buckets = _BUCKETS[lowest - ZERO_BUCKET : lowest - ZERO_BUCKET + len(self._cumulative)]
        self.count = self._cumulative[-1] if self._cumulative else 0
        return self

    @classmethod
    def of_ns(cls, durations_ns: Iterable[int]) -> Self:
        """The digest of some durations in nanoseconds."""
        return cls(Counter(map(bucket_of_ns, durations_ns)))

    @classmethod
    def pool(cls, digests: "Iterable[Digest]") -> Self:
        """The digest of all samples of several digests together."""
        counts: dict[int, int] = {}
        for digest in digests:
            for bucket, count in digest:
                counts[bucket] = counts.get(bucket, 0) + count
        return cls(counts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Pairs of bucket and count, by rising bucket."""
        below = 0
        for bucket, cumulative in zip(self._buckets, self._cumulative, strict=True):
            if cumulative > below:
                yield bucket, cumulative - below
                below = cumulative

    def __bool__(self) -> bool:
        return self.count > 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Digest):
            return NotImplemented
        return self.count == other.count and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Digest({dict(self)!r})"

    def quantile_bucket(self, q: float) -> int:
        """The smallest bucket that at least the share ``q`` of the samples reaches (nearest rank, 0 ≤ q ≤ 1)."""
        (bucket,) = self.quantile_buckets((q,))
        return bucket

    def quantile_buckets(self, qs: Iterable[float]) -> list[int]:
        """The buckets of several quantiles."""
        buckets, cumulative, count = self._buckets, self._cumulative, self.count
        if not count:
            raise ValueError("an empty digest has no quantiles")
        # Whole ranks, since Python compares whole numbers with one another in half the time.
        return [buckets[bisect_left(cumulative, ceil(q * count - _EPSILON))] for q in qs]

    def quantile_seconds(self, q: float) -> float:
        """The quantile ``q`` in seconds, within 1.1 % of the sample of that rank."""
        return bucket_middle_seconds(self.quantile_bucket(q))

    def count_above(self, bucket: int) -> int:
        """How many samples lie in buckets higher than ``bucket``."""
        position = bisect_right(self._buckets, bucket)
        return self.count - (self._cumulative[position - 1] if position else 0)

    def mad_seconds(self) -> float:
        """The median absolute deviation from the median in seconds, each sample standing at its bucket's middle."""
        median = self.quantile_seconds(0.5)
        deviations = sorted((abs(bucket_middle_seconds(bucket) - median), count) for bucket, count in self)
        seen = 0
        for deviation, count in deviations:
            seen += count
            if seen >= 0.5 * self.count - _EPSILON:
                return deviation
        raise AssertionError("unreachable: the counts add up to the total")


class Tally:
    """How many durations each bucket holds, over some digests that may be added and taken off again."""

    __slots__ = ("_counts", "_end", "_lowest")

    def __init__(self) -> None:
        """Begin with none."""
        self._lowest = self._end = 0
        self._counts: list[int] = []

    def add(self, counts: dict[int, int]) -> None:
        """Add what a digest holds, by rising bucket."""
        if not counts:
            return
        first, last = next(iter(counts)), next(reversed(counts.keys()))
        if first < self._lowest or last >= self._end:
            self._make_room(first, last)
        mine, lowest = self._counts, self._lowest
        for bucket, count in counts.items():
            mine[bucket - lowest] += count

    def subtract(self, counts: dict[int, int]) -> None:
        """Take off what was added before."""
        mine, lowest = self._counts, self._lowest
        for bucket, count in counts.items():
            mine[bucket - lowest] -= count

    def digest(self) -> Digest:
        """All of them together, as they are now."""
        counts, first = self._counts, 0
        while first < len(counts) and not counts[first]:
            first += 1
        return Digest.of_stretch(self._lowest + first, counts[first:] if first else counts)

    def _make_room(self, first: int, last: int) -> None:
        if not self._counts:
            self._lowest = self._end = first
        if first < self._lowest:
            self._counts[:0] = [0] * (self._lowest - first)
            self._lowest = first
        if last >= self._end:
            self._counts += [0] * (last + 1 - self._end)
            self._end = last + 1
