"""Services drawn from a seed, the verdict on them, and its figures."""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Final, NamedTuple

from benchmarks.detection.scoring import Episode, Event, finding
from exporter.detection.flag import INACTIVE, FlagEvent
from exporter.detection.parameters import Parameters
from exporter.detection.service_shift import (
    ServiceBaseline,
    ServiceHour,
    advance_service_flag,
    judge_service,
    learn_service,
    service_deviations,
)
from exporter.model.deviations import MARKS, encode_deviations
from exporter.model.histogram import BUCKETS_PER_OCTAVE

HOUR: Final = 3600
DAY: Final = 24 * HOUR
BEGIN: Final = 1_767_571_200
"""A Monday, 2026-01-05 00:00 UTC, as Unix seconds."""
LEARNING_DAYS: Final = 8
EVALUATED_DAYS: Final = 6
LIVE_FROM: Final = BEGIN + LEARNING_DAYS * DAY
END: Final = LIVE_FROM + EVALUATED_DAYS * DAY
HOURS: Final = (END - BEGIN) // HOUR
SHARED_LOADS: Final = (0.0, 0.1, 0.25)
FACTORS: Final = (1.3, 1.5, 2.0)
_LENGTHS: Final = (1200, 3600, 3600, 7200)
_LEARNED_SECONDS: Final = 7 * DAY
_LONG_SECONDS: Final = 1e6
"""With this latency any difference is large enough: the sample is about ratios."""


class Kind(StrEnum):
    """What happens to a service."""

    HEALTHY = "healthy"
    WHOLE = "shifts of the whole service"
    SINGLE = "shifts of one endpoint"
    HOURLY_BATCH = "hourly batch"
    DAILY_BATCH = "daily batch"


class ServiceIncident(NamedTuple):
    """A time in which requests take longer.

    Attributes:
        factor: multiplies their durations.
        start: Unix seconds.
        end: Unix seconds.
        endpoint: the only endpoint that it concerns; None for all.
    """

    factor: float
    start: float
    end: float
    endpoint: int | None


@dataclass(frozen=True)
class Service:
    """A service.

    Attributes:
        seed: seed of its traffic.
        kind: what happens to it.
        shared_load: standard deviation of the logarithm of the load that its endpoints share.
        endpoints: number of its endpoints.
        rate_per_minute: mean rate of each endpoint, which differs by a factor of up to two.
    """

    seed: str
    kind: Kind
    shared_load: float
    endpoints: int
    rate_per_minute: float

    @property
    def name(self) -> str:
        """Seed of everything that is drawn for it."""
        return f"{self.seed}/{self.kind}/{self.shared_load}/{self.endpoints}/{self.rate_per_minute}"

    def incidents(self, per_day: int, factors: Sequence[float]) -> list[ServiceIncident]:
        """Return its incidents, each in a part of the day of its own."""
        if self.kind not in (Kind.WHOLE, Kind.SINGLE):
            return []
        rng = random.Random(f"{self.name}/incidents")
        number = EVALUATED_DAYS * per_day
        drawn = [factors[index % len(factors)] for index in range(number)]
        rng.shuffle(drawn)
        found, apart = [], DAY / per_day
        for index, factor in enumerate(drawn):
            length = rng.choice(_LENGTHS)
            start = LIVE_FROM + index * apart + rng.uniform(HOUR / 2, apart - HOUR - length)
            endpoint = rng.randrange(self.endpoints) if self.kind is Kind.SINGLE else None
            found.append(ServiceIncident(factor, start, start + length, endpoint))
        return found


def log_uniform(rng: random.Random, least: float, most: float) -> float:
    """Draw from the log-uniform distribution on ``[least, most]``."""
    return least * math.exp(rng.random() * math.log(most / least))


