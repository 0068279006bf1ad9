"""The queue of the backfill: the work that it hands out, in which order, and its state after workers report back."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from exporter.ingest.backfill_queue import (
    BackfillQueue,
    ConfirmEmpty,
    Finished,
    LateCheck,
    ProbeRetention,
    ReadBatch,
    Wait,
    Work,
)
from exporter.ingest.ledger_entries import confirmed_entries, expired_entries, failed_entries
from exporter.ingest.window_table import HELD, READ, InvalidTransitionError, QueueState, was_sampled
from exporter.model.calendar import Calendar
from exporter.model.ledger import (
    BatchRules,
    LedgerEntry,
    LedgerProgress,
    Wanted,
    Window,
    WindowState,
    doubt_again_at,
    pending,
    wanted,
)
from tests.support.fakes import FrozenClock
from tests.support.ledgers import (
    DAY,
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


class QueueBench:
    """A queue with a frozen clock; probes find traces in the oldest window, so nothing expires."""

    def __init__(
        self, range_: Wanted, *known: LedgerEntry, now: float = NOON, calendar: Calendar = UTC_CALENDAR
    ) -> None:
        self.clock = FrozenClock(now)
        self.completed: list[tuple[LedgerProgress, int, float]] = []
        self.queue = BackfillQueue(
            range_,
            known,
            calendar,
            settle_seconds=SETTLE,
            clock=self.clock.time,
            monotonic=self.clock.monotonic,
            on_complete=lambda *completion: self.completed.append(completion),
        )

    @property
    def progress(self) -> LedgerProgress:
        return self.queue.status.progress

    def work(self, rules: BatchRules = RULES, *, patience: int | None = None) -> Work:
        """The next work that is not a probe."""
        work = self.queue.take(rules, patience=patience)
        if isinstance(work, ProbeRetention):
            self.queue.finish_probe(work.windows[0].start)
            work = self.queue.take(rules, patience=patience)
        return work

    def take(self) -> tuple[Window, ...]:
        """The windows of the next batch, if any can be read now."""
        work = self.work()
        return work.batch.windows if isinstance(work, ReadBatch) else ()

    def read(self, *entries: LedgerEntry) -> None:
        """Take batches, and report the given entries for their windows, until each entry is reported."""
        by_window = {each.window: each for each in entries}
        while by_window:
            (taken,) = self.take()
            self.queue.complete([by_window.pop(taken)])

    def seconds_until_due(self) -> float:
        work = self.work()
        assert isinstance(work, Wait)
        return work.seconds

    def advance(self, range_: Wanted, *known: LedgerEntry) -> None:
        assert self.queue.advance(range_, known, replacing=self.queue.range)


# Which windows are read, and when


def test_windows_whose_digests_are_stored_do_not_expire_while_they_wait_for_a_reread() -> None:
    """If they are older than Tempo's first trace by then, what is stored of them is all that is left."""
    lacking = [entry(*window(ago), traces=5, coverage=0.5, retry_at=NOON) for ago in range(1, 15)]
    bench = QueueBench(day(28), *lacking)
    first = bench.queue.take(RULES)
    assert isinstance(first, ProbeRetention)
    assert first.windows == [window(ago) for ago in range(28, 14, -1)]
    bench.queue.finish_probe(window(28).start)
    reread = bench.queue.take(RULES)
    assert isinstance(reread, ReadBatch)
    assert set(reread.reread) == {window(ago) for ago in range(1, 15)}
    assert bench.queue.claim_expired(each.window for each in lacking) == []
    following = bench.queue.take(RULES)
    assert isinstance(following, ReadBatch)
    bench.queue.fail([each.stored for each in [*reread.records, *following.records] if each.stored is not None])
    assert bench.progress.expired == 0


def test_take_returns_the_newest_free_window() -> None:
    bench = QueueBench(day())
    assert bench.take() == (window(1),)
    assert bench.take() == (window(2),)
    bench.queue.release([window(1)])
    assert bench.take() == (window(1),)


def test_single_pass_waits_while_a_worker_holds_windows() -> None:
    bench = QueueBench(day(2))
    assert bench.take() == (window(1),)
    assert bench.take() == (window(2),)
    assert isinstance(bench.work(patience=1), Wait)
    bench.queue.complete([entry(*window(1))])
    assert isinstance(bench.work(patience=1), Wait)
    bench.queue.complete([entry(*window(2))])
    assert isinstance(bench.work(patience=1), Finished)


def test_window_that_was_read_is_not_taken_again() -> None:
    bench = QueueBench(day(3), entry(*window(2)))
    assert bench.take() == (window(1),)
    bench.queue.complete([entry(*window(1))])
    assert bench.take() == (window(3),)
    bench.queue.complete([entry(*window(3), WindowState.EMPTY)])
    assert bench.take() == ()
    assert bench.progress.complete


