"""Evaluation of settled hours, in time order, so that no baseline learns an incident.

Series are read and recorded in small batches: memory stays small, the database is never locked for long, and an
interrupted run loses little. A long history is shared with a worker process.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from exporter.model.span import SeriesKey
from exporter.runtime.logs import LimitedLog, Log
from exporter.store import Store, StoredSeries

_SERIES_AT_ONCE: Final = 20
_MAX_WORKER_BATCH: Final = 60
"""Large, because after each batch the worker idles until this process has evaluated its current series."""
_WORKER_PAYS_HOURS: Final = 100_000
"""With more hours than this left to evaluate, over all series, a second process pays: about ten seconds of work."""
_READ_LATE: Final = "older history was read late; all history is evaluated again"
_OTHER_HOURS: Final = "local hours start at other minutes than before; all history is evaluated again"


class HistoryEvaluator:
    """Evaluates the hours that have settled since the last run. Not thread-safe."""

    def __init__(
        self,
        store: Store,
        detector: Detector,
        on_accepted: Callable[[], None],
        log: Log,
        quiet_log: LimitedLog,
        *,
        worker_pays_hours: int = _WORKER_PAYS_HOURS,
        new_worker: Callable[[EvaluationTask, LimitedLog], EvaluationWorker] = EvaluationWorker,
    ) -> None:
        """Resume where the store says that the last evaluation ended.

        Args:
            store: the history.
            detector: the rules.
            on_accepted: called for each lasting change that was accepted as the new baseline.
            log: receives accepted changes and released hours.
            quiet_log: receives what would otherwise repeat at every run.
            worker_pays_hours: start the worker process if more hours than this are left.
            new_worker: creates the worker of one run.

        Raises:
            StoreError: the store cannot be read.
        """
        self._store = store
        self._detector = detector
        self._on_accepted = on_accepted
        self._log = log
        self._quiet_log = quiet_log
        self._worker_pays_hours = worker_pays_hours
        self._new_worker = new_worker
        self._evaluated_until = store.evaluated_until()
        # After a change of the time zone, stored results may refer to hours that do not exist any more.
        self._acceptances: Mapping[SeriesKey, Sequence[int]] = {}
        self._has_other_hours = (
            self._evaluated_until is not None
            and detector.clock.hour(self._evaluated_until).start != self._evaluated_until
        )
        if self._has_other_hours:
            self._evaluated_until = None

    @property
    def evaluated_until(self) -> int | None:
        """All hours that ended by this instant are evaluated, Unix seconds; None if none ever was."""
        return self._evaluated_until

    def is_evaluated(self, until: int) -> bool:
        """Whether every hour that ended by an instant is evaluated, and the results are still valid.

        Raises:
            StoreError: the store cannot be read.
        """
        return (
            self._evaluated_until is not None
            and self._evaluated_until >= until
            and not self._store.has_outdated_evaluations()
        )

    def catch_up(
        self, until: int, should_stop: Callable[[], bool] = lambda: False, request: BaselineRequest | None = None
    ) -> Sequence[SeriesBaselines] | None:
        """Evaluate all hours that ended by an instant and are not evaluated yet.

        Args:
            until: the ledger has no gap before this instant, Unix seconds.
            should_stop: asked before each series; once true, the rest is left to the next run.
            request: baselines to build of all series from the history before ``until``.

        Returns:
            The requested baselines; None without a request, if nothing was left to evaluate, or if stopped.

        Raises:
            StoreError: the database failed; what was not recorded is evaluated again.
        """
        if self._evaluated_until is not None and until < self._evaluated_until:
            # A gap has opened in evaluated history. Wait until it is read before evaluating again.
            return None
        if self._has_other_hours or self._store.has_outdated_evaluations():
            self._reset()
        elif self._evaluated_until == until:
            return None
        self._acceptances = self._store.acceptances()
        # From here on, older windows that are written invalidate the results: this run may have read past them.
        self._store.begin_evaluation(until)
        task = EvaluationTask(self._detector, until, request)
        since = 0 if self._evaluated_until is None else self._evaluated_until - self._detector.rules.lookback_seconds
        if request is not None:
            since = min(since, request.since)
        keys = self._store.series()
        histories = self._store.history(
            keys, since, until, marks_from=self._evaluated_until or 0, at_once=_SERIES_AT_ONCE
        )
        with self._new_worker(task, self._quiet_log) as worker:
            baselines = self._evaluate_all(task, histories, len(keys), worker, should_stop)
        if baselines is None:
            return None
        self._store.set_evaluated_until(until)
        self._evaluated_until = until
        return None if request is None else baselines

    def _evaluate_all(
        self,
        task: EvaluationTask,
        histories: Iterator[StoredSeries],
        series_count: int,
        worker: EvaluationWorker,
        should_stop: Callable[[], bool],
    ) -> Sequence[SeriesBaselines] | None:
        """Evaluate and record all series, some of them in the worker; None if stopped before the end."""
        baselines: list[SeriesBaselines] = []
        results: list[EvaluationResult] = []
        done = hours = 0
        while not should_stop():
            if worker.is_free():
                # Smaller towards the end, so that neither process waits long for the other.
                batch = list(islice(histories, max(1, min(_MAX_WORKER_BATCH, (series_count - done) // 4))))
                done += len(batch)
                results += worker.exchange(batch)
            stored = next(histories, None)
            if stored is None:
                return [*baselines, *self._record([*results, *worker.exchange([])])]
            results.append(evaluate_series(task, stored))
            done += 1
            hours += sum(bool(window.marks) for window in stored.windows)
            if hours * (series_count / done - 1) > self._worker_pays_hours:
                worker.start()
            if len(results) >= _SERIES_AT_ONCE:
                baselines += self._record(results)
                results = []
        self._record(results)
        return None

    def _record(self, results: Sequence[EvaluationResult]) -> list[SeriesBaselines]:
        """Store and log results; returns their baselines."""
        self._store.save_evaluations([result.findings for result in results if result.findings is not None])
        for result in results:
            self._report(result)
        return [result.baselines for result in results if result.baselines is not None]

    def _reset(self) -> None:
        """Delete all results: they are no longer valid."""
        self._store.delete_evaluations()
        self._log.info("history_reevaluated", _OTHER_HOURS if self._has_other_hours else _READ_LATE)
        self._has_other_hours = False
        self._evaluated_until = None

    def _is_known(self, key: SeriesKey, changepoint: int) -> bool:
        """Return whether the acceptance of a change was reported before history was evaluated again.

        With hours that were read late the changepoint may move by some hours. Two changes of a series are further apart
        than a change must last.
        """
        apart = self._detector.parameters.accept_after_seconds
        return any(abs(changepoint - known) < apart for known in self._acceptances.get(key, ()))

    def _report(self, result: EvaluationResult) -> None:
        key = result.key
        if result.reset_reason is not None:
            self._log.warning(
                "state_unreadable",
                "the stored evaluation state of a series is unreadable; its history is evaluated from the beginning",
                series=key,
                error=result.reset_reason,
            )
        if result.damage is not None:
            self._quiet_log.error(
                "series_damaged",
                "stored history of a series is damaged; it is not evaluated",
                per=key,
                series=key,
                error=result.damage,
            )
        for changepoint in result.accepted:
            if self._is_known(key, changepoint):
                continue
            self._on_accepted()
            self._log.info(
                "change_accepted",
                "a lasting latency change is now the baseline",
                service_name=key.service_name,
                span_name=key.span_name,
                since=datetime.fromtimestamp(changepoint, UTC),
            )
        if result.released:
            self._log.info(
                "quarantine_released",
                "quarantined hours recur at this hour of day; they are part of the baseline now",
                service_name=key.service_name,
                span_name=key.span_name,
                hours=result.released,
            )
