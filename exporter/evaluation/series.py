"""Evaluation and baselines of one series, from what the store holds of it.

Pure functions: no database and no log, so that a worker process can run them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

from exporter.baseline.levels import Baseline
from exporter.baseline.outlier import OutlierRule
from exporter.baseline.traffic import NO_PATTERN, TrafficBaseline
from exporter.detection.detector import Detector, Expectation, SeriesState, decode_state, encode_state
from exporter.detection.errors.history import NO_ERROR_STATE, error_baseline
from exporter.detection.errors.verdict import ErrorBaseline
from exporter.detection.history import HistoryProgress, advance
from exporter.detection.regression.tracker import NO_REGRESSION_STATE
from exporter.detection.regression.verdict import RegressionChange
from exporter.detection.schedule import HourThresholds
from exporter.detection.streams import UNDECIDED, StreamReason
from exporter.detection.thresholds import Thresholds
from exporter.detection.tolerance import tolerated_traffic
from exporter.detection.traffic.history import NO_TRAFFIC_STATE, SeriesTraffic
from exporter.detection.traffic.source import SourceHistory
from exporter.evaluation.baseline_table import SeriesBaseline
from exporter.model.calendar import HOUR_SECONDS, LocalHour, Slot
from exporter.model.histogram_codec import DamagedDigestError
from exporter.model.hours import EvaluationSums, SeriesHours
from exporter.model.series_hour import StoredWindow
from exporter.model.span import SeriesKey
from exporter.store import SeriesEvaluation, StoredSeries

_MAX_LAG_SECONDS: Final = 3 * HOUR_SECONDS
"""If more history than this is not evaluated, there is no verdict: the baseline might contain an incident."""


class SeriesHistory:
    """The evaluated history of one series. Ask for hours in time order: each query drops hours out of reach.

    Attributes:
        hours: the series' hours with their evaluation.
        changepoint: start of the present behaviour, Unix seconds, if a lasting change was accepted.
        suspects: starts of hours that are not pooled because a firing flag touched them.
        regression: what is known of regressions.
    """

    def __init__(
        self,
        detector: Detector,
        hours: SeriesHours,
        state: SeriesState | None,
        suspects: frozenset[int],
        last: HourThresholds | None = None,
    ) -> None:
        """Continue from an evaluation.

        Args:
            detector: the detector of the series.
            hours: its hours.
            state: the state afterwards.
            suspects: starts of hours that are not pooled because a firing flag touched them.
            last: thresholds of the last evaluated hour, if they still hold without suspects.
        """
        self._detector = detector
        self._last = None if suspects else last
        self.suspects = suspects
        self.hours = hours
        self.changepoint = None if state is None else state.changepoint
        self._stream = UNDECIDED if state is None else state.stream
        self.regression = NO_REGRESSION_STATE if state is None else state.regression
        self._errors = NO_ERROR_STATE if state is None else state.errors
        self._evaluated_until = 0 if state is None else state.until
        self._pattern = NO_PATTERN if state is None else state.pattern
        self._tolerances = () if state is None else state.tolerances
        self._traffic = NO_TRAFFIC_STATE if state is None else state.traffic

    @classmethod
    def of(cls, stored: StoredSeries, detector: Detector) -> "SeriesHistory":
        """Read the history of a series as it is stored; the detector is that of all series."""
        detector = detector.of(stored.key)
        hours = SeriesHours(detector.hours(stored.windows, stored.evaluations), stored.sums)
        return cls(detector, hours, _decoded(stored.state), stored.suspects)

    def expect(self, civil: LocalHour) -> Expectation:
        """What is expected of the series in an hour. Replace the hour's slot to ask for another slot.

        Raises:
            DamagedDigestError: stored bytes are damaged.
        """
        return self._detector.expect(
            self.hours,
            civil,
            changepoint=self.changepoint,
            suspects=self.suspects,
            stream=self._stream,
            known_until=self._evaluated_until,
            tolerances=self._tolerances,
        )

    def thresholds(self, civil: LocalHour) -> Thresholds | None:
        """Thresholds of the series in an hour; None while it has none.

        Raises:
            DamagedDigestError: stored bytes are damaged.
        """
        if self._last is not None and self._last.start == civil.start:
            return self._last.thresholds
        return self.expect(civil).thresholds

    def expect_errors(self, civil: LocalHour) -> ErrorBaseline | None:
        """The usual failures of the series in an hour; None while no level is mature, and without verdicts.

        Raises:
            DamagedDigestError: stored bytes are damaged.
        """
        if not self.is_enabled or not self._detector.parameters.errors_enabled:
            return None
        return error_baseline(
            self.hours,
            civil,
            self._detector.rules,
            self._errors,
            self._evaluated_until,
            self._detector.parameters,
            self._tolerances,
        )

    def traffic(
        self, request: "BaselineRequest", stored: Sequence[StoredWindow], counted: SeriesTraffic | None = None
    ) -> TrafficBaseline | None:
        """The usual traffic of the series; None while it is not known well enough for verdicts.

        Args:
            request: what is wanted.
            stored: its windows.
            counted: its counts from the same windows and the same source, if they are known already.
        """
        parameters = self._detector.parameters
        if not request.around or not request.is_evaluated or not self.is_enabled or not parameters.traffic_enabled:
            return None
        if not self._pattern.is_known:
            return None
        if counted is None:
            counted = self._detector.traffic(stored, request.source)
        found = counted.baseline(request.around, self._pattern, frozenset(self._traffic.quarantined))
        if found is None or not self._tolerances:
            return found
        return found._replace(tolerated=tolerated_traffic(self._tolerances, request.around))

    def usual_requests(self, at: int, stored: Sequence[StoredWindow], source: SourceHistory) -> Mapping[Slot, float]:
        """Return the usual requests of an hour by slot, where they are known well enough for verdicts.

        Args:
            at: start of the present hour, Unix seconds.
            stored: the windows of the series.
            source: the history of the source.
        """
        parameters = self._detector.parameters
        if not self.is_enabled or not parameters.traffic_enabled or not self._pattern.is_known:
            return {}
        counted = self._detector.traffic(stored, source)
        counted.move_to(at, frozenset(self._traffic.quarantined))
        return counted.record.usual_by_slot()

    @property
    def shares_by_mark(self) -> tuple[float, ...]:
        """Share of the requests of an hour by mark."""
        return self._pattern.shares

    @property
    def error_quarantined(self) -> frozenset[int]:
        """Starts of the hours that are kept out of the usual failures, Unix seconds."""
        return frozenset(self._errors.quarantined)

    @property
    def is_enabled(self) -> bool:
        """Whether the series gets verdicts."""
        return self._detector.is_enabled

    def stream_reason(self, expectation: Expectation) -> StreamReason | None:
        """Why the series is a stream in an hour; None if its spans are requests."""
        return self._detector.stream_reason(expectation)


def is_evaluated_far_enough(evaluated_until: int | None, start: int) -> bool:
    """Whether the history before an hour is evaluated far enough for a verdict in that hour.

    Args:
        evaluated_until: end of the evaluated history, Unix seconds; None if nothing is evaluated.
        start: start of the hour, Unix seconds.
    """
    return evaluated_until is not None and start - evaluated_until <= _MAX_LAG_SECONDS


def changepoint_of(state: bytes | None) -> int | None:
    """The changepoint in the stored state of a series; None if the state cannot be decoded."""
    decoded = _decoded(state)
    return None if decoded is None else decoded.changepoint


def _decoded(state: bytes | None) -> SeriesState | None:
    if state is None:
        return None
    try:
        return decode_state(state)
    except ValueError:
        # The evaluation reports this and starts over.
        return None


class BaselineRequest(NamedTuple):
    """The baselines wanted of every series.

    Attributes:
        hours: hours, oldest first; thresholds are wanted for all of them, the rest only for the last.
        since: windows that start earlier are ignored, Unix seconds.
        outlier: the rule for single traces.
        is_evaluated: whether the history is evaluated far enough for verdicts; if not, thresholds are left out.
        source: the source of the traffic.
        around: the hour before the last of ``hours``, this, and the hour after; empty if no traffic is wanted.
    """

    hours: Sequence[LocalHour]
    since: int
    outlier: OutlierRule
    is_evaluated: bool
    source: SourceHistory = SourceHistory()
    around: Sequence[LocalHour] = ()


class SeriesBaselines(NamedTuple):
    """The baselines of one series, as requested.

    Attributes:
        key: the series.
        baselines: one for each requested hour; empty without history in reach and if the history is damaged.
        damage: why the history cannot be read.
    """

    key: SeriesKey
    baselines: Sequence[SeriesBaseline] = ()
    damage: str | None = None


def build_baselines(request: BaselineRequest, stored: StoredSeries, detector: Detector) -> SeriesBaselines:
    """Build the requested baselines of one series."""
    windows = [window for window in stored.windows if window.start >= request.since]
    if not windows:
        return SeriesBaselines(stored.key)
    history = SeriesHistory.of(stored._replace(windows=windows), detector)
    return _series_baselines(request, stored._replace(windows=windows), history, detector)


def _series_baselines(
    request: BaselineRequest,
    stored: StoredSeries,
    history: SeriesHistory,
    detector: Detector,
    counted: SeriesTraffic | None = None,
) -> SeriesBaselines:
    key, last_seen = stored.key, float(detector.clock.hour(stored.windows[-1].start).end)
    try:
        *earlier, present = _baselines(request, history, last_seen)
        traffic = history.traffic(request, stored.windows, counted)
        return SeriesBaselines(key, [*earlier, replace(present, traffic=traffic)])
    except DamagedDigestError as error:
        return SeriesBaselines(key, damage=str(error))


def _baselines(request: BaselineRequest, history: SeriesHistory, last_seen: float) -> list[SeriesBaseline]:
    *earlier_hours, hour = request.hours
    earlier = [
        SeriesBaseline(thresholds=history.thresholds(each), errors=history.expect_errors(each))
        if request.is_evaluated
        else SeriesBaseline()
        for each in earlier_hours
    ]
    outlook = history.expect(hour)
    errors = history.expect_errors(hour) if request.is_evaluated else None
    stream = history.stream_reason(outlook)
    runs = outlook.runs.thresholds if outlook.runs is not None and request.is_evaluated else None
    is_compared, regression = history.regression.is_judged, history.regression.current
    if outlook.pool is None:
        without = SeriesBaseline(
            last_seen,
            changepoint=history.changepoint,
            stream=stream,
            is_compared=is_compared,
            regression=regression,
            runs=runs,
            errors=errors,
        )
        return [*earlier, without]
    baseline = Baseline.of(outlook.pool)
    present = SeriesBaseline(
        last_seen=last_seen,
        baseline=baseline,
        outlier_threshold_seconds=request.outlier.threshold_seconds(baseline)
        if stream is None and history.is_enabled
        else None,
        thresholds=outlook.thresholds if request.is_evaluated else None,
        changepoint=history.changepoint,
        stream=stream,
        is_compared=is_compared,
        regression=regression,
        runs=runs,
        errors=errors,
    )
    return [*earlier, present]


class EvaluationTask(NamedTuple):
    """What to do with every series.

    Attributes:
        detector: the rules.
        until: evaluate all hours that end by this instant, Unix seconds.
        request: baselines to build from the evaluated history.
        source: the source of the traffic; None if traffic is not evaluated.
    """

    detector: Detector
    until: int
    request: BaselineRequest | None = None
    source: SourceHistory | None = None


class EvaluationResult(NamedTuple):
    """The result of evaluating one series.

    Attributes:
        key: the series.
        findings: what to store; None if nothing changed.
        accepted: changepoints of changes that were accepted as the new baseline.
        released: number of quarantined hours that turned out to recur.
        reset_reason: why the series was evaluated from the beginning, if its stored state was unreadable.
        damage: why the series could not be evaluated, if its stored history is damaged.
        is_stream: whether the series is a stream by its durations, if that changed.
        regressions: regressions that were found, went away or were accepted.
        baselines: the requested baselines.
        accepted_errors: changepoints of accepted changes of the error ratio.
        accepted_traffic: changepoints of accepted drops of traffic.
        sums: sums over the evaluated hours, for :attr:`.StoredSeries.sums` of the next evaluation.
    """

    key: SeriesKey
    findings: SeriesEvaluation | None = None
    accepted: Sequence[int] = ()
    released: int = 0
    reset_reason: str | None = None
    damage: str | None = None
    is_stream: bool | None = None
    regressions: Sequence[RegressionChange] = ()
    baselines: SeriesBaselines | None = None
    accepted_errors: Sequence[int] = ()
    accepted_traffic: Sequence[int] = ()
    sums: EvaluationSums | None = None


class Advance(Protocol):
    """:func:`exporter.detection.history.advance`, or a function that returns the same in another way."""

    def __call__(
        self,
        detector: Detector,
        history: SeriesHours,
        until: int,
        state: SeriesState | None = None,
        *,
        suspects: Collection[int] = (),
        traffic: SeriesTraffic | None = None,
    ) -> HistoryProgress:
        """Evaluate the settled hours of a series that are not evaluated yet."""


def evaluate_series(task: EvaluationTask, stored: StoredSeries, advance: Advance = advance) -> EvaluationResult:
    """Evaluate the hours of a series that are not evaluated yet, and build the requested baselines.

    Building them here saves a second read: the whole history of the series is already in memory.

    Args:
        task: what to do.
        stored: what is stored of the series.
        advance: how hours are evaluated.
    """
    detector = task.detector.of(stored.key)
    state: SeriesState | None = None
    reset_reason: str | None = None
    if stored.state is not None:
        try:
            state = decode_state(stored.state)
        except ValueError as error:
            reset_reason = str(error)
    result = EvaluationResult(stored.key, reset_reason=reset_reason)
    if task.until <= (stored.windows[0].start if state is None else state.until):
        return _with_baselines(result, task, stored)
    hours = SeriesHours(detector.hours(stored.windows, stored.evaluations), stored.sums)
    traffic: SeriesTraffic | None = None
    if task.source is not None:
        traffic = detector.traffic(stored.windows, task.source)
    try:
        progress = advance(detector, hours, task.until, state, suspects=stored.suspects, traffic=traffic)
    except DamagedDigestError as error:
        return _with_baselines(result._replace(damage=str(error)), task, stored)
    settled = [start for start in stored.suspects if start < task.until and start not in progress.state.suspects]
    state_bytes = encode_state(progress.state)
    findings = SeriesEvaluation(
        stored.key,
        progress.evaluations,
        state_bytes,
        settled,
        tuple(progress.accepted),
        shifts=progress.shifts,
        flag_periods=progress.flag_periods,
        shifts_since=stored.windows[0].start if state is None else None,
        marks="" if detector.own_marks is None else detector.own_marks.signature(progress.state.until),
        evaluated_until=progress.state.until,
    )
    was_stream = state is not None and state.stream.is_stream
    is_stream = progress.state.stream.is_stream
    result = result._replace(
        findings=findings,
        accepted=progress.accepted,
        released=len(progress.released),
        regressions=progress.regressions,
        accepted_errors=progress.accepted_errors,
        accepted_traffic=progress.accepted_traffic,
        is_stream=None if bool(is_stream) is bool(was_stream) else is_stream,
    )
    history = SeriesHistory(detector, hours, progress.state, stored.suspects.difference(settled), progress.last)
    result = _with_baselines(result, task, stored, history, traffic)
    # Only now: the hours that the next evaluation reads are those that the baselines have left.
    return result._replace(sums=hours.sums())


def _with_baselines(
    result: EvaluationResult,
    task: EvaluationTask,
    stored: StoredSeries,
    history: SeriesHistory | None = None,
    traffic: SeriesTraffic | None = None,
) -> EvaluationResult:
    """Add the requested baselines to a result, from the history after the evaluation, if there was one."""
    request = task.request
    if request is None:
        return result
    newest = stored.windows[-1].start
    clock = task.detector.clock
    # The evaluation has dropped the hours that its last hour did not need.
    if history is not None and newest >= request.since and request.hours[0].start >= clock.hour(task.until - 1).start:
        return result._replace(baselines=_series_baselines(request, stored, history, task.detector, traffic))
    if result.findings is not None:
        stored = _updated(stored, result.findings)
    return result._replace(baselines=build_baselines(request, stored, task.detector))


def _updated(stored: StoredSeries, evaluation: SeriesEvaluation) -> StoredSeries:
    """What the store will hold of a series once the findings are recorded."""
    return stored._replace(
        evaluations={**stored.evaluations, **evaluation.evaluations},
        sums=None,
        suspects=stored.suspects.difference(evaluation.settled_suspects),
        state=evaluation.state,
    )
