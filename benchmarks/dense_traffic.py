"""Traffic of any density without holding it: what started in a second is worked out when that second is asked for.

Endpoints have between one trace and many thousands an hour, and a latency that changes within the hour, each in its own
way: so a sample that leaves out a part of the hour, or of the endpoints, is found out.
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
_NORMAL: Final = NormalDist()
_EXACT_UP_TO: Final = 3000
_INSTANTS: Final = 120


def _unit(*numbers: int) -> float:
    """A number in (0, 1) that looks random and is the same every time (SplitMix64)."""
    mixed = 0
    for number in numbers:
        mixed = (mixed + number + 1) * 0x9E3779B97F4A7C15 & (1 << 64) - 1
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & (1 << 64) - 1
        mixed ^= mixed >> 31
    return (mixed + 0.5) / 2**64


def _word(number: int) -> str:
    """A word for a number: as digits, it would be an id and become a placeholder, and the endpoints one."""
    return str(number).translate(str.maketrans("0123456789", "ghjkmnpqrs"))


@dataclass(frozen=True)
class Endpoint:
    """One endpoint.

    Attributes:
        number: tells it from others.
        key: its series.
        per_hour: its traces in each hour.
        median_seconds: its usual latency.
        sigma: how far single traces lie from it, as the standard deviation of the logarithm.
        swing: by so much the latency rises and falls within the hour, as a factor of the median.
        phase: when in the hour it is slowest, as a share of it.
    """

    number: int
    key: SeriesKey
    per_hour: int
    median_seconds: float
    sigma: float
    swing: float
    phase: float

    def median_at(self, share: float) -> float:
        """Its latency at a share of the hour."""
        return self.median_seconds * math.pow(1 + self.swing, math.cos(2 * math.pi * (share - self.phase)))

    def spans(self, start_ns: int, end_ns: int) -> Iterator[Span]:
        """What started in ``[start_ns, end_ns]``, by time."""
        step_ns = HOUR * _NS / self.per_hour
        for slot in range(math.floor(start_ns / step_ns), math.floor(end_ns / step_ns) + 1):
            at = int((slot + _unit(self.number, slot, 1)) * step_ns)
            if start_ns <= at <= end_ns:
                trace = f"{self.number:08x}{slot:024x}"
                yield Span(trace, trace[16:], self.key, at, self.duration_ns(slot, at))

    def duration_ns(self, slot: int, at: int) -> int:
        """How long the trace of a slot takes."""
        deviation = _NORMAL.inv_cdf(_unit(self.number, slot, 2))
        return round(self.median_at(at / _NS % HOUR / HOUR) * math.exp(self.sigma * deviation) * _NS)

    def quantile_seconds(self, q: float, hour_start: int) -> float:
        """The quantile of all its traces in an hour: of each of them, or as they are distributed if there are many."""
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
    """Endpoints between ``rarest`` and ``busiest`` traces an hour, as many of each magnitude; ``per_hour`` in all."""

    per_hour: int
    rarest: int = 1
    busiest: int = 100_000

    @cached_property
    def endpoints(self) -> Sequence[Endpoint]:
        """All of them."""
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
        """What overlaps ``[start, end]`` and started at most a minute before, of all endpoints or of some."""
        wanted = frozenset(keys)
        start_ns, end_ns = start * _NS, end * _NS
        return [
            span
            for endpoint in self.endpoints
            if not wanted or endpoint.key in wanted
            for span in endpoint.spans(start_ns - 10 * _NS, end_ns)
            if span.end_ns >= start_ns
        ]
