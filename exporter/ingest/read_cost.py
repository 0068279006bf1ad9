"""What the reading of a window has cost and brought so far, over all the attempts that it may take."""

from dataclasses import dataclass, field

from exporter.ingest.exact_reader import ReadResult, SearchResult, TooDenseError


@dataclass(slots=True)
class ReadCost:
    """A running total.

    Attributes:
        useful: spans that came and were, or could have been, of use.
        in_vain: spans that came with searches that were full or only made to look.
        kept: spans that are part of the result.
        requests: searches made.
        splits: searches whose range was halved.
        density: traces a second, at least, as far as it has turned out.
        truncated: ranges that stayed unread.
    """

    useful: int = 0
    in_vain: int = 0
    kept: int = 0
    requests: int = 0
    splits: int = 0
    density: float = 0.0
    truncated: list[tuple[int, int]] = field(default_factory=list)

    def add(self, reading: ReadResult) -> None:
        """A reading; what of it is kept, the reader says."""
        self.useful += reading.received
        self.in_vain += reading.wasted
        self.requests += reading.requests
        self.splits += reading.splits

    def add_search(self, answer: SearchResult) -> None:
        """A search that was made only to look."""
        self.in_vain += len(answer.spans)
        self.requests += 1

    def add_in_vain(self, error: TooDenseError) -> None:
        """A reading that was given up."""
        self.in_vain += error.received
        self.requests += error.requests
        self.splits += error.splits
        self.density = max(self.density, error.density or 0.0)

    def total(self, *, at_end: int = 0) -> ReadResult:
        """All of it as one reading.

        Args:
            at_end: spans that started exactly at the end of the window.
        """
        return ReadResult(
            received=self.useful + self.in_vain,
            kept=self.kept,
            requests=self.requests,
            splits=self.splits,
            truncated=tuple(self.truncated),
            at_end=at_end,
            wasted=self.in_vain,
        )
