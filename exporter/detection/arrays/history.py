"""Evaluation of a long history: the same as :mod:`exporter.detection.history`, with arrays for the hours as usual.

This module needs numpy. Only the worker processes that evaluate long histories import it.
"""

from collections.abc import Collection, Sequence
from typing import Final

from exporter.detection.arrays.hour_table import HourTable
from exporter.detection.arrays.quiet_hours import QuietHours, can_cover, is_covered_stream
from exporter.detection.detector import Detector, Expectation, SeriesState
from exporter.detection.flag import INACTIVE
from exporter.detection.history import HistoryEvaluation, HistoryProgress, begun
from exporter.detection.measurement import HourMeasurement
from exporter.detection.parameters import LEVEL_MARKS, SUSPICION_SECONDS, TAIL_WINDOWS_MARKS
from exporter.detection.regression.tracker import EVALUATION_HOURS
from exporter.detection.settlement import SettledHour, extended_run, is_new_baseline
from exporter.detection.traffic.history import SeriesTraffic
from exporter.detection.window import MarkedTraces, SweptWindow
from exporter.model.calendar import HOUR_SECONDS, LocalHour
from exporter.model.digest_arrays import UnsuitableError
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.model.hour_evaluation import HourEvaluation
from exporter.model.hours import SeriesHours
from exporter.model.series_hour import SeriesHour

_LEAST_HOURS: Final = 12
"""Arrays do not pay for fewer hours."""
_MOST_WAITED: Final = 64


def advance_with_arrays(
    detector: Detector,
    history: SeriesHours,
    until: int,
    state: SeriesState | None = None,
    *,
    suspects: Collection[int] = (),
    traffic: SeriesTraffic | None = None,
) -> HistoryProgress:
    """Evaluate the settled hours of a series that are not evaluated yet, exactly as :func:`.history.advance` does.

    Raises:
        DamagedDigestError: stored bytes are damaged. The history is then partly evaluated and must not be used.
    """
    state = begun(history, until, state)
    table = _table(detector, history, until, state)
    if table is None:
        return HistoryEvaluation(detector, history, state, suspects, traffic).run(until)
    return _ArrayEvaluation(detector, history, state, suspects, traffic, table, until).run(until)


def _table(detector: Detector, history: SeriesHours, until: int, state: SeriesState) -> HourTable | None:
    """Return the hours as arrays; None where these do not pay or do not suit."""
    if until - state.until < _LEAST_HOURS * HOUR_SECONDS or not can_cover(detector, state):
        return None
    hours = [hour for hour in history if hour.start < until]
    earlier = MarkedTraces(state.recent).by_mark(0, until + 1)
    try:
        return HourTable(hours, state.until, earlier, state.pattern, detector)
    except UnsuitableError:
        return None


