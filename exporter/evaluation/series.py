"""One series as it is stored, ready to be asked what is usual for it.

What is usual for a series in some hours, from what is stored of it: no database, no log, so that any process can.
Judges more of the past of one series from what is stored of it: no database, no log, so that any process can.

Whoever has judged a series has all of its history at hand, so what is usual for it is asked in the same breath.
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
from exporter.store import Findings, StoredSeries

_BEHIND_SECONDS: Final = 3 * HOUR_SECONDS
"""With more of the past unjudged there is no verdict on the present: an incident might stand in the baseline."""


class SeriesHistory:
    """The judged past of one series. What is asked of it must be asked in the order of time.

    Attributes:
        history: its hours with their judgements; those that are out of reach are dropped as questions move on.
        changepoint: start of its present behaviour, if a lasting change was accepted.
        suspects: starts of hours that are not pooled because a raised flag has touched them.
    """

    def __init__(self, stored: StoredSeries, detector: Detector) -> None:
        """Take what is stored, and the rules by which it is judged."""
        self._detector = detector
        self.suspects = stored.suspects
        self.history = SeriesHours(hours_of(stored.windows, detector.clock, stored.judgements))
        self.changepoint = changepoint_of(stored.state)

    def expect(self, civil: LocalHour) -> Expectation:
        """What is expected in an hour; that of a slot which is not the hour's own is asked about in the same way.

        Raises:
            DamagedDigestError: stored bytes are damaged.
        """
        return self._detector.expect(self.history, civil, changepoint=self.changepoint, suspects=self.suspects)


def judged_far_enough(judged_until: int | None, start: int) -> bool:
    """Whether the past of an hour is judged far enough for a verdict.

    Args:
        judged_until: up to when the past was judged; absent if it never was.
        start: when the hour begins, Unix seconds.
    """
    return judged_until is not None and start - judged_until <= _BEHIND_SECONDS


def changepoint_of(state: bytes | None) -> int | None:
    """The changepoint in the state of a series, as it is stored; a state that cannot be read has none."""
    if state is None:
        return None
    try:
        return decode_state(state).changepoint
    except ValueError:
        # Whoever judges the past says so, and begins anew.
        return None


class BaselineRequest(NamedTuple):
    """What is to be told of every series.

    Attributes:
        hours: the hours that are asked about, oldest first; of all but the last only the thresholds are told.
        since: what began before is out of reach, Unix seconds.
        outlier: the rule for single traces.
        judged: whether the past is judged far enough for a verdict; if not, there are no thresholds.
    """

    hours: Sequence[LocalHour]
    since: int
    outlier: OutlierRule
    judged: bool


class SeriesBaselines(NamedTuple):
    """What is told of one series.

    Attributes:
        key: the series.
        usual: what is usual in each of the hours; nothing where none of its history is in reach, or it is damaged.
        damage: why its history cannot be read.
    """

    key: SeriesKey
    usual: Sequence[SeriesBaseline] = ()
    damage: str | None = None


def build_baselines(question: BaselineRequest, stored: StoredSeries, detector: Detector) -> SeriesBaselines:
    """Tell of one series what is asked."""
    windows = [window for window in stored.windows if window.start >= question.since]
    if not windows:
        return SeriesBaselines(stored.key)
    try:
        return SeriesBaselines(stored.key, _usual(question, stored._replace(windows=windows), detector))
    except DamagedDigestError as error:
        return SeriesBaselines(stored.key, damage=str(error))


def _usual(question: BaselineRequest, stored: StoredSeries, detector: Detector) -> list[SeriesBaseline]:
    *earlier, hour = question.hours
    judged = question.judged
    record = SeriesHistory(stored, detector)
    last_seen = float(detector.clock.hour(stored.windows[-1].start).end)
    usual = [SeriesBaseline(thresholds=record.expect(before).thresholds if judged else None) for before in earlier]
    outlook = record.expect(hour)
    if outlook.pool is None:
        return [*usual, SeriesBaseline(last_seen, changepoint=record.changepoint)]
    baseline = Baseline.of(outlook.pool)
    present = SeriesBaseline(
        last_seen=last_seen,
        baseline=baseline,
        outlier_threshold_seconds=question.outlier.threshold_seconds(baseline),
        thresholds=outlook.thresholds if judged else None,
        changepoint=record.changepoint,
    )
    return [*usual, present]


class EvaluationTask(NamedTuple):
    """What is to be done with every series.

    Attributes:
        detector: the rules.
        until: all hours that ended by this instant are to be judged, Unix seconds.
        question: what is to be told of it then.
    """

    detector: Detector
    until: int
    question: BaselineRequest | None = None


class EvaluationResult(NamedTuple):
    """What has become of judging a series.

    Attributes:
        key: the series.
        findings: what is to be stored; absent where there is nothing new.
        accepted: the changepoints of changes that were accepted as the new normal.
        released: how many hours were quarantined and turned out to recur.
        forgotten: why it was judged from the beginning, where what was known of it is not readable.
        damage: why it could not be judged, where its stored history is damaged.
        baselines: what was asked about it, where something was.
    """

    key: SeriesKey
    findings: Findings | None = None
    accepted: Sequence[int] = ()
    released: int = 0
    forgotten: str | None = None
    damage: str | None = None
    baselines: SeriesBaselines | None = None


def evaluate_series(task: EvaluationTask, stored: StoredSeries) -> EvaluationResult:
    """Judge the hours of a series that are not judged yet, and tell what is asked."""
    judged = _judge(task.detector, stored, task.until)
    if task.question is None:
        return judged
    if judged.findings is not None:
        stored = _with(judged.findings, stored)
    return judged._replace(baselines=build_baselines(task.question, stored, task.detector))


def _with(findings: Findings, stored: StoredSeries) -> StoredSeries:
    """What will be stored of a series once findings are."""
    return stored._replace(
        judgements={**stored.judgements, **findings.judgements},
        suspects=stored.suspects.difference(findings.settled_suspects),
        state=findings.state,
    )


def _judge(detector: Detector, stored: StoredSeries, until: int) -> EvaluationResult:
    state: SeriesState | None = None
    forgotten: str | None = None
    if stored.state is not None:
        try:
            state = decode_state(stored.state)
        except ValueError as error:
            forgotten = str(error)
    if until <= (stored.windows[0].start if state is None else state.until):
        return EvaluationResult(stored.key, forgotten=forgotten)
    history = SeriesHours(hours_of(stored.windows, detector.clock, stored.judgements))
    try:
        progress = advance(detector, history, until, state, suspects=stored.suspects)
    except DamagedDigestError as error:
        return EvaluationResult(stored.key, forgotten=forgotten, damage=str(error))
    settled = [start for start in stored.suspects if start < until and start not in progress.state.suspects]
    findings = Findings(stored.key, progress.evaluations, encode_state(progress.state), settled)
    return EvaluationResult(stored.key, findings, progress.accepted, len(progress.released), forgotten)
