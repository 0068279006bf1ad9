"""One series replayed: when its flag would have been up, and what would have become of its hours."""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import starmap
from typing import Final, NamedTuple

from exporter.backtest.traffic import Requests, RequestSample, median_step_seconds
from exporter.detection.detector import Detector, SeriesState
from exporter.detection.explanation import Explanation
from exporter.detection.flag import FlagEvent
from exporter.detection.history import advance
from exporter.detection.parameters import SUSPICION_SECONDS
from exporter.detection.replay import Replay
from exporter.detection.tick import FlagChange
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.hours import HourEvaluation, SeriesHours, hours_of
from exporter.store import StoredSeries

_NS: Final = 1_000_000_000
_OPEN_HOURS: Final = SUSPICION_SECONDS // HOUR_SECONDS + 2
"""Of the latest hours, so many may still become quarantined."""


class Alert(NamedTuple):
    """The time from the rise of a flag to its fall.

    Attributes:
        start: when it rose, Unix seconds.
        end: when it fell; the end of the traffic where it was still up.
        explanation: why it rose.
        ongoing: whether it was still up at the end of the traffic.
    """

    start: int
    end: int
    explanation: Explanation | None
    ongoing: bool = False


class Acceptance(NamedTuple):
    """A lasting change that became the new normal: when that had begun and when it was accepted, Unix seconds."""

    since: int
    at: int


@dataclass(frozen=True, slots=True)
class SeriesReplay:
    """What the replay of one series has found; all times are Unix seconds.

    Attributes:
        series: its name: ``service_name/span_name``, or what the file calls it.
        traces: how many traces there were.
        start: start of the first hour.
        end: end of the last one.
        counts_from: when learning was over: earlier alerts are not among ``alerts``.
        judged_hours: hours for which there was a mature baseline.
        step_seconds: the usual distance of its traces.
        alerts: when its flag was up.
        quarantined: starts of the hours that are kept out of the baseline in the end.
        accepted: lasting changes that became the new normal.
        released: starts of the hours that were quarantined and turned out to recur.
    """

    series: str
    traces: int
    start: int
    end: int
    counts_from: int
    judged_hours: int
    step_seconds: float
    alerts: tuple[Alert, ...]
    quarantined: tuple[int, ...]
    accepted: tuple[Acceptance, ...]
    released: tuple[int, ...]


def name_of(stored: StoredSeries) -> str:
    """What a stored series is called here, as in the configuration: ``service_name/span_name``."""
    return f"{stored.key.service_name}/{stored.key.span_name}"


def replay_history(
    stored: StoredSeries, detector: Detector, until: int, learn_seconds: int | None = None
) -> SeriesReplay:
    """Judge what is stored of a series from its first hour on, as if none of it had ever been judged.

    Args:
        stored: its windows, with their marks, at least one with traces; what was found about them before plays no part.
        detector: the rules.
        until: where the history ends, Unix seconds.
        learn_seconds: how much of it is for learning; up to the first hour with a mature baseline where absent.

    Raises:
        DamagedDigestError: stored bytes are damaged.
    """
    clock = detector.clock
    hours = hours_of(stored.windows, clock)
    start = hours[0].start
    traces = sum(hour.count for hour in hours)
    history = SeriesHours(hours)
    changes: list[FlagChange] = []
    accepted: list[Acceptance] = []
    judgements: dict[int, HourEvaluation] = {}
    released: set[int] = set()
    state: SeriesState | None = None
    # Hour by hour comes to the same as all at once, and tells when a change was accepted.
    for end in [*(end for hour in hours if (end := clock.hour(hour.start).end) < until), until]:
        progress = advance(detector, history, end, state)
        state = progress.state
        changes += progress.changes
        accepted += [Acceptance(changepoint, end) for changepoint in progress.accepted]
        judgements.update(progress.evaluations)
        released.update(progress.released)
    end = max(until, start)
    counts_from = min(judgements, default=end) if learn_seconds is None else start + learn_seconds
    return SeriesReplay(
        series=name_of(stored),
        traces=traces,
        start=start,
        end=end,
        counts_from=counts_from,
        judged_hours=len(judgements),
        step_seconds=HOUR_SECONDS * len(hours) / traces,
        alerts=_alerts(changes, counts_from, end),
        quarantined=_quarantined(judgements),
        accepted=tuple(accepted),
        released=tuple(sorted(released)),
    )


def replay_requests(series: str, requests: Requests, detector: Detector, learn_seconds: int) -> SeriesReplay:
    """Let the requests of a series happen once more, before the eyes of an exporter that looks every 15 seconds.

    That exporter starts when learning is over; what came before, it has read as history.

    Args:
        series: its name.
        requests: at least one.
        detector: the rules.
        learn_seconds: how much from the first request on is for learning.
    """
    ordered = requests.in_order()
    civil = detector.clock.hour(ordered[0].start_ns // _NS)
    start = civil.start
    counts_from = ordered[0].start_ns // _NS + learn_seconds
    replay = Replay(detector)
    releases = _Releases()
    first = acceptances = 0
    while True:
        last = bisect_left(ordered, civil.end * _NS, lo=first, key=_start_ns)
        replay.add_hour(civil, ordered[first:last], live=civil.end > counts_from)
        accepted = replay.accepted[acceptances:]
        releases.look(civil.start, replay.evaluations, accepted_since=accepted[-1][0] if accepted else None)
        first, acceptances = last, len(replay.accepted)
        if first == len(ordered):
            break
        civil = detector.clock.hour(civil.end)
    return SeriesReplay(
        series=series,
        traces=len(ordered),
        start=start,
        end=civil.end,
        counts_from=counts_from,
        judged_hours=len(replay.evaluations),
        step_seconds=median_step_seconds(ordered),
        alerts=_alerts(replay.changes, counts_from, civil.end),
        quarantined=_quarantined(replay.evaluations),
        accepted=tuple(starmap(Acceptance, replay.accepted)),
        released=tuple(sorted(releases.hours)),
    )


def _alerts(changes: Iterable[FlagChange], since: int, end: int) -> tuple[Alert, ...]:
    """The times when a flag was up that began at or after an instant, where the traffic ended at another."""
    alerts = []
    raised: FlagChange | None = None
    for change in changes:
        if change.event is FlagEvent.FIRING:
            raised = change
        elif raised is not None:
            alerts.append(Alert(raised.at, change.at, raised.explanation))
            raised = None
    if raised is not None:
        alerts.append(Alert(raised.at, end, raised.explanation, ongoing=True))
    return tuple(alert for alert in alerts if alert.start >= since)


class _Releases:
    """Finds the hours that were quarantined and are no longer, other than because a change was accepted.

    Attributes:
        hours: their starts.
    """

    def __init__(self) -> None:
        self.hours: set[int] = set()
        self._latest: deque[int] = deque(maxlen=_OPEN_HOURS)
        self._quarantined: set[int] = set()

    def look(self, hour: int, judgements: Mapping[int, HourEvaluation], *, accepted_since: int | None) -> None:
        """See what judging up to an hour has changed; to be called for each hour."""
        self._latest.append(hour)
        freed = {start for start in self._quarantined if not judgements[start].quarantined}
        self.hours |= {start for start in freed if accepted_since is None or start < accepted_since}
        self._quarantined -= freed
        self._quarantined.update(
            start for start in self._latest if start in judgements and judgements[start].quarantined
        )


def _quarantined(judgements: Mapping[int, HourEvaluation]) -> tuple[int, ...]:
    return tuple(sorted(start for start, judgement in judgements.items() if judgement.quarantined))


def _start_ns(request: RequestSample) -> int:
    return request.start_ns
