"""Traffic of any density that is generated on demand for each requested second, never stored.

Endpoints have between one and many thousand traces an hour, and the latency of each changes within the hour in its own
way. So a sample that leaves out some minutes or some endpoints has visibly wrong quantiles.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Final

from exporter.model.span import SeriesKey, Span

_NS: Final = 1_000_000_000
HOUR: Final = 3600
_64_BITS: Final = (1 << 64) - 1
_32_BITS: Final = (1 << 32) - 1
_NORMAL: Final = NormalDist()
_MAX_DEVIATION: Final = 3.0
"""Durations are at most this many standard deviations above the median."""
_SEED: Final = 1 << 32
_EXACT_UP_TO: Final = 3000
_INSTANTS: Final = 120


def _mixed(number: int) -> int:
    """Hash a number to 64 pseudorandom bits (the output function of SplitMix64)."""
    bits = (number + 1) * 0x9E3779B97F4A7C15 & _64_BITS
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & _64_BITS
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & _64_BITS
    return bits ^ bits >> 31


def _unit(*numbers: int) -> float:
    """Hash numbers to a pseudorandom number in (0, 1)."""
    bits = 0
    for number in numbers:
        bits = _mixed(bits + number)
    return (bits + 0.5) / 2**64


def _word(number: int) -> str:
    """Write a number in letters: digits would become a placeholder, and all endpoints one series."""
    return str(number).translate(str.maketrans("0123456789", "ghjkmnpqrs"))


@dataclass(frozen=True)
class Endpoint:
    """One endpoint.

    Attributes:
        number: its index; seeds its random numbers.
        key: its series.
        per_hour: traces an hour.
        median_seconds: median latency.
        sigma: standard deviation of the logarithm of single latencies.
        swing: relative rise and fall of the latency within the hour.
        phase: fraction of the hour at which it is slowest.
    """

    number: int
    key: SeriesKey
    per_hour: int
    median_seconds: float
    sigma: float
    swing: float
    phase: float

    def median_at(self, share: float) -> float:
        """Return the median latency at a fraction of the hour."""
        return self.median_seconds * math.pow(1 + self.swing, math.cos(2 * math.pi * (share - self.phase)))

    @cached_property
    def longest_ns(self) -> int:
        """Upper limit of the duration of a trace."""
        slowest = self.median_seconds * (1 + self.swing)
        return math.ceil(slowest * math.exp(self.sigma * _MAX_DEVIATION) * _NS)

    @cached_property
    def _seed(self) -> int:
        return _mixed(self.number + _SEED)

    def spans(self, start_ns: int, end_ns: int) -> Iterator[Span]:
        """Generate the spans that started in ``[start_ns, end_ns]``, by start."""
        step_ns = HOUR * _NS / self.per_hour
        for slot in range(math.floor(start_ns / step_ns), math.floor(end_ns / step_ns) + 1):
            bits = _mixed(self._seed + slot)
            at = int((slot + (bits >> 32) / 2**32) * step_ns)
            if start_ns <= at <= end_ns:
                deviation = min(_NORMAL.inv_cdf(((bits & _32_BITS) + 0.5) / 2**32), _MAX_DEVIATION)
                seconds = self.median_at(at / _NS % HOUR / HOUR) * math.exp(self.sigma * deviation)
                trace = f"{self.number:08x}{slot:024x}"
                yield Span(trace, trace[16:], self.key, at, round(seconds * _NS))

    def quantile_seconds(self, q: float, hour_start: int) -> float:
        """Return the quantile of an hour's traces: exact for few, from their distribution for many."""
        if self.per_hour <= _EXACT_UP_TO:
            durations = sorted(span.duration_ns for span in self.spans(hour_start * _NS, (hour_start + HOUR) * _NS - 1))
            return durations[max(0, math.ceil(q * len(durations)) - 1)] / _NS
        medians = [self.median_at((instant + 0.5) / _INSTANTS) for instant in range(_INSTANTS)]
        low, high = min(medians) / 50, max(medians) * 50
        while high / low > 1.0005:
            middle = math.sqrt(low * high)
            below = sum(_NORMAL.cdf(math.log(middle / median) / self.sigma) for median in medians)
            low, high = (middle, high) if below < q * _INSTANTS else (low, middle)
        return math.sqrt(low * high)


@dataclass(frozen=True)
class DenseTraffic:
    """Endpoints with ``rarest`` to ``busiest`` traces an hour, evenly spread by magnitude; ``per_hour`` in total."""

    per_hour: int
    rarest: int = 1
    busiest: int = 100_000

    @cached_property
    def endpoints(self) -> Sequence[Endpoint]:
        """All endpoints."""
        magnitudes = math.log(self.busiest / self.rarest)
        count = max(2, round(self.per_hour / ((self.busiest - self.rarest) / magnitudes)))
        return [
            Endpoint(
                number=number,
                key=SeriesKey(f"service-{number % 12}", f'GET /api/"things"/{_word(number)}'),
                per_hour=round(self.rarest * math.exp(magnitudes * number / (count - 1))),
                median_seconds=0.01 * 30 ** _unit(number, 3),
                sigma=0.3 + 0.6 * _unit(number, 4),
                swing=0.8 * _unit(number, 5),
                phase=_unit(number, 6),
            )
            for number in range(count)
        ]

    def spans(self, start: int, end: int, keys: Iterable[SeriesKey] = ()) -> list[Span]:
        """Return the spans that overlap ``[start, end]``, of all endpoints or of some."""
        selected = frozenset(keys)
        start_ns, end_ns = start * _NS, end * _NS
        return [
            span
            for endpoint in self.endpoints
            if not selected or endpoint.key in selected
            for span in endpoint.spans(start_ns - endpoint.longest_ns, end_ns)
            if span.end_ns >= start_ns
        ]
