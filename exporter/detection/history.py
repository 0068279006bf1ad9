"""Evaluation of a series' history, in time order and independent of the order in which its windows were read.

History passes through the same tick as live traffic, at every mark; then each hour is settled. Incidents are therefore
quarantined before the first live verdict. The resulting :class:`SeriesState` is small enough to be stored beside each
series, and evaluation continues from it with the next hour.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from exporter.detection.detector import Detector, Expectation, SeriesState
from exporter.detection.parameters import SUSPICION_SECONDS
from exporter.detection.schedule import LazySchedule
from exporter.detection.settlement import SettledHour, extended_run, is_anomalous, is_elevated, is_new_baseline
from exporter.detection.thresholds import Prediction
from exporter.detection.tick import FlagChange, FlagTracker
from exporter.detection.verdict import can_be_shifted
from exporter.detection.window import MarkedTraces
from exporter.model.calendar import LocalHour
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.hours import NO_SWINGS, NOT_EVALUATED, HourEvaluation, SeriesHour, SeriesHours, Swings


@dataclass(slots=True)
class HistoryProgress:
    """Result of evaluating more of a series' history.

    Attributes:
        state: state from which the next evaluation continues.
        evaluations: new and changed evaluations, by start of the hour.
        accepted: changepoints of accepted changes.
        released: starts of hours that were quarantined and turned out to recur.
        changes: transitions of the flag.
    """

    state: SeriesState
    evaluations: dict[int, HourEvaluation] = field(default_factory=dict)
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
    """Evaluate the settled hours of a series that are not evaluated yet, in time order.

    The result does not depend on how the hours are divided among calls, nor on encoding the state in between. If an
    hour older than ``state.until`` appears, because its window was read late, all stored evaluations of the series are
    void: start again without a state.

    Args:
        detector: the rules.
        history: hours of the series in the look-back, with their evaluations; those to be evaluated with marks. It is
            updated: evaluations are set, and hours out of reach are dropped.
        until: start of the first hour that is not settled, Unix seconds.
        state: result of the previous call; None to start with the oldest hour.
        suspects: starts of hours touched by a live firing flag. When a change is accepted, those of settled hours
            become void, and the caller drops them.

    Raises:
        DamagedDigestError: stored bytes are damaged. The history is then partly evaluated and must not be used.
    """
    if state is None:
        for hour in history:
            if hour.evaluation != NOT_EVALUATED:
                history.set_evaluation(hour, NOT_EVALUATED)
        first = next(iter(history), None)
        state = SeriesState(until if first is None else min(first.start, until))
    return _HistoryEvaluation(detector, history, state, suspects).run(until)


class _HistoryEvaluation:
    """Evaluation of one series, in progress."""

    def __init__(self, detector: Detector, history: SeriesHours, state: SeriesState, suspects: Collection[int]) -> None:
        self._detector = detector
        self._history = history
        self._changepoint = state.changepoint
        self._run = state.run
        self._tracker = FlagTracker(detector.parameters, state.flag, {*state.suspects, *suspects})
        self._schedule = LazySchedule(state.schedule)
        self._recent = MarkedTraces(state.recent)
        self._progress = HistoryProgress(state, changes=self._tracker.changes)

    def run(self, until: int) -> HistoryProgress:
        """Evaluate the hours that end by ``until``."""
        clock = self._detector.clock
        position = self._progress.state.until
        while (hour := clock.hour(position)).end <= until:
            self._evaluate_hour(hour)
            position = hour.end
        self._recent.discard(position, self._detector.parameters)
        suspects = (start for start in self._tracker.suspects if start >= position - SUSPICION_SECONDS)
        self._progress.state = SeriesState(
            until=position,
            changepoint=self._changepoint,
            run=self._run,
            suspects=tuple(sorted(suspects)),
            flag=self._tracker.flag,
            schedule=self._schedule.hours,
            recent=tuple(self._recent.recent()),
        )
        return self._progress

    def _evaluate_hour(self, local_hour: LocalHour) -> None:
        parameters = self._detector.parameters
        recent = self._recent
        recent.discard(local_hour.start, parameters)
        hour = self._history.at(local_hour.start)
        if hour is None and self._tracker.is_idle(len(recent)):
            self._schedule = LazySchedule()
            return
        if hour is not None:
            recent.add(hour.marks())
        expected = self._detector.expect(self._history, local_hour, changepoint=self._changepoint)
        if expected.pool is not None:
            for recurring in expected.pool.released:
                self._set_evaluation(recurring, recurring.evaluation._replace(quarantined=False))
                self._progress.released.append(recurring.start)
        self._schedule = self._schedule.followed_by(
            local_hour.start, expected.prediction, parameters.max_window_seconds
        )
        swings = self._tick_through(local_hour, expected)
        if hour is not None and expected.prediction is not None:
            self._settle(hour, expected.prediction, swings)
            if is_new_baseline(self._run, parameters):
                self._accept(self._run[0].start, local_hour)

    def _tick_through(self, local_hour: LocalHour, expected: Expectation) -> Swings:
        """Tick at the marks of an hour, except where no tick is needed; return the swings of its windows."""
        if self._tracker.is_idle(len(self._recent)):
            return NO_SWINGS
        marks = range(local_hour.start + MARK_SECONDS, local_hour.end + 1, MARK_SECONDS)
        floors = self._schedule.floors()
        if expected.prediction is None or floors is None:
            for mark in marks:
                if self._tracker.needs_tick(can_be_shifted=False):
                    self._tick(mark, expected)
            return NO_SWINGS
        parameters = self._detector.parameters
        windows = self._recent.sweep(marks, self._schedule.since, parameters)
        for instants, buckets in windows:
            if self._tracker.needs_tick(can_be_shifted(buckets, floors, parameters)):
                for mark in instants:
                    self._tick(mark, expected)
        return expected.prediction.measure_swings(windows)

    def _tick(self, mark: int, expected: Expectation) -> None:
        self._tracker.tick(self._recent.recent(), mark, self._schedule, expected.pool)

    def _settle(self, hour: SeriesHour, prediction: Prediction, swings: Swings) -> None:
        suspects = self._tracker.suspects
        anomalous, elevated = (True, True) if hour.start in suspects else self._classify(hour, prediction)
        self._set_evaluation(hour, HourEvaluation(anomalous, swings))
        for start in suspects:
            touched = self._history.at(start)
            if touched is not None and hour.start - SUSPICION_SECONDS <= start <= hour.start:
                self._set_evaluation(touched, touched.evaluation._replace(quarantined=True))
        self._run = extended_run(self._run, SettledHour(hour.start, anomalous, elevated))

    def _classify(self, hour: SeriesHour, prediction: Prediction) -> tuple[bool, bool]:
        """Whether an hour is anomalous, and whether it is elevated.

        For most hours the floors suffice, and the thresholds are not computed. Outside of a run an hour that is not
        anomalous is reported as not elevated, because it cannot begin one.
        """
        parameters, digest, floors = self._detector.parameters, hour.digest, prediction.floor_thresholds
        if not is_anomalous(digest, floors, parameters) and not (self._run and is_elevated(digest, floors)):
            return False, False
        thresholds = prediction.thresholds
        anomalous = is_anomalous(digest, thresholds, parameters)
        return anomalous, anomalous or is_elevated(digest, thresholds)

    def _accept(self, changepoint: int, local_hour: LocalHour) -> None:
        """Accept the change that began at ``changepoint``: release its hours, and restart the swing from its prior."""
        self._changepoint = changepoint
        self._history.discard_before(changepoint)
        for hour in self._history:
            if hour.start <= local_hour.start:
                self._set_evaluation(hour, NOT_EVALUATED)
        self._run = ()
        # By these thresholds the accepted behaviour is a shift.
        self._schedule = LazySchedule()
        tracker = self._tracker
        tracker.reset(local_hour.end)
        tracker.suspects = {start for start in tracker.suspects if start < changepoint or start > local_hour.start}
        self._progress.accepted.append(changepoint)

    def _set_evaluation(self, hour: SeriesHour, evaluation: HourEvaluation) -> None:
        if evaluation != hour.evaluation:
            self._history.set_evaluation(hour, evaluation)
        self._progress.evaluations[hour.start] = evaluation