def test_window_expired_before_the_start_is_unread_but_one_expired_since_is_not_taken() -> None:
    bench = QueueBench(day(12), *(entry(*window(ago), WindowState.EXPIRED) for ago in range(1, 13)))
    work = bench.queue.take(RULES)
    assert isinstance(work, ProbeRetention)
    claimed = bench.queue.claim_expired(work.windows)
    assert bench.take() == ()
    bench.queue.finish_probe(NOON, [entry(*each, WindowState.EXPIRED, retry_at=NOON + 900) for each in claimed])
    assert bench.take() == ()
    assert bench.progress.expired == 12


def test_failed_window_is_taken_again_after_its_retry_time() -> None:
    bench = QueueBench(day(2))
    assert bench.take() == (window(1),)
    bench.queue.fail([failed(window(1), retry_at=NOON + 30)])
    bench.clock.advance(29)
    assert bench.take() == (window(2),)
    bench.queue.release([window(2)])
    bench.clock.advance(1)
    work = bench.work()
    assert isinstance(work, ReadBatch)
    assert [(record.window, record.failures) for record in work.records] == [(window(1), 1)]
    bench.queue.complete([entry(*window(1))])
    assert bench.progress.failed == 0


def test_advance_adds_windows_that_settled_and_drops_those_too_old() -> None:
    bench = QueueBench(day(3), *(entry(*window(ago)) for ago in (1, 2, 3)))
    assert bench.progress.complete
    later = Wanted(NOON - HOUR, NOON + 2 * HOUR, HOUR)
    bench.clock.advance(3 * HOUR)
    bench.advance(later)
    assert bench.queue.range == later
    assert bench.progress.windows == 3
    assert (bench.progress.pending, bench.progress.done) == (2, 1)
    assert [bench.take(), bench.take(), bench.take()] == [(window(-1),), (window(0),), ()]


def test_advance_is_refused_when_another_worker_has_moved_the_range() -> None:
    bench = QueueBench(day(3))
    bench.advance(Wanted(NOON - HOUR, NOON, HOUR))
    assert not bench.queue.advance(day(2), replacing=day(3))
    assert bench.queue.range == Wanted(NOON - HOUR, NOON, HOUR)


def test_advance_to_an_earlier_range_does_not_read_windows_of_the_ledger_again() -> None:
    stored = [entry(*window(ago), traces=ago) for ago in (1, 2, 3)]
    bench = QueueBench(day(3), *stored)
    bench.advance(Wanted(NOON - HOUR, NOON, HOUR))
    bench.advance(day(3), *stored[1:])
    assert bench.progress.complete
    assert bench.progress.done == 3
    # The record in the queue is newer than the entry from the ledger. Expired entries of the ledger count as unread.
    bench.advance(day(4), failed(window(1), retry_at=NOON), entry(*window(4), WindowState.EXPIRED))
    assert bench.take() == (window(4),)
    assert bench.take() == ()


def test_entry_beyond_the_range_is_not_counted_and_blocks_no_window() -> None:
    bench = QueueBench(day(2), entry(*window(-5)))
    assert bench.progress.windows == 2
    assert bench.take() == (window(1),)


# How far history is settled


def test_settled_until_is_the_start_of_the_oldest_gap() -> None:
    bench = QueueBench(day(6), entry(*window(6)), entry(*window(3)))
    assert bench.queue.settled_until() == window(5).start
    bench.read(*(entry(*window(ago)) for ago in (1, 2, 4)))
    assert bench.queue.settled_until() == window(5).start
    bench.read(entry(*window(5)))
    assert bench.queue.settled_until() == NOON


@pytest.mark.parametrize(("attempts", "is_blocking"), [(1, True), (2, True), (3, False), (9, False)])
def test_window_that_failed_three_times_no_longer_blocks_settled_until(attempts: int, is_blocking: bool) -> None:
    bench = QueueBench(day(2), failed(window(2), retry_at=NOON, attempts=attempts), entry(*window(1)))
    assert bench.queue.settled_until() == (window(2).start if is_blocking else NOON)
    bench.take()
    assert bench.queue.settled_until() == (window(2).start if is_blocking else NOON)


# Waiting


def test_wait_lasts_until_the_next_window_settles() -> None:
    # The hour that starts at NOON settles a quarter of an hour after its end.
    bench = QueueBench(day(1), entry(*window(1)), now=NOON + HOUR + SETTLE - 42)
    assert bench.seconds_until_due() == 42
    bench.clock.advance(HOUR)
    assert bench.seconds_until_due() == 0.05


def test_wait_lasts_until_the_first_retry_time() -> None:
    bench = QueueBench(day(2), failed(window(1), retry_at=NOON + 50), failed(window(2), retry_at=NOON + 40))
    assert bench.seconds_until_due() == 40
    bench.clock.advance(45)
    assert bench.take() == (window(2),)
    assert bench.seconds_until_due() == 5


