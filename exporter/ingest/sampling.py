"""Which seconds stand for a stretch of time that is too dense to be read whole.

Time is cut into slices of whole seconds, and slices into strata of equally many. In each stratum one slice is chosen,
so no part of the stretch goes without; which one seems random, so no periodic traffic can hide between them. And it
depends on nothing but the clock: whoever reads again, or reads an overlapping stretch, reads the same slices.

The slice of a stratum is found by halving: a hash says which half goes on, and that half is a stratum of the sample
that is twice as dense, of which the same is asked, until a half is a single slice or cannot be halved. So a sample of
half the share is part of the one that it is half of: it is thinned by leaving out one of every two neighbours.

Which endpoints of a dense window are worth searches of their own, since a sample would hardly see them.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from exporter.ingest.settings import Budget
from exporter.model.span import SeriesKey

_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15
_FEWEST_PER_SLICE: Final = 1 << 40


class Slices(NamedTuple):
    """Slices of equal length, of which one in every stratum is chosen.

    Attributes:
        seconds: the length of a slice.
        of: how many slices a stratum has; with 1, all are chosen.
    """

    seconds: int = 1
    of: int = 1

    @property
    def share(self) -> float:
        """The share of all time that is chosen."""
        return 1 / self.of

    @property
    def whole(self) -> bool:
        """Whether nothing is left out."""
        return self.of == 1

    def holds(self, second: int) -> bool:
        """Whether the second that begins at a Unix time is chosen."""
        slice_ = second // self.seconds
        return self._choice(slice_ // self.of) == slice_

    def within(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The chosen parts of ``[start, end)``, by time; what lies across its ends is cut off."""
        stratum_seconds = self.seconds * self.of
        for stratum in range(start // stratum_seconds, -(-end // stratum_seconds)):
            begin = self._choice(stratum) * self.seconds
            part = max(start, begin), min(end, begin + self.seconds)
            if part[0] < part[1]:
                yield part

    def _choice(self, stratum: int) -> int:
        """The slice that is chosen in a stratum."""
        of = self.of
        while of % 2 == 0:
            stratum = 2 * stratum + _hash(stratum, of) % 2
            of //= 2
        return stratum * of + _hash(stratum, of) % of


def _hash(stratum: int, of: int) -> int:
    """A number that looks random (the finalizer of SplitMix64)."""
    mixed = (stratum * _GOLDEN + of) * _GOLDEN & _MASK
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
    return mixed ^ mixed >> 31


WHOLE: Final = Slices()


def slices_for(share: float, stretch_seconds: int, most_slices: int) -> Slices:
    """The slices that read at most a share of a stretch of time, in at most about so many pieces.

    There are as many of them as may be, each as short as that allows: the more, the more evenly they stand for it. So
    they are longer than a second only where a share is large.

    Args:
        share: the largest share that may be read; 1 or more for all.
        stretch_seconds: how long the stretch is.
        most_slices: how many pieces there may be at most.
    """
    if share >= 1:
        return WHOLE
    of = math.ceil(1 / max(share, 1 / _FEWEST_PER_SLICE))
    return Slices(max(1, math.ceil(stretch_seconds / (most_slices * of))), of)


ENOUGH_TRACES: Final = 200
"""An endpoint of which the sample is expected to hold so many traces needs nothing else."""

LONGEST_CONDITION: Final = 4000
"""How long the names in one search may be, as part of a URL: 8 kB is the most that common proxies let through."""


def rare_groups(
    counts: Mapping[SeriesKey, int], share: float, budget: Budget, per_search: float, length: Callable[[SeriesKey], int]
) -> list[tuple[SeriesKey, ...]]:
    """Endpoints that are read whole and by themselves, in groups that fit into a search each.

    The rarest come first: they cost least, and miss most. It ends where the budget is spent, or with the first endpoint
    of which the sample holds enough.

    Args:
        counts: how many traces each endpoint has in the window.
        share: the share of the window that the sample will be about.
        budget: what all the groups together may cost.
        per_search: how many traces one search may be expected to return.
        length: how much longer a search becomes by the name of an endpoint.
    """
    groups: list[tuple[SeriesKey, ...]] = []
    group: list[SeriesKey] = []
    traces = group_traces = group_length = 0
    for key, count in sorted(counts.items(), key=lambda item: (item[1], item[0])):
        if count * share >= ENOUGH_TRACES or traces + count > budget.traces or count > per_search:
            break
        size = length(key)
        if size > LONGEST_CONDITION:
            continue
        if group and (group_traces + count > per_search or group_length + size > LONGEST_CONDITION):
            groups.append(tuple(group))
            group, group_traces, group_length = [], 0, 0
        if len(groups) >= budget.requests:
            return groups
        group.append(key)
        traces += count
        group_traces += count
        group_length += size
    if group:
        groups.append(tuple(group))
    return groups


def groups_by_length(keys: Sequence[SeriesKey], length: Callable[[SeriesKey], int]) -> list[tuple[SeriesKey, ...]]:
    """Endpoints of which nobody knows how many traces they have, in groups that fit into a search each."""
    groups: list[list[SeriesKey]] = []
    room = 0
    for key in keys:
        size = length(key)
        if size > LONGEST_CONDITION:
            continue
        if size > room:
            groups.append([])
            room = LONGEST_CONDITION
        groups[-1].append(key)
        room -= size
    return [tuple(group) for group in groups]
