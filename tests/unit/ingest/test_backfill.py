"""The backfill reads every settled window once, despite failures, restarts, clock changes and late traces."""

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import ceil, log2
from typing import Any, Literal
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
from exporter.runtime.telemetry import Loop
from exporter.store import Store, StoreError
from exporter.tempo.counts import SpanCounts
from exporter.tempo.errors import StoppedError, TempoError
from tests.support.database import memory_store
from tests.support.fakes import KEY, NS, FakeTempo, Found, FrozenClock, Recorder, away, span
from tests.support.ledgers import DAY, HOUR, NOON, UTC_CALENDAR
from tests.support.samples import event_of, events

SETTLE = 900
LOOKBACK = 120
NOW = NOON + SETTLE
"""The instant at which the hour before noon settles."""
UNLIMITED_PATIENCE = 1000
"""More failed batches in a row than any test causes."""
LOGIN = SeriesKey("auth", "login")
PROBE = SeriesKey("shop", "GET /healthz")


def hour(ago: int) -> Window:
    return Window(NOON - ago * HOUR, NOON - ago * HOUR + HOUR)


def steady(hours: int, per_hour: int = 10) -> list[Span]:
    """The same traffic in each of the last hours; no span starts on a whole second."""
    step = HOUR // per_hour
    return [
        span(NOON - ago * HOUR + number * step + 0.5, 0.1) for ago in range(1, hours + 1) for number in range(per_hour)
    ]


BUDGET = Budget(traces=50_000, requests=100)


