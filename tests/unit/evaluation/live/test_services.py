import logging
import random
from collections.abc import Iterator
from dataclasses import replace
from math import log2

import pytest

from exporter.detection.parameters import Parameters
from exporter.detection.service_shift import ServiceBaseline
from exporter.evaluation.baseline_table import EMPTY_TABLE, BaselineTable, SeriesBaseline
from exporter.evaluation.live.evaluator import LiveEvaluator
from exporter.evaluation.live.services import LiveServices, ServiceFlagStore
from exporter.evaluation.service_history import ServiceHistory
from exporter.evaluation.snapshot import SeriesStatus
from exporter.model.calendar import Calendar, HourClock
from exporter.model.deviations import MARKS
from exporter.model.service import ServiceKey
from exporter.model.span import SeriesKey, Span
from exporter.runtime.logs import get_logger
from exporter.store import Store
from tests.support.evaluation import ManagerBench
from tests.support.samples import DAY, HOUR, NOON, NS, SETTINGS, baseline, events, logged, thresholds

SERVICE = ServiceKey("shop")
KEYS = [SeriesKey("shop", f"GET /{number}") for number in range(5)]
NOW = NOON + 1800.0


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store.in_memory()
    yield store
    store.close()


def new_services(store: Store) -> LiveServices:
    flags = ServiceFlagStore(store, monotonic=lambda: 0.0, log=get_logger("test"))
    return LiveServices(Parameters(), flags, get_logger("test"), max_pause_seconds=60.0)


def table_of(keys: list[SeriesKey], swing: float = 0.05) -> BaselineTable:
    expected = SeriesBaseline(float(NOON), baseline(0.1), 0.4, thresholds(0.1))
    services = {ServiceKey.of(key): ServiceBaseline(swing) for key in keys}
    return BaselineTable(NOON, dict.fromkeys(keys, expected), services=services)


def statuses(factor: float, keys: list[SeriesKey] = KEYS, traces: int = 20) -> list[SeriesStatus]:
    return [SeriesStatus(key, baseline(0.1), current_traces=traces, current_p50_seconds=0.1 * factor) for key in keys]


TABLE = table_of(KEYS)


