"""Replay a synthetic series through the detector and record its responses."""

from collections.abc import Iterator
from math import inf
from typing import Final, NamedTuple

from benchmarks.detection.scoring import Episode, Event, episodes, finding
from benchmarks.detection.suites import BEGIN, END, Case, Kind
from exporter.baseline.levels import FallbackRules
from exporter.demo.latency import Incident
from exporter.demo.traffic import SeriesTraffic
from exporter.detection.detector import Detector
from exporter.detection.replay import Replay
from exporter.model.calendar import HOUR_SECONDS, Calendar, HourClock

_NS: Final = 1_000_000_000
_LARGE_FACTOR: Final = 5
_BAD_HOUR_SECONDS: Final = 600


class Response(NamedTuple):
    """The detector's response to one incident.

    Attributes:
        kind: kind of the incident.
        requests: requests that started during it.
        delay_seconds: from its start to the firing flag; None if the flag did not fire.
        clear_seconds: from its end until the flag resolved.
        flags: how often the flag fired.
    """

    kind: Kind
    requests: int
    delay_seconds: float | None
    clear_seconds: float | None
    flags: int


class Outcome(NamedTuple):
    """The results of one series.

    Attributes:
        case: the series.
        episodes: times at which the flag fired.
        responses: one for each incident.
        bad_hours: hours in which an incident of at least 5 × the latency lasted ten minutes or more.
        learnt_hours: bad hours that entered a baseline.
        accepted_after_seconds: from a permanent change until it was accepted into the baseline.
    """

    case: Case
    episodes: list[Episode]
    responses: list[Response]
    bad_hours: int
    learnt_hours: int
    accepted_after_seconds: float | None


def evaluate_case(case: Case) -> Outcome:
    """Generate a series, learn from it, evaluate it live, and return the results."""
    clock = HourClock(Calendar())
    replay = Replay(Detector(FallbackRules(), case.parameters, clock))
    traffic = SeriesTraffic(case.profile, case.seed)
    requests = [0] * len(case.profile.incidents)
    for start in range(BEGIN, END, HOUR_SECONDS):
        generated = traffic.hour(start // HOUR_SECONDS)
        for number, incident in enumerate(case.profile.incidents):
            if incident.start < start + HOUR_SECONDS and start < incident.end:
                requests[number] += sum(incident.start * _NS <= r.start_ns < incident.end * _NS for r in generated)
        replay.add_hour(clock.hour(start), generated, live=start >= case.live_from)
    found = episodes(replay.changes)
    large = [
        incident for incident in case.profile.incidents if incident.factor >= _LARGE_FACTOR and incident.share == 1
    ]
    bad_hours = [hour for incident in large for hour in _bad_hours(incident)]
    learnt = [hour for hour in bad_hours if hour in replay.evaluations and not replay.evaluations[hour].quarantined]
    changed_at = min((incident.start for incident in case.profile.incidents if incident.end == inf), default=None)
    return Outcome(
        case,
        found,
        [_response(incident, n, found) for incident, n in zip(case.profile.incidents, requests, strict=True)],
        len(bad_hours),
        len(learnt),
        replay.accepted[0][1] - changed_at if replay.accepted and changed_at is not None else None,
    )


def _response(incident: Incident, requests: int, found: list[Episode]) -> Response:
    episode = finding(Event(incident.start, incident.end), found)
    kind = Kind(incident.factor, incident.share)
    if episode is None:
        return Response(kind, requests, None, None, 0)
    flags = sum(incident.start <= e.start <= incident.end for e in found)
    clear = max(0.0, episode.end - incident.end) if incident.start <= episode.start < incident.end else None
    return Response(kind, requests, max(0.0, episode.start - incident.start), clear, flags)


def _bad_hours(incident: Incident) -> Iterator[int]:
    """Generate the hours of which an incident takes at least ten minutes."""
    first = int(incident.start) // HOUR_SECONDS * HOUR_SECONDS
    for hour in range(first, int(min(incident.end, END)) + 1, HOUR_SECONDS):
        if min(incident.end, hour + HOUR_SECONDS) - max(incident.start, hour) >= _BAD_HOUR_SECONDS:
            yield hour
