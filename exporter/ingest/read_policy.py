"""The rule by which a stretch of time is read whole, probed or sampled; the live edge and the backfill share it.

1. Where more traces are expected than the budget allows, the stretch is sampled.
2. Where the number is unknown, a single search shows whether one is enough. Splitting it further would cost too much
   if the stretch is dense, so a few seconds are probed for the density instead, and the rule applies to what is
   expected then.
3. Otherwise the stretch is read whole. If it turns out to be too dense for that, it is sampled. If much was received in
   saturated responses, which are thrown away, before that is certain, reading stops, and a few seconds are probed.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, TypeVar

from exporter.ingest.exact_reader import SEARCH_FILL, Budget, ExactReader, Overlap, ReadResult, TooDenseError
from exporter.model.span import Span

TOLERANCE: Final = 1.5
"""Factor by which a read may exceed its budget for traces before it is abandoned; a little more than expected is no
reason to throw away what was read."""

COUNTED_SHARE: Final = 2 / 3
"""Share of the traces that a sample stands for below which Tempo's count of the window is too low to be true."""

_WASTED_SHARE: Final = 0.5
"""Share of the budget for traces that a whole read may receive in saturated responses."""

Result_co = TypeVar("Result_co", covariant=True)
Result = TypeVar("Result")


class Stretch(Protocol[Result_co]):
    """A stretch of time, and the ways to read it."""

    @property
    def expected(self) -> float | None:
        """Expected number of traces, as far as known by now."""

    def fits(self) -> bool:
        """Whether the expected traces can be read whole within the budget; an unknown number may."""

    def read_whole(self) -> Result_co | None:
        """Read all of it; None if it is too dense for that. What is expected is then as much as was found, or more."""

    def probe(self) -> None:
        """Search a few seconds of it, so that the expected number of traces is known."""

    def read_sample(self) -> Result_co:
        """Read a sample of it."""


def read_within_budget(stretch: Stretch[Result]) -> Result:
    """Read a stretch of time by the rule at the top of this module."""
    if not stretch.fits():
        return stretch.read_sample()
    result = stretch.read_whole()
    if result is None and stretch.fits():
        stretch.probe()
        if stretch.fits():
            result = stretch.read_whole()
    return stretch.read_sample() if result is None else result


def max_whole_traces(budget: Budget, limit: int) -> float:
    """The most traces that a budget allows to expect of a whole read, with searches of at most `limit` traces."""
    return min(budget.traces, budget.requests * limit * SEARCH_FILL)


def whole_read_budget(budget: Budget, expected: float | None, *, request_tolerance: float = 1) -> Budget:
    """The budget at which a whole read is abandoned."""
    requests = 1 if expected is None else round(budget.requests * request_tolerance)
    return Budget(round(budget.traces * TOLERANCE), requests, round(budget.traces * _WASTED_SHARE))


class Probe(NamedTuple):
    """What a few searches show of a stretch of time.

    Attributes:
        density: traces per second; None without a search.
        received: spans received.
        requests: searches made.
    """

    density: float | None
    received: int
    requests: int


def probe_density(
    exact: ExactReader,
    ranges: Iterable[tuple[int, int]],
    seconds: int,
    belongs: Callable[[Span, int, int], bool],
    should_stop: Callable[[], bool],
) -> Probe:
    """Find out how dense traffic is.

    Args:
        exact: reads ranges.
        ranges: what to search.
        seconds: length of each range.
        belongs: whether a span counts for the range in which it was found.
        should_stop: asked before each search; once it returns true, no more are made.
    """
    found: list[int] = []
    received = requests = 0
    for start, end in ranges:
        if should_stop():
            break
        result, cost = exact.probe(start, end)
        received += cost.received
        requests += cost.requests
        # Of a saturated search, where traces are not long, nearly all belongs to the range.
        inside = sum(belongs(span, start, end) for span in result.spans)
        found.append(result.limit if result.saturated and 2 * inside >= len(result.spans) else inside)
    return Probe(sum(found) / (len(found) * seconds) if found else None, received, requests)


@dataclass(slots=True)
class ReadCost:
    """Running totals over all attempts to read a stretch of time.

    Attributes:
        useful: spans received in searches whose response was, or could have been, kept.
        wasted: spans received in saturated, abandoned or probing searches.
        kept: spans that are part of the result.
        requests: searches made.
        splits: searches that were split in halves.
        density: lower bound of the traces per second, as far as known.
        left_out: duplicates and invalid spans in responses that were kept.
        missing: spans that Tempo withheld from them.
        truncated: ranges that were not read.
        overlap: what was found in one of them because of long traces.
        longest_ns: duration of the longest span received in a read, kept or not.
    """

    useful: int = 0
    wasted: int = 0
    kept: int = 0
    requests: int = 0
    splits: int = 0
    left_out: int = 0
    missing: int = 0
    density: float = 0.0
    truncated: list[tuple[int, int]] = field(default_factory=list)
    overlap: Overlap | None = None
    longest_ns: int = 0

    def add(self, reading: ReadResult) -> None:
        """Add a read; the caller adds what it keeps of it."""
        self.useful += reading.received
        self.wasted += reading.wasted
        self.requests += reading.requests
        self.splits += reading.splits
        self.left_out += reading.left_out
        self.missing += reading.missing
        self.overlap = self.overlap or reading.overlap
        self.longest_ns = max(self.longest_ns, reading.longest_ns)

    def add_probe(self, probe: Probe) -> None:
        """Add searches that were made for the density only."""
        self.wasted += probe.received
        self.requests += probe.requests
        self.density = max(self.density, probe.density or 0.0)

    def add_abandoned(self, error: TooDenseError) -> None:
        """Add a read that was abandoned."""
        self.wasted += error.received
        self.requests += error.requests
        self.splits += error.splits
        self.overlap = self.overlap or error.overlap
        self.density = max(self.density, error.density or 0.0)

    def total(self, *, at_end: int = 0) -> ReadResult:
        """The totals as those of a single read.

        Args:
            at_end: spans that started exactly at the end of the window.
        """
        return ReadResult(
            received=self.useful + self.wasted,
            kept=self.kept,
            requests=self.requests,
            splits=self.splits,
            truncated=tuple(self.truncated),
            at_end=at_end,
            wasted=self.wasted,
            left_out=self.left_out,
            missing=self.missing,
            overlap=self.overlap,
            longest_ns=self.longest_ns,
        )
