"""Seeded synthetic root spans, any number of them for any number of series."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

from exporter.model.span import SeriesKey

_LETTERS: Final = str.maketrans("0123456789", "ghijklmnop")
_NS: Final = 1_000_000_000
_SLICE_SECONDS: Final = 600
_DAY_SECONDS: Final = 86_400
_RHYTHM: Final = 0.6
"""Relative swing of the traffic around its mean over a day."""
_MEDIAN_NS: Final = 50_000_000
_SIGMA: Final = 0.5
_VARIETY: Final = 4096
LONGEST_SECONDS: Final = 3
"""Upper limit of a span's duration."""


class Request(NamedTuple):
    """One root span."""

    start_ns: int
    duration_ns: int
    series: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """Root spans in a time range.

    Attributes:
        traces: number of spans.
        start: Unix seconds.
        end: Unix seconds.
        series: number of series.
        even: spread spans evenly over series and time; otherwise few series have most traffic, and more of it by day.
        seed: seed of the random numbers.
    """

    traces: int
    start: int
    end: int
    series: int
    even: bool = False
    seed: int = 1

    def requests(self) -> Iterator[Request]:
        """Generate the spans in order of their start."""
        random_ = random.Random(self.seed)
        durations = [random_duration_ns(random_) for _ in range(_VARIETY)]
        picks = self._picks(random_)
        number = 0
        for first, last, count in self._slices():
            for start_ns in sorted(random_.randrange(first * _NS, last * _NS) for _ in range(count)):
                series = picks[number % len(picks)]
                number += 1
                duration_ns = durations[random_.randrange(_VARIETY)]
                yield Request(start_ns, duration_ns, series)

    def _picks(self, random_: random.Random) -> list[int]:
        """Return the series in the order of their requests; the order repeats."""
        if self.even:
            picks = list(range(self.series))
            random_.shuffle(picks)
            return picks
        # A long tail: weights proportional to the reciprocal of the rank.
        weights = [1 / (rank + 3) for rank in range(self.series)]
        return random_.choices(range(self.series), weights, k=20 * self.series + 1000)

    def _slices(self) -> Iterator[tuple[int, int, int]]:
        """Generate short time ranges and the number of spans that start in each."""
        edges = [*range(self.start, self.end, _SLICE_SECONDS), self.end]
        weights = [
            (last - first) * (1.0 if self.even else 1 - _RHYTHM * math.cos(2 * math.pi * first / _DAY_SECONDS))
            for first, last in pairwise(edges)
        ]
        total = sum(weights)
        emitted = 0
        for (first, last), cumulative in zip(pairwise(edges), accumulate(weights), strict=True):
            target = round(self.traces * cumulative / total)
            yield first, last, target - emitted
            emitted = target


def series_key(series: int) -> SeriesKey:
    """Return the name of a series, fifty per service; letters, because digits would become placeholders."""
    letters = f"{series:05d}".translate(_LETTERS)
    return SeriesKey(f"service-{series // 50:03d}", f"GET /api/v1/resource-{letters}")


def random_duration_ns(random_: random.Random, slower: float = 1.0) -> int:
    """Draw a log-normal latency, multiplied by ``slower``."""
    return min(int(random_.lognormvariate(0, _SIGMA) * _MEDIAN_NS * slower), LONGEST_SECONDS * _NS)