class _ArrayEvaluation(HistoryEvaluation):
    """Evaluation of one series, in progress.

    What is known of the last hours, and differs from hour to hour, is brought up to date only before an hour that is
    evaluated on its own: windows, thresholds, sums over the history, and what the errors and the traffic remember.
    """

    def __init__(
        self,
        detector: Detector,
        history: SeriesHours,
        state: SeriesState,
        suspects: Collection[int],
        traffic: SeriesTraffic | None,
        table: HourTable,
        until: int,
    ) -> None:
        super().__init__(detector, history, state, suspects, traffic)
        self._until = until
        # None once arrays cannot be used any more.
        self._table: HourTable | None = table
        self._few_failures = table.has_few_failures(detector.parameters, are_earlier=bool(state.errors.recent))
        self._quiet: QuietHours | None = None
        # Arrays are computed again after so many hours; more each time if they were of little use.
        self._wait = self._waited = 0
        # Positions of hours that the latency, the errors and the traffic have not caught up with.
        self._pending: list[int] = []
        self._pending_errors: list[int] = []
        self._pending_traffic: list[int] = []

    def _evaluate_next(self, hour: LocalHour) -> int:
        table = self._table
        if table is None:
            return super()._evaluate_next(hour)
        index = table.index.get(hour.start)
        quiet = None if index is None or not self._is_calm(hour.start) else self._quiet_from(table, index)
        if quiet is None or index is None:
            return self._evaluate_alone(hour, index)
        row = index - quiet.position
        if quiet.ends[row] > row and self._is_idle:
            return self._pass_by(table, quiet, index, quiet.ends[row] + quiet.position)
        if quiet.is_covered[row] and not quiet.needs_look[row] and self._pass_through(table, quiet, index, hour):
            self._waited += 1
            return hour.end
        return self._evaluate_alone(hour, index)

    def _complete(self) -> None:
        self._catch_up(is_last=True)

    def _is_calm(self, start: int) -> bool:
        """Whether no flag is active or can still quarantine an hour that begins from now on."""
        suspects = self._tracker.suspects
        return self._tracker.flag == INACTIVE and not any(each >= start - SUSPICION_SECONDS for each in suspects)

    @property
    def _is_idle(self) -> bool:
        """Whether nothing is going on that could continue in an hour in which nothing happens."""
        is_calm = self._errors.is_calm and (self._traffic is None or self._traffic.is_calm)
        return is_calm and not self._run and not self._streak

    def _quiet_from(self, table: HourTable, index: int) -> QuietHours | None:
        """Return the arrays for an hour, computed from it on if there are none."""
        is_worth_it = self._until - int(table.starts[index]) >= _LEAST_HOURS * HOUR_SECONDS
        if self._quiet is None and self._waited >= self._wait and is_worth_it:
            most = None if self._traffic is None else self._traffic.most_requests
            self._quiet = QuietHours(
                table, self._detector, index, self._until, self._changepoint, self._few_failures, most
            )
            self._waited = 0
        return self._quiet

    def _evaluate_alone(self, hour: LocalHour, index: int | None) -> int:
        """Evaluate an hour as without arrays, and find out whether these still hold."""
        self._catch_up()
        quiet = self._quiet
        end = super()._evaluate_next(hour)
        self._waited += 1
        if quiet is None:
            return end
        known = None if index is None else self._history.at(hour.start)
        if index is not None and known is not None and known.evaluation != quiet.evaluation(index):
            self._quiet = None
        if not is_covered_stream(self._stream):
            self._table = self._quiet = None
        if self._quiet is None:
            self._wait = min(_MOST_WAITED, 2 * self._wait + 1) if self._waited < _LEAST_HOURS else 0
            self._waited = 0
        return end

    def _pass_by(self, table: HourTable, quiet: QuietHours, first: int, behind: int) -> int:
        """Evaluate hours in which nothing at all can happen; returns the end of the last one."""
        hours, regression = table.hours[first:behind], self._regression
        for index, hour in enumerate(hours, first):
            self._take(quiet, index, hour)
        for pending in (self._pending, self._pending_errors, self._pending_traffic):
            pending.extend(range(first, behind))
        added = 0
        for number, hour in enumerate(hours, 1):
            if number == len(hours) or (hour.slot.hour + 1) % EVALUATION_HOURS == 0:
                regression.add_all(hours[added:number])
                regression.evaluate(self._detector.clock.hour(hour.start))
                added = number
        self._waited += len(hours)
        return hours[-1].start + HOUR_SECONDS

    def _pass_through(self, table: HourTable, quiet: QuietHours, index: int, local_hour: LocalHour) -> bool:
        """Evaluate an hour without ticks; returns False, and changes nothing, if it must be evaluated on its own."""
        row, hour = index - quiet.position, table.hours[index]
        if quiet.is_predicted[row] and not self._settle_quietly(quiet, index, hour):
            return False
        self._forget_until(table, local_hour.start)
        self._take(quiet, index, hour)
        self._pending.append(index)
        self._catch_up_errors()
        requests = table.requests(index)
        self._evaluate_errors(local_hour, hour, requests)
        if self._traffic is not None:
            if self._traffic.is_calm and not quiet.may_drop[row]:
                self._pending_traffic.append(index)
            else:
                self._catch_up_traffic()
                self._evaluate_traffic(local_hour, requests, table.patterns.before(index - table.first))
        self._regression.add(hour)
        self._regression.evaluate(local_hour)
        return True

    def _settle_quietly(self, quiet: QuietHours, index: int, hour: SeriesHour) -> bool:
        """Continue runs and streaks; returns False, and changes nothing, if an hour is anomalous or one is accepted."""
        if quiet.is_usual[index - quiet.position] and not self._run and not self._streak:
            return True
        prediction, streak = quiet.prediction(index), self._streak
        anomalous, elevated = self._classify(hour, prediction)
        if anomalous:
            return False
        run = extended_run(self._run, SettledHour(hour.start, anomalous, elevated)) if self._run else ()
        if (run and is_new_baseline(run, self._detector.parameters)) or self._accepted_streak(hour, prediction):
            self._streak = streak
            return False
        self._run = run
        return True

    def _take(self, quiet: QuietHours, index: int, hour: SeriesHour) -> None:
        """Take the result of an hour from the arrays."""
        if quiet.is_predicted[index - quiet.position]:
            hour.evaluation = self._progress.evaluations[hour.start] = quiet.evaluation(index)
            stream = self._stream
            self._stream = quiet.stream_after(index, stream)
            self._is_outdated = self._stream != stream

    def _catch_up(self, *, is_last: bool = False) -> None:
        """Bring everything up to date.

        Args:
            is_last: whether no hour follows, of which a window could need fewer thresholds.
        """
        self._catch_up_errors()
        self._catch_up_traffic()
        pending, quiet, table = self._pending, self._quiet, self._table
        if not pending or quiet is None or table is None:
            return
        self._pending = []
        parameters = self._detector.parameters
        end = table.hours[pending[-1]].start + HOUR_SECONDS
        # As far as the oldest window of the level can reach, and the longest one of the slowest traces.
        oldest = end - max(
            parameters.max_window_seconds + (LEVEL_MARKS + 2) * MARK_SECONDS, TAIL_WINDOWS_MARKS[-1] * MARK_SECONDS
        )
        late = self._recent.by_mark(end, self._until + HOUR_SECONDS)
        for index in pending:
            if table.latest[index - table.first] > end:
                late += [each for each in table.marks(index) if each[0] > end]
        self._recent = MarkedTraces()
        self._recent.add(table.ended(oldest, end))
        self._recent.add(late)
        longest = parameters.max_window_seconds
        reach = -(-longest // HOUR_SECONDS)
        for index in pending[-reach - is_last :]:
            prediction = quiet.prediction(index) if quiet.is_predicted[index - quiet.position] else None
            self._schedule = self._schedule.followed_by(table.hours[index].start, prediction, longest)
        self._pattern = table.patterns.before(pending[-1] + 1 - table.first)
        self._history.add_evaluations([table.hours[index] for index in pending])
        self._forget_until(table, table.hours[pending[-1]].start)

    def _forget_until(self, table: HourTable, start: int) -> None:
        """Drop the hours that are out of reach of an hour, as :meth:`.Detector.expect` does for the errors, too."""
        oldest = max(start - self._detector.rules.lookback_seconds, self._changepoint or 0)
        if self._pending and table.hours[self._pending[0]].start < oldest:
            self._catch_up()
        self._history.discard_before(oldest)

    def _catch_up_errors(self) -> None:
        if self._pending_errors and self._table is not None:
            self._errors.skip(*self._recent_of(self._table, self._pending_errors))
            self._pending_errors = []

    def _catch_up_traffic(self) -> None:
        if self._pending_traffic and self._table is not None and self._traffic is not None:
            hours, end = self._recent_of(self._table, self._pending_traffic)
            self._traffic.skip([requests for _, requests in hours], end)
        self._pending_traffic = []

    def _recent_of(
        self, table: HourTable, pending: Sequence[int]
    ) -> tuple[list[tuple[SeriesHour, list[tuple[int, int]]]], int]:
        """Return those of some hours of which a window may contain requests, with these, and the end of the last."""
        end = table.hours[pending[-1]].start + HOUR_SECONDS
        oldest = end - max(HOUR_SECONDS, self._detector.parameters.max_window_seconds)
        found = [
            (table.hours[index], table.requests(index))
            for index in pending
            if table.latest[index - table.first] > oldest
        ]
        return found, end

    def _marks(self, hour: SeriesHour) -> Sequence[tuple[int, list[int]]]:
        return hour.marks() if self._table is None else self._table.marks(self._table.index[hour.start])

    def _expect(self, local_hour: LocalHour) -> Expectation:
        quiet, table = self._quiet, self._table
        if quiet is not None and table is not None:
            index = table.index.get(local_hour.start)
            found = None if index is None else quiet.expectation(index, self._stream)
            if found is not None:
                self._forget_until(table, local_hour.start)
                return found
        return super()._expect(local_hour)

    def _measure(self, local_hour: LocalHour, expected: Expectation, windows: list[SweptWindow]) -> HourMeasurement:
        quiet, table = self._quiet, self._table
        if quiet is not None and table is not None:
            index = table.index.get(local_hour.start)
            if index is not None and quiet.is_measured[index - quiet.position]:
                evaluation = quiet.evaluation(index)
                return HourMeasurement(evaluation.swings, evaluation.deviations)
        return super()._measure(local_hour, expected, windows)

    def _accept(self, changepoint: int, local_hour: LocalHour) -> None:
        super()._accept(changepoint, local_hour)
        self._quiet = None

    def _set_evaluation(self, hour: SeriesHour, evaluation: HourEvaluation) -> None:
        if evaluation.quarantined != hour.evaluation.quarantined:
            self._quiet = None
        super()._set_evaluation(hour, evaluation)
