"""The worker process returns the same results as the parent, and its end loses nothing."""

import logging
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import date

import pytest

from exporter.baseline.levels import FallbackRules
from exporter.config.holiday import HolidayLookup
from exporter.detection.detector import Detector
from exporter.detection.parameters import Parameters
from exporter.evaluation.history import HistoryEvaluator
from exporter.evaluation.series import EvaluationResult, EvaluationTask, evaluate_series
from exporter.evaluation.worker_process import EvaluationWorker
from exporter.model.calendar import Calendar, HourClock
from exporter.model.span import SeriesKey
from exporter.runtime.logs import LimitedLog, get_logger
from exporter.store import Store, StoredSeries
from tests.support.samples import DAY, HOUR, NOON, Clock, Durations, around, commit_hour, events

DETECTOR = Detector(FallbackRules(), Parameters(), HourClock(Calendar()))
TASK = EvaluationTask(DETECTOR, NOON)
LOG = get_logger("test")
QUIET = LOG.limited(600, Clock(0.0))
KEYS = [SeriesKey("shop", f"GET /{number // 2}", (("env", "prod"),) * (number % 2)) for number in range(30)]


def write(store: Store) -> None:
    """Four days of 30 series; every third has an incident."""
    for start in range(NOON - 4 * DAY, NOON, HOUR):
        is_slow = NOON - 9 * HOUR <= start < NOON - 6 * HOUR
        durations: Durations = {
            key: around(0.5 if is_slow and number % 3 == 0 else 0.1, 30) for number, key in enumerate(KEYS)
        }
        commit_hour(store, start, durations)


@pytest.fixture(scope="module")
def series() -> Iterator[list[StoredSeries]]:
    store = Store.in_memory()
    write(store)
    yield list(store.history(KEYS, 0, NOON, marks_from=0))
    store.close()


def new_worker(quiet_log: LimitedLog = QUIET) -> EvaluationWorker:
    """A worker on a machine with two processors."""
    return EvaluationWorker(TASK, quiet_log, processors=2)


def process_id(worker: EvaluationWorker) -> int:
    assert worker.pid is not None
    return worker.pid


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_worker_returns_the_results_of_the_batch_before(series: list[StoredSeries]) -> None:
    with new_worker() as worker:
        assert not worker.is_free()
        worker.start()
        assert worker.is_free()
        pid = process_id(worker)
        assert worker.exchange(series[:20]) == []
        results = worker.exchange(series[20:])
        results += worker.exchange([])
        assert worker.exchange([]) == []
    assert results == [evaluate_series(TASK, each) for each in series]
    assert any(
        judgement.quarantined for result in results if result.findings for judgement in result.findings[1].values()
    )
    assert not is_running(pid)


@pytest.mark.parametrize("has_batch", [True, False])
def test_parent_evaluates_what_a_lost_worker_left_unfinished(
    series: list[StoredSeries], caplog: pytest.LogCaptureFixture, has_batch: bool
) -> None:
    with new_worker(LOG.limited(600, Clock(0.0))) as worker:
        worker.start()
        if has_batch:
            assert worker.exchange(series[:3]) == []
        os.kill(process_id(worker), signal.SIGKILL)
        os.waitid(os.P_PID, process_id(worker), os.WEXITED | os.WNOWAIT)
        results = worker.exchange(series[3:5])
        results += worker.exchange([])
        assert not worker.is_free()
        worker.start()
        assert not worker.is_free()
    expected = series[:5] if has_batch else series[3:5]
    assert results == [evaluate_series(TASK, each) for each in expected]
    assert events(caplog, logging.WARNING) == ["worker_died"]


def test_process_exits_when_its_parent_closes_the_pipe() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "exporter.evaluation.worker_process"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        pickle.dump(TASK, process.stdin)
        process.stdin.close()
        assert process.wait(60) == 0


def test_worker_is_not_started_with_one_processor(series: list[StoredSeries]) -> None:
    with EvaluationWorker(TASK, QUIET, processors=1) as worker:
        worker.start()
        assert not worker.is_free()
        assert worker.exchange(series[:1]) == [evaluate_series(TASK, series[0])]


