"""Simulated services: the medians of the evaluation windows are drawn directly.

The median of n requests of a lognormal distribution is their common load plus an error whose standard deviation is
1.25 σ / √n. The load of a window is the mean of the minutes in which its requests end; overlapping windows share them.
"""

import math
import random
from array import array
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from benchmarks.detection.scoring import Episode
from benchmarks.service_shifts.services import (
    BEGIN,
    EVALUATED_DAYS,
    FACTORS,
    HOURS,
    LEARNING_DAYS,
    LIVE_FROM,
    SHARED_LOADS,
    Found,
    Kind,
    Service,
    ServiceIncident,
    count_false,
    found_by,
    judged_episodes,
    log_uniform,
)
from exporter.demo.latency import WanderingLoad
from exporter.detection.parameters import MIN_EVALUATED_TRACES, Parameters
from exporter.model.histogram import BUCKETS_PER_OCTAVE

_MINUTES: Final = HOURS * 60
_UNKNOWN: Final = -32768
_SHAPES: Final = ((8, 0.5), (8, 2.0), (4, 2.0), (16, 1.0))
"""Number of endpoints, and requests a minute of each."""
_PER_DAY: Final = 1
_MIN_POOLED: Final = 30
_NORMAL_FROM: Final = 15.0


class Outcome(NamedTuple):
    """The results of one service.

    Attributes:
        service: the service.
        false: episodes outside of incidents.
        found: what the verdict finds.
    """

    service: Service
    false: int
    found: list[Found]


def services(seed: str, number: int) -> list[Service]:
    """Draw services: ``number`` of each shape, load and kind."""
    drawn = []
    for index in range(number):
        name = f"{seed}/{index}"
        for load in SHARED_LOADS:
            for endpoints, rate in _SHAPES:
                drawn += [Service(name, kind, load, endpoints, rate) for kind in (Kind.HEALTHY, Kind.WHOLE)]
        drawn += [Service(name, kind, 0.1, 8, 2.0) for kind in (Kind.HOURLY_BATCH, Kind.DAILY_BATCH)]
    return drawn


def evaluate(service: Service) -> Outcome:
    """Simulate a service and judge it."""
    incidents = service.incidents(_PER_DAY, FACTORS)
    series = _simulated(service, incidents)
    parameters = Parameters()
    deviations = [
        {BEGIN + 60 * (minute + 1): each[minute] for minute in range(4, _MINUTES, 5) if each[minute] != _UNKNOWN}
        for each in series
    ]
    episodes: list[Episode] = judged_episodes(deviations, [frozenset()] * len(series), _ticks(series), parameters)
    return Outcome(service, count_false(episodes, incidents), found_by(episodes, incidents))


