"""Which series are kept, under which names, and what happens at the limit."""

import threading
import time
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.ingest.series_filter import SeriesFilter, SeriesRules
from exporter.model.pattern import Pattern
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from tests.support.samples import events

CART = SeriesKey("shop", "GET /cart")
LOGIN = SeriesKey("auth", "login")
HEALTH = SeriesKey("shop", "GET /healthz")


def rules(
    *, include: str = "", exclude: str = "", rename: Sequence[tuple[str, str]] = (), max_series: int = 10_000
) -> SeriesRules:
    return SeriesRules(
        include=[Pattern(pattern) for pattern in include.split()],
        exclude=[Pattern(pattern) for pattern in exclude.split()],
        rename=[(Pattern(pattern), replacement) for pattern, replacement in rename],
        placeholders=False,
        max_series=max_series,
        exclude_probes=False,
    )


def test_every_series_is_kept_under_its_own_name_without_rules() -> None:
    series_filter = SeriesFilter(rules())
    assert series_filter.resolve(CART) == CART
    assert series_filter.resolve(SeriesKey("", "")) == SeriesKey("", "")
    assert len(series_filter) == 2


def test_one_include_must_match_and_no_exclude() -> None:
    series_filter = SeriesFilter(rules(include="^shop/ login$", exclude="healthz"))
    assert series_filter.resolve(CART) == CART
    assert series_filter.resolve(LOGIN) == LOGIN
    assert series_filter.resolve(HEALTH) == "filtered"
    assert series_filter.resolve(SeriesKey("auth", "logout")) == "filtered"
    assert len(series_filter) == 2


def test_patterns_match_service_and_span_joined_by_a_slash() -> None:
    series_filter = SeriesFilter(rules(exclude="^shop/GET"))
    assert series_filter.resolve(CART) == "filtered"
    assert series_filter.resolve(SeriesKey("workshop", "GET /cart")) != "filtered"


def test_series_renamed_to_the_same_name_are_one() -> None:
    series_filter = SeriesFilter(rules(rename=[(r"/\d+", "/{id}"), (r"\?.*$", "")], max_series=1))
    kept = SeriesKey("shop", "GET /order/{id}")
    assert series_filter.resolve(SeriesKey("shop", "GET /order/17")) == kept
    assert series_filter.resolve(SeriesKey("shop", "GET /order/18?page=2")) == kept
    assert series_filter.resolve(kept) == kept
    assert len(series_filter) == 1


def test_rename_comes_before_exclude() -> None:
    series_filter = SeriesFilter(rules(exclude="secret", rename=[("secret", "public")]))
    assert series_filter.resolve(SeriesKey("shop", "secret")) == SeriesKey("shop", "public")


def test_series_are_admitted_in_order_of_appearance() -> None:
    series_filter = SeriesFilter(rules(max_series=1))
    assert series_filter.resolve(CART) == CART
    assert series_filter.resolve(LOGIN) == "series_limit"
    assert series_filter.resolve(CART) == CART
    assert (len(series_filter), series_filter.dropped) == (1, 1)


def test_rejected_series_is_counted_once() -> None:
    series_filter = SeriesFilter(rules(max_series=1))
    series_filter.resolve(CART)
    for _ in range(5):
        assert series_filter.resolve(LOGIN) == "series_limit"
        assert series_filter.resolve(HEALTH) == "series_limit"
    assert series_filter.dropped == 2


def test_preloaded_series_are_admitted_first_in_their_order() -> None:
    series_filter = SeriesFilter(rules(max_series=2, exclude="healthz"))
    series_filter.preload([HEALTH, LOGIN, CART, SeriesKey("shop", "third")])
    assert len(series_filter) == 2
    assert series_filter.resolve(LOGIN) == LOGIN
    assert series_filter.resolve(CART) == CART
    assert series_filter.resolve(HEALTH) == "filtered"
    assert series_filter.resolve(SeriesKey("shop", "third")) == "series_limit"


def test_forgotten_series_makes_room() -> None:
    series_filter = SeriesFilter(rules(max_series=1))
    series_filter.resolve(CART)
    series_filter.resolve(LOGIN)
    series_filter.forget([CART, HEALTH])
    assert len(series_filter) == 0
    assert series_filter.resolve(LOGIN) == LOGIN
    assert series_filter.resolve(CART) == "series_limit"