def test_wait_ignores_the_retry_time_of_a_failed_window_that_is_read_in_halves() -> None:
    bench = QueueBench(day(1, step=1800), failed(window(1), retry_at=NOON - 60), now=NOON + 1800 + SETTLE - 42)
    halves = [Window(window(1).start, window(1).start + 1800), Window(window(1).start + 1800, window(1).end)]
    assert bench.take() == (halves[1],)
    assert bench.take() == (halves[0],)
    assert bench.seconds_until_due() == 42
    bench.queue.complete(entry(*half) for half in halves)
    assert bench.seconds_until_due() == 42
    assert bench.progress.complete


def test_wait_lasts_at_most_a_minute() -> None:
    assert QueueBench(day(1), entry(*window(1))).seconds_until_due() == 60


def test_pause_doubles_after_each_failure_and_restarts_after_a_success() -> None:
    bench = QueueBench(day(9))
    pauses = []
    for _ in range(8):
        bench.queue.release(bench.take(), failed=True)
        pauses.append(bench.seconds_until_due())
        bench.clock.passed += pauses[-1]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    bench.read(entry(*window(1)))
    bench.queue.release(bench.take(), failed=True)
    assert bench.seconds_until_due() == 1


def test_wait_returns_at_once_if_the_queue_was_woken_since_take() -> None:
    bench = QueueBench(day(1), entry(*window(1)))
    wait = bench.work()
    assert isinstance(wait, Wait)
    bench.queue.wake()
    bench.queue.wait(wait)  # lasts a minute otherwise


def test_wait_returns_when_another_worker_reports() -> None:
    bench = QueueBench(day(1))
    taken = bench.take()
    wait = bench.work()
    assert isinstance(wait, Wait)
    waiter = threading.Thread(target=bench.queue.wait, args=(wait,), daemon=True)
    waiter.start()
    bench.queue.complete(entry(*each) for each in taken)
    waiter.join(20)
    assert not waiter.is_alive()


# Probing retention


def test_probe_is_handed_out_once_and_only_if_twelve_windows_are_unread() -> None:
    assert isinstance(QueueBench(day(11)).queue.take(RULES), ReadBatch)
    bench = QueueBench(day(12))
    work = bench.queue.take(RULES)
    assert isinstance(work, ProbeRetention)
    assert list(work.windows) == [window(ago) for ago in range(12, 0, -1)]
    # Other workers read while one worker probes.
    assert bench.take() == (window(1),)
    bench.queue.release([window(1)])
    bench.queue.finish_probe(window(12).start)
    assert isinstance(bench.queue.take(RULES), ReadBatch)


def test_failed_probe_is_handed_out_again_after_a_pause() -> None:
    bench = QueueBench(day(12))
    assert isinstance(bench.queue.take(RULES), ProbeRetention)
    bench.queue.abandon_probe(failed=True)
    assert bench.seconds_until_due() == 1
    bench.clock.passed += 1
    assert isinstance(bench.queue.take(RULES), ProbeRetention)


def test_claim_expired_returns_only_unread_windows_that_no_worker_holds() -> None:
    bench = QueueBench(day(5), entry(*window(5)), failed(window(4), retry_at=NOON + 30))
    assert bench.take() == (window(1),)
    windows = [window(ago) for ago in (5, 4, 3, 2, 1)]
    assert bench.queue.claim_expired(windows) == [window(3), window(2)]
    assert bench.queue.claim_expired(windows) == []
    assert bench.take() == ()
    bench.queue.abandon_probe()
    assert bench.queue.claim_expired(windows) == [window(3), window(2)]


# Empty windows and missing traces


def empty(ago: int, *, retry_at: float | None = NOON, attempts: int = 0) -> LedgerEntry:
    return entry(*window(ago), WindowState.EMPTY, coverage=1.0, attempts=attempts, retry_at=retry_at)


def test_newest_stretch_of_empty_windows_is_confirmed_first_by_one_worker_at_a_time() -> None:
    entries = [empty(1), empty(2), empty(3, retry_at=None), empty(4, retry_at=NOON + 1), empty(5), empty(6)]
    bench = QueueBench(day(6), *entries)
    work = bench.work()
    assert work == ConfirmEmpty([entries[1], entries[0]])
    assert isinstance(bench.work(), Wait)
    bench.queue.confirm(replace(each, retry_at=NOON + 3600, attempts=1) for each in entries[:2])
    work = bench.work()
    assert work == ConfirmEmpty([entries[5], entries[4]])
    bench.queue.release([window(5), window(6)])
    assert bench.work() == work


def test_single_pass_does_not_confirm_empty_windows() -> None:
    assert isinstance(QueueBench(day(1), empty(1)).work(patience=1), Finished)


# Late spans


def unchecked(ago: int, due: float = NOON, **fields: Any) -> LedgerEntry:
    return replace(entry(*window(ago), traces=5, coverage=1.0), late_check_at=due, **fields)


