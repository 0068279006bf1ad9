"""Replays one series: when its flag would have fired, and which hours would have been quarantined."""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import starmap
from typing import Final, NamedTuple, TypeAlias

from exporter.backtest.recorded_traffic import RecordedTraffic
from exporter.backtest.traffic import Requests, RequestSample, key_of, median_step_seconds
from exporter.detection.detector import Detector
from exporter.detection.errors.verdict import ErrorExplanation
from exporter.detection.explanation import Explanation
from exporter.detection.flag import FlagChange, FlagEvent, FlagKind
from exporter.detection.history import advance
from exporter.detection.parameters import SUSPICION_SECONDS
from exporter.detection.regression.verdict import Regression, RegressionChange, RegressionEvent
from exporter.detection.replay import Replay
from exporter.detection.traffic.source import SourceHistory
from exporter.detection.traffic.verdict import TrafficEvidence
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.hour_evaluation import HourEvaluation
from exporter.model.hours import SeriesHours, hours_of
from exporter.store import StoredSeries

_NS: Final = 1_000_000_000
_OPEN_HOURS: Final = SUSPICION_SECONDS // HOUR_SECONDS + 2
"""Number of latest hours that may still be quarantined."""
AnyExplanation: TypeAlias = Explanation | ErrorExplanation | TrafficEvidence
"""What a flag of some kind is explained by."""


class FiringPeriod(NamedTuple):
    """A period in which the flag fired.

    Attributes:
        start: Unix seconds.
        end: Unix seconds; the end of the traffic if the flag was still firing then.
        explanation: why it fired; ``str()`` is its sentence.
        ongoing: whether it was still firing at the end of the traffic.
        kind: which flag.
    """

    start: int
    end: int
    explanation: AnyExplanation | None
    ongoing: bool = False
    kind: FlagKind = FlagKind.SHIFT


class AcceptedChange(NamedTuple):
    """A lasting change that was accepted as the new baseline: its start and the time of acceptance, Unix seconds."""

    since: int
    accepted_at: int


class RegressionPeriod(NamedTuple):
    """A period in which there was a regression.

    Attributes:
        start: when it was found, Unix seconds.
        end: when it went away or was accepted, Unix seconds; the end of the traffic if it was still present then.
        outcome: how it ended; ``raised`` if it was still present.
        regression: the regression, as it was last.
    """

    start: int
    end: int
    outcome: RegressionEvent
    regression: Regression


@dataclass(frozen=True, slots=True)
class SeriesReplay:
    """Result of replaying one series. Times are in Unix seconds.

    Attributes:
        series: ``service_name/span_name``, or the name in the CSV file.
        traces: number of traces.
        start: start of the first hour.
        end: end of the last hour.
        learned_until: end of the learning period; firing periods start there.
        evaluated_hours: number of hours with a mature baseline.
        step_seconds: median (from requests) or mean (from history) time between traces.
        firing_periods: when its latency was shifted.
        quarantined: starts of the hours that are quarantined at the end.
        accepted_changes: lasting changes that were accepted as the new baseline.
        released: starts of the hours that were quarantined and then released, because they recur.
        regressions: its regressions; those found while learning, too.
        error_periods: when its error flag fired; empty if failures are unknown.
        traffic_periods: when its traffic flag fired.
    """

    series: str
    traces: int
    start: int
    end: int
    learned_until: int
    evaluated_hours: int
    step_seconds: float
    firing_periods: tuple[FiringPeriod, ...]
    quarantined: tuple[int, ...]
    accepted_changes: tuple[AcceptedChange, ...]
    released: tuple[int, ...]
    regressions: tuple[RegressionPeriod, ...] = ()
    error_periods: tuple[FiringPeriod, ...] = ()
    traffic_periods: tuple[FiringPeriod, ...] = ()

    def periods_of(self, kind: FlagKind) -> tuple[FiringPeriod, ...]:
        """Return when the flag of a kind fired."""
        match kind:
            case FlagKind.SHIFT:
                return self.firing_periods
            case FlagKind.ERRORS:
                return self.error_periods
            case FlagKind.TRAFFIC:
                return self.traffic_periods


def series_name(stored: StoredSeries) -> str:
    """Return the name of a stored series: ``service_name/span_name``, and its labels in braces if it has any."""
    return stored.key.text


def replay_history(
    stored: StoredSeries,
    detector: Detector,
    until: int,
    learn_seconds: int | None = None,
    source: SourceHistory | None = None,
) -> SeriesReplay:
    """Evaluate the stored history of a series from its first hour; stored evaluations are ignored.

    Args:
        stored: windows with marks, at least one of them with traces.
        detector: the detector.
        until: end of the history, Unix seconds.
        learn_seconds: learning period; None means until the first hour with a mature baseline.
        source: the source; without it, traffic is not judged.

    Raises:
        DamagedDigestError: the stored history is damaged.
    """
    detector = detector.of(stored.key)
    clock = detector.clock
    hours = hours_of(stored.windows, clock)
    start = hours[0].start
    traces = sum(hour.count for hour in hours)
    history = SeriesHours(detector.hours(stored.windows))
    traffic = None if source is None else detector.traffic(stored.windows, source)
    progress = advance(detector, history, until, traffic=traffic)
    evaluations = progress.evaluations
    end = max(until, start)
    learned_until = min(evaluations, default=end) if learn_seconds is None else start + learn_seconds
    return SeriesReplay(
        series=series_name(stored),
        traces=traces,
        start=start,
        end=end,
        learned_until=learned_until,
        evaluated_hours=len(evaluations),
        step_seconds=HOUR_SECONDS * len(hours) / traces,
        firing_periods=_firing_periods(progress.changes, learned_until, end),
        quarantined=_quarantined(evaluations),
        accepted_changes=tuple(map(AcceptedChange, progress.accepted, progress.accepted_at)),
        released=tuple(sorted(set(progress.released))),
        regressions=tuple(_regression_periods(progress.regressions, end)),
        error_periods=_firing_periods(progress.error_changes, learned_until, end, FlagKind.ERRORS),
        traffic_periods=_firing_periods(progress.traffic_changes, learned_until, end, FlagKind.TRAFFIC),
    )


