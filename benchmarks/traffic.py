"""Synthetic root spans to measure with: any number of them, of any number of series, the same for the same seed."""

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
"""How far traffic swings round its mean over a day."""
_MEDIAN_NS: Final = 50_000_000
_SIGMA: Final = 0.5
_VARIETY: Final = 4096
LONGEST_SECONDS: Final = 3
"""No span takes longer."""


class Request(NamedTuple):
    """One root span."""

    start_ns: int
    duration_ns: int
    series: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """Root spans over some time.

    Attributes:
        traces: how many.
        start: Unix seconds.
        end: Unix seconds.
        series: how many series they are spread over.
        even: every series has the same traffic at any time; otherwise a few have most of it, and more by day.
        seed: another one makes other traffic.
    """

    traces: int
    start: int
    end: int
    series: int
    even: bool = False
    seed: int = 1

    def requests(self) -> Iterator[Request]:
        """The spans by start."""
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
        """Series in the order in which they are called, over and over."""
        if self.even:
            picks = list(range(self.series))
            random_.shuffle(picks)
            return picks
        # The usual long tail: the rank's reciprocal.
        weights = [1 / (rank + 3) for rank in range(self.series)]
        return random_.choices(range(self.series), weights, k=20 * self.series + 1000)

    def _slices(self) -> Iterator[tuple[int, int, int]]:
        """Short ranges of time, and how many spans start in each."""
        edges = [*range(self.start, self.end, _SLICE_SECONDS), self.end]
        weights = [
            (last - first) * (1.0 if self.even else 1 - _RHYTHM * math.cos(2 * math.pi * first / _DAY_SECONDS))
            for first, last in pairwise(edges)
        ]
        total = sum(weights)
        done = 0
        for (first, last), cumulative in zip(pairwise(edges), accumulate(weights), strict=True):
            wanted = round(self.traces * cumulative / total)
            yield first, last, wanted - done
            done = wanted


def series_key(series: int) -> SeriesKey:
    """The name of a series: fifty to a service. In letters, since numbers would be taken for ids of one endpoint."""
    letters = f"{series:05d}".translate(_LETTERS)
    return SeriesKey(f"service-{series // 50:03d}", f"GET /api/v1/resource-{letters}")


def random_duration_ns(random_: random.Random, slower: float = 1.0) -> int:
    """A latency: log-normal, as latencies are; so many times slower where wanted."""
    return min(int(random_.lognormvariate(0, _SIGMA) * _MEDIAN_NS * slower), LONGEST_SECONDS * _NS)