def test_worker_that_cannot_be_started_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    quiet_log = LOG.limited(600, Clock(0.0))
    with EvaluationWorker(TASK, quiet_log, processors=2, command=["/nowhere/python"]) as worker:
        worker.start()
        assert not worker.is_free()
    assert events(caplog, logging.WARNING) == ["worker_died"]


class RecordingWorker(EvaluationWorker):
    """Counts the series that its process has not returned yet.

    Attributes:
        unfinished: that number.
        unfinished_at_close: the same when the worker was closed; None until then and without a process.
    """

    def __init__(self, task: EvaluationTask, quiet_log: LimitedLog) -> None:
        super().__init__(task, quiet_log, processors=2)
        self.unfinished = 0
        self.unfinished_at_close: int | None = None

    def exchange(self, batch: Sequence[StoredSeries]) -> list[EvaluationResult]:
        results = super().exchange(batch)
        self.unfinished += len(batch) - len(results)
        return results

    def close(self) -> None:
        if self.pid is not None:
            self.unfinished_at_close = self.unfinished
        super().close()


class EvaluatorBench:
    """An evaluator over a store of its own; ``workers`` are those of its runs."""

    def __init__(self, worker_pays_hours: int) -> None:
        self.store = Store.in_memory()
        write(self.store)
        self.workers: list[RecordingWorker] = []
        self.evaluator = HistoryEvaluator(
            self.store,
            DETECTOR,
            lambda: None,
            LOG,
            QUIET,
            worker_pays_hours=worker_pays_hours,
            new_worker=self._new_worker,
        )

    def _new_worker(self, task: EvaluationTask, quiet_log: LimitedLog) -> RecordingWorker:
        self.workers.append(RecordingWorker(task, quiet_log))
        return self.workers[-1]

    def stored(self) -> list[StoredSeries]:
        return list(self.store.history(KEYS, 0, NOON))


@pytest.fixture
def new_bench() -> Iterator[Callable[[int], EvaluatorBench]]:
    benches: list[EvaluatorBench] = []

    def make(worker_pays_hours: int) -> EvaluatorBench:
        benches.append(EvaluatorBench(worker_pays_hours))
        return benches[-1]

    yield make
    for bench in benches:
        bench.store.close()


def test_evaluator_shares_a_long_history_with_the_same_result(new_bench: Callable[[int], EvaluatorBench]) -> None:
    shared, alone = new_bench(100), new_bench(10_000_000)
    for bench in (shared, alone):
        bench.evaluator.catch_up(NOON)
        assert bench.store.evaluated_until() == NOON
    assert [worker.unfinished_at_close for worker in shared.workers] == [0]
    assert [worker.unfinished_at_close for worker in alone.workers] == [None]
    assert shared.stored() == alone.stored()
    assert all(series.evaluations for series in alone.stored())


def test_evaluator_shares_no_single_hour_of_an_evaluated_history(new_bench: Callable[[int], EvaluatorBench]) -> None:
    bench = new_bench(100)
    bench.evaluator.catch_up(NOON - HOUR)
    bench.evaluator.catch_up(NOON)
    first, second = bench.workers
    assert first.unfinished_at_close == 0
    # The marks of hours with few traces are read as well, but these hours are not evaluated again.
    assert second.unfinished_at_close is None


def test_evaluator_repeats_what_the_worker_had_not_returned_when_stopped(
    new_bench: Callable[[int], EvaluatorBench],
) -> None:
    bench = new_bench(100)
    stops = iter([False, False, True])
    bench.evaluator.catch_up(NOON, lambda: next(stops))
    (worker,) = bench.workers
    assert worker.unfinished_at_close is not None
    assert worker.unfinished_at_close > 0
    assert bench.store.evaluated_until() is None
    assert sum(bool(series.evaluations) for series in bench.stored()) == 2
    bench.evaluator.catch_up(NOON)
    assert bench.store.evaluated_until() == NOON
    assert all(series.evaluations for series in bench.stored())


def test_hour_clock_can_be_sent_to_another_process() -> None:
    clock = HourClock(Calendar(is_holiday=HolidayLookup("DE-BY")))
    corpus_christi = int(NOON - (date(2026, 11, 17) - date(2026, 6, 4)).days * DAY)
    known = clock.hour(corpus_christi)
    assert pickle.loads(pickle.dumps(clock)).hour(corpus_christi) == known
    assert str(known.slot).startswith("weekend")
