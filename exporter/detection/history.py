"""The memory of a series: its past hours judged in time order, whatever the order in which they were read.

The past goes through the same tick as the present, at the marks of the clock; then each hour is settled. So incidents
are quarantined before the first live verdict. What has been judged is a :class:`SeriesState`, small enough to store
beside each series, from which judging goes on with the next hour as if it had never stopped.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from exporter.baseline.levels import Baseline
from exporter.detection.detector import Detector, Outlook
from exporter.detection.explanation import Explanation
from exporter.detection.flag import INACTIVE, FlagEvent
from exporter.detection.marked import MarkedTraces
from exporter.detection.parameters import MIN_JUDGED, SUSPICION_SECONDS, Parameters
from exporter.detection.schedule import LazySchedule
from exporter.detection.settlement import SettledHour, extended_run, is_anomalous, is_elevated, is_new_normal
from exporter.detection.state import SeriesState
from exporter.detection.thresholds import Prediction
from exporter.detection.tick import Tick, tick
from exporter.detection.verdict import can_be_shifted
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.hours import NO_SWINGS, UNJUDGED, CivilHour, Hour, Judgement, SeriesHours, Swings


class FlagChange(NamedTuple):
    """A flag that rose or fell while the past was judged.

    Attributes:
        at: the time of the tick, unix seconds.
        event: what happened.
        explanation: why it rose.
    """

    at: int
    event: FlagEvent
    explanation: Explanation | None


def flag_change(at: int, found: Tick, outlook: Outlook, parameters: Parameters) -> FlagChange | None:
    """What a tick changed, put into words; None where it changed nothing."""
    if found.event is None:
        return None
    explanation = None
    if found.verdict is not None and found.verdict.evidence is not None and outlook.pool is not None:
        explanation = Explanation.of(found.verdict.evidence, Baseline.of(outlook.pool), parameters)
    return FlagChange(at, found.event, explanation)


@dataclass(slots=True)
class HistoryProgress:
    """What judging some more of the past has found.

    Attributes:
        state: where to go on.
        judgements: every judgement that is new or has changed, by the start of the hour.
        accepted: the changepoints of changes that were accepted as the new normal.
        released: starts of hours that were quarantined and turned out to recur.
        changes: flags that rose and fell.
    """

    state: SeriesState
    judgements: dict[int, Judgement] = field(default_factory=dict)
    accepted: list[int] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    changes: list[FlagChange] = field(default_factory=list)


def advance(
    detector: Detector,
    history: SeriesHours,
    until: int,
    state: SeriesState | None = None,
    *,
    suspects: Collection[int] = (),
) -> HistoryProgress:
    """Judge the hours of a series that are not judged yet, in time order.

    The result is the same whether this is done at once or hour by hour, and with or without a round trip of the state.
    Where an hour turns up that is older than ``state.until``, because its window was read late, start again without a
    state; every judgement that was stored for the series is then void.

    Args:
        detector: the rules.
        history: the series' hours in the look-back, with their judgements; the new ones with their marks. It is brought
            up to date: hours are judged in it, and those out of reach are dropped.
        until: start of the first hour that is not settled yet, unix seconds.
        state: where the last call has stopped; None to begin with the oldest hour.
        suspects: starts of hours that the live edge found suspect. When a change is accepted, those of hours that
            are settled lose their meaning, and the caller drops them.

    Raises:
        DamagedDigestError: stored bytes are damaged; the history is then partly judged, so throw it away.
    """
    if state is None:
        for hour in history:
            if hour.judgement != UNJUDGED:
                history.judge(hour, UNJUDGED)
        first = next(iter(history), None)
        state = SeriesState(until if first is None else min(first.start, until))
    return _Fold(detector, history, state, suspects).run(until)


class _Fold:
    """The judging of one series, under way."""

    def __init__(self, detector: Detector, history: SeriesHours, state: SeriesState, suspects: Collection[int]) -> None:
        self._detector = detector
        self._history = history
        self._changepoint = state.changepoint
        self._run = state.run
        self._suspects = {*state.suspects, *suspects}
        self._flag = state.flag
        self._schedule = LazySchedule(state.schedule)
        self._recent = MarkedTraces(state.recent)
        self._progress = HistoryProgress(state)

    def run(self, until: int) -> HistoryProgress:
        """Judge the hours that end by ``until``."""
        clock = self._detector.clock
        position = self._progress.state.until
        while (civil := clock.hour(position)).end <= until:
            self._judge_hour(civil)
            position = civil.end
        self._recent.discard(position, self._detector.parameters)
        self._progress.state = SeriesState(
            until=position,
            changepoint=self._changepoint,
            run=self._run,
            suspects=tuple(sorted(start for start in self._suspects if start >= position - SUSPICION_SECONDS)),
            flag=self._flag,
            schedule=self._schedule.hours,
            recent=tuple(self._recent.recent()),
        )
        return self._progress

    def _judge_hour(self, civil: CivilHour) -> None:
        parameters = self._detector.parameters
        recent = self._recent
        recent.discard(civil.start, parameters)
        hour = self._history.at(civil.start)
        if hour is None and len(recent) < MIN_JUDGED and self._flag == INACTIVE:
            self._schedule = LazySchedule()
            return
        if hour is not None:
            recent.add(hour.marks())
        outlook = self._detector.expect(self._history, civil, changepoint=self._changepoint)
        if outlook.pool is not None:
            for recurring in outlook.pool.released:
                self._judge(recurring, recurring.judgement._replace(quarantined=False))
                self._progress.released.append(recurring.start)
        self._schedule = self._schedule.followed_by(civil.start, outlook.prediction, parameters.max_window_seconds)
        swings = self._tick_through(civil, outlook)
        if hour is not None and outlook.prediction is not None:
            self._settle(hour, outlook.prediction, swings)
            if is_new_normal(self._run, parameters):
                self._accept(self._run[0].start, civil)

    def _tick_through(self, civil: CivilHour, outlook: Outlook) -> Swings:
        """Tick at the marks of an hour; returns how far its windows lay from the prediction.

        A tick can only change something if the flag is up or pending, or the window is a shift by the least that the
        gates can be; all others are passed over.
        """
        if len(self._recent) < MIN_JUDGED and self._flag == INACTIVE:
            return NO_SWINGS
        marks = range(civil.start + MARK_SECONDS, civil.end + 1, MARK_SECONDS)
        if outlook.prediction is None:
            for mark in marks:
                if self._flag != INACTIVE:
                    self._tick(mark, outlook)
            return NO_SWINGS
        parameters = self._detector.parameters
        windows = self._recent.sweep(marks, self._schedule.since, parameters)
        floors = self._schedule.floors()
        for instants, buckets in windows:
            suspicious = can_be_shifted(buckets, floors, parameters)
            if suspicious or self._flag != INACTIVE:
                for mark in instants:
                    self._tick(mark, outlook)
        return outlook.prediction.swings_of(windows)

    def _tick(self, mark: int, outlook: Outlook) -> None:
        found = tick(self._recent.recent(), mark, self._schedule.hours, self._flag, self._detector.parameters)
        self._flag = found.flag
        self._suspects.update(found.suspects)
        change = flag_change(mark, found, outlook, self._detector.parameters)
        if change is not None:
            self._progress.changes.append(change)

    def _settle(self, hour: Hour, prediction: Prediction, swings: Swings) -> None:
        suspect = hour.start in self._suspects
        anomalous, elevated = (True, True) if suspect else self._remarkable(hour, prediction)
        self._judge(hour, Judgement(anomalous, swings))
        for start in self._suspects:
            touched = self._history.at(start)
            if touched is not None and hour.start - SUSPICION_SECONDS <= start <= hour.start:
                self._judge(touched, touched.judgement._replace(quarantined=True))
        self._run = extended_run(self._run, SettledHour(hour.start, anomalous, elevated))

    def _remarkable(self, hour: Hour, prediction: Prediction) -> tuple[bool, bool]:
        """Whether an hour is anomalous, and whether it is elevated; for most hours the floors are enough to tell.

        Outside of a run nobody asks whether an hour that is not anomalous is elevated, so then it counts as not.
        """
        parameters, digest, floors = self._detector.parameters, hour.digest, prediction.floors
        if not is_anomalous(digest, floors, parameters) and not (self._run and is_elevated(digest, floors)):
            return False, False
        thresholds = prediction.thresholds
        anomalous = is_anomalous(digest, thresholds, parameters)
        return anomalous, anomalous or is_elevated(digest, thresholds)

    def _accept(self, changepoint: int, civil: CivilHour) -> None:
        """What has begun at ``changepoint`` is the new normal: its hours are released, and the swing starts anew."""
        self._changepoint = changepoint
        self._history.discard_before(changepoint)
        for hour in self._history:
            if hour.start <= civil.start:
                self._judge(hour, UNJUDGED)
        self._run = ()
        # By these the new normal is a shift: nothing must be held against them any more.
        self._schedule = LazySchedule()
        if self._flag.firing:
            self._progress.changes.append(FlagChange(civil.end, FlagEvent.RESOLVED, None))
        self._flag = INACTIVE
        self._suspects = {start for start in self._suspects if start < changepoint or start > civil.start}
        self._progress.accepted.append(changepoint)

    def _judge(self, hour: Hour, judgement: Judgement) -> None:
        if judgement != hour.judgement:
            self._history.judge(hour, judgement)
        self._progress.judgements[hour.start] = judgement
