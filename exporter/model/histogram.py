"""Digests: exponential histograms of durations, base 2, scale 5.

Bucket ``i`` counts durations in ``(2^(i/32), 2^((i+1)/32)]`` seconds. These are the buckets of the OpenTelemetry
exponential histogram at scale 5 and of Prometheus native histograms at schema 5. Bounds grow by ``2^(1/32)``, so the
geometric middle of a bucket is within ``2^(1/64) - 1`` = 1.1 % of every duration in it. A duration of zero, which has
no logarithm, has a bucket of its own below all others.

Digests merge exactly: the digest of pooled samples is the sum of their digests. Quantiles are not interpolated: a
quantile is the bucket that contains the sample of that rank (nearest rank).
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from math import ceil, log2
from typing import Final, Self

BUCKETS_PER_OCTAVE: Final = 32
ZERO_BUCKET: Final = -1024
"""Bucket of durations of exactly zero; one nanosecond falls into bucket -957."""
HIGHEST_BUCKET: Final = 1087
"""Upper bound 2^34 s: above any number of nanoseconds that fits into 64 bits."""

_LOG2_NANOSECOND: Final = log2(1e-9)
_BUCKETS: Final = tuple(range(ZERO_BUCKET, HIGHEST_BUCKET + 1))
# Absorbs the rounding error of log2: an exact power of two is the inclusive upper bound of its bucket.
_EPSILON: Final = 1e-9


def bucket_of_ns(duration_ns: int) -> int:
    """Return the bucket of a duration in whole nanoseconds (not negative)."""
    if duration_ns <= 0:
        return ZERO_BUCKET
    return ceil((log2(duration_ns) + _LOG2_NANOSECOND) * BUCKETS_PER_OCTAVE - _EPSILON) - 1


def bucket_of_seconds(seconds: float) -> int:
    """Return the bucket of a duration in seconds; every sample in a higher bucket is longer than ``seconds``."""
    if seconds <= 0:
        return ZERO_BUCKET
    return max(ZERO_BUCKET, ceil(log2(seconds) * BUCKETS_PER_OCTAVE - _EPSILON) - 1)


def bucket_upper_seconds(bucket: int) -> float:
    """Return the inclusive upper bound of a bucket in seconds."""
    return 0.0 if bucket <= ZERO_BUCKET else 2.0 ** ((bucket + 1) / BUCKETS_PER_OCTAVE)


def bucket_middle_seconds(bucket: int) -> float:
    """Return the geometric middle of a bucket in seconds, the estimate for all its samples."""
    return 0.0 if bucket <= ZERO_BUCKET else 2.0 ** ((bucket + 0.5) / BUCKETS_PER_OCTAVE)


class Digest:
    """Immutable histogram of durations; equal to any digest with the same counts.

    Buckets and cumulative counts are parallel arrays, so that a quantile is one binary search.

    Raises:
        ValueError: a quantile of an empty digest was requested.
    """

    __slots__ = ("_buckets", "_cumulative", "count")

    count: int
    """Number of durations."""

    def __init__(self, counts: Mapping[int, int]) -> None:
        """Build from sparse counts by bucket, none negative; zero counts are dropped."""
        if not all(counts.values()):
            counts = {bucket: count for bucket, count in counts.items() if count}
        self._buckets: Sequence[int] = sorted(counts)
        self._cumulative = list(accumulate(map(counts.__getitem__, self._buckets)))
        self.count = self._cumulative[-1] if self._cumulative else 0

    @classmethod
    def of_dense(cls, lowest: int, counts: Iterable[int]) -> Self:
        """Build from dense counts.

        Args:
            lowest: bucket of the first count.
            counts: counts of adjacent buckets; the first must not be zero, the others may be.
        """
        self = cls.__new__(cls)
        self._cumulative = list(accumulate(counts))
        self._buckets = _BUCKETS[lowest - ZERO_BUCKET : lowest - ZERO_BUCKET + len(self._cumulative)]
        self.count = self._cumulative[-1] if self._cumulative else 0
        return self

    @classmethod
    def of_ascending(cls, counts: Mapping[int, int]) -> Self:
        """Build from positive counts in ascending order of buckets."""
        self = cls.__new__(cls)
        self._buckets = list(counts)
        self._cumulative = list(accumulate(counts.values()))
        self.count = self._cumulative[-1] if counts else 0
        return self

    @classmethod
    def of_ns(cls, durations_ns: Iterable[int]) -> Self:
        """Build from durations in nanoseconds."""
        return cls(Counter(map(bucket_of_ns, durations_ns)))

    @classmethod
    def pool(cls, digests: "Iterable[Digest]") -> Self:
        """Return the sum of several digests."""
        counts: dict[int, int] = {}
        for digest in digests:
            for bucket, count in digest:
                counts[bucket] = counts.get(bucket, 0) + count
        return cls(counts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield pairs of bucket and count in ascending order of buckets."""
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
        """Return the bucket of the sample of rank ``max(1, ceil(q * count))``, for 0 ≤ q ≤ 1."""
        (bucket,) = self.quantile_buckets((q,))
        return bucket

    def quantile_buckets(self, qs: Iterable[float]) -> list[int]:
        """Return the buckets of several quantiles; see :meth:`quantile_bucket`."""
        buckets, cumulative, count = self._buckets, self._cumulative, self.count
        if not count:
            raise ValueError("an empty digest has no quantiles")
        # Integer ranks: comparing two integers takes half the time of comparing an integer with a float.
        return [buckets[bisect_left(cumulative, ceil(q * count - _EPSILON))] for q in qs]

    def quantile_widths(self, ranges: Iterable[tuple[float, float]]) -> list[int]:
        """Return by how many buckets the second quantile of each pair lies above the first; the digest is not empty."""
        buckets, cumulative, count = self._buckets, self._cumulative, self.count
        return [
            buckets[bisect_left(cumulative, ceil(high * count - _EPSILON))]
            - buckets[bisect_left(cumulative, ceil(low * count - _EPSILON))]
            for low, high in ranges
        ]

    def quantile_seconds(self, q: float) -> float:
        """Return the quantile ``q`` in seconds, within 1.1 % of the sample of that rank."""
        return bucket_middle_seconds(self.quantile_bucket(q))

    def count_above(self, bucket: int) -> int:
        """Return the number of samples in buckets above ``bucket``."""
        position = bisect_right(self._buckets, bucket)
        return self.count - (self._cumulative[position - 1] if position else 0)

    def mad_seconds(self) -> float:
        """Return the median absolute deviation (MAD) in seconds, with each sample at the middle of its bucket."""
        median = self.quantile_seconds(0.5)
        deviations = sorted((abs(bucket_middle_seconds(bucket) - median), count) for bucket, count in self)
        seen = 0
        for deviation, count in deviations:
            seen += count
            if seen >= 0.5 * self.count - _EPSILON:
                return deviation
        raise AssertionError("unreachable: the counts add up to the total")


