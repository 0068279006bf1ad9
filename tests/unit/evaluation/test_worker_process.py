"""Worker processes return the same results as the parent, and their end loses nothing."""

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
from exporter.evaluation.worker_process import EvaluationWorkers
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


def new_workers(quiet_log: LimitedLog = QUIET) -> EvaluationWorkers:
    """Workers on a machine with two processors."""
    return EvaluationWorkers(TASK, quiet_log, processors=2)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def by_key(results: Sequence[EvaluationResult]) -> dict[SeriesKey, EvaluationResult]:
    return {result.key: result for result in results}


def alone(series: Sequence[StoredSeries]) -> dict[SeriesKey, EvaluationResult]:
    """Evaluate in this process."""
    return by_key([evaluate_series(TASK, each) for each in series])


def test_workers_return_the_results_of_all_batches(series: list[StoredSeries]) -> None:
    with new_workers() as workers:
        assert not workers.is_running
        workers.start()
        pids = workers.pids
        assert len(pids) == 2
        assert workers.exchange(series[:12]) == []
        assert workers.exchange(series[12:20]) == []
        results = workers.exchange(series[20:])
        assert results
        results += workers.finish()
        assert workers.finish() == []
    assert len(results) == len(series)
    assert by_key(results) == alone(series)
    assert any(
        judgement.quarantined for result in results if result.findings for judgement in result.findings[1].values()
    )
    assert not any(map(is_running, pids))


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("has_batch", [True, False])
def test_what_a_lost_worker_left_unfinished_is_evaluated(
    series: list[StoredSeries], caplog: pytest.LogCaptureFixture, has_batch: bool, lost: int
) -> None:
    results: list[EvaluationResult] = []
    with new_workers(LOG.limited(0, Clock(0.0))) as workers:
        workers.start()
        if has_batch:
            for batch in (series[:3], series[3:6]):
                results += workers.exchange(batch)
        for pid in workers.pids[:lost]:
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        for batch in (series[6:8], series[8:9], series[9:10]):
            results += workers.exchange(batch)
        results += workers.finish()
        assert len(workers.pids) == 2 - lost
        workers.start()
        assert len(workers.pids) == 2 - lost
    expected = series[:10] if has_batch else series[6:10]
    assert len(results) == len(expected)
    assert by_key(results) == alone(expected)
    assert set(events(caplog, logging.WARNING)) == {"worker_died"}


def test_process_exits_when_its_parent_closes_the_pipe() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "exporter.evaluation.worker_process"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        pickle.dump(TASK, process.stdin)
        process.stdin.close()
        assert process.wait(60) == 0


def test_workers_are_not_started_with_one_processor(series: list[StoredSeries]) -> None:
    with EvaluationWorkers(TASK, QUIET, processors=1) as workers:
        workers.start()
        assert not workers.is_running
        assert workers.exchange(series[:1]) == [evaluate_series(TASK, series[0])]
        assert workers.finish() == []


def test_workers_that_cannot_be_started_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    quiet_log = LOG.limited(600, Clock(0.0))
    with EvaluationWorkers(TASK, quiet_log, processors=2, command=["/nowhere/python"]) as workers:
        workers.start()
        assert not workers.is_running
    assert events(caplog, logging.WARNING) == ["worker_died"]


@pytest.mark.parametrize("library", ["numpy", "holidays"])
def test_exporter_does_not_load_what_it_does_not_need(library: str) -> None:
    loaded = f"import sys; import exporter.app.build; sys.exit({library!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], check=False).returncode == 0


class RecordingWorkers(EvaluationWorkers):
    """Counts the series that the processes have not returned yet.

    Attributes:
        unfinished: that number.
        unfinished_at_close: the same when they were closed; None until then and without processes.
    """

    def __init__(self, task: EvaluationTask, quiet_log: LimitedLog) -> None:
        super().__init__(task, quiet_log, processors=2)
        self.unfinished = 0
        self.unfinished_at_close: int | None = None

    def exchange(self, batch: Sequence[StoredSeries]) -> list[EvaluationResult]:
        results = super().exchange(batch)
        self.unfinished += len(batch) - len(results)
        return results

    def finish(self) -> list[EvaluationResult]:
        results = super().finish()
        self.unfinished -= len(results)
        return results

    def close(self) -> None:
        if self.is_running:
            self.unfinished_at_close = self.unfinished
        super().close()


class EvaluatorBench:
    """An evaluator over a store of its own; ``workers`` are those of its runs."""

    def __init__(self, workers_pay_hours: int) -> None:
        self.store = Store.in_memory()
        write(self.store)
        self.workers: list[RecordingWorkers] = []
        self.evaluator = HistoryEvaluator(
            self.store,
            DETECTOR,
            lambda: None,
            LOG,
            QUIET,
            workers_pay_hours=workers_pay_hours,
            new_workers=self._new_workers,
        )

    def _new_workers(self, task: EvaluationTask, quiet_log: LimitedLog) -> RecordingWorkers:
        self.workers.append(RecordingWorkers(task, quiet_log))
        return self.workers[-1]

    def stored(self) -> list[StoredSeries]:
        return list(self.store.history(KEYS, 0, NOON))


@pytest.fixture
def new_bench() -> Iterator[Callable[[int], EvaluatorBench]]:
    benches: list[EvaluatorBench] = []

    def make(workers_pay_hours: int) -> EvaluatorBench:
        benches.append(EvaluatorBench(workers_pay_hours))
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
    (workers,) = bench.workers
    assert workers.unfinished_at_close is not None
    assert workers.unfinished_at_close > 0
    assert bench.store.evaluated_until() is None
    assert sum(bool(series.evaluations) for series in bench.stored()) == 1
    bench.evaluator.catch_up(NOON)
    assert bench.store.evaluated_until() == NOON
    assert all(series.evaluations for series in bench.stored())


def test_hour_clock_can_be_sent_to_another_process() -> None:
    clock = HourClock(Calendar(is_holiday=HolidayLookup("DE-BY")))
    corpus_christi = int(NOON - (date(2026, 11, 17) - date(2026, 6, 4)).days * DAY)
    known = clock.hour(corpus_christi)
    assert pickle.loads(pickle.dumps(clock)).hour(corpus_christi) == known
    assert str(known.slot).startswith("weekend")
