"""Synthetic traffic of one endpoint: start and duration of each request, generated from a seed.

Arrivals are a Poisson process whose rate depends on the hour of the day and the day of the week. A duration is the
product of a base, the daily and weekly rhythm, a slowly varying load, a factor of the day, a drift, a sample of the
endpoint's distribution, and the factors of incidents.

Every hour has random numbers of its own, so any range of time can be generated alone, in any order, reproducibly. Days
and hours are local to the profile's time zone.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from exporter.demo.latency import (
    HOUR_SECONDS,
    MINUTES_PER_HOUR,
    Incident,
    LatencyShape,
    Lognormal,
    WanderingLoad,
    stream,
)

MAX_DURATION_SECONDS: Final = 600
"""Maximum duration of a request. Searches for requests that overlap a time look back this far."""

DAY_SECONDS: Final = 24 * HOUR_SECONDS
SATURDAY_AND_SUNDAY: Final = frozenset({5, 6})
_NS: Final = 1_000_000_000
_MAX_DURATION_NS: Final = MAX_DURATION_SECONDS * _NS


class SyntheticRequest(NamedTuple):
    """Start and duration of one request in nanoseconds; the start counts from the Unix epoch."""

    start_ns: int
    duration_ns: int


@dataclass(frozen=True)
class Surge:
    """Multiplies the traffic every day from ``hour`` on, for ``minutes``, without affecting latency."""

    hour: int
    factor: float = 10.0
    minutes: int = 60


@dataclass(frozen=True)
class Batch:
    """Multiplies latency while other work runs at fixed times, without affecting traffic.

    Attributes:
        minute: minute of the hour at which it starts.
        minutes: how long it takes.
        factor: multiplies latency.
        hour: hour of the day; None means every hour.
    """

    minute: int
    minutes: int
    factor: float
    hour: int | None = None


@dataclass(frozen=True)
class Cron:
    """All requests come in runs at fixed times.

    Attributes:
        minute: minute of the hour at which a run starts.
        requests: mean number of requests of a run.
        hour: hour of the day; None means every hour.
    """

    minute: int
    requests: float
    hour: int | None = None


@dataclass(frozen=True)
class Drift:
    """Latency grows by the ratio ``per_day`` every day from ``since`` (Unix seconds) on."""

    per_day: float
    since: float


@dataclass(frozen=True, kw_only=True)
class SeriesProfile:
    """Parameters of one endpoint's traffic.

    Attributes:
        rate_per_minute: mean rate on weekdays.
        base_seconds: median duration at the quietest hour of a weekday, for shapes with median 1.
        shape: distribution of durations.
        peak_hour: hour of the day, fractions allowed, with the most traffic and the highest latency.
        traffic_swing: relative increase of the rate at the peak and decrease twelve hours later (0 to 1).
        weekend_traffic: factor of the rate on weekend days.
        active_hours: hours of the day with traffic; None means all.
        latency_swing: latency at the peak hour divided by that at the quietest (at least 1).
        weekend_latency: factor of latency on weekend days.
        load_sd: standard deviation of the load's logarithm.
        load_correlation_minutes: correlation time of the load.
        day_sd: standard deviation of the logarithm of each day's factor.
        weekend: weekend days, 0 for Monday.
        begins_at: no traffic before this time, Unix seconds.
        gaps: ``[start, end)`` in Unix seconds without traffic.
        surge: a daily surge of traffic.
        drift: a steady change of latency.
        batch: other work at fixed times that slows requests down.
        cron: if set, all requests come in its runs, and ``rate_per_minute`` does not matter.
        timezone: IANA time zone of the daily rhythm, with an offset of whole hours from UTC.
        holidays: days that are like weekend days, in days since 1970-01-01.
        load_seed: seed of the load; series with the same one share it. None means the seed of the series.
        incidents: periods of higher latency; they do not change when requests start.
    """

    rate_per_minute: float
    base_seconds: float = 0.1
    shape: LatencyShape = field(default_factory=lambda: Lognormal(0.3))
    peak_hour: float = 14.0
    traffic_swing: float = 0.0
    weekend_traffic: float = 1.0
    active_hours: frozenset[int] | None = None
    latency_swing: float = 1.0
    weekend_latency: float = 1.0
    load_sd: float = 0.0
    load_correlation_minutes: float = 30.0
    day_sd: float = 0.0
    weekend: frozenset[int] = SATURDAY_AND_SUNDAY
    begins_at: float = -math.inf
    gaps: tuple[tuple[float, float], ...] = ()
    surge: Surge | None = None
    drift: Drift | None = None
    batch: Batch | None = None
    cron: Cron | None = None
    timezone: str = "UTC"
    holidays: frozenset[int] = frozenset()
    load_seed: str | None = None
    incidents: tuple[Incident, ...] = ()

    def __post_init__(self) -> None:
        if self.rate_per_minute < 0 or self.base_seconds <= 0:
            raise ValueError(
                f"rate_per_minute must not be negative and base_seconds must be positive, "
                f"got {self.rate_per_minute} and {self.base_seconds}"
            )
        if not 0 <= self.traffic_swing <= 1 or self.latency_swing < 1:
            raise ValueError(
                f"traffic_swing must be between 0 and 1 and latency_swing at least 1, "
                f"got {self.traffic_swing} and {self.latency_swing}"
            )


class SeriesTraffic:
    """Generates the traffic of one series by hour."""

    def __init__(self, profile: SeriesProfile, seed: int | str) -> None:
        self._profile = profile
        self._seed = seed
        load_seed = seed if profile.load_seed is None else profile.load_seed
        self._load = WanderingLoad(load_seed, profile.load_sd, profile.load_correlation_minutes)

    def hour(self, hour: int) -> list[SyntheticRequest]:
        """Return the requests that start in an hour, counted from the Unix epoch, by start."""
        profile = self._profile
        begin = hour * HOUR_SECONDS
        if begin + HOUR_SECONDS <= profile.begins_at:
            return []
        requests = self._requests_without_incidents(hour)
        for position, incident in enumerate(profile.incidents):
            if incident.start < begin + HOUR_SECONDS and begin < incident.end:
                requests = self._apply_incident(requests, incident, position, hour)
        for start, end in ((-math.inf, profile.begins_at), *profile.gaps):
            if start < begin + HOUR_SECONDS and begin < end:
                requests = [r for r in requests if not start * _NS <= r.start_ns < end * _NS]
        return requests

    def _requests_without_incidents(self, hour: int) -> list[SyntheticRequest]:
        """Simulate the Poisson process: requests are unit exponentials of cumulative rate apart, by minute."""
        profile = self._profile
        rng = stream(self._seed, "requests", hour)
        uniform, log, sample = rng.random, math.log, profile.shape.sampler(rng)
        minute_ns = hour * HOUR_SECONDS * _NS
        if profile.cron is not None:
            return self._run(profile.cron, hour, rng)
        requests: list[SyntheticRequest] = []
        units_left = -log(1.0 - uniform())
        for rate, duration_ns in zip(self._rates(hour), self.durations_ns(hour), strict=True):
            if rate:
                ns_per_unit = 60 * _NS / rate
                elapsed_units = units_left
                while elapsed_units < rate:
                    request_duration_ns = int(duration_ns * sample())
                    start_ns = minute_ns + int(elapsed_units * ns_per_unit)
                    requests.append(SyntheticRequest(start_ns, min(_MAX_DURATION_NS, request_duration_ns)))
                    elapsed_units -= log(1.0 - uniform())
                units_left = elapsed_units - rate
            minute_ns += 60 * _NS
        return requests

    def _run(self, cron: Cron, hour: int, rng: random.Random) -> list[SyntheticRequest]:
        """Return the requests of an hour's run: one after another, with a Poisson number of them."""
        if cron.hour is not None and self._local(hour) % 24 != cron.hour:
            return []
        sample, minutes_ns = self._profile.shape.sampler(rng), self.durations_ns(hour)
        requests: list[SyntheticRequest] = []
        begin_ns = (hour * HOUR_SECONDS + cron.minute * 60) * _NS
        start_ns, end_ns = begin_ns, (hour + 1) * HOUR_SECONDS * _NS
        units_left = cron.requests
        while (units_left := units_left - rng.expovariate(1.0)) > 0 and start_ns < end_ns:
            duration_ns = int(minutes_ns[(start_ns // _NS - hour * HOUR_SECONDS) // 60] * sample())
            requests.append(SyntheticRequest(start_ns, min(_MAX_DURATION_NS, duration_ns)))
            start_ns += requests[-1].duration_ns
        return requests

    def _apply_incident(
        self, requests: list[SyntheticRequest], incident: Incident, position: int, hour: int
    ) -> list[SyntheticRequest]:
        uniform = stream(self._seed, f"incident {position}", hour).random
        start_ns, end_ns = incident.start * _NS, incident.end * _NS
        least, most = _at_ranks(requests, incident.ranks)
        return [
            SyntheticRequest(r.start_ns, min(_MAX_DURATION_NS, incident.duration_ns(*r)))
            if start_ns <= r.start_ns < end_ns and least <= r.duration_ns <= most and uniform() < incident.share
            else r
            for r in requests
        ]

    def _local(self, hour: int) -> int:
        """Return the local hour, counted from 1970-01-01."""
        return hour + _offset_hours(self._profile.timezone, hour)

    def _is_weekend(self, hour: int) -> bool:
        day = self._local(hour) // 24
        # The first of January 1970 was a Thursday.
        return (day + 3) % 7 in self._profile.weekend or day in self._profile.holidays

    def _rates(self, hour: int) -> list[float]:
        """Return the expected number of requests in each minute of an hour."""
        profile = self._profile
        hour_of_day = self._local(hour) % 24
        if profile.active_hours is not None and hour_of_day not in profile.active_hours:
            return [0.0] * MINUTES_PER_HOUR
        rate = profile.rate_per_minute * (profile.weekend_traffic if self._is_weekend(hour) else 1.0)
        rates = [rate * (1.0 + profile.traffic_swing * rhythm) for rhythm in self._rhythm(hour_of_day)]
        if (surge := profile.surge) is not None:
            for minute in range(MINUTES_PER_HOUR):
                into_surge = (hour_of_day - surge.hour) % 24 * MINUTES_PER_HOUR + minute
                if into_surge < surge.minutes:
                    rates[minute] *= surge.factor
        return rates

    def durations_ns(self, hour: int) -> list[float]:
        """Return the duration for factor 1 of the distribution, for each minute of an hour."""
        profile = self._profile
        base_ns = profile.base_seconds * _NS * (profile.weekend_latency if self._is_weekend(hour) else 1.0)
        if profile.day_sd:
            base_ns *= math.exp(stream(self._seed, "day", hour // 24).gauss(0.0, profile.day_sd))
        if profile.drift is not None:
            days = max(0.0, (hour * HOUR_SECONDS - profile.drift.since) / DAY_SECONDS)
            base_ns *= (1.0 + profile.drift.per_day) ** days
        half_swing = math.log(profile.latency_swing) / 2.0
        hour_of_day = self._local(hour) % 24
        durations_ns = [
            base_ns * math.exp(half_swing * (1.0 + rhythm) + load)
            for rhythm, load in zip(self._rhythm(hour_of_day), self._load.minutes(hour), strict=True)
        ]
        if (batch := profile.batch) is not None and batch.hour in (None, hour_of_day):
            for minute in range(batch.minute, batch.minute + batch.minutes):
                durations_ns[minute % MINUTES_PER_HOUR] *= batch.factor
        return durations_ns

    def _rhythm(self, hour_of_day: int) -> list[float]:
        """Return the daily wave for each minute of an hour: 1 at the peak hour, -1 twelve hours from it."""
        profile = self._profile
        if not profile.traffic_swing and profile.latency_swing == 1.0:
            return [-1.0] * MINUTES_PER_HOUR
        radians_per_hour = math.tau / 24
        return [
            math.cos(radians_per_hour * (hour_of_day + minute / MINUTES_PER_HOUR - profile.peak_hour))
            for minute in range(MINUTES_PER_HOUR)
        ]


def _at_ranks(requests: list[SyntheticRequest], ranks: tuple[float, float]) -> tuple[float, float]:
    """Return the durations at two ranks, given as shares; nothing and everything for 0 and 1."""
    if ranks == (0.0, 1.0) or not requests:
        return 0.0, math.inf
    durations = sorted(request.duration_ns for request in requests)
    least = 0.0 if ranks[0] <= 0 else float(durations[min(len(durations) - 1, int(ranks[0] * len(durations)))])
    most = math.inf if ranks[1] >= 1 else float(durations[max(0, int(ranks[1] * len(durations)) - 1)])
    return least, most


@lru_cache(maxsize=1024)
def _offset_hours(timezone: str, hour: int) -> int:
    """Return the offset of a time zone from UTC in an hour since the Unix epoch, in whole hours."""
    if timezone == "UTC":
        return 0
    offset = datetime.fromtimestamp(hour * HOUR_SECONDS, ZoneInfo(timezone)).utcoffset()
    assert offset is not None, "aware times have an offset"  # noqa: S101
    return int(offset.total_seconds()) // HOUR_SECONDS


def generate_requests(profile: SeriesProfile, start: float, end: float, seed: int | str) -> Iterator[SyntheticRequest]:
    """Yield the requests that start in ``[start, end)`` (Unix seconds), by start.

    The result does not depend on how a range of time is divided into calls.
    """
    traffic = SeriesTraffic(profile, seed)
    start_ns, end_ns = math.ceil(start * _NS), math.ceil(end * _NS)
    for hour in range(int(start // HOUR_SECONDS), math.ceil(end / HOUR_SECONDS)):
        for request in traffic.hour(hour):
            if start_ns <= request.start_ns < end_ns:
                yield request
