"""Evaluation and baselines of one series, from what the store holds of it.

Pure functions: no database and no log, so that a worker process can run them.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from exporter.baseline.levels import Baseline
from exporter.baseline.outlier import OutlierRule
from exporter.detection.detector import Detector, Expectation, SeriesState, decode_state, encode_state
from exporter.detection.history import advance
from exporter.evaluation.baseline_table import SeriesBaseline
from exporter.model.calendar import HOUR_SECONDS, LocalHour
from exporter.model.histogram_codec import DamagedDigestError
from exporter.model.hours import SeriesHours, hours_of
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
    """

    def __init__(self, stored: StoredSeries, detector: Detector) -> None:
        self._detector = detector
        self.suspects = stored.suspects
        self.hours = SeriesHours(hours_of(stored.windows, detector.clock, stored.evaluations))
        self.changepoint = changepoint_of(stored.state)

    def expect(self, civil: LocalHour) -> Expectation:
        """What is expected of the series in an hour. Replace the hour's slot to ask for another slot.

        Raises:
            DamagedDigestError: stored bytes are damaged.
        """
        return self._detector.expect(self.hours, civil, changepoint=self.changepoint, suspects=self.suspects)


def is_evaluated_far_enough(evaluated_until: int | None, start: int) -> bool:
    """Whether the history before an hour is evaluated far enough for a verdict in that hour.

    Args:
        evaluated_until: end of the evaluated history, Unix seconds; None if nothing is evaluated.
        start: start of the hour, Unix seconds.
    """
    return evaluated_until is not None and start - evaluated_until <= _MAX_LAG_SECONDS


def changepoint_of(state: bytes | None) -> int | None:
    """The changepoint in the stored state of a series; None if the state cannot be decoded."""
    if state is None:
        return None
    try:
        return decode_state(state).changepoint
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
    """

    hours: Sequence[LocalHour]
    since: int
    outlier: OutlierRule
    is_evaluated: bool


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
    try:
        return SeriesBaselines(stored.key, _baselines(request, stored._replace(windows=windows), detector))
    except DamagedDigestError as error:
        return SeriesBaselines(stored.key, damage=str(error))


def _baselines(request: BaselineRequest, stored: StoredSeries, detector: Detector) -> list[SeriesBaseline]:
    *earlier_hours, hour = request.hours
    history = SeriesHistory(stored, detector)
    last_seen = float(detector.clock.hour(stored.windows[-1].start).end)
    earlier = [
        SeriesBaseline(thresholds=history.expect(each).thresholds if request.is_evaluated else None)
        for each in earlier_hours
    ]
    outlook = history.expect(hour)
    if outlook.pool is None:
        return [*earlier, SeriesBaseline(last_seen, changepoint=history.changepoint)]
    baseline = Baseline.of(outlook.pool)
    present = SeriesBaseline(
        last_seen=last_seen,
        baseline=baseline,
        outlier_threshold_seconds=request.outlier.threshold_seconds(baseline),
        thresholds=outlook.thresholds if request.is_evaluated else None,
        changepoint=history.changepoint,
    )
    return [*earlier, present]


class EvaluationTask(NamedTuple):
    """What to do with every series.

    Attributes:
        detector: the rules.
        until: evaluate all hours that end by this instant, Unix seconds.
        request: baselines to build from the evaluated history.
    """

    detector: Detector
    until: int
    request: BaselineRequest | None = None


class EvaluationResult(NamedTuple):
    """The result of evaluating one series.

    Attributes:
        key: the series.
        findings: what to store; None if nothing changed.
        accepted: changepoints of changes that were accepted as the new baseline.
        released: number of quarantined hours that turned out to recur.
        reset_reason: why the series was evaluated from the beginning, if its stored state was unreadable.
        damage: why the series could not be evaluated, if its stored history is damaged.
        baselines: the requested baselines.
    """

    key: SeriesKey
    findings: SeriesEvaluation | None = None
    accepted: Sequence[int] = ()
    released: int = 0
    reset_reason: str | None = None
    damage: str | None = None
    baselines: SeriesBaselines | None = None


def evaluate_series(task: EvaluationTask, stored: StoredSeries) -> EvaluationResult:
    """Evaluate the hours of a series that are not evaluated yet, and build the requested baselines.

    Building them here saves a second read: the whole history of the series is already in memory.
    """
    result = _evaluate(task.detector, stored, task.until)
    if task.request is None:
        return result
    if result.findings is not None:
        stored = _updated(stored, result.findings)
    return result._replace(baselines=build_baselines(task.request, stored, task.detector))


def _updated(stored: StoredSeries, evaluation: SeriesEvaluation) -> StoredSeries:
    """What the store will hold of a series once the findings are recorded."""
    return stored._replace(
        evaluations={**stored.evaluations, **evaluation.evaluations},
        suspects=stored.suspects.difference(evaluation.settled_suspects),
        state=evaluation.state,
    )


def _evaluate(detector: Detector, stored: StoredSeries, until: int) -> EvaluationResult:
    state: SeriesState | None = None
    reset_reason: str | None = None
    if stored.state is not None:
        try:
            state = decode_state(stored.state)
        except ValueError as error:
            reset_reason = str(error)
    if until <= (stored.windows[0].start if state is None else state.until):
        return EvaluationResult(stored.key, reset_reason=reset_reason)
    hours = SeriesHours(hours_of(stored.windows, detector.clock, stored.evaluations))
    try:
        progress = advance(detector, hours, until, state, suspects=stored.suspects)
    except DamagedDigestError as error:
        return EvaluationResult(stored.key, reset_reason=reset_reason, damage=str(error))
    settled = [start for start in stored.suspects if start < until and start not in progress.state.suspects]
    state_bytes = encode_state(progress.state)
    findings = SeriesEvaluation(stored.key, progress.evaluations, state_bytes, settled, tuple(progress.accepted))
    return EvaluationResult(stored.key, findings, progress.accepted, len(progress.released), reset_reason)