class RollingDigest:
    """Mutable sum of digests, to which digests are added and from which they are subtracted again.

    Used for a sliding pool of hours, which is updated far more often than it is queried. Its buckets are close
    together, so counts are kept in a dense list instead of a dictionary.
    """

    __slots__ = ("_counts", "_end", "_lowest")

    def __init__(self) -> None:
        # The list covers the buckets in [_lowest, _end).
        self._lowest = self._end = 0
        self._counts: list[int] = []

    def add(self, counts: dict[int, int]) -> None:
        """Add a digest, given as counts in ascending order of buckets."""
        if not counts:
            return
        first, last = next(iter(counts)), next(reversed(counts.keys()))
        if first < self._lowest or last >= self._end:
            self._extend(first, last)
        mine, lowest = self._counts, self._lowest
        for bucket, count in counts.items():
            mine[bucket - lowest] += count

    def subtract(self, counts: dict[int, int]) -> None:
        """Subtract a digest that was added before."""
        mine, lowest = self._counts, self._lowest
        for bucket, count in counts.items():
            mine[bucket - lowest] -= count

    def digest(self) -> Digest:
        """Return the present sum."""
        counts, first = self._counts, 0
        while first < len(counts) and not counts[first]:
            first += 1
        return Digest.of_dense(self._lowest + first, counts[first:] if first else counts)

    def _extend(self, first: int, last: int) -> None:
        if not self._counts:
            self._lowest = self._end = first
        if first < self._lowest:
            self._counts[:0] = [0] * (self._lowest - first)
            self._lowest = first
        if last >= self._end:
            self._counts += [0] * (last + 1 - self._end)
            self._end = last + 1
