"""The ledger's loop: everything that has settled is read once, whatever happens meanwhile."""

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from math import log2
from typing import Literal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.ingest.backfill import Backfill, BackfillSettings
from exporter.ingest.exact_reader import Budget
from exporter.ingest.series_filter import SeriesFilter, SeriesRules
from exporter.ingest.window_table import was_sampled
from exporter.model.accumulator import WindowContent
from exporter.model.calendar import Calendar
from exporter.model.histogram import Digest
from exporter.model.histogram_codec import decode_digest
from exporter.model.ledger import LedgerEntry, Window, WindowState
from exporter.model.pattern import Pattern
from exporter.model.span import SeriesKey, Span
from exporter.runtime.logs import get_logger
from exporter.store import Store, StoreError
from exporter.tempo.errors import StoppedError, TempoError
from tests.support.database import memory_store
from tests.support.fakes import KEY, NS, FakeTempo, FrozenClock, Recorder, away, span
from tests.support.ledgers import DAY, HOUR, NOON, UTC_CALENDAR
from tests.support.samples import event_of, events

SETTLE = 900
NOW = NOON + SETTLE
"""When the hour before noon has just settled."""
EAGER = 1000
"""Patience that does not run out."""
LOGIN = SeriesKey("auth", "login")
PROBE = SeriesKey("shop", "GET /healthz")


def hour(ago: int) -> Window:
    return Window(NOON - ago * HOUR, NOON - ago * HOUR + HOUR)


def steady(hours: int, per_hour: int = 10) -> list[Span]:
    """The same traffic in each of the last hours, in the middle of its seconds."""
    step = HOUR // per_hour
    return [
        span(NOON - ago * HOUR + number * step + 0.5, 0.1) for ago in range(1, hours + 1) for number in range(per_hour)
    ]


BUDGET = Budget(traces=50_000, requests=100)