def test_newest_adjacent_windows_are_checked_together_when_due_and_count_as_read_meanwhile() -> None:
    later = unchecked(2, NOON + 1)
    bench = QueueBench(day(6), unchecked(6), unchecked(5), entry(*window(4)), unchecked(3), later, unchecked(1))
    bench.queue.publish_status()
    before = bench.queue.status
    for expected in ([window(1)], [window(3)], [window(6), window(5)]):
        work = bench.work()
        assert isinstance(work, LateCheck)
        assert [each.window for each in work.entries] == expected
        bench.queue.publish_status()
        assert bench.queue.status == before
        assert bench.queue.settled_until() == NOON
    assert bench.seconds_until_due() == 1
    assert isinstance(bench.work(patience=1), Wait)
    bench.clock.advance(1)
    assert isinstance(bench.work(), LateCheck)


def test_check_covers_no_more_than_the_longest_search() -> None:
    bench = QueueBench(day(3), *map(unchecked, (1, 2, 3)))
    work = bench.work(replace(RULES, longest_seconds=2 * HOUR))
    assert isinstance(work, LateCheck)
    assert [each.window for each in work.entries] == [window(2), window(1)]


def test_unread_windows_are_read_before_others_are_checked() -> None:
    bench = QueueBench(day(2), unchecked(1))
    assert bench.take() == (window(2),)
    assert isinstance(bench.work(), LateCheck)


def test_checked_window_is_checked_again_or_final() -> None:
    bench = QueueBench(day(2), unchecked(1), unchecked(2, late_spans=None))
    assert bench.queue.status.late_windows == 1
    assert isinstance(bench.work(), LateCheck)
    bench.queue.finish_late_check([unchecked(1, NOON + 40), replace(unchecked(2), late_check_at=None)])
    assert bench.queue.status.late_windows == 0
    assert bench.seconds_until_due() == 40
    bench.clock.advance(40)
    assert isinstance(bench.work(patience=1), LateCheck)  # a single pass checks as well
    bench.queue.release([window(1)])
    assert isinstance(bench.work(), LateCheck)


def test_ledger_of_an_earlier_version_is_checked_as_required() -> None:
    known = [entry(*window(1)), entry(*window(2)), entry(*window(3), WindowState.EXPIRED), unchecked(4, NOON + 9)]
    queue = BackfillQueue(
        day(4),
        known,
        UTC_CALENDAR,
        settle_seconds=SETTLE,
        clock=lambda: NOON,
        monotonic=lambda: 0.0,
        first_late_check=lambda each, now: now if each.window == window(1) else None,
    )
    batch = queue.take(RULES)
    assert isinstance(batch, ReadBatch) and batch.batch.windows == (window(3),)
    work = queue.take(RULES)
    assert isinstance(work, LateCheck)
    assert [each.window for each in work.entries] == [window(1)]
    assert isinstance(queue.take(RULES), Wait)


def test_reopened_window_is_read_and_keeps_its_number_of_confirmations() -> None:
    bench = QueueBench(day(1), empty(1, attempts=2))
    assert isinstance(bench.work(), ConfirmEmpty)
    bench.queue.reopen([window(1)])
    assert bench.progress.pending == 1
    work = bench.work()
    assert isinstance(work, ReadBatch)
    assert [(record.window, record.confirmations) for record in work.records] == [(window(1), 3)]


def missing(ago: int, *, retry_at: float | None = NOON) -> LedgerEntry:
    return entry(*window(ago), traces=10, coverage=0.2, retry_at=retry_at)


def test_window_with_missing_traces_is_reread_once() -> None:
    bench = QueueBench(day(1), missing(1))
    assert isinstance(bench.work(patience=1), Finished)
    work = bench.work()
    assert isinstance(work, ReadBatch)
    (record,) = work.records
    stored = replace(missing(1), attempts=1, retry_at=None)
    assert (work.reread, record.is_reread, record.stored) == ([window(1)], True, stored)
    # A failed reread keeps the stored entry.
    bench.queue.fail([stored])
    bench.clock.advance(DAY)
    assert bench.progress.complete
    assert isinstance(bench.work(), Wait)


def test_window_is_reread_once_if_tempo_counts_more_traces_than_were_read() -> None:
    read = [
        entry(*window(1), traces=10, coverage=1.0),
        entry(*window(2), traces=10, coverage=1.0, attempts=1),
        entry(*window(3), traces=99, coverage=1.0),
        entry(*window(4), traces=10, coverage=0.1),
        empty(5, retry_at=None),
    ]
    bench = QueueBench(day(5), *read)
    bench.queue.schedule_rereads(lambda window: 100)
    assert bench.take() == (window(1),)
    bench.queue.complete([entry(*window(1), traces=100, coverage=1.0, attempts=1)])
    assert bench.work() == ConfirmEmpty([empty(5)])


# The status


