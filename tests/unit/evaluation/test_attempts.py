"""When a subject is due, what counts as another one, and what is known while an attempt is under way."""

from math import inf

from exporter.evaluation.attempts import Attempt, Attempts
from exporter.model.span import SeriesKey
from tests.support.fakes import FrozenClock

KEY, OTHER = SeriesKey("checkout", "POST /pay"), SeriesKey("gateway", "GET /cart")


def test_new_subject_is_due_at_once_and_after_an_attempt_when_it_said() -> None:
    clock = FrozenClock(1000.0)
    attempts = Attempts(clock.monotonic)
    assert attempts.of(KEY, 1) == Attempt(1)
    assert attempts.of(KEY, 1).due_at < clock.monotonic()
    assert not attempts.has(KEY, 1)
    assert attempts.begin(KEY, 1, 300.0) == 1
    # It may break something: then it is not looked for again at once.
    assert attempts.of(KEY, 1) == Attempt(1, 1, clock.monotonic() + 300.0)
    clock.advance(10.0)
    attempts.end(KEY, 1, 20.0, is_settled=False)
    assert attempts.of(KEY, 1) == Attempt(1, 1, clock.monotonic() + 20.0)
    assert attempts.begin(KEY, 1, 300.0) == 2
    attempts.end(KEY, 1, inf, is_settled=True)
    assert attempts.of(KEY, 1) == Attempt(1, 2, inf, is_settled=True)


def test_settled_subject_stays_so_while_it_is_looked_for_again() -> None:
    attempts = Attempts(FrozenClock(0.0).monotonic)
    attempts.begin(KEY, 1, 300.0)
    attempts.end(KEY, 1, 1800.0, is_settled=True)
    attempts.begin(KEY, 1, 300.0)
    assert attempts.of(KEY, 1).is_settled


def test_another_subject_of_the_series_begins_without_attempts() -> None:
    attempts = Attempts(FrozenClock(0.0).monotonic)
    attempts.begin(KEY, 1, 300.0)
    attempts.end(KEY, 1, inf, is_settled=True)
    assert attempts.of(KEY, 2) == Attempt(2)
    assert attempts.begin(KEY, 2, 300.0) == 1
    assert not attempts.has(KEY, 1)


def test_series_that_are_gone_are_forgotten() -> None:
    attempts = Attempts(FrozenClock(0.0).monotonic)
    for key in (KEY, OTHER):
        attempts.begin(key, 1, 300.0)
    attempts.retain({OTHER})
    assert [attempts.has(key, 1) for key in (KEY, OTHER)] == [False, True]
