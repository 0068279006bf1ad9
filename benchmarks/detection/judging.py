"""Replays one synthetic series through the detector and says what came of it."""

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
_MUCH_OF_AN_HOUR_SECONDS: Final = 600


class Response(NamedTuple):
    """What became of one incident.

    Attributes:
        kind: what the incident did.
        requests: how many requests began in it.
        delay_seconds: from its beginning to the flag; None if no flag came of it.
        clear_seconds: from its end to the fall of the flag that it had raised.
        flags: how often a flag was raised because of it.
    """

    kind: Kind
    requests: int
    delay_seconds: float | None
    clear_seconds: float | None
    flags: int


class Outcome(NamedTuple):
    """What came of one series.

    Attributes:
        case: the series.
        episodes: what was flagged.
        responses: for each incident what became of it.
        bad_hours: hours that an incident of five times the latency or more took up for ten minutes or more.
        learnt_hours: how many of those entered a baseline.
        accepted_after_seconds: from a permanent change to when it became the new normal.
    """

    case: Case
    episodes: list[Episode]
    responses: list[Response]
    bad_hours: int
    learnt_hours: int
    accepted_after_seconds: float | None


def judge_case(case: Case) -> Outcome:
    """Generate a series, learn from it, judge it live, and sum up."""
    clock = HourClock(Calendar())
    replay = Replay(Detector(FallbackRules(), case.parameters, clock))
    traffic = SeriesTraffic(case.profile, case.seed)
    requests = [0] * len(case.profile.incidents)
    for start in range(BEGIN, END, HOUR_SECONDS):
        made = traffic.hour(start // HOUR_SECONDS)
        for number, incident in enumerate(case.profile.incidents):
            if incident.start < start + HOUR_SECONDS and start < incident.end:
                requests[number] += sum(incident.start * _NS <= r.start_ns < incident.end * _NS for r in made)
        replay.add_hour(clock.hour(start), made, live=start >= case.live_from)
    found = episodes(replay.changes)
    large = [
        incident for incident in case.profile.incidents if incident.factor >= _LARGE_FACTOR and incident.share == 1
    ]
    bad_hours = [hour for incident in large for hour in _taken_up(incident)]
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


def _taken_up(incident: Incident) -> Iterator[int]:
    """The hours that an incident took up a good part of."""
    first = int(incident.start) // HOUR_SECONDS * HOUR_SECONDS
    for hour in range(first, int(min(incident.end, END)) + 1, HOUR_SECONDS):
        if min(incident.end, hour + HOUR_SECONDS) - max(incident.start, hour) >= _MUCH_OF_AN_HOUR_SECONDS:
            yield hour
