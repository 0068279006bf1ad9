"""The history in SQLite: what is written stands once and whole, and whatever refuses it says why."""

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
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlite_utils import Database

from exporter.model.accumulator import Accumulator, WindowContent
from exporter.model.histogram import Digest
from exporter.model.histogram_codec import decode_counts, decode_digest, decode_marks
from exporter.model.hours import HourEvaluation
from exporter.model.ledger import LedgerEntry, Window, WindowState
from exporter.model.span import SeriesKey
from exporter.runtime.telemetry import StorageFailure
from exporter.store import (
    Connection,
    DatabaseInUseError,
    DatabaseTooNewError,
    DatabaseTooOldError,
    Findings,
    Store,
    StoredSeries,
    StoreError,
    schema,
)
from tests.support.fakes import NS, span
from tests.support.ledgers import DAY, HOUR, NOON, entry
from tests.support.paths import REPOSITORY

CART = SeriesKey("shop", "GET /cart")
LOGIN = SeriesKey("auth", "login")
JUDGED = HourEvaluation(True, (5, 12, 0, 0, 2**40, 288))
CALM = HourEvaluation()


def window(ago: int) -> Window:
    return Window(NOON - ago * HOUR, NOON - ago * HOUR + HOUR)


def content(found_in: Window, durations: Mapping[SeriesKey, Sequence[float]]) -> WindowContent:
    accumulator = Accumulator([found_in], lambda key: key)
    for key, seconds in durations.items():
        accumulator.add(span(found_in.start, each, key) for each in seconds)
    (found,) = accumulator.finish()
    return found


def put(store: Store, found_in: Window, durations: Mapping[SeriesKey, Sequence[float]]) -> LedgerEntry:
    found = content(found_in, durations)
    state = WindowState.DONE if found.traces else WindowState.EMPTY
    line = entry(*found_in, state, traces=found.traces, coverage=1.0)
    store.commit([line], [found])
    return line


def everything(store: Store) -> dict[SeriesKey, StoredSeries]:
    return {found.key: found for found in store.history(store.series(), 0, NOON + 9 * DAY, marks_from=0)}


def digests(store: Store) -> dict[tuple[SeriesKey, int], Digest]:
    return {
        (key, stored.start): decode_digest(stored.digest)
        for key, found in everything(store).items()
        for stored in found.windows
    }


@pytest.fixture
def store() -> Iterator[Store]:
    with closing(Store.in_memory()) as opened:
        yield opened


# The ledger


def test_a_window_and_its_digests_come_back_as_they_were(tmp_path: Path) -> None:
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
    bad = LedgerEntry(
        window(2), WindowState.FAILED, read_at=NOON, attempts=3, retry_at=NOON + 120.0, error="no connection"
    )
    with closing(Store.open(tmp_path / "history.db")) as store:
        store.commit([line, bad], [content(window(1), {CART: [0.1, 0.2, 0.3], LOGIN: [0.0, 400.0]})])
    with closing(Store.open(tmp_path / "history.db")) as store:
        assert store.ledger(0, NOON + DAY) == [bad, line]
        found = everything(store)
        assert found.keys() == {CART, LOGIN}
        (stored,) = found[LOGIN].windows
        assert (stored.start, stored.traces) == (window(1).start, 2)
        assert decode_digest(stored.digest) == Digest.of_ns([0, 400 * NS])
        told = decode_marks(stored.marks, decode_counts(stored.digest))
        marks = {offset: Digest(Counter(samples)) for offset, samples in told.items()}
        assert marks == {0: Digest.of_ns([0]), 2: Digest.of_ns([400 * NS])}


def test_the_ledger_of_a_range_is_what_overlaps_it(store: Store) -> None:
    for ago in (1, 2, 3, 4):
        put(store, window(ago), {})
    inside = store.ledger(window(3).start + 1, window(2).end)
    assert [line.window for line in inside] == [window(3), window(2)]
    assert [line.window for line in store.ledger(window(3).end, window(2).end)] == [window(2)]
    assert store.ledger(NOON, NOON + DAY) == []


def test_writing_a_window_twice_is_writing_it_once(store: Store) -> None:
    line = put(store, window(1), {CART: [0.1, 0.2]})
    before = digests(store), store.totals()
    assert put(store, window(1), {CART: [0.1, 0.2]}) == line
    assert (digests(store), store.totals()) == before
    assert store.ledger(0, NOON) == [line]


