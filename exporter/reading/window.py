"""Reads windows of history within a budget: whole where they fit, and as a fair sample where they are too dense.

A sample is whole short slices spread evenly over the window (:mod:`exporter.core.sampling`), each read exactly, and
beside them the endpoints that such a sample would hardly see, each read whole by a search for its name. An endpoint is
either in the sample or read by itself, never both, so all of its traces stand for the same share of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from exporter.core.accumulate import Accumulator, WindowContent
from exporter.core.budget import Budget
from exporter.core.ledger import Batch, Window
from exporter.core.rare import groups_by_length, rare_groups
from exporter.core.sampling import Slices, slices_for
from exporter.core.span import SeriesKey, Span
from exporter.reading.admission import Admission
from exporter.reading.counts import SourceCounts
from exporter.reading.exact import SEARCH_FILL, Answer, ExactReader, Reading, Searcher, TooDenseError
from exporter.telemetry import Telemetry
from exporter.tempo.query import condition_length

_MOST_SLICES: Final = 64
"""About one a minute of an hour, which is as even as it need be: the detector looks at five minutes."""

_FEWEST_SLICES: Final = 4

_SAMPLE_SHARE: Final = 0.5
"""The part of the budget that is kept for the sample; rare endpoints share the rest."""

_TOLERATED: Final = 1.5
"""How far beyond the budget a window is read whole that seemed to fit into it."""

_PROBES: Final = 4
_UNKNOWN_GROUPS: Final = 4
"""How many searches by name are made for endpoints that were known before and that a sample has missed."""


@dataclass(frozen=True, slots=True)
class Part:
    """Windows that were read together.

    Attributes:
        contents: what was found in each.
        reading: how the reading went.
        there: how many traces there are in them by estimate; absent where all of them were read.
    """

    contents: Sequence[WindowContent]
    reading: Reading
    there: float | None = None

    @property
    def sampled(self) -> bool:
        """Whether they were too dense to be read whole."""
        return self.there is not None


class GiveUp(Protocol):
    """Says whether to stop reading."""

    def __call__(self) -> bool:
        """Asked before each search."""


class WindowReader:
    """Reads batches of windows for the ledger, for any number of threads."""

    def __init__(
        self,
        searcher: Searcher,
        counts: SourceCounts,
        admission: Admission,
        telemetry: Telemetry,
        budget: Budget,
    ) -> None:
        """Read for the ledger.

        Args:
            searcher: Tempo.
            counts: what Tempo says how much it has.
            admission: decides which series are kept.
            telemetry: is told what happens.
            budget: what each window may cost.
        """
        self._searcher = searcher
        self._exact = ExactReader(searcher, telemetry, "backfill")
        self._counts = counts
        self._admission = admission
        self._telemetry = telemetry
        self._budget = budget

    def read(self, batch: Batch, give_up: GiveUp) -> Iterator[Part]:
        """Read the windows of a batch, all together or one by one.

        Raises:
            TempoError: a search failed for good.
            StoppedError: the exporter is being stopped.
        """
        windows, spent = batch.windows, _Spent()
        whole = self._whole(windows, batch.expected_traces, spent, give_up)
        if whole is not None:
            yield whole
        elif len(windows) == 1:
            yield self._dense(windows[0], batch.expected_traces, spent, give_up)
        else:
            for window in windows:
                yield from self.read(Batch((window,), None), give_up)

    def _dense(self, window: Window, expected: float | None, spent: "_Spent", give_up: GiveUp) -> Part:
        """Read a window that does not fit into one search or, so it seems, into the budget."""
        if expected is None:
            self._probe(window, spent, give_up)
            whole = self._whole((window,), spent.density * window.seconds, spent, give_up)
            if whole is not None:
                return whole
        return self._sample(window, max(expected or 0.0, spent.density * window.seconds), spent, give_up)

    @property
    def _most_at_once(self) -> float:
        """How many traces a window may hold to be read whole."""
        return min(self._budget.traces, self._budget.requests * self._per_search)

    @property
    def _per_search(self) -> float:
        return self._searcher.max_limit * SEARCH_FILL

    def _whole(
        self, windows: Sequence[Window], expected: float | None, spent: "_Spent", give_up: GiveUp
    ) -> Part | None:
        """Read windows exactly; nothing if they are, or turn out to be, too dense for that."""
        if expected is not None and expected > self._most_at_once * len(windows):
            return None
        # A little more than expected is no reason to give up what has been read already. Where nothing is expected, one
        # search shows whether one is enough; to go on halving would be much too dear if the window is dense.
        traces = round(self._budget.traces * len(windows) * _TOLERATED)
        requests = 1 if expected is None else self._budget.requests * len(windows)
        accumulator = Accumulator(windows, self._admission.ask)
        try:
            reading = self._exact.read(
                windows[0].start,
                windows[-1].end,
                accumulator.add,
                expected_traces=expected,
                budget=Budget(traces, requests),
                give_up=give_up,
            )
        except TooDenseError as error:
            spent.add_in_vain(error)
            return None
        return Part(accumulator.finish(), spent.plus(reading))

    def _probe(self, window: Window, spent: "_Spent", give_up: GiveUp) -> None:
        """Find out how dense a window is of which nothing is known, by a few seconds of it."""
        slices = slices_for(_PROBES / window.seconds, window.seconds, window.seconds)
        found: list[int] = []
        for start, end in slices.within(*window):
            if give_up():
                break
            answer = self._searcher.search(start, end, loop="backfill")
            spent.add_search(answer)
            found.append(answer.limit if answer.saturated else sum(_starts(span, start, end) for span in answer.spans))
        if found:
            spent.density = max(spent.density, sum(found) / (len(found) * slices.seconds))

    # A sample

    def _sample(self, window: Window, expected: float, spent: "_Spent", give_up: GiveUp) -> Part:
        self._telemetry.sampled("backfill")
        accumulator = Accumulator([window], self._admission.ask)
        expected = max(1.0, self._counts.of(window) or expected)
        counts = self._wanted_counts(window)
        alone = self._read_rare(window, counts, expected, accumulator, spent, give_up)
        by_name = spent.kept
        share = (self._budget.traces - spent.received_for_good) / max(1.0, expected - by_name)
        slices = self._slices(share, expected - by_name, window)
        seconds = self._read_slices(window, slices, expected, alone, accumulator, spent, give_up)
        there = by_name + (spent.kept - by_name) * window.seconds / seconds if seconds else expected
        if not counts:
            before = spent.kept
            self._read_missed(window, accumulator, spent, give_up)
            there += spent.kept - before
        return Part(accumulator.finish(), spent.plus(), there)

    def _slices(self, share: float, traces: float, window: Window) -> Slices:
        """Slices that hold at most a share of a window, none of them too full for a search where that can be helped."""
        most = max(1, min(_MOST_SLICES, self._budget.requests * 2 // 3))
        share = min(share, most * self._per_search / max(1.0, traces))
        slices = slices_for(share, window.seconds, most)
        # Never all, or it need not have come to this; and never so few that a short window has none.
        return slices._replace(of=min(max(slices.of, 2), max(2, window.seconds // (_FEWEST_SLICES * slices.seconds))))

    def _read_slices(
        self,
        window: Window,
        slices: Slices,
        expected: float,
        alone: frozenset[SeriesKey],
        accumulator: Accumulator,
        spent: "_Spent",
        give_up: GiveUp,
    ) -> int:
        """Read slices of a window for all endpoints but some; says how many seconds came."""
        seconds_read = 0

        def deliver(spans: Sequence[Span]) -> None:
            wanted = [span for span in spans if span.key not in alone] if alone else spans
            accumulator.add(wanted)
            spent.kept += len(wanted)

        for start, end in _spread(list(slices.within(*window))):
            if (
                give_up()
                or spent.requests >= self._budget.requests
                or spent.received_for_good > 2 * self._budget.traces
            ):
                break
            inside = expected * (end - start) / window.seconds
            reading = self._exact.read(start, end, deliver, expected_traces=inside, give_up=give_up)
            spent.add(reading)
            seconds_read += end - start - sum(last - first for first, last in reading.truncated)
        return seconds_read

    def _read_rare(
        self,
        window: Window,
        counts: Mapping[SeriesKey, int],
        expected: float,
        accumulator: Accumulator,
        spent: "_Spent",
        give_up: GiveUp,
    ) -> frozenset[SeriesKey]:
        """Read rare endpoints whole, as far as it is known which those are; says which were read."""
        for_rare = Budget(
            int(self._budget.traces * (1 - _SAMPLE_SHARE)),
            max(1, self._budget.requests // 4),
        )
        share = self._budget.traces * _SAMPLE_SHARE / expected
        alone: set[SeriesKey] = set()
        for group in rare_groups(counts, share, for_rare, self._per_search, condition_length):
            spans = self._by_name(window, group, spent, give_up)
            if spans is not None:
                accumulator.add(spans)
                spent.kept += len(spans)
                alone.update(group)
        return frozenset(alone)

    def _wanted_counts(self, window: Window) -> dict[SeriesKey, int]:
        """How many traces each endpoint that is wanted has, of those whose name is their own.

        Names that differ by an id are one endpoint here and many in Tempo: whatever is kept under another name is left
        to the sample.
        """
        counts = self._counts.by_series(window)
        rules = self._admission.rules
        return {key: count for key, count in counts.items() if rules.renamed(key) == key and rules.wants(key)}

    def _read_missed(self, window: Window, accumulator: Accumulator, spent: "_Spent", give_up: GiveUp) -> None:
        """Where Tempo does not count: read endpoints that were known before and of which the sample has nothing."""
        missed = sorted(set(self._admission.known()) - accumulator.series())
        if not missed:
            return
        # Not always the same ones first, should there be more than can be asked for.
        first = window.start // max(1, window.seconds) * 97 % len(missed)
        groups = groups_by_length(missed[first:] + missed[:first], condition_length)
        for group in groups[:_UNKNOWN_GROUPS]:
            spans = self._by_name(window, group, spent, give_up)
            if spans is not None:
                accumulator.add(spans)
                spent.kept += len(spans)

    def _by_name(
        self, window: Window, group: Sequence[SeriesKey], spent: "_Spent", give_up: GiveUp
    ) -> Sequence[Span] | None:
        """All traces of some endpoints; none where there are more than was thought, since some are not all."""
        spans: list[Span] = []
        try:
            reading = self._exact.read(
                *window,
                spans.extend,
                series=group,
                budget=Budget(3 * self._searcher.max_limit, 4),
                give_up=give_up,
            )
        except TooDenseError as error:
            spent.add_in_vain(error)
            return None
        spent.add(reading, keep_truncated=False)
        return None if reading.truncated else spans


def _starts(span: Span, start: int, end: int) -> bool:
    return start <= span.start_ns // 1_000_000_000 < end


_NOTHING: Final = Reading(received=0, kept=0, requests=0, splits=0, truncated=())


class _Spent:
    """What the reading of a window has cost and brought so far, and how dense it has turned out to be, at least."""

    def __init__(self) -> None:
        self.received = 0
        self.in_vain = 0
        self.kept = 0
        self.requests = 0
        self.splits = 0
        self.density = 0.0
        self.truncated: list[tuple[int, int]] = []

    @property
    def received_for_good(self) -> int:
        """Traces received that were of use."""
        return self.received - self.in_vain

    def add(self, reading: Reading, *, keep_truncated: bool = True) -> None:
        self.received += reading.received + reading.wasted
        self.in_vain += reading.wasted
        self.requests += reading.requests
        self.splits += reading.splits
        if keep_truncated:
            self.truncated += reading.truncated

    def add_search(self, answer: Answer) -> None:
        """A search that was made only to look."""
        self.received += len(answer.spans)
        self.in_vain += len(answer.spans)
        self.requests += 1

    def add_in_vain(self, error: TooDenseError) -> None:
        """A reading that was given up."""
        self.received += error.received
        self.in_vain += error.received
        self.requests += error.requests
        self.splits += error.splits
        self.density = max(self.density, error.density or 0.0)

    def plus(self, reading: Reading = _NOTHING) -> Reading:
        """A reading with what was spent before it."""
        return Reading(
            received=self.received + reading.received,
            kept=self.kept + reading.kept,
            requests=self.requests + reading.requests,
            splits=self.splits + reading.splits,
            truncated=(*self.truncated, *reading.truncated),
            at_end=reading.at_end,
        )


def _spread(parts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same parts in an order of which every beginning is spread evenly over all of them."""
    bits = max(1, (len(parts) - 1).bit_length())

    def reversed_bits(number: int) -> int:
        return int(f"{number:0{bits}b}"[::-1], 2)

    return [part for _, part in sorted(enumerate(parts), key=lambda item: reversed_bits(item[0]))]
