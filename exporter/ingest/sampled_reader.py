"""Reads a representative sample of a window that is too dense to be read whole.

The sample consists of short slices spread evenly over the window (:mod:`exporter.ingest.sampling`), each read exactly,
and of the series that slices would hardly contain, each read whole by searches for its name. A series is read either in
slices or by name, so that all of its traces represent the same share of its traffic.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from exporter.ingest.exact_reader import CAUTIOUS_LIMIT, Budget, ExactReader, TooDenseError
from exporter.ingest.read_policy import COUNTED_SHARE, ReadCost
from exporter.ingest.sampling import TimeSample, groups_by_length, rare_groups, sample_for
from exporter.ingest.series_filter import SeriesFilter
from exporter.model.accumulator import Accumulator, WindowContent, WindowDigest
from exporter.model.ledger import Window
from exporter.model.span import SeriesKey, Span
from exporter.tempo.query import condition_length

_MAX_SLICES: Final = 64
"""About one per minute of an hour, which is even enough: the detector evaluates five minutes."""
_MIN_SLICES: Final = 4

_BY_NAME_TRACES: Final = 0.5
"""Share of the budget for traces that series read by name may use; the slices have what they leave."""
_BY_NAME_REQUESTS: Final = 0.25
_MISSED_GROUPS: Final = 4
"""Searches by name for series that are known from before and that the slices have missed."""
_GROUP_REQUESTS: Final = 4
_MOST_HALVINGS: Final = 16
"""How often groups of series are halved in one window to tell the series with too many traces from the others."""
_BROAD_HALVINGS: Final = 4
"""How often that is done to find a series of which searches by name find too many spans of others; it is not searched
for again."""
_WASTE_TOLERANCE: Final = 3
"""By this factor of the budget responses may be thrown away before no more slices are tried."""
_SLICES_TOLERANCE: Final = 2
"""By this factor slices may exceed the budget: long traces are found in every slice that they overlap."""


@dataclass(frozen=True, slots=True)
class SampleRules:
    """Bounds on a sample.

    Attributes:
        budget: what it may cost.
        per_search: traces that a search may be expected to return.
        limit: traces that a search returns at most.
    """

    budget: Budget
    per_search: float
    limit: int


class SampledReader:
    """Reads the sample of one window; for one use."""

    def __init__(
        self,
        window: Window,
        exact: ExactReader,
        series_filter: SeriesFilter,
        rules: SampleRules,
        cost: ReadCost,
        should_stop: Callable[[], bool],
    ) -> None:
        """Prepare to read.

        Args:
            window: the window.
            exact: reads ranges.
            series_filter: decides which series are kept.
            rules: bounds on the sample.
            cost: what the window has cost so far; this reader adds to it.
            should_stop: asked before each search.
        """
        self._window = window
        self._exact = exact
        self._series_filter = series_filter
        self._rules = rules
        self._cost = cost
        self._should_stop = should_stop
        identity = series_filter.rules.identity
        self._condition_length = partial(condition_length, identity=identity)
        # Conditions on attributes may match the spans of other series as well.
        self._may_be_broad = bool(identity.attributes)
        self._accumulator = Accumulator([window], series_filter.resolve)
        self._counts: Mapping[SeriesKey, int] = {}
        self._read_whole: set[SeriesKey] = set()

    def read(self, expected: float, counts: Mapping[SeriesKey, int]) -> float:
        """Read the sample.

        Args:
            expected: expected number of traces in the window.
            counts: number of traces by series, under the names that Tempo knows; empty where Tempo does not count.

        Returns:
            The estimated number of traces in the window.

        Raises:
            TempoError: a search failed.
            StoppedError: the exporter is being stopped.
        """
        budget, cost = self._rules.budget, self._cost
        by_name = self._read_rare(self._searchable(counts), budget.traces * (1 - _BY_NAME_TRACES) / expected)
        kept_by_name = cost.kept
        others = max(1.0, expected - kept_by_name)
        sample = self._sample((budget.traces - cost.useful) / others, others)
        seconds = self._read_slices(sample, expected / self._window.seconds, by_name)
        if not seconds and not cost.truncated:
            cost.truncated.append((self._window.start, self._window.end))
        in_slices = cost.kept - kept_by_name
        total = kept_by_name + in_slices * self._window.seconds / seconds if seconds else expected
        if not counts or not seconds:
            total += self._read_missed()
        if sum(counts.values()) >= total * COUNTED_SHARE:
            self._counts = counts
        return total

    def finish(self) -> list[WindowContent]:
        """Return what was read, with the number of requests of each series as far as it is known."""
        counted = Counter[SeriesKey]()
        for key, count in self._counts.items():
            counted[self._series_filter.name_of(key)] += count

        def with_requests(key: SeriesKey, digest: WindowDigest) -> WindowDigest:
            read = digest.digest.count
            if key in counted:
                return replace(digest, requests=max(read, counted[key]))
            return replace(digest, requests=read) if key in self._read_whole else digest

        return [
            replace(content, series={key: with_requests(key, digest) for key, digest in content.series.items()})
            for content in self._accumulator.finish()
        ]

    # Slices

    def _sample(self, max_share: float, traces: float) -> TimeSample:
        """Slices of at most a share of the window, none expected to saturate a search where that can be avoided."""
        max_slices = max(1, min(_MAX_SLICES, self._rules.budget.requests * 2 // 3))
        seconds = self._window.seconds
        if overlapping := self._exact.overlapping:
            # Each slice also returns the long traces that began before it, so few slices are cheaper than many.
            affordable = int(self._rules.budget.traces / overlapping / 2)
            max_slices = max(_MIN_SLICES, min(max_slices, affordable))
        sample = sample_for(min(max_share, max_slices * self._rules.per_search / traces), seconds, max_slices)
        # Never the whole window, which was too dense; and never so few slices that a short window has none.
        most = max(2, seconds // (_MIN_SLICES * sample.slice_seconds))
        return sample._replace(one_in=min(max(sample.one_in, 2), most))

    def _read_slices(self, sample: TimeSample, density: float, by_name: frozenset[SeriesKey]) -> int:
        """Read slices of the window for all series not read by name; returns how many seconds were read."""
        budget, cost = self._rules.budget, self._cost
        seconds = 0
        wasted_before = cost.wasted

        def deliver(spans: Sequence[Span]) -> None:
            self._keep([span for span in spans if span.key not in by_name] if by_name else spans)

        for start, end in _spread(list(sample.slices_in(*self._window))):
            is_spent = cost.wasted - wasted_before > _WASTE_TOLERANCE * budget.traces
            is_spent |= cost.requests >= budget.requests or cost.useful > _SLICES_TOLERANCE * budget.traces
            if self._should_stop() or is_spent:
                break
            reading = self._exact.read(
                start, end, deliver, expected_traces=density * (end - start), should_stop=self._should_stop
            )
            cost.add(reading)
            cost.truncated += reading.truncated
            seconds += end - start - sum(last - first for first, last in reading.truncated)
        return seconds

    # By name

    def _searchable(self, counts: Mapping[SeriesKey, int]) -> Mapping[SeriesKey, int]:
        """Return the series that are kept under the name that Tempo knows.

        Names that differ by an id are one series here and many in Tempo; series kept under another name are left to the
        slices.
        """
        return {key: count for key, count in counts.items() if self._series_filter.is_searchable(key)}

    def _read_rare(self, counts: Mapping[SeriesKey, int], share: float) -> frozenset[SeriesKey]:
        """Read series with little traffic whole; returns which were read."""
        budget = self._rules.budget
        most = Budget(int(budget.traces * _BY_NAME_TRACES), max(1, int(budget.requests * _BY_NAME_REQUESTS)))
        counts = {key: count for key, count in counts.items() if key not in self._exact.broad_series}
        groups = rare_groups(counts, share, most, self._rules.per_search, self._condition_length)
        halvings = _BROAD_HALVINGS if self._may_be_broad else 0
        return frozenset(self._read_groups(groups, self._rules.limit, halvings))

    def _read_missed(self) -> int:
        """Read series known from before that the slices do not contain; returns how many traces were kept.

        Where the slices are full of long traces, that may be all series. One with too many traces is then separated
        from the others by halving its group.
        """
        hidden = self._exact.hidden_series
        known = {key for key in hidden if self._series_filter.is_searchable(key)}
        known |= {key for key in self._series_filter.admitted() if not key.is_folded}
        missed = sorted(known - self._accumulator.series() - self._exact.broad_series)
        # Starts with another series in each window, should there be more than can be searched for.
        first = self._window.start // self._window.seconds * 97 % max(1, len(missed))
        kept_before = self._cost.kept
        groups = groups_by_length(missed[first:] + missed[:first], self._condition_length)[:_MISSED_GROUPS]
        halvings = _MOST_HALVINGS if hidden else _BROAD_HALVINGS if self._may_be_broad else 0
        self._read_groups(groups, min(self._rules.limit, CAUTIOUS_LIMIT), halvings)
        return self._cost.kept - kept_before

    def _read_groups(self, groups: Sequence[Sequence[SeriesKey]], limit: int, halvings: int) -> list[SeriesKey]:
        """Read groups of series, and halves of those that hold too much; returns which series were read."""
        left, read = list(groups), list[SeriesKey]()
        while left:
            group = left.pop(0)
            if self._read_group(group, limit):
                read += group
                self._read_whole.update(group)
            elif len(group) > 1 and halvings:
                halvings -= 1
                left += [group[: len(group) // 2], group[len(group) // 2 :]]
        return read

    def _read_group(self, group: Sequence[SeriesKey], limit: int) -> bool:
        """Read all traces of some series, or keep none of them if there are many more than expected."""
        spans: list[Span] = []
        budget = Budget(_GROUP_REQUESTS * limit, _GROUP_REQUESTS)
        try:
            reading = self._exact.read(
                *self._window, spans.extend, series=group, budget=budget, limit=limit, should_stop=self._should_stop
            )
        except TooDenseError as error:
            self._cost.add_abandoned(error)
            if self._may_be_broad and len(group) == 1:
                self._exact.too_broad(group[0])
            return False
        self._cost.add(reading)
        if reading.truncated:
            return False
        self._keep(spans)
        return True

    def _keep(self, spans: Sequence[Span]) -> None:
        self._accumulator.add(spans)
        self._cost.kept += len(spans)


def _spread(slices: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Order slices so that those at the beginning of the list are always spread evenly over all of them."""
    bits = max(1, (len(slices) - 1).bit_length())
    order = sorted(range(len(slices)), key=lambda number: int(f"{number:0{bits}b}"[::-1], 2))
    return [slices[number] for number in order]
