"""Availability by slot agrees with the pool that is chosen for each slot."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.baseline.availability import series_availability
from exporter.baseline.levels import SLOTS, FallbackLevel, FallbackRules, choose_pool
from exporter.model.calendar import Calendar, HourClock
from exporter.model.histogram import Digest
from exporter.model.histogram_codec import encode_digest
from exporter.model.hour_evaluation import HourEvaluation
from exporter.model.hours import SeriesHours
from exporter.model.series_hour import SeriesHour, StoredWindow
from tests.support.samples import DAY, HOUR, NOON

CLOCK = HourClock(Calendar())
AT = NOON
SINCE = AT - 14 * DAY

hour_numbers = st.lists(st.integers(0, 14 * 24 - 2), unique=True, max_size=60)
"""Hours anywhere in the look-back."""
clustered = st.lists(st.tuples(st.integers(0, 13), st.sampled_from([2, 3, 12])), unique=True, max_size=40).map(
    lambda pairs: [day * 24 + hour for day, hour in pairs]
)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), numbers=st.one_of(hour_numbers, clustered))
def test_level_and_maturity_are_those_of_the_chosen_pool(data: st.DataObject, numbers: list[int]) -> None:
    starts = [SINCE + number * HOUR for number in sorted(numbers) if number < 14 * 24 - 1]
    counts = data.draw(st.lists(st.integers(1, 60), min_size=len(starts), max_size=len(starts)))
    some = st.lists(st.sampled_from(starts), unique=True) if starts else st.just([])
    quarantined, suspects = set(data.draw(some)), set(data.draw(some))
    rules = FallbackRules(
        min_samples=data.draw(st.just(50) | st.integers(1, 200)),
        nearby_min_samples=data.draw(st.just(20) | st.integers(1, 200)),
        enabled=data.draw(st.booleans() | st.just(True)),
        nearby_enabled=data.draw(st.booleans()),
        daytype_enabled=data.draw(st.booleans()),
        nearby_hours_range=data.draw(st.integers(1, 13)),
    )
    history = SeriesHours(
        SeriesHour(
            CLOCK.hour(start),
            [StoredWindow(start, count, encode_digest(Digest({0: count})))],
            HourEvaluation(start in quarantined),
        )
        for start, count in zip(starts, counts, strict=True)
    )
    traffic = [(CLOCK.hour(start), count) for start, count in zip(starts, counts, strict=True)]
    found = series_availability(traffic, rules, quarantined=quarantined, suspects=suspects)
    assert list(found) == list(SLOTS)
    for slot in SLOTS:
        pool = choose_pool(history, AT, slot, rules, suspects=suspects)
        expected = (FallbackLevel.UNAVAILABLE, False) if pool is None else (pool.level, pool.mature)
        assert (found[slot].level, found[slot].mature) == expected, slot
        own = choose_pool(history, AT, slot, replace(rules, enabled=False, min_samples=1), suspects=suspects)
        assert (found[slot].traces, found[slot].hours) == (
            (0, 0) if own is None else (own.digest.count, len(own.hours))
        )
