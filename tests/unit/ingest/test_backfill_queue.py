"""The open work of the ledger's loop: who takes what, what is left, and when to look again."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.ingest.backfill_queue import Plan
from exporter.model.calendar import Calendar
from exporter.model.ledger import BatchRules, LedgerEntry, Wanted, Window, WindowState
from tests.support.ledgers import (
    HOUR,
    NOON,
    UTC_CALENDAR,
    calendars,
    entry,
    failed,
    ledgers,
    ranges,
    seconds_covered,
)

RULES = BatchRules(limit=1000, most_windows=1)
SETTLE = 900


def day(hours: int = 24, step: int = HOUR) -> Wanted:
    return Wanted(NOON - hours * HOUR, NOON, step)


def window(ago: int) -> Window:
    return Window(NOON - ago * HOUR, NOON - ago * HOUR + HOUR)


def plan(range_: Wanted, *known: LedgerEntry) -> Plan:
    return Plan(range_, known, UTC_CALENDAR)


def take(open_work: Plan, now: float = NOON) -> tuple[Window, ...]:
    batch = open_work.take(now, RULES)
    return () if batch is None else batch.windows


def in_hand(open_work: Plan) -> bool:
    return open_work.in_hand


@st.composite
def plans(draw: st.DrawFn) -> tuple[Plan, Wanted, list[LedgerEntry]]:
    drawn = draw(ranges())
    # Every step looks at all windows, and fifty of them show what thousands would.
    range_ = replace(drawn, end=min(drawn.end, drawn.start + 50 * drawn.step_seconds))
    known = list(draw(ledgers(range_)))
    calendar: Calendar = draw(calendars)
    return Plan(range_, known, calendar), range_, known


@given(plans(), st.integers(1, 1000), st.integers(1, 5), st.integers())
def test_several_workers_read_everything_once_whatever_becomes_of_it(
    case: tuple[Plan, Wanted, list[LedgerEntry]], limit: int, usual_windows: int, seed: int
) -> None:
    """Batches are taken while others are out, and given back read, expired or failed; in the end all is covered."""
    open_work, range_, known = case
    rules = BatchRules(limit=limit, usual_windows=usual_windows)
    chance = random.Random(seed)
    now = float(range_.end)
    out: list[tuple[Window, ...]] = []
    read: list[Window] = []
    failures: Counter[Window] = Counter()
    for _ in range(10_000):
        batch = open_work.take(now, rules) if chance.random() < 0.5 or not out else None
        if batch is not None:
            assert not {window for windows in out for window in windows}.intersection(batch.windows)
            out.append(batch.windows)
            continue
        if not out:
            if open_work.progress.complete:
                break
            now += HOUR  # everything left is resting
            continue
        windows = out.pop(chance.randrange(len(out)))
        if failures[windows[0]] < 2 and chance.random() < 0.2:
            failures.update(windows)
            open_work.note(failed(each, retry_at=now + 30, attempts=failures[each]) for each in windows)
        else:
            read += windows
            open_work.note(entry(*each, traces=chance.randrange(50)) for each in windows)
        open_work.give_back(windows)
    assert not in_hand(open_work)
    assert open_work.progress.complete
    assert open_work.settled_until == range_.end
    # An expired window was never read, so a plan begins with it as unread.
    before = [found.window for found in known if found.state.settled and found.state is not WindowState.EXPIRED]
    whole = [(range_.start, range_.end)] if range_.start < range_.end else []
    assert seconds_covered([*before, *read], range_) == whole


def test_batches_are_taken_newest_first_and_not_twice() -> None:
    open_work = plan(day())
    assert take(open_work) == (window(1),)
    assert take(open_work) == (window(2),)
    assert in_hand(open_work)
    open_work.give_back([window(1)])
    assert in_hand(open_work)
    open_work.give_back([window(2)])
    assert not in_hand(open_work)
    assert take(open_work) == (window(1),)


def test_what_was_read_is_not_taken_again() -> None:
    open_work = plan(day(3), entry(*window(2)))
    assert take(open_work) == (window(1),)
    open_work.note([entry(*window(1))])
    open_work.give_back([window(1)])
    assert take(open_work) == (window(3),)
    open_work.note([entry(*window(3), WindowState.EMPTY)])
    open_work.give_back([window(3)])
    assert take(open_work) == ()
    assert open_work.progress.complete


def test_an_expired_window_is_asked_for_again_after_a_restart_but_not_before() -> None:
    open_work = plan(day(1), entry(*window(1), WindowState.EXPIRED))
    assert take(open_work) == (window(1),)
    open_work.note([entry(*window(1), WindowState.EXPIRED)])
    open_work.give_back([window(1)])
    assert take(open_work) == ()
    assert open_work.progress.expired == 1


def test_a_failed_window_is_left_alone_until_it_has_rested() -> None:
    open_work = plan(day(2))
    take(open_work)
    open_work.note([failed(window(1), retry_at=NOON + 30)])
    open_work.give_back([window(1)])
    assert open_work.attempts(window(1)) == 1
    assert open_work.attempts(window(2)) == 0
    assert open_work.readable(NOON) == [window(2)]
    assert take(open_work, NOON + 30) == (window(1),)
    open_work.note([entry(*window(1))])
    assert open_work.attempts(window(1)) == 0


def test_only_what_nobody_has_touched_may_be_claimed() -> None:
    open_work = plan(day(5), entry(*window(5)), failed(window(4), retry_at=NOON + 30))
    assert take(open_work) == (window(1),)
    assert open_work.untouched() == [window(3), window(2)]
    everything = [window(ago) for ago in (5, 4, 3, 2, 1)]
    assert open_work.claim(everything) == [window(3), window(2)]
    assert open_work.claim(everything) == []
    assert take(open_work) == ()
    open_work.give_back([window(3), window(2)])
    assert open_work.untouched() == [window(3), window(2)]


def test_windows_that_settle_become_open_work_and_those_too_old_cease_to_be() -> None:
    open_work = plan(day(3), *(entry(*window(ago)) for ago in (1, 2, 3)))
    assert open_work.progress.complete
    later = Wanted(NOON - HOUR, NOON + 2 * HOUR, HOUR)
    open_work.advance(later, now=NOON + 3 * HOUR)
    assert open_work.range == later
    assert [found.window for found in open_work.entries] == [window(1)]
    assert open_work.readable(NOON) == [window(-1), window(0)]
    assert open_work.progress.windows == 3


def test_a_clock_set_back_wants_what_was_let_go_of_which_the_store_still_knows() -> None:
    stored = [entry(*window(ago), traces=ago) for ago in (1, 2, 3)]
    open_work = plan(day(3), *stored)
    open_work.advance(Wanted(NOON - HOUR, NOON, HOUR), now=NOON)
    open_work.advance(day(3), stored[1:], now=NOON)
    assert open_work.progress.complete
    assert open_work.progress.done == 3
    # Without the store it would be read again; and what is known here is newer than what comes from there.
    open_work.advance(day(4), [failed(window(1), retry_at=NOON), entry(*window(4), WindowState.EXPIRED)], now=NOON)
    assert open_work.readable(NOON) == [window(4)]


def test_windows_of_a_future_that_a_wrong_clock_has_read_do_no_harm() -> None:
    open_work = plan(day(2), entry(*window(-5)))
    assert open_work.progress.windows == 2
    assert take(open_work) == (window(1),)


def test_it_is_settled_up_to_the_oldest_gap() -> None:
    open_work = plan(day(6), entry(*window(6)), entry(*window(3)))
    assert open_work.settled_until == window(5).start
    open_work.note([entry(*window(5)), entry(*window(4))])
    assert open_work.settled_until == window(2).start
    open_work.note([entry(*window(2)), entry(*window(1))])
    assert open_work.settled_until == NOON


@pytest.mark.parametrize(("attempts", "waited_for"), [(1, True), (2, True), (3, False), (9, False)])
def test_a_window_that_fails_for_good_measure_is_not_waited_for(attempts: int, waited_for: bool) -> None:
    open_work = plan(day(2), failed(window(2), retry_at=NOON, attempts=attempts), entry(*window(1)))
    assert open_work.settled_until == (window(2).start if waited_for else NOON)


def test_the_next_thing_to_do_is_the_window_that_settles_next() -> None:
    open_work = plan(day(1), entry(*window(1)))
    # The hour from NOON on has settled a quarter of an hour after its end.
    assert open_work.seconds_until_due(NOON + 600, SETTLE) == HOUR + SETTLE - 600
    assert open_work.seconds_until_due(NOON + 2 * HOUR, SETTLE) == 0


def test_or_the_failed_window_that_has_rested_first() -> None:
    open_work = plan(day(2), failed(window(1), retry_at=NOON + 70), failed(window(2), retry_at=NOON + 40))
    assert open_work.seconds_until_due(NOON, SETTLE) == 40
    assert open_work.seconds_until_due(NOON + 50, SETTLE) == 20


def test_nobody_looks_again_and_again_at_a_failed_window_that_is_being_read_or_was_read_in_parts() -> None:
    """Its rest is over, and there is nothing to do about it."""
    open_work = plan(day(1, step=1800), failed(window(1), retry_at=NOON - 60))
    halves = [Window(window(1).start, window(1).start + 1800), Window(window(1).start + 1800, window(1).end)]
    assert take(open_work) == (halves[1],)
    assert take(open_work) == (halves[0],)
    assert open_work.seconds_until_due(NOON, SETTLE) == 1800 + SETTLE
    open_work.note(entry(*half) for half in halves)
    open_work.give_back(halves)
    assert open_work.seconds_until_due(NOON, SETTLE) == 1800 + SETTLE
    assert open_work.progress.complete
