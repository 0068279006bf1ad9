"""Reads every span in scope that started in a range of time, or lists the seconds that could not be read.

A search returns at most ``limit`` traces, in no particular order. A response of that length is saturated: it is not the
whole range, so the range is split in halves that are searched again, down to a single second, the narrowest range that
Tempo searches. Tempo returns traces that overlap the range, both ends included; a span is kept if it started in
``[start, end)``, so that adjacent ranges count it once without remembering it.

Nothing is kept of a single second that is still saturated. Tempo returns the traces that it finds first, by block and
by id, possibly those of one service or of one moment, so they do not represent the second.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple, Protocol

from exporter.ingest.search_memory import SearchMemory
from exporter.model.span import SeriesKey, Span
from exporter.runtime.telemetry import Loop, Telemetry
from exporter.tempo.errors import RangeTooLongError, TempoError

_NS: Final = 1_000_000_000
SEARCH_FILL: Final = 0.7
"""Expected share of the limit up to which a range is searched at once; a saturated response is wasted."""

_SHORTEST_SECONDS: Final[dict[Loop, int]] = {"poll": 4, "backfill": 60, "api": 60}
"""Ranges of this length or less are not split because Tempo takes too long: the length is hardly the reason then."""


class SearchResult(Protocol):
    """Response to a search."""

    @property
    def spans(self) -> Sequence[Span]:
        """Spans in scope of the traces returned."""

    @property
    def saturated(self) -> bool:
        """Whether there may be more."""

    @property
    def limit(self) -> int:
        """The limit of the search."""


class SearchClient(Protocol):
    """Searches Tempo."""

    @property
    def max_limit(self) -> int:
        """The most traces that a search returns, as far as known."""

    @property
    def max_range_seconds(self) -> int | None:
        """The longest range that Tempo searches; known once it has refused a longer one."""

    def search(
        self, start: int, end: int, *, loop: Loop, series: Sequence[SeriesKey] = (), may_split: bool = False
    ) -> SearchResult:
        """Search ``[start, end]`` for all spans in scope, or for those of some series; raises TempoError.

        With ``may_split``, a search that takes too long is not retried, because a shorter range is searched instead.
        """

    def exists(self, start: int, end: int, *, loop: Loop) -> bool:
        """Whether any trace in scope overlaps ``[start, end]``; raises TempoError."""


class Budget(NamedTuple):
    """What a read may cost; a search that has begun is finished even where it exceeds the budget.

    Attributes:
        traces: traces received, kept or not.
        requests: searches made.
    """

    traces: int
    requests: int


@dataclass(frozen=True, slots=True)
class ReadResult:
    """Cost and completeness of a read.

    Attributes:
        received: spans in scope received.
        kept: those that started in the range.
        requests: searches made.
        splits: searches that were split in halves.
        truncated: ranges that were not read.
        at_end: spans that started exactly at the end of the range; they belong to the next one.
        wasted: spans received in saturated responses, which are thrown away.
    """

    received: int
    kept: int
    requests: int
    splits: int
    truncated: tuple[tuple[int, int], ...]
    at_end: int = 0
    wasted: int = 0


class TooDenseError(Exception):
    """A range holds more than the budget allows to read; what was delivered is not the whole range.

    Attributes:
        received: traces received.
        requests: searches made.
        splits: searches that were split in halves.
        density: lower bound of the traces per second, if known.
    """

    def __init__(self, received: int, requests: int, splits: int, density: float | None) -> None:
        super().__init__(f"more than {received} traces in {requests} searches")
        self.received = received
        self.requests = requests
        self.splits = splits
        self.density = density


@dataclass(slots=True)
class _Running:
    """Running totals of a read."""

    received: int = 0
    kept: int = 0
    requests: int = 0
    splits: int = 0
    at_end: int = 0
    wasted: int = 0
    seconds_read: int = 0
    min_density: float = 0.0
    allowance: int = 0
    truncated: list[tuple[int, int]] = field(default_factory=list)

    def exceeds(self, budget: Budget) -> bool:
        # Requests that are needed only because Tempo is slow say nothing about density.
        return self.received + self.wasted > budget.traces or self.requests - self.allowance >= budget.requests

    def too_dense(self) -> TooDenseError:
        density = max(self.min_density, self.kept / self.seconds_read if self.seconds_read else 0.0)
        return TooDenseError(self.received + self.wasted, self.requests, self.splits, density or None)


class ExactReader:
    """Reads ranges for one of the loops."""

    def __init__(self, client: SearchClient, telemetry: Telemetry, loop: Loop) -> None:
        self._client = client
        self._telemetry = telemetry
        self._loop: Loop = loop
        self._memory = SearchMemory()

    def read(
        self,
        start: int,
        end: int,
        deliver: Callable[[Sequence[Span]], None],
        *,
        by_start: bool = True,
        series: Sequence[SeriesKey] = (),
        expected_traces: float | None = None,
        budget: Budget | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> ReadResult:
        """Read ``[start, end)``, newest part first.

        Args:
            start: Unix seconds.
            end: Unix seconds, after ``start``.
            deliver: called with the spans of each part as it is complete.
            by_start: keep only spans that started in the range, which makes adjacent ranges disjoint; otherwise all of
                traces that overlap it, some of them several times.
            series: read only the spans of these series, if any.
            expected_traces: expected number of traces; the range is divided so that no search is expected to saturate.
            budget: what the read may cost.
            should_stop: asked before each search; once it returns true, the unread rest is truncated.

        Raises:
            TooDenseError: the budget was exceeded before the range was read.
            TempoError: a search failed; what was delivered is not the whole range.
        """
        affordable_before = affordable = self._memory.affordable_seconds
        ranges = self._divide(start, end, expected_traces)
        running = _Running()
        if affordable is not None:
            running.allowance = min(len(ranges), math.ceil((end - start) / affordable)) - 1
        while ranges:
            range_ = first, last = ranges.pop()
            if should_stop():
                running.truncated.append(range_)
                continue
            if budget is not None and running.exceeds(budget):
                raise running.too_dense()
            running.requests += 1
            may_split = last - first > _SHORTEST_SECONDS[self._loop]
            try:
                result = self._client.search(first, last, loop=self._loop, series=series, may_split=may_split)
            except RangeTooLongError:
                shorter = self._divide(first, last, None)
                if len(shorter) == 1:
                    raise
                ranges.extend(shorter)
                continue
            except TempoError as error:
                if not error.is_slow:
                    raise
                if not may_split:
                    self._memory.not_even(affordable_before)
                    raise
                self._memory.too_slow(last - first)
                # Parts that are left are as slow, so they are not asked for in full first.
                before = len(ranges)
                ranges = [part for range_ in (*ranges, range_) for part in self._divide(*range_, None)]
                running.allowance += len(ranges) - before
                continue
            self._memory.in_time(last - first)
            # What succeeded is affordable, whatever happens later.
            affordable_before = self._memory.affordable_seconds
            if result.saturated:
                running.wasted += len(result.spans)
                running.min_density = max(running.min_density, result.limit / (last - first))
            if result.saturated and last - first > 1:
                running.splits += 1
                self._telemetry.split(self._loop)
                middle = (first + last) // 2
                ranges += [(first, middle), (middle, last)]
                continue
            if result.saturated:
                running.truncated.append(range_)
                self._telemetry.traces_skipped(self._loop, "saturated", len(result.spans))
                continue
            spans = result.spans
            if by_start:
                first_ns, last_ns = first * _NS, last * _NS
                spans = [span for span in spans if first_ns <= span.start_ns < last_ns]
                if last == end and len(spans) < len(result.spans):
                    running.at_end += sum(span.start_ns == last_ns for span in result.spans)
            running.received += len(result.spans)
            running.kept += len(spans)
            running.seconds_read += last - first
            deliver(spans)
        if running.received > running.kept:
            self._telemetry.traces_skipped(self._loop, "outside_window", running.received - running.kept)
        return ReadResult(
            received=running.received,
            kept=running.kept,
            requests=running.requests,
            splits=running.splits,
            truncated=tuple(running.truncated),
            at_end=running.at_end,
            wasted=running.wasted,
        )

    def _divide(self, start: int, end: int, expected_traces: float | None) -> list[tuple[int, int]]:
        """Equal parts, oldest first, that are neither too long for Tempo nor expected to saturate a search."""
        count = 1
        if expected_traces is not None:
            count = math.ceil(expected_traces / (self._client.max_limit * SEARCH_FILL))
        if self._client.max_range_seconds is not None:
            count = max(count, math.ceil((end - start) / self._client.max_range_seconds))
        if (affordable := self._memory.affordable_seconds) is not None:
            count = max(count, math.ceil((end - start) / affordable))
        count = max(1, min(count, end - start))
        edges = [start + (end - start) * number // count for number in range(count + 1)]
        return list(pairwise(edges))
