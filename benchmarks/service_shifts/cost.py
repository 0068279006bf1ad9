"""CPU time that verdicts on services take: ``python -m benchmarks.service_shifts.cost``.

Of a poll cycle and a new baseline table with 10,000 series, and of learning from a stored week with fewer: from
nothing, as after a start, and at a turn of the hour.
"""

import random
import sys
import time
from collections.abc import Callable
from typing import Final

from benchmarks.report import table
from exporter.baseline.levels import Baseline, FallbackLevel
from exporter.detection.parameters import Parameters
from exporter.detection.service_shift import ServiceBaseline
from exporter.detection.thresholds import Thresholds
from exporter.evaluation.baseline_table import BaselineTable, SeriesBaseline
from exporter.evaluation.live.services import LiveServices, ServiceFlagStore
from exporter.evaluation.service_history import REACH_SECONDS, ServiceHistory
from exporter.evaluation.snapshot import SeriesStatus
from exporter.model.calendar import HOUR_SECONDS, Calendar, DayType, HourClock, Slot
from exporter.model.deviations import MAX_LANES, encode_deviations
from exporter.model.histogram import bucket_middle_seconds
from exporter.model.hour_evaluation import HourEvaluation
from exporter.model.service import ServiceKey
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.store import SeriesEvaluation, Store

_NOW: Final = 1_767_571_200
_SERIES: Final = 10_000
_STORED_SERIES: Final = 2_000
_ENDPOINTS: Final = (8, 100)
_BUCKET: Final = -106
_REPEATS: Final = 10


def _keys(number: int, endpoints: int) -> list[SeriesKey]:
    return [SeriesKey(f"service {each // endpoints}", f"GET /{each % endpoints}") for each in range(number)]


def _cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def live_rows(endpoints: int) -> list[tuple[str, str, str]]:
    """Measure a poll cycle in which no service is shifted."""
    rng, keys = random.Random(1), _keys(_SERIES, endpoints)
    usual = bucket_middle_seconds(_BUCKET)
    baseline = Baseline(FallbackLevel.EXACT, Slot(12, DayType.WEEKDAY), True, 5, 500, usual, 2 * usual, 0.01)
    expected = SeriesBaseline(_NOW, baseline, thresholds=Thresholds((), 0.003, 0))
    services = {ServiceKey.of(key): ServiceBaseline(0.1) for key in keys}
    tables = [BaselineTable(_NOW, dict.fromkeys(keys, expected), services=services) for _ in range(2)]
    statuses = [
        SeriesStatus(
            key,
            baseline,
            current_traces=20,
            current_p50_seconds=bucket_middle_seconds(_BUCKET + round(rng.gauss(0, 3))),
        )
        for key in keys
    ]
    store = Store.in_memory()
    flags = ServiceFlagStore(store, monotonic=time.monotonic, log=get_logger("benchmark"))
    live = LiveServices(Parameters(), flags, get_logger("benchmark"))
    live.tick(statuses, tables[0], _NOW)
    poll = min(_cpu_seconds(lambda: live.tick(statuses, tables[0], _NOW + 15)) for _ in range(_REPEATS))
    turn = _cpu_seconds(lambda: live.tick(statuses, tables[1], _NOW + 30))
    store.close()
    name = f"{_SERIES:,} series, services of {endpoints}"
    return [
        (f"{name}: a poll cycle", f"{poll * 1e3:.1f} ms", ""),
        (f"{name}: with a new table", f"{turn * 1e3:.1f} ms", ""),
    ]


def stored_rows(endpoints: int) -> list[tuple[str, str, str]]:
    """Measure learning from a stored week."""
    rng, keys, store = random.Random(2), _keys(_STORED_SERIES, endpoints), Store.in_memory()
    drawn = [
        HourEvaluation(deviations=encode_deviations([round(rng.gauss(0, 5)) for _ in range(MAX_LANES)]))
        for _ in range(500)
    ]

    def evaluate(start: int, end: int) -> list[SeriesEvaluation]:
        hours = range(start, end, HOUR_SECONDS)
        return [SeriesEvaluation(key, {hour: rng.choice(drawn) for hour in hours}, b"") for key in keys]

    store.save_evaluations(evaluate(_NOW - REACH_SECONDS, _NOW))
    history = ServiceHistory(store, HourClock(Calendar()))
    first = _cpu_seconds(lambda: history.learn(keys, _NOW))
    turns = []
    for until in range(_NOW + HOUR_SECONDS, _NOW + 6 * HOUR_SECONDS, HOUR_SECONDS):
        evaluated = evaluate(until - HOUR_SECONDS, until)
        store.save_evaluations(evaluated)
        history.note_evaluated(evaluated)
        turns.append(_cpu_seconds(lambda until=until: history.learn(keys, until)))  # type: ignore[misc]
    store.close()
    name = f"{_STORED_SERIES:,} series, services of {endpoints}"
    return [
        (f"{name}: first learning", f"{first:.2f} s", f"{first / _STORED_SERIES * 1e6:.0f} µs a series"),
        (
            f"{name}: turn of the hour",
            f"{min(turns) * 1e3:.0f} ms",
            f"{min(turns) / _STORED_SERIES * 1e6:.0f} µs a series",
        ),
    ]


def main() -> int:
    """Print the figures."""
    rows = [row for endpoints in _ENDPOINTS for row in (*live_rows(endpoints), *stored_rows(endpoints))]
    print(table(("what", "CPU", ""), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
