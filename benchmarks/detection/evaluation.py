"""Replay a synthetic series through the detector and record its responses."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf
from typing import Final, NamedTuple

from benchmarks.detection.scoring import GRACE_SECONDS, Episode, Event, episodes, finding
from benchmarks.detection.suites import Case, Kind
from exporter.baseline.levels import FallbackRules
from exporter.demo.latency import Incident
from exporter.demo.traffic import SeriesTraffic
from exporter.detection.detector import Detector
from exporter.detection.flag import FlagChange, FlagEvent
from exporter.detection.parameters import ALL_PARTS, NO_PARTS, Parts
from exporter.detection.regression.verdict import Regression, RegressionEvent
from exporter.detection.replay import Replay
from exporter.ingest.series_filter import SeriesFilter, SeriesRules
from exporter.model.calendar import HOUR_SECONDS, HourClock

_PARTS_SINCE_2_3: Final = ("busy_swing", "single_hold")
_PARTS_SINCE_2_2: Final = ("certain_firing", "level_floor", "near_baselines", "tail", *_PARTS_SINCE_2_3)
_PARTS_SINCE_2_1: Final = ("typical_swing", "joint_tolerance", *_PARTS_SINCE_2_2)
_PARTS_SINCE_2_0: Final = (
    "inherited_swing",
    "pattern_transfer",
    "continuation",
    "joint_errors",
    "regression_level",
    *_PARTS_SINCE_2_1,
)
METHODS: Final = {
    "1": NO_PARTS,
    "2.0": ALL_PARTS._replace(**dict.fromkeys(_PARTS_SINCE_2_0, False)),
    "2.1": ALL_PARTS._replace(**dict.fromkeys(_PARTS_SINCE_2_1, False)),
    "2.2": ALL_PARTS._replace(**dict.fromkeys(_PARTS_SINCE_2_2, False)),
    "2.3": ALL_PARTS._replace(**dict.fromkeys(_PARTS_SINCE_2_3, False)),
    "2": ALL_PARTS,
} | {f"2 without {part.replace('_', ' ')}": ALL_PARTS._replace(**{part: False}) for part in Parts._fields}
"""The detector's method by name: 1 is that of the first release, 2 the present one, 2.0 to 2.3 those without the parts
that were added later, and others lack a part."""

_NS: Final = 1_000_000_000
_LARGE_FACTOR: Final = 5
_BAD_HOUR_SECONDS: Final = 600


class Response(NamedTuple):
    """The detector's response to one incident.

    Attributes:
        kind: kind of the incident.
        seconds: its length.
        requests: requests that started during it.
        delay_seconds: from its start to the firing flag; None if the flag did not fire.
        clear_seconds: from its end until the flag resolved.
        flags: how often the flag fired.
        run: the hour with traffic, counted from 1, after whose last request it fired; None if it did not.
    """

    kind: Kind
    seconds: float
    requests: int
    delay_seconds: float | None
    clear_seconds: float | None
    flags: int
    run: int | None


class Outcome(NamedTuple):
    """The results of one series.

    Attributes:
        case: the series.
        method: name of the detector's method.
        episodes: times at which the flag fired.
        responses: one for each incident.
        bad_hours: hours in which an incident of at least 5 × the latency lasted ten minutes or more.
        learnt_hours: bad hours that entered a baseline.
        accepted_after_seconds: from a permanent change until it was accepted into the baseline.
        regressions: regressions that were found.
    """

    case: Case
    method: str
    episodes: list[Episode]
    responses: list[Response]
    bad_hours: int
    learnt_hours: int
    accepted_after_seconds: float | None
    regressions: list[Regression]


def evaluate_case(case: Case, methods: Sequence[str] = ("2",)) -> list[Outcome]:
    """Generate a series, learn from it, evaluate it live, and return the results of each method."""
    clock = HourClock(case.calendar)
    replays = [
        Replay(Detector(FallbackRules(), replace(case.parameters, parts=METHODS[method]), clock).of(case.key))
        for method in methods
    ]
    is_kept = SeriesFilter(SeriesRules()).resolve(case.key) == case.key
    # Incidents change what requests share, so they come after it.
    profile = case.profile if case.alike is None else replace(case.profile, incidents=())
    traffic = SeriesTraffic(profile, case.seed)
    requests = [0] * len(case.profile.incidents)
    runs: list[list[float]] = [[] for _ in case.profile.incidents]
    for start in range(case.begin, case.end, HOUR_SECONDS):
        generated = traffic.hour(start // HOUR_SECONDS) if is_kept else []
        if case.waiting is not None:
            generated = case.waiting.applied(generated, case.profile.peak_hour, case.seed, start // HOUR_SECONDS)
        if case.alike is not None:
            generated = case.alike.applied(generated, case.profile.incidents, case.seed, start // HOUR_SECONDS)
        for number, incident in enumerate(case.profile.incidents):
            if incident.start < start + HOUR_SECONDS and start < incident.end:
                ends = [
                    (r.start_ns + r.duration_ns) / _NS
                    for r in generated
                    if incident.start * _NS <= r.start_ns < incident.end * _NS
                ]
                requests[number] += len(ends)
                runs[number] += [max(ends)] if ends else []
        for replay in replays:
            replay.add_hour(clock.hour(start), generated, live=start >= case.live_from)
    return [_outcome(case, method, replay, requests, runs) for method, replay in zip(methods, replays, strict=True)]


def _outcome(
    case: Case, method: str, replay: Replay, requests: Sequence[int], runs: Sequence[Sequence[float]]
) -> Outcome:
    found = episodes(replay.changes)
    incidents = case.profile.incidents
    large = [incident for incident in incidents if incident.factor >= _LARGE_FACTOR and incident.share == 1]
    bad_hours = [hour for incident in large for hour in _bad_hours(incident, case.end)]
    learnt = [hour for hour in bad_hours if hour in replay.evaluations and not replay.evaluations[hour].quarantined]
    changed_at = min((incident.start for incident in incidents if incident.end == inf), default=None)
    return Outcome(
        case,
        method,
        found,
        [
            _response(kind, incident, n, ends, found, replay.changes)
            for kind, incident, n, ends in zip(case.kinds, incidents, requests, runs, strict=True)
        ],
        len(bad_hours),
        len(learnt),
        replay.accepted[0][1] - changed_at if replay.accepted and changed_at is not None else None,
        [change.regression for change in replay.regressions if change.event is RegressionEvent.RAISED],
    )


def _response(
    kind: Kind,
    incident: Incident,
    requests: int,
    ends: Sequence[float],
    found: list[Episode],
    changes: Sequence[FlagChange[object]],
) -> Response:
    episode = finding(Event(incident.start, incident.end), found)
    seconds = incident.end - incident.start
    if episode is None:
        return Response(kind, seconds, requests, None, None, 0, None)
    flags = sum(change.event is FlagEvent.FIRING and incident.start <= change.at <= incident.end for change in changes)
    clear = max(0.0, episode.end - incident.end) if incident.start <= episode.start < incident.end else None
    run = sum(end < episode.start - GRACE_SECONDS for end in ends) + 1
    return Response(kind, seconds, requests, max(0.0, episode.start - incident.start), clear, flags, run)


def _bad_hours(incident: Incident, end: float) -> Iterator[int]:
    """Generate the hours of which an incident takes at least ten minutes."""
    first = int(incident.start) // HOUR_SECONDS * HOUR_SECONDS
    for hour in range(first, int(min(incident.end, end)) + 1, HOUR_SECONDS):
        if min(incident.end, hour + HOUR_SECONDS) - max(incident.start, hour) >= _BAD_HOUR_SECONDS:
            yield hour