def replay_requests(
    series: str, requests: Requests, detector: Detector, learn_seconds: int, traffic: RecordedTraffic | None = None
) -> SeriesReplay:
    """Evaluate the requests of a series as an exporter that polls every 15 seconds would.

    The simulated exporter starts at the end of the learning period and has earlier requests as history.

    Args:
        series: name of the series, ``service_name/span_name`` if it has a slash.
        requests: at least one.
        detector: the detector.
        learn_seconds: learning period from the first request on.
        traffic: the traffic of all series; without it, traffic is not judged.
    """
    ordered = requests.in_order()
    hour = detector.clock.hour(ordered[0].start_ns // _NS)
    start = hour.start
    learned_until = ordered[0].start_ns // _NS + learn_seconds
    detector = detector.of(key_of(series))
    replay = Replay(detector)
    release_tracker = _ReleaseTracker()
    start_index = accepted_count = 0
    while True:
        end_index = bisect_left(ordered, hour.end * _NS, lo=start_index, key=_start_ns)
        of_hour = ordered[start_index:end_index]
        replay.add_hour(
            hour,
            [(each.start_ns, each.duration_ns) for each in of_hour],
            failed=[each.failed for each in of_hour],
            live=hour.end > learned_until,
        )
        accepted = replay.accepted[accepted_count:]
        release_tracker.update(hour.start, replay.evaluations, accepted_since=accepted[-1][0] if accepted else None)
        start_index, accepted_count = end_index, len(replay.accepted)
        if start_index == len(ordered):
            break
        hour = detector.clock.hour(hour.end)
    return SeriesReplay(
        series=series,
        traces=len(ordered),
        start=start,
        end=hour.end,
        learned_until=learned_until,
        evaluated_hours=len(replay.evaluations),
        step_seconds=median_step_seconds(ordered),
        firing_periods=_firing_periods(replay.changes, learned_until, hour.end),
        quarantined=_quarantined(replay.evaluations),
        accepted_changes=tuple(starmap(AcceptedChange, replay.accepted)),
        released=tuple(sorted(release_tracker.hours)),
        regressions=tuple(_regression_periods(replay.regressions, hour.end)),
        error_periods=_firing_periods(replay.error_changes, learned_until, hour.end, FlagKind.ERRORS),
        traffic_periods=()
        if traffic is None
        else _firing_periods(traffic.changes(series, detector), learned_until, traffic.end, FlagKind.TRAFFIC),
    )


def _firing_periods(
    changes: Iterable[FlagChange[AnyExplanation]],
    since: int,
    end: int,
    kind: FlagKind = FlagKind.SHIFT,
) -> tuple[FiringPeriod, ...]:
    """Pair flag changes into firing periods that start at or after ``since``; the traffic ends at ``end``."""
    firing_periods = []
    firing: FlagChange[AnyExplanation] | None = None
    for change in changes:
        if change.event is FlagEvent.FIRING:
            firing = change
        elif firing is not None:
            firing_periods.append(FiringPeriod(firing.at, change.at, firing.explanation, kind=kind))
            firing = None
    if firing is not None:
        firing_periods.append(FiringPeriod(firing.at, end, firing.explanation, ongoing=True, kind=kind))
    return tuple(period for period in firing_periods if period.start >= since)


def _regression_periods(changes: Iterable[RegressionChange], end: int) -> Iterator[RegressionPeriod]:
    """Pair the changes of regressions; the traffic ends at ``end``."""
    raised: RegressionChange | None = None
    for change in changes:
        if change.event is RegressionEvent.RAISED:
            raised = change
        elif raised is not None:
            yield RegressionPeriod(raised.at, change.at, change.event, change.regression)
            raised = None
    if raised is not None:
        yield RegressionPeriod(raised.at, end, raised.event, raised.regression)


class _ReleaseTracker:
    """Finds hours that were released from quarantine, except those released by an accepted change.

    Attributes:
        hours: starts of the released hours.
    """

    def __init__(self) -> None:
        self.hours: set[int] = set()
        self._latest: deque[int] = deque(maxlen=_OPEN_HOURS)
        self._quarantined: set[int] = set()

    def update(self, hour: int, evaluations: Mapping[int, HourEvaluation], *, accepted_since: int | None) -> None:
        """Compare the quarantine with that of the previous hour; call it once per hour."""
        self._latest.append(hour)
        released = {start for start in self._quarantined if not evaluations[start].quarantined}
        self.hours |= {start for start in released if accepted_since is None or start < accepted_since}
        self._quarantined -= released
        self._quarantined.update(
            start for start in self._latest if start in evaluations and evaluations[start].quarantined
        )


def _quarantined(evaluations: Mapping[int, HourEvaluation]) -> tuple[int, ...]:
    return tuple(sorted(start for start, evaluation in evaluations.items() if evaluation.quarantined))


def _start_ns(request: RequestSample) -> int:
    return request.start_ns
