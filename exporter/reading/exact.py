"""Reads a range of time exactly: every span in scope that started in it, or a list of the seconds where that failed.

A search returns at most ``limit`` traces, in no particular order. An answer of that length is not the range but some of
it, so the range is halved and read again, down to a single second, the narrowest that Tempo searches. Traces come
when they overlap the range, both ends included; a span is kept by its own start in ``[start, end)``, so that
neighbouring ranges count it once without remembering it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol

from exporter.core.span import Span
from exporter.telemetry import Loop, Telemetry
from exporter.tempo.errors import RangeTooLongError

_NS: Final = 1_000_000_000
_PRESPLIT_FILL: Final = 0.7
"""How full a search may be expected to be before its range is cut beforehand: a saturated answer is thrown away."""


class Answer(Protocol):
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

    def search(self, start: int, end: int, *, loop: Loop) -> Answer:
        """Search ``[start, end]``; raises TempoError."""

    def exists(self, start: int, end: int, *, loop: Loop) -> bool:
        """Whether any trace in scope overlaps ``[start, end]``; raises TempoError."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How the reading of a range went.

    Attributes:
        received: spans in scope that came.
        kept: those that started in the range.
        requests: searches made.
        splits: searches whose range was halved.
        truncated: ranges that stayed incomplete.
    """

    received: int
    kept: int
    requests: int
    splits: int
    truncated: tuple[tuple[int, int], ...]


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
        expected_traces: float | None = None,
        give_up: Callable[[], bool] = lambda: False,
    ) -> Reading:
        """Read ``[start, end)``, newest part first.

        Args:
            start: Unix seconds.
            end: Unix seconds, after ``start``.
            deliver: takes the spans of each part as it is complete.
            by_start: keep only spans that started in the range, which makes neighbouring ranges disjoint; otherwise
                all of traces that overlap it, some of them several times.
            expected_traces: about how many there are; more than a search returns are not even tried at once.
            give_up: asked before each search; once it says yes, what is still unread is truncated.

        Raises:
            TempoError: a search failed for good; what was delivered is not the range.
        """
        parts = self._cut(start, end, expected_traces)
        received = kept = requests = splits = 0
        truncated: list[tuple[int, int]] = []
        while parts:
            part = first, last = parts.pop()
            if give_up():
                truncated.append(part)
                continue
            requests += 1
            try:
                answer = self._searcher.search(first, last, loop=self._loop)
            except RangeTooLongError:
                pieces = self._cut(first, last, None)
                if len(pieces) == 1:
                    raise
                parts.extend(pieces)
                continue
            if answer.saturated and last - first > 1:
                splits += 1
                self._telemetry.split(self._loop)
                middle = (first + last) // 2
                parts += [(first, middle), (middle, last)]
                continue
            if answer.saturated:
                truncated.append(part)
            spans = answer.spans
            if by_start:
                first_ns, last_ns = first * _NS, last * _NS
                spans = [span for span in spans if first_ns <= span.start_ns < last_ns]
            received += len(answer.spans)
            kept += len(spans)
            deliver(spans)
        if received > kept:
            self._telemetry.traces_skipped(self._loop, "outside_window", received - kept)
        return Reading(received, kept, requests, splits, tuple(truncated))

    def _cut(self, start: int, end: int, expected_traces: float | None) -> list[tuple[int, int]]:
        """Equal parts, oldest first, that are neither too long for Tempo nor expected to saturate a search."""
        count = 1
        if expected_traces is not None:
            count = math.ceil(expected_traces / (self._searcher.max_limit * _PRESPLIT_FILL))
        if self._searcher.max_range_seconds is not None:
            count = max(count, math.ceil((end - start) / self._searcher.max_range_seconds))
        count = max(1, min(count, end - start))
        edges = [start + (end - start) * number // count for number in range(count + 1)]
        return list(pairwise(edges))
