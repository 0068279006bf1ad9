"""Chooses the seconds that represent a stretch of time too dense to be read whole, and the series read by name.

A stratified sample of time: time is cut into slices of whole seconds, and slices into strata of equally many. One slice
of each stratum is chosen, so no part of the stretch goes without. The choice is pseudo-random, so periodic traffic
cannot hide between slices, and it depends on the clock alone: reading again, or an overlapping stretch, reads the same
slices.

The slice of a stratum is found by halving. A hash chooses a half; that half is a stratum of the sample with twice the
share, where the same is done, until a half is a single slice or cannot be halved. Hence a sample of half the share is
part of the sample with the whole share, which is thinned by leaving out one of every two neighbours.

Series with little traffic would hardly be seen in a sample. They are read whole, by searches for their names.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from exporter.ingest.exact_reader import Budget
from exporter.model.span import SeriesKey

_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15
_MIN_SHARE: Final = 1 / (1 << 40)


class TimeSample(NamedTuple):
    """A sample of time: of every so many slices of equal length, one is chosen.

    Attributes:
        slice_seconds: the length of a slice.
        one_in: slices in a stratum, of which one is chosen; with 1, all are.
    """

    slice_seconds: int = 1
    one_in: int = 1

    @property
    def share(self) -> float:
        """Share of all time that is chosen."""
        return 1 / self.one_in

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return self.one_in == 1

    def includes(self, second: int) -> bool:
        """Whether the second that begins at a Unix time is chosen."""
        slice_ = second // self.slice_seconds
        return self._choice(slice_ // self.one_in) == slice_

    def slices_in(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The chosen slices of ``[start, end)``, by time; those across its ends are cut off there."""
        stratum_seconds = self.slice_seconds * self.one_in
        for stratum in range(start // stratum_seconds, -(-end // stratum_seconds)):
            begin = self._choice(stratum) * self.slice_seconds
            slice_ = max(start, begin), min(end, begin + self.slice_seconds)
            if slice_[0] < slice_[1]:
                yield slice_

    def stratum(self, second: int) -> tuple[int, int]:
        """The stratum to which the second that begins at a Unix time belongs: its bounds, Unix seconds."""
        seconds = self.slice_seconds * self.one_in
        start = second // seconds * seconds
        return start, start + seconds

    def _choice(self, stratum: int) -> int:
        """The slice that is chosen in a stratum."""
        slices = self.one_in
        while slices % 2 == 0:
            stratum = 2 * stratum + _hash(stratum, slices) % 2
            slices //= 2
        return stratum * slices + _hash(stratum, slices) % slices


def _hash(stratum: int, slices: int) -> int:
    """A pseudo-random number (the finalizer of SplitMix64)."""
    mixed = (stratum * _GOLDEN + slices) * _GOLDEN & _MASK
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
    return mixed ^ mixed >> 31


WHOLE: Final = TimeSample()


def sample_for(max_share: float, seconds: int, max_slices: int) -> TimeSample:
    """Return the sample that reads at most a share of a stretch of time, in at most about so many slices.

    There are as many slices as allowed, each as short as that permits, because many short ones represent the stretch
    more evenly. They are longer than a second only where the share is large.

    Args:
        max_share: the largest share that may be read; 1 or more for all.
        seconds: length of the stretch.
        max_slices: the most slices that may be read.
    """
    if max_share >= 1:
        return WHOLE
    one_in = math.ceil(1 / max(max_share, _MIN_SHARE))
    return TimeSample(max(1, math.ceil(seconds / (max_slices * one_in))), one_in)


ENOUGH_TRACES: Final = 200
"""A series of which a sample is expected to hold this many traces needs no searches of its own."""

MAX_CONDITION_LENGTH: Final = 4000
"""Maximum length of the names in one search, as part of a URL; common proxies accept URLs of at most 8 kB."""


def rare_groups(
    counts: Mapping[SeriesKey, int], share: float, budget: Budget, per_search: float, length: Callable[[SeriesKey], int]
) -> list[tuple[SeriesKey, ...]]:
    """Return series with little traffic to be read whole, in groups that fit into a search each.

    The rarest come first: they cost least, and a sample misses most of them. The list ends where the budget is used up,
    or with the first series of which the sample holds enough.

    Args:
        counts: traces in the stretch, by series.
        share: share of the stretch that the sample will be about.
        budget: what all groups together may cost.
        per_search: traces that a search may be expected to return.
        length: how much longer a search becomes by the name of a series.
    """
    groups: list[tuple[SeriesKey, ...]] = []
    group: list[SeriesKey] = []
    traces = group_traces = group_length = 0
    for key, count in sorted(counts.items(), key=lambda item: (item[1], item[0])):
        if count * share >= ENOUGH_TRACES or traces + count > budget.traces or count > per_search:
            break
        size = length(key)
        if size > MAX_CONDITION_LENGTH:
            continue
        if group and (group_traces + count > per_search or group_length + size > MAX_CONDITION_LENGTH):
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
    """Return series with an unknown number of traces in groups whose names fit into a search each."""
    groups: list[list[SeriesKey]] = []
    room = 0
    for key in keys:
        size = length(key)
        if size > MAX_CONDITION_LENGTH:
            continue
        if size > room:
            groups.append([])
            room = MAX_CONDITION_LENGTH
        groups[-1].append(key)
        room -= size
    return [tuple(group) for group in groups]
