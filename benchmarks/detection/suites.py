"""Suites of synthetic series, drawn from a seed."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from exporter.demo.latency import HOUR_SECONDS, Bimodal, HeavyTailed, Incident, LatencyShape, Lognormal, stream
from exporter.demo.traffic import DAY_SECONDS, Batch, Cron, Drift, SeriesProfile, Surge, SyntheticRequest
from exporter.detection.parameters import Parameters
from exporter.model.calendar import Calendar
from exporter.model.span import SeriesKey

BEGIN: Final = 1_767_571_200
"""A Monday, 2026-01-05 00:00 UTC, as Unix seconds."""
LEARNING_DAYS: Final = 8
EVALUATED_DAYS: Final = 10
END: Final = BEGIN + (LEARNING_DAYS + EVALUATED_DAYS) * DAY_SECONDS
LIVE_FROM: Final = BEGIN + LEARNING_DAYS * DAY_SECONDS

RATES_PER_MINUTE: Final = (0.05, 0.5, 2.0, 10.0, 60.0, 200.0)
_FEWER: Final = {60.0: 2, 200.0: 6}
"""Busy series take long to generate: there are this many times fewer."""
_SHAPES: Final[tuple[LatencyShape, ...]] = (
    Lognormal(0.3),
    Lognormal(0.6),
    Lognormal(0.9),
    Lognormal(1.2),
    Bimodal(),
    HeavyTailed(),
)
_NS: Final = 1_000_000_000
_CACHE: Final = Bimodal(hit_share=0.9)
_MINUTES: Final = (3, 10, 30, 180)
_SPRING: Final = 11 * 7 * DAY_SECONDS
"""From BEGIN to 2026-03-23: the clocks change in the first week, and Easter is in the second."""
_ZONE: Final = "Europe/Berlin"
_EASTER: Final = frozenset({20546, 20549})
"""Good Friday and Easter Monday 2026, in days since 1970-01-01."""


class Suite(StrEnum):
    """A kind of traffic."""

    PLAIN = "plain"
    SURGE = "surge"
    GAPS = "gaps"
    NEW = "new endpoints"
    DRIFT = "drift"
    HOURLY_BATCH = "hourly batch"
    DAILY_BATCH = "daily batch"
    RESTLESS = "restless load"
    SHARED = "shared load"
    CACHE = "cache"
    CALENDAR = "clock change and holidays"
    SPEEDUPS = "faster for some hours"
    INCIDENTS = "incidents"
    PARTIAL = "incidents of some requests"
    CRON = "cron"
    DAILY_CRON = "daily cron"
    ALIKE = "requests that share a value"
    ALIKE_INCIDENTS = "incidents of requests that share a value"
    PERMANENT = "permanent"
    ABLATION = "without swing"
    WEEKS = "weeks"
    STEP_FIFTH = "step × 1.2"
    STEP_TENTH = "step × 1.1"
    SLOW_DRIFT = "drift of 1 % a day"
    STREAMS = "streams"
    PROBES = "probes"


HEALTHY: Final = (
    Suite.PLAIN,
    Suite.SURGE,
    Suite.GAPS,
    Suite.NEW,
    Suite.DRIFT,
    Suite.HOURLY_BATCH,
    Suite.DAILY_BATCH,
    Suite.RESTLESS,
    Suite.SHARED,
    Suite.CACHE,
    Suite.CALENDAR,
    Suite.SPEEDUPS,
)
"""Suites in which the flag must not fire."""
CRONS: Final = (Suite.CRON, Suite.DAILY_CRON)
REGRESSIONS: Final = (Suite.WEEKS, Suite.STEP_FIFTH, Suite.STEP_TENTH, Suite.SLOW_DRIFT)
"""Suites of six weeks about regressions, for series with at least 500 requests a day; without live evaluation."""
_ALIKE_RATES_PER_MINUTE: Final = (0.5, 2.0, 10.0)
REGRESSION_RATES_PER_MINUTE: Final = (0.5, 2.0, 10.0)
REGRESSION_DAYS: Final = 42
FIRST_JUDGED_DAYS: Final = 9
"""Without so much history, regressions are not judged."""
DRIFT_DAYS: Final = 14
"""The drift begins after so many days."""
BATCHES: Final = (Suite.HOURLY_BATCH, Suite.DAILY_BATCH)


class Kind(NamedTuple):
    """A kind of incident.

    Attributes:
        name: its name in the table.
        factor: multiplies durations.
        share: share of the requests that are affected.
        ranks: see :class:`exporter.demo.latency.Incident`.
        ramp_seconds: time in which the factor grows to its full value.
        fixed_factor: duration of affected requests as a multiple of the median, as of a time-out.
    """

    name: str
    factor: float
    share: float = 1.0
    ranks: tuple[float, float] = (0.0, 1.0)
    ramp_seconds: float = 0.0
    fixed_factor: float | None = None

    def incident(self, profile: SeriesProfile, start: float, end: float) -> Incident:
        """Return an incident of this kind in the traffic of a series."""
        fixed = None if self.fixed_factor is None else self.fixed_factor * profile.base_seconds
        return Incident(start, end, self.factor, self.share, self.ranks, self.ramp_seconds, fixed)


TAIL_TENTH: Final = Kind("10 % of the requests × 10", 10.0, 0.1)
KINDS: Final = (*(Kind(f"× {factor:g}", factor) for factor in (1.3, 1.5, 2.0, 5.0, 10.0)), TAIL_TENTH)
RAMP: Final = Kind("ramp to × 2 in two hours", 2.0, ramp_seconds=7200.0)
MIX: Final = Kind("mix: 90 % to 50 % cache hits", 1 / _CACHE.hit_factor, 4 / 9, ranks=(0.0, 0.9))
TAIL: Final = Kind("tail: slowest 2 % × 5", 5.0, ranks=(0.98, 1.0))
TIMEOUTS: Final = Kind("5 % time-outs", 1.0, 0.05, fixed_factor=30.0)
ALIKE_KINDS: Final = tuple(Kind(f"× {factor:g}", factor) for factor in (2.0, 3.0, 5.0) * 2)
"""Incidents of requests that share a value."""
CRON_RUNS: Final = Kind("cron × 3", 3.0)


@dataclass(frozen=True)
class Waiting:
    """Durations of spans that wait until a session ends or something arrives: shorter in busy hours.

    Attributes:
        span_name: name of the spans.
        median_seconds: median without a cut, midway between the busiest and the quietest hour.
        sigma: standard deviation of the logarithm of the durations; None for an exponential distribution.
        cut_seconds: durations end there.
        swing: duration in the quietest hour divided by that in the busiest.
    """

    span_name: str
    median_seconds: float
    sigma: float | None = None
    cut_seconds: float = 4 * 3600
    swing: float = 1.0

    def applied(
        self, requests: Sequence[SyntheticRequest], peak_hour: float, seed: str, hour: int
    ) -> list[SyntheticRequest]:
        """Return requests of an hour, counted from the Unix epoch, with durations of this kind."""
        rng = stream(seed, "waiting", hour)
        median: float = self.median_seconds * self.swing ** (-math.cos(math.tau * (hour % 24 - peak_hour) / 24) / 2)

        def draw() -> float:
            if self.sigma is None:
                return rng.expovariate(math.log(2) / median)
            return median * math.exp(rng.gauss(0, self.sigma))

        overhead = 0.002
        return [
            request._replace(duration_ns=int(1e9 * min(draw(), self.cut_seconds + rng.expovariate(1 / overhead))))
            for request in requests
        ]


@dataclass(frozen=True)
class Alike:
    """Requests that share one duration: those of a batch, of an hour, or while a dependency does not answer.

    Attributes:
        batch: number of consecutive requests that come together and share a duration; None means those of an hour.
        timeouts_per_day: mean number of times at which a dependency does not answer; with any, only these are shared.
        timeout_seconds: duration of all requests at such a time.
        timeout_length_seconds: how long such a time lasts.
    """

    batch: int | None = None
    timeouts_per_day: float = 0.0
    timeout_seconds: float = 1.0
    timeout_length_seconds: float = 60.0

    def applied(
        self, requests: Sequence[SyntheticRequest], incidents: Sequence[Incident], seed: str, hour: int
    ) -> list[SyntheticRequest]:
        """Return healthy requests of an hour, counted from the Unix epoch, that share durations, with incidents."""
        rng = stream(seed, "alike", hour)
        shared = self._with_timeouts(requests, rng, hour) if self.timeouts_per_day else self._together(requests, rng)
        return [_changed(request, incidents) for request in shared]

    def _together(self, requests: Sequence[SyntheticRequest], rng: random.Random) -> list[SyntheticRequest]:
        size = self.batch or max(1, len(requests))
        shared = []
        for number, request in enumerate(requests):
            first = requests[number - number % size]
            start_ns = request.start_ns if self.batch is None else first.start_ns + number % size * _NS // 4
            shared.append(SyntheticRequest(start_ns, int(first.duration_ns * math.exp(rng.gauss(0, 0.02)))))
        return shared

    def _with_timeouts(
        self, requests: Sequence[SyntheticRequest], rng: random.Random, hour: int
    ) -> list[SyntheticRequest]:
        times = []
        at = rng.expovariate(self.timeouts_per_day / 24)
        while at < 1:
            times.append((hour + at) * HOUR_SECONDS * _NS)
            at += rng.expovariate(self.timeouts_per_day / 24)
        timeout_ns = int(self.timeout_seconds * _NS)
        return [
            r._replace(duration_ns=timeout_ns + int(rng.expovariate(1) * _NS / 1000))
            if any(0 <= r.start_ns - begin_ns < self.timeout_length_seconds * _NS for begin_ns in times)
            else r
            for r in requests
        ]


def _changed(request: SyntheticRequest, incidents: Sequence[Incident]) -> SyntheticRequest:
    """Return a request as the incidents at its start change it."""
    for incident in incidents:
        if incident.start * _NS <= request.start_ns < incident.end * _NS:
            request = request._replace(duration_ns=incident.duration_ns(*request))
    return request


_UNNAMED: Final = "GET /api/v1/session"
PROBE_NAMES: Final = ("GET /healthz", "GET /actuator/health", "grpc.health.v1.Health/Check", "/metrics", "kube-probe")
"""Names of the spans of probes."""
_KEY: Final = SeriesKey("benchmark", "GET /")


@dataclass(frozen=True)
class Case:
    """One series.

    Attributes:
        suite: its suite.
        seed: seed of its traffic.
        profile: parameters of its traffic.
        live_from: start of the live evaluation, Unix seconds; earlier traffic is only learnt from.
        parameters: the detector's settings.
        begin: start of its traffic, Unix seconds.
        calendar: the detector's calendar.
        kinds: the kind of each of its incidents.
        key: its names.
        waiting: replaces the durations of its traffic.
        alike: makes requests of its traffic share durations.
        days: length of its traffic.
    """

    suite: Suite
    seed: str
    profile: SeriesProfile
    live_from: float = LIVE_FROM
    parameters: Parameters = field(default_factory=Parameters)
    begin: int = BEGIN
    calendar: Calendar = field(default_factory=Calendar)
    kinds: tuple[Kind, ...] = ()
    key: SeriesKey = _KEY
    waiting: Waiting | None = None
    alike: Alike | None = None
    days: int = LEARNING_DAYS + EVALUATED_DAYS

    @property
    def end(self) -> int:
        """End of its traffic, Unix seconds."""
        return self.begin + self.days * DAY_SECONDS

    @property
    def evaluated_days(self) -> float:
        """Days of live evaluation."""
        return (self.end - self.live_from) / DAY_SECONDS


def cases(suite: Suite, per_rate: int, seed: str) -> list[Case]:
    """Draw the series of a suite: ``per_rate`` for each rate of traffic, fewer for the highest."""
    # The same series in every suite: suites differ only in what their names say.
    return [
        _case(suite, f"{seed}/{rate}/{number}", rate, number, seed)
        for rate in _rates(suite)
        for number in range(math.ceil(per_rate / _FEWER.get(rate, 1)))
    ]


def _rates(suite: Suite) -> Sequence[float]:
    if suite in REGRESSIONS:
        return REGRESSION_RATES_PER_MINUTE
    return _ALIKE_RATES_PER_MINUTE if suite in (Suite.ALIKE, Suite.ALIKE_INCIDENTS) else RATES_PER_MINUTE


def _case(suite: Suite, name: str, rate: float, number: int, seed: str) -> Case:
    shape = _SHAPES[number % len(_SHAPES)]
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
    case = Case(suite, name, profile)
    match suite:
        case Suite.SURGE:
            return replace(case, profile=replace(profile, surge=Surge(hour=rng.randrange(24))))
        case Suite.GAPS:
            return replace(case, profile=replace(profile, gaps=_gaps(rng)))
        case Suite.NEW:
            live_from = LIVE_FROM + rng.randrange(24 * 4) * 3600
            return replace(case, profile=replace(profile, begins_at=live_from), live_from=live_from)
        case Suite.DRIFT:
            return replace(case, profile=replace(profile, drift=Drift(per_day=0.01, since=BEGIN)))
        case Suite.HOURLY_BATCH | Suite.DAILY_BATCH:
            hour = rng.randrange(24) if suite is Suite.DAILY_BATCH else None
            minutes = rng.randint(10, 40) if suite is Suite.DAILY_BATCH else rng.randint(2, 5)
            batch = Batch(rng.choice((0, 0, 0, 15, 30)), minutes, _log_uniform(rng, 2, 6), hour)
            return replace(case, profile=replace(profile, batch=batch))
        case Suite.RESTLESS:
            restless = replace(
                profile,
                load_sd=_log_uniform(rng, 0.2, 0.5),
                load_correlation_minutes=_log_uniform(rng, 3, 240),
                day_sd=rng.uniform(0.05, 0.15),
            )
            return replace(case, profile=restless)
        case Suite.SHARED:
            shared = replace(profile, load_sd=0.25, load_correlation_minutes=30, load_seed=seed)
            return replace(case, profile=shared)
        case Suite.CACHE:
            return replace(case, profile=replace(profile, shape=_CACHE))
        case Suite.CALENDAR:
            local = replace(profile, timezone=_ZONE, holidays=_EASTER, weekend_latency=0.6)
            calendar = Calendar(ZoneInfo(_ZONE), is_holiday=_is_easter)
            begin = BEGIN + _SPRING
            # The clocks change on the seventh day.
            return replace(case, profile=local, calendar=calendar, begin=begin, live_from=begin + 5 * DAY_SECONDS)
        case Suite.SPEEDUPS:
            return _with_incidents(
                case, [Kind("faster", 0.5)] * 10, [60 * rng.randint(60, 900) for _ in range(10)], rng
            )
        case Suite.INCIDENTS:
            return _with_every_incident(case, rng)
        case Suite.PARTIAL:
            of_cache = isinstance(shape, Bimodal)
            kinds = [RAMP, RAMP, TAIL, TAIL, TIMEOUTS, TIMEOUTS] if not of_cache else [MIX] * 6
            if of_cache:
                case = replace(case, profile=replace(profile, shape=_CACHE))
            lengths = [14_400 if kind is RAMP else rng.choice((1800, 5400, 10_800)) for kind in kinds]
            return _with_incidents(case, kinds, lengths, rng)
        case Suite.CRON | Suite.DAILY_CRON:
            cron = Cron(rng.randrange(50), requests=rng.choice((1, 3, 10, 30)))
            since = LIVE_FROM + rng.randint(2, 8) * DAY_SECONDS
            length = 6 * 3600
            if suite is Suite.DAILY_CRON:
                cron = replace(cron, hour=rng.randrange(24))
                since, length = LIVE_FROM + rng.randint(2, 5) * DAY_SECONDS, 4 * DAY_SECONDS
            incident = CRON_RUNS.incident(profile, since, since + length)
            return replace(case, profile=replace(profile, cron=cron, incidents=(incident,)), kinds=(CRON_RUNS,))
        case Suite.ALIKE:
            return replace(case, alike=_alike(rng, number))
        case Suite.ALIKE_INCIDENTS:
            seconds = [60 * rng.randint(30, 180) for _ in ALIKE_KINDS]
            return _with_incidents(replace(case, alike=_alike(rng, number)), ALIKE_KINDS, seconds, rng)
        case Suite.PERMANENT:
            change = Incident(LIVE_FROM + rng.uniform(0, DAY_SECONDS), math.inf, 2.0)
            changed = replace(profile, incidents=(change,))
            return replace(case, profile=changed, kinds=(Kind("permanent × 2", 2.0),))
        case Suite.ABLATION:
            return replace(case, parameters=Parameters(swing=0.0))
        case Suite.WEEKS:
            return replace(case, live_from=math.inf, days=REGRESSION_DAYS)
        case Suite.STEP_FIFTH | Suite.STEP_TENTH:
            factor, ratio = (1.2, 1.15) if suite is Suite.STEP_FIFTH else (1.1, 1.05)
            start = BEGIN + rng.uniform(23, 30) * DAY_SECONDS
            step = Incident(start, start + 3 * DAY_SECONDS, factor)
            return replace(
                case,
                profile=replace(profile, incidents=(step,)),
                kinds=(Kind(suite.value, factor),),
                parameters=Parameters(regression_ratio=ratio, regression_min_delta_seconds=0.0),
                live_from=math.inf,
                days=36,
            )
        case Suite.SLOW_DRIFT:
            drift = Drift(per_day=0.01, since=BEGIN + DRIFT_DAYS * DAY_SECONDS)
            return replace(case, profile=replace(profile, drift=drift), live_from=math.inf, days=REGRESSION_DAYS)
        case Suite.STREAMS:
            waiting = _waiting(rng, number)
            return replace(case, key=_KEY._replace(span_name=waiting.span_name), waiting=waiting)
        case Suite.PROBES:
            probe = replace(case, key=_KEY._replace(span_name=PROBE_NAMES[number % len(PROBE_NAMES)]))
            return _with_every_incident(probe, rng)
    return case


def _is_easter(day: date) -> bool:
    return day.toordinal() - date(1970, 1, 1).toordinal() in _EASTER


def _with_every_incident(case: Case, rng: random.Random) -> Case:
    """Return a series with an incident of each kind and length in random order."""
    drawn = [(kind, 60 * minutes) for kind in KINDS for minutes in _MINUTES]
    rng.shuffle(drawn)
    return _with_incidents(case, [kind for kind, _ in drawn], [seconds for _, seconds in drawn], rng)


def _with_incidents(case: Case, kinds: Sequence[Kind], seconds: Sequence[float], rng: random.Random) -> Case:
    """Return a series with incidents of some kinds and lengths, at most one in every ten hours."""
    apart = (END - LIVE_FROM) / len(kinds)
    drawn = []
    for number, (kind, length) in enumerate(zip(kinds, seconds, strict=True)):
        start = LIVE_FROM + number * apart + rng.uniform(0.5 * 3600, apart - 3600 - length)
        drawn.append(kind.incident(case.profile, start, start + length))
    return replace(case, profile=replace(case.profile, incidents=tuple(drawn)), kinds=tuple(kinds))


def run_sd(profile: SeriesProfile) -> float:
    """Return about how much the runs of a cron job vary: standard deviation of the logarithm of their median.

    Without the load, and infinite where a run has either of two durations.
    """
    shape, cron = profile.shape, profile.cron
    if cron is None or not isinstance(shape, Lognormal | HeavyTailed):
        return math.inf
    return shape.sigma * min(1.0, math.sqrt(math.pi / 2 / cron.requests))


def _log_uniform(rng: random.Random, least: float, most: float) -> float:
    """Draw from the log-uniform distribution on ``[least, most]``."""
    return least * math.exp(rng.random() * math.log(most / least))


def _alike(rng: random.Random, number: int) -> Alike:
    """Draw batches, hours and time-outs in turn."""
    match number % 3:
        case 0:
            return Alike(rng.choice((5, 10, 20, 40)))
        case 1:
            return Alike()
        case _:
            return Alike(
                timeouts_per_day=_log_uniform(rng, 0.5, 8),
                timeout_seconds=rng.choice((1, 5, 10, 30)),
                timeout_length_seconds=_log_uniform(rng, 20, 120),
            )


def _waiting(rng: random.Random, number: int) -> Waiting:
    """Draw streams of each kind in turn: some that only durations show, some that the name shows."""
    match number % 6:
        case 0:
            return Waiting(_UNNAMED, _log_uniform(rng, 120, 1200), rng.uniform(1.8, 2.5), swing=_log_uniform(rng, 1, 3))
        case 1:
            cut = rng.choice((60, 300, 600, 900, 3600))
            return Waiting(_UNNAMED, cut * rng.uniform(1.5, 4), None, cut, _log_uniform(rng, 1, 2))
        case 2:
            cut = rng.choice((20, 25, 30, 55, 60))
            return Waiting(_UNNAMED, cut * _log_uniform(rng, 1.5, 20), None, cut, _log_uniform(rng, 1, 2))
        case 3:
            return Waiting("orders receive", _log_uniform(rng, 0.05, 100), None, 20, _log_uniform(rng, 3, 10))
        case 4:
            return Waiting("GET /ws", _log_uniform(rng, 1, 600), rng.uniform(0.8, 2.5), swing=_log_uniform(rng, 1, 5))
        case _:
            return Waiting("GET /events", _log_uniform(rng, 60, 1200), None, swing=_log_uniform(rng, 1, 3))


def _gaps(rng: random.Random) -> tuple[tuple[float, float], ...]:
    """Draw gaps of six hours every third day, and of two whole days."""
    days = range(LEARNING_DAYS + EVALUATED_DAYS)
    short = [BEGIN + day * DAY_SECONDS + rng.uniform(0, 18) * 3600 for day in days[::3]]
    whole = [BEGIN + day * DAY_SECONDS for day in rng.sample(days, 2)]
    return tuple((start, start + 6 * 3600) for start in short) + tuple((start, start + DAY_SECONDS) for start in whole)
