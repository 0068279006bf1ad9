"""Reads a fair sample of a window that is too dense to be read whole.

It is whole short slices spread evenly over the window (:mod:`exporter.ingest.sampling`), each read exactly, and beside
them the endpoints that such a sample would hardly see, each read whole by searches for its name. An endpoint is either
in the slices or read by name, never both, so that all of its traces stand for the same share of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from exporter.ingest.exact_reader import ExactReader, TooDenseError
from exporter.ingest.read_cost import ReadCost
from exporter.ingest.sampling import Slices, groups_by_length, rare_groups, slices_for
from exporter.ingest.series_filter import SeriesFilter
from exporter.ingest.settings import Budget
from exporter.model.accumulator import Accumulator, WindowContent
from exporter.model.ledger import Window
from exporter.model.span import SeriesKey, Span
from exporter.tempo.query import condition_length

_MOST_SLICES: Final = 64
"""About one a minute of an hour, which is as even as it need be: the detector looks at five minutes."""
_FEWEST_SLICES: Final = 4

_BY_NAME_TRACES: Final = 0.5
"""The part of the budget that endpoints read by name may have of the traces; they leave the rest to the slices."""
_BY_NAME_REQUESTS: Final = 0.25
_MISSED_GROUPS: Final = 4
"""How many searches by name are made for endpoints that were known before and that the slices have missed."""
_GROUP_REQUESTS: Final = 4
_SPARE: Final = 2
"""By so much the slices may go beyond the budget: traces that take long are found in all the slices they overlap."""


@dataclass(frozen=True, slots=True)
class SampleRules:
    """How a sample may be read.

    Attributes:
        budget: what it may cost.
        per_search: how many traces one search may be expected to return.
        limit: how many it returns at most.
    """

    budget: Budget
    per_search: float
    limit: int


class SampledReader:
    """The sample of one window; for one use."""

    def __init__(
        self,
        window: Window,
        exact: ExactReader,
        admission: SeriesFilter,
        rules: SampleRules,
        spent: ReadCost,
        give_up: Callable[[], bool],
    ) -> None:
        """Nothing is read yet.

        Args:
            window: the window.
            exact: reads ranges.
            admission: decides which series are kept.
            rules: what it may cost.
            spent: what was spent on the window already; grows.
            give_up: asked before each search.
        """
        self._window = window
        self._exact = exact
        self._admission = admission
        self._rules = rules
        self._spent = spent
        self._give_up = give_up
        self._accumulator = Accumulator([window], admission.ask)

    def read(self, expected: float, counts: Mapping[SeriesKey, int]) -> float:
        """Read it.

        Args:
            expected: how many traces the window holds.
            counts: how many of them each endpoint has, by the names that Tempo knows; empty where nobody counts.

        Returns:
            How many traces there are in the window, as far as the sample can tell.

        Raises:
            TempoError: a search failed for good.
            StoppedError: the exporter is being stopped.
        """
        budget, spent = self._rules.budget, self._spent
        by_name = self._read_rare(self._worth_a_search(counts), budget.traces * (1 - _BY_NAME_TRACES) / expected)
        alone = spent.kept
        others = max(1.0, expected - alone)
        slices = self._slices((budget.traces - spent.useful) / others, others)
        seconds = self._read_slices(slices, expected / self._window.seconds, by_name)
        there = alone + (spent.kept - alone) * self._window.seconds / seconds if seconds else expected
        if not counts:
            there += self._read_missed()
        return there

    def finish(self) -> list[WindowContent]:
        """What was found."""
        return self._accumulator.finish()

    # Slices

    def _slices(self, share: float, traces: float) -> Slices:
        """Slices of at most a share of the window, none of them too full for a search where that can be helped."""
        most = max(1, min(_MOST_SLICES, self._rules.budget.requests * 2 // 3))
        seconds = self._window.seconds
        slices = slices_for(min(share, most * self._rules.per_search / traces), seconds, most)
        # Never all, or it need not have come to this; and never so few that a short window has none.
        return slices._replace(of=min(max(slices.of, 2), max(2, seconds // (_FEWEST_SLICES * slices.seconds))))

    def _read_slices(self, slices: Slices, density: float, but: frozenset[SeriesKey]) -> int:
        """Read slices of the window for all endpoints but some; says how many seconds came."""
        budget, spent = self._rules.budget, self._spent
        seconds = 0

        def deliver(spans: Sequence[Span]) -> None:
            self._keep([span for span in spans if span.key not in but] if but else spans)

        for start, end in _spread(list(slices.within(*self._window))):
            if self._give_up() or spent.requests >= budget.requests or spent.useful > _SPARE * budget.traces:
                break
            reading = self._exact.read(
                start, end, deliver, expected_traces=density * (end - start), give_up=self._give_up
            )
            spent.add(reading)
            spent.truncated += reading.truncated
            seconds += end - start - sum(last - first for first, last in reading.truncated)
        return seconds

    # By name

    def _worth_a_search(self, counts: Mapping[SeriesKey, int]) -> Mapping[SeriesKey, int]:
        """Of the endpoints that Tempo has counted those that are wanted and whose name is their own.

        Names that differ by an id are one endpoint here and many in Tempo: whatever is kept under another name is left
        to the slices.
        """
        rules = self._admission.rules
        return {key: count for key, count in counts.items() if rules.renamed(key) == key and rules.wants(key)}

    def _read_rare(self, counts: Mapping[SeriesKey, int], share: float) -> frozenset[SeriesKey]:
        """Read the rare ones of some endpoints whole; says which were read."""
        budget = self._rules.budget
        most = Budget(int(budget.traces * _BY_NAME_TRACES), max(1, int(budget.requests * _BY_NAME_REQUESTS)))
        groups = rare_groups(counts, share, most, self._rules.per_search, condition_length)
        return frozenset(key for group in groups if self._read_group(group) for key in group)

    def _read_missed(self) -> int:
        """Read endpoints that were known before and of which the slices have nothing; says how many traces came."""
        missed = sorted(set(self._admission.known()) - self._accumulator.series())
        # Not always the same ones first, should there be more than can be asked for.
        first = self._window.start // self._window.seconds * 97 % max(1, len(missed))
        before = self._spent.kept
        for group in groups_by_length(missed[first:] + missed[:first], condition_length)[:_MISSED_GROUPS]:
            self._read_group(group)
        return self._spent.kept - before

    def _read_group(self, group: Sequence[SeriesKey]) -> bool:
        """Read all traces of some endpoints; none if there are far more than was thought, since some are not all."""
        spans: list[Span] = []
        budget = Budget(_GROUP_REQUESTS * self._rules.limit, _GROUP_REQUESTS)
        try:
            reading = self._exact.read(*self._window, spans.extend, series=group, budget=budget, give_up=self._give_up)
        except TooDenseError as error:
            self._spent.add_in_vain(error)
            return False
        self._spent.add(reading)
        if reading.truncated:
            return False
        self._keep(spans)
        return True

    def _keep(self, spans: Sequence[Span]) -> None:
        self._accumulator.add(spans)
        self._spent.kept += len(spans)


def _spread(parts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same parts in an order of which every beginning is spread evenly over all of them."""
    bits = max(1, (len(parts) - 1).bit_length())
    order = sorted(range(len(parts)), key=lambda number: int(f"{number:0{bits}b}"[::-1], 2))
    return [parts[number] for number in order]
