from collections.abc import Iterator

import pytest

from exporter.detection.flag import INACTIVE, Flag
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
    flags = {KEY: Flag(firing=True, since=NOW - 0.5, keep_firing_since=NOW), OTHER: Flag(pending_since=NOW)}
    flag_store(store).save(flags, {})
    assert flag_store(store).load() == flags


def test_saving_an_inactive_flag_deletes_it(store: Store) -> None:
    flags = flag_store(store)
    flags.save({KEY: Flag(firing=True, since=NOW)}, {})
    flags.save({KEY: INACTIVE}, {})
    assert flags.load() == {}


def test_an_unreadable_flag_is_logged_and_inactive(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.save_flags({KEY: "[1, 2, 3, 4]", OTHER: "[true, 1.5, null, null]"}, {})
    assert flag_store(store).load() == {OTHER: Flag(firing=True, since=1.5)}
    assert events(caplog) == ["flag_unreadable"]


def test_saved_suspect_hours_are_kept_out_of_the_baseline(store: Store) -> None:
    bench = ManagerBench(store)
    bench.write_days(8)
    bench.manager.catch_up(NOW)
    before = bench.table(NOW).get(KEY).baseline
    flag_store(store).save({}, {KEY: (NOON - DAY,)})
    bench.manager.catch_up(NOW)
    after = bench.table(NOW).get(KEY).baseline
    assert before is not None
    assert after is not None
    assert after.windows == before.windows - 1


def test_a_failing_database_is_logged_once(store: WatchedStore, caplog: pytest.LogCaptureFixture) -> None:
    store.refuses_writes = True
    flags = flag_store(store)
    for since in range(3):
        flags.save({KEY: Flag(firing=True, since=since)}, {})
    flags.save({}, {})
    assert events(caplog) == ["flags_not_saved"]
