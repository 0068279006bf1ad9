"""Suites of synthetic series, drawn from a seed."""

import math
import random
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, NamedTuple

from exporter.demo.latency import Bimodal, HeavyTailed, Incident, LatencyShape, Lognormal
from exporter.demo.traffic import DAY_SECONDS, Drift, SeriesProfile, Surge
from exporter.detection.parameters import Parameters

BEGIN: Final = 1_767_571_200
"""A Monday, 2026-01-05 00:00 UTC, as Unix seconds."""
LEARNING_DAYS: Final = 8
EVALUATED_DAYS: Final = 10
END: Final = BEGIN + (LEARNING_DAYS + EVALUATED_DAYS) * DAY_SECONDS
LIVE_FROM: Final = BEGIN + LEARNING_DAYS * DAY_SECONDS

RATES_PER_MINUTE: Final = (0.05, 0.5, 2.0, 10.0, 60.0)
_SHAPES: Final[tuple[LatencyShape, ...]] = (
    Lognormal(0.3),
    Lognormal(0.6),
    Lognormal(0.9),
    Lognormal(1.2),
    Bimodal(),
    HeavyTailed(),
)
_MINUTES: Final = (3, 10, 30, 180)
_SEGMENT_SECONDS: Final = 10 * 3600


class Suite(StrEnum):
    """A kind of traffic."""

    PLAIN = "plain"
    SURGE = "surge"
    GAPS = "gaps"
    NEW = "new endpoints"
    DRIFT = "drift"
    INCIDENTS = "incidents"
    PERMANENT = "permanent"
    ABLATION = "without swing"


class Kind(NamedTuple):
    """A kind of incident: multiplies the durations of a share of the requests."""

    factor: float
    share: float = 1.0


KINDS: Final = (Kind(1.3), Kind(1.5), Kind(2.0), Kind(5.0), Kind(10.0), Kind(10.0, 0.1))


@dataclass(frozen=True)
class Case:
    """One series.

    Attributes:
        suite: its suite.
        seed: seed of its traffic.
        profile: parameters of its traffic.
        live_from: start of the live evaluation, Unix seconds; earlier traffic is only learnt from.
        parameters: the detector's settings.
    """

    suite: Suite
    seed: str
    profile: SeriesProfile
    live_from: float = LIVE_FROM
    parameters: Parameters = field(default_factory=Parameters)

    @property
    def evaluated_days(self) -> float:
        """Days of live evaluation."""
        return (END - self.live_from) / DAY_SECONDS


def cases(suite: Suite, per_rate: int, seed: str) -> list[Case]:
    """Draw the series of a suite: ``per_rate`` for each rate of traffic, half as many for the highest."""
    # The same series in every suite: suites differ only in what their names say.
    return [
        _case(suite, f"{seed}/{rate}/{number}", rate, _SHAPES[number % len(_SHAPES)])
        for rate in RATES_PER_MINUTE
        for number in range(per_rate if rate < max(RATES_PER_MINUTE) else math.ceil(per_rate / 2))
    ]


def _case(suite: Suite, name: str, rate: float, shape: LatencyShape) -> Case:
    rng = random.Random(name)
    profile = SeriesProfile(
        rate_per_minute=rate,
        base_seconds=_log_uniform(rng, 0.005, 1.5),
        shape=shape,
        peak_hour=rng.uniform(10, 18),
        traffic_swing=rng.uniform(0.3, 0.8),
        latency_swing=_log_uniform(rng, 1, 4),
        weekend_latency=_log_uniform(rng, 0.7, 1),
        load_sd=_log_uniform(rng, 0.03, 0.2),
        load_correlation_minutes=_log_uniform(rng, 5, 120),
        day_sd=rng.uniform(0, 0.05),
    )
    live_from: float = LIVE_FROM
    parameters = Parameters()
    match suite:
        case Suite.PLAIN:
            pass
        case Suite.SURGE:
            profile = replace(profile, surge=Surge(hour=rng.randrange(24)))
        case Suite.GAPS:
            profile = replace(profile, gaps=_gaps(rng))
        case Suite.NEW:
            live_from = LIVE_FROM + rng.randrange(24 * 4) * 3600
            profile = replace(profile, begins_at=live_from)
        case Suite.DRIFT:
            profile = replace(profile, drift=Drift(per_day=0.01, since=BEGIN))
        case Suite.INCIDENTS:
            profile = replace(profile, incidents=_incidents(rng))
        case Suite.PERMANENT:
            since = LIVE_FROM + rng.uniform(0, DAY_SECONDS)
            profile = replace(profile, incidents=(Incident(since, math.inf, 2.0),))
        case Suite.ABLATION:
            parameters = Parameters(swing=0.0)
    return Case(suite, name, profile, live_from, parameters)


def _log_uniform(rng: random.Random, least: float, most: float) -> float:
    """Draw from the log-uniform distribution on ``[least, most]``."""
    return least * math.exp(rng.random() * math.log(most / least))


def _gaps(rng: random.Random) -> tuple[tuple[float, float], ...]:
    """Draw gaps of six hours every third day, and of two whole days."""
    days = range(LEARNING_DAYS + EVALUATED_DAYS)
    short = [BEGIN + day * DAY_SECONDS + rng.uniform(0, 18) * 3600 for day in days[::3]]
    whole = [BEGIN + day * DAY_SECONDS for day in rng.sample(days, 2)]
    return tuple((start, start + 6 * 3600) for start in short) + tuple((start, start + DAY_SECONDS) for start in whole)


def _incidents(rng: random.Random) -> tuple[Incident, ...]:
    """Draw an incident of each kind and length in random order, one in every ten hours."""
    drawn = [(kind, minutes) for kind in KINDS for minutes in _MINUTES]
    rng.shuffle(drawn)
    incidents = []
    for number, (kind, minutes) in enumerate(drawn):
        start = LIVE_FROM + number * _SEGMENT_SECONDS + rng.uniform(0.5, 6.5) * 3600
        incidents.append(Incident(start, start + 60 * minutes, kind.factor, kind.share))
    return tuple(incidents)
