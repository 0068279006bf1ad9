import random
from collections.abc import Iterator

import pytest

from exporter.evaluation.service_history import REACH_SECONDS, ServiceHistory
from exporter.model.calendar import Calendar, HourClock
from exporter.model.deviations import MARKS, encode_deviations
from exporter.model.hour_evaluation import HourEvaluation
from exporter.model.service import ServiceKey
from exporter.model.span import SeriesKey
from exporter.store import SeriesEvaluation, Store
from tests.support.samples import DAY, HOUR, NOON

SERVICE = ServiceKey("shop")
KEYS = [SeriesKey("shop", f"GET /{number}") for number in range(5)]
CLOCK = HourClock(Calendar())


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store.in_memory()
    yield store
    store.close()


def evaluation(rng: random.Random, level: int = 0, *, quarantined: bool = False) -> HourEvaluation:
    deviations = encode_deviations([level + round(rng.gauss(0, 5)) for _ in range(MARKS)])
    return HourEvaluation(quarantined, deviations=deviations)


def record(
    store: Store,
    history: ServiceHistory | None,
    hours: range,
    seed: int = 1,
    *,
    level: int = 0,
    quarantined: bool = False,
) -> None:
    """Store evaluations of all series, and notify the history."""
    rng = random.Random(seed)
    found = [
        SeriesEvaluation(key, {start: evaluation(rng, level, quarantined=quarantined) for start in hours}, b"")
        for key in KEYS
    ]
    store.save_evaluations(found)
    if history is not None:
        history.note_evaluated(found)


def learned_again(store: Store, until: int) -> object:
    return ServiceHistory(store, CLOCK).learn(store.series(), until)


def test_learns_from_stored_evaluations(store: Store) -> None:
    record(store, None, range(NOON - 3 * DAY, NOON, HOUR))
    learned = ServiceHistory(store, CLOCK).learn(store.series(), NOON)
    assert set(learned) == {SERVICE}
    assert 0.02 < learned[SERVICE][12].swing_octaves < 0.15


def test_service_with_few_series_is_not_judged(store: Store) -> None:
    record(store, None, range(NOON - 3 * DAY, NOON, HOUR))
    assert ServiceHistory(store, CLOCK).learn(KEYS[:3], NOON) == {}


def test_quarantined_hours_are_left_out(store: Store) -> None:
    record(store, None, range(NOON - 3 * DAY, NOON, HOUR))
    calm = learned_again(store, NOON)
    record(store, None, range(NOON - 4 * DAY, NOON - 3 * DAY, HOUR), level=90, quarantined=True)
    assert learned_again(store, NOON) == calm


def test_hours_out_of_reach_are_left_out(store: Store) -> None:
    first = NOON - REACH_SECONDS - DAY
    record(store, None, range(first, first + DAY, HOUR), level=90)
    record(store, None, range(first + DAY, NOON, HOUR))
    learned = learned_again(store, NOON)
    other = Store.in_memory()
    record(other, None, range(first + DAY, NOON, HOUR))
    assert learned_again(other, NOON) == learned
    other.close()


def test_continues_as_if_everything_were_read_again(store: Store) -> None:
    history, rng = ServiceHistory(store, CLOCK), random.Random(7)
    record(store, history, range(NOON - 9 * DAY, NOON, HOUR))
    for step in range(30):
        until = NOON + step * HOUR
        record(store, history, range(until - HOUR, until, HOUR), seed=step, quarantined=rng.random() < 0.2)
        if step % 4 == 1:
            # An hour before is quarantined or released afterwards.
            start = until - rng.randrange(2, 40) * HOUR
            record(store, history, range(start, start + HOUR, HOUR), seed=step, quarantined=rng.random() < 0.5)
        if step % 3:
            assert history.learn(store.series(), until) == learned_again(store, until)


def test_deleted_evaluations_are_forgotten(store: Store) -> None:
    history = ServiceHistory(store, CLOCK)
    record(store, history, range(NOON - 3 * DAY, NOON, HOUR), level=20)
    history.learn(store.series(), NOON)
    store.delete_evaluations()
    history.note_deleted(None)
    assert history.learn(store.series(), NOON) == {}
    record(store, history, range(NOON - 3 * DAY, NOON, HOUR), seed=2)
    store.delete_evaluations_of(KEYS[:1])
    history.note_deleted(KEYS[:1])
    assert history.learn(store.series(), NOON) == learned_again(store, NOON)