def test_status_reports_the_most_recent_error_until_no_window_waits_for_a_retry() -> None:
    bench = QueueBench(day(2))
    before = bench.queue.status
    assert before.failure is None
    for ago in (1, 2):
        assert bench.take() == (window(ago),)
        failure = failed(window(ago), retry_at=NOON + 120)
        bench.queue.fail([replace(failure, read_at=NOON + ago, error=f"error {ago}")])
        bench.clock.passed += 60
    assert bench.queue.status.failure == "error 2"
    bench.clock.advance(120)
    bench.read(entry(*window(1)), entry(*window(2)))
    assert bench.queue.status.failure is None


def test_on_complete_is_called_once() -> None:
    bench = QueueBench(day(2))
    bench.clock.advance(30)
    bench.read(entry(*window(1), traces=3), entry(*window(2), traces=4))
    ((progress, traces, seconds),) = bench.completed
    assert (progress.done, traces, seconds) == (2, 7, 30)
    assert bench.queue.status.completed_at == NOON + 30
    bench.clock.advance(HOUR)
    bench.advance(Wanted(NOON - HOUR, NOON + HOUR, HOUR))
    bench.read(entry(*window(0)))
    assert len(bench.completed) == 1


@given(st.data())
def test_progress_adds_up_for_any_ledger(data: st.DataObject) -> None:
    range_ = data.draw(ranges())
    # Without expired windows, which are unread again after a start, and without windows beyond the range.
    known = [
        each
        for each in data.draw(ledgers(range_))
        if each.state is not WindowState.EXPIRED and range_.start < each.window.end <= range_.end
    ]
    calendar = data.draw(calendars)
    progress = QueueBench(range_, *known, calendar=calendar).progress
    unread = pending(known, range_, calendar)
    read = [each for each in known if each.state.settled]
    assert progress.windows == len(read) + len(unread)
    assert progress.done + progress.empty + progress.partial == len(read)
    assert progress.pending + progress.failed == len(unread)
    assert 0 <= progress.ratio <= 1
    assert progress.complete == (not unread) == (progress.ratio == 1)
    assert progress.traces_read == sum(each.traces for each in read if each.coverage)


def test_progress_counts_the_windows_of_each_state() -> None:
    known = [
        entry(*window(7), WindowState.EMPTY, coverage=1.0),
        entry(*window(6), traces=30, coverage=1.0),
        entry(*window(5), WindowState.PARTIAL, traces=10, coverage=0.25),
        entry(*window(4), WindowState.PARTIAL, traces=10),
        failed(window(3), retry_at=NOON),
    ]
    bench = QueueBench(day(8), *known)
    assert bench.queue.claim_expired([window(8)]) == [window(8)]
    bench.queue.finish_probe(window(7).start, [entry(*window(8), WindowState.EXPIRED, retry_at=NOON + 900)])
    progress = bench.progress
    assert (progress.pending, progress.done, progress.empty, progress.partial) == (2, 1, 1, 2)
    assert (progress.failed, progress.expired) == (1, 1)
    assert progress.ratio == 1 - 3 / 8
    assert not progress.complete
    # Without the second partial window, whose coverage is unknown.
    assert progress.coverage == pytest.approx(40 / 70)


def test_partial_window_of_a_version_that_did_not_reread_is_read_once_more_after_the_start() -> None:
    old = entry(*window(2), WindowState.PARTIAL, traces=10)
    reread = entry(*window(1), WindowState.PARTIAL, traces=10, attempts=3)
    bench = QueueBench(day(2), old, reread)
    assert bench.progress.complete
    assert bench.take() == (window(2),)
    bench.queue.complete([replace(old, attempts=3)])
    assert bench.take() == ()


def test_failed_window_of_another_length_counts_as_pending() -> None:
    progress = QueueBench(Wanted(*window(1), 900), failed(window(1), retry_at=NOON)).progress
    assert (progress.pending, progress.failed, progress.windows) == (4, 0, 4)


def test_progress_of_an_empty_range_is_complete() -> None:
    progress = QueueBench(Wanted(NOON, NOON, 300)).progress
    assert (progress.windows, progress.ratio, progress.complete, progress.coverage) == (0, 1.0, True, None)


# Invalid reports


@pytest.mark.parametrize(
    "report",
    [
        lambda queue: queue.complete([entry(*window(2))]),
        lambda queue: queue.complete([entry(*window(1)), entry(*window(2))]),
        lambda queue: queue.complete([entry(*window(9))]),
        lambda queue: queue.fail([failed(window(3), retry_at=NOON)]),
        lambda queue: queue.release([window(1), window(2)]),
        lambda queue: queue.confirm([empty(1)]),
        lambda queue: queue.confirm([empty(3)]),
        lambda queue: queue.reopen([window(3)]),
        lambda queue: queue.finish_late_check([entry(*window(1))]),
        lambda queue: queue.finish_probe(NOON, [entry(*window(1), WindowState.EXPIRED)]),
    ],
)
def test_report_about_a_window_not_held_for_that_work_raises_and_changes_nothing(
    report: Callable[[BackfillQueue], None],
) -> None:
    bench = QueueBench(day(3), empty(3))
    assert bench.take() == (window(1),)
    before = bench.queue.status
    with pytest.raises(InvalidTransitionError):
        report(bench.queue)
    assert bench.queue.status == before
    assert bench.take() == (window(2),)
    bench.queue.complete([entry(*window(1))])


