"""Evaluation of a series' history, in time order and independent of the order in which its windows were read.

History passes through the same tick as live traffic, at every mark; then each hour is settled. Incidents are therefore
quarantined before the first live verdict. The resulting :class:`SeriesState` is small enough to be stored beside each
series, and evaluation continues from it with the next hour.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from exporter.baseline.traffic import HourPattern, requests_by_mark
from exporter.detection.detector import Detector, Expectation, SeriesState
from exporter.detection.errors.history import ErrorTracker
from exporter.detection.errors.verdict import ErrorExplanation
from exporter.detection.explanation import Explanation
from exporter.detection.flag import FlagChange, FlagPeriod
from exporter.detection.measurement import HourMeasurement, measure_hour
from exporter.detection.parameters import LONG_WINDOW_MARKS, SUSPICION_SECONDS
from exporter.detection.prediction import Prediction, SlowHour
from exporter.detection.regression.tracker import RegressionTracker
from exporter.detection.regression.verdict import RegressionChange
from exporter.detection.schedule import HourThresholds, LazySchedule
from exporter.detection.settlement import (
    SettledHour,
    accepted_streak,
    extended_run,
    extended_streak,
    is_anomalous,
    is_elevated,
    is_new_baseline,
)
from exporter.detection.small_shift import can_be_small_shift, find_small_shift
from exporter.detection.tail_shift import find_tail_shift
from exporter.detection.thresholds import Floors
from exporter.detection.tick import FlagTracker
from exporter.detection.tolerance import Tolerance, is_tolerant, raised_in, remembered, traffic_ratio
from exporter.detection.traffic.history import SeriesTraffic, TrafficTracker
from exporter.detection.traffic.verdict import TrafficEvidence
from exporter.detection.verdict import can_be_shifted, exceeds_some
from exporter.detection.window import MarkedTraces, SweptWindow, gated_positions
from exporter.model.calendar import HOUR_SECONDS, LocalHour
from exporter.model.histogram import HIGHEST_BUCKET
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.hour_evaluation import NOT_EVALUATED, HourEvaluation, ShiftPeriod
from exporter.model.hours import SeriesHours
from exporter.model.series_hour import SeriesHour


@dataclass(slots=True)
class HistoryProgress:
    """Result of evaluating more of a series' history.

    Attributes:
        state: state from which the next evaluation continues.
        evaluations: new and changed evaluations, by start of the hour.
        accepted: changepoints of accepted changes.
        accepted_at: when each of them was accepted, Unix seconds.
        released: starts of hours that were quarantined and turned out to recur.
        changes: transitions of the flag.
        shifts: the times in which the flag fired. One that began before is among them if it ended now or still fires,
            with the highest score since then.
        regressions: regressions that were found, went away or were accepted.
        flag_periods: the times in which the error flag and the traffic flag fired; one that began before is among them
            as in ``shifts``.
        error_changes: transitions of the error flag.
        accepted_errors: changepoints of accepted changes of the error ratio.
        traffic_changes: transitions of the traffic flag.
        accepted_traffic: changepoints of accepted drops of traffic.
        last: start and thresholds of the last hour, where :meth:`.Detector.expect` would yield the same for it now
            without suspects; None otherwise, and without thresholds.
    """

    state: SeriesState
    evaluations: dict[int, HourEvaluation] = field(default_factory=dict)
    accepted: list[int] = field(default_factory=list)
    accepted_at: list[int] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    changes: list[FlagChange[Explanation]] = field(default_factory=list)
    shifts: list[ShiftPeriod] = field(default_factory=list)
    regressions: list[RegressionChange] = field(default_factory=list)
    flag_periods: list[FlagPeriod] = field(default_factory=list)
    error_changes: list[FlagChange[ErrorExplanation]] = field(default_factory=list)
    accepted_errors: list[int] = field(default_factory=list)
    traffic_changes: list[FlagChange[TrafficEvidence]] = field(default_factory=list)
    accepted_traffic: list[int] = field(default_factory=list)
    last: HourThresholds | None = field(default=None, repr=False, compare=False)


def advance(
    detector: Detector,
    history: SeriesHours,
    until: int,
    state: SeriesState | None = None,
    *,
    suspects: Collection[int] = (),
    traffic: SeriesTraffic | None = None,
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
        traffic: counts of the series and its source; without them, traffic is not evaluated.

    Raises:
        DamagedDigestError: stored bytes are damaged. The history is then partly evaluated and must not be used.
    """
    return HistoryEvaluation(detector, history, begun(history, until, state), suspects, traffic).run(until)


