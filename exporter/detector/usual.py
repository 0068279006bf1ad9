"""What is usual for a series in some hours, from what is stored of it: no database, no log, so that any process can."""

from collections.abc import Sequence
from typing import NamedTuple

from exporter.core.baseline import Baseline
from exporter.core.codec import DamagedDigestError
from exporter.core.detection.detector import Detector
from exporter.core.hours import CivilHour
from exporter.core.outlier import OutlierRule
from exporter.core.span import SeriesKey
from exporter.detector.book import SeriesBaseline
from exporter.detector.record import SeriesRecord
from exporter.store import SeriesHistory


class Question(NamedTuple):
    """What is to be told of every series.

    Attributes:
        hours: the hours that are asked about, oldest first; of all but the last only the thresholds are told.
        since: what began before is out of reach, Unix seconds.
        outlier: the rule for single traces.
        judged: whether the past is judged far enough for a verdict; if not, there are no thresholds.
    """

    hours: Sequence[CivilHour]
    since: int
    outlier: OutlierRule
    judged: bool


class Answer(NamedTuple):
    """What is told of one series.

    Attributes:
        key: the series.
        usual: what is usual in each of the hours; nothing where none of its history is in reach, or it is damaged.
        damage: why its history cannot be read.
    """

    key: SeriesKey
    usual: Sequence[SeriesBaseline] = ()
    damage: str | None = None


def answer(question: Question, stored: SeriesHistory, detector: Detector) -> Answer:
    """Tell of one series what is asked."""
    windows = [window for window in stored.windows if window.start >= question.since]
    if not windows:
        return Answer(stored.key)
    try:
        return Answer(stored.key, _usual(question, stored._replace(windows=windows), detector))
    except DamagedDigestError as error:
        return Answer(stored.key, damage=str(error))


def _usual(question: Question, stored: SeriesHistory, detector: Detector) -> list[SeriesBaseline]:
    *earlier, hour = question.hours
    judged = question.judged
    record = SeriesRecord(stored, detector)
    last_seen = float(detector.clock.hour(stored.windows[-1].start).end)
    usual = [SeriesBaseline(thresholds=record.expect(before).thresholds if judged else None) for before in earlier]
    outlook = record.expect(hour)
    if outlook.pool is None:
        return [*usual, SeriesBaseline(last_seen, epoch=record.epoch)]
    baseline = Baseline.of(outlook.pool)
    present = SeriesBaseline(
        last_seen=last_seen,
        baseline=baseline,
        outlier_threshold_seconds=question.outlier.threshold_seconds(baseline),
        thresholds=outlook.thresholds if judged else None,
        epoch=record.epoch,
    )
    return [*usual, present]