def test_what_was_found_later_replaces_what_was_found_before(store: Store) -> None:
    put(store, window(1), {CART: [0.1, 0.2], LOGIN: [1.0]})
    put(store, window(1), {CART: [0.4]})
    assert digests(store) == {(CART, window(1).start): Digest.of_ns([int(0.4 * NS)])}
    assert store.totals().traces == 1


def test_windows_of_another_grid_replace_those_that_they_overlap(store: Store) -> None:
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
def test_after_any_writes_the_last_ones_stand_and_nothing_else(writes: list[tuple[int, int, int]]) -> None:
    """Against a model that is a dictionary: quarters of an hour, in windows of one to four."""
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
            found.start: spans for found, spans in expected.items() if spans
        }
        totals = store.totals()
        assert (totals.windows, totals.traces) == (len(expected), sum(expected.values()))


def test_totals_are_of_what_was_read(store: Store) -> None:
    assert store.totals() == (0, 0, None, 0)
    put(store, window(3), {})
    put(store, window(2), {CART: [0.1, 0.2]})
    put(store, window(1), {CART: [0.1]})
    store.commit([entry(*window(4), WindowState.EXPIRED), entry(*window(5), WindowState.FAILED)])
    store.record([Findings(CART, {window(2).start: JUDGED, window(1).start: CALM}, b"")])
    totals = store.totals()
    assert (totals.windows, totals.traces, totals.oldest_window_start) == (3, 3, window(2).start)
    assert totals.quarantined == 1


# Transactions


def test_a_write_that_fails_midway_leaves_everything_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    failures: list[StorageFailure] = []
    with closing(Store.open(path, on_failure=failures.append)) as store:
        line = put(store, window(1), {CART: [0.1]})
        with closing(sqlite3.connect(path)) as other:
            # Refuses one series of several, after others have been written.
            other.execute(
                "CREATE TRIGGER refuse BEFORE INSERT ON digests WHEN NEW.traces = 2"
                " BEGIN SELECT RAISE(ABORT, 'as the test wants it'); END"
            )
        with pytest.raises(StoreError, match="recording windows failed: as the test wants it") as failed:
            put(store, window(1), {LOGIN: [0.1], CART: [0.1, 0.2]})
        assert failed.value.reason == "other"
        assert failures == ["other"]
        assert store.ledger(0, NOON) == [line]
        assert digests(store) == {(CART, window(1).start): Digest.of_ns([int(0.1 * NS)])}
        assert store.series() == [CART]
        # The series that was made up in vain is made again, and works.
        put(store, window(2), {LOGIN: [0.1]})
        assert store.series() == [CART, LOGIN]
    with closing(Store.open(path)) as store:
        assert store.series() == [CART, LOGIN]
        assert len(digests(store)) == 2


def test_an_error_of_our_own_in_the_middle_undoes_the_write(store: Store) -> None:
    put(store, window(1), {CART: [0.1]})

    def findings() -> Iterator[Findings]:
        yield Findings(LOGIN, {window(1).start: JUDGED}, b"state")
        yield Findings(CART, {window(1).start: JUDGED}, b"state")
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        store.record(findings())
    assert store.series() == [CART]
    assert everything(store)[CART].judgements == {}
    assert everything(store)[CART].state is None


def test_a_process_killed_in_the_middle_of_a_write_leaves_what_it_had_written_before(tmp_path: Path) -> None:
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
        assert store.judged_until() is None


