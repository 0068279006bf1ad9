"""Evaluation of settled hours, in time order, so that no baseline learns an incident.

Series are read and recorded in small batches: memory stays small, the database is never locked for long, and an
interrupted run loses little. A long history is left to worker processes.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, islice
from operator import attrgetter
from typing import Final

from exporter.detection.detector import Detector
from exporter.detection.regression.verdict import RegressionChange, RegressionEvent
from exporter.detection.traffic.source import SourceHistory
from exporter.evaluation.past_incidents import PastIncidents
from exporter.evaluation.series import (
    BaselineRequest,
    EvaluationResult,
    EvaluationTask,
    SeriesBaselines,
)
from exporter.evaluation.stored_source import read_source_with_losses, sampled_keys
from exporter.evaluation.worker_process import EvaluationWorkers
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.hours import EvaluationSums
from exporter.model.span import SeriesKey
from exporter.model.time_mark import NO_MARKS, TimeMarks
from exporter.runtime.logs import LimitedLog, Log
from exporter.store import SeriesEvaluation, Store, StoredSeries

_SERIES_AT_ONCE: Final = 20
_WORKER_BATCH: Final = 10
"""Few, because a stop waits for the end of a batch."""
_WORKERS_PAY_HOURS: Final = 100_000
"""With more hours than this left to evaluate, over all series, other processes pay: about twenty seconds of work."""
_start_of = attrgetter("start")
_SAMPLE_SECONDS: Final = 24 * HOUR_SECONDS
"""The series by which the source is judged are chosen again after this time."""
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
        workers_pay_hours: int = _WORKERS_PAY_HOURS,
        new_workers: Callable[[EvaluationTask, LimitedLog], EvaluationWorkers] = EvaluationWorkers,
        marks: Callable[[], TimeMarks] = lambda: NO_MARKS,
        on_evaluated: Callable[[Sequence[SeriesEvaluation]], None] = lambda _: None,
        on_deleted: Callable[[Sequence[SeriesKey] | None], None] = lambda _: None,
    ) -> None:
        """Resume where the store says that the last evaluation ended.

        Args:
            store: the history.
            detector: the rules.
            on_accepted: called for each lasting change that was accepted as the new baseline.
            log: receives accepted changes and released hours.
            quiet_log: receives what would otherwise repeat at every run.
            workers_pay_hours: start the worker process if more hours than this are left.
            new_workers: creates the worker of one run.
            marks: returns what people know about ranges of time.
            on_evaluated: called with evaluations that were stored.
            on_deleted: called with the series whose evaluations were deleted; None means all.

        Raises:
            StoreError: the store cannot be read.
        """
        self._on_evaluated = on_evaluated
        self._on_deleted = on_deleted
        self._store = store
        self._detector = detector
        self._on_accepted = on_accepted
        self._log = log
        self._quiet_log = quiet_log
        self._workers_pay_hours = workers_pay_hours
        self._new_workers = new_workers
        self._marks = marks
        # The marks that all stored evaluations are known to agree with.
        self._evaluated_marks: TimeMarks | None = None
        self._past_incidents = PastIncidents(store, log, quiet_log)
        # The process before may have ended between the evaluation and this.
        self._has_new_shifts = True
        self._sample: Sequence[SeriesKey] = ()
        self._sampled_at: int | None = None
        self._evaluated_until = store.evaluated_until()
        self._reported_until = self._evaluated_until
        self._acceptances: Mapping[SeriesKey, Sequence[int]] = {}
        # Those of the last evaluation of each series.
        self._sums: dict[SeriesKey, EvaluationSums] = {}
        # After a change of the time zone, stored results may refer to hours that do not exist any more.
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
            and not self._outdated_by_marks(self._marks())
        )

    def with_sums(self, stored: StoredSeries) -> StoredSeries:
        """Return what is stored of a series with the sums over its evaluations, if these are known."""
        return stored._replace(sums=self._sums.get(stored.key))

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
        marks = self._marks()
        outdated: Sequence[SeriesKey] = ()
        if self._has_other_hours or self._store.has_outdated_evaluations():
            self._reset()
        else:
            outdated = self._outdated_by_marks(marks)
            if self._evaluated_until == until and not outdated:
                return None
        if outdated:
            self._store.delete_evaluations_of(outdated)
            self._forget(outdated)
            self._log.info("marks_reevaluated", "the history of marked series is evaluated again", series=len(outdated))
            self._has_new_shifts = True
        self._acceptances = self._store.acceptances()
        # From here on, older windows that are written invalidate the results: this run may have read past them.
        self._store.begin_evaluation(until)
        since = 0 if self._evaluated_until is None else self._evaluated_until - self._detector.rules.lookback_seconds
        if request is not None:
            since = min(since, request.since)
        keys = self._store.series()
        if self._evaluated_until == until and request is None:
            others: Sequence[SeriesKey] = ()
        else:
            others = [key for key in keys if key not in set(outdated)] if outdated else keys
        source = self._source(keys, 0 if outdated else self._evaluated_until or 0, until)
        if request is not None:
            request = request._replace(source=source)
        task = EvaluationTask(replace(self._detector, marks=marks), until, request, source)
        histories = chain(
            self._store.history(outdated, 0, until, marks_from=0, at_once=_SERIES_AT_ONCE),
            self._store.history(others, since, until, marks_from=self._evaluated_until or 0, at_once=_SERIES_AT_ONCE),
        )
        with self._new_workers(task, self._quiet_log) as workers:
            baselines = self._evaluate_all(map(self.with_sums, histories), len(keys), workers, should_stop)
        if baselines is None:
            return None
        self._store.set_evaluated_until(until)
        self._evaluated_until = until
        if len(self._sums) > len(keys):
            # Retention has deleted series.
            self._sums = {key: self._sums[key] for key in keys if key in self._sums}
        if outdated:
            self._store.forget_void_marks()
        self._evaluated_marks = marks
        if self._has_new_shifts:
            # Only now: of some series alone, incidents would be assembled that the next ones change.
            self._has_new_shifts = not self._past_incidents.rebuild()
        self._reported_until = max(until, self._reported_until or 0)
        return None if request is None else baselines

    def _source(self, keys: Sequence[SeriesKey], since: int, until: int) -> SourceHistory:
        """Read the source in the hours to be evaluated."""
        if self._sampled_at is None or not 0 <= until - self._sampled_at < _SAMPLE_SECONDS:
            self._sample, self._sampled_at = sampled_keys(self._store, keys, until), until
        return read_source_with_losses(self._store, self._detector, self._sample, since, until)

    def _evaluate_all(
        self,
        histories: Iterator[StoredSeries],
        series_count: int,
        workers: EvaluationWorkers,
        should_stop: Callable[[], bool],
    ) -> Sequence[SeriesBaselines] | None:
        """Evaluate and record all series, in other processes if many are left; None if stopped before the end."""
        baselines: list[SeriesBaselines] = []
        results: list[EvaluationResult] = []
        done = hours = 0
        while not should_stop():
            # Smaller towards the end, so that no process waits long for another.
            size = max(1, min(_WORKER_BATCH, (series_count - done) // 4)) if workers.is_running else 1
            batch = list(islice(histories, size))
            if not batch:
                return [*baselines, *self._record([*results, *workers.finish()])]
            results += workers.exchange(batch)
            done += len(batch)
            hours += sum(map(self._count_unevaluated, batch))
            if hours * (series_count / done - 1) > self._workers_pay_hours:
                workers.start()
            if len(results) >= _SERIES_AT_ONCE:
                baselines += self._record(results)
                results = []
        self._record(results)
        return None

    def _count_unevaluated(self, stored: StoredSeries) -> int:
        """Return how many windows of a series are left to evaluate."""
        if self._evaluated_until is None or stored.state is None:
            return len(stored.windows)
        return len(stored.windows) - bisect_left(stored.windows, self._evaluated_until, key=_start_of)

    def _record(self, results: Sequence[EvaluationResult]) -> list[SeriesBaselines]:
        """Store and log results; returns their baselines."""
        findings = [result.findings for result in results if result.findings is not None]
        self._store.save_evaluations(findings)
        self._on_evaluated(findings)
        for result in results:
            if result.sums is not None:
                self._sums[result.key] = result.sums
            elif result.findings is not None:
                self._sums.pop(result.key, None)
        if any(each.shifts for each in findings):
            self._has_new_shifts = True
        for result in results:
            self._report(result)
        return [result.baselines for result in results if result.baselines is not None]

    def _outdated_by_marks(self, marks: TimeMarks) -> Sequence[SeriesKey]:
        """Return the series whose evaluation depends on other marks than these."""
        if self._evaluated_until is None or marks is self._evaluated_marks:
            return ()
        outdated = [
            key
            for key, (until, signature) in self._store.evaluated_marks().items()
            if ("" if (own := marks.of(key)) is None else own.signature(until)) != signature
        ]
        if not outdated:
            self._evaluated_marks = marks
        return outdated

    def _forget(self, keys: Sequence[SeriesKey] | None) -> None:
        """Note that the evaluations of some series were deleted; None means all."""
        for key in list(self._sums) if keys is None else keys:
            self._sums.pop(key, None)
        self._on_deleted(keys)

    def _reset(self) -> None:
        """Delete all results: they are no longer valid."""
        self._store.delete_evaluations()
        self._forget(None)
        self._log.info("history_reevaluated", _OTHER_HOURS if self._has_other_hours else _READ_LATE)
        self._has_other_hours = False
        self._has_new_shifts = True
        self._evaluated_until = None

    def _is_known(self, key: SeriesKey, changepoint: int) -> bool:
        """Return whether the acceptance of a change was reported before history was evaluated again.

        With hours that were read late the changepoint may move by some hours. Two changes of a series are further apart
        than a change must last.
        """
        apart = self._detector.of(key).parameters.accept_after_seconds
        return any(abs(changepoint - known) < apart for known in self._acceptances.get(key, ()))

    def _report(self, result: EvaluationResult) -> None:
        key = result.key
        if result.reset_reason is not None:
            self._log.warning(
                "state_unreadable",
                "the stored evaluation state of a series is unreadable; its history is evaluated from the beginning",
                series=key.parts,
                error=result.reset_reason,
            )
        if result.damage is not None:
            self._quiet_log.error(
                "series_damaged",
                "stored history of a series is damaged; it is not evaluated",
                per=key,
                series=key.parts,
                error=result.damage,
            )
        if result.is_stream is not None and not self._detector.of(key).hint.is_decided:
            self._log.info(
                "stream_recognized" if result.is_stream else "stream_ended",
                "the durations of an endpoint are those of a stream: there is no verdict on its latency. If its spans "
                "are requests, add it to series.requests"
                if result.is_stream
                else "the durations of an endpoint are no longer those of a stream: its latency is evaluated",
                service_name=key.service_name,
                span_name=key.span_name,
            )
        for change in self._unreported(result.regressions):
            self._report_regression(key, change)
        for changepoint in result.accepted:
            if self._is_known(key, changepoint):
                continue
            self._on_accepted()
            self._log.info(
                "change_accepted",
                "a lasting latency change is now the baseline",
                **key.fields,
                since=datetime.fromtimestamp(changepoint, UTC),
            )
        for changepoint in self._unreported_acceptances(key, result.accepted_errors):
            self._log.info(
                "errors_accepted",
                "a lasting share of failed requests is the usual one now",
                **key.fields,
                since=datetime.fromtimestamp(changepoint, UTC),
            )
        for changepoint in self._unreported_acceptances(key, result.accepted_traffic):
            self._log.info(
                "traffic_accepted",
                "a lasting drop of traffic is the usual traffic now",
                **key.fields,
                since=datetime.fromtimestamp(changepoint, UTC),
            )
        if result.released:
            self._log.info(
                "quarantine_released",
                "quarantined hours recur at this hour of day; they are part of the baseline now",
                **key.fields,
                hours=result.released,
            )

    def _unreported_acceptances(self, key: SeriesKey, changepoints: Sequence[int]) -> Iterator[int]:
        """Return the changepoints that were not accepted before history was evaluated again."""
        if not changepoints:
            # Nearly always.
            return iter(())
        reported, apart = self._reported_until, self._detector.of(key).parameters.accept_after_seconds
        return (each for each in changepoints if reported is None or each + apart > reported)

    def _unreported(self, changes: Sequence[RegressionChange]) -> Sequence[RegressionChange]:
        """Return the changes that were not reported before history was evaluated again.

        When history is evaluated for the first time, only regressions that are still present are news.
        """
        if self._reported_until is not None:
            return [change for change in changes if change.at > self._reported_until]
        return [change for change in changes[-1:] if change.event is RegressionEvent.RAISED]

    def _report_regression(self, key: SeriesKey, change: RegressionChange) -> None:
        regression = change.regression
        facts = {
            **key.fields,
            "began_after": datetime.fromtimestamp(regression.began_after, UTC),
            "began_before": datetime.fromtimestamp(regression.began_before, UTC),
            "quantile": regression.quantile,
            "ratio": round(regression.ratio, 3),
        }
        match change.event:
            case RegressionEvent.RAISED:
                self._log.info(
                    "regression_raised", "an endpoint has become slower than in the weeks before, and stays so", **facts
                )
            case RegressionEvent.RESOLVED:
                self._log.info(
                    "regression_resolved", "an endpoint is no longer slower than in the weeks before", **facts
                )
            case RegressionEvent.ACCEPTED:
                self._log.info(
                    "regression_accepted",
                    "a regression has lasted until it was accepted: the latency since then is normal now",
                    **facts,
                )