# Any order of events


@st.composite
def benches(draw: st.DrawFn) -> tuple[QueueBench, Wanted, list[LedgerEntry]]:
    drawn = draw(ranges())
    # At most fifty windows, because every step takes time in proportion to their number.
    range_ = replace(drawn, end=min(drawn.end, drawn.start + 50 * drawn.step_seconds))
    known = list(draw(ledgers(range_)))
    return QueueBench(range_, *known, now=range_.end, calendar=draw(calendars)), range_, known


@given(benches(), st.integers(1, 1000), st.integers(1, 5), st.integers())
def test_several_workers_read_every_window_once(
    case: tuple[QueueBench, Wanted, list[LedgerEntry]], limit: int, usual_windows: int, seed: int
) -> None:
    """Workers take batches while others hold some, and read them or fail; in the end all of the range is covered."""
    bench, range_, known = case
    rules = BatchRules(limit=limit, usual_windows=usual_windows)
    rng = random.Random(seed)
    held: list[tuple[Window, ...]] = []
    read: list[Window] = []
    failures: Counter[Window] = Counter()
    for _ in range(10_000):
        work = bench.work(rules, patience=1_000_000) if rng.random() < 0.5 or not held else None
        if isinstance(work, ReadBatch):
            assert not {each for windows in held for each in windows}.intersection(work.batch.windows)
            held.append(work.batch.windows)
            continue
        if not held:
            if bench.progress.complete:
                break
            bench.clock.advance(HOUR)  # every window left waits for its retry time
            continue
        windows = held.pop(rng.randrange(len(held)))
        if failures[windows[0]] < 2 and rng.random() < 0.2:
            failures.update(windows)
            retry_at = bench.clock.now + 30
            bench.queue.fail(failed(each, retry_at=retry_at, attempts=failures[each]) for each in windows)
        else:
            read += windows
            bench.queue.complete(entry(*each, traces=rng.randrange(50)) for each in windows)
    assert isinstance(bench.work(patience=1_000_000), Finished)
    assert bench.progress.complete
    assert bench.queue.settled_until() == range_.end
    # An expired window was never read, and a window that extends beyond the range is read up to the end of the range.
    read_before = [
        each.window
        for each in known
        if each.state.settled and each.state is not WindowState.EXPIRED and each.window.end <= range_.end
    ]
    whole = [(range_.start, range_.end)] if range_.start < range_.end else []
    assert seconds_covered([*read_before, *read], range_) == whole


WANTED_STATES = (QueueState.UNREAD, QueueState.FAILED, QueueState.READING, QueueState.EXPIRING, *READ)


