"""Reads windows of history within a budget: whole where they fit, and as a fair sample where they are too dense."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from exporter.ingest.exact_reader import SEARCH_FILL, ExactReader, ReadResult, Searcher, TooDenseError
from exporter.ingest.read_cost import ReadCost
from exporter.ingest.sampled_reader import SampledReader, SampleRules
from exporter.ingest.sampling import slices_for
from exporter.ingest.series_filter import SeriesFilter
from exporter.ingest.settings import Budget
from exporter.ingest.tempo_counts import TempoCounts
from exporter.model.accumulator import Accumulator, WindowContent
from exporter.model.ledger import Batch, Window
from exporter.model.span import Span
from exporter.runtime.telemetry import Telemetry

_TOLERATED: Final = 1.5
"""How far beyond the budget a window is read whole that seemed to fit into it."""
_PROBES: Final = 4
_NS: Final = 1_000_000_000

GiveUp = Callable[[], bool]
"""Asked before each search; once it says yes, reading ends."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Windows that were read together.

    Attributes:
        contents: what was found in each.
        reading: how the reading went.
        there: how many traces there are in them by estimate; absent where all of them were read.
    """

    contents: Sequence[WindowContent]
    reading: ReadResult
    there: float | None = None

    @property
    def sampled(self) -> bool:
        """Whether they were too dense to be read whole."""
        return self.there is not None


class WindowReader:
    """Reads batches of windows for the ledger, for any number of threads."""

    def __init__(
        self, searcher: Searcher, counts: TempoCounts, admission: SeriesFilter, telemetry: Telemetry, budget: Budget
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

    def read(self, batch: Batch, give_up: GiveUp) -> Iterator[BatchResult]:
        """Read the windows of a batch, all together or one by one.

        Raises:
            TempoError: a search failed for good.
            StoppedError: the exporter is being stopped.
        """
        windows, spent = batch.windows, ReadCost()
        whole = self._whole(windows, batch.expected_traces, spent, give_up)
        if whole is not None:
            yield whole
        elif len(windows) == 1:
            yield self._dense(windows[0], batch.expected_traces, spent, give_up)
        else:
            for window in windows:
                yield from self.read(Batch((window,), None), give_up)

    @property
    def _per_search(self) -> float:
        return self._searcher.max_limit * SEARCH_FILL

    def _whole(
        self, windows: Sequence[Window], expected: float | None, spent: ReadCost, give_up: GiveUp
    ) -> BatchResult | None:
        """Read windows exactly; nothing if they are, or turn out to be, too dense for that."""
        most = min(self._budget.traces, self._budget.requests * self._per_search)
        if expected is not None and expected > most * len(windows):
            return None
        # A little more than expected is no reason to give up what has been read already. Where nothing is expected, one
        # search shows whether one is enough; to go on halving would be much too dear if the window is dense.
        budget = Budget(
            round(self._budget.traces * len(windows) * _TOLERATED),
            1 if expected is None else self._budget.requests * len(windows),
        )
        accumulator = Accumulator(windows, self._admission.ask)
        try:
            reading = self._exact.read(
                windows[0].start,
                windows[-1].end,
                accumulator.add,
                expected_traces=expected,
                budget=budget,
                give_up=give_up,
            )
        except TooDenseError as error:
            spent.add_in_vain(error)
            return None
        spent.add(reading)
        spent.kept += reading.kept
        spent.truncated += reading.truncated
        return BatchResult(accumulator.finish(), spent.total(at_end=reading.at_end))

    def _dense(self, window: Window, expected: float | None, spent: ReadCost, give_up: GiveUp) -> BatchResult:
        """Read a window that does not fit into one search or, so it seems, into the budget."""
        if expected is None:
            self._probe(window, spent, give_up)
            whole = self._whole((window,), spent.density * window.seconds, spent, give_up)
            if whole is not None:
                return whole
        self._telemetry.sampled("backfill")
        rules = SampleRules(self._budget, self._per_search, self._searcher.max_limit)
        sample = SampledReader(window, self._exact, self._admission, rules, spent, give_up)
        count = self._counts.of(window) or max(expected or 0.0, spent.density * window.seconds)
        there = sample.read(max(1.0, count), self._counts.by_series(window))
        return BatchResult(sample.finish(), spent.total(), there)

    def _probe(self, window: Window, spent: ReadCost, give_up: GiveUp) -> None:
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


def _starts(span: Span, start: int, end: int) -> bool:
    return start * _NS <= span.start_ns < end * _NS