def _ticks(series: Sequence["array[int]"]) -> Iterator[tuple[int, list[int]]]:
    for minute in range((LIVE_FROM - BEGIN) // 60, _MINUTES):
        yield BEGIN + 60 * (minute + 1), [each[minute] for each in series if each[minute] != _UNKNOWN]


def _simulated(service: Service, incidents: Sequence[ServiceIncident]) -> list["array[int]"]:
    """Return the deviation of each endpoint from its baseline at the end of each minute, in buckets."""
    rng = random.Random(service.name)
    common = _load(f"{service.name}/shared", service.shared_load, log_uniform(rng, 10, 120))
    for incident in incidents:
        first, last = (int(each - BEGIN) // 60 for each in (incident.start, incident.end))
        for minute in range(first, last):
            common[minute] += math.log(incident.factor)
    if service.kind in (Kind.HOURLY_BATCH, Kind.DAILY_BATCH):
        _add_batch(common, rng, is_daily=service.kind is Kind.DAILY_BATCH)
    bad_hours = {
        hour
        for incident in incidents
        if incident.factor >= FACTORS[-1]
        for hour in range(int(incident.start - BEGIN) // 3600, int(incident.end - BEGIN) // 3600 + 1)
    }
    peak, swing = rng.uniform(10, 18), rng.uniform(0.3, 0.8)
    return [_endpoint(service, number, rng, common, bad_hours, peak, swing) for number in range(service.endpoints)]


def _add_batch(common: list[float], rng: random.Random, *, is_daily: bool) -> None:
    begin, factor = rng.choice((0, 0, 0, 15, 30)), math.log(log_uniform(rng, 2, 6))
    length = rng.randint(10, 40) if is_daily else rng.randint(2, 5)
    hour_of_day = rng.randrange(24)
    for hour in range(HOURS):
        if not is_daily or hour % 24 == hour_of_day:
            for minute in range(60 * hour + begin, min(_MINUTES, 60 * hour + begin + length)):
                common[minute] += factor


def _load(seed: str, sd: float, correlation_minutes: float) -> list[float]:
    load = WanderingLoad(seed, sd, correlation_minutes)
    return [value for hour in range(HOURS) for value in load.minutes(hour + BEGIN // 3600)]


def _endpoint(
    service: Service,
    number: int,
    rng: random.Random,
    common: Sequence[float],
    bad_hours: set[int],
    peak: float,
    swing: float,
) -> "array[int]":
    rate = service.rate_per_minute * log_uniform(rng, 0.5, 2)
    error = 1.25 * rng.choice((0.3, 0.6, 0.9, 1.2))
    own = _load(f"{service.name}/{number}", log_uniform(rng, 0.03, 0.2), log_uniform(rng, 5, 120))
    day_sd = rng.uniform(0, 0.05)
    days = [rng.gauss(0, day_sd) for _ in range(LEARNING_DAYS + EVALUATED_DAYS)]
    rates = [rate * (1 + swing * math.cos(math.tau * (hour - peak) / 24)) for hour in range(24)]
    # Requests and the sum of the logarithms of their durations up to each minute.
    counts, sums = [0] * (_MINUTES + 1), [0.0] * (_MINUTES + 1)
    count, total = 0, 0.0
    for minute in range(_MINUTES):
        requests = _poisson(rng, rates[minute // 60 % 24])
        if requests:
            count += requests
            total += requests * (own[minute] + common[minute] + days[minute // 1440])
            total += rng.gauss(0, error * math.sqrt(requests))
        counts[minute + 1], sums[minute + 1] = count, total
    hours = [
        (counts[60 * hour + 60] - counts[60 * hour], sums[60 * hour + 60] - sums[60 * hour]) for hour in range(HOURS)
    ]
    found = array("h", [_UNKNOWN]) * _MINUTES
    for hour in range(24, HOURS):
        baseline = _baseline(hours, hour, bad_hours)
        if baseline is None:
            continue
        for minute in range(60 * hour, 60 * hour + 60):
            first = minute - 4
            while counts[minute + 1] - counts[first] < 10 and first > minute - 59:
                first -= 1
            requests = counts[minute + 1] - counts[first]
            if requests >= MIN_EVALUATED_TRACES:
                level = (sums[minute + 1] - sums[first]) / requests
                found[minute] = round(BUCKETS_PER_OCTAVE * (level - baseline) / math.log(2))
    return found


def _baseline(hours: Sequence[tuple[int, float]], hour: int, bad_hours: set[int]) -> float | None:
    """Return the mean of the past hours that the exporter would pool; None while there are too few."""
    is_weekend = hour // 24 % 7 >= 5
    same = [day * 24 + hour % 24 for day in range(hour // 24) if (day % 7 >= 5) == is_weekend]
    nearby = [each for start in same for each in range(max(0, start - 2), start + 3)]
    for pool in (same, nearby, range(hour)):
        good = [hours[each] for each in pool if hours[each][0] and each not in bad_hours]
        count = sum(requests for requests, _ in good)
        if len(good) >= 3 and count >= _MIN_POOLED:
            return sum(total for _, total in good) / count
    return None


def _poisson(rng: random.Random, mean: float) -> int:
    if mean > _NORMAL_FROM:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    limit, number, product = math.exp(-mean), 0, rng.random()
    while product > limit:
        number += 1
        product *= rng.random()
    return number
