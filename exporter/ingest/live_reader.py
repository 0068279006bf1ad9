"""Reads current traffic within a budget: whole where it fits into it, otherwise as a sample.

A sample consists of all traces that *ended* in chosen slices of time (:mod:`exporter.ingest.sampling`), because the
evaluation window counts traces by their ends, and a search finds all traces that overlap its range: by any other rule,
long traces would be found in more slices than short ones. The slices depend on the clock alone. A later poll that reads
the same time once more reads the same slices and finds traces that arrived late.

Series with little traffic, which a sample would hardly contain, are read whole by searches for their names.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import ceil
from typing import Final, NamedTuple

from exporter.ingest.exact_reader import (
    CAUTIOUS_LIMIT,
    SEARCH_FILL,
    Budget,
    ExactReader,
    Overlap,
    SearchClient,
    TooDenseError,
)
from exporter.ingest.read_policy import (
    TOLERANCE,
    ReadCost,
    max_whole_traces,
    probe_density,
    read_within_budget,
    whole_read_budget,
)
from exporter.ingest.sampling import WHOLE, TimeSample, rare_groups
from exporter.model.identity import BY_NAME, SeriesIdentity
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
_BROAD_HALVINGS: Final = 2
"""How often in a poll a group of series is halved to find one of which searches by name find too many other spans."""
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
        ended: spans among those received that ended in the range that was searched.
        is_cut_short: whether something was left unread because the time or the budget was spent.
        missed: stretches of time that nothing that was read represents, in Unix seconds, except for series read by
            name.
    """

    spans: Sequence[Span]
    sample: TimeSample
    received: int
    splits: int
    unread: int
    by_name: frozenset[SeriesKey] = frozenset()
    overlap: Overlap | None = None
    ended: int = 0
    is_cut_short: bool = False
    missed: Sequence[tuple[int, int]] = ()


class LiveReader:
    """Reads current traffic poll by poll, and remembers how dense it is. Not thread-safe."""

    def __init__(
        self,
        client: SearchClient,
        telemetry: Telemetry,
        budget: Budget,
        *,
        poll_seconds: float,
        hold_seconds: float,
        identity: SeriesIdentity = BY_NAME,
    ) -> None:
        """Prepare to read.

        Args:
            client: Tempo.
            telemetry: counts splits, skipped spans and samples.
            budget: what a read of `poll_seconds` may cost; a longer one may cost more in proportion.
            poll_seconds: the longest ordinary read; whether traffic is sampled depends on that much of it.
            hold_seconds: how long a sample stays as small as it was after dense traffic, so that all of the evaluation
                window represents the same share of its time.
            identity: the rules by which a span gets its series.
        """
        self._client = client
        self._telemetry = telemetry
        self._budget = budget
        self._poll_seconds = poll_seconds
        self._identity = identity
        self._memory = _Memory(client, hold_seconds)
        self._exact = ExactReader(client, telemetry, "poll")

    @property
    def density(self) -> float | None:
        """Traces that ended per second of what was read recently."""
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
        ranges: Sequence[tuple[int, int]],
        should_stop: Callable[[], bool],
        per_hour: Callable[[], Mapping[SeriesKey, float]] = dict,
    ) -> LiveReading:
        """Read what overlaps some ranges, all of them whole or all of them as a sample.

        Args:
            ranges: Unix seconds, newest first; both ends belong to a range.
            should_stop: asked before each search; once it returns true, the rest stays unread.
            per_hour: returns the traces per hour of each series in its baseline, as far as known; called only where a
                sample is read.

        Raises:
            TempoError: a search failed.
            StoppedError: the exporter is being stopped.
        """
        seconds = max(self._poll_seconds, sum(end - start for start, end in ranges))
        times = seconds / self._poll_seconds
        budget = Budget(round(self._budget.traces * times), round(self._budget.requests * times))
        poll = _Poll(
            ranges,
            seconds,
            budget,
            self._client,
            self._exact,
            self._telemetry,
            self._memory,
            should_stop,
            per_hour,
            self._identity,
        )
        return read_within_budget(poll)


