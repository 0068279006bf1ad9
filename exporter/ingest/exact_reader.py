"""Reads every span in scope that started in a range of time, or lists the seconds that could not be read.

A search returns at most ``limit`` traces, in no particular order. A response of that length is saturated: it is not the
whole range, so the range is split in halves that are searched again, down to a single second, the narrowest range that
Tempo searches. Tempo returns traces that overlap the range, both ends included; a span is kept if it started in
``[start, end)``, so that adjacent ranges count it once without remembering it.

Where most of a saturated response began in a small part of its range, that part is searched by itself next, because
halving a range step by step down to a burst would waste a response for each step.

Where traces last long, most of what a search finds began before its range, however short that is. Halving the range
does not help then, so the limit of the search is raised, up to Tempo's maximum and as far as memory allows. Beyond that
the search is divided by the duration of spans. A second that is the rest of saturated ranges is asked for with Tempo's
maximum at once: the response is as long as what there is.

Nothing is kept of a single second that is saturated after all that. Tempo returns the traces that it finds first, by
block and by id, possibly those of one service or of one moment, so they do not represent the second.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from typing import Final, NamedTuple, Protocol

from exporter.ingest.search_memory import SearchMemory
from exporter.model.span import SeriesKey, Span
from exporter.runtime.locks import LockRank, new_lock
from exporter.runtime.telemetry import Loop, Telemetry
from exporter.tempo.errors import RangeTooLongError, TempoError
from exporter.tempo.query import ANY_DURATION, DurationRange

_NS: Final = 1_000_000_000
_DURATION: Final = itemgetter(Span._fields.index("duration_ns"))
SEARCH_FILL: Final = 0.5
"""Expected share of the limit up to which a range is searched at once; a saturated response is wasted.

Expected are spans, the limit is of traces. With four responses of 10,000 spans at a time, a backfill takes 90 MB.
"""

_SHORTEST_SECONDS: Final[dict[Loop, int]] = {"poll": 4, "backfill": 60, "api": 60}
"""Ranges of this length or less are not split because Tempo takes too long: the length is hardly the reason then."""

_MOST_BYTES: Final = 64 << 20
"""Expected size of a response up to which the limit of a search is raised."""
_USUAL_TRACE_BYTES: Final = 800.0
_RAISED_BY: Final = 4
_LONG_SHARE: Final = 0.5
"""Share of the spans found that began before the range from which on halving it hardly helps."""
_CONCENTRATED: Final = 4
"""If the middle half of the spans found began within this fraction of the range, that part is searched by itself."""
_ENOUGH_SPANS: Final = 100
"""Fewer spans do not show where most of them began."""
CAUTIOUS_LIMIT: Final = 5000
"""Limit of a search that may well be saturated, and thrown away: the number of traces is unknown."""
_DURATION_DEPTH: Final = 4
"""How often a search is divided by duration: into 16 parts at most."""


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

    @property
    def duplicates(self) -> int:
        """Spans left out because they occurred before in the response."""

    @property
    def invalid(self) -> int:
        """Traces and spans left out because they were invalid."""

    @property
    def missing(self) -> int:
        """Spans in scope that Tempo withheld, because of its limit for the spans of one trace."""

    @property
    def bytes(self) -> int:
        """Size of the response."""


class SearchClient(Protocol):
    """Searches Tempo."""

    @property
    def max_limit(self) -> int:
        """The most traces that a search returns, as far as known."""

    @property
    def highest_limit(self) -> int:
        """The most traces that a search may ask for, at least as many as `max_limit`."""

    @property
    def max_range_seconds(self) -> int | None:
        """The longest range that Tempo searches; known once it has refused a longer one."""

    def search(
        self,
        start: int,
        end: int,
        *,
        loop: Loop,
        limit: int | None = None,
        series: Sequence[SeriesKey] = (),
        durations: DurationRange = ANY_DURATION,
        may_split: bool = False,
    ) -> SearchResult:
        """Search ``[start, end]`` for the spans in scope of some series (empty: all) and durations; raises TempoError.

        The limit is `max_limit` unless another one is given. With ``may_split``, a search that takes too long is not
        retried, because a shorter range is searched instead.
        """

    def exists(self, start: int, end: int, *, loop: Loop) -> bool:
        """Whether any trace in scope overlaps ``[start, end]``; raises TempoError."""


class Budget(NamedTuple):
    """What a read may cost; a search that has begun is finished even where it exceeds the budget.

    Attributes:
        traces: traces received, kept or not.
        requests: searches made.
        wasted: traces received in saturated responses, which are thrown away; None: no more than `traces` counts.
    """

    traces: int
    requests: int
    wasted: int | None = None


class Overlap(NamedTuple):
    """Why a range could not be read: traces that last longer than their requests overlap every second.

    Attributes:
        traces: traces found that overlap one second, all that a search returns.
        began: spans among them that began in that second.
    """

    traces: int
    began: int


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
        left_out: duplicates and invalid spans in the other responses; Tempo counts them as well.
        missing: spans that Tempo withheld from the other responses.
        overlap: what was found in a range that was not read because of long traces; None if there was none.
        longest_ns: duration of the longest span received, kept or not, if spans are kept by their start; else 0.
    """

    received: int
    kept: int
    requests: int
    splits: int
    truncated: tuple[tuple[int, int], ...]
    at_end: int = 0
    wasted: int = 0
    left_out: int = 0
    missing: int = 0
    overlap: Overlap | None = None
    longest_ns: int = 0


