"""The stored history: atomic and idempotent writes, and errors that say what to do."""

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlite_utils import Database

from exporter.detection.flag import FlagKind, FlagPeriod
from exporter.model.accumulator import Accumulator, WindowContent
from exporter.model.histogram import Digest
from exporter.model.histogram_codec import decode_counts, decode_digest, decode_marks, encode_failures
from exporter.model.hour_evaluation import EncodedEvaluation, HourEvaluation, ShiftPeriod
from exporter.model.ledger import LedgerEntry, Window, WindowState
from exporter.model.series_hour import MAX_RUN_TRACES
from exporter.model.span import SeriesKey
from exporter.runtime.telemetry import StorageFailure
from exporter.store import (
    Connection,
    DatabaseInUseError,
    DatabaseTooNewError,
    DatabaseTooOldError,
    SeriesEvaluation,
    Store,
    StoredIncident,
    StoredSeries,
    StoreError,
    schema,
)
from tests.support.fakes import NS, span
from tests.support.ledgers import DAY, HOUR, NOON, entry
from tests.support.older_database import make_older
from tests.support.paths import REPOSITORY

CART = SeriesKey("shop", "GET /cart")
LOGIN = SeriesKey("auth", "login")
ANOMALOUS = HourEvaluation(True, (5, 12, 0, 0, 2**20, 288, *[7] * 18), bytes([128, 0, 255]))
NORMAL = HourEvaluation()


def window(ago: int) -> Window:
    return Window(NOON - ago * HOUR, NOON - ago * HOUR + HOUR)


def content(window_: Window, durations: Mapping[SeriesKey, Sequence[float]]) -> WindowContent:
    accumulator = Accumulator([window_], lambda key: key)
    for key, seconds in durations.items():
        accumulator.add(span(window_.start, each, key) for each in seconds)
    (history,) = accumulator.finish()
    return history


def put(store: Store, window_: Window, durations: Mapping[SeriesKey, Sequence[float]]) -> LedgerEntry:
    history = content(window_, durations)
    state = WindowState.DONE if history.traces else WindowState.EMPTY
    line = entry(*window_, state, traces=history.traces, coverage=1.0)
    store.commit([line], [history])
    return line


def history_by_key(store: Store) -> dict[SeriesKey, StoredSeries]:
    return {history.key: history for history in store.history(store.series(), 0, NOON + 9 * DAY, marks_from=0)}


def digests(store: Store) -> dict[tuple[SeriesKey, int], Digest]:
    return {
        (key, stored.start): decode_digest(stored.digest)
        for key, history in history_by_key(store).items()
        for stored in history.windows
    }


@pytest.fixture
def store() -> Iterator[Store]:
    with closing(Store.in_memory()) as opened:
        yield opened


# Ledger and windows


def test_windows_and_digests_round_trip(tmp_path: Path) -> None:
    line = LedgerEntry(
        window(1),
        WindowState.PARTIAL,
        read_at=NOON + 0.25,
        traces=7,
        stored=5,
        coverage=0.5,
        requests=3.5,
        splits=2,
        duration_seconds=1.25,
    )
    failed_entry = LedgerEntry(
        window(2), WindowState.FAILED, read_at=NOON, attempts=3, retry_at=NOON + 120.0, error="no connection"
    )
    with closing(Store.open(tmp_path / "history.db")) as store:
        store.commit([line, failed_entry], [content(window(1), {CART: [0.1, 0.2, 0.3], LOGIN: [0.0, 400.0]})])
    with closing(Store.open(tmp_path / "history.db")) as store:
        assert store.ledger(0, NOON + DAY) == [failed_entry, line]
        history = history_by_key(store)
        assert history.keys() == {CART, LOGIN}
        (stored,) = history[LOGIN].windows
        assert (stored.start, stored.traces) == (window(1).start, 2)
        assert decode_digest(stored.digest) == Digest.of_ns([0, 400 * NS])
        stored_marks = decode_marks(stored.marks, decode_counts(stored.digest))
        marks = {offset: Digest(Counter(samples)) for offset, samples in stored_marks.items()}
        assert marks == {0: Digest.of_ns([0]), 2: Digest.of_ns([400 * NS])}


def test_late_spans_are_recorded_without_touching_the_digests(store: Store) -> None:
    put(store, window(1), {CART: [0.1, 0.2]})
    line = put(store, window(2), {CART: [0.1]})
    store.begin_evaluation(window(1).end)
    before = digests(store)
    late = replace(line, coverage=0.5, late_check_at=NOON + 0.5, late_spans=1)
    gone = replace(line, window=Window(window(3).start, window(3).end), late_spans=7)
    store.update_late([late, replace(late, window=window(1), coverage=None, late_spans=None), gone])
    assert [(each.coverage, each.late_check_at, each.late_spans) for each in store.ledger(0, NOON)] == [
        (0.5, NOON + 0.5, 1),
        (None, NOON + 0.5, None),
    ]
    assert store.ledger(0, NOON)[0] == late
    assert digests(store) == before
    assert not store.has_outdated_evaluations()


def test_ledger_returns_entries_that_overlap_the_range(store: Store) -> None:
    for ago in (1, 2, 3, 4):
        put(store, window(ago), {})
    inside = store.ledger(window(3).start + 1, window(2).end)
    assert [line.window for line in inside] == [window(3), window(2)]
    assert [line.window for line in store.ledger(window(3).end, window(2).end)] == [window(2)]
    assert store.ledger(NOON, NOON + DAY) == []


def test_committing_a_window_twice_changes_nothing(store: Store) -> None:
    line = put(store, window(1), {CART: [0.1, 0.2]})
    before = digests(store), store.totals()
    assert put(store, window(1), {CART: [0.1, 0.2]}) == line
    assert (digests(store), store.totals()) == before
    assert store.ledger(0, NOON) == [line]


def test_commit_replaces_an_earlier_read_of_the_window(store: Store) -> None:
    put(store, window(1), {CART: [0.1, 0.2], LOGIN: [1.0]})
    put(store, window(1), {CART: [0.4]})
    assert digests(store) == {(CART, window(1).start): Digest.of_ns([int(0.4 * NS)])}
    assert store.totals().traces == 1