class _Memory:
    """What polls remember: how dense traffic is, and how small recent samples had to be."""

    def __init__(self, client: SearchClient, hold_seconds: float) -> None:
        self._client = client
        self._hold_seconds = hold_seconds
        self._recent: list[tuple[float, int]] = []
        self._ended: dict[int, int] = {}
        self._at_least: float | None = None
        self.overhead = _INITIAL_OVERHEAD

    @property
    def density(self) -> float | None:
        """Traces that ended per second, by the latest read of each second; None while unknown.

        Polls read parts of the lookback, and few traces of the newest part may be searchable.
        """
        if not self._ended:
            return self._at_least
        return max(self._at_least or 0.0, sum(self._ended.values()) / len(self._ended))

    def expect(self, density: float) -> None:
        """Expect at least this many traces per second until the next read succeeds."""
        self._at_least = max(self._at_least or 0.0, density)

    def record(
        self, found: Sequence[tuple[tuple[int, int], Sequence[Span]]], sample: TimeSample, seconds: float
    ) -> int:
        """Remember how many spans ended in each second that was read; returns their sum.

        Args:
            found: ranges that were read, and what was found in each.
            sample: the slices of time that are read by now.
            seconds: older seconds than that are forgotten.
        """
        counts: dict[int, int] = {}
        for (first, last), spans in found:
            inside = dict.fromkeys(range(first + 1, last + 1), 0)
            for span in spans:
                second = -(-span.end_ns // _NS)
                if second in inside:
                    inside[second] += 1
            counts.update(inside)
        if not counts:
            return 0
        oldest = max(counts) - seconds
        if not sample.is_whole:
            self._ended = {second: count for second, count in self._ended.items() if sample.includes(second - 1)}
        self._ended = {second: count for second, count in (self._ended | counts).items() if second > oldest}
        self._at_least = None
        return sum(counts.values())

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
    """The stretches of time of one poll; for one use."""

    def __init__(
        self,
        ranges: Sequence[tuple[int, int]],
        planned_seconds: float,
        budget: Budget,
        client: SearchClient,
        exact: ExactReader,
        telemetry: Telemetry,
        memory: _Memory,
        should_stop: Callable[[], bool],
        per_hour: Callable[[], Mapping[SeriesKey, float]],
        identity: SeriesIdentity,
    ) -> None:
        self._ranges = ranges
        self._planned_seconds = planned_seconds
        self._budget = budget
        self._client = client
        self._exact = exact
        self._telemetry = telemetry
        self._memory = memory
        self._should_stop = should_stop
        self._per_hour = per_hour
        self._identity = identity
        self._wasted = 0
        self._splits = 0
        self._min_density = 0.0
        self._by_name_received = 0

    @property
    def _now(self) -> int:
        return self._ranges[0][1]

    @property
    def expected(self) -> float | None:
        # Not of these ranges but of the longest poll, so that each poll comes to the same sample.
        density = self._memory.density
        return None if density is None else density * self._planned_seconds

    def fits(self) -> bool:
        return self._memory.sample(self._now, self._budget, self.expected or 0.0).is_whole

    def read_whole(self) -> LiveReading | None:
        density, expected = self._memory.density, self.expected
        found: list[tuple[tuple[int, int], list[Span]]] = []
        cost = ReadCost()
        budget = whole_read_budget(self._budget, expected, request_tolerance=_REQUEST_TOLERANCE)
        try:
            for range_ in self._ranges:
                spans: list[Span] = []
                reading = self._exact.read(
                    *range_,
                    spans.extend,
                    by_start=False,
                    expected_traces=None if density is None else density * (range_[1] - range_[0]),
                    budget=Budget(budget.traces - cost.useful - cost.wasted, max(1, budget.requests - cost.requests)),
                    limit=CAUTIOUS_LIMIT if expected is None else None,
                    should_stop=self._should_stop,
                )
                cost.add(reading)
                cost.truncated += reading.truncated
                found.append((range_, spans))
        except TooDenseError as error:
            cost.add_abandoned(error)
            self._wasted += cost.useful + cost.wasted
            self._splits += cost.splits
            self._min_density = max(self._min_density, error.density or 0.0)
            self._memory.expect(self._min_density)
            return None
        ended = self._memory.record(found, WHOLE, self._planned_seconds)
        return LiveReading(
            [span for _, spans in found for span in spans],
            WHOLE,
            cost.useful + cost.wasted + self._wasted,
            cost.splits + self._splits,
            len(cost.truncated),
            overlap=cost.overlap,
            ended=ended,
            is_cut_short=bool(cost.truncated) and self._should_stop(),
            missed=tuple(cost.truncated),
        )

    def probe(self) -> None:
        start, end = self._ranges[0]
        starts = [start + (end - start) * number // (_PROBES + 1) for number in range(1, _PROBES + 1)]
        ranges = [(start, start + 1) for start in starts]
        probe = probe_density(self._exact, ranges, 1, _ended_in, self._should_stop)
        self._wasted += probe.received
        self._memory.expect(max(self._min_density, probe.density or 0.0))

    def read_sample(self) -> LiveReading:
        sample = self._memory.sample(self._now, self._budget, self.expected or 0.0)
        if sample.is_whole:
            # Traffic is denser than its density says. Half of it is surely little enough.
            sample = self._memory.hold(self._now, 2)
        self._telemetry.sampled("poll")
        by_name = self._read_by_name(sample)
        reading = self._read_slices(sample, by_name)
        return reading._replace(received=reading.received + self._wasted, splits=reading.splits + self._splits)

    def _read_by_name(self, sample: TimeSample) -> Mapping[SeriesKey, list[Span]]:
        """Read everything that ended in the ranges, of series with so little traffic that the sample would not do."""
        budget = self._budget
        expected = {
            key: max(1, ceil(count * self._planned_seconds / _HOUR))
            for key, count in self._per_hour().items()
            if key not in self._exact.broad_series
        }
        most = Budget(round(budget.traces * _BY_NAME_TRACES), max(1, round(budget.requests * _BY_NAME_REQUESTS)))
        limit = min(self._client.max_limit, CAUTIOUS_LIMIT)
        found: dict[SeriesKey, list[Span]] = {}
        length = partial(condition_length, identity=self._identity)
        groups = rare_groups(expected, sample.share, most, limit * SEARCH_FILL, length)
        # Conditions on attributes may match the spans of other series as well.
        halvings = _BROAD_HALVINGS if self._identity.attributes else 0
        while groups:
            group = groups.pop(0)
            spans: list[tuple[tuple[int, int], list[Span]]] = []
            try:
                for range_ in self._ranges:
                    spans.append((range_, []))
                    reading = self._exact.read(
                        *range_,
                        spans[-1][1].extend,
                        by_start=False,
                        series=group,
                        budget=Budget(limit, 2),
                        limit=limit,
                        should_stop=self._should_stop,
                    )
                    self._by_name_received += reading.received + reading.wasted
                    if reading.truncated:
                        break
                else:
                    found.update((key, []) for key in group)
            except TooDenseError:
                # These series have more traffic than in their baseline, so the sample will do.
                if self._identity.attributes and len(group) == 1:
                    self._exact.too_broad(group[0])
                elif halvings and len(group) > 1:
                    halvings -= 1
                    groups += [group[: len(group) // 2], group[len(group) // 2 :]]
                continue
            for range_, some in spans:
                for span in some:
                    if span.key in found and _ended_in(span, *range_):
                        found[span.key].append(span)
        return found

    def _read_slices(self, sample: TimeSample, by_name: Mapping[SeriesKey, Sequence[Span]]) -> LiveReading:
        """Read the slices, newest first, and join what was read by name."""
        budget, density = self._budget, self._memory.density or 0.0
        found: list[tuple[tuple[int, int], list[Span]]] = []
        cost = ReadCost()
        outside = 0
        is_cut_short = False
        missed: list[tuple[int, int]] = []
        slices = [slice_ for start, end in self._ranges for slice_ in reversed(list(sample.slices_in(start, end)))]
        for number, (first, last) in enumerate(slices):
            if cost.requests >= budget.requests or cost.useful + cost.wasted > TOLERANCE * budget.traces:
                is_cut_short = True
                missed += [sample.stratum(start) for start, _ in slices[number:]]
                break
            spans: list[Span] = []
            reading = self._exact.read(
                first,
                last,
                spans.extend,
                by_start=False,
                expected_traces=density * (last - first),
                should_stop=self._should_stop,
            )
            cost.add(reading)
            cost.truncated += reading.truncated
            if reading.truncated:
                missed.append(sample.stratum(first))
            else:
                ended = [span for span in spans if _ended_in(span, first, last)]
                outside += len(spans) - len(ended)
                found.append(((first, last), ended))
        if outside:
            self._telemetry.traces_skipped("poll", "outside_window", outside)
        received = cost.useful + cost.wasted
        ended_count = self._memory.record(found, sample, self._planned_seconds)
        if ended_count:
            self._memory.overhead = received / ended_count
        kept = [span for _, some in found for span in some if span.key not in by_name]
        for some in by_name.values():
            kept += some
        return LiveReading(
            kept,
            sample,
            received + self._by_name_received,
            cost.splits,
            len(cost.truncated),
            frozenset(by_name),
            cost.overlap,
            ended_count + sum(map(len, by_name.values())),
            is_cut_short or (bool(cost.truncated) and self._should_stop()),
            missed,
        )


def _ended_in(span: Span, start: int, end: int) -> bool:
    return start * _NS < span.end_ns <= end * _NS