def test_flood_of_new_names_is_bounded_in_memory_and_evicts_no_admitted_series() -> None:
    series_filter = SeriesFilter(rules(max_series=1))
    series_filter.resolve(CART)
    for number in range(100_010):
        series_filter.resolve(SeriesKey("scanner", f"GET /{number}"))
    assert series_filter.dropped == 100_010
    assert len(series_filter) == 1
    assert series_filter.resolve(CART) == CART
    # The first names have been dropped from the cache, so one of them counts as new.
    series_filter.resolve(SeriesKey("scanner", "GET /0"))
    assert series_filter.dropped == 100_011


@given(st.lists(st.sampled_from([SeriesKey("s", name) for name in "abcdefgh"])), st.integers(1, 8))
def test_resolve_is_stable_and_admits_no_more_than_the_limit(keys: list[SeriesKey], most: int) -> None:
    series_filter = SeriesFilter(rules(max_series=most))
    results: dict[SeriesKey, object] = {}
    for key in keys:
        result = series_filter.resolve(key)
        assert results.setdefault(key, result) == result
    distinct = list(dict.fromkeys(keys))
    assert [key for key, result in results.items() if result == key] == distinct[:most]
    assert series_filter.dropped == max(0, len(distinct) - most)
    assert len(series_filter) == min(most, len(distinct))


def test_concurrent_threads_get_the_same_results() -> None:
    series_filter = SeriesFilter(rules(max_series=50))
    keys = [SeriesKey("s", str(number)) for number in range(200)]
    start = threading.Barrier(4)
    results: list[list[object]] = []

    def resolve_all() -> None:
        start.wait()
        results.append([series_filter.resolve(key) for key in keys])

    threads = [threading.Thread(target=resolve_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(result == results[0] for result in results)
    assert (len(series_filter), series_filter.dropped) == (50, 150)


def test_placeholders_come_after_configured_renames() -> None:
    series_filter = SeriesFilter(
        SeriesRules(rename=[(Pattern(r"/orders/\d+"), "/orders/{order}")], placeholders=True, max_series=2)
    )
    assert series_filter.resolve(SeriesKey("shop-2024", "GET /orders/17/items/3")) == SeriesKey(
        "shop-2024", "GET /orders/{order}/items/{number}"
    )
    assert series_filter.resolve(SeriesKey("shop-2024", "GET /orders/18/items/4")) in series_filter.admitted()
    assert len(series_filter) == 1


def test_limit_is_logged_once_until_there_is_room_again(caplog: pytest.LogCaptureFixture) -> None:
    series_filter = SeriesFilter(rules(max_series=1), get_logger("series"))
    for key in (CART, LOGIN, HEALTH, LOGIN):
        series_filter.resolve(key)
    assert events(caplog) == ["series_limit_reached"]
    series_filter.forget([CART])
    for key in (LOGIN, CART, HEALTH):
        series_filter.resolve(key)
    assert len(caplog.records) == 2


def test_flood_of_long_names_takes_bounded_memory() -> None:
    series_filter = SeriesFilter(rules(max_series=10))
    tracemalloc.start()
    for number in range(40_000):
        series_filter.resolve(SeriesKey("scanner", f"GET /{'x' * 900}{number}"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Kept, these names would take 38 MB.
    assert peak < 24 << 20
    assert series_filter.dropped == 40_000 - 10


@pytest.mark.parametrize("part", ["a/", "a@", "1-", "f", "0", "a.b@", "%40", "2026-11-2", "12345678-1234-", "é"])
def test_hostile_name_of_100_kb_takes_milliseconds(part: str) -> None:
    series_filter = SeriesFilter(
        SeriesRules(
            include=[Pattern(r"^(\w+/?)*(.*)*")],
            exclude=[Pattern("/(.*/)*(health|ready)$"), Pattern("(a*)*b$")],
            rename=[(Pattern("(a|aa)+!"), "x"), (Pattern(r"(\d+)*x"), r"\1")],
        )
    )
    started = time.thread_time()
    series_filter.resolve(SeriesKey("edge", part * (100_000 // len(part)) + "!"))
    assert time.thread_time() - started < 1
