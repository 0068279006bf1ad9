"""Fakes for tests of the readers: an in-memory Tempo, a manual clock, and recorded telemetry."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from exporter.model.span import SeriesKey, Span
from exporter.runtime.telemetry import (
    CauseOutcome,
    FailureReason,
    Loop,
    SkipReason,
    StorageFailure,
    Telemetry,
    VersionOutcome,
)
from exporter.tempo.counts import SpanCounts
from exporter.tempo.errors import RangeTooLongError, TempoError
from exporter.tempo.query import ANY_DURATION, DurationRange

NS = 1_000_000_000
KEY = SeriesKey("checkout", "POST /orders")
_numbers = count(1)


def span(start: float, seconds: float = 0.0, key: SeriesKey = KEY, trace: int | None = None) -> Span:
    """Return a span that starts at this time in Unix seconds, in a trace of its own unless one is given."""
    number = next(_numbers) if trace is None else trace
    return Span(f"{number:032x}", f"{next(_numbers):016x}", key, round(start * NS), round(seconds * NS))


class Recorder(Telemetry):
    """Counts what the readers report, and fails on reports that other parts have to make."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self.splits: Counter[Loop] = Counter()
        self.truncated_windows: Counter[Loop] = Counter()
        self.sampled_windows: Counter[Loop] = Counter()
        self.source_counts: list[bool] = []
        self.rootless: list[float] = []
        self.skipped: Counter[tuple[Loop, SkipReason]] = Counter()
        self.causes: list[tuple[CauseOutcome, float]] = []
        self.versions: list[VersionOutcome] = []
        self.pending_causes = 0
        self.delays: Counter[float] = Counter()

    def split(self, loop: Loop) -> None:
        with self._mutex:
            self.splits[loop] += 1

    def sampled(self, loop: Loop) -> None:
        with self._mutex:
            self.sampled_windows[loop] += 1

    def source_counts_available(self, available: bool) -> None:
        with self._mutex:
            self.source_counts.append(available)

    def rootless_traces(self, ratio: float) -> None:
        self.rootless.append(ratio)

    def truncated(self, loop: Loop) -> None:
        with self._mutex:
            self.truncated_windows[loop] += 1

    def traces_skipped(self, loop: Loop, reason: SkipReason, count: int) -> None:
        with self._mutex:
            self.skipped[loop, reason] += count

    def searchable_delays(self, delays: Mapping[float, int]) -> None:
        with self._mutex:
            self.delays.update(delays)

    def request(self, loop: Loop, seconds: float) -> None:
        raise AssertionError("only the client reports this")

    def request_failed(self, loop: Loop, reason: FailureReason) -> None:
        raise AssertionError("only the client reports this")

    def tempo_answered(self, answered: bool) -> None:
        raise AssertionError("only the client reports this")

    def saturated(self, loop: Loop) -> None:
        raise AssertionError("only the client reports this")

    def traces_read(self, loop: Loop, count: int) -> None:
        raise AssertionError("only the client reports this")

    def storage_failed(self, reason: StorageFailure) -> None:
        raise AssertionError("only the store reports this")

    def search_by_id_available(self, available: bool) -> None:
        raise AssertionError("only the client reports this")

    def cause_sought(self, outcome: CauseOutcome, seconds: float) -> None:
        with self._mutex:
            self.causes.append((outcome, seconds))

    def causes_pending(self, count: int) -> None:
        self.pending_causes = count

    def version_sought(self, outcome: VersionOutcome) -> None:
        with self._mutex:
            self.versions.append(outcome)


@dataclass(frozen=True)
class Found:
    """The result of a search."""

    spans: Sequence[Span]
    saturated: bool
    limit: int
    duplicates: int = 0
    invalid: int = 0
    missing: int = 0
    bytes: int = 0


