"""Runs of a series with little traffic: requests that end together, such as those of one cron job.

Stored history has a resolution of five minutes. So a run is what ended in consecutive marks of one hour, and its
duration is the median of its requests: of a batch whose requests depend on each other, all count once.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from exporter.model.calendar import HOUR_SECONDS
from exporter.model.histogram_codec import MARK_SECONDS

MAX_RUN_SECONDS: Final = 900
"""A longer run counts as several of this length."""


class Run(NamedTuple):
    """One run.

    Attributes:
        first: its first mark, Unix seconds; its first request ended in the five minutes before.
        end: its last mark, Unix seconds.
        traces: number of its requests.
        bucket: median of their durations, the lower of two.
    """

    first: int
    end: int
    traces: int
    bucket: int


def runs_of(traces: Iterable[tuple[int, Sequence[int]]], hour_start: int) -> list[Run]:
    """Return the runs among some traces, in time order.

    A run never continues in the next hour, so that the runs of an hour do not depend on what is known of others.

    Args:
        traces: ascending marks in Unix seconds, each with the buckets of the traces that ended up to it, at least one.
        hour_start: start of any local hour, Unix seconds.
    """
    found: list[Run] = []
    collected: list[int] = []
    for mark, buckets in traces:
        is_continued = bool(found) and mark - found[-1].end <= MARK_SECONDS and not _is_first(mark, hour_start)
        collected = sorted([*collected, *buckets] if is_continued else buckets)
        first = found.pop().first if is_continued else mark
        found.append(Run(first, mark, len(collected), collected[(len(collected) - 1) // 2]))
    return found


@lru_cache(maxsize=4096)
def count_runs(offsets: tuple[int, ...]) -> int:
    """Return how many runs an hour has; one counts once for each :data:`MAX_RUN_SECONDS` that it lasts.

    Args:
        offsets: the marks at which traces of the hour ended, ascending, counted from its start.
    """
    number = 0
    for run in runs_of([(offset * MARK_SECONDS, (0,)) for offset in offsets], 0):
        # What ended at the first mark of the next hour usually began before it, as part of a run that is counted.
        if run.first != HOUR_SECONDS + MARK_SECONDS:
            # Requests that come all the time end in consecutive marks, too.
            number += (run.end - run.first) // MAX_RUN_SECONDS + 1
    return number


def _is_first(mark: int, hour_start: int) -> bool:
    """Whether a mark is the first one of a local hour."""
    return (mark - hour_start) % HOUR_SECONDS == MARK_SECONDS