def test_commit_replaces_overlapping_windows(store: Store) -> None:
    put(store, window(2), {CART: [0.1]})
    put(store, window(1), {CART: [0.2]})
    half = Window(window(1).start, window(1).start + HOUR // 2)
    put(store, half, {CART: [0.3, 0.3]})
    assert [line.window for line in store.ledger(0, NOON)] == [window(2), half]
    assert digests(store) == {
        (CART, window(2).start): Digest.of_ns([int(0.1 * NS)]),
        (CART, half.start): Digest.of_ns([int(0.3 * NS)] * 2),
    }


@given(st.lists(st.tuples(st.integers(0, 11), st.sampled_from([1, 2, 3, 4]), st.integers(0, 3)), max_size=15))
def test_any_commits_leave_the_last_windows_only(writes: list[tuple[int, int, int]]) -> None:
    """Compare with a dictionary as the model; windows are one to four quarters of an hour long."""
    expected: dict[Window, int] = {}
    with closing(Store.in_memory()) as store:
        for quarter, length, spans in writes:
            written = Window(NOON + quarter * 900, NOON + (quarter + length) * 900)
            put(store, written, {CART: [0.5] * spans} if spans else {})
            overlapping = [other for other in expected if other.start < written.end and written.start < other.end]
            for other in overlapping:
                del expected[other]
            expected[written] = spans
        assert {line.window: line.traces for line in store.ledger(0, NOON + DAY)} == expected
        assert {start: digest.count for (_, start), digest in digests(store).items()} == {
            history.start: spans for history, spans in expected.items() if spans
        }
        totals = store.totals()
        assert (totals.windows, totals.traces) == (len(expected), sum(expected.values()))


def test_totals_count_windows_that_were_read(store: Store) -> None:
    assert store.totals() == (0, 0, None, 0)
    put(store, window(3), {})
    put(store, window(2), {CART: [0.1, 0.2]})
    put(store, window(1), {CART: [0.1]})
    store.commit([entry(*window(4), WindowState.EXPIRED), entry(*window(5), WindowState.FAILED)])
    store.save_evaluations([SeriesEvaluation(CART, {window(2).start: ANOMALOUS, window(1).start: NORMAL}, b"")])
    totals = store.totals()
    assert (totals.windows, totals.traces, totals.oldest_window_start) == (3, 3, window(2).start)
    assert totals.quarantined == 1


# Transactions


def test_failed_commit_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    failures: list[StorageFailure] = []
    with closing(Store.open(path, on_failure=failures.append)) as store:
        line = put(store, window(1), {CART: [0.1]})
        with closing(sqlite3.connect(path)) as other:
            # Fails for one of several series, after others were written.
            other.execute(
                "CREATE TRIGGER refuse BEFORE INSERT ON digests WHEN NEW.traces = 2"
                " BEGIN SELECT RAISE(ABORT, 'refused by the test'); END"
            )
        with pytest.raises(StoreError, match="recording windows failed: refused by the test") as failed:
            put(store, window(1), {LOGIN: [0.1], CART: [0.1, 0.2]})
        assert failed.value.reason == "other"
        assert failures == ["other"]
        assert store.ledger(0, NOON) == [line]
        assert digests(store) == {(CART, window(1).start): Digest.of_ns([int(0.1 * NS)])}
        assert store.series() == [CART]
        # The series whose insert was rolled back can be inserted again.
        put(store, window(2), {LOGIN: [0.1]})
        assert store.series() == [CART, LOGIN]
    with closing(Store.open(path)) as store:
        assert store.series() == [CART, LOGIN]
        assert len(digests(store)) == 2


def test_exception_during_a_write_rolls_it_back(store: Store) -> None:
    put(store, window(1), {CART: [0.1]})

    def results() -> Iterator[SeriesEvaluation]:
        yield SeriesEvaluation(LOGIN, {window(1).start: ANOMALOUS}, b"state")
        yield SeriesEvaluation(CART, {window(1).start: ANOMALOUS}, b"state")
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        store.save_evaluations(results())
    assert store.series() == [CART]
    assert history_by_key(store)[CART].evaluations == {}
    assert history_by_key(store)[CART].state is None


def test_killed_process_leaves_earlier_writes_only(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED_WHILE_WRITING, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=REPOSITORY,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with closing(Store.open(path)) as store:
        assert [line.window for line in store.ledger(0, NOON + DAY)] == [window(1)]
        assert digests(store) == {(CART, window(1).start): Digest.of_ns([int(0.1 * NS)])}
        assert store.series() == [CART]
        assert store.evaluated_until() is None


_KILLED_WHILE_WRITING = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    from exporter.store import SeriesEvaluation, Store
    from tests.unit.store.test_store import ANOMALOUS, CART, LOGIN, put, window

    store = Store.open(Path(sys.argv[1]))
    put(store, window(1), {CART: [0.1]})

    def results():
        yield SeriesEvaluation(LOGIN, {window(1).start: ANOMALOUS}, b"state")
        yield SeriesEvaluation(CART, {window(1).start: ANOMALOUS}, b"state")
        os.kill(os.getpid(), signal.SIGKILL)

    store.save_evaluations(results())
    """
)


def test_concurrent_reads_and_writes_are_consistent(tmp_path: Path) -> None:
    keys = [SeriesKey("shop", str(number)) for number in range(20)]
    failures: list[Exception] = []
    with closing(Store.open(tmp_path / "history.db")) as store:

        def write(first: int) -> None:
            try:
                for ago in range(first, 40, 4):
                    put(store, window(ago), {key: [0.1] * 3 for key in keys})
                    for history in store.history(keys, 0, NOON, at_once=3):
                        assert all(stored.traces == 3 for stored in history.windows)
            except Exception as error:  # noqa: BLE001
                failures.append(error)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert sorted(store.series()) == sorted(keys)
        assert store.totals()[:2] == (40, 40 * 20 * 3)


# Locking

_OPEN = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from exporter.store import DatabaseInUseError, Store

    try:
        Store.open(Path(sys.argv[1]))
    except DatabaseInUseError as error:
        sys.exit(str(error))
    print("opened", flush=True)
    sys.stdin.read()
    """
)


def test_second_process_on_the_database_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with closing(Store.open(path)):
        second = subprocess.run(
            [sys.executable, "-c", _OPEN, str(path)], input="", capture_output=True, text=True, timeout=60
        )
    assert second.returncode == 1
    assert second.stdout == ""
    assert str(path) in second.stderr
    assert f"process {os.getpid()}" in second.stderr
    assert "storage.path" in second.stderr


def test_lock_is_released_when_its_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with subprocess.Popen(
        [sys.executable, "-c", _OPEN, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "opened\n"
        with pytest.raises(DatabaseInUseError, match=f"process {first.pid}"):
            Store.open(path)
        first.kill()
    with closing(Store.open(path)) as store:
        assert store.series() == []


def test_symbolic_link_shares_the_lock(tmp_path: Path) -> None:
    path, link = tmp_path / "history.db", tmp_path / "link.db"
    link.symlink_to(path)
    with closing(Store.open(path)), pytest.raises(DatabaseInUseError):
        Store.open(link)


def test_closed_store_releases_the_lock_and_rejects_use(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    first = Store.open(path)
    first.close()
    first.close()
    with closing(Store.open(path)) as second:
        put(second, window(1), {CART: [0.1]})
        with pytest.raises(StoreError):
            first.totals()
        with pytest.raises(StoreError):
            put(first, window(2), {LOGIN: [0.1]})


def test_database_can_be_read_beside_the_exporter_that_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with closing(Store.open(path)) as exporter:
        put(exporter, window(2), {CART: [0.1]})
        with closing(Store.open_readonly(path)) as reader:
            assert reader.series() == [CART]
            put(exporter, window(1), {CART: [0.2]})
            assert [line.window for line in reader.ledger(0, NOON)] == [window(2), window(1)]
            with pytest.raises(StoreError) as refused:
                put(reader, window(3), {CART: [0.1]})
            assert refused.value.reason == "readonly"
        put(exporter, window(3), {CART: [0.1]})


def test_open_readonly_neither_creates_nor_changes_a_file(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with pytest.raises(StoreError, match=str(path)):
        Store.open_readonly(path)
    assert list(tmp_path.iterdir()) == []
    path.touch()
    with pytest.raises(DatabaseTooOldError, match="version 0"):
        Store.open_readonly(path)
    assert path.stat().st_size == 0
    path.write_bytes(b"dear diary, " * 1000)
    with pytest.raises(StoreError, match="is not a SQLite database"):
        Store.open_readonly(path)


# Series and their history


def test_history_is_restricted_to_series_and_range(store: Store) -> None:
    keys = [SeriesKey("shop", str(number)) for number in range(7)]
    for ago in (1, 2, 3):
        put(store, window(ago), {key: [0.1] * ago for key in keys})
    wanted = [keys[5], keys[0], SeriesKey("not", "stored"), keys[2]]
    histories = list(store.history(wanted, window(2).start, window(1).start))
    assert {history.key for history in histories} == {keys[0], keys[2], keys[5]}
    for history in histories:
        assert [(stored.start, stored.traces) for stored in history.windows] == [(window(2).start, 2)]


def test_history_does_not_depend_on_the_chunk_size(store: Store) -> None:
    keys = [SeriesKey("shop", str(number)) for number in range(7)]
    for ago in (1, 2, 3):
        put(store, window(ago), {key: [0.1] for key in keys[ago:]})
    whole = list(store.history(keys, 0, NOON, at_once=100))
    assert len(whole) == 6
    for at_once in (1, 2, 3, 7):
        assert list(store.history(keys, 0, NOON, at_once=at_once)) == whole
    for history in whole:
        assert history.windows == sorted(history.windows)


def test_writes_are_possible_while_a_history_is_read(store: Store) -> None:
    keys = [SeriesKey("shop", str(number)) for number in range(4)]
    put(store, window(1), {key: [0.1] for key in keys})
    reading = store.history(keys, 0, NOON, at_once=1)
    first = next(reading)
    put(store, window(2), {key: [0.1] for key in keys})
    assert len(first.windows) == 1
    assert [len(history.windows) for history in reading] == [2, 2, 2]


def test_marks_are_loaded_only_where_requested(store: Store) -> None:
    for ago in (1, 2, 3, 4):
        put(store, window(ago), {CART: [0.1] * (1 if ago == 4 else MAX_RUN_TRACES + 1)})
    (without,) = store.history([CART], 0, NOON)
    assert [bool(stored.marks) for stored in without.windows] == [True, False, False, False]
    (some,) = store.history([CART], 0, NOON, marks_from=window(2).start)
    assert [bool(stored.marks) for stored in some.windows] == [True, False, True, True]


def test_series_keep_their_order_after_a_restart(tmp_path: Path) -> None:
    keys = [SeriesKey("z", "a"), SeriesKey("a", "z"), SeriesKey("m", "m")]
    with closing(Store.open(tmp_path / "history.db")) as store:
        for ago, key in enumerate(keys, start=1):
            put(store, window(ago), {key: [0.1]})
        put(store, window(5), {key: [0.1] for key in reversed(keys)})
    with closing(sqlite3.connect(tmp_path / "history.db")) as other:
        # With statistics, SQLite may prefer to go through the names in their own order.
        other.execute("ANALYZE")
    with closing(Store.open(tmp_path / "history.db")) as store:
        assert store.series() == keys


label_values = st.dictionaries(st.sampled_from(["env", "zone"]), st.text(min_size=1, max_size=20))


@given(
    st.builds(
        SeriesKey, st.text(max_size=50), st.text(max_size=700), label_values.map(lambda each: (*sorted(each.items()),))
    )
)
def test_any_names_round_trip(key: SeriesKey) -> None:
    with closing(Store.in_memory()) as store:
        put(store, window(1), {key: [0.1], SeriesKey(key.span_name, key.service_name): [0.1]})
        store.save_flags({key: "up"}, {})
        assert key in store.series()
        assert key in history_by_key(store)
        assert store.flags() == {key: "up"}


def test_series_that_differ_in_labels_only_are_apart_and_known_after_a_restart(tmp_path: Path) -> None:
    prod, staging = (CART._replace(labels=(("env", each), ("zone", "a"))) for each in ("prod", "staging"))
    with closing(Store.open(tmp_path / "history.db")) as store:
        put(store, window(2), {CART: [0.1], prod: [0.2], staging: [0.3]})
        store.save_flags({prod: "up"}, {})
        store.save_evaluations([SeriesEvaluation(staging, {}, b"", accepted=[5])])
        before = history_by_key(store)
    with closing(Store.open(tmp_path / "history.db")) as store:
        assert store.series() == [CART, prod, staging]
        assert history_by_key(store) == before
        assert store.flags() == {prod: "up"}
        assert store.acceptances() == {staging: [5]}
        store.save_flags({prod: None}, {})
        assert set(store.prune(NOON).series) == {CART, prod, staging}
        assert store.series() == []


def test_damaged_labels_are_a_damaged_database(tmp_path: Path) -> None:
    with closing(Store.open(tmp_path / "history.db")) as store:
        put(store, window(1), {CART: [0.1]})
    with closing(sqlite3.connect(tmp_path / "history.db")) as other:
        other.execute("UPDATE series SET labels = '[1]'")
        other.commit()
    with pytest.raises(StoreError, match="invalid values"):
        Store.open(tmp_path / "history.db")


def test_rules_of_series_are_stored_with_the_next_window_unless_they_are_the_default(tmp_path: Path) -> None:
    def declared(rules: str) -> str | None:
        with closing(Store.open(tmp_path / "history.db")) as store:
            before = store.declare_identity(rules, default="by name")
            put(store, window(1), {CART: [0.1]})
            return before

    assert [declared(each) for each in ("by name", "by env", "by env", "by name")] == [None, "by name", None, "by env"]


# Evaluations and flags


def encoded(evaluations: Mapping[int, HourEvaluation | EncodedEvaluation]) -> list[EncodedEvaluation]:
    return [each for each in evaluations.values() if isinstance(each, EncodedEvaluation)]


def test_evaluations_are_part_of_the_history(store: Store) -> None:
    for ago in (1, 2, 3):
        put(store, window(ago), {CART: [0.1], LOGIN: [0.1]})
    store.save_flags({}, {CART: [window(2).start, window(3).start], LOGIN: [window(1).start]})
    store.save_evaluations(
        [
            SeriesEvaluation(CART, {window(3).start: NORMAL, window(2).start: ANOMALOUS}, b"at two", [window(3).start]),
            SeriesEvaluation(LOGIN, {}, b"\0\xff"),
        ]
    )
    history = history_by_key(store)
    assert history[CART].evaluations == {window(3).start: NORMAL.encoded(), window(2).start: ANOMALOUS.encoded()}
    assert [each.decoded() for each in encoded(history[CART].evaluations)] == [NORMAL, ANOMALOUS]
    assert history[CART].suspects == {window(2).start}
    assert history[CART].state == b"at two"
    assert (history[LOGIN].evaluations, history[LOGIN].suspects) == ({}, frozenset({window(1).start}))
    assert history[LOGIN].state == b"\0\xff"
    (later,) = store.history([CART], window(2).start, NOON)
    assert later.evaluations == {window(2).start: ANOMALOUS.encoded()}


def test_deviations_of_usual_hours_by_series(store: Store) -> None:
    for key, first in ((CART, b"\x81\x82"), (LOGIN, b"\x83")):
        evaluations = {
            window(1).start: HourEvaluation(deviations=first),
            window(2).start: HourEvaluation(quarantined=True, deviations=b"\xff"),
            window(3).start: HourEvaluation(),
            window(4).start: HourEvaluation(deviations=b"\x84"),
        }
        store.save_evaluations([SeriesEvaluation(key, evaluations, b"")])
    assert list(store.deviations([LOGIN, CART], window(3).start, window(1).end)) == [
        (LOGIN, {window(1).start: b"\x83"}),
        (CART, {window(1).start: b"\x81\x82"}),
    ]
    assert list(store.deviations([CART, SeriesKey("never", "seen")], window(4).start, window(3).start)) == [
        (CART, {window(4).start: b"\x84"})
    ]


def test_flags_of_services_are_kept(store: Store) -> None:
    assert store.service_flags() is None
    store.save_service_flags("[1]")
    store.save_service_flags("[2]")
    assert store.service_flags() == "[2]"


def test_accepted_changes_stay_when_evaluations_are_deleted(store: Store) -> None:
    for ago in (3, 2, 1):
        put(store, window(ago), {CART: [0.1], LOGIN: [0.1]})
    store.save_evaluations([SeriesEvaluation(CART, {}, b"one", accepted=[window(3).start])])
    store.save_evaluations([SeriesEvaluation(CART, {}, b"two", accepted=[window(3).start, window(1).start])])
    store.save_evaluations([SeriesEvaluation(LOGIN, {}, b"one")])
    store.delete_evaluations()
    assert store.acceptances() == {CART: [window(3).start, window(1).start]}
    store.prune(window(3).end)
    assert store.acceptances() == {CART: [window(1).start]}


def test_save_evaluations_replaces_earlier_ones(store: Store) -> None:
    put(store, window(1), {CART: [0.1]})
    store.save_evaluations([SeriesEvaluation(CART, {window(1).start: ANOMALOUS}, b"one")])
    store.save_evaluations([SeriesEvaluation(CART, {window(1).start: NORMAL}, b"two")])
    history = history_by_key(store)[CART]
    assert (history.evaluations, history.state) == ({window(1).start: NORMAL.encoded()}, b"two")


def test_delete_evaluations_keeps_suspects_and_flags(store: Store) -> None:
    put(store, window(1), {CART: [0.1]})
    store.save_flags({CART: "up"}, {CART: [window(1).start]})
    store.save_evaluations([SeriesEvaluation(CART, {window(1).start: ANOMALOUS}, b"state")])
    store.set_evaluated_until(NOON)
    store.delete_evaluations()
    history = history_by_key(store)[CART]
    assert (history.evaluations, history.state, history.suspects) == ({}, None, frozenset({window(1).start}))
    assert store.evaluated_until() is None
    assert store.flags() == {CART: "up"}


def test_evaluated_until_survives_a_restart(tmp_path: Path) -> None:
    with closing(Store.open(tmp_path / "history.db")) as store:
        assert store.evaluated_until() is None
        store.set_evaluated_until(NOON - HOUR)
        store.set_evaluated_until(NOON)
    with closing(Store.open(tmp_path / "history.db")) as store:
        assert store.evaluated_until() == NOON


@pytest.mark.parametrize(
    ("ago", "before", "after", "outdated"),
    [
        (2, [], [0.1], True),
        (2, [0.1], [0.1, 0.2], True),
        (2, [0.1], [], True),
        (2, [0.1], [0.1], False),
        (2, [], [], False),
        (1, [], [0.1], False),
    ],
)
def test_changed_traces_of_evaluated_hours_make_evaluations_outdated(
    tmp_path: Path, ago: int, before: Sequence[float], after: Sequence[float], outdated: bool
) -> None:
    with closing(Store.open(tmp_path / "history.db")) as store:
        put(store, window(ago), {CART: before})
        put(store, window(9), {CART: [0.1]})
        assert not store.has_outdated_evaluations()
        store.begin_evaluation(window(1).start)
        # An earlier time, after the clock was set back, does not narrow the range.
        store.begin_evaluation(window(3).start)
        put(store, window(ago), {CART: after})
        put(store, window(0), {CART: [0.1]})
    with closing(Store.open(tmp_path / "history.db")) as store:
        assert store.has_outdated_evaluations() is outdated
        store.delete_evaluations()
        put(store, window(9), {CART: [0.1, 0.1]})
        assert not store.has_outdated_evaluations()


def test_flags_survive_a_restart_until_deleted(tmp_path: Path) -> None:
    with closing(Store.open(tmp_path / "history.db")) as store:
        store.save_flags({CART: "up since noon", LOGIN: "up"}, {})
        store.save_flags({CART: "up since one"}, {CART: [NOON]})
    with closing(Store.open(tmp_path / "history.db")) as store:
        assert store.flags() == {CART: "up since one", LOGIN: "up"}
        store.save_flags({CART: None, SeriesKey("never", "seen"): None}, {})
        assert store.flags() == {LOGIN: "up"}


def test_damaged_evaluation_is_reported_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    failures: list[StorageFailure] = []
    with closing(Store.open(path, on_failure=failures.append)) as store:
        for ago in (1, 2, 3):
            put(store, window(ago), {CART: [0.1]})
        store.save_evaluations([SeriesEvaluation(CART, {window(ago).start: ANOMALOUS for ago in (1, 2, 3)}, b"")])
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("UPDATE judgements SET swings = x'ff' WHERE hour_start = ?", (window(2).start,))
            other.execute("UPDATE judgements SET swings = x'0102' WHERE hour_start = ?", (window(1).start,))
        assert history_by_key(store)[CART].evaluations == {window(3).start: ANOMALOUS.encoded()}
        assert failures == ["corrupt", "corrupt"]


class TestReading:
    def test_declaring_writes_nothing(self, tmp_path: Path) -> None:
        with closing(Store.open(tmp_path / "history.db")) as store:
            assert store.declare_reading("scope=root") is None
        with closing(Store.open(tmp_path / "history.db")) as store:
            assert store.declare_reading("scope=entry") is None
            put(store, window(1), {CART: [0.1]})
            assert store.declare_reading("scope=root") == "scope=entry"

    def test_a_stored_trace_fixes_the_reading(self, tmp_path: Path) -> None:
        with closing(Store.open(tmp_path / "history.db")) as store:
            assert store.declare_reading("scope=root") is None
            put(store, window(1), {CART: [0.1]})
        with closing(Store.open(tmp_path / "history.db")) as store:
            assert store.declare_reading("scope=entry") == "scope=root"
            assert store.declare_reading("scope=root") is None
            assert [entry.window for entry in store.ledger(0, NOON)] == [window(1)]

    def test_a_ledger_without_traces_is_void_after_another_reading_is_declared(self, tmp_path: Path) -> None:
        with closing(Store.open(tmp_path / "history.db")) as store:
            store.declare_reading("filter=wrong")
            put(store, window(1), {})
            put(store, window(2), {})
        with closing(Store.open(tmp_path / "history.db")) as store:
            assert store.declare_reading("filter=right") is None
            assert (store.ledger(0, NOON), store.totals().windows) == ([], 0)
        with closing(Store.open(tmp_path / "history.db")) as store:
            assert len(store.ledger(0, NOON)) == 2, "nothing is deleted before a window is committed"
            assert store.declare_reading("filter=right") is None
            put(store, window(2), {CART: [0.1]})
            put(store, window(3), {CART: [0.1]})
            assert [entry.window for entry in store.ledger(0, NOON)] == [window(3), window(2)]
            assert store.totals().windows == 2
            assert store.declare_reading("filter=wrong") == "filter=right"

    def test_a_failed_commit_leaves_the_void_ledger(self, tmp_path: Path) -> None:
        with closing(Store.open(tmp_path / "history.db")) as store:
            store.declare_reading("filter=wrong")
            put(store, window(1), {})
        with closing(Store.open(tmp_path / "history.db")) as store:
            store.declare_reading("filter=right")
            with closing(sqlite3.connect(tmp_path / "history.db")) as other, other:
                other.execute("CREATE TRIGGER refuse BEFORE INSERT ON windows BEGIN SELECT RAISE(ABORT, 'no'); END")
            with pytest.raises(StoreError):
                put(store, window(2), {CART: [0.1]})
            with closing(sqlite3.connect(tmp_path / "history.db")) as other, other:
                assert other.execute("SELECT count(*) FROM windows").fetchone() == (1,)
                assert other.execute("SELECT value FROM meta WHERE name = 'reading'").fetchone() == ("filter=wrong",)
                other.execute("DROP TRIGGER refuse")
            put(store, window(2), {CART: [0.1]})
            assert [entry.window for entry in store.ledger(0, NOON)] == [window(2)]


# Flags of the past


class TestFlagPeriods:
    def test_a_period_ends_when_its_flag_no_longer_fires(self, store: Store) -> None:
        store.save_flags({}, {}, {CART: {"shift": 100.5, "errors": 160.0}}, 170.0)
        store.save_flags({}, {}, {CART: {"shift": 100.5, "errors": 160.0}}, 200.0)
        store.save_flags({}, {}, {CART: {"errors": 160.0}}, 300.0)
        assert sorted(store.flag_periods(CART, 0.0)) == [
            FlagPeriod(FlagKind.ERRORS, 160.0, None),
            FlagPeriod(FlagKind.SHIFT, 100.5, 300.0),
        ]
        assert store.flag_periods(CART, 300.0) == [FlagPeriod(FlagKind.ERRORS, 160.0, None)]
        assert store.flag_periods(LOGIN, 0.0) == []

    def test_a_flag_that_fires_again_is_another_period(self, store: Store) -> None:
        for firing, at in (({"shift": 100.0}, 110.0), ({}, 200.0), ({"shift": 300.0}, 310.0)):
            store.save_flags({}, {}, {CART: firing}, at)
        assert store.flag_periods(CART, 0.0) == [
            FlagPeriod(FlagKind.SHIFT, 100.0, 200.0),
            FlagPeriod(FlagKind.SHIFT, 300.0, None),
        ]

    def test_shifts_of_the_evaluated_history_are_among_them(self, store: Store) -> None:
        put(store, window(3), {CART: [0.1]})
        shifts = [ShiftPeriod(100.0, 200.0, 3.0), ShiftPeriod(300.0, None, 2.0)]
        store.save_evaluations([SeriesEvaluation(CART, {}, b"state", shifts=shifts)])
        assert store.flag_periods(CART, 250.0) == [FlagPeriod(FlagKind.SHIFT, 300.0, None)]
        assert store.latest_flag_periods(0.0, 9) == []

    def test_those_about_errors_and_traffic_are_found_in_the_evaluated_history(self, store: Store) -> None:
        put(store, window(3), {CART: [0.1], LOGIN: [0.1]})
        errors, silent = FlagPeriod(FlagKind.ERRORS, 100.0, None), FlagPeriod(FlagKind.TRAFFIC, 300.0, 400.0)

        def save(*periods: FlagPeriod, since: int | None = None) -> None:
            store.save_evaluations([SeriesEvaluation(CART, {}, b"state", flag_periods=periods, shifts_since=since)])

        save(errors, silent)
        assert store.flag_periods(CART, 0.0) == [errors, silent]
        assert (store.flag_periods(CART, 400.0), store.flag_periods(LOGIN, 0.0)) == ([errors], [])
        # The next evaluation continues with a flag that fires.
        save(errors._replace(until=250.0))
        assert store.flag_periods(CART, 200.0) == [errors._replace(until=250.0), silent]
        save(since=300)
        assert store.flag_periods(CART, 0.0) == [errors._replace(until=250.0)]
        store.delete_evaluations_of([CART])
        assert store.flag_periods(CART, 0.0) == []
        save(silent)
        store.delete_evaluations()
        assert store.flag_periods(CART, 0.0) == []

    def test_those_of_the_history_are_deleted_with_it(self, store: Store) -> None:
        put(store, window(60), {CART: [0.1]})
        put(store, window(1), {CART: [0.1]})
        ended = float(window(60).end)
        period = FlagPeriod(FlagKind.ERRORS, ended - 60.0, ended)
        store.save_evaluations([SeriesEvaluation(CART, {}, b"state", flag_periods=[period])])
        store.prune(window(30).end)
        assert store.flag_periods(CART, 0.0) == []

    def test_the_latest_of_all_series_come_first_up_to_a_limit(self, store: Store) -> None:
        store.save_flags({}, {}, {CART: {"shift": 100.0}, LOGIN: {"traffic": 150.0}}, 160.0)
        store.save_flags({}, {}, {CART: {}}, 200.0)
        cart, login = FlagPeriod(FlagKind.SHIFT, 100.0, 200.0), FlagPeriod(FlagKind.TRAFFIC, 150.0, None)
        assert store.latest_flag_periods(199.0, 9) == [(LOGIN, login), (CART, cart)]
        assert store.latest_flag_periods(200.0, 9) == store.latest_flag_periods(199.0, 1) == [(LOGIN, login)]

    def test_retention_deletes_those_that_are_over(self, store: Store) -> None:
        store.save_flags({CART: "up"}, {}, {CART: {"shift": 1.0, "errors": 1.0}}, 2.0)
        store.save_flags({CART: "up"}, {}, {CART: {"shift": 1.0}}, NOON)
        put(store, window(1), {CART: [0.1]})
        store.prune(NOON + 1)
        assert store.flag_periods(CART, 0.0) == [FlagPeriod(FlagKind.SHIFT, 1.0, None)]

    def test_a_kind_of_a_newer_version_is_ignored(self, store: Store) -> None:
        store.save_flags({}, {}, {CART: {"saturation": 1.0}}, 2.0)
        assert (store.flag_periods(CART, 0.0), store.latest_flag_periods(0.0, 9)) == ([], [])


# Retention


def test_prune_deletes_old_windows_with_their_evaluations(store: Store) -> None:
    for ago in (1, 2, 3, 4):
        put(store, window(ago), {CART: [0.1]})
    starts = [window(ago).start for ago in (1, 2, 3, 4)]
    store.save_flags({}, {CART: starts})
    store.save_evaluations([SeriesEvaluation(CART, dict.fromkeys(starts, ANOMALOUS), b"state")])
    assert store.prune(window(3).end) == (2, [])
    assert [line.window for line in store.ledger(0, NOON)] == [window(2), window(1)]
    history = history_by_key(store)[CART]
    assert [stored.start for stored in history.windows] == [window(2).start, window(1).start]
    assert history.evaluations.keys() == history.suspects == {window(2).start, window(1).start}
    assert history.state == b"state"
    assert store.prune(window(3).end) == (0, ())


def test_incidents_are_listed_newest_first_and_replaced_by_id(tmp_path: Path) -> None:
    first, second, third = (
        StoredIncident(name, start, None, "{}") for name, start in (("b", 1.5), ("a", 2.0), ("c", 2.0))
    )
    with closing(Store.open(tmp_path / "history.db")) as store:
        store.incidents.save([first, second, third])
        store.incidents.save([second._replace(end=9.0, document="[]")])
    with closing(Store.open(tmp_path / "history.db")) as store:
        assert store.incidents.newest(2) == [third, second._replace(end=9.0, document="[]")]
        assert store.incidents.newest(2, (2.0, "a")) == [first]
        assert store.incidents.unended() == [first, third]
        assert store.incidents.get("b") == first
        assert store.incidents.get("nothing") is None


def test_prune_deletes_incidents_that_ended_but_not_open_ones_with_or_without_old_windows(store: Store) -> None:
    store.incidents.save([StoredIncident(name, 1.0, end, "{}") for name, end in (("a", 5.0), ("b", 6.0), ("c", None))])
    assert store.prune(5) == (0, ())
    assert [each.id for each in store.incidents.newest(9)] == ["c", "b"]


def test_database_without_incidents_gets_the_table(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with closing(Store.open(path)) as store:
        line = put(store, window(1), {CART: [0.1]})
    make_older(path, 6)
    with closing(Store.open(path)) as store:
        assert store.incidents.unended() == []
        assert store.ledger(0, NOON) == [line]


def test_database_without_past_shifts_keeps_its_incidents_and_is_evaluated_again(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    seen = StoredIncident("a", 1.0, None, "{}")
    with closing(Store.open(path)) as store:
        put(store, window(1), {CART: [0.1]})
        store.incidents.save([seen])
        store.save_evaluations([SeriesEvaluation(CART, {window(1).start: ANOMALOUS}, b"state")])
        store.set_evaluated_until(NOON)
    make_older(path, 7)
    with closing(Store.open(path)) as store:
        assert store.incidents.unended() == [seen]
        assert (store.shifts(9), store.incidents.reconstructed(), store.evaluated_until()) == ([], [], None)


def test_windows_of_a_database_that_had_an_index_of_them_can_be_replaced(
    tmp_path: Path,
) -> None:
    path = tmp_path / "history.db"
    with closing(Store.open(path)) as store:
        for number in (1, 2):
            put(store, window(number), {CART: [0.1], LOGIN: [0.2]})
    make_older(path, 15)
    with closing(Store.open(path)) as store:
        put(store, window(1), {CART: [0.3]})
        digests = store.window_digests([window(1), window(2)])
    assert [set(digests[window(number)]) for number in (1, 2)] == [{CART}, {CART, LOGIN}]
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT count(*) FROM sqlite_master WHERE name = 'digests_by_window'").fetchone() == (0,)


def test_shifts_continue_end_and_are_replaced_when_a_series_is_evaluated_from_the_beginning(store: Store) -> None:
    put(store, window(1), {CART: [0.1], LOGIN: [0.1]})

    def save(key: SeriesKey, *shifts: ShiftPeriod, since: int | None = None) -> None:
        store.save_evaluations([SeriesEvaluation(key, {}, b"state", shifts=shifts, shifts_since=since)])

    save(CART, ShiftPeriod(100.0, 200.0, 1.5), ShiftPeriod(300.0, None, 4.0))
    save(LOGIN, ShiftPeriod(100.0, 150.0, 1.0))
    save(CART, ShiftPeriod(300.0, 900.0, 2.0))
    assert sorted(store.shifts(9)) == [
        (LOGIN, ShiftPeriod(100.0, 150.0, 1.0)),
        (CART, ShiftPeriod(100.0, 200.0, 1.5)),
        (CART, ShiftPeriod(300.0, 900.0, 4.0)),
    ]
    assert store.shifts(1) == [(CART, ShiftPeriod(300.0, 900.0, 4.0))]
    save(CART, ShiftPeriod(400.0, 500.0, 1.0), since=300)
    assert sorted(period for key, period in store.shifts(9) if key == CART) == [
        (100.0, 200.0, 1.5),
        (400.0, 500.0, 1.0),
    ]
    store.delete_evaluations()
    assert store.shifts(9) == []


def test_shifts_outlive_the_incidents_of_their_time_by_a_day(store: Store) -> None:
    put(store, window(60), {CART: [0.1]})
    put(store, window(30), {CART: [0.1]})
    put(store, window(1), {CART: [0.1]})
    ended = float(window(60).end)
    period = ShiftPeriod(ended - 60.0, ended, 1.0)
    store.save_evaluations([SeriesEvaluation(CART, {}, b"state", shifts=[period])])
    store.prune(window(60).end)
    assert store.shifts(9) == [(CART, period)]
    store.prune(window(30).end)
    assert store.shifts(9) == []


def test_incidents_of_the_past_are_replaced_and_never_change_one_that_was_seen(store: Store) -> None:
    seen = StoredIncident("a", 1.0, 9.0, "seen")
    past = [StoredIncident(name, 1.0, 5.0, "past", is_reconstructed=True) for name in "abc"]
    store.incidents.save([seen])
    store.incidents.replace_reconstructed(past, [])
    assert store.incidents.reconstructed() == past[1:]
    store.incidents.replace_reconstructed([past[1]._replace(document="again", end=6.0)], ["a", "c"])
    assert store.incidents.newest(9) == [past[1]._replace(document="again", end=6.0), seen]
    assert (store.incidents.seen(9.0), store.incidents.seen(9.5)) == ([seen], [])
    store.prune(6)
    assert store.incidents.newest(9) == [seen]


def failures(store: Store, key: SeriesKey = CART) -> dict[int, bytes | None]:
    return {each.start: each.failures for each in history_by_key(store)[key].windows}


def put_failing(store: Store, window_: Window, failed: Sequence[bool | None]) -> None:
    accumulator = Accumulator([window_], lambda key: key)
    accumulator.add(span(window_.start, 1.0, CART)._replace(failed=each) for each in failed)
    store.commit([entry(*window_, traces=len(failed), coverage=1.0)], accumulator.finish())


def test_failures_of_an_older_database_are_unknown(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with closing(Store.open(path)) as store:
        put(store, window(2), {CART: [0.1]})
    make_older(path, 8)
    with closing(Store.open(path)) as store:
        store.declare_failure_rule("status = error")
        put_failing(store, window(1), [True, False, False])
        assert failures(store) == {window(2).start: None, window(1).start: encode_failures({1: 1})}


def test_failures_of_another_rule_are_unknown_until_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with closing(Store.open(path)) as store:
        store.declare_failure_rule("one")
        put_failing(store, window(3), [True])
    with closing(Store.open(path)) as store:
        store.declare_failure_rule("other")
        assert failures(store) == {window(3).start: None}
        put_failing(store, window(2), [False, False])
        assert failures(store) == {window(3).start: None, window(2).start: b""}
        # A window that is read again has the failures of the present rule.
        put_failing(store, window(3), [True, True])
        assert failures(store)[window(3).start] == encode_failures({1: 2})
        put_failing(store, window(4), [None, True])
        assert failures(store)[window(4).start] is None
    with closing(Store.open(path)) as store:
        store.declare_failure_rule("one")
        assert set(failures(store).values()) == {None}
        put_failing(store, window(1), [True])
    # Without a declared rule that of the newest window counts.
    with closing(Store.open_readonly(path)) as store:
        assert [start for start, each in failures(store).items() if each is not None] == [window(1).start]
    with closing(Store.open(path)) as store:
        store.declare_failure_rule("other")
        known = {start for start, each in failures(store).items() if each is not None}
        assert known == {window(3).start, window(2).start}


def test_windows_that_were_read_without_failures_have_none(store: Store) -> None:
    put_failing(store, window(2), [None])
    store.declare_failure_rule("one")
    put_failing(store, window(1), [True])
    assert failures(store) == {window(2).start: None, window(1).start: encode_failures({1: 1})}
    store.declare_failure_rule(None)
    put_failing(store, window(1), [None])
    assert failures(store) == {window(2).start: None, window(1).start: None}


def test_counted_requests_are_stored(store: Store) -> None:
    history = content(window(1), {CART: [0.1, 0.2], LOGIN: [0.1]})
    counted = {key: replace(each, requests=50 if key == CART else None) for key, each in history.series.items()}
    store.commit([entry(*window(1), traces=3, coverage=0.1)], [replace(history, series=counted)])
    found = history_by_key(store)
    assert [found[key].windows[0].requests for key in (CART, LOGIN)] == [50, None]


def test_prune_keeps_a_window_until_all_of_it_is_old(store: Store) -> None:
    put(store, window(1), {CART: [0.1]})
    assert store.prune(window(1).end - 1).windows == 0
    assert store.prune(window(1).end).windows == 1


def test_prune_deletes_series_without_data(tmp_path: Path) -> None:
    """Otherwise outdated names would fill the table and count towards series.max."""
    flagged = SeriesKey("shop", "flagged")
    with closing(Store.open(tmp_path / "history.db")) as store:
        put(store, window(2), {LOGIN: [0.1], flagged: [0.1], CART: [0.1]})
        put(store, window(1), {CART: [0.1]})
        store.save_flags({flagged: "up"}, {LOGIN: [window(1).start]})
        store.save_evaluations([SeriesEvaluation(key, {window(1).start: ANOMALOUS}, b"state") for key in (LOGIN, CART)])
        assert store.prune(window(2).end) == (1, [LOGIN])
        assert store.series() == [flagged, CART]
        # If the series comes back, it starts without history.
        put(store, window(1), {LOGIN: [0.1], CART: [0.1]})
        new_history = history_by_key(store)[LOGIN]
        assert (new_history.evaluations, new_history.suspects, new_history.state) == ({}, frozenset(), None)
        assert history_by_key(store)[CART].state == b"state"
    with closing(Store.open(tmp_path / "history.db")) as store:
        assert sorted(store.series()) == sorted([flagged, CART, LOGIN])


def test_failed_prune_keeps_series(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with closing(Store.open(path)) as store:
        put(store, window(2), {LOGIN: [0.1]})
        with closing(sqlite3.connect(path)) as other:
            other.execute(
                "CREATE TRIGGER refuse BEFORE DELETE ON series BEGIN SELECT RAISE(ABORT, 'refused by the test'); END"
            )
        with pytest.raises(StoreError, match="refused by the test"):
            store.prune(NOON)
        assert store.series() == [LOGIN]


def test_prune_shrinks_the_file(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    keys = [SeriesKey("shop", f"GET /{number}") for number in range(200)]
    with closing(Store.open(path)) as store:
        for ago in range(1, 20):
            put(store, window(ago), {key: [0.001 * number for number in range(30)] for key in keys})
    full = path.stat().st_size
    with closing(Store.open(path)) as store:
        assert store.prune(window(2).end).windows == 18
    assert path.stat().st_size < full / 3


# The file and its errors


def test_size_is_that_of_the_files(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with closing(Store.open(path)) as store:
        put(store, window(1), {CART: [0.1]})
        log = path.with_name("history.db-wal")
        assert store.size_bytes() == path.stat().st_size + log.stat().st_size


def test_in_memory_store_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(Store.in_memory()) as store:
        put(store, window(1), {CART: [0.1]})
        store.save_flags({CART: "up"}, {})
        assert store.size_bytes() > 0
    with closing(Store.in_memory()) as store:
        assert store.series() == []
    assert list(tmp_path.iterdir()) == []


def test_open_creates_missing_directories(tmp_path: Path) -> None:
    path = tmp_path / "var" / "lib" / "history.db"
    Store.open(path).close()
    assert path.is_file()


def test_database_of_a_newer_exporter_is_rejected_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    Store.open(path).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    for _ in range(2):  # the lock was released
        with pytest.raises(DatabaseTooNewError, match="version 99"):
            Store.open(path)
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (99,)


def test_overwritten_database_is_reported_as_corrupt_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    Store.open(path).close()
    path.write_bytes(b"dear diary, " * 1000)
    failures: list[StorageFailure] = []
    for _ in range(2):
        with pytest.raises(StoreError, match="move the file away") as refused:
            Store.open(path, on_failure=failures.append)
        assert refused.value.reason == "corrupt"
        assert str(path) in str(refused.value)
    assert path.read_bytes() == b"dear diary, " * 1000
    assert failures == ["corrupt", "corrupt"]


@pytest.mark.parametrize("below", ["history.db", "deeper/history.db"])
def test_open_in_an_unusable_directory_says_what_to_do(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot create .*storage\.path") as refused:
        Store.open(tmp_path / "file" / below)
    assert refused.value.reason == "readonly"
    assert below in str(refused.value)


class FailingStore:
    """A store whose connection the test can make fail."""

    def __init__(self, path: str = ":memory:") -> None:
        self.failures: list[StorageFailure] = []
        self.raw = sqlite3.connect(path, timeout=0, check_same_thread=False)
        self.store = Store(Connection(self.raw, on_failure=self.failures.append))

    def fails_with(self, line: Window, reason: StorageFailure, advice: str) -> None:
        before = self.failures.copy()
        with pytest.raises(StoreError, match=advice) as refused:
            put(self.store, line, {SeriesKey("shop", str(number)): [0.1, 5.0] for number in range(500)})
        assert refused.value.reason == reason
        assert str(refused.value).startswith("recording windows failed: ")
        assert self.failures == [*before, reason]


def test_full_disk_fails_only_the_current_write() -> None:
    failing = FailingStore()
    with closing(failing.store) as store:
        line = put(store, window(1), {CART: [0.1]})
        (pages,) = failing.raw.execute("PRAGMA page_count").fetchone()
        failing.raw.execute(f"PRAGMA max_page_count = {pages + 1}")
        failing.fails_with(window(2), "full", "free some disk space")
        assert store.ledger(0, NOON) == [line]
        assert store.series() == [CART]
        failing.raw.execute("PRAGMA max_page_count = 100000")
        put(store, window(2), {LOGIN: [0.1]})
        assert store.totals()[:2] == (2, 2)


def test_readonly_database_can_still_be_read() -> None:
    failing = FailingStore()
    with closing(failing.store) as store:
        line = put(store, window(1), {CART: [0.1]})
        failing.raw.execute("PRAGMA query_only = ON")
        failing.fails_with(window(2), "readonly", "make the database and its directory writable")
        assert store.ledger(0, NOON) == [line]
        assert len(digests(store)) == 1


def test_lock_of_another_program_is_reported(tmp_path: Path) -> None:
    path = str(tmp_path / "history.db")
    failing = FailingStore(path)
    with closing(failing.store), closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        failing.fails_with(window(1), "locked", "another program has locked the database")
        other.rollback()
        put(failing.store, window(1), {CART: [0.1]})


def test_failed_read_is_reported() -> None:
    failing = FailingStore()
    with closing(failing.store) as store:
        failing.raw.execute("DROP TABLE windows")
        with pytest.raises(StoreError, match="reading the ledger failed: no such table") as refused:
            store.ledger(0, NOON)
        assert refused.value.reason == "other"
        assert failing.failures == ["other"]


def test_older_database_is_migrated_with_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "history.db"
    with closing(Store.open(path)) as older:
        line = put(older, window(1), {CART: [0.1, 0.2]})
        version = len(schema.MIGRATIONS)

    def further(db: Database) -> None:
        db.execute("ALTER TABLE windows ADD COLUMN further TEXT")

    def failing(db: Database) -> None:
        db.execute("DROP TABLE digests")
        raise sqlite3.OperationalError("out of luck")

    # A failed step is rolled back; the steps before it are kept.
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, further, failing))
    with pytest.raises(StoreError, match="out of luck"):
        Store.open(path)
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (version + 1,)
    monkeypatch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:-1])
    with closing(Store.open(path)) as newer:
        assert newer.ledger(0, NOON) == [line]
        assert newer.totals()[:2] == (1, 2)