def judged_episodes(
    deviations: Sequence[Mapping[int, int]],
    quarantined: Sequence[frozenset[int]],
    ticks: Iterable[tuple[int, Sequence[int]]],
    parameters: Parameters,
) -> list[Episode]:
    """Return when the flag of a service fires.

    Args:
        deviations: of each endpoint, the deviation in buckets at the marks at which it is known, Unix seconds.
        quarantined: of each endpoint, the starts of the quarantined hours.
        ticks: times in ascending order, with the deviations that are known then, in buckets.
        parameters: settings of the detector.
    """
    past = _past(deviations, quarantined)
    found: list[Episode] = []
    learned: Mapping[int, ServiceBaseline] = {}
    flag, learned_at = INACTIVE, 0
    for now, buckets in ticks:
        hour = now // HOUR * HOUR
        if hour - learned_at >= 6 * HOUR:
            # The exporter learns every hour. A quarter of a day hardly differs and takes a sixth of the time.
            window = range(max(BEGIN, hour - _LEARNED_SECONDS), hour, HOUR)
            learned = learn_service(
                [ServiceHour(start, start // HOUR % 24, past[start]) for start in window if start in past]
            )
            learned_at = hour
        baseline = learned.get(hour // HOUR % 24)
        verdict = None
        if baseline is not None:
            endpoints = [(_LONG_SECONDS * 2 ** (each / BUCKETS_PER_OCTAVE), _LONG_SECONDS) for each in buckets]
            verdict = judge_service(endpoints, baseline, hour, now, parameters)
        flag, event = advance_service_flag(flag, now, verdict, parameters)
        if event is FlagEvent.FIRING:
            found.append(Episode(now, math.inf))
        elif event is FlagEvent.RESOLVED:
            found[-1] = Episode(found[-1].start, now)
    return merged(found)


def _past(deviations: Sequence[Mapping[int, int]], quarantined: Sequence[frozenset[int]]) -> dict[int, bytes]:
    """Return the deviations of the service by hour."""
    step = HOUR // MARKS
    found = {}
    for start in range(BEGIN, END, HOUR):
        marks = range(start + step, start + HOUR + 1, step)
        series = [
            encode_deviations([each.get(mark) for mark in marks])
            for each, kept_out in zip(deviations, quarantined, strict=True)
            if start not in kept_out
        ]
        found[start] = service_deviations(series) if series else bytes(MARKS)
    return found


def merged(found: Sequence[Episode]) -> list[Episode]:
    """Return episodes that are less than ten minutes apart as one."""
    episodes: list[Episode] = []
    for each in found:
        if episodes and each.start - episodes[-1].end < 600:
            episodes[-1] = Episode(episodes[-1].start, each.end)
        else:
            episodes.append(each)
    return episodes


class Found(NamedTuple):
    """What one method finds of an incident.

    Attributes:
        incident: the incident.
        delay_seconds: from its start to the flag; None if it is not found.
    """

    incident: ServiceIncident
    delay_seconds: float | None


def found_by(episodes: Sequence[Episode], incidents: Iterable[ServiceIncident]) -> list[Found]:
    """Return which incidents some episodes find."""
    found = []
    for incident in incidents:
        episode = finding(Event(incident.start, incident.end), episodes)
        found.append(Found(incident, None if episode is None else max(0.0, episode.start - incident.start)))
    return found


def count_false(episodes: Iterable[Episode], incidents: Sequence[ServiceIncident]) -> int:
    """Return the number of episodes that belong to no incident."""
    return sum(
        not any(each.start <= incident.end + 600 and each.end >= incident.start for incident in incidents)
        for each in episodes
    )


def share_text(found: Sequence[Found]) -> str:
    """Format how many incidents were found, and the median delay."""
    delays = [each.delay_seconds / 60 for each in found if each.delay_seconds is not None]
    delay = f", {median(delays):.0f} min" if delays else ""
    return f"{len(delays)} of {len(found)}{delay}" if found else ""


def rate_text(episodes: int, days: float) -> str:
    """Format false episodes for each 1000 days."""
    return f"{1000 * episodes / days:.1f} ({episodes} in {days:,.0f})" if days else ""