def test_flag_of_a_service_fires_and_resolves(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    services = new_services(store)
    found = [services.tick(statuses(1.5), TABLE, NOW + 15 * number)[0] for number in range(10)]
    assert [each.firing for each in found] == [False] * 8 + [True] * 2
    status = found[-1]
    assert status.since == NOW
    assert status.verdict is not None
    assert status.verdict.ratio == pytest.approx(1.5, rel=0.02)
    assert logged(caplog, "service_shift_firing") == [
        {"service_name": "shop", "ratio": 1.51, "limit_ratio": 1.25, "endpoints": 5}
    ]
    calm = [services.tick(statuses(1.0), TABLE, NOW + 15 * number)[0] for number in range(10, 20)]
    assert not calm[-1].firing
    assert events(caplog)[-1] == "service_shift_resolved"


def test_services_are_apart(store: Store) -> None:
    others = [key._replace(service_name="bank") for key in KEYS]
    found = new_services(store).tick([*statuses(2.0), *statuses(1.0, others)], table_of([*KEYS, *others]), NOW)
    ratios = {each.key.service_name: round(each.verdict.ratio, 1) for each in found if each.verdict is not None}
    assert ratios == {"bank": 1.0, "shop": 2.0}


def test_labels_distinguish_services(store: Store) -> None:
    others = [key._replace(labels=(("env", "prod"),)) for key in KEYS]
    found = new_services(store).tick([*statuses(2.0), *statuses(1.0, others)], table_of([*KEYS, *others]), NOW)
    assert [each.key.labels for each in found] == [(), (("env", "prod"),)]


@pytest.mark.parametrize(
    "current",
    [
        pytest.param(statuses(2.0, KEYS[:3]), id="few endpoints"),
        pytest.param(statuses(2.0, traces=2), id="hardly any requests"),
        pytest.param([replace(each, current_p50_seconds=None) for each in statuses(2.0)], id="no requests"),
    ],
)
def test_too_little_traffic_is_unknown(store: Store, current: list[SeriesStatus]) -> None:
    assert new_services(store).tick(current, TABLE, NOW) == ()


def test_service_that_is_not_learned_is_unknown(store: Store) -> None:
    assert new_services(store).tick(statuses(2.0), replace(TABLE, services={}), NOW) == ()


def test_series_without_thresholds_do_not_count(store: Store) -> None:
    learning = {KEYS[0]: replace(TABLE.series[KEYS[0]], thresholds=None)}
    table = replace(TABLE, series={**TABLE.series, **learning})
    (status,) = new_services(store).tick(statuses(2.0), table, NOW)
    assert status.verdict is not None
    assert status.verdict.endpoints == 4


def test_flag_stays_while_nothing_is_evaluated(store: Store) -> None:
    services = new_services(store)
    for number in range(10):
        services.tick(statuses(1.5), TABLE, NOW + 15 * number)
    for held in (services.hold(), services.tick(statuses(1.0), EMPTY_TABLE, NOW + 200)):
        (status,) = held
        assert (status.key, status.verdict, status.firing, status.since) == (SERVICE, None, True, NOW)


class TestRestart:
    def test_firing_flag_survives(self, store: Store) -> None:
        services = new_services(store)
        for number in range(10):
            services.tick(statuses(1.5), TABLE, NOW + 15 * number)
        (status,) = new_services(store).tick(statuses(1.5), TABLE, NOW + 300)
        assert (status.firing, status.since) == (True, NOW)

    def test_hold_time_starts_again(self, store: Store) -> None:
        services = new_services(store)
        for number in range(8):
            services.tick(statuses(1.5), TABLE, NOW + 15 * number)
        (status,) = new_services(store).tick(statuses(1.5), TABLE, NOW + 120)
        assert not status.firing

    def test_damaged_flags_are_inactive(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        store.save_service_flags("[[")
        assert new_services(store).hold() == ()
        assert events(caplog) == ["flag_unreadable"]


class _Shop:
    """Five endpoints with some load of their own and some that they share, from a seed."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self.spans: list[Span] = []

    def hour(self, start: int, per_hour: int = 240) -> dict[SeriesKey, list[float]]:
        """Return the durations of an hour, and keep its spans; requests start evenly."""
        common = [self._rng.gauss(0, 0.1) for _ in range(MARKS)]
        found = {}
        for key in KEYS:
            durations = found[key] = [
                round(0.05 * 2.0 ** (self._rng.gauss(0, 0.3) + common[number * MARKS // per_hour]), 6)
                for number in range(per_hour)
            ]
            for number, seconds in enumerate(durations):
                started_ns = (start + number * HOUR // per_hour) * NS
                self.spans.append(Span(f"{len(self.spans):032x}", "1" * 16, key, started_ns, round(seconds * NS)))
        return found


def test_history_and_live_agree(store: Store) -> None:
    shop, bench = _Shop(3), ManagerBench(store)
    for start in range(NOON - 3 * DAY, NOON, HOUR):
        bench.write(start, shop.hour(start))
    bench.manager.catch_up(NOON + 60.0)
    table = bench.table(NOON + 60.0)
    live = LiveEvaluator(SETTINGS, lambda key: key, started_at=float(NOON), remembered_seconds=4000.0, flags={})
    services, shop.spans = new_services(store), []
    bench.write(NOON, shop.hour(NOON))
    seen = []
    for mark in range(NOON + 300, NOON + HOUR, 300):
        live.add_spans([each for each in shop.spans if mark - 300 < each.end_ns / NS <= mark], mark, table)
        (status,) = services.tick(live.tick(mark, table).statuses, table, mark)
        assert status.verdict is not None
        seen.append(round(32 * log2(status.verdict.ratio)))
    bench.settled_until = NOON + HOUR
    bench.manager.catch_up(NOON + HOUR + 60.0)
    history = ServiceHistory(store, HourClock(Calendar()))
    history.learn(store.series(), NOON + HOUR)
    assert history.deviations(SERVICE)[NOON] == seen + history.deviations(SERVICE)[NOON][MARKS - 1 :]
    assert len(set(seen)) > 3
