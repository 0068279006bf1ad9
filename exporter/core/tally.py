"""The sum of digests that come and go: what a sliding pool of hours keeps, so that it need not be added up anew.

Pools are added to far more often than they are looked at, and their buckets lie close together. So they are kept as one
stretch of counts, most of them not zero, instead of by bucket.
"""

from exporter.core.digest import Digest


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
