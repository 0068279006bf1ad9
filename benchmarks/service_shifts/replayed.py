"""Replayed services: requests, the whole detector, and the same again with the common part taken out."""

import math
import random
from array import array
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Final, NamedTuple

from benchmarks.detection.scoring import Episode, episodes
from benchmarks.service_shifts.services import (
    BEGIN,
    END,
    FACTORS,
    HOUR,
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
from exporter.baseline.levels import FallbackRules
from exporter.demo.latency import Bimodal, HeavyTailed, Incident, Lognormal, WanderingLoad
from exporter.demo.traffic import SeriesProfile, SeriesTraffic, SyntheticRequest
from exporter.detection.detector import Detector
from exporter.detection.parameters import MIN_EVALUATED_TRACES, Parameters
from exporter.detection.replay import Replay
from exporter.detection.window import RecentTraces
from exporter.model.calendar import Calendar, HourClock, LocalHour
from exporter.model.deviations import deviations_of
from exporter.model.histogram import BUCKETS_PER_OCTAVE
from exporter.model.histogram_codec import MARK_SECONDS

_SINGLE_FACTORS: Final = (1.5, 2.0, 5.0)
_PER_DAY: Final = 3
_NS: Final = 1_000_000_000
_TICK_SECONDS: Final = 30
_UNKNOWN: Final = -32768
_MIN_OTHERS: Final = 3
_MIN_SHARED_MARKS: Final = 100
_SHAPES: Final = (Lognormal(0.3), Lognormal(0.6), Lognormal(0.9), Lognormal(1.2), Bimodal(), HeavyTailed())


class Outcome(NamedTuple):
    """The results of one service.

    Attributes:
        service: the service.
        false: false episodes of the verdict on the service.
        false_endpoints: of the endpoints.
        false_without_common: of the endpoints, with the common part taken out.
        found: incidents that the verdict on the service finds.
        found_endpoints: that the flag of any endpoint finds, or of the one that an incident concerns.
        found_without_common: the same with the common part taken out.
        flags: endpoints whose flag fires in an incident, added up.
        flags_without_common: the same with the common part taken out.
    """

    service: Service
    false: int
    false_endpoints: int
    false_without_common: int
    found: list[Found]
    found_endpoints: list[Found]
    found_without_common: list[Found]
    flags: int
    flags_without_common: int


def services(seed: str, number: int) -> list[Service]:
    """Draw services: ``number`` of each load and kind."""
    return [
        Service(f"{seed}/{index}", kind, load, 8, 1.0)
        for index in range(number)
        for load in SHARED_LOADS
        for kind in (Kind.WHOLE, Kind.HEALTHY, Kind.SINGLE)
    ]


class _Endpoint(Replay):
    """The replay of an endpoint, with the deviations of its evaluation windows at the ticks."""

    def __init__(self, detector: Detector) -> None:
        super().__init__(detector, tick_seconds=_TICK_SECONDS)
        self.live = array("h")
        self._ended = RecentTraces()

    def _tick_through(self, hour: LocalHour, *, live: bool) -> None:
        baseline = None
        if live and self._state is not None:
            expected, _ = self._detector.schedule_at(self._history, self._state, hour.start, self._tracker.suspects)
            if expected.prediction is not None:
                baseline = expected.prediction.baseline[0]
        parameters = self._detector.parameters
        self._ended.discard(hour.start, parameters)
        position, upcoming = 0, self._upcoming
        for now in range(hour.start + _TICK_SECONDS, hour.end + 1, _TICK_SECONDS):
            while position < len(upcoming) and upcoming[position][0] <= now:
                self._ended.add(upcoming[position].second, upcoming[position].bucket)
                position += 1
            if live:
                window = self._ended.window(now, parameters)
                is_known = baseline is not None and window.traces >= MIN_EVALUATED_TRACES
                self.live.append(window.quantile_bucket(0.5) - (baseline or 0) if is_known else _UNKNOWN)
        super()._tick_through(hour, live=live)

    def deviations(self) -> dict[int, int]:
        """Return the deviations in the evaluated history, by mark."""
        found = {}
        for start, evaluation in self.evaluations.items():
            for mark, deviation in enumerate(deviations_of(evaluation.deviations, 0), start=1):
                if deviation is not None:
                    found[start + mark * MARK_SECONDS] = deviation
        return found

    def quarantined(self) -> frozenset[int]:
        return frozenset(start for start, each in self.evaluations.items() if each.quarantined)


def evaluate(service: Service) -> Outcome:
    """Replay a service twice and judge it."""
    incidents = service.incidents(_PER_DAY, FACTORS if service.kind is Kind.WHOLE else _SINGLE_FACTORS)
    traffic, load = _traffic(service, incidents)
    clock = HourClock(Calendar())
    parameters = Parameters()
    detector = Detector(FallbackRules(), parameters, clock)
    endpoints = [_Endpoint(detector) for _ in traffic]
    requests: list[dict[int, list[SyntheticRequest]]] = [{} for _ in traffic]
    for start in range(BEGIN, END, HOUR):
        factors = [math.exp(each) for each in load.minutes(start // HOUR)]
        for source, endpoint, kept in zip(traffic, endpoints, requests, strict=True):
            kept[start] = [
                request._replace(
                    duration_ns=int(request.duration_ns * factors[(request.start_ns // _NS - start) // 60])
                )
                for request in source.hour(start // HOUR)
            ]
            endpoint.add_hour(clock.hour(start), kept[start], live=start >= LIVE_FROM)
    deviations = [endpoint.deviations() for endpoint in endpoints]
    quarantined = [endpoint.quarantined() for endpoint in endpoints]
    of_service = judged_episodes(deviations, quarantined, _ticks(endpoints), parameters)
    own = [episodes(endpoint.changes) for endpoint in endpoints]
    without = []
    for number, kept in enumerate(requests):
        replay = Replay(detector, tick_seconds=_TICK_SECONDS)
        common = _common(deviations, number, quarantined[number])
        for start in range(BEGIN, END, HOUR):
            taken = [_without(request, common) for request in kept[start]]
            replay.add_hour(clock.hour(start), taken, live=start >= LIVE_FROM)
        without.append(episodes(replay.changes))
    return _outcome(service, incidents, of_service, own, without)


def _traffic(service: Service, incidents: Sequence[ServiceIncident]) -> tuple[list[SeriesTraffic], WanderingLoad]:
    rng = random.Random(service.name)
    load = WanderingLoad(f"{service.name}/shared", service.shared_load, log_uniform(rng, 10, 120))
    peak, swing = rng.uniform(10, 18), rng.uniform(0.3, 0.8)
    found = []
    for number in range(service.endpoints):
        profile = SeriesProfile(
            rate_per_minute=service.rate_per_minute * log_uniform(rng, 0.5, 2),
            base_seconds=log_uniform(rng, 0.02, 1.5),
            shape=rng.choice(_SHAPES),
            peak_hour=peak + rng.uniform(-1, 1),
            traffic_swing=swing,
            latency_swing=log_uniform(rng, 1, 3),
            weekend_latency=log_uniform(rng, 0.7, 1),
            load_sd=log_uniform(rng, 0.03, 0.2),
            load_correlation_minutes=log_uniform(rng, 5, 120),
            day_sd=rng.uniform(0, 0.05),
            incidents=tuple(
                Incident(each.start, each.end, each.factor) for each in incidents if each.endpoint in (None, number)
            ),
        )
        found.append(SeriesTraffic(profile, f"{service.name}/{number}"))
    return found, load


def _ticks(endpoints: Sequence[_Endpoint]) -> Iterator[tuple[int, list[int]]]:
    for index, now in enumerate(range(LIVE_FROM + _TICK_SECONDS, END + 1, _TICK_SECONDS)):
        yield now, [each.live[index] for each in endpoints if each.live[index] != _UNKNOWN]


def _common(deviations: Sequence[Mapping[int, int]], number: int, quarantined: frozenset[int]) -> Mapping[int, float]:
    """Return what an endpoint shares with the others of its service, by mark, in buckets.

    That is the median deviation of the others, times the slope of its own deviations over these before the evaluated
    time, between 0 and 1.
    """
    others: dict[int, list[int]] = {}
    for other, each in enumerate(deviations):
        if other != number:
            for mark, deviation in each.items():
                others.setdefault(mark, []).append(deviation)
    shared = {mark: median(each) for mark, each in others.items() if len(each) >= _MIN_OTHERS}
    pairs = [
        (shared[mark], deviation)
        for mark, deviation in deviations[number].items()
        if mark in shared and mark <= LIVE_FROM and (mark - 1) // HOUR * HOUR not in quarantined
    ]
    if len(pairs) < _MIN_SHARED_MARKS:
        return {}
    mean, mean_own = (sum(each) / len(pairs) for each in zip(*pairs, strict=True))
    variance = sum((each - mean) ** 2 for each, _ in pairs)
    slope = sum((each - mean) * (own - mean_own) for each, own in pairs) / variance if variance else 0.0
    slope = max(0.0, min(1.0, slope))
    return {mark: slope * each for mark, each in shared.items()}


def _without(request: SyntheticRequest, common: Mapping[int, float]) -> SyntheticRequest:
    """Return a request without the common part of its duration at the mark of its end."""
    end_seconds = -(-(request.start_ns + request.duration_ns) // _NS)
    taken = common.get(-(-end_seconds // MARK_SECONDS) * MARK_SECONDS, 0.0)
    return request._replace(duration_ns=max(1, int(request.duration_ns * 2 ** (-taken / BUCKETS_PER_OCTAVE))))


def _outcome(
    service: Service,
    incidents: Sequence[ServiceIncident],
    of_service: list[Episode],
    own: Sequence[list[Episode]],
    without: Sequence[list[Episode]],
) -> Outcome:
    found, false, flags = [], [], []
    for by_endpoint in (own, without):
        earliest: list[Found] = []
        fired = 0
        for incident in incidents:
            concerned = range(len(by_endpoint)) if incident.endpoint is None else (incident.endpoint,)
            each = [found_by(by_endpoint[number], [incident])[0] for number in concerned]
            delays = [one.delay_seconds for one in each if one.delay_seconds is not None]
            earliest.append(Found(incident, min(delays, default=None)))
            fired += len(delays)
        found.append(earliest)
        flags.append(fired)
        false.append(
            sum(
                count_false(each, [one for one in incidents if one.endpoint in (None, number)])
                for number, each in enumerate(by_endpoint)
            )
        )
    return Outcome(
        service,
        count_false(of_service, incidents if service.kind is Kind.WHOLE else []),
        false_endpoints=false[0],
        false_without_common=false[1],
        found=found_by(of_service, incidents) if service.kind is Kind.WHOLE else [],
        found_endpoints=found[0],
        found_without_common=found[1],
        flags=flags[0],
        flags_without_common=flags[1],
    )
