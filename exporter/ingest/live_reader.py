"""Reads current traffic within a budget: whole where it fits into it, otherwise as a sample.

A sample consists of all traces that *ended* in chosen slices of time (:mod:`exporter.ingest.sampling`), because the
evaluation window counts traces by their ends, and a search finds all traces that overlap its range: by any other rule,
long traces would be found in more slices than short ones. The slices depend on the clock alone. The next poll, which
reads most of the same time once more, reads the same slices and finds traces that arrived late.

Series with little traffic, which a sample would hardly contain, are read whole by searches for their names.
"""

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Final, NamedTuple

from exporter.ingest.exact_reader import SEARCH_FILL, Budget, ExactReader, Overlap, SearchClient, TooDenseError
from exporter.ingest.read_policy import (
    TOLERANCE,
    max_whole_traces,
    probe_density,
    read_within_budget,
    whole_read_budget,
)
from exporter.ingest.sampling import WHOLE, TimeSample, rare_groups
from exporter.model.span import SeriesKey, Span
from exporter.runtime.telemetry import Telemetry
from exporter.tempo.query import condition_length

_NS: Final = 1_000_000_000
_HOUR: Final = 3600
SLICE_SECONDS: Final = 2
"""Short, so that many slices fit into the evaluation window; a search of one second reads nearly two seconds anyway."""
_PROBES: Final = 3
_BY_NAME_TRACES: Final = 0.25
"""Share of the budget for traces that series with little traffic may use."""
_BY_NAME_REQUESTS: Final = 0.1
_REQUEST_TOLERANCE: Final = 2
_MAX_ONE_IN: Final = 16
"""At least one slice of each half minute is read, because a poll without any would know nothing."""
_INITIAL_OVERHEAD: Final = 1.2
"""Traces that a search for a slice returns, divided by those that belong to it, while that is unknown."""


class LiveReading(NamedTuple):
    """What was read of current traffic.

    Attributes:
        spans: spans in scope, some of them several times.
        sample: the part of the time that they represent.
        received: spans received, kept or not.
        splits: searches that were split in halves.
        unread: number of ranges that should have been read and were not.
        by_name: series that were read whole, beside the sample.
        overlap: what was found in a range that was not read because of long traces; None if there was none.
    """

    spans: Sequence[Span]
    sample: TimeSample
    received: int
    splits: int
    unread: int
    by_name: frozenset[SeriesKey] = frozenset()
    overlap: Overlap | None = None


class LiveReader:
    """Reads current traffic poll by poll, and remembers how dense it is. Not thread-safe."""

    def __init__(
        self, client: SearchClient, telemetry: Telemetry, budget: Budget, *, poll_seconds: float, hold_seconds: float
    ) -> None:
        """Prepare to read.

        Args:
            client: Tempo.
            telemetry: counts splits, skipped spans and samples.
            budget: what a read of `poll_seconds` may cost; a longer one may cost more in proportion.
            poll_seconds: the length of an ordinary read.
            hold_seconds: how long a sample stays as small as it was after dense traffic, so that all of the evaluation
                window represents the same share of its time.
        """
        self._client = client
        self._telemetry = telemetry
        self._budget = budget
        self._poll_seconds = poll_seconds
        self._memory = _Memory(client, hold_seconds)
        self._exact = ExactReader(client, telemetry, "poll")

    @property
    def density(self) -> float | None:
        """Traces per second in the last read."""
        return self._memory.density

    def exists(self, start: int, end: int) -> bool:
        """Whether any trace overlaps ``[start, end]``; a range longer than Tempo searches is cut at its start.

        Raises:
            TempoError: the search failed.
            StoppedError: the exporter is being stopped.
        """
        longest = self._client.max_range_seconds
        return self._client.exists(start if longest is None else max(start, end - longest), end, loop="poll")

    def read(
        self,
        start: int,
        end: int,
        should_stop: Callable[[], bool],
        per_hour: Callable[[], Mapping[SeriesKey, float]] = dict,
    ) -> LiveReading:
        """Read what overlaps ``[start, end]``, newest part first.

        Args:
            start: Unix seconds.
            end: Unix seconds.
            should_stop: asked before each search; once it returns true, the rest stays unread.
            per_hour: returns the traces per hour of each series in its baseline, as far as known; called only where a
                sample is read.

        Raises:
            TempoError: a search failed.
            StoppedError: the exporter is being stopped.
        """
        times = max(1.0, (end - start) / self._poll_seconds)
        budget = Budget(round(self._budget.traces * times), round(self._budget.requests * times))
        poll = _Poll(
            start, end, budget, self._client, self._exact, self._telemetry, self._memory, should_stop, per_hour
        )
        return read_within_budget(poll)


class _Memory:
    """What polls remember: how dense traffic is, and how small recent samples had to be."""

    def __init__(self, client: SearchClient, hold_seconds: float) -> None:
        self._client = client
        self._hold_seconds = hold_seconds
        self._recent: list[tuple[float, int]] = []
        self.density: float | None = None
        self.overhead = _INITIAL_OVERHEAD

    def sample(self, now: float, budget: Budget, expected: float) -> TimeSample:
        """The sample to read, of ever smaller ones that are each a part of those before."""
        most = max_whole_traces(budget, self._client.max_limit)
        one_in = 1
        # A search for a slice also returns what overlaps its ends, which must not exceed the budget either.
        while expected / one_in * (1.0 if one_in == 1 else self.overhead) > most and one_in < _MAX_ONE_IN:
            one_in *= 2
        return self.hold(now, one_in)

    def hold(self, now: float, one_in: int) -> TimeSample:
        """The sample with a share, or the smallest one of recent polls."""
        recent = [(at, needed) for at, needed in self._recent if now - self._hold_seconds < at <= now]
        self._recent = [*((at, needed) for at, needed in recent if needed > one_in), (now, one_in)]
        one_in = max(needed for _, needed in self._recent)
        return WHOLE if one_in == 1 else TimeSample(SLICE_SECONDS, one_in)


