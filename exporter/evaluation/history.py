"""Judges past hours as they settle, in time order, so that no baseline learns an incident.

Series are gone through a few at a time: memory stays small, the database is never held for long, and what has been
found about a series is stored before the next ones are looked at. Where there is much to judge, a second process helps.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Final

from exporter.detection.detector import Detector
from exporter.evaluation.series import (
    BaselineRequest,
    EvaluationResult,
    EvaluationTask,
    SeriesBaselines,
    evaluate_series,
)
from exporter.evaluation.worker_process import EvaluationWorker
from exporter.runtime.logs import LimitedLog, Log
from exporter.store import Store, StoredSeries

_SERIES_AT_ONCE: Final = 20
_MOST_FOR_HELPER: Final = 60
"""Between two batches the helper waits for as long as the first process takes to see it, so batches are large."""
_WORTH_A_HELPER_HOURS: Final = 100_000
"""With so many hours of all series left, a second process pays: some ten seconds' work."""
_READ_LATE: Final = "older history was read late, so the past is judged anew"
_OTHER_HOURS: Final = "the hours of the local clock begin at other minutes than before, so the past is judged anew"


class HistoryEvaluator:
    """Keeps the judging of the past up with the ledger; for one thread."""

    def __init__(
        self,
        store: Store,
        detector: Detector,
        on_accepted: Callable[[], None],
        log: Log,
        quiet_log: LimitedLog,
    ) -> None:
        """Go on where the store says that judging has stopped.

        Args:
            store: the history.
            detector: the rules.
            on_accepted: is told of each lasting change that became the new normal.
            log: takes what is accepted and released.
            quiet_log: takes what would be said again every time.

        Raises:
            StoreError: the store cannot be read.
        """
        self._store = store
        self._detector = detector
        self._on_accepted = on_accepted
        self._log = log
        self._quiet_log = quiet_log
        self._until = store.evaluated_until()
        # In another time zone: what was found is known by hours that there are no more.
        self._other_hours = self._until is not None and detector.clock.hour(self._until).start != self._until
        if self._other_hours:
            self._until = None

    @property
    def until(self) -> int | None:
        """All hours that ended by then are judged; absent if none ever was."""
        return self._until

    def has_judged(self, until: int) -> bool:
        """Whether no hour that ended by an instant is left to be judged.

        Raises:
            StoreError: the store cannot be read.
        """
        return self._until is not None and self._until >= until and not self._store.has_outdated_evaluations()

    def catch_up(
        self, until: int, give_up: Callable[[], bool] = lambda: False, question: BaselineRequest | None = None
    ) -> Sequence[SeriesBaselines] | None:
        """Judge all hours that ended by an instant and are not judged yet.

        Args:
            until: up to where the ledger has no gap, Unix seconds.
            give_up: asked before each series; once it says yes, the rest is left for the next time.
            question: what is to be told of all series, from what is stored of them up to ``until``.

        Returns:
            What was asked; None where nothing was asked, nothing was left to judge, or it was given up.

        Raises:
            StoreError: the database refused; what was not recorded is judged again.
        """
        if self._until is not None and until < self._until:
            # There is a gap in what was judged before. Judging anew waits for it to be filled.
            return None
        if self._other_hours or self._store.has_outdated_evaluations():
            self._begin_anew()
        elif self._until == until:
            return None
        # From now on, what is written of the time before makes the findings void: it may come after it was looked for.
        self._store.begin_evaluation(until)
        task = EvaluationTask(self._detector, until, question)
        since = 0 if self._until is None else self._until - self._detector.rules.lookback_seconds
        if question is not None:
            since = min(since, question.since)
        keys = self._store.series()
        histories = self._store.history(keys, since, until, marks_from=self._until or 0, at_once=_SERIES_AT_ONCE)
        answers: list[SeriesBaselines] = []
        with EvaluationWorker(task, self._quiet_log) as helper:
            if not self._judge_all(task, histories, len(keys), helper, give_up, answers):
                return None
        self._store.set_evaluated_until(until)
        self._until = until
        return None if question is None else answers

    def _judge_all(
        self,
        task: EvaluationTask,
        histories: Iterator[StoredSeries],
        series: int,
        helper: EvaluationWorker,
        give_up: Callable[[], bool],
        answers: list[SeriesBaselines],
    ) -> bool:
        """Judge series, the helper some of them; whether all were judged before it was told to give up."""
        found: list[EvaluationResult] = []
        done = hours = 0
        while not give_up():
            if helper.is_free():
                # Fewer towards the end, so that neither process waits long for the other.
                batch = list(islice(histories, max(1, min(_MOST_FOR_HELPER, (series - done) // 4))))
                done += len(batch)
                found += helper.exchange(batch)
            stored = next(histories, None)
            if stored is None:
                self._record([*found, *helper.exchange([])], answers)
                return True
            found.append(evaluate_series(task, stored))
            done += 1
            hours += sum(bool(window.marks) for window in stored.windows)
            if hours * (series / done - 1) > _WORTH_A_HELPER_HOURS:
                helper.start()
            if len(found) >= _SERIES_AT_ONCE:
                self._record(found, answers)
                found = []
        self._record(found, answers)
        return False

    def _record(self, found: Sequence[EvaluationResult], answers: list[SeriesBaselines]) -> None:
        """Store what was found, say what is worth saying about it, and add to the answers."""
        self._store.save_evaluations([judged.findings for judged in found if judged.findings is not None])
        for judged in found:
            self._tell(judged)
            if judged.baselines is not None:
                answers.append(judged.baselines)

    def _begin_anew(self) -> None:
        """Forget what was found, since it is void."""
        self._store.delete_evaluations()
        self._log.info("history_reevaluated", _OTHER_HOURS if self._other_hours else _READ_LATE)
        self._other_hours = False
        self._until = None

    def _tell(self, judged: EvaluationResult) -> None:
        key = judged.key
        if judged.forgotten is not None:
            self._log.warning(
                "state_unreadable",
                "the stored evaluation state of a series is unreadable; its history is evaluated from the beginning",
                series=key,
                error=judged.forgotten,
            )
        if judged.damage is not None:
            self._quiet_log.error(
                "series_damaged",
                "stored history of a series is damaged; it is not evaluated",
                per=key,
                series=key,
                error=judged.damage,
            )
        for changepoint in judged.accepted:
            self._on_accepted()
            self._log.info(
                "change_accepted",
                "a lasting latency change is now the baseline",
                service_name=key.service_name,
                span_name=key.span_name,
                since=datetime.fromtimestamp(changepoint, UTC),
            )
        if judged.released:
            self._log.info(
                "quarantine_released",
                "quarantined hours recur at this hour of day; they are part of the baseline now",
                service_name=key.service_name,
                span_name=key.span_name,
                hours=judged.released,
            )
