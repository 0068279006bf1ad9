"""Which shift is looked at next, how often, and what becomes of the results."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from exporter.cause.verdict import CauseVerdict, Outcome
from exporter.evaluation.causes.finder import FAILED_SECONDS, KNOWN_SECONDS, UNKNOWN_SECONDS, CauseFinder
from exporter.evaluation.causes.shift_cause import Shift, ShiftCause
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.runtime.telemetry import Loop
from exporter.tempo.errors import StoppedError
from tests.support.causes import CHECKOUT, a_cause
from tests.support.fakes import FrozenClock, Recorder
from tests.support.samples import NOON, events

OTHER = SeriesKey("gateway", "GET /cart")
SHIFT = Shift(CHECKOUT, float(NOON), NOON - 60.0, 2.0, 300)
WORSE = Shift(OTHER, float(NOON), NOON - 60.0, 9.0, 300)


@dataclass
class Search:
    """Answers with given results, and remembers the shifts that were asked for."""

    answer: Callable[[Shift], ShiftCause] = a_cause
    asked: list[Shift] = field(default_factory=list)

    def find(self, shift: Shift, *, loop: Loop) -> ShiftCause:
        assert loop == "cause"
        self.asked.append(shift)
        return replace(self.answer(shift), shift=shift)


class Bench:
    """A finder with a frozen clock."""

    def __init__(self, answer: Callable[[Shift], ShiftCause] = a_cause) -> None:
        self.clock = FrozenClock(float(NOON))
        self.search = Search(answer)
        self.telemetry = Recorder()
        self.finder = CauseFinder(
            self.search,
            self.telemetry,
            clock=self.clock.time,
            monotonic=self.clock.monotonic,
            log=get_logger("causes"),
        )

    @property
    def keys(self) -> list[SeriesKey]:
        return [shift.key for shift in self.search.asked]


def outcome(value: Outcome) -> Callable[[Shift], ShiftCause]:
    return lambda shift: ShiftCause(shift, CauseVerdict(value, None, 3, 0), f"said {value}")


def test_worst_shift_is_looked_at_first() -> None:
    bench = Bench()
    bench.finder.observe([SHIFT, WORSE])
    assert bench.finder.look_at_next() == 0.0
    assert bench.telemetry.pending_causes == 1
    assert bench.finder.look_at_next() > 0
    assert bench.telemetry.pending_causes == 0
    assert bench.keys == [OTHER, CHECKOUT]
    assert [name for name, _ in bench.telemetry.causes] == ["known", "known"]
    assert set(bench.finder.causes) == {OTHER, CHECKOUT}


def test_shift_that_was_never_looked_at_comes_before_a_worse_one() -> None:
    bench = Bench()
    bench.finder.observe([WORSE])
    bench.finder.look_at_next()
    bench.clock.advance(KNOWN_SECONDS)
    bench.finder.observe([WORSE, SHIFT])
    bench.finder.look_at_next()
    assert bench.keys == [OTHER, CHECKOUT]


def test_shift_that_belongs_to_no_incident_comes_before_a_worse_one_that_does() -> None:
    bench = Bench()
    bench.finder.observe([replace(WORSE, in_incident=True), SHIFT])
    bench.finder.look_at_next()
    bench.finder.look_at_next()
    assert bench.keys == [CHECKOUT, OTHER]


@pytest.mark.parametrize(("answer", "seconds"), [(a_cause, KNOWN_SECONDS), (outcome(Outcome.UNCLEAR), UNKNOWN_SECONDS)])
def test_shift_is_looked_at_again_while_it_lasts(answer: Callable[[Shift], ShiftCause], seconds: float) -> None:
    bench = Bench(answer)
    bench.finder.observe([SHIFT])
    assert bench.finder.look_at_next() == seconds
    bench.clock.advance(seconds - 1)
    assert bench.finder.look_at_next() == 1
    bench.clock.advance(1)
    bench.finder.look_at_next()
    assert [shift.at for shift in bench.search.asked] == [NOON, NOON + seconds]
    bench.finder.observe([])
    bench.clock.advance(seconds)
    bench.finder.look_at_next()
    assert len(bench.search.asked) == 2


def test_new_shift_of_the_same_series_is_looked_at_at_once() -> None:
    bench = Bench()
    bench.finder.observe([SHIFT])
    bench.finder.look_at_next()
    bench.finder.observe([replace(SHIFT, since=NOON + 600.0)])
    bench.finder.look_at_next()
    assert bench.finder.causes[CHECKOUT].shift.since == NOON + 600.0


def test_cause_is_logged_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench()
    bench.finder.observe([SHIFT])
    for _ in range(3):
        bench.finder.look_at_next()
        bench.clock.advance(KNOWN_SECONDS)
    bench.search.answer = outcome(Outcome.NO_DIFFERENCE)
    bench.finder.look_at_next()
    assert events(caplog) == ["shift_cause", "shift_cause"]


def test_a_new_shift_is_pending_until_the_first_result_that_stands_or_for_three_minutes() -> None:
    bench = Bench(outcome(Outcome.FAILED))
    bench.finder.observe([SHIFT, WORSE])
    assert bench.finder.pending == {CHECKOUT, OTHER}
    bench.finder.look_at_next()
    assert bench.finder.pending == {CHECKOUT, OTHER}
    bench.search.answer = outcome(Outcome.UNCLEAR)
    bench.finder.look_at_next()
    assert bench.finder.pending == {OTHER}
    bench.clock.advance(FAILED_SECONDS)
    bench.search.answer = outcome(Outcome.FAILED)
    bench.finder.look_at_next()
    assert bench.finder.pending == frozenset()
    again = replace(SHIFT, since=bench.clock.time())
    bench.finder.observe([again])
    bench.clock.advance(179)
    bench.finder.observe([again])
    assert bench.finder.pending == {CHECKOUT}
    bench.clock.advance(1)
    assert bench.finder.pending == frozenset()


def test_a_new_shift_is_pending_while_its_first_failure_is_repeated() -> None:
    pending = []

    def answer(shift: Shift) -> ShiftCause:
        pending.append(bench.finder.pending)
        return outcome(Outcome.FAILED)(shift)

    bench = Bench(answer)
    bench.finder.observe([SHIFT])
    for _ in range(2):
        bench.finder.look_at_next()
        bench.clock.advance(FAILED_SECONDS)
    assert pending == [{CHECKOUT}, {CHECKOUT}]
    assert bench.finder.pending == frozenset()


def test_first_failure_is_followed_by_another_attempt_soon_and_the_next_one_is_not() -> None:
    bench = Bench(outcome(Outcome.FAILED))
    bench.finder.observe([SHIFT])
    assert bench.finder.look_at_next() == FAILED_SECONDS
    bench.clock.advance(FAILED_SECONDS)
    assert bench.finder.look_at_next() == UNKNOWN_SECONDS
    bench.clock.advance(UNKNOWN_SECONDS)
    assert bench.finder.look_at_next() == UNKNOWN_SECONDS
    bench.finder.observe([replace(SHIFT, since=bench.clock.time())])
    assert bench.finder.look_at_next() == FAILED_SECONDS
    assert len(bench.search.asked) == 4


@pytest.mark.parametrize("value", [Outcome.FAILED, Outcome.NO_TRACES])
def test_failed_attempt_keeps_what_was_found_before(value: Outcome) -> None:
    bench = Bench()
    bench.finder.observe([SHIFT])
    bench.finder.look_at_next()
    bench.search.answer = outcome(value)
    bench.clock.advance(KNOWN_SECONDS)
    assert bench.finder.look_at_next() == UNKNOWN_SECONDS
    assert bench.finder.causes[CHECKOUT].verdict.outcome is Outcome.KNOWN
    assert [name for name, _ in bench.telemetry.causes] == ["known", value.value]


def test_causes_of_many_shifts_are_bounded() -> None:
    verdict = CauseVerdict(Outcome.NO_TRACES, None, 0, 0)
    bench = Bench(lambda shift: ShiftCause(shift, verdict, "too few"))
    for number in range(250):
        bench.finder.observe([replace(SHIFT, key=SeriesKey("checkout", str(number)))])
        bench.finder.look_at_next()
        bench.clock.advance(1)
    assert len(bench.finder.causes) == 200
    assert SeriesKey("checkout", "249") in bench.finder.causes


def test_crash_is_logged_and_the_next_shift_is_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    stop = threading.Event()

    def answer(shift: Shift) -> ShiftCause:
        if shift.key == OTHER:
            bench.finder.observe([SHIFT, WORSE])
            raise RuntimeError("broken")
        stop.set()
        return a_cause(shift)

    bench = Bench(answer)
    bench.finder.observe([WORSE])
    bench.finder.run(stop)
    assert bench.keys == [OTHER, CHECKOUT]
    assert "cause_crashed" in events(caplog)


def test_stopping_ends_the_thread() -> None:
    def answer(shift: Shift) -> ShiftCause:
        raise StoppedError(f"stopping {shift.key}")

    bench = Bench(answer)
    bench.finder.observe([SHIFT])
    bench.finder.run(threading.Event())
    assert bench.finder.causes == {}
