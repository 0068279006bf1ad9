"""Reads windows of history within a budget: whole where they fit into it, otherwise as a sample."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from exporter.ingest.exact_reader import CAUTIOUS_LIMIT, Budget, ExactReader, ReadResult, SearchClient, TooDenseError
from exporter.ingest.read_policy import (
    ReadCost,
    max_whole_traces,
    probe_density,
    read_within_budget,
    whole_read_budget,
)
from exporter.ingest.sampled_reader import SampledReader, SampleRules
from exporter.ingest.sampling import sample_for
from exporter.ingest.series_filter import SeriesFilter
from exporter.ingest.tempo_counts import TempoCounts
from exporter.model.accumulator import Accumulator, WindowContent
from exporter.model.ledger import Batch, Window
from exporter.model.span import Span
from exporter.runtime.telemetry import Telemetry

_PROBES: Final = 4
_NS: Final = 1_000_000_000

StopCheck = Callable[[], bool]
"""Asked before each search; once it returns true, reading ends."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Windows that were read together.

    Attributes:
        contents: what each of them holds.
        reading: cost and completeness of the read.
        estimated_total: estimated number of existing traces, if only a sample of them was read.
    """

    contents: Sequence[WindowContent]
    reading: ReadResult
    estimated_total: float | None = None

    @property
    def is_sampled(self) -> bool:
        """Whether the windows were too dense to be read whole."""
        return self.estimated_total is not None


@dataclass(frozen=True, slots=True)
class _Context:
    """What every read needs."""

    client: SearchClient
    exact: ExactReader
    counts: TempoCounts
    series_filter: SeriesFilter
    telemetry: Telemetry
    budget: Budget


class WindowReader:
    """Reads batches of windows for the backfill, for any number of threads."""

    def __init__(
        self,
        client: SearchClient,
        counts: TempoCounts,
        series_filter: SeriesFilter,
        telemetry: Telemetry,
        budget: Budget,
    ) -> None:
        """Prepare to read.

        Args:
            client: Tempo.
            counts: number of traces by window, as far as Tempo counts them.
            series_filter: decides which series are kept.
            telemetry: counts splits, skipped spans and samples.
            budget: what one window may cost.
        """
        exact = ExactReader(client, telemetry, "backfill")
        self._context = _Context(client, exact, counts, series_filter, telemetry, budget)

    def read(self, batch: Batch, should_stop: StopCheck) -> Iterator[BatchResult]:
        """Read the windows of a batch, all together or one by one.

        Raises:
            TempoError: a search failed.
            StoppedError: the exporter is being stopped.
        """
        windows, expected = batch
        together = _Windows(windows, expected, self._context, should_stop)
        if len(windows) == 1:
            yield read_within_budget(together)
            return
        result = together.read_whole() if together.fits() else None
        if result is not None:
            yield result
            return
        for window in windows:
            yield read_within_budget(_Windows((window,), None, self._context, should_stop))


class _Windows:
    """Adjacent windows to be read together, or a single one that may be sampled; for one use."""

    def __init__(
        self, windows: Sequence[Window], expected: float | None, context: _Context, should_stop: StopCheck
    ) -> None:
        self._windows = windows
        self.expected = expected
        self._context = context
        self._should_stop = should_stop
        budget = context.budget
        self._budget = Budget(budget.traces * len(windows), budget.requests * len(windows))
        self._cost = ReadCost()

    def fits(self) -> bool:
        return self.expected is None or self.expected <= max_whole_traces(self._budget, self._context.client.max_limit)

    def read_whole(self) -> BatchResult | None:
        accumulator = Accumulator(self._windows, self._context.series_filter.resolve)
        try:
            reading = self._context.exact.read(
                self._windows[0].start,
                self._windows[-1].end,
                accumulator.add,
                expected_traces=self.expected,
                budget=whole_read_budget(self._budget, self.expected),
                limit=CAUTIOUS_LIMIT if self.expected is None else None,
                should_stop=self._should_stop,
            )
        except TooDenseError as error:
            self._cost.add_abandoned(error)
            seconds = self._windows[-1].end - self._windows[0].start
            self.expected = max(self.expected or 0.0, self._cost.density * seconds)
            return None
        self._cost.add(reading)
        self._cost.kept += reading.kept
        self._cost.truncated += reading.truncated
        return BatchResult(accumulator.finish(), self._cost.total(at_end=reading.at_end))

    def probe(self) -> None:
        (window,) = self._windows
        sample = sample_for(_PROBES / window.seconds, window.seconds, window.seconds)
        ranges = sample.slices_in(*window)
        self._cost.add_probe(
            probe_density(self._context.exact, ranges, sample.slice_seconds, _starts_in, self._should_stop)
        )
        self.expected = self._cost.density * window.seconds

    def read_sample(self) -> BatchResult:
        (window,) = self._windows
        self._context.telemetry.sampled("backfill")
        limit = self._context.client.max_limit
        rules = SampleRules(self._context.budget, self._context.exact.per_search, limit)
        sample = SampledReader(
            window, self._context.exact, self._context.series_filter, rules, self._cost, self._should_stop
        )
        count = self._context.counts.of(window) or max(self.expected or 0.0, self._cost.density * window.seconds)
        estimated_total = sample.read(max(1.0, count), self._context.counts.by_series(window))
        return BatchResult(sample.finish(), self._cost.total(), estimated_total)


def _starts_in(span: Span, start: int, end: int) -> bool:
    return start * _NS <= span.start_ns < end * _NS