class Rig:
    """A backfill of the last hours in UTC, with nothing real about it but its threads."""

    def __init__(
        self,
        tempo: FakeTempo,
        *,
        hours: int = 6,
        store: Store | None = None,
        now: float = NOW,
        concurrency: int = 1,
        batch: int = HOUR,
        retention: float = 28 * DAY,
        rules: SeriesRules | None = None,
        calendar: Calendar = UTC_CALENDAR,
        tick: float = 1000.0,
        budget: Budget = BUDGET,
    ) -> None:
        self.tempo = tempo
        self.store = store or memory_store()
        self.clock = FrozenClock(now, tick)
        self.telemetry = Recorder()
        self.admission = SeriesFilter(rules or SeriesRules())
        self.stop = threading.Event()
        self.committed: list[LedgerEntry] = []
        self.backfill = Backfill(
            tempo,
            self.store,
            self.admission,
            calendar,
            BackfillSettings(
                duration_seconds=hours * HOUR + SETTLE,
                batch_seconds=batch,
                settle_seconds=SETTLE,
                retention_seconds=retention,
                max_concurrency=concurrency,
                budget=budget,
            ),
            self.telemetry,
            clock=self.clock.time,
            monotonic=self.clock.monotonic,
            stop=self.stop,
            log=get_logger("backfill"),
            on_commit=self.committed.extend,
        )

    def read(self) -> None:
        """Read what can be read now."""
        self.backfill.run(patience=EAGER)

    def ledger(self) -> dict[Window, LedgerEntry]:
        return {line.window: line for line in self.store.ledger(0, NOON + 99 * DAY)}

    def states(self) -> Counter[WindowState]:
        return Counter(line.state for line in self.ledger().values())

    def stored(self) -> dict[tuple[SeriesKey, int], Digest]:
        return {
            (found.key, stored.start): decode_digest(stored.digest)
            for found in self.store.history(self.store.series(), 0, NOON + 99 * DAY)
            for stored in found.windows
        }

    def searched_windows(self) -> list[Window]:
        """What was searched, where every search is of one window."""
        return [Window(*found) for found in self.tempo.searches]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run for ever, until the end of the block; it must then end at once."""
        thread = threading.Thread(target=self.backfill.run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.stop.set()
            self.backfill.wake()
            thread.join(10)
        assert not thread.is_alive()

    def drive(self, until: Callable[[], bool], *, advance: float = 0.0) -> None:
        """Let time pass in small steps until something is so."""
        deadline = time.monotonic() + 20
        while not until():
            assert time.monotonic() < deadline, "it did not come about"
            self.clock.advance(advance)
            self.backfill.wake()
            time.sleep(0.001)


def digests_of(spans: Sequence[Span], windows: Sequence[Window]) -> dict[tuple[SeriesKey, int], Digest]:
    """What the store must hold."""
    durations: dict[tuple[SeriesKey, int], list[int]] = defaultdict(list)
    for each in spans:
        for window in windows:
            if window.start * NS <= each.start_ns < window.end * NS:
                durations[each.key, window.start].append(each.duration_ns)
    return {key: Digest.of_ns(some) for key, some in durations.items()}


def fails_in(window: Window, error: Callable[[], Exception]) -> Callable[[int, int], None]:
    """Lets searches within a window fail."""

    def fail(start: int, end: int) -> None:
        if start < window.end and window.start < end:
            raise error()

    return fail


def no_connection() -> TempoError:
    return TempoError("GET http://tempo/api/search: no connection", reason="connection", retryable=True)


# Everything, once


def test_every_settled_window_is_read_once_newest_first() -> None:
    spans = [*steady(6, per_hour=650), span(NOON + 60), span(NOON - 7 * HOUR)]
    rig = Rig(FakeTempo(spans, max_limit=1000))
    rig.read()
    windows = [hour(ago) for ago in range(1, 7)]
    assert rig.searched_windows() == windows
    assert rig.stored() == digests_of(spans, windows)
    assert rig.states() == {WindowState.DONE: 6}
    assert [line.window for line in rig.committed] == windows
    for line in rig.committed:
        assert line == rig.ledger()[line.window]
        assert (line.traces, line.stored, line.coverage, line.attempts) == (650, 650, 1.0, 0)
        assert (line.requests, line.splits, line.read_at) == (1.0, 0, NOW)


def test_the_status_says_how_far_it_has_come() -> None:
    rig = Rig(FakeTempo(steady(3)), hours=6)
    before = rig.backfill.status
    assert (before.progress.pending, before.progress.ratio, before.completed_at) == (6, 0.0, None)
    assert (before.started_at, rig.backfill.settled_until()) == (NOW, hour(6).start)
    rig.read()
    after = rig.backfill.status
    assert (after.progress.done, after.progress.empty, after.progress.ratio) == (3, 3, 1.0)
    assert (after.started_at, after.completed_at, after.progress.coverage) == (NOW, NOW, 1.0)
    assert rig.backfill.settled_until() == NOON


@st.composite
def weather(draw: st.DrawFn) -> tuple[list[Span], dict[str, object], int]:
    """Traffic of any kind over some hours, and any way to read it."""
    hours = draw(st.integers(1, 30))
    starts = st.integers((NOON - (hours + 1) * HOUR) * NS, (NOON + HOUR) * NS)
    seams = st.integers(-hours - 1, 1).map(lambda number: (NOON + number * HOUR) * NS)
    durations = st.one_of(st.just(0), st.integers(0, 4000 * NS))
    drawn = draw(st.lists(st.tuples(st.one_of(starts, seams), durations, st.sampled_from([KEY, LOGIN])), max_size=60))
    spans = [span(0, key=key)._replace(start_ns=start, duration_ns=length) for start, length, key in drawn]
    options: dict[str, object] = {
        "hours": hours,
        "concurrency": draw(st.integers(1, 4)),
        "batch": draw(st.sampled_from([900, 1800, HOUR, 4 * HOUR])),
        "calendar": draw(st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata"]).map(ZoneInfo).map(Calendar)),
    }
    return spans, options, draw(st.integers(61, 200))


@given(weather(), st.sampled_from([600, 3600, 6 * HOUR, 168 * HOUR]))
@settings(max_examples=40)
def test_whatever_there_is_stands_in_the_store_exactly_once(
    case: tuple[list[Span], dict[str, object], int], allowed_seconds: int
) -> None:
    spans, options, limit = case
    rig = Rig(FakeTempo(spans, max_limit=limit, allowed_seconds=allowed_seconds), **options)  # type: ignore[arg-type]
    rig.read()
    assert rig.backfill.status.progress.complete
    read = [window for window, line in rig.ledger().items() if line.state is not WindowState.EXPIRED]
    assert rig.stored() == digests_of(spans, read)
    # What was not read lies before the first trace.
    expired = [window for window in rig.ledger() if window not in read]
    assert digests_of(spans, expired) == {}
    assert all(window.end < min(read).end for window in expired)
    assert rig.store.totals().traces == sum(digest.count for digest in rig.stored().values())
    again = len(rig.tempo.searches)
    rig.read()
    assert len(rig.tempo.searches) == again


def test_a_quiet_week_takes_few_searches() -> None:
    rig = Rig(FakeTempo(steady(168)), hours=168)
    rig.read()
    assert rig.states() == {WindowState.DONE: 168}
    assert len(rig.tempo.searches) == 1 + 7
    assert rig.store.totals().traces == 1680
    shares = [line.requests for line in rig.ledger().values()]
    assert sum(shares) == pytest.approx(8)


def test_a_batch_of_several_hours_reads_them_in_one_search_from_the_first() -> None:
    rig = Rig(FakeTempo(steady(6)), batch=6 * HOUR)
    rig.read()
    assert rig.tempo.searches == [(NOON - 6 * HOUR, NOON)]
    assert len(rig.ledger()) == 6


def test_series_that_are_not_wanted_are_counted_and_not_stored() -> None:
    rules = SeriesRules(exclude=[Pattern("healthz")], max_series=1)
    noise = [span(NOON - 60, key=PROBE), span(NOON - 50, key=PROBE), span(NOON - 40, key=LOGIN)]
    rig = Rig(FakeTempo([*steady(1), *noise]), hours=1, rules=rules)
    rig.admission.preload([KEY])
    rig.read()
    assert rig.telemetry.skipped["backfill", "filtered"] == 2
    assert rig.telemetry.skipped["backfill", "series_limit"] == 1
    line = rig.ledger()[hour(1)]
    assert (line.traces, line.stored, line.coverage) == (13, 10, 1.0)
    assert rig.store.series() == [KEY]


# Several at once


def test_as_many_windows_are_read_at_once_as_allowed_and_never_more() -> None:
    together = threading.Barrier(3, timeout=20)
    arrived = threading.Semaphore(3)

    def meet(start: int, end: int) -> None:
        if arrived.acquire(blocking=False):
            together.wait()

    # Dense hours, so that none is read together with another.
    tempo = FakeTempo(steady(8, per_hour=650), before_search=meet)
    rig = Rig(tempo, hours=8, concurrency=3)
    rig.read()
    assert tempo.most_at_once == 3
    assert sorted(rig.searched_windows(), reverse=True) == [hour(ago) for ago in range(1, 9)]
    assert rig.states() == {WindowState.DONE: 8}


# Restart


def test_after_a_restart_nothing_is_read_again() -> None:
    first = Rig(FakeTempo(steady(6)))
    first.read()
    second = Rig(FakeTempo(steady(6)), store=first.store)
    second.read()
    assert second.tempo.searches == second.tempo.probes == []
    assert second.backfill.status.progress.complete
    assert second.backfill.status.completed_at == NOW


def test_an_outage_is_a_gap_like_any_other() -> None:
    first = Rig(FakeTempo(steady(6)))
    first.read()
    later = [*steady(6), *(span(NOON + number * HOUR + 30, 0.2) for number in range(3))]
    second = Rig(FakeTempo(later), store=first.store, now=NOW + 3 * HOUR)
    second.read()
    assert second.tempo.searches == [(NOON, NOON + 3 * HOUR)]
    assert len(second.stored()) == 9


def test_more_history_is_wanted() -> None:
    first = Rig(FakeTempo(steady(9)), hours=3)
    first.read()
    second = Rig(FakeTempo(steady(9)), hours=9, store=first.store)
    second.read()
    assert second.tempo.searches == [(NOON - 9 * HOUR, NOON - 3 * HOUR)]
    assert second.stored() == digests_of(second.tempo.spans, [hour(ago) for ago in range(1, 10)])


def test_other_windows_are_configured_and_what_was_read_is_not_read_again() -> None:
    first = Rig(FakeTempo(steady(3)), hours=3)
    first.read()
    second = Rig(FakeTempo(steady(6)), hours=6, batch=1800, store=first.store)
    second.read()
    assert all(end <= NOON - 3 * HOUR for _, end in second.tempo.searches)
    assert len(second.ledger()) == 3 + 6
    assert second.store.totals().traces == 60


# As time passes


def test_windows_are_read_as_they_settle() -> None:
    rig = Rig(FakeTempo(steady(3)), hours=3)
    with rig.running():
        rig.drive(lambda: rig.backfill.status.progress.complete)
        rig.tempo.spans.append(span(NOON + 1800, 0.3))
        rig.clock.advance(HOUR - 1)
        rig.backfill.wake()
        assert rig.backfill.status.progress.done == 3
        rig.clock.advance(1)
        rig.drive(lambda: Window(NOON, NOON + HOUR) in rig.ledger())
        rig.drive(lambda: rig.backfill.status.progress.complete)
    assert rig.tempo.searches[-1] == (NOON, NOON + HOUR)
    # Three are wanted still: the oldest has left the range, and stays in the store.
    assert rig.backfill.status.progress.done == 3
    assert len(rig.ledger()) == 4
    assert rig.backfill.status.completed_at == NOW


def test_what_is_too_old_is_deleted_and_its_series_make_room() -> None:
    old = span(NOON - 2 * HOUR + 30, key=LOGIN)
    rig = Rig(FakeTempo([old, span(NOON - 30)]), hours=2, retention=2 * HOUR + SETTLE)
    rig.read()
    assert (len(rig.ledger()), len(rig.admission)) == (2, 2)
    rig.clock.advance(HOUR)
    rig.read()
    assert sorted(rig.ledger()) == [hour(1), Window(NOON, NOON + HOUR)]
    assert rig.store.series() == [KEY]
    assert len(rig.admission) == 1


def test_a_clock_that_is_set_back_and_forward_again_reads_nothing_twice() -> None:
    rig = Rig(FakeTempo(steady(6)), hours=6)
    rig.read()
    searches = len(rig.tempo.searches)
    # An hour forward and three back: what had left the range on the way is wanted again.
    rig.clock.advance(HOUR)
    rig.read()
    assert len(rig.tempo.searches) == searches + 1
    for seconds in (-HOUR, 2 * HOUR, -2 * HOUR, HOUR + 300):
        rig.clock.advance(seconds)
        if rig.clock.now < NOW + 2 * HOUR:
            rig.read()
    assert len(rig.tempo.searches) == searches + 1
    assert len(rig.stored()) == 6


def test_what_a_clock_has_read_that_was_ahead_is_read_again_as_it_settles() -> None:
    tempo = FakeTempo([*steady(6), span(NOON + 60, 0.1)])
    rig = Rig(tempo, hours=9, now=NOW + 3 * HOUR)
    rig.read()
    assert (rig.ledger()[hour(0)].traces, rig.ledger()[hour(-2)].state) == (1, WindowState.EMPTY)
    searches = len(tempo.searches)
    rig.clock.advance(-3 * HOUR)
    rig.read()
    # What had settled by either clock is not read again; of the hours to come nothing is known yet.
    assert len(tempo.searches) == searches + 1
    assert rig.backfill.status.progress.complete
    assert rig.backfill.settled_until() == NOON
    tempo.spans += [span(NOON + number * 360 + 120, 0.1) for number in range(30)]
    for ago in (0, -1, -2):
        rig.clock.advance(HOUR)
        rig.read()
        assert rig.ledger()[hour(ago)].traces == (11 if ago == 0 else 10)
        assert rig.backfill.settled_until() == hour(ago).end
    assert rig.backfill.status.progress.complete


@pytest.mark.parametrize("later", [[], [span(NOON + number * 60 + 1, 0.1) for number in range(50)]])
def test_a_failure_to_read_it_again_does_not_make_it_whole(later: list[Span]) -> None:
    """And what Tempo has not got any more by then stays as it was read too early."""
    tempo = FakeTempo([*steady(6), *(span(NOON + number * 60, 0.1) for number in range(30))])
    rig = Rig(tempo, hours=9, now=NOW + 3 * HOUR)
    rig.read()
    rig.clock.advance(-3 * HOUR)
    rig.read()
    failures = iter([True] if later else [])
    tempo.before_search = lambda start, end: away(start, end) if next(failures, False) else None
    tempo.spans = later
    rig.clock.advance(HOUR)
    rig.read()
    rig.clock.advance(60)
    rig.read()
    assert rig.ledger()[hour(0)].traces == (len(later) or 30)
    assert rig.stored()[KEY, NOON].count == (len(later) or 30)
    assert rig.backfill.status.progress.complete


# Failures


def test_a_window_that_fails_is_tried_again_after_growing_pauses_and_then_filled() -> None:
    rig = Rig(FakeTempo(steady(3, per_hour=650)), hours=3)
    rig.tempo.before_search = fails_in(hour(2), no_connection)
    rig.read()
    assert rig.states() == {WindowState.DONE: 2, WindowState.FAILED: 1}
    tries = rig.searched_windows().count(hour(2))
    assert tries == 1
    now = NOW
    for attempts, pause in enumerate((30, 60, 120, 240), start=1):
        line = rig.ledger()[hour(2)]
        assert (line.attempts, line.retry_at) == (attempts, now + pause)
        assert line.error == "GET http://tempo/api/search: no connection"
        assert rig.backfill.status.progress.failed == 1
        assert rig.backfill.status.failure == line.error
        rig.clock.advance(pause - 1)
        rig.read()
        assert rig.searched_windows().count(hour(2)) == attempts
        rig.clock.advance(1)
        now += pause
        rig.read()
        assert rig.searched_windows().count(hour(2)) == attempts + 1
    rig.tempo.before_search = lambda start, end: None
    rig.clock.advance(480)
    rig.read()
    line = rig.ledger()[hour(2)]
    assert (line.state, line.attempts, line.retry_at, line.error) == (WindowState.DONE, 0, None, None)
    assert rig.backfill.status.progress.complete
    assert rig.stored() == digests_of(rig.tempo.spans, [hour(ago) for ago in (1, 2, 3)])


def test_a_restart_remembers_failures_and_their_pauses() -> None:
    first = Rig(FakeTempo(steady(1), before_search=away), hours=1)
    first.read()
    second = Rig(FakeTempo(steady(1), before_search=away), hours=1, store=first.store)
    second.read()
    assert second.tempo.searches == []
    second.clock.advance(30)
    second.read()
    assert second.ledger()[hour(1)].attempts == 2


def test_windows_that_failed_together_are_read_one_by_one() -> None:
    """One of them may be what makes searches fail, and shall hold up no other."""
    rig = Rig(FakeTempo(steady(6)), batch=6 * HOUR)
    rig.tempo.before_search = fails_in(hour(4), no_connection)
    rig.read()
    assert rig.states() == {WindowState.FAILED: 6}
    rig.clock.advance(30)
    rig.read()
    assert rig.states() == {WindowState.DONE: 5, WindowState.FAILED: 1}
    assert rig.searched_windows()[1:] == [hour(ago) for ago in range(1, 7)]
    assert rig.ledger()[hour(4)].attempts == 2
    assert rig.backfill.settled_until() == hour(4).start


def test_a_window_that_fails_for_good_measure_does_not_hold_up_the_judging() -> None:
    rig = Rig(FakeTempo(steady(3, per_hour=650)), hours=3)
    rig.tempo.before_search = fails_in(hour(2), no_connection)
    for _ in range(2):
        rig.read()
        assert rig.backfill.settled_until() == hour(2).start
        rig.clock.advance(120)
    rig.read()
    assert rig.backfill.settled_until() == NOON


def test_a_defect_costs_one_window_and_not_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(FakeTempo(steady(3, per_hour=650)), hours=3)
    rig.tempo.before_search = fails_in(hour(2), lambda: ZeroDivisionError("a defect"))
    rig.read()
    assert rig.states() == {WindowState.DONE: 2, WindowState.FAILED: 1}
    assert rig.ledger()[hour(2)].error == "ZeroDivisionError('a defect')"
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.levelno == logging.ERROR


def test_one_pass_gives_up_after_so_many_failures_in_a_row() -> None:
    rig = Rig(FakeTempo(steady(9, per_hour=650), before_search=away), hours=9)
    rig.backfill.run(patience=3)
    assert rig.searched_windows() == [hour(1), hour(2), hour(3)]
    assert rig.states() == {WindowState.FAILED: 3}
    assert rig.backfill.status.progress.pending == 6
    assert rig.backfill.status.completed_at is None


def test_a_success_in_between_renews_the_patience() -> None:
    rig = Rig(FakeTempo(steady(9, per_hour=650)), hours=9)

    def every_other(start: int, end: int) -> None:
        if len(rig.tempo.searches) % 2:
            away(start, end)

    rig.tempo.before_search = every_other
    rig.backfill.run(patience=2)
    assert rig.states() == {WindowState.DONE: 4, WindowState.FAILED: 5}


def test_while_tempo_is_away_everything_rests_longer_and_longer() -> None:
    """Forty windows would otherwise fail within a moment, four at a time."""
    tried: list[float] = []
    rig = Rig(FakeTempo(steady(9, per_hour=650)), hours=9, tick=0.0)

    def note(start: int, end: int) -> None:
        tried.append(rig.clock.passed)
        away(start, end)

    rig.tempo.before_search = note
    with rig.running():
        rig.drive(lambda: len(tried) >= 5, advance=0.25)
        pauses = [later - earlier for earlier, later in pairwise(tried)]
        assert all(pause >= least for pause, least in zip(pauses, (1, 2, 4, 8), strict=False))
        rig.tempo.before_search = lambda start, end: None
        rig.drive(lambda: rig.backfill.status.progress.complete, advance=5.0)
    assert len(rig.stored()) >= 9


def test_stopping_does_not_wait_for_pauses() -> None:
    rig = Rig(FakeTempo(steady(9), before_search=away), hours=9, tick=0.0, concurrency=3)
    with rig.running():
        rig.drive(lambda: bool(rig.tempo.searches))


# The database refuses


class Refusing(Store):
    """A store in memory that refuses to be written to as often as it is told."""

    refusals = 0

    def commit(self, entries: Sequence[LedgerEntry], contents: Sequence[WindowContent] = ()) -> None:
        if self.refusals:
            self.refusals -= 1
            raise StoreError("full", "recording windows failed: database or disk is full")
        super().commit(entries, contents)


def test_what_could_not_be_written_is_read_again(caplog: pytest.LogCaptureFixture) -> None:
    store = memory_store(Refusing)
    store.refusals = 3
    rig = Rig(FakeTempo(steady(3, per_hour=650)), hours=3, store=store, tick=5.0)
    rig.read()
    assert rig.searched_windows() == [hour(1)] * 4 + [hour(2), hour(3)]
    assert rig.states() == {WindowState.DONE: 3}
    assert [line.window for line in rig.committed] == [hour(1), hour(2), hour(3)]
    assert rig.stored() == digests_of(rig.tempo.spans, [hour(ago) for ago in (1, 2, 3)])
    # Once, not three times: a full disk stays full for long.
    assert events(caplog, logging.WARNING) == ["windows_not_stored"]


def test_one_pass_gives_up_on_a_database_that_refuses() -> None:
    store = memory_store(Refusing)
    store.refusals = 99
    rig = Rig(FakeTempo(steady(3)), hours=3, store=store)
    rig.backfill.run(patience=2)
    assert len(rig.tempo.searches) == 2
    assert rig.ledger() == {}
    assert not rig.backfill.status.progress.complete


def test_a_failure_that_cannot_be_written_down_is_known_all_the_same() -> None:
    store = memory_store(Refusing)
    rig = Rig(FakeTempo(steady(1), before_search=away), hours=1, store=store)
    store.refusals = 1
    rig.read()
    assert rig.ledger() == {}
    assert rig.backfill.status.progress.failed == 1
    rig.clock.advance(29)
    rig.read()
    assert len(rig.tempo.searches) == 1


# Stopping


@pytest.mark.parametrize("how", ["stopped", "failing", "answering"])
@pytest.mark.parametrize("batch", [HOUR, 6 * HOUR])
def test_what_is_being_read_when_it_stops_is_neither_half_there_nor_failed(how: str, batch: int) -> None:
    """A window read in ten parts, and the stop comes after some of them."""
    spans = steady(3, per_hour=720)
    rig = Rig(FakeTempo(spans, max_limit=100), hours=3, batch=batch)

    def stop_in_the_middle(start: int, end: int) -> None:
        if end <= hour(2).start + HOUR // 2:
            rig.stop.set()
            if how == "stopped":
                raise StoppedError("the exporter is being stopped")
            if how == "failing":
                raise no_connection()

    rig.tempo.before_search = stop_in_the_middle
    rig.backfill.run()
    done = [hour(1)] if batch == HOUR else []
    assert list(rig.ledger()) == done
    assert rig.stored() == digests_of(spans, done)
    assert rig.backfill.status.progress.failed == 0
    # And all of it is read by the next process.
    after = Rig(FakeTempo(spans, max_limit=100), hours=3, store=rig.store)
    after.read()
    assert after.stored() == digests_of(spans, [hour(1), hour(2), hour(3)])


def test_a_stop_while_tempo_is_probed_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(FakeTempo(steady(30)), hours=30)

    def stop(start: int, end: int) -> None:
        rig.stop.set()
        raise StoppedError("the exporter is being stopped")

    rig.tempo.before_probe = stop
    rig.backfill.run()
    assert rig.ledger() == {}
    assert caplog.records == []


def test_stopped_before_it_began_it_does_nothing() -> None:
    rig = Rig(FakeTempo(steady(3)))
    rig.stop.set()
    rig.backfill.run()
    assert rig.tempo.searches == []


# Too many traces for a search


def test_dense_windows_lose_not_one_trace() -> None:
    spans = steady(3, per_hour=600)
    rig = Rig(FakeTempo(spans, max_limit=50), hours=3)
    rig.read()
    assert rig.stored() == digests_of(spans, [hour(1), hour(2), hour(3)])
    assert rig.states() == {WindowState.DONE: 3}
    first, *others = rig.committed
    assert first.splits > 0
    # What the first window taught: the others are cut beforehand, and no answer is thrown away.
    assert [line.splits for line in others] == [0, 0]
    assert rig.telemetry.splits["backfill"] == first.splits
    assert rig.telemetry.truncated_windows == {}
    assert all(line.coverage == 1.0 for line in rig.committed)


def test_a_second_with_too_many_makes_its_window_partial_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    burst = [span(NOON - 2 * HOUR + 100.5, 0.2) for _ in range(80)]
    spans = [*steady(3), *burst]
    rig = Rig(FakeTempo(spans, max_limit=50), hours=3)
    rig.read()
    assert rig.states() == {WindowState.DONE: 2, WindowState.PARTIAL: 1}
    line = rig.ledger()[hour(2)]
    assert (line.state, line.coverage) == (WindowState.PARTIAL, None)
    assert line.traces == 10
    assert rig.telemetry.truncated_windows == {"backfill": 1}
    assert rig.backfill.status.progress.complete
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("tempo.limit" in warning and "max_result_limit" in warning for warning in warnings)


# Tempo's retention


def test_what_is_older_than_tempos_traces_is_expired_after_a_few_probes() -> None:
    rig = Rig(FakeTempo(steady(20)), hours=168)
    rig.read()
    assert rig.states() == {WindowState.DONE: 20, WindowState.EXPIRED: 148}
    assert len(rig.tempo.probes) <= log2(168) + 3
    assert len(rig.tempo.searches) <= 4
    progress = rig.backfill.status.progress
    assert (progress.expired, progress.ratio, progress.complete) == (148, 1.0, True)
    # Nobody knows more about those windows than that, so a restart asks again: retention may have grown.
    again = Rig(FakeTempo(steady(168)), hours=168, store=rig.store)
    again.read()
    assert again.states() == {WindowState.DONE: 168}


def test_a_tempo_that_keeps_enough_is_probed_once() -> None:
    rig = Rig(FakeTempo(steady(14, per_hour=650)), hours=14)
    rig.read()
    assert rig.tempo.probes == [tuple(hour(14))]


def test_a_few_windows_are_read_without_probing() -> None:
    rig = Rig(FakeTempo(steady(3)), hours=11)
    rig.read()
    assert rig.tempo.probes == []
    assert rig.states() == {WindowState.DONE: 3, WindowState.EMPTY: 8}


def test_an_empty_tempo_has_empty_windows_and_not_expired_ones() -> None:
    rig = Rig(FakeTempo(), hours=48)
    rig.read()
    assert rig.states() == {WindowState.EMPTY: 48}


def test_traces_that_tempo_finds_only_later_are_read_after_all() -> None:
    rig = Rig(FakeTempo(), hours=24)
    with rig.running():
        rig.drive(lambda: rig.backfill.status.progress.complete)
        assert rig.states() == {WindowState.EMPTY: 24}
        rig.tempo.spans = steady(10)
        rig.drive(lambda: rig.states()[WindowState.DONE] == 10, advance=60)
    assert rig.store.totals().traces == 100
    # What is still without traces is asked about a few times more, and no window in between is searched for it.
    assert len(rig.tempo.searches) <= 2 * 24


def asked(rig: Rig, windows: Sequence[Window], times: int) -> bool:
    """Whether it was asked so often whether some windows are still without traces."""
    return all(rig.ledger()[window].attempts == times for window in windows)


def test_a_quiet_stretch_is_asked_about_again_as_a_whole_and_not_searched() -> None:
    rig = Rig(FakeTempo(steady(3)), hours=11)
    quiet = [hour(ago) for ago in range(8, 3, -1)]
    with rig.running():
        rig.drive(lambda: rig.backfill.status.progress.complete)
        searches = len(rig.tempo.searches)
        for times, pause in enumerate((HOUR / 4, HOUR), start=1):
            rig.clock.advance(pause + 1)
            rig.drive(partial(asked, rig, quiet, times))
    assert all(rig.ledger()[window].state is WindowState.EMPTY for window in quiet)
    # Twice all that was quiet, and now and then a window that has settled since.
    assert rig.tempo.probes[0] == (hour(11).start, quiet[-1].end - 1)
    assert len(rig.tempo.probes) <= 6
    assert all(start >= NOON for start, _ in rig.tempo.searches[searches:])


def test_a_long_trace_from_before_does_not_make_a_quiet_stretch_be_read_for_ever() -> None:
    """It overlaps the stretch, so Tempo says that there is something; but it belongs to the window it started in."""
    quiet = [hour(ago) for ago in range(8, 3, -1)]
    busy = [each for each in steady(60) if not quiet[0].start * NS <= each.start_ns < quiet[-1].end * NS]
    later = [span(NOON + number * HOUR + 60, 0.1) for number in range(60)]
    rig = Rig(FakeTempo([*busy, span(quiet[0].start - 60, HOUR), *later]), hours=60)
    with rig.running():
        rig.drive(lambda: rig.backfill.status.progress.complete)
        for times, pause in enumerate((HOUR / 4, HOUR, 6 * HOUR, 24 * HOUR), start=1):
            rig.clock.advance(pause + 1)
            rig.drive(partial(asked, rig, quiet, times))
    assert all(rig.ledger()[window].retry_at is None for window in quiet)
    assert all(rig.ledger()[window].state is WindowState.EMPTY for window in quiet)
    again = [found for found in rig.tempo.searches if found[0] < quiet[-1].end and quiet[0].start < found[1]]
    assert len(again) <= 5 * 5


def test_probing_copes_with_a_tempo_that_searches_short_ranges_only(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(FakeTempo(steady(20), allowed_seconds=5 * HOUR), hours=48)
    rig.read()
    assert rig.states() == {WindowState.DONE: 20, WindowState.EXPIRED: 28}
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_probe_that_fails_is_made_again() -> None:
    failures = iter([True, True])
    rig = Rig(FakeTempo(steady(20)), hours=48)

    def fail_twice(start: int, end: int) -> None:
        if next(failures, False):
            away(start, end)

    rig.tempo.before_probe = fail_twice
    rig.read()
    assert rig.states() == {WindowState.DONE: 20, WindowState.EXPIRED: 28}


def test_what_others_read_while_tempo_is_probed_stays_theirs() -> None:
    """A trace that arrives late in an old window must not be wiped out by the verdict that nothing is there."""
    spans = steady(2)
    rig = Rig(FakeTempo(spans), hours=14, concurrency=2, batch=14 * HOUR)
    late = span(NOON - 14 * HOUR + 60, 0.7)

    def read_meanwhile(start: int, end: int) -> None:
        # The search for all fourteen hours is over, and the late trace was in it, before the first probe is answered.
        rig.drive(lambda: len(rig.committed) == 14)
        rig.tempo.spans = spans

    def arrive(start: int, end: int) -> None:
        rig.tempo.spans = [*spans, late]

    rig.tempo.before_probe = read_meanwhile
    rig.tempo.before_search = arrive
    rig.read()
    assert len(rig.tempo.probes) > 1
    assert rig.states() == {WindowState.DONE: 3, WindowState.EMPTY: 11}
    assert rig.stored()[KEY, hour(14).start] == Digest.of_ns([late.duration_ns])


# What it says


def lines(caplog: pytest.LogCaptureFixture, event: str) -> list[Mapping[str, object]]:
    """The fields of all lines of an event."""
    return [record.__dict__["exporter_fields"] for record in caplog.records if event_of(record) == event]


def test_there_is_a_line_for_every_window_and_one_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rig = Rig(FakeTempo(steady(3, per_hour=650)), hours=3)
    rig.read()
    windows = lines(caplog, "window_read")
    assert [fields["window"] for fields in windows] == [
        UTC_CALENDAR.local(hour(ago).start).isoformat(timespec="minutes") for ago in (1, 2, 3)
    ]
    assert windows[0].keys() >= {"received", "kept", "stored", "requests", "splits", "coverage", "duration", "state"}
    (complete,) = lines(caplog, "backfill_complete")
    assert (complete["windows"], complete["traces"]) == (3, 1950)
    rig.clock.advance(HOUR)
    rig.read()
    assert len(lines(caplog, "backfill_complete")) == 1


def test_an_outage_of_tempo_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(FakeTempo(steady(9, per_hour=650), before_search=away), hours=9, tick=5.0)
    rig.backfill.run(patience=4)
    assert rig.states() == {WindowState.FAILED: 4}
    told = events(caplog, logging.WARNING)
    assert told == ["window_failed"]


# What Tempo counts


def crowded(ago: int, count: int) -> list[Span]:
    """So many traces in the middle of the seconds of an hour."""
    return [span(NOON - ago * HOUR + number % HOUR + 0.5, 0.1) for number in range(count)]


def test_what_was_read_is_held_against_what_tempo_counts() -> None:
    rig = Rig(FakeTempo(steady(6), counting="exact"))
    rig.read()
    assert {line.coverage for line in rig.committed} == {1.0}
    assert rig.tempo.counted == [(NOON - 6 * HOUR, NOON)]
    assert rig.telemetry.source_counts == [True]
    # How much to expect is known, so that all that is left is one search.
    assert len(rig.tempo.searches) == 2
    assert rig.backfill.status.progress.coverage == 1.0


def test_a_trace_on_the_edge_of_a_window_is_missing_in_neither() -> None:
    """Tempo counts it in the step that ends there, the ledger in the window that begins there."""
    edges = [span(NOON - ago * HOUR) for ago in (1, 2, 3) for _ in range(5)]
    rig = Rig(FakeTempo([*steady(3), *edges], counting="exact"), hours=3)
    rig.read()
    assert [line.coverage for line in rig.committed] == [1.0, 1.0, 1.0]
    assert not any(line.retry_at for line in rig.committed)


def test_traces_that_are_missing_are_read_once_more() -> None:
    spans = steady(3)
    hidden = crowded(2, 40)
    tempo = FakeTempo(spans, counting="exact")
    counted = FakeTempo([*spans, *hidden], counting="exact")
    tempo.count = counted.count  # type: ignore[method-assign]
    rig = Rig(tempo, hours=3, tick=0.001)
    with rig.running():
        rig.drive(lambda: rig.backfill.status.progress.complete)
        line = rig.ledger()[hour(2)]
        assert (line.state, line.traces, line.coverage, line.attempts) == (WindowState.DONE, 10, 0.2, 0)
        assert line.retry_at == NOW + 900
        assert rig.backfill.status.sampled_windows == 0
        tempo.spans = [*spans, *hidden]
        rig.clock.advance(901)
        rig.backfill.wake()
        rig.drive(lambda: rig.ledger()[hour(2)].traces == 50)
        line = rig.ledger()[hour(2)]
        assert (line.state, line.coverage, line.attempts, line.retry_at) == (WindowState.DONE, 1.0, 1, None)
    assert rig.stored()[KEY, hour(2).start].count == 50
    searched = [found for found in tempo.searches if found[0] <= hour(2).start < found[1]]
    assert len(searched) == 2


def test_what_stays_missing_is_not_asked_for_for_ever() -> None:
    tempo = FakeTempo(steady(3), counting="exact")
    tempo.count = FakeTempo([*steady(3), *crowded(2, 40)], counting="exact").count  # type: ignore[method-assign]
    rig = Rig(tempo, hours=3, tick=0.001)
    with rig.running():
        rig.drive(lambda: rig.backfill.status.progress.complete)
        for _ in range(3):
            rig.clock.advance(901)
            rig.backfill.wake()
            rig.drive(lambda: rig.backfill.status.progress.complete)
        rig.drive(lambda: rig.ledger()[hour(2)].attempts == 1)
    line = rig.ledger()[hour(2)]
    assert (line.traces, line.coverage, line.retry_at) == (10, 0.2, None)
    # It was to be read whole, and is no sample.
    status = rig.backfill.status
    assert (status.sampled_windows, status.unsampled.coverage) == (0, status.progress.coverage)
    assert not was_sampled(line)
    assert len([found for found in tempo.searches if found == tuple(hour(2))]) <= 2


def test_a_failure_to_read_again_loses_nothing() -> None:
    tempo = FakeTempo(steady(3), counting="exact")
    tempo.count = FakeTempo([*steady(3), *crowded(2, 40)], counting="exact").count  # type: ignore[method-assign]
    rig = Rig(tempo, hours=3, tick=0.001)
    with rig.running():
        rig.drive(lambda: rig.backfill.status.progress.complete)
        before = rig.stored()
        failed = threading.Event()

        def fail(start: int, end: int) -> None:
            failed.set()
            away(start, end)

        tempo.before_search = fail
        rig.clock.advance(901)
        rig.backfill.wake()
        rig.drive(failed.is_set)
        rig.drive(lambda: rig.backfill.status.progress.complete)
    assert rig.stored() == before
    assert rig.states() == {WindowState.DONE: 3}


def test_traces_that_came_after_the_reading_are_noticed_by_the_next_count() -> None:
    tempo = FakeTempo(steady(3), counting="exact")
    rig = Rig(tempo, hours=3, tick=0.001)
    with rig.running():
        rig.drive(lambda: rig.backfill.status.progress.complete)
        late = crowded(2, 40)
        tempo.spans = [*tempo.spans, *late, *(span(NOON + 60 * minute + 0.5, 0.1) for minute in range(60))]
        rig.clock.advance(HOUR)
        rig.backfill.wake()
        rig.drive(lambda: rig.ledger()[hour(2)].traces == 50)
    assert rig.stored()[KEY, hour(2).start].count == 50


@pytest.mark.parametrize("how", ["empty", "refused"])
def test_everything_works_where_tempo_cannot_count(how: Literal["empty", "refused"]) -> None:
    rig = Rig(FakeTempo(steady(6), counting=how))
    rig.read()
    assert rig.states() == {WindowState.DONE: 6}
    assert {line.coverage for line in rig.committed} == {1.0}
    assert set(rig.telemetry.source_counts) == {False}


# Windows too dense to be read whole


@pytest.mark.parametrize("counting", ["exact", "refused"])
def test_of_a_window_beyond_the_budget_a_sample_is_read(counting: Literal["exact", "refused"]) -> None:
    spans = [*steady(3), *crowded(2, 6000)]
    rig = Rig(FakeTempo(spans, counting=counting, max_limit=300), hours=3, budget=Budget(600, 100))
    rig.read()
    assert rig.states() == {WindowState.DONE: 3}
    line = rig.ledger()[hour(2)]
    assert line.coverage == pytest.approx(0.1, rel=0.35)
    assert line.there == pytest.approx(6010, rel=0.1)
    assert rig.stored()[KEY, hour(2).start].count == line.stored == line.traces
    assert line.requests <= 100
    assert rig.telemetry.sampled_windows == {"backfill": 1}
    assert rig.telemetry.truncated_windows == {}
    progress = rig.backfill.status.progress
    assert progress.complete
    assert progress.coverage == pytest.approx((line.traces + 20) / 6030, rel=0.1)
    # That it was meant to be a sample can be told from what is stored.
    status = rig.backfill.status
    assert (status.sampled_windows, status.unsampled.coverage) == (1, 1.0)
    assert [window for window, each in rig.ledger().items() if was_sampled(each)] == [hour(2)]


def test_what_a_sample_taught_is_expected_of_its_neighbours() -> None:
    spans = [each for ago in (1, 2, 3) for each in crowded(ago, 4000)]
    rig = Rig(FakeTempo(spans, max_limit=300), hours=3, budget=Budget(400, 100))
    rig.read()
    assert rig.telemetry.sampled_windows == {"backfill": 3}
    newest, *others = rig.committed
    # Only the first had to find out how dense it is, with a search in vain.
    assert rig.telemetry.splits["backfill"] <= 1
    assert all(line.there == pytest.approx(4000, rel=0.2) for line in rig.committed)
    assert all(line.requests <= newest.requests for line in others)