class TooDenseError(Exception):
    """A range holds more than the budget allows to read; what was delivered is not the whole range.

    Attributes:
        received: traces received.
        requests: searches made.
        splits: searches that were split in halves.
        density: lower bound of the traces per second, if known.
        overlap: what was found in a second that could not be read because of long traces; None if there was none.
    """

    def __init__(
        self, received: int, requests: int, splits: int, density: float | None, overlap: Overlap | None = None
    ) -> None:
        super().__init__(f"more than {received} traces in {requests} searches")
        self.received = received
        self.requests = requests
        self.splits = splits
        self.density = density
        self.overlap = overlap


class Cost(NamedTuple):
    """What a probe costs: spans received, and searches made."""

    received: int
    requests: int


def _is_independent_of_limit(error: TempoError, *, may_split: bool) -> bool:
    """Whether a search failed for another reason than that it asked for many traces."""
    if error.is_slow:
        return may_split
    return error.retryable or isinstance(error, RangeTooLongError) or error.reason not in ("refused", "malformed")


def _early(spans: Sequence[Span], first: int) -> int:
    """The number of spans that began before an instant."""
    first_ns = first * _NS
    return sum(span.start_ns < first_ns for span in spans)


def _split(first: int, last: int, spans: Sequence[Span]) -> list[tuple[int, int]]:
    """Split a range in halves, or around the part in which most of the spans found in it began."""
    starts = sorted(span.start_ns // _NS for span in spans if first <= span.start_ns // _NS < last)
    if len(starts) >= _ENOUGH_SPANS:
        begin, end = starts[len(starts) // 4], starts[len(starts) * 3 // 4] + 1
        if (end - begin) * _CONCENTRATED <= last - first:
            return [(start, stop) for start, stop in ((first, begin), (begin, end), (end, last)) if start < stop]
    middle = (first + last) // 2
    return [(first, middle), (middle, last)]


def _middle_duration(durations: list[int]) -> int | None:
    """A duration that some are shorter than and others not; None if all are the same."""
    durations.sort()
    middle = durations[len(durations) // 2] if durations else 0
    if not durations or durations[0] == durations[-1]:
        return None
    return middle if middle > durations[0] else next(each for each in durations if each > middle)


@dataclass(slots=True)
class _Running:
    """Running totals of a read."""

    received: int = 0
    kept: int = 0
    requests: int = 0
    splits: int = 0
    at_end: int = 0
    wasted: int = 0
    left_out: int = 0
    missing: int = 0
    seconds_read: int = 0
    min_density: float = 0.0
    allowance: int = 0
    is_dense: bool = False
    overlap: Overlap | None = None
    longest_ns: int = 0
    truncated: list[tuple[int, int]] = field(default_factory=list)

    def exceeds(self, budget: Budget) -> bool:
        # Requests that are needed only because Tempo is slow say nothing about density.
        # Long traces are found in every search that they overlap; that costs time, but no memory.
        traces = self.received + self.wasted - min(self.received - self.kept, budget.traces)
        is_wasteful = budget.wasted is not None and self.wasted > budget.wasted
        return is_wasteful or traces > budget.traces or self.requests - self.allowance >= budget.requests

    def too_dense(self) -> TooDenseError:
        density = max(self.min_density, self.kept / self.seconds_read if self.seconds_read else 0.0)
        return TooDenseError(self.received + self.wasted, self.requests, self.splits, density or None, self.overlap)


class ExactReader:
    """Reads ranges for one of the loops."""

    def __init__(self, client: SearchClient, telemetry: Telemetry, loop: Loop) -> None:
        self._client = client
        self._telemetry = telemetry
        self._loop: Loop = loop
        self._memory = SearchMemory()
        self._large = new_lock(LockRank.LARGE_SEARCH)
        self._trace_bytes = _USUAL_TRACE_BYTES

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
        limit: int | None = None,
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
            limit: most traces of a search, as far as that is less than searches may ask for otherwise.
            should_stop: asked before each search; once it returns true, the unread rest is truncated.

        Raises:
            TooDenseError: the budget was exceeded before the range was read.
            TempoError: a search failed; what was delivered is not the whole range.
        """
        affordable_before = affordable = self._memory.affordable_seconds
        ranges = self._divide(start, end, expected_traces)
        running = _Running()
        if expected_traces is not None:
            running.is_dense = expected_traces / (end - start) > self.per_search
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
                found, parts = self._search(first, last, series, running, budget, limit, may_split=may_split)
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
            # What succeeded is affordable, also if a later search fails.
            affordable_before = self._memory.affordable_seconds
            if found is None and last - first > 1:
                running.splits += 1
                self._telemetry.split(self._loop)
                ranges += parts
                continue
            if found is None:
                running.truncated.append(range_)
                continue
            spans = found
            if by_start:
                first_ns, last_ns = first * _NS, last * _NS
                spans = [span for span in spans if first_ns <= span.start_ns < last_ns]
                if last == end and len(spans) < len(found):
                    running.at_end += sum(span.start_ns == last_ns for span in found)
                running.longest_ns = max(running.longest_ns, max(map(_DURATION, found), default=0))
            running.received += len(found)
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
            left_out=running.left_out,
            missing=running.missing,
            overlap=running.overlap,
            longest_ns=running.longest_ns,
        )

    @property
    def per_search(self) -> float:
        """Traces of its own range that a search may be expected to return without being saturated."""
        limit = self._limit or self._client.max_limit
        return max(0.1 * limit, limit * SEARCH_FILL - self._memory.overlapping)

    @property
    def overlapping(self) -> float:
        """Traces that each search returns although they began before its range, where traces last long; else 0."""
        return self._memory.overlapping

    @property
    def hidden_series(self) -> frozenset[SeriesKey]:
        """Series seen in responses that could not be kept because of long traces, under the names that Tempo knows."""
        return self._memory.seen

    @property
    def broad_series(self) -> frozenset[SeriesKey]:
        """Series of which a search by name finds too many spans of others to be of use."""
        return self._memory.broad

    def too_broad(self, key: SeriesKey) -> None:
        """Remember that a search for one series alone, where attributes decide, found too much."""
        self._memory.too_broad(key)

    def probe(self, first: int, last: int) -> tuple[SearchResult, Cost]:
        """Search ``[first, last]`` for everything, with a higher limit where long traces need that.

        Raises:
            TempoError: a search failed.
        """
        running = _Running(requests=1)
        result = self._search_raised(first, last, (), running, None, None, may_split=False)
        return result, Cost(running.wasted + (0 if result.saturated else len(result.spans)), running.requests)

    @property
    def _limit(self) -> int | None:
        """The limit to ask for; None for that of the client."""
        raised = self._memory.raised_limit
        return None if raised is None else max(self._client.max_limit, min(raised, self._client.highest_limit))

    def _search(
        self,
        first: int,
        last: int,
        series: Sequence[SeriesKey],
        running: _Running,
        budget: Budget | None,
        limit: int | None,
        *,
        may_split: bool,
    ) -> tuple[Sequence[Span] | None, list[tuple[int, int]]]:
        """Return all spans found in a range; None, and the parts to search instead, if there are more than that.

        Raises:
            TooDenseError: the budget was exceeded.
            TempoError: a search failed.
        """
        result = self._search_raised(first, last, series, running, budget, limit, may_split=may_split)
        if not result.saturated:
            running.left_out += result.duplicates + result.invalid
            running.missing += result.missing
            return result.spans, []
        early = _early(result.spans, first)
        inside = len(result.spans) - early
        running.min_density = max(running.min_density, min(result.limit, inside) / (last - first))
        if early >= _LONG_SHARE * len(result.spans):
            spans = self._search_by_duration(
                first, last, series, ANY_DURATION, result.spans, result.limit, running, budget, _DURATION_DEPTH
            )
            if spans is not None:
                return spans, []
            if last - first == 1 and (running.overlap is None or running.overlap.traces < result.limit):
                running.overlap = Overlap(result.limit, inside)
        if last - first == 1:
            self._telemetry.traces_skipped(self._loop, "saturated", len(result.spans))
        return None, _split(first, last, result.spans)

    def _search_raised(
        self,
        first: int,
        last: int,
        series: Sequence[SeriesKey],
        running: _Running,
        budget: Budget | None,
        limit: int | None,
        *,
        may_split: bool,
    ) -> SearchResult:
        """Search a range, with ever higher limits as long as shorter ranges would not help; what it wastes is added."""
        lowered, limit = limit, self._limit
        if lowered is not None and limit is None and lowered < self._client.max_limit:
            limit = lowered
        if last - first == 1 and (running.splits or running.is_dense):
            limit = max(limit or self._client.max_limit, self._affordable(self._trace_bytes))
        saturated: SearchResult | None = None
        while True:
            is_raised = limit is not None and limit > self._client.max_limit
            is_exceptional = limit is not None and limit > (self._limit or self._client.max_limit)
            try:
                with self._large if is_exceptional else nullcontext():
                    result = self._client.search(
                        first, last, loop=self._loop, limit=limit, series=series, may_split=may_split
                    )
            except TempoError as error:
                if not is_raised or _is_independent_of_limit(error, may_split=may_split):
                    raise
                # The higher limit may be what failed: too much to send, or refused by a store that is not Tempo.
                self._memory.cannot_raise(self._client.max_limit if saturated is None else saturated.limit)
                if saturated is not None:
                    return saturated
                limit = None
                running.requests += 1
                continue
            if not result.saturated:
                if self._memory.raised_limit is not None:
                    self._memory.needed(len(result.spans), _early(result.spans, first), self._client.max_limit)
                return result
            early = _early(result.spans, first)
            highest = self._memory.highest(self._client.highest_limit)
            if result.bytes:
                self._trace_bytes = result.bytes / result.limit
                highest = min(highest, self._affordable(self._trace_bytes))
            running.wasted += len(result.spans)
            is_long = early >= _LONG_SHARE * len(result.spans)
            raised = min(result.limit * _RAISED_BY, highest) if is_long else highest
            if is_long and not series:
                self._memory.long_traces(early, min(raised, self._client.highest_limit), highest)
                self._memory.see({span.key for span in result.spans})
            if raised <= result.limit or not (is_long or last - first == 1):
                return result
            if budget is not None and running.exceeds(budget):
                raise running.too_dense()
            running.requests += 1
            saturated, limit = result, raised

    def _affordable(self, trace_bytes: float) -> int:
        """The highest limit that Tempo allows and that memory can hold, at the size of a trace in a response."""
        return self._memory.highest(min(self._client.highest_limit, int(_MOST_BYTES / trace_bytes)))

    def _search_by_duration(
        self,
        first: int,
        last: int,
        series: Sequence[SeriesKey],
        durations: DurationRange,
        some: Sequence[Span],
        limit: int,
        running: _Running,
        budget: Budget | None,
        depth: int,
    ) -> list[Span] | None:
        """Search a range for shorter and longer spans separately; None if there are too many of one duration."""
        cut = _middle_duration([span.duration_ns for span in some if durations.contains(span.duration_ns)])
        if cut is None or not depth:
            return None
        found: list[Span] = []
        for part in (durations._replace(below_ns=cut), durations._replace(at_least_ns=cut)):
            if budget is not None and running.exceeds(budget):
                raise running.too_dense()
            running.requests += 1
            result = self._client.search(first, last, loop=self._loop, limit=limit, series=series, durations=part)
            spans: Sequence[Span] | None = result.spans
            if result.saturated:
                running.wasted += len(result.spans)
                spans = self._search_by_duration(
                    first, last, series, part, result.spans, limit, running, budget, depth - 1
                )
            else:
                running.left_out += result.duplicates + result.invalid
                running.missing += result.missing
            if spans is None:
                running.wasted += len(found)
                return None
            found += spans
        return found

    def _divide(self, start: int, end: int, expected_traces: float | None) -> list[tuple[int, int]]:
        """Equal parts, oldest first, that are neither too long for Tempo nor expected to saturate a search."""
        count = 1
        if expected_traces is not None:
            count = math.ceil(expected_traces / self.per_search)
        if self._client.max_range_seconds is not None:
            count = max(count, math.ceil((end - start) / self._client.max_range_seconds))
        if (affordable := self._memory.affordable_seconds) is not None:
            count = max(count, math.ceil((end - start) / affordable))
        count = max(1, min(count, end - start))
        edges = [start + (end - start) * number // count for number in range(count + 1)]
        return list(pairwise(edges))
