"""Latency of synthetic requests: distributions, a slowly varying load, and incidents.

All random numbers come from generators seeded with text, one per purpose and hour, so that every hour can be generated
alone and reproducibly.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

HOUR_SECONDS: Final = 3600
MINUTES_PER_HOUR: Final = 60
_NS: Final = 1_000_000_000
# After six correlation times 0.25 % of a disturbance is left; older ones are ignored.
_MEMORY_CORRELATIONS: Final = 6


def stream(seed: int | str, name: str, index: int) -> random.Random:
    """Return the random number generator for one purpose in one hour or day, counted from the Unix epoch."""
    return random.Random(f"{seed}/{name}/{index}")


class LatencyShape(Protocol):
    """Distribution of durations relative to their median."""

    def sampler(self, rng: random.Random) -> Callable[[], float]:
        """Return a function that draws durations as factors of the median."""


@dataclass(frozen=True)
class Lognormal:
    """Lognormal distribution: p99 is ``exp(2.33 sigma)`` times the median."""

    sigma: float

    def sampler(self, rng: random.Random) -> Callable[[], float]:
        """Return a function that draws factors of the median."""
        gauss, exp, sigma = rng.gauss, math.exp, self.sigma
        return lambda: exp(gauss(0.0, sigma))


@dataclass(frozen=True)
class Bimodal:
    """Two lognormal modes, as of a cache: a share of the requests are hits and take a fraction of the time.

    The factor 1 is the median of the misses, not of all requests.
    """

    hit_share: float = 0.7
    hit_factor: float = 0.1
    sigma: float = 0.3

    def sampler(self, rng: random.Random) -> Callable[[], float]:
        """Return a function that draws factors of the median."""
        gauss, exp, uniform = rng.gauss, math.exp, rng.random
        share, factor, sigma = self.hit_share, self.hit_factor, self.sigma
        return lambda: (factor if uniform() < share else 1.0) * exp(gauss(0.0, sigma))


@dataclass(frozen=True)
class HeavyTailed:
    """Lognormal distribution in which a share of the values is multiplied by a Pareto factor of at most ``longest``."""

    sigma: float = 0.4
    tail_share: float = 0.05
    tail_index: float = 1.5
    longest: float = 50.0

    def sampler(self, rng: random.Random) -> Callable[[], float]:
        """Return a function that draws factors of the median."""
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
    """Changes the duration of requests that start in ``[start, end)`` (Unix seconds), or of some of them.

    Attributes:
        start: Unix seconds.
        end: Unix seconds.
        factor: multiplies durations.
        share: share of the requests that are affected, chosen at random.
        ranks: of each hour, only requests between these two ranks are affected, as shares of its requests by duration:
            ``(0.98, 1)`` are the slowest two in a hundred.
        ramp_seconds: time from the start in which the factor grows evenly, on a logarithmic scale, to its full value.
        fixed_seconds: duration of affected requests, as of a time-out; None means that ``factor`` applies.
    """

    start: float
    end: float
    factor: float
    share: float = 1.0
    ranks: tuple[float, float] = (0.0, 1.0)
    ramp_seconds: float = 0.0
    fixed_seconds: float | None = None

    def duration_ns(self, start_ns: int, duration_ns: int) -> int:
        """Return the duration of an affected request that starts at an instant (Unix nanoseconds)."""
        if self.fixed_seconds is not None:
            return int(self.fixed_seconds * _NS)
        if not self.ramp_seconds:
            return int(duration_ns * self.factor)
        return int(duration_ns * self.factor ** min(1.0, (start_ns / _NS - self.start) / self.ramp_seconds))


class WanderingLoad:
    """First-order autoregressive process with one value per minute, which all requests of that minute share.

    Values are natural logarithms of a factor, with mean 0 and standard deviation ``sd``; their autocorrelation falls to
    1/e in ``correlation_minutes``. Each hour is computed from a fixed number of hours before it, so the result does not
    depend on where a computation starts.
    """

    def __init__(self, seed: int | str, sd: float, correlation_minutes: float) -> None:
        if sd < 0 or correlation_minutes <= 0:
            raise ValueError(f"a load needs sd >= 0 and correlation > 0, got {sd} and {correlation_minutes}")
        self._seed = seed
        self._decay = math.exp(-1.0 / correlation_minutes)
        self._step_sd = sd * math.sqrt(1.0 - self._decay**2)
        self._memory_hours = math.ceil(_MEMORY_CORRELATIONS * correlation_minutes / MINUTES_PER_HOUR)
        self._disturbances = lru_cache(maxsize=self._memory_hours + 2)(self._draw_disturbances)

    def minutes(self, hour: int) -> list[float]:
        """Return the 60 values of an hour, counted from the Unix epoch."""
        if not self._step_sd:
            return [0.0] * MINUTES_PER_HOUR
        hourly_decay = self._decay**MINUTES_PER_HOUR
        value = 0.0
        for earlier in range(hour - self._memory_hours, hour):
            value = value * hourly_decay + self._disturbances(earlier)[1]
        values = []
        for disturbance in self._disturbances(hour)[0]:
            value = value * self._decay + disturbance
            values.append(value)
        return values

    def _draw_disturbances(self, hour: int) -> tuple[list[float], float]:
        """Draw the disturbance of each minute of an hour; also return what remains of them at the end of the hour."""
        gauss = stream(self._seed, "load", hour).gauss
        steps = [gauss(0.0, self._step_sd) for _ in range(MINUTES_PER_HOUR)]
        remainder = 0.0
        for step in steps:
            remainder = remainder * self._decay + step
        return steps, remainder
