"""The process that helps to judge the past: it finds the same, and no way in which it ends loses anything."""

import logging
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import date

import pytest

from exporter.baseline.levels import FallbackRules
from exporter.config.holiday import HolidayLookup
from exporter.detection.detector import Detector
from exporter.detection.parameters import Parameters
from exporter.evaluation import history as past
from exporter.evaluation import worker_process as helper_module
from exporter.evaluation.history import HistoryEvaluator
from exporter.evaluation.series import EvaluationTask, evaluate_series
from exporter.evaluation.worker_process import EvaluationWorker
from exporter.model.calendar import Calendar, HourClock
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.store import Store, StoredSeries
from tests.support.samples import DAY, HOUR, NOON, Clock, Durations, around, commit_hour, events

DETECTOR = Detector(FallbackRules(), Parameters(), HourClock(Calendar()))
TASK = EvaluationTask(DETECTOR, NOON)
LOG = get_logger("test")
QUIET = LOG.limited(600, Clock(0.0))
KEYS = [SeriesKey("shop", f"GET /{number}") for number in range(30)]


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper_module, "processors", lambda: 2)


def write(store: Store) -> None:
    """Four days of 30 series; every third has had an incident."""
    for start in range(NOON - 4 * DAY, NOON, HOUR):
        slow = NOON - 9 * HOUR <= start < NOON - 6 * HOUR
        durations: Durations = {
            key: around(0.5 if slow and number % 3 == 0 else 0.1, 30) for number, key in enumerate(KEYS)
        }
        commit_hour(store, start, durations)


@pytest.fixture(scope="module")
def series() -> Iterator[list[StoredSeries]]:
    store = Store.in_memory()
    write(store)
    yield list(store.history(KEYS, 0, NOON, marks_from=0))
    store.close()


def process_id(helper: EvaluationWorker) -> int:
    assert helper._process is not None
    return helper._process._process.pid


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_finds_the_same(series: list[StoredSeries]) -> None:
    with EvaluationWorker(TASK, QUIET) as helper:
        assert not helper.is_free()
        helper.start()
        assert helper.is_free()
        pid = process_id(helper)
        assert helper.exchange(series[:20]) == []
        found = helper.exchange(series[20:])
        found += helper.exchange([])
        assert helper.exchange([]) == []
    assert found == [evaluate_series(TASK, each) for each in series]
    assert any(
        judgement.quarantined for judged in found if judged.findings for judgement in judged.findings[1].values()
    )
    assert not is_running(pid)


@pytest.mark.parametrize("given_before", [True, False])
def test_what_it_leaves_undone_is_done_without_it(
    series: list[StoredSeries], caplog: pytest.LogCaptureFixture, given_before: bool
) -> None:
    with EvaluationWorker(TASK, LOG.limited(600, Clock(0.0))) as helper:
        helper.start()
        if given_before:
            assert helper.exchange(series[:3]) == []
        os.kill(process_id(helper), signal.SIGKILL)
        os.waitid(os.P_PID, process_id(helper), os.WEXITED | os.WNOWAIT)
        found = helper.exchange(series[3:5])
        found += helper.exchange([])
        assert not helper.is_free()
        helper.start()
        assert not helper.is_free()
    expected = series[:5] if given_before else series[3:5]
    assert found == [evaluate_series(TASK, each) for each in expected]
    assert events(caplog, logging.WARNING) == ["worker_died"]


def test_it_ends_with_the_process_that_started_it() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "exporter.evaluation.worker_process"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        pickle.dump(TASK, process.stdin)
        process.stdin.close()
        assert process.wait(60) == 0


def test_there_is_none_with_one_processor(monkeypatch: pytest.MonkeyPatch, series: list[StoredSeries]) -> None:
    monkeypatch.setattr(helper_module, "processors", lambda: 1)
    with EvaluationWorker(TASK, QUIET) as helper:
        helper.start()
        assert not helper.is_free()
        assert helper.exchange(series[:1]) == [evaluate_series(TASK, series[0])]


def test_without_a_program_to_start_there_is_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with EvaluationWorker(TASK, LOG.limited(600, Clock(0.0))) as helper:
        helper.start()
        assert not helper.is_free()
    assert len(events(caplog, logging.WARNING)) == 1


def judged(worth_hours: int, monkeypatch: pytest.MonkeyPatch) -> tuple[list[StoredSeries], int]:
    """What is stored after judging everything, and how many processes helped."""
    started: list[int] = []
    monkeypatch.setattr(past, "_WORTH_A_HELPER_HOURS", worth_hours)
    with monkeypatch.context() as patch:
        popen = subprocess.Popen

        def counted(*args: object, **options: object) -> object:
            started.append(1)
            return popen(*args, **options)  # type: ignore[call-overload]

        patch.setattr("exporter.evaluation.worker_process.subprocess.Popen", counted)
        store = Store.in_memory()
        write(store)
        HistoryEvaluator(store, DETECTOR, lambda: None, LOG, QUIET).catch_up(NOON)
    found = list(store.history(KEYS, 0, NOON))
    assert store.judged_until() == NOON
    store.close()
    return found, len(started)


def test_much_is_judged_by_two_and_little_by_one_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    by_two, helpers = judged(100, monkeypatch)
    assert helpers == 1
    by_one, helpers = judged(10_000_000, monkeypatch)
    assert helpers == 0
    assert by_two == by_one
    assert all(series.judgements for series in by_one)


def test_what_it_was_doing_when_all_was_given_up_is_done_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past, "_WORTH_A_HELPER_HOURS", 100)
    ended: list[int] = []
    close = helper_module._ChildProcess.close

    def noted(process: helper_module._ChildProcess) -> None:
        ended.append(len(process.given))
        close(process)

    monkeypatch.setattr(helper_module._ChildProcess, "close", noted)
    store = Store.in_memory()
    write(store)
    judge = HistoryEvaluator(store, DETECTOR, lambda: None, LOG, QUIET)
    asked = iter([False, False, True])
    judge.catch_up(NOON, lambda: next(asked))
    (undone,) = ended
    assert undone > 0
    assert store.judged_until() is None
    assert sum(bool(series.judgements) for series in store.history(KEYS, 0, NOON)) == 2
    judge.catch_up(NOON)
    assert store.judged_until() == NOON
    assert all(series.judgements for series in store.history(KEYS, 0, NOON))
    store.close()


def test_what_tells_the_hours_can_be_given_to_another_process() -> None:
    clock = HourClock(Calendar(is_holiday=HolidayLookup("DE-BY")))
    corpus_christi = int(NOON - (date(2026, 11, 17) - date(2026, 6, 4)).days * DAY)
    known = clock.hour(corpus_christi)
    assert pickle.loads(pickle.dumps(clock)).hour(corpus_christi) == known
    assert str(known.slot).startswith("weekend")
