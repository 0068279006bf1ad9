"""The rate limit: what it admits, and what it counts."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from exporter.runtime.rate_limit import RateLimit
from tests.support.samples import Clock


def test_a_key_is_admitted_once_per_interval_with_the_number_of_suppressed_events() -> None:
    clock = Clock(1000)
    limit = RateLimit(60, clock)
    assert limit.admit("a") == 0
    clock.now += 59.9
    assert [limit.admit("a") for _ in range(3)] == [None, None, None]
    assert limit.admit("b") == 0
    clock.now += 0.1
    assert limit.admit("a") == 3
    assert limit.admit("a") is None
    clock.now += 60
    assert limit.admit("a") == 1


def test_keys_beyond_the_maximum_share_one_allowance() -> None:
    clock = Clock(1000)
    limit = RateLimit(60, clock, max_keys=2)
    assert [limit.admit(key) for key in "abcde"] == [0, 0, 0, None, None]
    clock.now += 30
    assert [limit.admit(key) for key in "afa"] == [None, None, None]
    clock.now += 30
    assert limit.admit("a") == 2
    assert limit.admit("g") == 0  # replaces b, whose pause is over
    assert limit.admit("h") == 3  # shared by d, e and f


def test_suppressed_events_of_a_replaced_key_are_reported_with_the_shared_ones() -> None:
    clock = Clock(1000)
    limit = RateLimit(60, clock, max_keys=1)
    assert [limit.admit(key) for key in "aaa"] == [0, None, None]
    clock.now += 60
    assert limit.admit("b") == 0
    assert limit.admit("c") == 2


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 50)), max_size=60))
def test_every_event_is_admitted_or_counted(steps: list[tuple[str, float]]) -> None:
    clock = Clock(1000)
    limit = RateLimit(60, clock)
    admissions = []
    for key, seconds in steps:
        clock.now += seconds
        admissions.append(limit.admit(key))
    clock.now += 60
    suppressed_count = sum(limit.admit(key) or 0 for key in "abc") + sum(suppressed or 0 for suppressed in admissions)
    assert suppressed_count == admissions.count(None)


def test_counts_are_exact_with_several_threads() -> None:
    clock = Clock(1000)
    limit = RateLimit(60, clock)
    admitted: list[int | None] = []

    def admit_often() -> None:
        admitted.extend(limit.admit("a") for _ in range(500))

    threads = [threading.Thread(target=admit_often) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (admitted.count(0), admitted.count(None)) == (1, 3999)
    clock.now += 60
    assert limit.admit("a") == 3999
