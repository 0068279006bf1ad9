import logging
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from exporter.baseline.levels import FallbackLevel
from exporter.detection.detector import decode_state
from exporter.detection.flag import INACTIVE, Flag
from exporter.evaluation.baseline_table import NOT_KNOWN_YET, BaselineTable
from exporter.evaluation.manager import BaselineManager
from exporter.evaluation.settings import EvaluationSettings
from exporter.evaluation.snapshot import HistoryFacts, Snapshot
from exporter.model.calendar import Calendar, HourClock
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.store import Findings, Store, StoredSeries, StoreError
from tests.support.samples import (
    DAY,
    HOUR,
    KEY,
    NOON,
    SETTINGS,
    Clock,
    Durations,
    around,
    commit_hour,
    event_of,
    events,
)

OTHER = SeriesKey("checkout", "POST /pay")
NOW = NOON + 600.0
SATURDAY = NOON - 3 * DAY
UTC_CALENDAR = Calendar()


class WatchedStore(Store):
    """A store that tells what was recorded, and refuses when it is told to."""

    recorded: list[Findings]
    refuses_reads = False
    refuses_writes = False

    def history(
        self, keys: Iterable[SeriesKey], start: int, end: int, *, marks_from: int | None = None, at_once: int = 20
    ) -> Iterator[StoredSeries]:
        if self.refuses_reads:
            raise StoreError("locked", "reading the history failed")
        return super().history(keys, start, end, marks_from=marks_from, at_once=at_once)

    def record(self, findings: Iterable[Findings]) -> None:
        if self.refuses_writes:
            raise StoreError("full", "recording failed")
        found = list(findings)
        self.__dict__.setdefault("recorded", []).extend(found)
        super().record(found)

    def remember(self, flags: Mapping[SeriesKey, str | None], suspects: Mapping[SeriesKey, Collection[int]]) -> None:
        if self.refuses_writes:
            raise StoreError("full", "remembering failed")
        super().remember(flags, suspects)

    def take_recorded(self) -> list[Findings]:
        taken = self.__dict__.pop("recorded", [])
        assert isinstance(taken, list)
        return taken


class Bench:
    """A historian over a store, with an instant up to which the ledger has no gap."""

    def __init__(
        self,
        store: Store,
        settings: EvaluationSettings = SETTINGS,
        settled_until: int = NOON,
        patience_seconds: float = 0.0,
        calendar: Calendar = UTC_CALENDAR,
    ) -> None:
        self.store = store
        self.settled_until = settled_until
        self.accepted = 0
        self.monotonic = Clock(0.0)
        self.when_asked: Callable[[], None] = lambda: None
        self.historian = BaselineManager(
            store,
            HourClock(calendar),
            settings,
            settled_until=self._settled_until,
            on_accepted=self._accept,
            monotonic=self.monotonic,
            log=get_logger("test"),
            patience_seconds=patience_seconds,
        )

    def _settled_until(self) -> int:
        self.when_asked()
        return self.settled_until

    def _accept(self) -> None:
        self.accepted += 1

    def write(self, start: int, durations: Durations) -> None:
        """Commit an hour and tell of it, as the ledger's loop does."""
        commit_hour(self.store, start, durations)
        self.historian.windows_written()

    def book(self, now: float) -> BaselineTable:
        """What the poller gets at an instant after the historian has had its turn."""
        self.historian.open_book(now)
        return self.historian.book(now)

    def facts(self) -> HistoryFacts:
        return self.historian.describe(Snapshot(None)).history


@pytest.fixture
def store() -> Iterator[WatchedStore]:
    store = WatchedStore.in_memory()
    yield store
    store.close()


def write_days(bench: Bench, days: int, *, per_hour: int = 60, median: float = 0.1, until: int = NOON) -> None:
    """Some days of hours with even traffic for one series."""
    for start in range(until - days * DAY, until, HOUR):
        bench.write(start, {KEY: around(median, per_hour)})


def hours_with_an_incident() -> dict[int, Durations]:
    """Eight days of hours with even traffic of one series, three of them five times as slow."""
    return {
        start: {KEY: around(0.5 if NOON - 9 * HOUR <= start < NOON - 6 * HOUR else 0.1, 60)}
        for start in range(NOON - 8 * DAY, NOON, HOUR)
    }


