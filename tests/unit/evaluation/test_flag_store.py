from collections.abc import Iterator

import pytest

from exporter.detection.flag import INACTIVE, Flag, FlagKind, FlagPeriod
from exporter.evaluation.flag_store import FlagStore
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.store import Store
from tests.support.evaluation import ManagerBench, WatchedStore
from tests.support.samples import DAY, KEY, NOON, Clock, events

OTHER = SeriesKey("checkout", "POST /pay")
NOW = NOON + 600.0


@pytest.fixture
def store() -> Iterator[WatchedStore]:
    store = WatchedStore.in_memory()
    yield store
    store.close()


def flag_store(store: Store) -> FlagStore:
    return FlagStore(store, monotonic=Clock(0.0), log=get_logger("test"))


def test_saved_flags_are_loaded_after_a_restart(store: Store) -> None:
    flags = {
        KEY: {FlagKind.SHIFT: Flag(firing=True, since=NOW - 0.5, keep_firing_since=NOW)},
        OTHER: {FlagKind.SHIFT: Flag(pending_since=NOW)},
    }
    flag_store(store).save(flags, {}, NOW)
    assert flag_store(store).load() == flags


def test_saving_an_inactive_flag_deletes_it(store: Store) -> None:
    flags = flag_store(store)
    flags.save({KEY: {FlagKind.SHIFT: Flag(firing=True, since=NOW)}}, {}, NOW)
    flags.save({KEY: {FlagKind.SHIFT: INACTIVE}}, {}, NOW)
    assert flags.load() == {}


def test_when_flags_fired_is_kept_after_they_are_resolved(store: Store) -> None:
    flags = flag_store(store)
    firing, pending = Flag(firing=True, since=NOW - 75.5), Flag(pending_since=NOW)
    flags.save({KEY: {FlagKind.SHIFT: firing, FlagKind.ERRORS: pending}}, {}, NOW)
    flags.save({KEY: {FlagKind.SHIFT: firing._replace(keep_firing_since=NOW + 60)}}, {}, NOW + 60)
    assert store.flag_periods(KEY, 0.0) == [FlagPeriod(FlagKind.SHIFT, NOW - 75.5, None)]
    flags.save({KEY: {FlagKind.SHIFT: INACTIVE}}, {}, NOW + 180)
    assert store.flag_periods(KEY, 0.0) == [FlagPeriod(FlagKind.SHIFT, NOW - 75.5, NOW + 180)]


def test_an_unreadable_flag_is_logged_and_inactive(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.save_flags({KEY: "[1, 2, 3, 4]", OTHER: "[true, 1.5, null, null]"}, {})
    assert flag_store(store).load() == {OTHER: {FlagKind.SHIFT: Flag(firing=True, since=1.5)}}
    assert events(caplog) == ["flag_unreadable"]


def test_saved_suspect_hours_are_kept_out_of_the_baseline(store: Store) -> None:
    bench = ManagerBench(store)
    bench.write_days(8)
    bench.manager.catch_up(NOW)
    before = bench.table(NOW).get(KEY).baseline
    flag_store(store).save({}, {KEY: (NOON - DAY,)}, NOW)
    bench.manager.catch_up(NOW)
    after = bench.table(NOW).get(KEY).baseline
    assert before is not None
    assert after is not None
    assert after.windows == before.windows - 1


def test_a_failing_database_is_logged_once(store: WatchedStore, caplog: pytest.LogCaptureFixture) -> None:
    store.refuses_writes = True
    flags = flag_store(store)
    for since in range(3):
        flags.save({KEY: {FlagKind.SHIFT: Flag(firing=True, since=since)}}, {}, NOW)
    flags.save({}, {}, NOW)
    assert events(caplog) == ["flags_not_saved"]