_KILLED_WHILE_WRITING = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    from exporter.store import Findings, Store
    from tests.unit.store.test_store import CART, JUDGED, LOGIN, put, window

    store = Store.open(Path(sys.argv[1]))
    put(store, window(1), {CART: [0.1]})

    def findings():
        yield Findings(LOGIN, {window(1).start: JUDGED}, b"state")
        yield Findings(CART, {window(1).start: JUDGED}, b"state")
        os.kill(os.getpid(), signal.SIGKILL)

    store.record(findings())
    """
)


def test_threads_that_write_and_read_at_once_do_not_disturb_one_another(tmp_path: Path) -> None:
    keys = [SeriesKey("shop", str(number)) for number in range(20)]
    failures: list[Exception] = []
    with closing(Store.open(tmp_path / "history.db")) as store:

        def write(first: int) -> None:
            try:
                for ago in range(first, 40, 4):
                    put(store, window(ago), {key: [0.1] * 3 for key in keys})
                    for found in store.history(keys, 0, NOON, at_once=3):
                        assert all(stored.traces == 3 for stored in found.windows)
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


# One process at a time

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


def test_a_second_process_on_the_database_is_refused(tmp_path: Path) -> None:
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


def test_the_database_is_free_again_when_its_process_is_gone_however_it_went(tmp_path: Path) -> None:
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


def test_another_name_for_the_same_file_is_the_same_database(tmp_path: Path) -> None:
    path, link = tmp_path / "history.db", tmp_path / "link.db"
    link.symlink_to(path)
    with closing(Store.open(path)), pytest.raises(DatabaseInUseError):
        Store.open(link)


def test_a_closed_store_lets_others_in_and_refuses_further_use(tmp_path: Path) -> None:
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


def test_a_database_can_be_read_beside_the_exporter_that_writes_it(tmp_path: Path) -> None:
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


def test_a_database_that_is_only_to_be_read_is_neither_made_nor_changed(tmp_path: Path) -> None:
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


def test_history_is_that_of_the_series_asked_for_in_the_range_asked_for(store: Store) -> None:
    keys = [SeriesKey("shop", str(number)) for number in range(7)]
    for ago in (1, 2, 3):
        put(store, window(ago), {key: [0.1] * ago for key in keys})
    wanted = [keys[5], keys[0], SeriesKey("nobody", "knows"), keys[2]]
    found = list(store.history(wanted, window(2).start, window(1).start))
    assert {history.key for history in found} == {keys[0], keys[2], keys[5]}
    for history in found:
        assert [(stored.start, stored.traces) for stored in history.windows] == [(window(2).start, 2)]


def test_history_does_not_depend_on_how_much_is_read_at_once(store: Store) -> None:
    keys = [SeriesKey("shop", str(number)) for number in range(7)]
    for ago in (1, 2, 3):
        put(store, window(ago), {key: [0.1] for key in keys[ago:]})
    whole = list(store.history(keys, 0, NOON, at_once=100))
    assert len(whole) == 6
    for at_once in (1, 2, 3, 7):
        assert list(store.history(keys, 0, NOON, at_once=at_once)) == whole
    for history in whole:
        assert history.windows == sorted(history.windows)


def test_others_can_write_while_a_history_is_being_read(store: Store) -> None:
    keys = [SeriesKey("shop", str(number)) for number in range(4)]
    put(store, window(1), {key: [0.1] for key in keys})
    reading = store.history(keys, 0, NOON, at_once=1)
    first = next(reading)
    put(store, window(2), {key: [0.1] for key in keys})
    assert len(first.windows) == 1
    assert [len(found.windows) for found in reading] == [2, 2, 2]


def test_marks_come_only_with_the_windows_they_are_asked_for(store: Store) -> None:
    for ago in (1, 2, 3):
        put(store, window(ago), {CART: [0.1]})
    (without,) = store.history([CART], 0, NOON)
    assert [stored.marks for stored in without.windows] == [b"", b"", b""]
    (some,) = store.history([CART], 0, NOON, marks_from=window(2).start)
    assert [bool(stored.marks) for stored in some.windows] == [False, True, True]


def test_series_keep_the_order_of_their_first_appearance_over_a_restart(tmp_path: Path) -> None:
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


@given(st.tuples(st.text(max_size=50), st.text(max_size=700)).map(lambda names: SeriesKey(*names)))
def test_names_are_whatever_they_are(key: SeriesKey) -> None:
    with closing(Store.in_memory()) as store:
        put(store, window(1), {key: [0.1], SeriesKey(key.span_name, key.service_name): [0.1]})
        store.remember({key: "up"}, {})
        assert key in store.series()
        assert key in everything(store)
        assert store.flags() == {key: "up"}


# What the detector found


def test_findings_come_back_with_the_history(store: Store) -> None:
    for ago in (1, 2, 3):
        put(store, window(ago), {CART: [0.1], LOGIN: [0.1]})
    store.remember({}, {CART: [window(2).start, window(3).start], LOGIN: [window(1).start]})
    store.record(
        [
            Findings(CART, {window(3).start: CALM, window(2).start: JUDGED}, b"at two", [window(3).start]),
            Findings(LOGIN, {}, b"\0\xff"),
        ]
    )
    found = everything(store)
    assert found[CART].judgements == {window(3).start: CALM, window(2).start: JUDGED}
    assert found[CART].suspects == {window(2).start}
    assert found[CART].state == b"at two"
    assert (found[LOGIN].judgements, found[LOGIN].suspects) == ({}, frozenset({window(1).start}))
    assert found[LOGIN].state == b"\0\xff"
    (later,) = store.history([CART], window(2).start, NOON)
    assert later.judgements == {window(2).start: JUDGED}


def test_a_later_finding_replaces_an_earlier_one(store: Store) -> None:
    put(store, window(1), {CART: [0.1]})
    store.record([Findings(CART, {window(1).start: JUDGED}, b"one")])
    store.record([Findings(CART, {window(1).start: CALM}, b"two")])
    found = everything(store)[CART]
    assert (found.judgements, found.state) == ({window(1).start: CALM}, b"two")


def test_findings_can_be_forgotten_and_suspicions_stay(store: Store) -> None:
    put(store, window(1), {CART: [0.1]})
    store.remember({CART: "up"}, {CART: [window(1).start]})
    store.record([Findings(CART, {window(1).start: JUDGED}, b"state")])
    store.set_judged_until(NOON)
    store.forget_findings()
    found = everything(store)[CART]
    assert (found.judgements, found.state, found.suspects) == ({}, None, frozenset({window(1).start}))
    assert store.judged_until() is None
    assert store.flags() == {CART: "up"}


def test_judging_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with closing(Store.open(tmp_path / "history.db")) as store:
        assert store.judged_until() is None
        store.set_judged_until(NOON - HOUR)
        store.set_judged_until(NOON)
    with closing(Store.open(tmp_path / "history.db")) as store:
        assert store.judged_until() == NOON


@pytest.mark.parametrize(
    ("ago", "before", "after", "void"),
    [
        (2, [], [0.1], True),
        (2, [0.1], [0.1, 0.2], True),
        (2, [0.1], [], True),
        (2, [0.1], [0.1], False),
        (2, [], [], False),
        (1, [], [0.1], False),
    ],
)
def test_other_traces_of_what_was_judged_make_that_void(
    tmp_path: Path, ago: int, before: Sequence[float], after: Sequence[float], void: bool
) -> None:
    with closing(Store.open(tmp_path / "history.db")) as store:
        put(store, window(ago), {CART: before})
        put(store, window(9), {CART: [0.1]})
        assert not store.findings_void()
        store.begin_judging(window(1).start)
        # A clock that was set back makes nothing of it undone.
        store.begin_judging(window(3).start)
        put(store, window(ago), {CART: after})
        put(store, window(0), {CART: [0.1]})
    with closing(Store.open(tmp_path / "history.db")) as store:
        assert store.findings_void() is void
        store.forget_findings()
        put(store, window(9), {CART: [0.1, 0.1]})
        assert not store.findings_void()


def test_flags_survive_a_restart_until_they_are_taken_down(tmp_path: Path) -> None:
    with closing(Store.open(tmp_path / "history.db")) as store:
        store.remember({CART: "up since noon", LOGIN: "up"}, {})
        store.remember({CART: "up since one"}, {CART: [NOON]})
    with closing(Store.open(tmp_path / "history.db")) as store:
        assert store.flags() == {CART: "up since one", LOGIN: "up"}
        store.remember({CART: None, SeriesKey("never", "seen"): None}, {})
        assert store.flags() == {LOGIN: "up"}


def test_a_judgement_that_is_damaged_counts_as_none_and_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    failures: list[StorageFailure] = []
    with closing(Store.open(path, on_failure=failures.append)) as store:
        for ago in (1, 2, 3):
            put(store, window(ago), {CART: [0.1]})
        store.record([Findings(CART, {window(ago).start: JUDGED for ago in (1, 2, 3)}, b"")])
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("UPDATE judgements SET swings = x'ff' WHERE hour_start = ?", (window(2).start,))
            other.execute("UPDATE judgements SET swings = x'0102' WHERE hour_start = ?", (window(1).start,))
        assert everything(store)[CART].judgements == {window(3).start: JUDGED}
        assert failures == ["corrupt", "corrupt"]


def test_what_the_history_was_read_with_is_remembered(tmp_path: Path) -> None:
    with closing(Store.open(tmp_path / "history.db")) as store:
        assert store.describe_reading("scope=root") == "scope=root"
    with closing(Store.open(tmp_path / "history.db")) as store:
        assert store.describe_reading("scope=entry") == "scope=root"
        assert store.describe_reading("scope=root") == "scope=root"


# Retention


def test_old_windows_go_with_all_that_was_found_about_them(store: Store) -> None:
    for ago in (1, 2, 3, 4):
        put(store, window(ago), {CART: [0.1]})
    starts = [window(ago).start for ago in (1, 2, 3, 4)]
    store.remember({}, {CART: starts})
    store.record([Findings(CART, dict.fromkeys(starts, JUDGED), b"state")])
    assert store.prune(window(3).end) == (2, [])
    assert [line.window for line in store.ledger(0, NOON)] == [window(2), window(1)]
    found = everything(store)[CART]
    assert [stored.start for stored in found.windows] == [window(2).start, window(1).start]
    assert found.judgements.keys() == found.suspects == {window(2).start, window(1).start}
    assert found.state == b"state"
    assert store.prune(window(3).end) == (0, ())


def test_a_window_goes_only_when_all_of_it_is_old(store: Store) -> None:
    put(store, window(1), {CART: [0.1]})
    assert store.prune(window(1).end - 1).windows == 0
    assert store.prune(window(1).end).windows == 1


def test_series_of_which_nothing_is_left_go_too(tmp_path: Path) -> None:
    """Otherwise names that are no more would fill the table, and take the room of others, for ever."""
    flagged = SeriesKey("shop", "flagged")
    with closing(Store.open(tmp_path / "history.db")) as store:
        put(store, window(2), {LOGIN: [0.1], flagged: [0.1], CART: [0.1]})
        put(store, window(1), {CART: [0.1]})
        store.remember({flagged: "up"}, {LOGIN: [window(1).start]})
        store.record([Findings(key, {window(1).start: JUDGED}, b"state") for key in (LOGIN, CART)])
        assert store.prune(window(2).end) == (1, [LOGIN])
        assert store.series() == [flagged, CART]
        # Should it come again, it begins anew.
        put(store, window(1), {LOGIN: [0.1], CART: [0.1]})
        again = everything(store)[LOGIN]
        assert (again.judgements, again.suspects, again.state) == ({}, frozenset(), None)
        assert everything(store)[CART].state == b"state"
    with closing(Store.open(tmp_path / "history.db")) as store:
        assert sorted(store.series()) == sorted([flagged, CART, LOGIN])


def test_a_prune_that_fails_forgets_no_series(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with closing(Store.open(path)) as store:
        put(store, window(2), {LOGIN: [0.1]})
        with closing(sqlite3.connect(path)) as other:
            other.execute(
                "CREATE TRIGGER refuse BEFORE DELETE ON series BEGIN SELECT RAISE(ABORT, 'as the test wants it'); END"
            )
        with pytest.raises(StoreError, match="as the test wants it"):
            store.prune(NOON)
        assert store.series() == [LOGIN]


def test_space_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    keys = [SeriesKey("shop", f"GET /{number}") for number in range(200)]
    with closing(Store.open(path)) as store:
        for ago in range(1, 20):
            put(store, window(ago), {key: [0.001 * number for number in range(30)] for key in keys})
    full = path.stat().st_size
    with closing(Store.open(path)) as store:
        assert store.prune(window(2).end).windows == 18
    assert path.stat().st_size < full / 4


# The file, and what can be wrong with it


def test_the_size_is_that_of_the_files(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with closing(Store.open(path)) as store:
        put(store, window(1), {CART: [0.1]})
        log = path.with_name("history.db-wal")
        assert store.size_bytes() == path.stat().st_size + log.stat().st_size


def test_in_memory_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(Store.in_memory()) as store:
        put(store, window(1), {CART: [0.1]})
        store.remember({CART: "up"}, {})
        assert store.size_bytes() > 0
    with closing(Store.in_memory()) as store:
        assert store.series() == []
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_made_for_the_database(tmp_path: Path) -> None:
    path = tmp_path / "var" / "lib" / "history.db"
    Store.open(path).close()
    assert path.is_file()


def test_a_database_of_a_newer_exporter_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    Store.open(path).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    for _ in range(2):  # the lock was let go of
        with pytest.raises(DatabaseTooNewError, match="version 99"):
            Store.open(path)
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (99,)


def test_a_database_that_is_none_any_more_is_left_to_whoever_sets_it_aside(tmp_path: Path) -> None:
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
def test_where_no_file_can_be_made_the_message_says_which_and_what_to_do(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot create .*storage\.path") as refused:
        Store.open(tmp_path / "file" / below)
    assert refused.value.reason == "readonly"
    assert below in str(refused.value)


class Refusing:
    """A store on a connection that the test can make refuse."""

    def __init__(self, path: str = ":memory:") -> None:
        self.failures: list[StorageFailure] = []
        self.raw = sqlite3.connect(path, timeout=0, check_same_thread=False)
        self.store = Store(Connection(self.raw, on_failure=self.failures.append))

    def refuses(self, line: Window, reason: StorageFailure, advice: str) -> None:
        before = self.failures.copy()
        with pytest.raises(StoreError, match=advice) as refused:
            put(self.store, line, {SeriesKey("shop", str(number)): [0.1, 5.0] for number in range(500)})
        assert refused.value.reason == reason
        assert str(refused.value).startswith("recording windows failed: ")
        assert self.failures == [*before, reason]


def test_a_full_disk_costs_what_could_not_be_written_and_no_more() -> None:
    refusing = Refusing()
    with closing(refusing.store) as store:
        line = put(store, window(1), {CART: [0.1]})
        (pages,) = refusing.raw.execute("PRAGMA page_count").fetchone()
        refusing.raw.execute(f"PRAGMA max_page_count = {pages + 1}")
        refusing.refuses(window(2), "full", "free some disk space")
        assert store.ledger(0, NOON) == [line]
        assert store.series() == [CART]
        refusing.raw.execute("PRAGMA max_page_count = 100000")
        put(store, window(2), {LOGIN: [0.1]})
        assert store.totals()[:2] == (2, 2)


def test_a_database_that_may_not_be_written_can_still_be_read() -> None:
    refusing = Refusing()
    with closing(refusing.store) as store:
        line = put(store, window(1), {CART: [0.1]})
        refusing.raw.execute("PRAGMA query_only = ON")
        refusing.refuses(window(2), "readonly", "make the database and its directory writable")
        assert store.ledger(0, NOON) == [line]
        assert len(digests(store)) == 1


def test_another_program_that_holds_the_database_is_named_as_the_reason(tmp_path: Path) -> None:
    path = str(tmp_path / "history.db")
    refusing = Refusing(path)
    with closing(refusing.store), closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        refusing.refuses(window(1), "locked", "another program holds the database")
        other.rollback()
        put(refusing.store, window(1), {CART: [0.1]})


def test_reading_fails_with_the_same_words() -> None:
    refusing = Refusing()
    with closing(refusing.store) as store:
        refusing.raw.execute("DROP TABLE windows")
        with pytest.raises(StoreError, match="reading the ledger failed: no such table") as refused:
            store.ledger(0, NOON)
        assert refused.value.reason == "other"
        assert refusing.failures == ["other"]


def test_an_older_database_is_brought_up_to_date_with_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "history.db"
    with closing(Store.open(path)) as older:
        line = put(older, window(1), {CART: [0.1, 0.2]})
        version = len(schema.MIGRATIONS)

    def further(db: Database) -> None:
        db.execute("ALTER TABLE windows ADD COLUMN further TEXT")

    def failing(db: Database) -> None:
        db.execute("DROP TABLE digests")
        raise sqlite3.OperationalError("out of luck")

    # A step that fails leaves what the steps before it have reached, and nothing of its own.
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, further, failing))
    with pytest.raises(StoreError, match="out of luck"):
        Store.open(path)
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (version + 1,)
    monkeypatch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:-1])
    with closing(Store.open(path)) as newer:
        assert newer.ledger(0, NOON) == [line]
        assert newer.totals()[:2] == (1, 2)
