"""RecentTraces and evaluation windows, independent of the order in which traces are added."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.detection.parameters import ALL_PARTS, NO_PARTS, Parameters
from exporter.detection.window import RecentTraces, end_second
from exporter.model.histogram import Digest, bucket_middle_seconds
from tests.support.naive_detector import NaiveDetector

PARAMETERS = Parameters(window_seconds=300, min_traces=10, max_window_seconds=3600)
WITHOUT_RUNS = replace(PARAMETERS, parts=ALL_PARTS._replace(runs=False))
traces = st.lists(st.tuples(st.integers(0, 5000), st.integers(-50, 50)), max_size=80)


def recent_of(entries: list[tuple[int, int]]) -> RecentTraces:
    recent = RecentTraces()
    for second, bucket in entries:
        recent.add(second, bucket)
    return recent


@pytest.mark.parametrize(
    ("end_ns", "second"),
    [(0, 0), (1, 1), (1_000_000_000, 1), (1_000_000_001, 2), (1_767_571_200_999_999_999, 1_767_571_201)],
)
def test_end_second_rounds_up(end_ns: int, second: int) -> None:
    assert end_second(end_ns) == second


@given(traces, st.integers(0, 5400), st.integers(0, 2**32))
def test_window_is_extended_until_it_has_enough_traces(entries: list[tuple[int, int]], now: int, seed: int) -> None:
    naive = [(second, 0, bucket) for second, bucket in sorted(entries)]
    random.Random(seed).shuffle(entries)
    recent = recent_of(entries)
    for view, expected in (
        (recent.window(now, PARAMETERS), NaiveDetector.window(naive, now, 300, 10, 3600)),
        (recent.fresh_window(now, PARAMETERS), NaiveDetector.window(naive, now, 120, 5, 3600)),
    ):
        assert view.traces == len(expected)
        assert view.buckets == sorted(bucket for _, _, bucket in expected)
        if expected:
            assert view.first_second == expected[0][0]


@given(traces, st.lists(st.integers(0, 5400), min_size=1, max_size=6))
def test_discard_does_not_change_later_windows(entries: list[tuple[int, int]], ticks: list[int]) -> None:
    whole, trimmed = recent_of(entries), recent_of(entries)
    for now in sorted(ticks):
        trimmed.discard(now, PARAMETERS)
        assert trimmed.window(now, PARAMETERS).buckets == whole.window(now, PARAMETERS).buckets
        assert trimmed.fresh_window(now, PARAMETERS).buckets == whole.fresh_window(now, PARAMETERS).buckets
    assert len(trimmed) <= len(whole)


def test_discard_drops_old_traces() -> None:
    first_method = replace(PARAMETERS, parts=NO_PARTS)
    recent = recent_of([(second, 0) for second in range(1000)])
    recent.discard(1000, first_method)
    assert len(recent) == 299
    recent.discard(2000, first_method)
    assert len(recent) == 10
    recent.discard(4600, first_method)
    assert len(recent) == 0


def test_old_traces_are_counted_by_mark() -> None:
    recent = recent_of([(second, second % 2) for second in range(1, 6001)])
    recent.discard(6000, WITHOUT_RUNS)
    assert len(recent) == 11 * 2 + 300
    assert recent.by_mark(4200, 6000) == [(mark, [0] * 150 + [1] * 150) for mark in range(4500, 6001, 300)]
    recent.add(5000, 7)
    recent.discard(6300, WITHOUT_RUNS)
    assert recent.by_mark(4800, 5100) == [(5100, [0] * 150 + [1] * 150 + [7])]
    recent.keep(lambda _: True)
    assert recent.by_mark(4800, 5100) == []


def test_runs_are_kept_for_four_hours_unless_they_have_many_different_durations() -> None:
    sparse = recent_of([(3600 * hour, hour) for hour in range(1, 9)])
    sparse.discard(3600 * 8, PARAMETERS)
    assert sparse.by_mark(0, 3600 * 8) == [(3600 * hour, [hour]) for hour in range(5, 9)]
    dense = recent_of([(300 * mark, bucket) for mark in range(1, 97) for bucket in range(20)])
    dense.discard(3600 * 8, PARAMETERS)
    assert [mark for mark, _ in dense.by_mark(0, 3600 * 8)] == list(range(3600 * 8 - 11 * 300, 3600 * 8 + 1, 300))


@given(traces)
def test_iteration_round_trip(entries: list[tuple[int, int]]) -> None:
    recent = recent_of(entries)
    assert list(RecentTraces(recent)) == list(recent)
    assert sum(count for _, _, count in recent) == len(recent) == len(entries)


@given(st.lists(st.tuples(st.integers(0, 900), st.lists(st.integers(-9, 9), max_size=6)), max_size=9))
def test_extend_equals_adding_single_traces_in_any_order(batches: list[tuple[int, list[int]]]) -> None:
    recent = RecentTraces()
    for second, buckets in batches:
        recent.extend(second, buckets)
    single = [(second, bucket) for second, buckets in batches for bucket in buckets]
    assert list(recent) == list(recent_of(single))


@given(traces, st.integers(0, 5400), st.integers(0, 5400))
def test_after_and_split_divide_a_window_by_end_time(entries: list[tuple[int, int]], now: int, instant: int) -> None:
    view = recent_of(entries).window(now, PARAMETERS)
    later, earlier = view.split([instant, -1])
    assert view.after(instant).buckets == later
    assert sorted(later + earlier) == view.buckets


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=50), st.floats(0, 1))
def test_quantiles_are_those_of_a_digest(values: list[int], q: float) -> None:
    view = recent_of([(1, bucket) for bucket in values]).window(1, PARAMETERS)
    digest = Digest({bucket: values.count(bucket) for bucket in values})
    assert view.quantile_bucket(q) == digest.quantile_bucket(q)
    assert view.quantile_seconds(q) == bucket_middle_seconds(view.quantile_bucket(q))


def test_trace_that_ends_after_now_is_not_in_the_window() -> None:
    recent = recent_of([(100, 1), (200, 2)])
    assert recent.window(150, PARAMETERS).buckets == [1]
    assert recent.window(199.5, PARAMETERS).buckets == [1, 2]