class BackfillBench:
    """A backfill of the last hours with real worker threads; Tempo, clock and telemetry are fakes."""

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
        late: float = 0.0,
        settle: float = SETTLE,
    ) -> None:
        self.tempo = tempo
        self.store = store or memory_store()
        self.clock = FrozenClock(now, tick)
        self.telemetry = Recorder()
        self.series_filter = SeriesFilter(rules or SeriesRules())
        self.stop = threading.Event()
        self.committed: list[LedgerEntry] = []
        self.backfill = Backfill(
            tempo,
            self.store,
            self.series_filter,
            calendar,
            BackfillSettings(
                duration_seconds=hours * HOUR + SETTLE,
                batch_seconds=batch,
                settle_seconds=SETTLE,
                retention_seconds=retention,
                max_concurrency=concurrency,
                budget=budget,
                late_seconds=late,
                lookback_seconds=LOOKBACK,
            ),
            self.telemetry,
            clock=self.clock.time,
            monotonic=self.clock.monotonic,
            stop=self.stop,
            log=get_logger("backfill"),
            on_commit=self.committed.extend,
        )

    def read(self) -> None:
        """Run a single pass, which ends when no window can be read now."""
        self.backfill.run(patience=UNLIMITED_PATIENCE)

    def ledger(self) -> dict[Window, LedgerEntry]:
        return {entry.window: entry for entry in self.store.ledger(0, NOON + 99 * DAY)}

    def states(self) -> Counter[WindowState]:
        return Counter(entry.state for entry in self.ledger().values())

    def stored(self) -> dict[tuple[SeriesKey, int], Digest]:
        return {
            (found.key, stored.start): decode_digest(stored.digest)
            for found in self.store.history(self.store.series(), 0, NOON + 99 * DAY)
            for stored in found.windows
        }

    def searched_windows(self) -> list[Window]:
        """The searched ranges, in tests where every search covers one window."""
        return [Window(*found) for found in self.tempo.searches]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run workers until the end of the block; they must then stop at once."""
        thread = threading.Thread(target=self.backfill.run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.stop.set()
            self.backfill.wake()
            thread.join(10)
        assert not thread.is_alive()

    def wait_until(self, condition: Callable[[], bool], *, advance: float = 0.0) -> None:
        """Wait until a condition holds; the clock advances by some seconds in every step."""
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, "the condition did not become true"
            self.clock.advance(advance)
            self.backfill.wake()
            time.sleep(0.001)


def digests_of(spans: Sequence[Span], windows: Sequence[Window]) -> dict[tuple[SeriesKey, int], Digest]:
    """The digests that the store must hold."""
    durations: dict[tuple[SeriesKey, int], list[int]] = defaultdict(list)
    for each in spans:
        for window in windows:
            if window.start * NS <= each.start_ns < window.end * NS:
                durations[each.key, window.start].append(each.duration_ns)
    return {key: Digest.of_ns(values) for key, values in durations.items()}


def fails_in(window: Window, error: Callable[[], Exception]) -> Callable[[int, int], None]:
    """Return a hook that makes searches within a window fail."""

    def fail(start: int, end: int) -> None:
        if start < window.end and window.start < end:
            raise error()

    return fail


def no_connection() -> TempoError:
    return TempoError("GET http://tempo/api/search: no connection", reason="connection", retryable=True)


# Reading every window once


def test_backfill_reads_every_settled_window_once_newest_first() -> None:
    spans = [*steady(6, per_hour=480), span(NOON + 60), span(NOON - 7 * HOUR)]
    bench = BackfillBench(FakeTempo(spans, max_limit=1000))
    bench.read()
    windows = [hour(ago) for ago in range(1, 7)]
    assert bench.searched_windows() == windows
    assert bench.stored() == digests_of(spans, windows)
    assert bench.states() == {WindowState.DONE: 6}
    assert [entry.window for entry in bench.committed] == windows
    for entry in bench.committed:
        assert entry == bench.ledger()[entry.window]
        assert (entry.traces, entry.stored, entry.coverage, entry.attempts) == (480, 480, 1.0, 0)
        assert (entry.requests, entry.splits, entry.read_at) == (1.0, 0, NOW)


def test_status_reports_progress_before_and_after_a_pass() -> None:
    bench = BackfillBench(FakeTempo(steady(3)), hours=6)
    before = bench.backfill.status
    assert (before.progress.pending, before.progress.ratio, before.completed_at) == (6, 0.0, None)
    assert (before.started_at, bench.backfill.settled_until()) == (NOW, hour(6).start)
    bench.read()
    after = bench.backfill.status
    assert (after.progress.done, after.progress.empty, after.progress.ratio) == (3, 3, 1.0)
    assert (after.started_at, after.completed_at, after.progress.coverage) == (NOW, NOW, 1.0)
    assert bench.backfill.settled_until() == NOON


@st.composite
def traffic_and_settings(draw: st.DrawFn) -> tuple[list[Span], dict[str, object], int]:
    """Spans over some hours, arguments of the bench, and the search limit."""
    hours = draw(st.integers(1, 30))
    starts = st.integers((NOON - (hours + 1) * HOUR) * NS, (NOON + HOUR) * NS)
    window_edges = st.integers(-hours - 1, 1).map(lambda number: (NOON + number * HOUR) * NS)
    durations = st.one_of(st.just(0), st.integers(0, 4000 * NS))
    drawn = draw(
        st.lists(st.tuples(st.one_of(starts, window_edges), durations, st.sampled_from([KEY, LOGIN])), max_size=60)
    )
    spans = [span(0, key=key)._replace(start_ns=start, duration_ns=length) for start, length, key in drawn]
    options: dict[str, object] = {
        "hours": hours,
        "concurrency": draw(st.integers(1, 4)),
        "batch": draw(st.sampled_from([900, 1800, HOUR, 4 * HOUR])),
        "calendar": draw(st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata"]).map(ZoneInfo).map(Calendar)),
    }
    return spans, options, draw(st.integers(61, 200))


@given(traffic_and_settings(), st.sampled_from([600, 3600, 6 * HOUR, 168 * HOUR]))
@settings(max_examples=40)
def test_backfill_stores_every_span_exactly_once(
    case: tuple[list[Span], dict[str, object], int], allowed_seconds: int
) -> None:
    spans, options, limit = case
    bench = BackfillBench(FakeTempo(spans, max_limit=limit, allowed_seconds=allowed_seconds), **options)  # type: ignore[arg-type]
    bench.read()
    assert bench.backfill.status.progress.complete
    read = [window for window, entry in bench.ledger().items() if entry.state is not WindowState.EXPIRED]
    assert bench.stored() == digests_of(spans, read)
    # Windows that were not read are older than the first trace.
    expired = [window for window in bench.ledger() if window not in read]
    assert digests_of(spans, expired) == {}
    assert all(window.end < min(read).end for window in expired)
    assert bench.store.totals().traces == sum(digest.count for digest in bench.stored().values())
    searches = len(bench.tempo.searches)
    bench.read()
    assert len(bench.tempo.searches) == searches


def test_backfill_reads_a_quiet_week_with_few_searches() -> None:
    bench = BackfillBench(FakeTempo(steady(168)), hours=168)
    bench.read()
    assert bench.states() == {WindowState.DONE: 168}
    assert len(bench.tempo.searches) == 1 + 7
    assert bench.store.totals().traces == 1680
    shares = [entry.requests for entry in bench.ledger().values()]
    assert sum(shares) == pytest.approx(8)


def test_batch_of_six_hours_is_read_in_one_search() -> None:
    bench = BackfillBench(FakeTempo(steady(6)), batch=6 * HOUR)
    bench.read()
    assert bench.tempo.searches == [(NOON - 6 * HOUR, NOON)]
    assert len(bench.ledger()) == 6


def test_excluded_series_are_counted_and_not_stored() -> None:
    rules = SeriesRules(exclude=[Pattern("healthz")], max_series=1)
    dropped = [span(NOON - 60, key=PROBE), span(NOON - 50, key=PROBE), span(NOON - 40, key=LOGIN)]
    bench = BackfillBench(FakeTempo([*steady(1), *dropped]), hours=1, rules=rules)
    bench.series_filter.preload([KEY])
    bench.read()
    assert bench.telemetry.skipped["backfill", "filtered"] == 2
    assert bench.telemetry.skipped["backfill", "series_limit"] == 1
    entry = bench.ledger()[hour(1)]
    assert (entry.traces, entry.stored, entry.coverage) == (13, 10, 1.0)
    assert bench.store.series() == [KEY]


# Concurrency


def test_workers_read_max_concurrency_windows_at_once_and_never_more() -> None:
    barrier = threading.Barrier(3, timeout=20)
    first_searches = threading.Semaphore(3)

    def meet_the_others(start: int, end: int) -> None:
        if first_searches.acquire(blocking=False):
            barrier.wait()

    # The hours are so dense that each needs a batch of its own.
    tempo = FakeTempo(steady(8, per_hour=480), before_search=meet_the_others)
    bench = BackfillBench(tempo, hours=8, concurrency=3)
    bench.read()
    assert tempo.most_at_once == 3
    assert sorted(bench.searched_windows(), reverse=True) == [hour(ago) for ago in range(1, 9)]
    assert bench.states() == {WindowState.DONE: 8}


# Restart


def test_restart_does_not_read_stored_windows_again() -> None:
    first = BackfillBench(FakeTempo(steady(6)))
    first.read()
    second = BackfillBench(FakeTempo(steady(6)), store=first.store)
    second.read()
    assert second.tempo.searches == second.tempo.probes == []
    assert second.backfill.status.progress.complete
    assert second.backfill.status.completed_at == NOW


def test_restart_after_an_outage_reads_only_the_windows_that_were_missed() -> None:
    first = BackfillBench(FakeTempo(steady(6)))
    first.read()
    spans = [*steady(6), *(span(NOON + number * HOUR + 30, 0.2) for number in range(3))]
    second = BackfillBench(FakeTempo(spans), store=first.store, now=NOW + 3 * HOUR)
    second.read()
    assert second.tempo.searches == [(NOON, NOON + 3 * HOUR)]
    assert len(second.stored()) == 9


def test_longer_history_duration_reads_only_the_added_windows() -> None:
    first = BackfillBench(FakeTempo(steady(9)), hours=3)
    first.read()
    second = BackfillBench(FakeTempo(steady(9)), hours=9, store=first.store)
    second.read()
    assert second.tempo.searches == [(NOON - 9 * HOUR, NOON - 3 * HOUR)]
    assert second.stored() == digests_of(second.tempo.spans, [hour(ago) for ago in range(1, 10)])


def test_shorter_batch_setting_does_not_read_stored_windows_again() -> None:
    first = BackfillBench(FakeTempo(steady(3)), hours=3)
    first.read()
    second = BackfillBench(FakeTempo(steady(6)), hours=6, batch=1800, store=first.store)
    second.read()
    assert all(end <= NOON - 3 * HOUR for _, end in second.tempo.searches)
    assert len(second.ledger()) == 3 + 6
    assert second.store.totals().traces == 60


# The passage of time


def test_running_backfill_reads_each_window_when_it_settles() -> None:
    bench = BackfillBench(FakeTempo(steady(3)), hours=3)
    with bench.running():
        bench.wait_until(lambda: bench.backfill.status.progress.complete)
        bench.tempo.spans.append(span(NOON + 1800, 0.3))
        bench.clock.advance(HOUR - 1)
        bench.backfill.wake()
        assert bench.backfill.status.progress.done == 3
        bench.clock.advance(1)
        bench.wait_until(lambda: Window(NOON, NOON + HOUR) in bench.ledger())
        bench.wait_until(lambda: bench.backfill.status.progress.complete)
    assert bench.tempo.searches[-1] == (NOON, NOON + HOUR)
    # The wanted range still has three windows; the store also keeps the oldest, which is no longer wanted.
    assert bench.backfill.status.progress.done == 3
    assert len(bench.ledger()) == 4
    assert bench.backfill.status.completed_at == NOW


def test_windows_beyond_the_retention_are_deleted_and_their_series_leave_the_filter() -> None:
    old = span(NOON - 2 * HOUR + 30, key=LOGIN)
    bench = BackfillBench(FakeTempo([old, span(NOON - 30)]), hours=2, retention=2 * HOUR + SETTLE)
    bench.read()
    assert (len(bench.ledger()), len(bench.series_filter)) == (2, 2)
    bench.clock.advance(HOUR)
    bench.read()
    assert sorted(bench.ledger()) == [hour(1), Window(NOON, NOON + HOUR)]
    assert bench.store.series() == [KEY]
    assert len(bench.series_filter) == 1


def test_clock_set_back_and_forward_reads_no_window_twice() -> None:
    bench = BackfillBench(FakeTempo(steady(6)), hours=6)
    bench.read()
    searches = len(bench.tempo.searches)
    # The clock goes an hour forward and three back, so windows that left the range are wanted again.
    bench.clock.advance(HOUR)
    bench.read()
    assert len(bench.tempo.searches) == searches + 1
    for seconds in (-HOUR, 2 * HOUR, -2 * HOUR, HOUR + 300):
        bench.clock.advance(seconds)
        if bench.clock.now < NOW + 2 * HOUR:
            bench.read()
    assert len(bench.tempo.searches) == searches + 1
    assert len(bench.stored()) == 6


def test_windows_read_while_the_clock_was_ahead_are_read_again_when_they_settle() -> None:
    tempo = FakeTempo([*steady(6), span(NOON + 60, 0.1)])
    bench = BackfillBench(tempo, hours=9, now=NOW + 3 * HOUR)
    bench.read()
    assert (bench.ledger()[hour(0)].traces, bench.ledger()[hour(-2)].state) == (1, WindowState.EMPTY)
    searches = len(tempo.searches)
    bench.clock.advance(-3 * HOUR)
    bench.read()
    # Windows that have settled by the corrected clock too are not read again; the later ones are not wanted yet.
    assert len(tempo.searches) == searches + 1
    assert bench.backfill.status.progress.complete
    assert bench.backfill.settled_until() == NOON
    tempo.spans += [span(NOON + number * 360 + 120, 0.1) for number in range(30)]
    for ago in (0, -1, -2):
        bench.clock.advance(HOUR)
        bench.read()
        assert bench.ledger()[hour(ago)].traces == (11 if ago == 0 else 10)
        assert bench.backfill.settled_until() == hour(ago).end
    assert bench.backfill.status.progress.complete


@pytest.mark.parametrize("later_spans", [[], [span(NOON + number * 60 + 1, 0.1) for number in range(50)]])
def test_window_read_too_early_keeps_its_first_content_until_a_reread_finds_more(later_spans: list[Span]) -> None:
    """A failed reread is retried; if Tempo has lost the traces by then, the first content stays."""
    tempo = FakeTempo([*steady(6), *(span(NOON + number * 60, 0.1) for number in range(30))])
    bench = BackfillBench(tempo, hours=9, now=NOW + 3 * HOUR)
    bench.read()
    bench.clock.advance(-3 * HOUR)
    bench.read()
    failures = iter([True] if later_spans else [])
    tempo.before_search = lambda start, end: away(start, end) if next(failures, False) else None
    tempo.spans = later_spans
    bench.clock.advance(HOUR)
    bench.read()
    bench.clock.advance(60)
    bench.read()
    assert bench.ledger()[hour(0)].traces == (len(later_spans) or 30)
    assert bench.stored()[KEY, NOON].count == (len(later_spans) or 30)
    assert bench.backfill.status.progress.complete


# Failures


def test_failed_window_is_retried_after_growing_pauses_until_it_is_read() -> None:
    bench = BackfillBench(FakeTempo(steady(3, per_hour=480)), hours=3)
    bench.tempo.before_search = fails_in(hour(2), no_connection)
    bench.read()
    assert bench.states() == {WindowState.DONE: 2, WindowState.FAILED: 1}
    searches = bench.searched_windows().count(hour(2))
    assert searches == 1
    now = NOW
    for attempts, pause in enumerate((30, 60, 120, 240), start=1):
        entry = bench.ledger()[hour(2)]
        assert (entry.attempts, entry.retry_at) == (attempts, now + pause)
        assert entry.error == "GET http://tempo/api/search: no connection"
        assert bench.backfill.status.progress.failed == 1
        assert bench.backfill.status.failure == entry.error
        bench.clock.advance(pause - 1)
        bench.read()
        assert bench.searched_windows().count(hour(2)) == attempts
        bench.clock.advance(1)
        now += pause
        bench.read()
        assert bench.searched_windows().count(hour(2)) == attempts + 1
    bench.tempo.before_search = lambda start, end: None
    bench.clock.advance(480)
    bench.read()
    entry = bench.ledger()[hour(2)]
    assert (entry.state, entry.attempts, entry.retry_at, entry.error) == (WindowState.DONE, 0, None, None)
    assert bench.backfill.status.progress.complete
    assert bench.stored() == digests_of(bench.tempo.spans, [hour(ago) for ago in (1, 2, 3)])


def test_failed_window_keeps_its_attempts_and_retry_time_after_a_restart() -> None:
    first = BackfillBench(FakeTempo(steady(1), before_search=away), hours=1)
    first.read()
    second = BackfillBench(FakeTempo(steady(1), before_search=away), hours=1, store=first.store)
    second.read()
    assert second.tempo.searches == []
    second.clock.advance(30)
    second.read()
    assert second.ledger()[hour(1)].attempts == 2


def test_windows_of_a_failed_batch_are_retried_one_by_one() -> None:
    """If one window makes searches fail, it must not block the others."""
    bench = BackfillBench(FakeTempo(steady(6)), batch=6 * HOUR)
    bench.tempo.before_search = fails_in(hour(4), no_connection)
    bench.read()
    assert bench.states() == {WindowState.FAILED: 6}
    bench.clock.advance(30)
    bench.read()
    assert bench.states() == {WindowState.DONE: 5, WindowState.FAILED: 1}
    assert bench.searched_windows()[1:] == [hour(ago) for ago in range(1, 7)]
    assert bench.ledger()[hour(4)].attempts == 2
    assert bench.backfill.settled_until() == hour(4).start


def test_window_that_failed_three_times_no_longer_blocks_settled_until() -> None:
    bench = BackfillBench(FakeTempo(steady(3, per_hour=480)), hours=3)
    bench.tempo.before_search = fails_in(hour(2), no_connection)
    for _ in range(2):
        bench.read()
        assert bench.backfill.settled_until() == hour(2).start
        bench.clock.advance(120)
    bench.read()
    assert bench.backfill.settled_until() == NOON


def test_unexpected_exception_fails_one_window_and_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = BackfillBench(FakeTempo(steady(3, per_hour=480)), hours=3)
    bench.tempo.before_search = fails_in(hour(2), lambda: ZeroDivisionError("a defect"))
    bench.read()
    assert bench.states() == {WindowState.DONE: 2, WindowState.FAILED: 1}
    assert bench.ledger()[hour(2)].error == "ZeroDivisionError('a defect')"
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.levelno == logging.ERROR


def test_single_pass_ends_after_as_many_failures_in_a_row_as_its_patience() -> None:
    bench = BackfillBench(FakeTempo(steady(9, per_hour=480), before_search=away), hours=9)
    bench.backfill.run(patience=3)
    assert bench.searched_windows() == [hour(1), hour(2), hour(3)]
    assert bench.states() == {WindowState.FAILED: 3}
    assert bench.backfill.status.progress.pending == 6
    assert bench.backfill.status.completed_at is None


def test_success_resets_the_count_of_failures_in_a_row() -> None:
    bench = BackfillBench(FakeTempo(steady(9, per_hour=480)), hours=9)

    def fail_every_other(start: int, end: int) -> None:
        if len(bench.tempo.searches) % 2:
            away(start, end)

    bench.tempo.before_search = fail_every_other
    bench.backfill.run(patience=2)
    assert bench.states() == {WindowState.DONE: 4, WindowState.FAILED: 5}


def test_workers_pause_longer_after_each_failure_while_tempo_is_down() -> None:
    """Without the pauses, every window would fail within a moment."""
    attempted_at: list[float] = []
    bench = BackfillBench(FakeTempo(steady(9, per_hour=480)), hours=9, tick=0.0)

    def fail(start: int, end: int) -> None:
        attempted_at.append(bench.clock.passed)
        away(start, end)

    bench.tempo.before_search = fail
    with bench.running():
        bench.wait_until(lambda: len(attempted_at) >= 5, advance=0.25)
        pauses = [later - earlier for earlier, later in pairwise(attempted_at)]
        assert all(pause >= least for pause, least in zip(pauses, (1, 2, 4, 8), strict=False))
        bench.tempo.before_search = lambda start, end: None
        bench.wait_until(lambda: bench.backfill.status.progress.complete, advance=5.0)
    assert len(bench.stored()) >= 9


def test_stop_ends_pauses_at_once() -> None:
    bench = BackfillBench(FakeTempo(steady(9), before_search=away), hours=9, tick=0.0, concurrency=3)
    with bench.running():
        bench.wait_until(lambda: bool(bench.tempo.searches))


# Failed writes to the database


class FailingStore(Store):
    """A store in memory of which the next commits fail."""

    failures = 0

    def commit(self, entries: Sequence[LedgerEntry], contents: Sequence[WindowContent] = ()) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreError("full", "recording windows failed: database or disk is full")
        super().commit(entries, contents)


def test_window_whose_commit_failed_is_read_again_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    store = memory_store(FailingStore)
    store.failures = 3
    bench = BackfillBench(FakeTempo(steady(3, per_hour=480)), hours=3, store=store, tick=5.0)
    bench.read()
    assert bench.searched_windows() == [hour(1)] * 4 + [hour(2), hour(3)]
    assert bench.states() == {WindowState.DONE: 3}
    assert [entry.window for entry in bench.committed] == [hour(1), hour(2), hour(3)]
    assert bench.stored() == digests_of(bench.tempo.spans, [hour(ago) for ago in (1, 2, 3)])
    # One warning for three failures, because a full disk stays full for long.
    assert events(caplog, logging.WARNING) == ["windows_not_stored"]


def test_single_pass_ends_after_failed_commits() -> None:
    store = memory_store(FailingStore)
    store.failures = 99
    bench = BackfillBench(FakeTempo(steady(3)), hours=3, store=store)
    bench.backfill.run(patience=2)
    assert len(bench.tempo.searches) == 2
    assert bench.ledger() == {}
    assert not bench.backfill.status.progress.complete


def test_failed_window_waits_for_its_retry_time_even_if_the_failure_was_not_stored() -> None:
    store = memory_store(FailingStore)
    bench = BackfillBench(FakeTempo(steady(1), before_search=away), hours=1, store=store)
    store.failures = 1
    bench.read()
    assert bench.ledger() == {}
    assert bench.backfill.status.progress.failed == 1
    bench.clock.advance(29)
    bench.read()
    assert len(bench.tempo.searches) == 1


# Stopping


@pytest.mark.parametrize("search_outcome", ["stopped", "failed", "succeeded"])
@pytest.mark.parametrize("batch", [HOUR, 6 * HOUR])
def test_stop_in_the_middle_of_a_window_leaves_it_unread(search_outcome: str, batch: int) -> None:
    """The window needs several searches, and the stop comes after some of them."""
    spans = steady(3, per_hour=720)
    bench = BackfillBench(FakeTempo(spans, max_limit=100), hours=3, batch=batch)

    def stop_in_the_middle(start: int, end: int) -> None:
        if end <= hour(2).start + HOUR // 2:
            bench.stop.set()
            if search_outcome == "stopped":
                raise StoppedError("the exporter is being stopped")
            if search_outcome == "failed":
                raise no_connection()

    bench.tempo.before_search = stop_in_the_middle
    bench.backfill.run()
    done = [hour(1)] if batch == HOUR else []
    assert list(bench.ledger()) == done
    assert bench.stored() == digests_of(spans, done)
    assert bench.backfill.status.progress.failed == 0
    # The next process reads all of it.
    restarted = BackfillBench(FakeTempo(spans, max_limit=100), hours=3, store=bench.store)
    restarted.read()
    assert restarted.stored() == digests_of(spans, [hour(1), hour(2), hour(3)])


def test_stop_during_a_probe_is_not_logged_as_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    bench = BackfillBench(FakeTempo(steady(30)), hours=30)

    def stop(start: int, end: int) -> None:
        bench.stop.set()
        raise StoppedError("the exporter is being stopped")

    bench.tempo.before_probe = stop
    bench.backfill.run()
    assert bench.ledger() == {}
    assert caplog.records == []


def test_run_makes_no_search_if_stop_is_already_set() -> None:
    bench = BackfillBench(FakeTempo(steady(3)))
    bench.stop.set()
    bench.backfill.run()
    assert bench.tempo.searches == []


# More traces than a search returns


def test_dense_windows_are_read_completely_by_splitting_searches() -> None:
    spans = steady(3, per_hour=600)
    bench = BackfillBench(FakeTempo(spans, max_limit=50), hours=3)
    bench.read()
    assert bench.stored() == digests_of(spans, [hour(1), hour(2), hour(3)])
    assert bench.states() == {WindowState.DONE: 3}
    first, *others = bench.committed
    assert first.splits > 0
    # The density of the first window is known by now: the others are split beforehand, and no response is discarded.
    assert [entry.splits for entry in others] == [0, 0]
    assert bench.telemetry.splits["backfill"] == first.splits
    assert bench.telemetry.truncated_windows == {}
    assert all(entry.coverage == 1.0 for entry in bench.committed)


def test_saturated_second_makes_only_its_window_partial(caplog: pytest.LogCaptureFixture) -> None:
    burst = [span(NOON - 2 * HOUR + 100.5, 0.2) for _ in range(80)]
    spans = [*steady(3), *burst]
    bench = BackfillBench(FakeTempo(spans, max_limit=50), hours=3)
    bench.read()
    assert bench.states() == {WindowState.DONE: 2, WindowState.PARTIAL: 1}
    entry = bench.ledger()[hour(2)]
    assert (entry.state, entry.coverage) == (WindowState.PARTIAL, None)
    assert entry.traces == 10
    assert bench.telemetry.truncated_windows == {"backfill": 1}
    assert bench.backfill.status.progress.complete
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("tempo.limit" in warning and "max_result_limit" in warning for warning in warnings)


def test_partial_window_is_reread_after_growing_pauses_a_bounded_number_of_times() -> None:
    burst = [span(NOON - 2 * HOUR + 100.5, 0.2) for _ in range(80)]
    bench = BackfillBench(FakeTempo([*steady(12), *burst], max_limit=50), hours=12)
    bench.read()
    pauses = []
    with bench.running():
        while (before := bench.ledger()[hour(2)]).retry_at is not None:
            pauses.append(before.retry_at - before.read_at)
            bench.clock.advance(before.retry_at - bench.clock.time() + 1)
            bench.wait_until(lambda before=before: bench.ledger()[hour(2)].read_at > before.read_at)  # type: ignore[misc]
    assert pauses == [900, 3600, 14_400]
    assert (before.state, before.traces) == (WindowState.PARTIAL, 10)


def test_partial_window_is_whole_once_tempo_allows_a_higher_limit() -> None:
    burst = [span(NOON - 2 * HOUR + 100.5, 0.2) for _ in range(80)]
    bench = BackfillBench(FakeTempo([*steady(3), *burst], max_limit=50), hours=3)
    bench.read()
    bench.tempo.tempo_limit = 1000
    with bench.running():
        bench.clock.advance(901)
        bench.wait_until(lambda: bench.ledger()[hour(2)].state is WindowState.DONE)
    assert bench.ledger()[hour(2)].traces == 90
    assert bench.telemetry.truncated_windows == {"backfill": 1}


@pytest.mark.parametrize(("per_second", "seconds", "limit"), [(2, 300, 500), (1, 3600, 500)])
def test_traces_that_last_longer_than_their_requests_are_read(per_second: int, seconds: int, limit: int) -> None:
    """More traces than a search returns overlap every second."""
    count = (3 * HOUR + seconds) * per_second
    spans = [span(NOON - 3 * HOUR - seconds + n / per_second, seconds) for n in range(count)]
    bench = BackfillBench(FakeTempo(spans, max_limit=limit, tempo_limit=262_144), hours=3)
    bench.read()
    assert bench.states() == {WindowState.DONE: 3}
    assert [entry.traces for entry in bench.ledger().values()] == [HOUR * per_second] * 3
    assert bench.telemetry.truncated_windows == {}
    assert len(bench.tempo.searches) < 60


def test_endpoint_is_read_by_name_where_long_traces_of_another_hide_it(caplog: pytest.LogCaptureFixture) -> None:
    flood = [span(NOON - HOUR - 300 + n / 2, 300) for n in range(2 * (HOUR + 300))]
    quiet = SeriesKey("billing", "POST /invoices")
    others = [span(NOON - HOUR + 60 * n + 30.5, 1, key=quiet) for n in range(60)]
    bench = BackfillBench(FakeTempo([*flood, *others], max_limit=500), hours=1)
    bench.read()
    assert bench.states() == {WindowState.PARTIAL: 1}
    (entry,) = bench.ledger().values()
    assert entry.retry_at is not None
    assert bench.stored() == digests_of(others, [hour(1)])
    (warning,) = [message for message in map(logging.LogRecord.getMessage, caplog.records) if "one second" in message]
    assert "traces last longer than their requests" in warning


# Retention of Tempo, and empty windows


def test_windows_older_than_the_first_trace_expire_after_a_few_probes() -> None:
    bench = BackfillBench(FakeTempo(steady(20)), hours=168)
    bench.read()
    assert bench.states() == {WindowState.DONE: 20, WindowState.EXPIRED: 148}
    assert len(bench.tempo.probes) <= log2(168) + 3
    assert len(bench.tempo.searches) <= 4
    progress = bench.backfill.status.progress
    assert (progress.expired, progress.ratio, progress.complete) == (148, 1.0, True)
    # A restart probes again, because retention may have grown.
    restarted = BackfillBench(FakeTempo(steady(168)), hours=168, store=bench.store)
    restarted.read()
    assert restarted.states() == {WindowState.DONE: 168}


def test_one_probe_is_enough_if_tempo_has_traces_in_the_oldest_window() -> None:
    bench = BackfillBench(FakeTempo(steady(14, per_hour=480)), hours=14)
    bench.read()
    assert bench.tempo.probes == [tuple(hour(14))]


def test_eleven_unread_windows_are_read_without_a_probe() -> None:
    bench = BackfillBench(FakeTempo(steady(3)), hours=11)
    bench.read()
    assert bench.tempo.probes == []
    assert bench.states() == {WindowState.DONE: 3, WindowState.EMPTY: 8}


def test_windows_of_an_empty_tempo_are_empty_and_not_expired() -> None:
    bench = BackfillBench(FakeTempo(), hours=48)
    bench.read()
    assert bench.states() == {WindowState.EMPTY: 48}


def test_an_empty_tempo_costs_few_searches_and_is_explained(caplog: pytest.LogCaptureFixture) -> None:
    """With a maximum range of half an hour, a week of nothing cost 2,559 requests, and nothing said what was wrong."""
    caplog.set_level(logging.WARNING)
    bench = BackfillBench(FakeTempo(allowed_seconds=HOUR // 2), hours=168)
    bench.read()
    assert bench.states() == {WindowState.EMPTY: 168}
    assert len(bench.tempo.probes) + len(bench.tempo.searches) <= 2 * 168 + 20
    assert bench.backfill.status.progress.is_empty
    assert bench.tempo.explained == [(hour(168).start, hour(1).end)]
    assert bench.backfill.empty_reason == "check tempo.tenant"
    assert events(caplog) == ["backfill_empty"]


def test_a_history_with_any_trace_is_not_explained() -> None:
    bench = BackfillBench(FakeTempo(steady(1)), hours=24)
    bench.read()
    assert (bench.backfill.status.progress.is_empty, bench.backfill.empty_reason) == (False, None)
    assert bench.tempo.explained == []


def test_an_empty_history_is_asked_for_again_after_two_minutes() -> None:
    bench = BackfillBench(FakeTempo(), hours=24)
    with bench.running():
        bench.wait_until(lambda: bench.backfill.status.progress.complete)
        bench.tempo.spans = steady(24)
        bench.clock.advance(121)
        bench.wait_until(lambda: bench.states()[WindowState.DONE] == 24)
        assert not bench.backfill.status.progress.is_empty


def test_traces_that_appear_later_in_empty_windows_are_read() -> None:
    bench = BackfillBench(FakeTempo(), hours=24)
    with bench.running():
        bench.wait_until(lambda: bench.backfill.status.progress.complete)
        assert bench.states() == {WindowState.EMPTY: 24}
        bench.tempo.spans = steady(10)
        bench.wait_until(lambda: bench.states()[WindowState.DONE] == 10, advance=60)
    assert bench.store.totals().traces == 100
    # Windows that stay empty are confirmed by probes and not searched again.
    assert len(bench.tempo.searches) <= 2 * 24


def confirmed(bench: BackfillBench, windows: Sequence[Window], times: int) -> bool:
    """Whether each of some empty windows was confirmed so many times."""
    return all(bench.ledger()[window].attempts == times for window in windows)


def test_stretch_of_empty_windows_is_confirmed_by_one_probe_and_not_searched() -> None:
    bench = BackfillBench(FakeTempo(steady(3)), hours=11)
    quiet = [hour(ago) for ago in range(8, 3, -1)]
    with bench.running():
        bench.wait_until(lambda: bench.backfill.status.progress.complete)
        searches = len(bench.tempo.searches)
        for times, pause in enumerate((HOUR / 4, HOUR), start=1):
            bench.clock.advance(pause + 1)
            bench.wait_until(partial(confirmed, bench, quiet, times))
    assert all(bench.ledger()[window].state is WindowState.EMPTY for window in quiet)
    # Two probes cover the quiet stretches; the others are of windows that have settled since.
    assert bench.tempo.probes[0] == (hour(11).start, quiet[-1].end - 1)
    assert len(bench.tempo.probes) <= 6
    assert all(start >= NOON for start, _ in bench.tempo.searches[searches:])


def test_long_trace_overlapping_empty_windows_does_not_cause_endless_rereads() -> None:
    """A probe of the stretch finds the trace, but it belongs to the window in which it started."""
    quiet = [hour(ago) for ago in range(8, 3, -1)]
    busy = [each for each in steady(60) if not quiet[0].start * NS <= each.start_ns < quiet[-1].end * NS]
    later = [span(NOON + number * HOUR + 60, 0.1) for number in range(60)]
    bench = BackfillBench(FakeTempo([*busy, span(quiet[0].start - 60, HOUR), *later]), hours=60)
    with bench.running():
        bench.wait_until(lambda: bench.backfill.status.progress.complete)
        for times, pause in enumerate((HOUR / 4, HOUR, 6 * HOUR, 24 * HOUR), start=1):
            bench.clock.advance(pause + 1)
            bench.wait_until(partial(confirmed, bench, quiet, times))
    assert all(bench.ledger()[window].retry_at is None for window in quiet)
    assert all(bench.ledger()[window].state is WindowState.EMPTY for window in quiet)
    searches = [found for found in bench.tempo.searches if found[0] < quiet[-1].end and quiet[0].start < found[1]]
    assert len(searches) <= 5 * 5


def test_probe_is_divided_where_tempo_limits_the_range_of_a_search(caplog: pytest.LogCaptureFixture) -> None:
    bench = BackfillBench(FakeTempo(steady(20), allowed_seconds=5 * HOUR), hours=48)
    bench.read()
    assert bench.states() == {WindowState.DONE: 20, WindowState.EXPIRED: 28}
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_failed_probe_is_repeated() -> None:
    failures = iter([True, True])
    bench = BackfillBench(FakeTempo(steady(20)), hours=48)

    def fail_twice(start: int, end: int) -> None:
        if next(failures, False):
            away(start, end)

    bench.tempo.before_probe = fail_twice
    bench.read()
    assert bench.states() == {WindowState.DONE: 20, WindowState.EXPIRED: 28}


def test_window_read_during_a_probe_is_not_marked_as_expired() -> None:
    """Expiry must not delete a late trace that another worker has stored in an old window."""
    spans = steady(2)
    bench = BackfillBench(FakeTempo(spans), hours=14, concurrency=2, batch=14 * HOUR)
    late = span(NOON - 14 * HOUR + 60, 0.7)

    def wait_for_the_reader(start: int, end: int) -> None:
        # Before the first probe returns, the other worker reads all fourteen hours, including the late trace.
        bench.wait_until(lambda: len(bench.committed) == 14)
        bench.tempo.spans = spans

    def add_late_span(start: int, end: int) -> None:
        bench.tempo.spans = [*spans, late]

    bench.tempo.before_probe = wait_for_the_reader
    bench.tempo.before_search = add_late_span
    bench.read()
    assert len(bench.tempo.probes) > 1
    assert bench.states() == {WindowState.DONE: 3, WindowState.EMPTY: 11}
    assert bench.stored()[KEY, hour(14).start] == Digest.of_ns([late.duration_ns])


# Log events


def fields_of(caplog: pytest.LogCaptureFixture, event: str) -> list[Mapping[str, object]]:
    """The fields of all log records of an event."""
    return [record.__dict__["exporter_fields"] for record in caplog.records if event_of(record) == event]


def test_every_window_is_logged_and_completion_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench = BackfillBench(FakeTempo(steady(3, per_hour=480)), hours=3)
    bench.read()
    windows = fields_of(caplog, "window_read")
    assert [fields["window"] for fields in windows] == [
        UTC_CALENDAR.local(hour(ago).start).isoformat(timespec="minutes") for ago in (1, 2, 3)
    ]
    assert windows[0].keys() >= {"received", "kept", "stored", "requests", "splits", "coverage", "duration", "state"}
    (complete,) = fields_of(caplog, "backfill_complete")
    assert (complete["windows"], complete["traces"]) == (3, 1440)
    bench.clock.advance(HOUR)
    bench.read()
    assert len(fields_of(caplog, "backfill_complete")) == 1


def test_outage_of_tempo_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = BackfillBench(FakeTempo(steady(9, per_hour=480), before_search=away), hours=9, tick=5.0)
    bench.backfill.run(patience=4)
    assert bench.states() == {WindowState.FAILED: 4}
    assert events(caplog, logging.WARNING) == ["window_failed"]


# Counts by Tempo


def spans_in_hour(ago: int, count: int) -> list[Span]:
    """Spans within an hour; none starts on a whole second."""
    return [span(NOON - ago * HOUR + number % HOUR + 0.5, 0.1) for number in range(count)]


def test_coverage_is_the_share_of_the_traces_that_tempo_counts() -> None:
    bench = BackfillBench(FakeTempo(steady(6), counting="exact"))
    bench.read()
    assert {entry.coverage for entry in bench.committed} == {1.0}
    assert bench.tempo.counted == [(NOON - 6 * HOUR, NOON)]
    assert bench.telemetry.source_counts == [True]
    # The counts show that one search is enough for all windows after the first.
    assert len(bench.tempo.searches) == 2
    assert bench.backfill.status.progress.coverage == 1.0


def test_trace_on_the_edge_of_a_window_does_not_reduce_coverage() -> None:
    """Tempo counts it in the step that ends at the edge, the ledger in the window that starts there."""
    edges = [span(NOON - ago * HOUR) for ago in (1, 2, 3) for _ in range(5)]
    bench = BackfillBench(FakeTempo([*steady(3), *edges], counting="exact"), hours=3)
    bench.read()
    assert [entry.coverage for entry in bench.committed] == [1.0, 1.0, 1.0]
    assert not any(entry.retry_at for entry in bench.committed)


def test_window_with_missing_traces_is_reread_after_a_quarter_of_an_hour() -> None:
    spans = steady(3)
    missing = spans_in_hour(2, 40)
    tempo = FakeTempo(spans, counting="exact")
    counting_tempo = FakeTempo([*spans, *missing], counting="exact")
    tempo.count = counting_tempo.count  # type: ignore[method-assign]
    bench = BackfillBench(tempo, hours=3, tick=0.001)
    with bench.running():
        bench.wait_until(lambda: bench.backfill.status.progress.complete)
        entry = bench.ledger()[hour(2)]
        assert (entry.state, entry.traces, entry.coverage, entry.attempts) == (WindowState.DONE, 10, 0.2, 0)
        assert entry.retry_at == NOW + 900
        assert bench.backfill.status.sampled_windows == 0
        tempo.spans = [*spans, *missing]
        bench.clock.advance(901)
        bench.backfill.wake()
        bench.wait_until(lambda: bench.ledger()[hour(2)].traces == 50)
        entry = bench.ledger()[hour(2)]
        assert (entry.state, entry.coverage, entry.attempts, entry.retry_at) == (WindowState.DONE, 1.0, 1, None)
    assert bench.stored()[KEY, hour(2).start].count == 50
    searches = [found for found in tempo.searches if found[0] <= hour(2).start < found[1]]
    assert len(searches) == 2


def test_window_whose_traces_stay_missing_is_reread_only_once() -> None:
    tempo = FakeTempo(steady(3), counting="exact")
    tempo.count = FakeTempo([*steady(3), *spans_in_hour(2, 40)], counting="exact").count  # type: ignore[method-assign]
    bench = BackfillBench(tempo, hours=3, tick=0.001)
    with bench.running():
        bench.wait_until(lambda: bench.backfill.status.progress.complete)
        for _ in range(3):
            bench.clock.advance(901)
            bench.backfill.wake()
            bench.wait_until(lambda: bench.backfill.status.progress.complete)
        bench.wait_until(lambda: bench.ledger()[hour(2)].attempts == 1)
    entry = bench.ledger()[hour(2)]
    assert (entry.traces, entry.coverage, entry.retry_at) == (10, 0.2, None)
    # The window was read whole, so it does not count as sampled.
    status = bench.backfill.status
    assert (status.sampled_windows, status.unsampled.coverage) == (0, status.progress.coverage)
    assert not was_sampled(entry)
    assert len([found for found in tempo.searches if found == tuple(hour(2))]) <= 2


def test_failed_reread_keeps_the_stored_digests() -> None:
    tempo = FakeTempo(steady(3), counting="exact")
    tempo.count = FakeTempo([*steady(3), *spans_in_hour(2, 40)], counting="exact").count  # type: ignore[method-assign]
    bench = BackfillBench(tempo, hours=3, tick=0.001)
    with bench.running():
        bench.wait_until(lambda: bench.backfill.status.progress.complete)
        before = bench.stored()
        failed = threading.Event()

        def fail(start: int, end: int) -> None:
            failed.set()
            away(start, end)

        tempo.before_search = fail
        bench.clock.advance(901)
        bench.backfill.wake()
        bench.wait_until(failed.is_set)
        bench.wait_until(lambda: bench.backfill.status.progress.complete)
    assert bench.stored() == before
    assert bench.states() == {WindowState.DONE: 3}


def test_window_is_reread_when_a_later_count_exceeds_what_was_read() -> None:
    tempo = FakeTempo(steady(3), counting="exact")
    bench = BackfillBench(tempo, hours=3, tick=0.001)
    with bench.running():
        bench.wait_until(lambda: bench.backfill.status.progress.complete)
        late = spans_in_hour(2, 40)
        tempo.spans = [*tempo.spans, *late, *(span(NOON + 60 * minute + 0.5, 0.1) for minute in range(60))]
        bench.clock.advance(HOUR)
        bench.backfill.wake()
        bench.wait_until(lambda: bench.ledger()[hour(2)].traces == 50)
    assert bench.stored()[KEY, hour(2).start].count == 50


@dataclass
class CountingTooMuch(FakeTempo):
    """Counts spans that a search leaves out, and says how many it left out.

    Attributes:
        left_out: for each of them, when it started and whether it is invalid; otherwise it is a duplicate.
    """

    left_out: Sequence[tuple[float, bool]] = ()

    def search(self, start: int, end: int, **options: Any) -> Found:
        found = super().search(start, end, **options)
        invalid = [is_invalid for at, is_invalid in self.left_out if start <= at <= end]
        return replace(found, duplicates=invalid.count(False), invalid=invalid.count(True))

    def count(self, start: int, end: int, step_seconds: int, *, loop: Loop, by_series: bool = False) -> SpanCounts:
        counts = super().count(start, end, step_seconds, loop=loop, by_series=by_series)
        by_step_end = Counter(counts.by_step_end)
        for at, _ in self.left_out:
            if start < at <= end:
                by_step_end[ceil(at / step_seconds) * step_seconds] += 1
        return SpanCounts(by_step_end, counts.by_series)


def test_spans_that_tempo_withholds_reduce_coverage() -> None:
    """Tempo returns only some spans of a trace with very many, and says how many there are."""

    @dataclass
    class Withholding(FakeTempo):
        def search(self, *args: Any, **options: Any) -> Found:
            found = super().search(*args, **options)
            return replace(found, missing=len(found.spans) // 4)

    bench = BackfillBench(Withholding(steady(3)), hours=3)
    with bench.running():
        bench.wait_until(lambda: bench.backfill.status.progress.complete)
    for entry in bench.ledger().values():
        assert (entry.state, entry.traces) == (WindowState.DONE, 10)
        assert entry.coverage == pytest.approx(0.82, abs=0.03)
        assert entry.retry_at is not None
    assert bench.backfill.status.sampled_windows == 0


@pytest.mark.parametrize("is_invalid", [False, True])
def test_spans_that_are_counted_and_left_out_are_not_missing(is_invalid: bool) -> None:
    """Of 15 counted spans, 5 are duplicates or invalid: coverage was 0.667, with a useless reread."""
    left_out = [(hour(2).start + 60.0 * number + 30, is_invalid) for number in range(5)]
    tempo = CountingTooMuch(steady(3), counting="exact", left_out=left_out)
    bench = BackfillBench(tempo, hours=3, tick=0.001)
    with bench.running():
        bench.wait_until(lambda: bench.backfill.status.progress.complete)
        entry = bench.ledger()[hour(2)]
        assert (entry.traces, entry.coverage, entry.retry_at) == (10, 1.0, None)
        searches = len(tempo.searches)
        # A later count still includes them.
        tempo.spans = [*tempo.spans, *(span(NOON + 60 * minute + 0.5, 0.1) for minute in range(60))]
        bench.clock.advance(HOUR)
        bench.backfill.wake()
        bench.wait_until(lambda: Window(NOON, NOON + HOUR) in bench.ledger())
    assert all(start >= NOON for start, _ in tempo.searches[searches:])
    assert bench.ledger()[hour(2)].attempts == 0


def test_what_is_missing_beyond_duplicates_and_invalid_spans_is_read_again() -> None:
    lost = spans_in_hour(2, 40)
    tempo = CountingTooMuch(steady(3), counting="exact", left_out=[(hour(2).start + 30.0, True)])
    tempo.count = CountingTooMuch(  # type: ignore[method-assign]
        [*steady(3), *lost], counting="exact", left_out=tempo.left_out
    ).count
    bench = BackfillBench(tempo, hours=3)
    bench.read()
    entry = bench.ledger()[hour(2)]
    assert entry.coverage == pytest.approx(10 / 50)
    assert entry.retry_at is not None


@pytest.mark.parametrize("counting", ["empty", "refused"])
def test_backfill_completes_where_tempo_does_not_count(counting: Literal["empty", "refused"]) -> None:
    bench = BackfillBench(FakeTempo(steady(6), counting=counting))
    bench.read()
    assert bench.states() == {WindowState.DONE: 6}
    assert {entry.coverage for entry in bench.committed} == {1.0}
    assert set(bench.telemetry.source_counts) == {False}


# Windows too dense to be read whole


@pytest.mark.parametrize("counting", ["exact", "refused"])
def test_window_beyond_the_budget_is_sampled_and_coverage_is_estimated(counting: Literal["exact", "refused"]) -> None:
    spans = [*steady(3), *spans_in_hour(2, 6000)]
    bench = BackfillBench(FakeTempo(spans, counting=counting, max_limit=300), hours=3, budget=Budget(600, 100))
    bench.read()
    assert bench.states() == {WindowState.DONE: 3}
    entry = bench.ledger()[hour(2)]
    assert entry.coverage == pytest.approx(0.1, rel=0.35)
    assert entry.there == pytest.approx(6010, rel=0.1)
    assert bench.stored()[KEY, hour(2).start].count == entry.stored == entry.traces
    assert entry.requests <= 100
    assert bench.telemetry.sampled_windows == {"backfill": 1}
    assert bench.telemetry.truncated_windows == {}
    progress = bench.backfill.status.progress
    assert progress.complete
    assert progress.coverage == pytest.approx((entry.traces + 20) / 6030, rel=0.1)
    # The stored entry shows that the window was sampled.
    status = bench.backfill.status
    assert (status.sampled_windows, status.unsampled.coverage) == (1, 1.0)
    assert [window for window, each in bench.ledger().items() if was_sampled(each)] == [hour(2)]


def test_density_of_a_sampled_window_is_expected_of_its_neighbours() -> None:
    spans = [each for ago in (1, 2, 3) for each in spans_in_hour(ago, 4000)]
    bench = BackfillBench(FakeTempo(spans, max_limit=300), hours=3, budget=Budget(400, 100))
    bench.read()
    assert bench.telemetry.sampled_windows == {"backfill": 3}
    newest, *others = bench.committed
    # Only the first window needs a saturated search to find out its density.
    assert bench.telemetry.splits["backfill"] <= 1
    assert all(entry.there == pytest.approx(4000, rel=0.2) for entry in bench.committed)
    assert all(entry.requests <= newest.requests for entry in others)
