"""Judges more of the past of one series from what is stored of it: no database, no log, so that any process can.

Whoever has judged a series has all of its history at hand, so what is usual for it is asked in the same breath.
"""

from collections.abc import Sequence
from typing import NamedTuple

from exporter.core.codec import DamagedDigestError
from exporter.core.detection.detector import Detector
from exporter.core.detection.history import advance
from exporter.core.detection.state import SeriesState, decode_state, encode_state
from exporter.core.hours import Hours, hours_of
from exporter.core.span import SeriesKey
from exporter.detector.usual import Answer, Question, answer
from exporter.store import Findings, SeriesHistory


class Task(NamedTuple):
    """What is to be done with every series.

    Attributes:
        detector: the rules.
        until: all hours that ended by this instant are to be judged, Unix seconds.
        question: what is to be told of it then.
    """

    detector: Detector
    until: int
    question: Question | None = None


class Judged(NamedTuple):
    """What has become of judging a series.

    Attributes:
        key: the series.
        findings: what is to be stored; absent where there is nothing new.
        accepted: the epochs of changes that were accepted as the new normal.
        released: how many hours were quarantined and turned out to recur.
        forgotten: why it was judged from the beginning, where what was known of it is not readable.
        damage: why it could not be judged, where its stored history is damaged.
        answer: what was asked about it, where something was.
    """

    key: SeriesKey
    findings: Findings | None = None
    accepted: Sequence[int] = ()
    released: int = 0
    forgotten: str | None = None
    damage: str | None = None
    answer: Answer | None = None


def judge_series(task: Task, stored: SeriesHistory) -> Judged:
    """Judge the hours of a series that are not judged yet, and tell what is asked."""
    judged = _judge(task.detector, stored, task.until)
    if task.question is None:
        return judged
    if judged.findings is not None:
        stored = _with(judged.findings, stored)
    return judged._replace(answer=answer(task.question, stored, task.detector))


def _with(findings: Findings, stored: SeriesHistory) -> SeriesHistory:
    """What will be stored of a series once findings are."""
    return stored._replace(
        judgements={**stored.judgements, **findings.judgements},
        suspects=stored.suspects.difference(findings.settled_suspects),
        state=findings.state,
    )


def _judge(detector: Detector, stored: SeriesHistory, until: int) -> Judged:
    state: SeriesState | None = None
    forgotten: str | None = None
    if stored.state is not None:
        try:
            state = decode_state(stored.state)
        except ValueError as error:
            forgotten = str(error)
    if until <= (stored.windows[0].start if state is None else state.until):
        return Judged(stored.key, forgotten=forgotten)
    history = Hours(hours_of(stored.windows, detector.clock, stored.judgements))
    try:
        progress = advance(detector, history, until, state, suspects=stored.suspects)
    except DamagedDigestError as error:
        return Judged(stored.key, forgotten=forgotten, damage=str(error))
    settled = [start for start in stored.suspects if start < until and start not in progress.state.suspects]
    findings = Findings(stored.key, progress.judgements, encode_state(progress.state), settled)
    return Judged(stored.key, findings, progress.accepted, len(progress.released), forgotten)
