"""Reads a range of time exactly: every span in scope that started in it, or a list of the seconds where that failed.

A search returns at most ``limit`` traces, in no particular order. An answer of that length is not the range but some of
it, so the range is halved and read again, down to a single second, the narrowest that Tempo searches. Traces come
when they overlap the range, both ends included; a span is kept by its own start in ``[start, end)``, so that
neighbouring ranges count it once without remembering it.

Of a single second that is still too full nothing is kept. What Tempo returns of it are the traces that it happened to
find first: by the block they lie in and by their id, so perhaps those of one service or of one moment. Such a second
counts as not read, since nobody can say what it stands for.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Protocol

from exporter.ingest.settings import Budget
from exporter.model.span import SeriesKey, Span
from exporter.runtime.telemetry import Loop, Telemetry
from exporter.tempo.errors import RangeTooLongError

_NS: Final = 1_000_000_000
SEARCH_FILL: Final = 0.7
"""How full a search may be expected to be before its range is cut beforehand: a saturated answer is thrown away."""


class SearchResult(Protocol):
    """What a search brings, as far as reading needs it."""

    @property
    def spans(self) -> Sequence[Span]:
        """Spans in scope of the traces returned."""

    @property
    def saturated(self) -> bool:
        """Whether there may be more."""

    @property
    def limit(self) -> int:
        """The limit in force."""


class Searcher(Protocol):
    """Searches Tempo."""

    @property
    def max_limit(self) -> int:
        """The most traces that a search returns, as far as is known."""

    @property
    def max_range_seconds(self) -> int | None:
        """The longest range that Tempo searches, once it has said so."""

    def search(self, start: int, end: int, *, loop: Loop, series: Sequence[SeriesKey] = ()) -> SearchResult:
        """Search ``[start, end]``, for all spans in scope or for those of some series; raises TempoError."""

    def exists(self, start: int, end: int, *, loop: Loop) -> bool:
        """Whether any trace in scope overlaps ``[start, end]``; raises TempoError."""


@dataclass(frozen=True, slots=True)
class ReadResult:
    """How the reading of a range went.

    Attributes:
        received: spans in scope that came.
        kept: those that started in the range.
        requests: searches made.
        splits: searches whose range was halved.
        truncated: ranges that stayed incomplete.
        at_end: spans that started exactly at the end of the range, and belong to the next one.
        wasted: spans that came with searches that were full, and are no part of anything.
    """

    received: int
    kept: int
    requests: int
    splits: int
    truncated: tuple[tuple[int, int], ...]
    at_end: int = 0
    wasted: int = 0


class TooDenseError(Exception):
    """A range holds more than its budget allows to be read; what was delivered of it is not the range.

    Attributes:
        received: traces that came in vain.
        requests: searches made in vain.
        splits: searches whose range was halved.
        density: traces a second, at least, as far as that is known.
    """

    def __init__(self, received: int, requests: int, splits: int, density: float | None) -> None:
        super().__init__(f"more than {received} traces in {requests} searches")
        self.received = received
        self.requests = requests
        self.splits = splits
        self.density = density


@dataclass(slots=True)
class _Progress:
    """What a reading has come to so far."""

    received: int = 0
    kept: int = 0
    requests: int = 0
    splits: int = 0
    at_end: int = 0
    wasted: int = 0
    seconds_read: int = 0
    least_density: float = 0.0
    truncated: list[tuple[int, int]] = field(default_factory=list)

    def spent(self, budget: Budget) -> bool:
        return self.received + self.wasted > budget.traces or self.requests >= budget.requests

    def too_dense(self) -> TooDenseError:
        density = max(self.least_density, self.kept / self.seconds_read if self.seconds_read else 0.0)
        return TooDenseError(self.received + self.wasted, self.requests, self.splits, density or None)


class ExactReader:
    """Reads ranges for one of the loops."""

    def __init__(self, searcher: Searcher, telemetry: Telemetry, loop: Loop) -> None:
        self._searcher = searcher
        self._telemetry = telemetry
        self._loop: Loop = loop

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
        give_up: Callable[[], bool] = lambda: False,
    ) -> ReadResult:
        """Read ``[start, end)``, newest part first.

        Args:
            start: Unix seconds.
            end: Unix seconds, after ``start``.
            deliver: takes the spans of each part as it is complete.
            by_start: keep only spans that started in the range, which makes neighbouring ranges disjoint; otherwise
                all of traces that overlap it, some of them several times.
            series: only the spans of these are read; all in scope where there are none.
            expected_traces: about how many there are; more than a search returns are not even tried at once.
            budget: what this may cost.
            give_up: asked before each search; once it says yes, what is still unread is truncated.

        Raises:
            TooDenseError: the budget was spent before the range was read.
            TempoError: a search failed for good; what was delivered is not the range.
        """
        parts = self._cut(start, end, expected_traces)
        done = _Progress()
        while parts:
            part = first, last = parts.pop()
            if give_up():
                done.truncated.append(part)
                continue
            if budget is not None and done.spent(budget):
                raise done.too_dense()
            done.requests += 1
            try:
                answer = self._searcher.search(first, last, loop=self._loop, series=series)
            except RangeTooLongError:
                pieces = self._cut(first, last, None)
                if len(pieces) == 1:
                    raise
                parts.extend(pieces)
                continue
            if answer.saturated:
                done.wasted += len(answer.spans)
                done.least_density = max(done.least_density, answer.limit / (last - first))
            if answer.saturated and last - first > 1:
                done.splits += 1
                self._telemetry.split(self._loop)
                middle = (first + last) // 2
                parts += [(first, middle), (middle, last)]
                continue
            if answer.saturated:
                done.truncated.append(part)
                self._telemetry.traces_skipped(self._loop, "saturated", len(answer.spans))
                continue
            spans = answer.spans
            if by_start:
                first_ns, last_ns = first * _NS, last * _NS
                spans = [span for span in spans if first_ns <= span.start_ns < last_ns]
                if last == end and len(spans) < len(answer.spans):
                    done.at_end += sum(span.start_ns == last_ns for span in answer.spans)
            done.received += len(answer.spans)
            done.kept += len(spans)
            done.seconds_read += last - first
            deliver(spans)
        if done.received > done.kept:
            self._telemetry.traces_skipped(self._loop, "outside_window", done.received - done.kept)
        return ReadResult(
            done.received, done.kept, done.requests, done.splits, tuple(done.truncated), done.at_end, done.wasted
        )

    def _cut(self, start: int, end: int, expected_traces: float | None) -> list[tuple[int, int]]:
        """Equal parts, oldest first, that are neither too long for Tempo nor expected to saturate a search."""
        count = 1
        if expected_traces is not None:
            count = math.ceil(expected_traces / (self._searcher.max_limit * SEARCH_FILL))
        if self._searcher.max_range_seconds is not None:
            count = max(count, math.ceil((end - start) / self._searcher.max_range_seconds))
        count = max(1, min(count, end - start))
        edges = [start + (end - start) * number // count for number in range(count + 1)]
        return list(pairwise(edges))