class TestBaseline:
    @pytest.mark.parametrize(
        ("level", "starts", "per_hour"),
        [
            (FallbackLevel.EXACT, [NOON - days * DAY for days in (1, 4, 5, 6, 7)], 20),
            (FallbackLevel.NEARBY, [NOON - days * DAY + 2 * HOUR for days in (1, 4, 5, 6)], 10),
            (FallbackLevel.DAYTYPE, [NOON - days * DAY - 8 * HOUR for days in (1, 4, 5, 6)], 20),
            (FallbackLevel.GLOBAL, [SATURDAY + hours * HOUR for hours in (0, 6, 18, 24)], 20),
        ],
    )
    def test_each_level_serves_where_those_before_have_too_little(
        self, store: Store, level: FallbackLevel, starts: list[int], per_hour: int
    ) -> None:
        bench = Bench(store)
        everything: list[float] = []
        for number, start in enumerate(starts):
            seconds = around(0.1 + 0.002 * number, per_hour)
            everything += seconds
            bench.write(start, {KEY: seconds})
        bench.historian.catch_up(NOW)
        usual = bench.book(NOW).of(KEY)
        assert usual.baseline is not None
        assert (usual.baseline.level, usual.baseline.mature) == (level, True)
        assert (usual.baseline.windows, usual.baseline.count) == (len(starts), len(everything))
        everything.sort()
        assert usual.baseline.p50_seconds == pytest.approx(everything[len(everything) // 2 - 1], rel=0.0111)
        assert usual.baseline.p95_seconds == pytest.approx(everything[len(everything) * 95 // 100 - 1], rel=0.0111)
        assert usual.outlier_threshold_seconds == SETTINGS.outlier.threshold_seconds(usual.baseline)
        assert usual.thresholds is not None
        assert usual.last_seen == max(starts) + HOUR

    def test_too_little_of_everything_is_no_baseline(self, store: Store) -> None:
        bench = Bench(store)
        bench.write(NOON - DAY, {KEY: around(0.1, 19)})
        bench.historian.catch_up(NOW)
        usual = bench.book(NOW).of(KEY)
        assert (usual.baseline, usual.thresholds, usual.last_seen) == (None, None, NOON - DAY + HOUR)

    def test_enough_traces_of_one_day_are_a_baseline_but_no_verdict(self, store: Store) -> None:
        bench = Bench(store)
        for start in (NOON - DAY - 2 * HOUR, NOON - DAY, NOON - DAY + 2 * HOUR):
            bench.write(start, {KEY: around(0.1, 40)})
        bench.historian.catch_up(NOW)
        usual = bench.book(NOW).of(KEY)
        assert usual.baseline is not None
        assert not usual.baseline.mature
        assert usual.thresholds is None
        assert usual.outlier_threshold_seconds is not None

    def test_series_do_not_mix(self, store: Store) -> None:
        bench = Bench(store)
        for days in (1, 4, 5):
            bench.write(NOON - days * DAY, {KEY: around(0.1, 60), OTHER: around(2.0, 30)})
        bench.historian.catch_up(NOW)
        book = bench.book(NOW)
        assert [book.of(key).baseline is not None for key in (KEY, OTHER)] == [True, True]
        assert {key: usual.baseline.count for key, usual in book.series.items() if usual.baseline} == {
            KEY: 180,
            OTHER: 90,
        }


class TestBook:
    def test_there_is_one_without_any_history(self, store: Store) -> None:
        book = Bench(store).book(NOW)
        assert (book.start, book.series) == (NOON, {})

    def test_it_is_worked_out_once(self, store: Store) -> None:
        bench = Bench(store)
        assert bench.book(NOW) is bench.book(NOW + 1)

    def test_the_first_one_after_the_hour_turns_is_that_of_the_new_hour(self, store: Store) -> None:
        bench = Bench(store)
        for days in (1, 4, 5):
            bench.write(NOON - days * DAY, {KEY: around(0.1, 60)})
            bench.write(NOON + HOUR - days * DAY, {KEY: around(0.3, 60)})
        bench.historian.catch_up(NOW)
        last, first = NOON + HOUR - 0.001, float(NOON + HOUR)
        medians = [
            usual.baseline.p50_seconds for usual in (bench.book(now).of(KEY) for now in (last, first)) if usual.baseline
        ]
        assert medians == [pytest.approx(0.1, rel=0.02), pytest.approx(0.3, rel=0.02)]

    def test_the_one_that_was_prepared_needs_no_database(self, store: WatchedStore) -> None:
        bench = Bench(store)
        write_days(bench, 5)
        bench.historian.catch_up(NOW)
        bench.historian.prepare(NOON + HOUR - 301)
        store.refuses_reads = True
        assert bench.historian.book(NOON + HOUR).start == NOON
        store.refuses_reads = False
        bench.historian.prepare(NOON + HOUR - 300)
        store.refuses_reads = True
        bench.historian.prepare(NOON + HOUR - 200)
        assert bench.historian.book(NOON + HOUR - 1).start == NOON
        book = bench.historian.book(NOON + HOUR)
        assert book.start == NOON + HOUR
        assert book.of(KEY).baseline is not None

    def test_more_history_makes_a_prepared_one_void(self, store: Store) -> None:
        bench = Bench(store)
        write_days(bench, 2)
        bench.historian.prepare(NOON + HOUR - 100)
        bench.write(NOON - 3 * DAY, {OTHER: around(0.1, 60)})
        bench.historian.catch_up(NOON + HOUR - 90)
        assert OTHER in bench.book(NOON + HOUR).series

    def test_it_knows_the_hours_that_a_window_reaches_into(self, store: Store) -> None:
        bench = Bench(store)
        for days in (1, 4, 5):
            bench.write(NOON - days * DAY, {KEY: around(0.1, 60)})
            bench.write(NOON - HOUR - days * DAY, {KEY: around(0.3, 60)})
        bench.historian.catch_up(NOW)
        present, before = bench.book(NOW).schedule(KEY)
        assert (present.start, before.start) == (NOON, NOON - HOUR)
        assert before.thresholds.quantiles[0].baseline > present.thresholds.quantiles[0].baseline

    def test_of_earlier_hours_it_knows_what_was_expected_then_and_not_how_they_went(self, store: Store) -> None:
        bench = Bench(store)
        write_days(bench, 2, until=NOON - HOUR)
        # Not enough for an incident, but more of a swing than there was before.
        bench.write(NOON - HOUR, {KEY: around(0.13, 60)})
        bench.historian.catch_up(NOW)
        (stored,) = store.history([KEY], 0, NOON)
        assert stored.state is not None
        assert stored.judgements[NOON - HOUR].swings[0] > 10 * stored.judgements[NOON - 2 * HOUR].swings[0]
        assert not stored.judgements[NOON - HOUR].quarantined
        assert bench.book(NOW).schedule(KEY)[1] == decode_state(stored.state).schedule[0]

    def test_a_clock_that_was_set_back_gets_the_hour_that_it_shows(self, store: Store) -> None:
        bench = Bench(store)
        write_days(bench, 2)
        bench.historian.catch_up(NOW)
        earlier = NOW - 3 * HOUR
        assert bench.book(earlier).start == NOON - 3 * HOUR
        bench.historian.catch_up(earlier)
        assert bench.book(earlier).start == NOON - 3 * HOUR

    def test_one_that_is_finished_after_the_hour_has_turned_is_not_put_in_force(self, store: Store) -> None:
        bench = Bench(store)
        write_days(bench, 2)
        bench.historian.prepare(NOON + HOUR - 10)
        turned: list[BaselineTable] = []

        def when_asked() -> None:
            # Just then the poller asks for the book of the hour that has begun.
            turned.append(bench.historian.book(NOON + HOUR))

        bench.when_asked = when_asked
        bench.historian.catch_up(NOON + HOUR - 1)
        assert [book.start for book in turned] == [NOON + HOUR]
        assert bench.historian.book(NOON + HOUR) is turned[0]

    def test_it_is_kept_over_a_restart_which_need_not_work_it_out_again(self, store: WatchedStore) -> None:
        before = Bench(store)
        write_days(before, 7)
        before.historian.catch_up(NOW)
        book = before.book(NOW)
        store.refuses_reads = True
        assert Bench(store).book(NOW) == book
        assert book.of(KEY).thresholds is not None

    def test_one_that_was_made_with_other_settings_is_not_used(self, store: WatchedStore) -> None:
        before = Bench(store)
        write_days(before, 7)
        before.historian.catch_up(NOW)
        after = Bench(store, STRICTER).book(NOW)
        threshold = after.of(KEY).outlier_threshold_seconds
        assert threshold is not None
        assert threshold > (before.book(NOW).of(KEY).outlier_threshold_seconds or 0)

    def test_judging_leaves_the_one_that_is_worked_out_of_what_is_stored(self, store: WatchedStore) -> None:
        bench = Bench(store)
        for start in range(NOON - 20 * DAY, NOON - 16 * DAY, HOUR):
            bench.write(start, {OTHER: around(0.1, 60)})
        for start in range(NOON - 16 * DAY, NOON, HOUR):
            batch = (start - NOON) % DAY == 5 * HOUR
            slow = batch or NOON - 9 * HOUR <= start < NOON - 6 * HOUR
            bench.write(start, {KEY: around(0.5 if slow else 0.1, 60)})
        bench.historian.remember({}, {KEY: [NOON - 3 * DAY, NOON - HOUR]})
        for settled_until in (NOON - HOUR, NOON):
            bench.settled_until = settled_until
            bench.historian.catch_up(settled_until + 600.0)
            left = bench.book(settled_until + 600.0)
            # No book can be read from this, so the next to ask for one has it worked out.
            store.save_book(settled_until, b"")
            assert Bench(store).book(settled_until + 600.0) == left
            assert left.of(KEY).thresholds is not None
            assert left.before is not None
            assert left.before.of(KEY).thresholds is not None
            assert set(left.series) == {KEY}

    def test_one_that_was_made_while_the_past_was_not_judged_is_not_kept(self, store: WatchedStore) -> None:
        before = Bench(store, settled_until=NOON - 7 * DAY)
        write_days(before, 7)
        before.historian.catch_up(NOW)
        assert store.book(NOON) is None


STRICTER = replace(SETTINGS, outlier=replace(SETTINGS.outlier, factor=3.0, k=100.0))


class TestWaiting:
    """What the poller gets while the book of the hour is not there."""

    def test_at_the_start_nothing_is_known_yet_and_that_is_said_once(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        bench = Bench(store)
        write_days(bench, 2)
        for late in range(3):
            assert bench.historian.book(NOW + 15 * late) is NOT_KNOWN_YET
        assert events(caplog) == ["baseline_pending"]
        caplog.clear()
        book = bench.book(NOW + 45)
        assert (book.known, book.start, book.of(KEY).baseline is not None) == (True, NOON, True)
        (said,) = caplog.records
        assert event_of(said) == "baseline_ready"
        assert said.exporter_fields == {"seconds": 0.0}  # type: ignore[attr-defined]

    def test_where_it_comes_in_time_there_is_nothing_to_say(
        self, store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caplog.set_level(logging.INFO)
        bench = Bench(store, patience_seconds=60.0)
        write_days(bench, 2)
        waits, stop = threading.Event(), threading.Event()
        history, wait_for = store.history, threading.Condition.wait_for

        def held_back(*args: object, **options: object) -> Iterator[StoredSeries]:
            assert waits.wait(60)
            return history(*args, **options)  # type: ignore[arg-type]

        def noticed(self: threading.Condition, predicate: Callable[[], bool], timeout: float) -> bool:
            waits.set()
            return wait_for(self, predicate, timeout)

        store.history = held_back  # type: ignore[method-assign]
        monkeypatch.setattr(threading.Condition, "wait_for", noticed)
        working = threading.Thread(target=bench.historian.run, args=(stop, Clock(NOW)))
        working.start()
        assert bench.historian.book(NOW).of(KEY).baseline is not None
        stop.set()
        working.join(60)
        assert events(caplog) == []

    def test_it_is_waited_for_but_once_an_hour(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        bench = Bench(store, patience_seconds=2.0)
        waited: list[float] = []

        def wait_for(self: threading.Condition, predicate: Callable[[], bool], timeout: float) -> bool:
            waited.append(timeout)
            bench.monotonic.now += 1.5
            return predicate()

        monkeypatch.setattr(threading.Condition, "wait_for", wait_for)
        for now in (NOW, NOW, NOW + 15, NOW + HOUR):
            bench.historian.book(now)
        assert waited == [2.0, 0.5, 0.0, 2.0]

    def test_once_the_historian_has_ended_nobody_waits(self, store: WatchedStore) -> None:
        bench = Bench(store, patience_seconds=3600.0)
        store.refuses_reads = True
        bench.historian.run(Looks(bench.monotonic, 0), Clock(NOW))
        assert bench.historian.book(NOW) is NOT_KNOWN_YET
        assert not bench.historian.wait_for_book(3600.0)

    def test_whoever_went_without_is_told_when_it_comes(self, store: Store) -> None:
        bench = Bench(store)
        assert not bench.historian.wait_for_book(3600.0)
        bench.historian.book(NOW)
        assert not bench.historian.wait_for_book(0.0)
        bench.historian.open_book(NOW)
        assert bench.historian.wait_for_book(0.0)
        bench.historian.book(NOW)
        assert not bench.historian.wait_for_book(3600.0)

    def test_after_a_jump_of_the_clock_the_one_of_the_other_hour_stays_in_force(self, store: Store) -> None:
        bench = Bench(store)
        write_days(bench, 5)
        bench.historian.catch_up(NOW)
        book = bench.historian.book(NOW)
        later = NOW + 5 * HOUR
        assert bench.historian.book(later) is book
        bench.historian.open_book(later)
        assert bench.historian.wait_for_book(0.0)
        assert bench.historian.book(later).start == NOON + 5 * HOUR

    def test_the_size_of_the_history_is_known_before(self, store: WatchedStore) -> None:
        bench = Bench(store)
        write_days(bench, 2)
        store.refuses_reads = True
        with pytest.raises(StoreError):
            bench.historian.open_book(NOW)
        assert bench.facts().windows == 48
        # After a restart even before anything is asked.
        assert Bench(store).facts().windows == 48

    def test_given_up_it_leaves_everything_as_it_was(self, store: Store) -> None:
        bench = Bench(store)
        write_days(bench, 2)
        bench.historian.open_book(NOW, give_up=lambda: True)
        assert bench.historian.book(NOW) is NOT_KNOWN_YET
        bench.historian.run(Looks(bench.monotonic, 1), Clock(NOW))
        assert bench.historian.book(NOW).known
        assert store.judged_until() == NOON


class TestJudging:
    def test_an_incident_is_quarantined_and_counted(self, store: Store) -> None:
        bench = Bench(store)
        write_days(bench, 8, until=NOON - 5 * HOUR)
        for start in range(NOON - 5 * HOUR, NOON - 2 * HOUR, HOUR):
            bench.write(start, {KEY: around(0.5, 60)})
        bench.historian.catch_up(NOW)
        facts = bench.facts()
        assert facts.quarantined_windows == 3
        assert (facts.windows, facts.traces) == (8 * 24 + 3, (8 * 24 + 3) * 60)
        assert facts.oldest_trace_at == NOON - 5 * HOUR - 8 * DAY
        assert facts.storage_bytes is not None
        assert facts.storage_bytes > 0

    def test_no_hour_is_judged_before_the_ledger_has_no_gap_up_to_its_end(self, store: WatchedStore) -> None:
        bench = Bench(store, settled_until=NOON - 4 * HOUR)
        write_days(bench, 8)
        bench.historian.catch_up(NOW)
        (found,) = store.take_recorded()
        assert max(found.judgements) == NOON - 5 * HOUR
        assert store.judged_until() == NOON - 4 * HOUR

    def test_hours_of_short_windows_are_judged_whole(self, store: Store) -> None:
        quarter = HOUR // 4
        as_they_settle, at_once = Bench(store), Bench(WatchedStore.in_memory())
        for start in range(NOON - 4 * DAY, NOON, quarter):
            durations = {KEY: around(0.1 + start // quarter % 7 / 100, 15)}
            for bench in (as_they_settle, at_once):
                commit_hour(bench.store, start, durations, length=quarter)
            as_they_settle.settled_until = start + quarter
            as_they_settle.historian.catch_up(start + quarter + 900)
        at_once.historian.catch_up(NOW)
        (found,) = as_they_settle.store.history([KEY], 0, NOON)
        (expected,) = at_once.store.history([KEY], 0, NOON)
        assert found == expected
        at_once.store.close()

    def test_while_that_is_behind_there_is_no_verdict(self, store: Store) -> None:
        bench = Bench(store, settled_until=NOON - 3 * HOUR - 1)
        write_days(bench, 8)
        bench.historian.catch_up(NOW)
        book = bench.book(NOW)
        usual = book.of(KEY)
        assert usual.baseline is not None
        assert usual.baseline.mature
        assert usual.thresholds is None
        assert not book.judged
        bench.settled_until = NOON - 3 * HOUR
        bench.historian.catch_up(NOW)
        assert bench.book(NOW).of(KEY).thresholds is not None
        assert bench.book(NOW).judged

    def test_what_was_judged_is_not_judged_again(self, store: WatchedStore) -> None:
        bench = Bench(store)
        write_days(bench, 8)
        bench.historian.catch_up(NOW)
        assert store.take_recorded() != []
        bench.historian.catch_up(NOW)
        assert store.take_recorded() == []
        bench.settled_until = NOON + HOUR
        bench.write(NOON, {KEY: around(0.1, 60)})
        bench.historian.catch_up(NOW + HOUR)
        (found,) = store.take_recorded()
        assert list(found.judgements) == [NOON]

    def test_another_process_goes_on_where_it_stopped(self, store: WatchedStore) -> None:
        bench = Bench(store)
        write_days(bench, 8)
        bench.historian.catch_up(NOW)
        store.take_recorded()
        again = Bench(store)
        again.historian.catch_up(NOW)
        assert store.take_recorded() == []
        assert again.book(NOW).of(KEY) == bench.book(NOW).of(KEY)
        assert again.facts() == bench.facts()

    def test_it_stops_between_series_when_it_is_told_to(self, store: WatchedStore) -> None:
        bench = Bench(store)
        for start in range(NOON - 5 * DAY, NOON, HOUR):
            bench.write(start, {KEY: around(0.1, 60), OTHER: around(0.1, 60)})
        asked = iter([False, True, True, True])
        bench.historian.catch_up(NOW, give_up=lambda: next(asked))
        assert len(store.take_recorded()) == 1
        assert store.judged_until() is None
        bench.historian.catch_up(NOW)
        assert len(store.take_recorded()) == 1
        assert store.judged_until() == NOON

    def test_a_window_that_was_read_late_makes_it_judge_anew_with_the_same_result(
        self, store: WatchedStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        hours = hours_with_an_incident()
        late = NOON - 4 * DAY
        bench = Bench(store)
        for start, durations in hours.items():
            if start != late:
                bench.write(start, durations)
        bench.historian.catch_up(NOW)
        bench.write(late, hours[late])
        bench.historian.catch_up(NOW)
        assert events(caplog) == ["history_reevaluated"]

        in_order = Bench(WatchedStore.in_memory())
        for start, durations in hours.items():
            in_order.write(start, durations)
        in_order.historian.catch_up(NOW)

        def stored(bench: Bench) -> list[StoredSeries]:
            return list(bench.store.history([KEY], 0, NOON))

        assert stored(bench) == stored(in_order)
        # The hour after the incident counts as well: the flag was still up when it began.
        assert bench.facts().quarantined_windows == in_order.facts().quarantined_windows == 4
        in_order.store.close()

    def test_one_that_is_written_while_it_judges_is_not_overlooked(self, store: Store) -> None:
        bench = Bench(store)
        late = NOON - 2 * HOUR
        for start in range(NOON - 5 * DAY, NOON, HOUR):
            if start != late:
                bench.write(start, {KEY: around(0.1, 60)})

        def write_meanwhile() -> bool:
            bench.write(late, {KEY: around(0.1, 60)})
            return False

        bench.historian.catch_up(NOW, give_up=write_meanwhile)
        bench.historian.catch_up(NOW)
        (stored,) = store.history([KEY], 0, NOON)
        assert late in stored.judgements

    def test_one_that_was_read_again_with_the_same_traces_changes_nothing(self, store: WatchedStore) -> None:
        bench = Bench(store)
        write_days(bench, 3)
        bench.historian.catch_up(NOW)
        store.take_recorded()
        bench.write(NOON - 9 * HOUR, {KEY: around(0.1, 60)})
        bench.historian.catch_up(NOW)
        assert store.take_recorded() == []
        bench.write(NOON - 9 * HOUR, {KEY: around(0.1, 61)})
        bench.historian.catch_up(NOW)
        assert store.take_recorded() != []

    @pytest.mark.parametrize("stopped_while_it_judges", [False, True])
    def test_that_one_was_read_late_is_known_after_a_restart(
        self, store: Store, stopped_while_it_judges: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        late = NOON - 2 * HOUR
        bench = Bench(store)
        for start in range(NOON - 5 * DAY, NOON, HOUR):
            if start != late:
                bench.write(start, {KEY: around(0.1, 60), OTHER: around(0.1, 60)})
        if stopped_while_it_judges:
            # One of the series is judged by then.
            asked = iter([False, True])
            bench.historian.catch_up(NOW, give_up=lambda: next(asked, True))
            assert store.judged_until() is None
        else:
            bench.historian.catch_up(NOW)
        bench.write(late, {KEY: around(0.1, 60)})
        Bench(store).historian.catch_up(NOW)
        (stored,) = store.history([KEY], 0, NOON)
        assert late in stored.judgements
        assert events(caplog) == ["history_reevaluated"]

    def test_judging_anew_waits_until_the_gap_is_filled(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        bench = Bench(store)
        write_days(bench, 3)
        bench.historian.catch_up(NOW)
        bench.settled_until = NOON - 10 * DAY
        bench.write(NOON - 5 * DAY, {KEY: around(0.1, 60)})
        bench.historian.catch_up(NOW)
        assert events(caplog) == []
        bench.settled_until = NOON
        bench.historian.catch_up(NOW)
        assert len(events(caplog)) == 1

    def test_an_empty_window_that_was_read_late_changes_nothing(self, store: WatchedStore) -> None:
        bench = Bench(store)
        write_days(bench, 3)
        bench.historian.catch_up(NOW)
        store.take_recorded()
        bench.write(NOON - 5 * DAY, {})
        bench.historian.catch_up(NOW)
        assert store.take_recorded() == []

    def test_in_a_time_zone_whose_hours_begin_at_other_minutes_it_judges_anew(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        hours = hours_with_an_incident()
        moved = Calendar(ZoneInfo("Asia/Kolkata"))
        in_utc, never_judged = Bench(store), Bench(WatchedStore.in_memory(), calendar=moved)
        for start, durations in hours.items():
            in_utc.write(start, durations)
            never_judged.write(start, durations)
        in_utc.historian.catch_up(NOW)
        assert events(caplog) == []
        bench = Bench(store, calendar=moved)
        later = NOW + HOUR / 2
        for each in (bench, never_judged):
            each.historian.catch_up(later)
        assert events(caplog) == ["history_reevaluated"]
        assert list(store.history([KEY], 0, NOON)) == list(never_judged.store.history([KEY], 0, NOON))
        assert bench.facts().quarantined_windows == never_judged.facts().quarantined_windows > 0
        assert bench.book(later).of(KEY) == never_judged.book(later).of(KEY)
        # The next start finds nothing amiss.
        Bench(store, calendar=moved).historian.catch_up(later)
        assert len(events(caplog)) == 1
        never_judged.store.close()

    def test_a_change_that_lasts_becomes_the_new_normal(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        bench = Bench(store)
        changed = NOON - 26 * HOUR
        write_days(bench, 9, until=changed)
        accepted_after: list[int] = []
        for start in range(changed, NOON, HOUR):
            bench.write(start, {KEY: around(0.3, 60)})
            bench.settled_until = start + HOUR
            bench.historian.catch_up(start + HOUR + 1000)
            accepted_after.append(bench.accepted)
        hours = accepted_after.index(1)
        assert 23 <= hours <= 25
        assert accepted_after == [0] * hours + [1] * (26 - hours)
        usual = bench.book(NOON + 1000).of(KEY)
        assert usual.changepoint == changed
        assert usual.baseline is not None
        assert usual.baseline.p50_seconds == pytest.approx(0.3, rel=0.02)
        assert usual.thresholds is not None
        assert bench.facts().quarantined_windows == 0
        told = [record for record in caplog.records if event_of(record) == "change_accepted"]
        assert [record.exporter_fields["span_name"] for record in told] == [KEY.span_name]  # type: ignore[attr-defined]


class TestTrouble:
    def test_damaged_bytes_of_one_series_do_not_lose_the_others(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "history.db"
        store = Store.open(path)
        for start in range(NOON - 5 * DAY, NOON, HOUR):
            commit_hour(store, start, {KEY: around(0.1, 60), OTHER: around(0.2, 60)})
        store.close()
        connection = sqlite3.connect(path)
        connection.execute(
            "UPDATE digests SET digest = x'ff' WHERE series_id = (SELECT id FROM series WHERE span_name = ?)",
            (KEY.span_name,),
        )
        connection.commit()
        connection.close()

        bench = Bench(Store.open(path))
        bench.historian.catch_up(NOW)
        bench.historian.catch_up(NOW)
        book = bench.book(NOW)
        assert book.of(KEY).baseline is None
        assert book.of(OTHER).baseline is not None
        assert book.of(OTHER).thresholds is not None
        assert bench.store.judged_until() == NOON
        assert sorted(events(caplog, logging.ERROR)) == [
            "baseline_damaged",
            "series_damaged",
        ]
        bench.store.close()

    def test_what_cannot_be_read_leaves_the_book_in_force(
        self, store: WatchedStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        bench = Bench(store)
        write_days(bench, 5)
        bench.historian.catch_up(NOW)
        book = bench.historian.book(NOW)
        store.refuses_reads = True
        bench.write(NOON - 6 * DAY, {KEY: around(0.1, 60)})
        with pytest.raises(StoreError):
            bench.historian.catch_up(NOW)
        with pytest.raises(StoreError):
            bench.historian.open_book(NOW + HOUR)
        assert bench.historian.book(NOW) is book
        assert bench.historian.book(NOW + HOUR) is book
        assert bench.historian.book(NOW + HOUR + 15) is book
        assert events(caplog)[1:] == ["baseline_pending"]
        store.refuses_reads = False
        assert bench.book(NOW + HOUR + 30).start == NOON + HOUR

    def test_judging_that_cannot_be_recorded_is_done_again(self, store: WatchedStore) -> None:
        bench = Bench(store)
        changed = NOON - 26 * HOUR
        write_days(bench, 9, until=changed)
        write_days(bench, 1, median=0.3, until=changed + DAY)
        bench.write(NOON - 2 * HOUR, {KEY: around(0.3, 60)})
        bench.write(NOON - HOUR, {KEY: around(0.3, 60)})
        store.refuses_writes = True
        with pytest.raises(StoreError):
            bench.historian.catch_up(NOW)
        assert bench.accepted == 0
        store.refuses_writes = False
        bench.historian.catch_up(NOW)
        assert bench.accepted == 1


class TestFlags:
    def test_they_survive_a_restart(self, store: Store) -> None:
        flags = {KEY: Flag(firing=True, since=NOW - 0.5, keep_firing_since=NOW), OTHER: Flag(pending_since=NOW)}
        Bench(store).historian.remember(flags, {})
        assert Bench(store).historian.flags() == flags

    def test_one_that_is_down_is_forgotten(self, store: Store) -> None:
        historian = Bench(store).historian
        historian.remember({KEY: Flag(firing=True, since=NOW)}, {})
        historian.remember({KEY: INACTIVE}, {})
        assert historian.flags() == {}

    def test_one_that_cannot_be_read_is_down(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        store.remember({KEY: "[1, 2, 3, 4]", OTHER: "[true, 1.5, null, null]"}, {})
        assert Bench(store).historian.flags() == {OTHER: Flag(firing=True, since=1.5)}
        assert events(caplog) == ["flag_unreadable"]

    def test_hours_that_a_flag_has_touched_are_kept_out_of_the_baseline(self, store: Store) -> None:
        bench = Bench(store)
        write_days(bench, 8)
        bench.historian.catch_up(NOW)
        before = bench.book(NOW).of(KEY).baseline
        bench.historian.remember({}, {KEY: (NOON - DAY,)})
        bench.historian.catch_up(NOW)
        after = bench.book(NOW).of(KEY).baseline
        assert before is not None
        assert after is not None
        assert after.windows == before.windows - 1

    def test_if_the_database_refuses_that_is_said_once(
        self, store: WatchedStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        store.refuses_writes = True
        historian = Bench(store).historian
        for since in range(3):
            historian.remember({KEY: Flag(firing=True, since=since)}, {})
        historian.remember({}, {})
        assert events(caplog) == ["flags_not_saved"]


class Looks(threading.Event):
    """Stops the historian's loop after so many looks; waiting moves the monotonic clock."""

    def __init__(self, monotonic: Clock, looks: int, meanwhile: Callable[[int], None] = lambda look: None) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._looks = looks
        self._meanwhile = meanwhile
        self.look = 0

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self._monotonic.now += timeout
        if self.look == self._looks:
            return True
        self.look += 1
        self._meanwhile(self.look)
        return False


class TestRun:
    def test_the_book_of_the_hour_comes_before_the_judging(self, store: WatchedStore) -> None:
        bench = Bench(store)
        write_days(bench, 2)
        seen: list[tuple[bool, bool]] = []
        looks = Looks(
            bench.monotonic, 2, lambda look: seen.append((bench.historian.book(NOW).known, bool(store.take_recorded())))
        )
        bench.historian.run(looks, Clock(NOW))
        assert seen == [(True, False), (True, True)]

    def test_and_so_does_that_of_an_hour_that_begins_meanwhile(self, store: Store) -> None:
        bench = Bench(store)
        clock = Clock(NOON + HOUR - 400)
        write_days(bench, 2)
        bench.book(clock.now)
        seen: list[tuple[int, int | None]] = []

        def when_asked() -> None:
            clock.now = NOON + HOUR + 1.0

        bench.when_asked = when_asked
        looks = Looks(
            bench.monotonic, 3, lambda look: seen.append((bench.historian.book(clock.now).start, store.judged_until()))
        )
        bench.historian.run(looks, clock)
        assert seen == [(NOON, None), (NOON + HOUR, None), (NOON + HOUR, NOON)]

    @pytest.mark.parametrize(("more", "read"), [(False, 1), (True, 2)])
    def test_what_was_just_worked_out_is_worked_out_again_only_if_there_is_more(
        self, store: WatchedStore, more: bool, read: int
    ) -> None:
        before = Bench(store)
        write_days(before, 2)
        before.historian.catch_up(NOW)
        bench = Bench(store, STRICTER)
        history, reads = store.history, []

        def counted(*args: object, **options: object) -> Iterator[StoredSeries]:
            reads.append(1)
            if more and len(reads) == 1:
                bench.historian.windows_written()
            return history(*args, **options)  # type: ignore[arg-type]

        store.history = counted  # type: ignore[method-assign]
        bench.historian.run(Looks(bench.monotonic, 10), Clock(NOW))
        assert len(reads) == read
        # It is kept all the same.
        store.refuses_reads = True
        assert Bench(store, STRICTER).book(NOW) == bench.historian.book(NOW)

    def test_news_are_looked_at_soon_and_only_once(self, store: WatchedStore) -> None:
        bench = Bench(store)
        write_days(bench, 2)
        recorded: list[int] = []
        looks = Looks(bench.monotonic, 5, lambda look: recorded.append(len(store.take_recorded())))
        bench.historian.run(looks, Clock(NOW))
        assert recorded == [0, 1, 0, 0, 0]

    def test_hours_that_settle_without_a_word_are_judged_as_well(self, store: Store) -> None:
        bench = Bench(store, settled_until=NOON - 5 * HOUR)
        write_days(bench, 2)
        until: list[int | None] = []

        def meanwhile(look: int) -> None:
            until.append(store.judged_until())
            if look == 3:
                bench.settled_until = NOON

        bench.historian.run(Looks(bench.monotonic, 30, meanwhile), Clock(NOW))
        assert (until[2], until[-1]) == (NOON - 5 * HOUR, NOON)
        assert bench.historian.book(NOW).of(KEY).thresholds is not None

    @pytest.mark.parametrize(("has_book", "failed"), [(True, [0.0]), (False, [0.0, 10.0, 20.0, 30.0])])
    def test_after_a_failure_it_waits_and_tries_again(
        self, store: WatchedStore, caplog: pytest.LogCaptureFixture, has_book: bool, failed: list[float]
    ) -> None:
        bench = Bench(store)
        if has_book:
            bench.book(NOW)
        write_days(bench, 2)
        tried: list[float] = []
        answers = store.history

        def history(*args: object, **options: object) -> Iterator[StoredSeries]:
            tried.append(bench.monotonic.now)
            raise StoreError("locked", "reading the history failed")

        store.history = history  # type: ignore[method-assign]

        def meanwhile(look: int) -> None:
            if look == 20:
                store.history = answers  # type: ignore[method-assign]

        bench.historian.run(Looks(bench.monotonic, 100, meanwhile), Clock(NOW))
        assert tried == failed
        assert store.judged_until() == NOON
        assert events(caplog, logging.ERROR) == ["baseline_failed"]

    def test_a_defect_is_logged_and_does_not_end_it(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        bench = Bench(store)
        errors = iter([ZeroDivisionError()])

        def when_asked() -> None:
            for error in errors:
                raise error

        bench.when_asked = when_asked
        write_days(bench, 2)
        bench.historian.run(Looks(bench.monotonic, 40), Clock(NOW))
        assert events(caplog, logging.ERROR) == ["baseline_crashed"]
        assert store.judged_until() == NOON

    def test_while_much_comes_in_it_rests_between_renewals(self, store: Store) -> None:
        bench = Bench(store)
        bench.book(NOW)
        renewed: list[float] = []

        def when_asked() -> None:
            renewed.append(bench.monotonic.now)
            bench.monotonic.now += 10

        bench.when_asked = when_asked
        looks = Looks(bench.monotonic, 100, lambda look: bench.historian.windows_written())
        bench.historian.run(looks, Clock(NOW))
        assert renewed == [0.0, 100.0, 200.0]

    def test_one_that_was_kept_is_renewed(self, store: Store) -> None:
        bench = Bench(store)
        write_days(bench, 8)
        bench.historian.catch_up(NOW)
        stale = bench.book(NOW).of(KEY)
        bench.historian.remember({}, {KEY: (NOON - DAY,)})
        bench.historian.catch_up(NOW + HOUR)
        # The clock is set back: what was kept of the hour knows nothing of what was found since.
        clock = Clock(NOW)
        looks = Looks(bench.monotonic, 2)
        bench.historian.run(looks, clock)
        renewed = bench.historian.book(NOW)
        assert renewed.start == NOON
        assert renewed.of(KEY).baseline != stale.baseline

    def test_the_next_hour_is_prepared_even_while_it_rests(self, store: WatchedStore) -> None:
        bench = Bench(store)
        clock = Clock(NOON + HOUR - 600)

        def when_asked() -> None:
            bench.monotonic.now += 30

        bench.when_asked = when_asked
        write_days(bench, 2)

        def meanwhile(look: int) -> None:
            bench.historian.windows_written()
            clock.now = NOON + HOUR - 600 + 4 * look

        bench.historian.run(Looks(bench.monotonic, 100, meanwhile), clock)
        assert bench.historian.book(NOON + HOUR).of(KEY).last_seen == NOON
