"""How long requests take: shapes of latency distributions, a load that wanders slowly, and incidents.

Everything random comes from generators that are seeded with text, one per stream and hour, so that any hour can be
computed on its own and is always the same.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

HOUR_SECONDS: Final = 3600
MINUTES_PER_HOUR: Final = 60
# After six correlation times 0.25 % of a disturbance is left: what is older is not looked at.
_MEMORY_CORRELATIONS: Final = 6


def stream(seed: int | str, name: str, index: int) -> random.Random:
    """The random numbers of one purpose in one stretch of time (an hour or a day, counted from the Unix epoch)."""
    return random.Random(f"{seed}/{name}/{index}")


class LatencyShape(Protocol):
    """The distribution of durations around their median."""

    def sampler(self, rng: random.Random) -> Callable[[], float]:
        """A function that draws one duration after the other, as factors of the median."""


@dataclass(frozen=True)
class Lognormal:
    """The usual shape of one kind of work: p99 is ``exp(2.33 sigma)`` medians."""

    sigma: float

    def sampler(self, rng: random.Random) -> Callable[[], float]:
        """A function that draws factors of the median."""
        gauss, exp, sigma = rng.gauss, math.exp, self.sigma
        return lambda: exp(gauss(0.0, sigma))


@dataclass(frozen=True)
class Bimodal:
    """A cache in front of the work: a share of the requests is a hit and takes a fraction of the time.

    The factor 1 is the median of the misses, not of all requests.
    """

    hit_share: float = 0.7
    hit_factor: float = 0.1
    sigma: float = 0.3

    def sampler(self, rng: random.Random) -> Callable[[], float]:
        """A function that draws factors of the median."""
        gauss, exp, uniform = rng.gauss, math.exp, rng.random
        share, factor, sigma = self.hit_share, self.hit_factor, self.sigma
        return lambda: (factor if uniform() < share else 1.0) * exp(gauss(0.0, sigma))


@dataclass(frozen=True)
class HeavyTailed:
    """A lognormal body whose slowest share is stretched by a Pareto factor, up to ``longest`` times."""

    sigma: float = 0.4
    tail_share: float = 0.05
    tail_index: float = 1.5
    longest: float = 50.0

    def sampler(self, rng: random.Random) -> Callable[[], float]:
        """A function that draws factors of the median."""
        gauss, exp, uniform = rng.gauss, math.exp, rng.random
        sigma, share, exponent, longest = self.sigma, self.tail_share, -1.0 / self.tail_index, self.longest

        def draw() -> float:
            factor = exp(gauss(0.0, sigma))
            if uniform() < share:
                factor *= min(longest, (1.0 - uniform()) ** exponent)
            return factor

        return draw


@dataclass(frozen=True)
class Incident:
    """Requests that begin in ``[start, end)`` (unix seconds) take ``factor`` times as long; all or a share of them."""

    start: float
    end: float
    factor: float
    share: float = 1.0


class WanderingLoad:
    """A first-order autoregressive process, one value a minute: the load that all requests of a minute share.

    The values are natural logarithms of a factor, with mean 0 and standard deviation ``sd``; their correlation falls
    to 1/e in ``correlation_minutes``. Each hour is reached from a fixed number of hours before it, so that it does
    not matter where a computation began.
    """

    def __init__(self, seed: int | str, sd: float, correlation_minutes: float) -> None:
        if sd < 0 or correlation_minutes <= 0:
            raise ValueError(f"a load needs sd >= 0 and correlation > 0, got {sd} and {correlation_minutes}")
        self._seed = seed
        self._keep = math.exp(-1.0 / correlation_minutes)
        self._step_sd = sd * math.sqrt(1.0 - self._keep**2)
        self._memory_hours = math.ceil(_MEMORY_CORRELATIONS * correlation_minutes / MINUTES_PER_HOUR)
        self._disturbances = lru_cache(maxsize=self._memory_hours + 2)(self._draw_disturbances)

    def minutes(self, hour: int) -> list[float]:
        """The 60 values of an hour, which is counted from the Unix epoch."""
        if not self._step_sd:
            return [0.0] * MINUTES_PER_HOUR
        fade = self._keep**MINUTES_PER_HOUR
        value = 0.0
        for earlier in range(hour - self._memory_hours, hour):
            value = value * fade + self._disturbances(earlier)[1]
        values = []
        for disturbance in self._disturbances(hour)[0]:
            value = value * self._keep + disturbance
            values.append(value)
        return values

    def _draw_disturbances(self, hour: int) -> tuple[list[float], float]:
        """What is added in each minute of an hour, and what is left of it all when the hour ends."""
        gauss = stream(self._seed, "load", hour).gauss
        steps = [gauss(0.0, self._step_sd) for _ in range(MINUTES_PER_HOUR)]
        left = 0.0
        for step in steps:
            left = left * self._keep + step
        return steps, left