@dataclass
class FakeTempo:
    """Searches spans as Tempo does.

    A search finds the traces that overlap its range, bounds included. It returns all of them, or an arbitrary selection
    if they reach the limit, which may differ from search to search.

    Attributes:
        spans: the stored spans; may be changed at any time.
        max_limit: maximum number of traces per search, unless the search asks for more.
        tempo_limit: maximum number of traces per search if it asks for more; by default `max_limit`.
        trace_bytes: size of a trace in a response.
        limits: the limit of each search.
        allowed_seconds: maximum range of searches and probes; longer ones are rejected.
        max_range_seconds: the same, once a rejection has reported it.
        before_search: called with the range of every search; may raise the error that the search fails with.
        before_probe: the same for every probe.
        searches: the searched ranges, in the order in which the searches started.
        names: the series that each search was restricted to; empty for all.
        counting: how it counts; Tempo 2 mostly does not.
        counted: the counted ranges.
        allowed_count_seconds: maximum range of a count.
        count_refusals: number of counts over a longer range.
        probes: the ranges that were probed for any trace.
        explained: the ranges for which a reason was requested why they are empty.
        refusals: number of searches and probes over too long a range.
        most_at_once: maximum number of concurrent searches so far.
        time_now: Unix seconds; a span can be found and counted once it has ended. Without it, all spans can.
        long_searches: for each search for long spans only, its range and the shortest duration in nanoseconds.
    """

    spans: list[Span] = field(default_factory=list)
    max_limit: int = 1000
    tempo_limit: int = 0
    trace_bytes: int = 0
    limits: list[int] = field(default_factory=list)
    allowed_seconds: int = 168 * 3600
    max_range_seconds: int | None = None
    seed: int = 0
    before_search: Callable[[int, int], None] = lambda start, end: None
    before_probe: Callable[[int, int], None] = lambda start, end: None
    searches: list[tuple[int, int]] = field(default_factory=list)
    names: list[tuple[SeriesKey, ...]] = field(default_factory=list)
    counting: Literal["exact", "empty", "refused"] = "empty"
    counted: list[tuple[int, int]] = field(default_factory=list)
    allowed_count_seconds: int = 24 * 3600
    count_refusals: int = 0
    probes: list[tuple[int, int]] = field(default_factory=list)
    refusals: int = 0
    most_at_once: int = 0
    explained: list[tuple[int, int]] = field(default_factory=list)
    time_now: Callable[[], float] | None = None
    long_searches: list[tuple[int, int, int]] = field(default_factory=list)
    _at_once: int = 0
    _grouped: list[Span] = field(default_factory=list)
    _extents: list[tuple[int, int, list[Span]]] = field(default_factory=list)
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    @property
    def highest_limit(self) -> int:
        return max(self.max_limit, self.tempo_limit)

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
    ) -> Found:
        assert loop in ("poll", "backfill", "api")
        with self._mutex:
            self._check(start, end)
            self.searches.append((start, end))
            self.names.append(tuple(series))
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            self.before_search(start, end)
        finally:
            with self._mutex:
                self._at_once -= 1
        with self._mutex:
            traces = self._overlapping(start, end, frozenset(series))
            if durations != ANY_DURATION:
                self.long_searches.append((start, end, durations.at_least_ns))
                matching = ([each for each in trace if durations.contains(each.duration_ns)] for trace in traces)
                traces = [trace for trace in matching if trace]
            self._chance.shuffle(traces)
            most = min(limit or self.max_limit, self.highest_limit)
            self.limits.append(most)
            spans = [each for trace in traces[:most] for each in trace]
            return Found(spans, len(traces) >= most, most, bytes=self.trace_bytes * min(most, len(traces)))

    def why_empty(self, start: int, end: int, *, loop: Loop) -> str:
        self.explained.append((start, end))
        return "check tempo.tenant"

    def exists(self, start: int, end: int, *, loop: Loop) -> bool:
        assert loop in ("poll", "backfill")
        with self._mutex:
            self._check(start, end)
            self.probes.append((start, end))
        self.before_probe(start, end)
        with self._mutex:
            return bool(self._overlapping(start, end))

    def _check(self, start: int, end: int) -> None:
        assert start < end, "Tempo rejects an empty range"
        if end - start > self.allowed_seconds:
            self.refusals += 1
            self.max_range_seconds = self.allowed_seconds
            raise RangeTooLongError("range exceeds what is allowed", max_seconds=self.allowed_seconds)

    @property
    def max_count_range_seconds(self) -> int | None:
        return self.allowed_count_seconds if self.count_refusals else None

    def count(self, start: int, end: int, step_seconds: int, *, loop: Loop, by_series: bool = False) -> SpanCounts:
        """Return exact counts by step, as Tempo 3 does; nothing or an error if it cannot count."""
        assert loop == "backfill"
        assert start % step_seconds == end % step_seconds == 0
        assert end - start >= 2 * step_seconds
        with self._mutex:
            self.counted.append((start, end))
            if self.counting == "refused":
                raise TempoError("empty ring", reason="server_error", retryable=True, status=500)
            if end - start > self.allowed_count_seconds:
                self.count_refusals += 1
                raise RangeTooLongError("exceeds the maximum allowed", max_seconds=self.allowed_count_seconds)
            if self.counting == "empty":
                return SpanCounts()
            by_step_end: Counter[int] = Counter()
            by_series_key: Counter[SeriesKey] = Counter()
            for each in self._arrived():
                if start * NS < each.start_ns <= end * NS:
                    by_step_end[-(-each.start_ns // (step_seconds * NS)) * step_seconds] += 1
                    by_series_key[each.key] += 1
            return SpanCounts(by_step_end, by_series_key if by_series else {})

    def _arrived(self) -> list[Span]:
        if self.time_now is None:
            return self.spans
        now_ns = self.time_now() * NS
        return [each for each in self.spans if each.end_ns <= now_ns]

    def _overlapping(self, start: int, end: int, series: frozenset[SeriesKey] = frozenset()) -> list[list[Span]]:
        spans = self._arrived()
        if series:
            extents = _extents([each for each in spans if each.key in series])
        else:
            # Comparing the same objects is cheap, and grouping them again for every search is not.
            if self._grouped != spans:
                self._grouped, self._extents = list(spans), _extents(spans)
            extents = self._extents
        start_ns, end_ns = start * NS, end * NS
        return [trace for first_ns, last_ns, trace in extents if first_ns <= end_ns and start_ns <= last_ns]


def _extents(spans: Sequence[Span]) -> list[tuple[int, int, list[Span]]]:
    """Group spans by trace; returns the start, the end and the spans of each trace."""
    traces: dict[str, list[Span]] = {}
    for each in spans:
        traces.setdefault(each.trace_id, []).append(each)
    return [
        (min(each.start_ns for each in trace), max(each.end_ns for each in trace), trace) for trace in traces.values()
    ]


def away(start: int, end: int) -> None:
    """Fail as if Tempo were down; for ``before_search`` and ``before_probe``."""
    raise TempoError(f"no connection for {start}..{end}", reason="connection", retryable=True)


class FrozenClock:
    """A clock that only advances on request.

    With a tick, monotonic time also advances on every call, so that pauses end at once.
    """

    def __init__(self, now: float, tick: float = 0.0) -> None:
        self.now = now
        self.passed = 0.0
        self._tick = tick

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        self.passed += self._tick
        return self.passed

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.passed += seconds