def begun(history: SeriesHours, until: int, state: SeriesState | None) -> SeriesState:
    """Return the state from which :func:`advance` begins; without one, the evaluations of the history become void."""
    if state is not None:
        return state
    for hour in history:
        if hour.evaluation != NOT_EVALUATED:
            history.set_evaluation(hour, NOT_EVALUATED)
    first = next(iter(history), None)
    return SeriesState(until if first is None else min(first.start, until))


class HistoryEvaluation:
    """Evaluation of one series, in progress."""

    def __init__(
        self,
        detector: Detector,
        history: SeriesHours,
        state: SeriesState,
        suspects: Collection[int],
        traffic: SeriesTraffic | None,
    ) -> None:
        self._detector = detector
        self._history = history
        self._changepoint = state.changepoint
        self._stream = state.stream
        self._run = state.run
        self._streak = state.streak
        self._tracker = FlagTracker(detector.parameters, state.flag, {*state.suspects, *suspects})
        self._schedule = LazySchedule(state.schedule)
        self._recent = MarkedTraces(state.recent)
        self._pattern = state.pattern
        self._tolerances = state.tolerances
        # Whether evaluating the last hour has changed something that its own baseline depends on.
        self._is_outdated = True
        self._regression = RegressionTracker(detector.parameters, state.regression)
        if self._regression.is_empty:
            # An older version, which knew no regressions, may have stored the state.
            for hour in history:
                if hour.start < state.until:
                    self._regression.add(hour)
                    self._regression.set_quarantined(hour.start, quarantined=hour.is_quarantined)
        self._errors = ErrorTracker(detector.rules, detector.parameters, detector.clock, state.errors)
        self._progress = HistoryProgress(
            state,
            changes=self._tracker.changes,
            regressions=self._regression.changes,
            error_changes=self._errors.changes,
            accepted_errors=self._errors.accepted,
        )
        self._traffic: TrafficTracker | None = None
        if traffic is not None:
            self._traffic = TrafficTracker(traffic, detector.parameters, detector.clock, state.traffic)
            self._progress.traffic_changes = self._traffic.changes
            self._progress.accepted_traffic = self._traffic.accepted

    def run(self, until: int) -> HistoryProgress:
        """Evaluate the hours that end by ``until``."""
        clock = self._detector.clock
        position = self._progress.state.until
        while (hour := clock.hour(position)).end <= until:
            position = self._evaluate_next(hour)
        self._complete()
        self._recent.discard(position, self._detector.parameters)
        suspects = (start for start in self._tracker.suspects if start >= position - SUSPICION_SECONDS)
        self._progress.state = SeriesState(
            until=position,
            changepoint=self._changepoint,
            run=self._run,
            suspects=tuple(sorted(suspects)),
            flag=self._tracker.flag,
            schedule=self._schedule.hours,
            recent=self._recent.encoded(),
            stream=self._stream,
            streak=self._streak,
            regression=self._regression.state(),
            errors=self._errors.state(position),
            pattern=self._pattern,
            traffic=self._progress.state.traffic
            if self._traffic is None
            else self._traffic.state(position, self._detector.rules.lookback_seconds),
            tolerances=tuple(remembered(self._tolerances, position)),
        )
        self._progress.shifts = self._tracker.shifts
        schedule = self._progress.state.schedule
        if not self._is_outdated and schedule and clock.hour(schedule[0].start).end == position:
            self._progress.last = schedule[0]
        self._progress.flag_periods = self._errors.periods + ([] if self._traffic is None else self._traffic.periods)
        return self._progress

    def _complete(self) -> None:
        """Bring up to date what the state consists of, after the last hour."""

    def _evaluate_next(self, hour: LocalHour) -> int:
        """Evaluate an hour, and maybe hours after it; returns the end of the last one."""
        self._is_outdated = False
        stream = self._stream
        self._evaluate_hour(hour)
        self._is_outdated |= self._stream != stream or bool(self._tolerances)
        self._regression.evaluate(hour, is_judged=self._detector.is_judged(self._stream))
        return hour.end

    def _evaluate_hour(self, local_hour: LocalHour) -> None:
        parameters = self._detector.parameters
        recent = self._recent
        recent.discard(local_hour.start, parameters)
        hour = self._history.at(local_hour.start)
        normal = self._detector.normal_marks(local_hour)
        if normal is not None:
            self._tracker.reset(local_hour.start)
            self._tracker.suspects.discard(local_hour.start)
        elif hour is None and self._tracker.is_idle(len(recent)) and not recent.any_after(local_hour.start):
            self._schedule = LazySchedule()
            self._evaluate_errors(local_hour, None, ())
            self._evaluate_traffic(local_hour, (), self._pattern)
            return
        marks = [] if hour is None else self._marks(hour)
        recent.add(marks)
        pattern = self._pattern
        if hour is not None:
            self._pattern = pattern.with_hour(requests_by_mark(marks, local_hour.start))
        expected = self._expect(local_hour)
        self._stream = expected.stream
        if expected.pool is not None:
            for recurring in expected.pool.released:
                self._is_outdated = True
                self._set_evaluation(recurring, recurring.evaluation._replace(quarantined=False))
                self._progress.released.append(recurring.start)
        self._schedule = self._schedule.followed_by(
            local_hour.start, expected.prediction, parameters.max_window_seconds
        )
        requests = [(mark, len(buckets)) for mark, buckets in marks]
        if normal is not None:
            measured = self._measure_normal(local_hour, expected, hour, marks, normal)
        else:
            measured = self._tick_through(local_hour, expected)
            self._evaluate_errors(local_hour, hour, requests)
        self._evaluate_traffic(local_hour, requests, pattern)
        if hour is not None:
            self._regression.add(hour)
        if hour is not None and expected.has_verdict:
            if normal is not None or (self._tolerances and is_tolerant(self._tolerances, local_hour)):
                # What is tolerated at this time of the day must not be tolerated at any other.
                measured = HourMeasurement()
            self._settle(hour, expected, measured, is_normal=normal is not None)
            if self._run and is_new_baseline(self._run, parameters):
                self._accept(self._run[0].start, local_hour)
            elif (
                expected.runs is None
                and expected.prediction is not None
                and parameters.parts.streak
                and normal is None
                and (accepted := self._accepted_streak(hour, expected.prediction))
            ):
                self._accept(accepted[0].start, local_hour)

    def _marks(self, hour: SeriesHour) -> Sequence[tuple[int, list[int]]]:
        return hour.marks()

    def _expect(self, local_hour: LocalHour) -> Expectation:
        return self._detector.expect(
            self._history,
            local_hour,
            changepoint=self._changepoint,
            stream=self._stream,
            tolerances=self._tolerances,
        )

    def _evaluate_errors(
        self, local_hour: LocalHour, hour: SeriesHour | None, requests: Sequence[tuple[int, int]]
    ) -> None:
        self._errors.evaluate(
            self._history,
            local_hour,
            hour,
            requests,
            is_enabled=self._detector.judges_errors,
            tolerances=self._tolerances,
        )

    def _measure_normal(
        self,
        local_hour: LocalHour,
        expected: Expectation,
        hour: SeriesHour | None,
        marks: Sequence[tuple[int, Sequence[int]]],
        normal: tuple[int, int],
    ) -> HourMeasurement:
        """Measure an hour that people have marked as normal, without ticks, and remember what is tolerated from now on.

        Args:
            local_hour: the hour.
            expected: its baseline.
            hour: its traces; None without traffic.
            marks: the same by mark.
            normal: the first mark of the hour in the marked range, from 0, and the one behind the last.
        """
        self._is_outdated = True
        first, behind = normal
        since, until = local_hour.start + first * MARK_SECONDS, local_hour.start + behind * MARK_SECONDS
        measured = self._measure(
            local_hour,
            expected,
            self._swept(range(local_hour.start + MARK_SECONDS, local_hour.end + 1, MARK_SECONDS)),
        )
        counts = [(mark, len(buckets)) for mark, buckets in marks]
        error_ratio = self._errors.evaluate_normal(local_hour, hour, counts, since, until)
        requests = [count for mark, count in counts if since < mark <= until]
        ended = [bucket for mark, buckets in marks if since < mark <= until for bucket in buckets]
        tolerance = Tolerance(
            local_hour.start,
            local_hour.slot.hour,
            first,
            behind,
            raised_in(measured.deviations, first, behind),
            max(ended, default=None),
            error_ratio,
            traffic_ratio(self._history, local_hour, requests, self._pattern.shares[first:behind])
            if self._pattern.is_known
            else 1.0,
        )
        self._tolerances = (*self._tolerances, tolerance)
        # Windows of the hours behind do not contain it.
        self._recent.drop(since, until)
        return measured

    def _evaluate_traffic(
        self, local_hour: LocalHour, requests: Sequence[tuple[int, int]], pattern: HourPattern
    ) -> None:
        if self._traffic is not None:
            is_judged = self._detector.is_judged(self._stream)
            self._traffic.tolerances = self._tolerances
            self._traffic.evaluate(local_hour, requests, pattern, is_judged=is_judged)

    def _tick_through(self, local_hour: LocalHour, expected: Expectation) -> HourMeasurement:
        """Tick at the marks of an hour, except where no tick is needed; return how its windows compare."""
        marks = range(local_hour.start + MARK_SECONDS, local_hour.end + 1, MARK_SECONDS)
        if expected.runs is not None:
            for mark in marks:
                if self._tracker.needs_tick(expected.runs.can_be_slow(self._recent, mark)):
                    self._tracker.tick(self._recent.recent(), mark, self._schedule, expected.pool, expected.runs)
            return self._measure(local_hour, expected, self._swept(marks))
        if self._tracker.is_idle(len(self._recent)):
            return HourMeasurement()
        if expected.prediction is None:
            for mark in marks:
                if self._tracker.needs_tick(can_be_shifted=False):
                    self._tick(mark, expected)
            return HourMeasurement()
        windows = self._swept(marks)
        gates, tail = self._schedule.lowest_gates(), self._schedule.lowest_tail
        # No trace is above it where the slowest ones are not counted.
        tail = HIGHEST_BUCKET if tail is None else tail
        is_active = self._tracker.needs_tick(can_be_shifted=False)
        for instants, buckets, since in windows:
            if not is_active:
                # Nearly always no test can be positive. This is exceeds_some(), without calling it a million times.
                for position, gate in zip(gated_positions(len(buckets)), gates):  # noqa: B905 - may be empty
                    if buckets[position] > gate:
                        break
                else:
                    if not buckets or buckets[-1] <= tail:
                        continue
            self._tick_window(instants, buckets, since, expected, has_tail=bool(buckets) and buckets[-1] > tail)
            is_active = self._tracker.needs_tick(can_be_shifted=False)
        return self._measure(local_hour, expected, windows)

    def _swept(self, marks: Sequence[int]) -> list[SweptWindow]:
        return self._recent.sweep(marks, self._schedule.since, self._detector.parameters)

    def _measure(self, local_hour: LocalHour, expected: Expectation, windows: list[SweptWindow]) -> HourMeasurement:
        prediction = expected.prediction
        if prediction is None:
            return HourMeasurement()
        halves = self._halves(local_hour) if prediction.has_long_window else []
        return measure_hour(prediction.reference, windows, halves, self._deviations_before(local_hour))

    def _tick_window(
        self, instants: Sequence[int], buckets: Sequence[int], since: int, expected: Expectation, *, has_tail: bool
    ) -> None:
        """Tick at the instants that share an evaluation window, if a test can be positive or the flag is active.

        Args:
            instants: marks.
            buckets: buckets of the window in ascending order.
            since: the window begins after this second.
            expected: the baseline.
            has_tail: whether the window contains one of the slowest traces, those that are counted in longer windows.
        """
        floors, small_floors = self._schedule.bounds
        possible = floors is not None and can_be_shifted(buckets, floors, self._detector.parameters)
        is_small = not possible and small_floors is not None and exceeds_some(buckets, small_floors.gates)
        if not possible and (is_small or has_tail):
            for mark in instants:
                if (
                    self._tracker.needs_tick(can_be_shifted=False)
                    or (is_small and small_floors and self._is_small_shift(mark, buckets, since, small_floors))
                    or (has_tail and self._is_tail_shift(mark))
                ):
                    self._tick(mark, expected)
        elif self._tracker.needs_tick(possible):
            for mark in instants:
                self._tick(mark, expected)

    def _is_small_shift(self, mark: int, buckets: Sequence[int], since: int, floors: Floors) -> bool:
        """Whether a test for small shifts is positive at a mark whose evaluation window begins after ``since``."""
        parameters = self._detector.parameters
        # The bounds hold for the whole window; the tests leave out hours without thresholds for small shifts.
        if since >= self._schedule.small_since:
            long_traces = self._recent.count_between(mark - LONG_WINDOW_MARKS * MARK_SECONDS, mark)
            if not can_be_small_shift(buckets, long_traces, floors, parameters):
                return False
        return find_small_shift(self._recent, mark, since, self._schedule.small(), parameters) is not None

    def _is_tail_shift(self, mark: int) -> bool:
        return find_tail_shift(self._recent, mark, self._schedule.small(), self._detector.parameters) is not None

    def _halves(self, local_hour: LocalHour) -> list[list[int]]:
        """Return the sorted buckets of the windows of half an hour that end in an hour."""
        length = LONG_WINDOW_MARKS * MARK_SECONDS
        return [
            self._recent.between(start, start + length)
            for start in range(local_hour.start, local_hour.end - length + 1, length)
        ]

    def _deviations_before(self, local_hour: LocalHour) -> bytes:
        before = self._history.at(local_hour.start - HOUR_SECONDS)
        return b"" if before is None else before.evaluation.deviations

    def _tick(self, mark: int, expected: Expectation) -> None:
        self._tracker.tick(self._recent.recent(), mark, self._schedule, expected.pool)

    def _settle(self, hour: SeriesHour, expected: Expectation, measured: HourMeasurement, *, is_normal: bool) -> None:
        suspects = self._tracker.suspects
        anomalous = elevated = hour.start in suspects
        if not anomalous and not is_normal and expected.runs is None and expected.prediction is not None:
            anomalous, elevated = self._classify(hour, expected.prediction)
        self._set_evaluation(hour, HourEvaluation(anomalous, *measured))
        for start in suspects:
            touched = self._history.at(start)
            # The run before the last one may be of yesterday.
            oldest = 0 if expected.runs is not None else hour.start - SUSPICION_SECONDS
            if touched is not None and oldest <= start <= hour.start and not self._is_normal(start):
                self._is_outdated = True
                self._set_evaluation(touched, touched.evaluation._replace(quarantined=True))
        if self._run or anomalous:
            self._run = extended_run(self._run, SettledHour(hour.start, anomalous, elevated))

    def _classify(self, hour: SeriesHour, prediction: Prediction) -> tuple[bool, bool]:
        """Whether an hour is anomalous, and whether it is elevated.

        For most hours the floors suffice, and the thresholds are not computed. Outside of a run an hour that is not
        anomalous is reported as not elevated, because it cannot begin one.
        """
        if not self._run and prediction.is_usual(hour):
            return False, False
        parameters, digest, floors = self._detector.parameters, hour.digest, prediction.floor_thresholds
        if not is_anomalous(digest, floors, parameters) and not (self._run and is_elevated(digest, floors)):
            return False, False
        thresholds = prediction.thresholds
        anomalous = is_anomalous(digest, thresholds, parameters)
        return anomalous, anomalous or is_elevated(digest, thresholds)

    def _accepted_streak(self, hour: SeriesHour, prediction: Prediction) -> Sequence[SlowHour]:
        slow = prediction.slow_hour(hour) if self._streak or prediction.is_slow(hour) else None
        if slow is None:
            # Nearly always: no streak begins.
            return ()
        self._streak = extended_streak(self._streak, slow)
        correlation = prediction.floor_thresholds.correlation
        return accepted_streak(self._streak, correlation, self._detector.parameters) if self._streak else ()

    def _accept(self, changepoint: int, local_hour: LocalHour) -> None:
        """Accept the change that began at ``changepoint``: release its hours, and restart the swing from its prior."""
        self._changepoint = changepoint
        self._is_outdated = True
        self._history.discard_before(changepoint)
        for hour in self._history:
            if hour.start <= local_hour.start:
                self._set_evaluation(hour, NOT_EVALUATED)
        self._run = ()
        self._streak = ()
        # By these thresholds the accepted behaviour is a shift.
        self._schedule = LazySchedule()
        tracker = self._tracker
        tracker.reset(local_hour.end)
        tracker.suspects = {start for start in tracker.suspects if start < changepoint or start > local_hour.start}
        self._progress.accepted.append(changepoint)
        self._progress.accepted_at.append(local_hour.end)

    def _is_normal(self, start: int) -> bool:
        detector = self._detector
        return detector.own_marks is not None and detector.normal_marks(detector.clock.hour(start)) is not None

    def _set_evaluation(self, hour: SeriesHour, evaluation: HourEvaluation) -> None:
        if evaluation != hour.evaluation:
            self._history.set_evaluation(hour, evaluation)
            self._regression.set_quarantined(hour.start, quarantined=evaluation.quarantined)
        self._progress.evaluations[hour.start] = evaluation
