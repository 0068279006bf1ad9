import threading
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import msgspec

from exporter.detection.schedule import HourThresholds
from exporter.detection.service_shift import ServiceBaseline
from exporter.detection.thresholds import LevelThreshold, LongThreshold, SmallShiftThresholds
from exporter.evaluation.baseline_table import (
    EMPTY_TABLE,
    NO_BASELINE,
    BaselineCache,
    BaselineTable,
    SeriesBaseline,
    decode_table,
    encode_table,
)
from exporter.model.service import ServiceKey
from exporter.model.span import SeriesKey
from tests.support.evaluation import ledger_status
from tests.support.samples import HOUR, KEY, NOON, Clock, thresholds

PROFILE = ((32,) + (0,) * 11,) * 3
SMALL = SmallShiftThresholds((1, 2, 3), 0.003, (LongThreshold(4, 5),) * 3, (LevelThreshold(6, 7, 8, 9),) * 3, PROFILE)
NEWER, OLDER = thresholds(0.1)._replace(small=SMALL, profile=PROFILE), thresholds(0.3)
Result = TypeVar("Result")


def table(start: int, *, before: BaselineTable | None = None, newer: bool = True) -> BaselineTable:
    return BaselineTable(start, {KEY: SeriesBaseline(thresholds=NEWER if newer else OLDER)}, before)


class TestTable:
    def test_get_returns_no_baseline_for_a_series_without_history(self) -> None:
        assert table(NOON).get(SeriesKey("checkout", "POST /pay")) is NO_BASELINE
        assert table(NOON).schedule(SeriesKey("checkout", "POST /pay")) == []

    def test_schedule_is_newest_first(self) -> None:
        older = table(NOON - HOUR, newer=False)
        expected = [HourThresholds(NOON, NEWER), HourThresholds(NOON - HOUR, OLDER)]
        assert table(NOON, before=older).schedule(KEY) == expected

    def test_schedule_ends_at_the_first_gap(self) -> None:
        gap = BaselineTable(NOON - HOUR, before=table(NOON - 2 * HOUR))
        assert table(NOON, before=gap).schedule(KEY) == [HourThresholds(NOON, NEWER)]
        assert BaselineTable(NOON, before=table(NOON - HOUR)).schedule(KEY) == []

    def test_repr_leaves_out_the_series(self) -> None:
        assert repr(table(NOON)) == f"BaselineTable(start={NOON})"

    def test_covers_the_ledger_state_that_it_was_built_at_and_no_other(self) -> None:
        built = BaselineTable(NOON, backfill=ledger_status(done=3, pending=1))
        assert built.covers(ledger_status(done=3, pending=1))
        assert not built.covers(ledger_status(done=4))
        assert EMPTY_TABLE.covers(ledger_status(done=4))


class TestEncoding:
    def test_decode_returns_the_encoded_table(self) -> None:
        built = table(NOON, before=table(NOON - HOUR, newer=False))
        decoded = decode_table(encode_table(replace(built, backfill=ledger_status(done=3)), "basis"), "basis")
        assert decoded == built
        assert decoded.backfill == ledger_status(done=3)

    def test_labels_are_part_of_the_encoded_series(self) -> None:
        labelled = dict.fromkeys((KEY, KEY._replace(labels=(("env", "prod"), ("zone", "a")))), NO_BASELINE)
        decoded = decode_table(encode_table(BaselineTable(NOON, labelled), "basis"), "basis")
        assert decoded is not None
        assert decoded.series == labelled
        assert all(isinstance(key, SeriesKey) for key in decoded.series)

    def test_baselines_of_services_are_kept(self) -> None:
        services = {ServiceKey("checkout", (("env", "prod"),)): ServiceBaseline(0.125, (0,) * 11 + (40,))}
        table = BaselineTable(NOON, {KEY: NO_BASELINE}, services=services)
        assert decode_table(encode_table(table, "basis"), "basis") == table

    def test_a_table_from_before_there_were_labels_is_decoded(self) -> None:
        hours = [(NOON, [(KEY[:2], NO_BASELINE)])]
        data = zlib.compress(msgspec.msgpack.encode(("basis", hours)))
        assert decode_table(data, "basis") == BaselineTable(NOON, {KEY: NO_BASELINE})

    def test_decode_returns_none_for_another_basis_and_for_damaged_bytes(self) -> None:
        data = encode_table(BaselineTable(0), "basis")
        assert decode_table(data, "basis") == BaselineTable(0)
        assert decode_table(data, "another") is None
        assert decode_table(data[:-3], "basis") is None
        assert decode_table(b"", "basis") is None


class RecordingCondition(threading.Condition):
    """Records how long readers would wait, and takes no time but that of a clock."""

    def __init__(self, clock: Clock, takes: float = 0.0) -> None:
        super().__init__()
        self._clock = clock
        self._takes = takes
        self.timeouts: list[float | None] = []
        self.on_wait: Callable[[], object] = lambda: None

    def wait_for(self, predicate: Callable[[], Result], timeout: float | None = None) -> Result:
        self.timeouts.append(timeout)
        self._clock.now += self._takes
        self.on_wait()
        return predicate()


class TestCache:
    def test_get_waits_for_each_hour_until_the_patience_is_used_up(self) -> None:
        clock = Clock(0.0)
        condition = RecordingCondition(clock, takes=1.5)
        cache = BaselineCache(2.0, clock, lambda table: None, changed=condition)
        for hour in (NOON, NOON, NOON, NOON + HOUR):
            assert cache.get(hour) is EMPTY_TABLE
        assert condition.timeouts == [2.0, 0.5, 0.0, 2.0]

    def test_get_returns_a_table_that_arrives_while_it_waits(self) -> None:
        missed: list[BaselineTable] = []
        clock = Clock(0.0)
        condition = RecordingCondition(clock)
        cache = BaselineCache(2.0, clock, missed.append, changed=condition)
        condition.on_wait = lambda: cache.put(table(NOON))
        assert cache.get(NOON).start == NOON
        assert missed == []

    def test_put_tells_whether_a_reader_has_missed_the_table(self) -> None:
        missed: list[BaselineTable] = []
        cache = BaselineCache(0.0, Clock(0.0), missed.append)
        assert not cache.put(table(NOON))
        assert cache.get(NOON + HOUR).start == NOON
        assert cache.get(NOON + HOUR).start == NOON
        assert missed == [table(NOON)]
        assert cache.put(table(NOON + HOUR))
        assert cache.get(NOON + HOUR).start == NOON + HOUR
        assert not cache.put(table(NOON + 2 * HOUR))

    def test_get_does_not_wait_once_the_cache_is_closed(self) -> None:
        cache = BaselineCache(3600.0, Clock(0.0), lambda table: None)
        cache.close()
        assert cache.get(NOON) is EMPTY_TABLE
