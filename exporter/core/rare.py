"""Which endpoints of a dense window are worth searches of their own, since a sample would hardly see them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from exporter.core.budget import Budget
from exporter.core.span import SeriesKey

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
