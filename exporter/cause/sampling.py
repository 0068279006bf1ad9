"""Chooses the traces to compare, given only durations, which is what a search returns.

The slowest traces are no good choice: they differ from usual ones in more than the cause. Traces of equal ranks are
compared instead, half of them where the extra time is and half over all ranks.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from exporter.cause.draws import uniform

_GRID: Final = 400
"""Points at which the quantile curves are compared."""


class ChosenPairs(NamedTuple):
    """The traces to fetch, as indices into the candidates.

    Attributes:
        incident: of the incident.
        reference: of the healthy traces; the one at each position has the rank of the incident's.
    """

    incident: list[int]
    reference: list[int]


def choose_pairs(incident: Sequence[int], reference: Sequence[int], count: int, seed: str) -> ChosenPairs:
    """Choose traces of equal ranks from both sets.

    With quantile curves Q1 (incident) and Q0 (reference), the extra time at rank u is e(u) = max(0, Q1(u) − Q0(u)), and
    E(u) is its integral, scaled to 1. Half of the ranks are E⁻¹ of evenly spread numbers, so that each stands for the
    same part of the extra time; the other half is spread evenly over all ranks. Where nothing takes longer, all are.

    Args:
        incident: durations of the candidates of the incident, in nanoseconds, at least one.
        reference: durations of the healthy candidates, in nanoseconds, at least one.
        count: number of traces wanted of each; a candidate is chosen twice only if there are fewer.
        seed: determines the choice, such as the endpoint and the start of its flag.
    """
    numbers = uniform(seed, count)
    extra = _cumulative_extra(incident, reference)
    focused = 0 if extra is None else (count + 1) // 2
    spread = count - focused
    ranks = [_inverse(extra or [], (number + numbers[number]) / focused) for number in range(focused)]
    ranks += [(number + numbers[focused + number]) / spread for number in range(spread)]
    return ChosenPairs(_at_ranks(incident, ranks), _at_ranks(reference, ranks))


def choose_alike(chosen: Sequence[int], incident: Sequence[int], reference: Sequence[int], count: int) -> list[int]:
    """Choose healthy traces of one kind whose ranks are those of chosen traces of the incident, among that kind.

    Args:
        chosen: durations of the chosen traces of the incident, in nanoseconds.
        incident: durations of all candidates of the incident that are of that kind; without any, ranks are spread
            evenly.
        reference: durations of the healthy candidates of that kind.
        count: number of traces wanted.

    Returns:
        Indices into ``reference``, none twice.
    """
    count = min(count, len(reference))
    spread = [(number + 0.5) / count for number in range(count)]
    if not chosen or not incident:
        return _at_ranks(reference, spread)
    ordered = sorted(incident)
    ranks = sorted((bisect_left(ordered, each) + bisect_right(ordered, each)) / 2 / len(ordered) for each in chosen)
    return _at_ranks(reference, [ranks[int(each * len(ranks))] for each in spread])


def _cumulative_extra(incident: Sequence[int], reference: Sequence[int]) -> list[float] | None:
    """Return E at the end of each cell of the grid; None where nothing takes longer."""
    slow, usual = sorted(incident), sorted(reference)
    ranks = [(cell + 0.5) / _GRID for cell in range(_GRID)]
    sums = list(accumulate(max(0.0, _quantile(slow, rank) - _quantile(usual, rank)) for rank in ranks))
    return [each / sums[-1] for each in sums] if sums[-1] > 0 else None


def _quantile(ordered: Sequence[int], rank: float) -> float:
    """Return a quantile by linear interpolation between the sorted values."""
    position = rank * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def _inverse(extra: Sequence[float], share: float) -> float:
    """Return the rank up to which there is this share of the extra time."""
    below = 0.0
    for cell, above in enumerate(extra):
        if share < above:
            return (cell + (share - below) / (above - below)) / _GRID
        below = above
    return 1.0


def _at_ranks(durations: Sequence[int], ranks: Sequence[float]) -> list[int]:
    """Return the candidates at relative ranks, or their nearest neighbours that are not chosen yet."""
    order = sorted(range(len(durations)), key=lambda index: (durations[index], index))
    size = len(order)
    free = [True] * size
    chosen = []
    for rank in ranks:
        wanted = min(size - 1, int(rank * size))
        position = _nearest_free(free, wanted)
        if position is None:
            position = wanted
        free[position] = False
        chosen.append(order[position])
    return chosen


def _nearest_free(free: Sequence[bool], wanted: int) -> int | None:
    for step in range(len(free)):
        for position in (wanted - step, wanted + step):
            if 0 <= position < len(free) and free[position]:
                return position
    return None