class _Poll:
    """The stretch of time of one poll; for one use."""

    def __init__(
        self,
        start: int,
        end: int,
        budget: Budget,
        client: SearchClient,
        exact: ExactReader,
        telemetry: Telemetry,
        memory: _Memory,
        should_stop: Callable[[], bool],
        per_hour: Callable[[], Mapping[SeriesKey, float]],
    ) -> None:
        self._start = start
        self._end = end
        self._budget = budget
        self._client = client
        self._exact = exact
        self._telemetry = telemetry
        self._memory = memory
        self._should_stop = should_stop
        self._per_hour = per_hour
        self._wasted = 0
        self._splits = 0
        self._min_density = 0.0

    @property
    def expected(self) -> float | None:
        density = self._memory.density
        return None if density is None else density * (self._end - self._start)

    def fits(self) -> bool:
        return self._memory.sample(self._end, self._budget, self.expected or 0.0).is_whole

    def read_whole(self) -> LiveReading | None:
        spans: list[Span] = []
        expected = self.expected
        try:
            reading = self._exact.read(
                self._start,
                self._end,
                spans.extend,
                by_start=False,
                expected_traces=expected,
                budget=whole_read_budget(self._budget, expected, request_tolerance=_REQUEST_TOLERANCE),
                should_stop=self._should_stop,
            )
        except TooDenseError as error:
            self._wasted += error.received
            self._splits += error.splits
            self._min_density = max(self._min_density, error.density or 0.0)
            if expected is not None:
                self._memory.density = max(self._memory.density or 0.0, self._min_density)
            return None
        self._memory.density = reading.received / (self._end - self._start)
        return LiveReading(
            spans, WHOLE, reading.received, reading.splits, len(reading.truncated), overlap=reading.overlap
        )

    def probe(self) -> None:
        seconds = self._end - self._start
        starts = [self._start + seconds * number // (_PROBES + 1) for number in range(1, _PROBES + 1)]
        ranges = [(start, start + 1) for start in starts]
        probe = probe_density(self._exact, ranges, 1, _ended_in, self._should_stop)
        self._wasted += probe.received
        self._memory.density = max(self._min_density, probe.density or 0.0)

    def read_sample(self) -> LiveReading:
        sample = self._memory.sample(self._end, self._budget, self.expected or 0.0)
        if sample.is_whole:
            # Traffic is denser than its density says. Half of it is surely little enough.
            sample = self._memory.hold(self._end, 2)
        self._telemetry.sampled("poll")
        by_name = self._read_by_name(sample)
        reading = self._read_slices(sample, by_name)
        return reading._replace(received=reading.received + self._wasted, splits=reading.splits + self._splits)

    def _read_by_name(self, sample: TimeSample) -> Mapping[SeriesKey, list[Span]]:
        """Read everything that ended in the stretch, of series with so little traffic that the sample would not do."""
        start, end, budget = self._start, self._end, self._budget
        expected = {key: max(1, ceil(count * (end - start) / _HOUR)) for key, count in self._per_hour().items()}
        most = Budget(round(budget.traces * _BY_NAME_TRACES), max(1, round(budget.requests * _BY_NAME_REQUESTS)))
        limit = self._client.max_limit
        found: dict[SeriesKey, list[Span]] = {}
        for group in rare_groups(expected, sample.share, most, limit * SEARCH_FILL, condition_length):
            spans: list[Span] = []
            try:
                reading = self._exact.read(
                    start,
                    end,
                    spans.extend,
                    by_start=False,
                    series=group,
                    budget=Budget(limit, 2),
                    should_stop=self._should_stop,
                )
            except TooDenseError:
                # These series have more traffic than in their baseline, so the sample will do.
                continue
            if not reading.truncated:
                found.update((key, []) for key in group)
                for span in spans:
                    if _ended_in(span, start, end) and span.key in found:
                        found[span.key].append(span)
        return found

    def _read_slices(self, sample: TimeSample, by_name: Mapping[SeriesKey, Sequence[Span]]) -> LiveReading:
        """Read the slices, newest first, and join what was read by name."""
        budget, density = self._budget, self._memory.density or 0.0
        spans: list[Span] = []
        received = requests = splits = unread = seconds = outside = 0
        overlap: Overlap | None = None
        for first, last in reversed(list(sample.slices_in(self._start, self._end))):
            if requests >= budget.requests or received > TOLERANCE * budget.traces:
                # What is left was read by earlier polls.
                break
            found: list[Span] = []
            reading = self._exact.read(
                first,
                last,
                found.extend,
                by_start=False,
                expected_traces=density * (last - first),
                should_stop=self._should_stop,
            )
            received += reading.received + reading.wasted
            requests += reading.requests
            splits += reading.splits
            unread += len(reading.truncated)
            overlap = overlap or reading.overlap
            if not reading.truncated:
                seconds += last - first
                ended = [span for span in found if _ended_in(span, first, last)]
                outside += len(found) - len(ended)
                spans += ended
        if outside:
            self._telemetry.traces_skipped("poll", "outside_window", outside)
        if spans:
            self._memory.density = len(spans) / seconds
            self._memory.overhead = received / len(spans)
        spans = [span for span in spans if span.key not in by_name]
        for some in by_name.values():
            spans += some
        return LiveReading(spans, sample, received, splits, unread, frozenset(by_name), overlap)


def _ended_in(span: Span, start: int, end: int) -> bool:
    return start * _NS < span.end_ns <= end * _NS