class QueueMachine(RuleBasedStateMachine):
    """Any sequence of reports and clock jumps, with several workers; the ledger keeps what is committed to it."""

    @initialize(data=st.data(), step=st.sampled_from([900, 1800, HOUR]), calendar=calendars)
    def start(self, data: st.DataObject, step: int, calendar: Calendar) -> None:
        self.calendar = calendar
        self.step = step
        self.duration = 20 * step + SETTLE
        self.clock = FrozenClock(float(NOON))
        self.ledger: dict[Window, LedgerEntry] = {}
        range_ = self.wanted()
        self.commit(data.draw(ledgers(range_)))
        self.queue = BackfillQueue(
            range_,
            self.stored(range_.start, range_.end),
            calendar,
            settle_seconds=SETTLE,
            clock=self.clock.time,
            monotonic=self.clock.monotonic,
        )
        self.in_progress: list[ReadBatch | ConfirmEmpty | LateCheck | ProbeRetention] = []
        self.claimed: set[Window] = set()
        self.settled_until = self.queue.settled_until()
        self.may_move_back = False

    # The ledger

    def wanted(self) -> Wanted:
        return wanted(
            self.clock.now,
            self.calendar,
            duration_seconds=self.duration,
            settle_seconds=SETTLE,
            batch_seconds=self.step,
        )

    def stored(self, start: int, end: int) -> list[LedgerEntry]:
        return [self.ledger[each] for each in sorted(self.ledger) if each.start < end and each.end > start]

    def commit(self, entries: Sequence[LedgerEntry]) -> None:
        for each in entries:
            overlapping = [w for w in self.ledger if w.start < each.window.end and each.window.start < w.end]
            for other in overlapping:
                del self.ledger[other]
            self.ledger[each.window] = each

    # Actions of workers

    @rule(limit=st.sampled_from([50, 1000]), patience=st.sampled_from([None, None, None, 3]))
    def take(self, limit: int, patience: int | None) -> None:
        self.may_move_back = patience is None  # a reread may be due
        held = self.held()
        work = self.queue.take(BatchRules(limit=limit, usual_windows=2), patience=patience)
        match work:
            case ReadBatch():
                taken = [record.window for record in work.records]
                assert work.batch.windows == tuple(taken)
                for window in taken:
                    assert not any(window.start < other.end and other.start < window.end for other in held)
                self.in_progress.append(work)
            case ConfirmEmpty() | LateCheck():
                assert not held.intersection(each.window for each in work.entries)
                self.in_progress.append(work)
            case ProbeRetention():
                assert not any(isinstance(each, ProbeRetention) for each in self.in_progress)
                self.in_progress.append(work)
            case Wait():
                assert 0 < work.seconds <= 60
            case Finished():
                assert not self.in_progress
                assert patience is not None

    @precondition(lambda self: self.in_progress)
    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        work = self.in_progress.pop(data.draw(st.integers(0, len(self.in_progress) - 1)))
        match work:
            case ReadBatch():
                self.report_batch(work, data)
            case ConfirmEmpty():
                self.report_empty(work, data)
            case LateCheck():
                self.report_late_check(work, data)
            case ProbeRetention():
                self.report_probe(work, data)

    def report_batch(self, work: ReadBatch, data: st.DataObject) -> None:
        now = self.clock.now
        count = data.draw(st.integers(0, len(work.records)))
        entries = []
        for record in work.records[:count]:
            state = data.draw(st.sampled_from([WindowState.DONE, WindowState.EMPTY, WindowState.PARTIAL]))
            traces = data.draw(st.integers(1, 50)) if state is not WindowState.EMPTY else 0
            coverage = data.draw(st.sampled_from([1.0, 0.3])) if state is WindowState.DONE else None
            retry_at = None
            if state is WindowState.EMPTY:
                retry_at = doubt_again_at(now, record.confirmations)
            elif coverage == 0.3 and not record.is_reread:
                retry_at = now + 900
            found = entry(*record.window, state, traces=traces, coverage=coverage, retry_at=retry_at)
            found = replace(found, late_check_at=self.next_late_check(data))
            if record.stored is None or record.stored.traces <= traces:
                self.commit([found])
                entries.append(replace(found, read_at=now))
            else:
                entries.append(record.stored)
        self.queue.complete(entries)
        unread = work.records[count:]
        if data.draw(st.booleans()):
            failures = failed_entries([each for each in unread if not each.is_reread], "away", now=now)
            self.commit(failures)
            self.queue.fail([*failures, *(each.stored for each in unread if each.is_reread and each.stored)])
        else:
            self.queue.release([each.window for each in unread], failed=data.draw(st.booleans()))

    def report_empty(self, work: ConfirmEmpty, data: st.DataObject) -> None:
        windows = [each.window for each in work.entries]
        match data.draw(st.sampled_from(["confirm", "reopen", "release"])):
            case "confirm":
                entries = confirmed_entries(work.entries, now=self.clock.now)
                self.commit(entries)
                self.queue.confirm(entries)
            case "reopen":
                self.may_move_back = True
                self.queue.reopen(windows)
            case _:
                self.queue.release(windows, failed=data.draw(st.booleans()))

    def report_late_check(self, work: LateCheck, data: st.DataObject) -> None:
        for each in work.entries:
            match data.draw(st.sampled_from(["checked", "reread", "release"])):
                case "checked":
                    late_spans = data.draw(st.sampled_from([0, 2, None]))
                    checked = replace(each, late_check_at=self.next_late_check(data), late_spans=late_spans)
                    self.ledger[each.window] = checked
                    self.queue.finish_late_check([checked])
                case "reread":
                    found = replace(each, traces=each.traces + 1, late_check_at=self.next_late_check(data))
                    self.commit([found])
                    self.queue.complete([found])
                case _:
                    self.queue.release([each.window])

    def next_late_check(self, data: st.DataObject) -> float | None:
        return data.draw(st.sampled_from([None, self.clock.now + HOUR, self.clock.now + DAY]))

    def report_probe(self, work: ProbeRetention, data: st.DataObject) -> None:
        expired = work.windows[: data.draw(st.integers(0, len(work.windows)))]
        claimed = self.queue.claim_expired(expired)
        assert set(claimed) <= set(expired)
        if data.draw(st.booleans()):
            entries = expired_entries(claimed, now=self.clock.now)
            self.commit(entries)
            self.queue.finish_probe(expired[-1].end if expired else work.windows[0].start, entries)
        else:
            self.queue.abandon_probe(failed=data.draw(st.booleans()))

    @rule(seconds=st.sampled_from([1, 40, 905, HOUR, 5 * HOUR, -60, -HOUR, -5 * HOUR, -2 * DAY, 2 * DAY]))
    def pass_time(self, seconds: int) -> None:
        self.clock.now += seconds
        self.clock.passed += max(1, seconds)
        before, range_ = self.queue.range, self.wanted()
        if range_ != before:
            self.may_move_back = True
            known = self.stored(range_.start, before.start) if range_.start < before.start else ()
            assert self.queue.advance(range_, known, replacing=before)

    @rule(count=st.integers(0, 60))
    def count(self, count: int) -> None:
        self.queue.schedule_rereads(lambda window: count if window.start % (2 * self.step) else None)

    @rule(data=st.data())
    def report_a_window_that_no_worker_holds(self, data: st.DataObject) -> None:
        held = self.held()
        free = [each for each in self.queue.windows_before(self.queue.range.end, 2 * DAY) if each not in held]
        if not free:
            return
        window = data.draw(st.sampled_from(free))
        status = self.queue.status
        with pytest.raises(InvalidTransitionError):
            self.queue.complete([entry(*window)])
        with pytest.raises(InvalidTransitionError):
            self.queue.release([window])
        assert self.queue.status == status

    # Invariants

    def held(self) -> set[Window]:
        windows: set[Window] = set()
        for work in self.in_progress:
            if isinstance(work, ReadBatch):
                windows.update(record.window for record in work.records)
            elif isinstance(work, ConfirmEmpty | LateCheck):
                windows.update(each.window for each in work.entries)
        return windows

    @invariant()
    def every_wanted_window_is_in_exactly_one_state(self) -> None:
        table, range_ = self.queue._table, self.queue.range
        by_state = {state: list(table.windows(state)) for state in QueueState}
        all_windows = [each for windows in by_state.values() for each in windows]
        assert len(all_windows) == len(set(all_windows)) == len(table.records())
        assert all(windows == sorted(windows) for windows in by_state.values())
        assert not by_state[QueueState.GONE]
        whole = [(range_.start, range_.end)] if range_.start < range_.end else []
        assert seconds_covered([each for state in WANTED_STATES for each in by_state[state]], range_) == whole
        assert all(each.start >= range_.end for each in by_state[QueueState.AHEAD])

    @invariant()
    def queue_marks_the_windows_that_workers_took_as_held(self) -> None:
        assert {each for state in HELD for each in self.queue._table.windows(state)} == self.held()

    @invariant()
    def progress_adds_up(self) -> None:
        self.queue.publish_status()
        range_, progress = self.queue.range, self.queue.status.progress
        found = [
            each
            for each in self.queue._table.records(WANTED_STATES)
            if range_.start < each.window.end and each.window.start < range_.end
        ]
        assert progress.windows == len(found)
        read = [each.entry for each in found if each.state in READ and each.entry is not None]
        states = Counter(each.state for each in read)
        assert (progress.done, progress.empty) == (states[WindowState.DONE], states[WindowState.EMPTY])
        assert (progress.partial, progress.expired) == (states[WindowState.PARTIAL], states[WindowState.EXPIRED])
        assert progress.failed == sum(each.failures > 0 for each in found)
        covered = sorted((each for each in read if each.coverage), key=lambda each: each.window)
        assert progress.traces_read == sum(each.traces for each in covered)
        assert progress.traces_there == pytest.approx(sum(each.there for each in covered))
        assert self.queue.status.sampled_windows == sum(map(was_sampled, read))
        assert self.queue.status.late_windows == sum(each.may_lack_late_spans for each in read)

    @invariant()
    def windows_before_settled_until_were_read_or_failed_three_times(self) -> None:
        settled_until, range_ = self.queue.settled_until(), self.queue.range
        assert range_.start <= settled_until <= range_.end
        for record in self.queue._table.records(WANTED_STATES):
            if range_.start < record.window.end <= settled_until:
                assert record.state in READ or record.failures >= 3
        # It moves back only if a window is to be read again, or if the range has changed.
        assert self.may_move_back or settled_until >= self.settled_until
        self.settled_until, self.may_move_back = settled_until, False

    def teardown(self) -> None:
        """After any sequence of events, all of the range can still be read."""
        if not hasattr(self, "queue"):
            return
        self.queue.abandon_probe()
        for work in self.in_progress:
            if isinstance(work, ReadBatch):
                self.queue.release([record.window for record in work.records])
            elif isinstance(work, ConfirmEmpty):
                self.queue.release([each.window for each in work.entries])
        self.clock.passed += 60
        for _ in range(300):
            match self.queue.take(RULES, patience=1_000_000):
                case ReadBatch() as work:
                    self.queue.complete(entry(*each) for each in work.batch.windows)
                case ProbeRetention() as work:
                    self.queue.finish_probe(work.windows[0].start)
                case _:
                    if self.queue.status.progress.complete:
                        break
                    self.clock.advance(HOUR)
        assert self.queue.status.progress.complete
        assert self.queue.settled_until() == self.queue.range.end


TestAnySequence = QueueMachine.TestCase
TestAnySequence.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
