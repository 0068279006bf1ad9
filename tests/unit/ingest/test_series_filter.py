"""Which series are kept, under which names, and what happens at the limit."""

import threading
import time
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.ingest.series_filter import SeriesFilter, SeriesRules
from exporter.model.identity import Attribute, SeriesIdentity
from exporter.model.pattern import Pattern
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from tests.support.samples import events

CART = SeriesKey("shop", "GET /cart")
LOGIN = SeriesKey("auth", "login")
HEALTH = SeriesKey("shop", "GET /healthz")


def rules(
    *,
    include: str = "",
    exclude: str = "",
    rename: Sequence[tuple[str, str]] = (),
    max_series: int = 10_000,
    max_per_service: int = 1000,
) -> SeriesRules:
    return SeriesRules(
        include=[Pattern(pattern) for pattern in include.split()],
        exclude=[Pattern(pattern) for pattern in exclude.split()],
        rename=[(Pattern(pattern), replacement) for pattern, replacement in rename],
        placeholders=False,
        max_series=max_series,
        max_per_service=max_per_service,
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


# Labels

PROD, STAGING = (CART._replace(labels=(("env", each),)) for each in ("prod", "staging"))
BY_ENV = SeriesIdentity(((Attribute("resource", "env"),),))


@pytest.mark.parametrize(
    ("exclude", "kept"),
    [
        ('env="staging"', [PROD, CART]),
        (r'^shop/GET /cart\{env="prod"\}$', [STAGING, CART]),
        (r"^shop/GET /cart$", []),
        (r"cart\{", [CART]),
    ],
)
def test_patterns_match_with_and_without_labels(exclude: str, kept: list[SeriesKey]) -> None:
    series_filter = SeriesFilter(SeriesRules(exclude=[Pattern(exclude)], identity=BY_ENV))
    assert [key for key in (PROD, STAGING, CART) if series_filter.resolve(key) == key] == kept


def test_include_may_be_about_labels() -> None:
    series_filter = SeriesFilter(SeriesRules(include=[Pattern('env="prod"')], identity=BY_ENV))
    assert [series_filter.resolve(key) for key in (PROD, STAGING, CART)] == [PROD, "filtered", "filtered"]


def test_renaming_keeps_labels() -> None:
    series_filter = SeriesFilter(SeriesRules(rename=[(Pattern("cart"), "basket")], identity=BY_ENV))
    assert series_filter.resolve(PROD) == PROD._replace(span_name="GET /basket")


def test_stored_series_with_labels_that_are_not_configured_take_no_room() -> None:
    for identity, expected in ((BY_ENV, [CART, PROD]), (SeriesIdentity(), [CART])):
        series_filter = SeriesFilter(SeriesRules(identity=identity))
        series_filter.preload([CART, PROD, PROD._replace(labels=(("zone", "a"),))])
        assert sorted(series_filter.admitted()) == expected


def test_names_are_folded_by_service_and_labels() -> None:
    series_filter = SeriesFilter(SeriesRules(max_per_service=2, placeholders=False, identity=BY_ENV))
    keys = [each._replace(span_name=f"GET /{number}") for number in range(4) for each in (PROD, STAGING)]
    resolved = [series_filter.resolve(key) for key in keys]
    assert resolved == [*keys[:4], *(key.folded() for key in keys[4:])]
    assert series_filter.folded_names() == {"shop": 4}
    series_filter.forget([PROD.folded()])
    assert series_filter.folded_names() == {"shop": 2}
    SeriesFilter(SeriesRules()).preload([PROD.folded()])


# A service with too many span names


REST = SeriesKey("shop", "{other}")


def shop(number: int) -> SeriesKey:
    return SeriesKey("shop", f"GET /{number}")


def test_further_names_of_a_service_share_one_series() -> None:
    series_filter = SeriesFilter(rules(max_per_service=2))
    assert [series_filter.resolve(shop(number)) for number in range(4)] == [shop(0), shop(1), REST, REST]
    assert [series_filter.resolve(shop(number)) for number in (3, 1)] == [REST, shop(1)]
    assert series_filter.resolve(LOGIN) == LOGIN
    assert (series_filter.folded_names(), series_filter.dropped) == ({"shop": 2}, 0)
    assert series_filter.admitted() == [shop(0), shop(1), REST, LOGIN]


def test_a_service_whose_names_multiply_leaves_room_for_the_others_and_takes_bounded_memory() -> None:
    series_filter = SeriesFilter(rules(max_series=1500))
    tracemalloc.start()
    for number in range(100_000):
        series_filter.resolve(shop(number))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 48 << 20  # most of it is the cache of 100,000 names
    assert series_filter.folded_names() == {"shop": 99_000}
    others = [SeriesKey(f"service-{number}", "GET /") for number in range(499)]
    assert [series_filter.resolve(key) for key in others] == others
    assert (len(series_filter), series_filter.dropped) == (1500, 0)
    # The other limit holds for the series that names share, too.
    assert series_filter.resolve(LOGIN) == "series_limit"


def test_a_restart_folds_the_same_names() -> None:
    before = SeriesFilter(rules(max_per_service=3))
    for number in range(10):
        before.resolve(shop(number))
    after = SeriesFilter(rules(max_per_service=3))
    after.preload(before.admitted())
    assert after.folded_names() == {"shop": 0}
    assert [after.resolve(shop(number)) for number in range(10)] == [before.resolve(shop(n)) for n in range(10)]


def test_a_stored_history_with_more_names_is_folded_unless_the_limit_is_raised() -> None:
    stored = [*map(shop, range(5)), REST]
    lowered = SeriesFilter(rules(max_per_service=2))
    lowered.preload(stored)
    assert lowered.admitted() == [shop(0), shop(1), REST]
    raised = SeriesFilter(rules(max_per_service=7))
    raised.preload(stored)
    assert [raised.resolve(shop(number)) for number in range(9)] == [*map(shop, range(7)), REST, REST]


def test_names_that_no_longer_exist_make_room_and_a_service_without_folded_history_is_not_reported() -> None:
    series_filter = SeriesFilter(rules(max_per_service=2))
    for number in range(3):
        series_filter.resolve(shop(number))
    series_filter.forget([shop(0), REST, LOGIN])
    assert series_filter.folded_names() == {}
    assert [series_filter.resolve(shop(number)) for number in (2, 0)] == [shop(2), REST]
    series_filter.forget([shop(1), shop(2), REST])
    assert len(series_filter) == 0
    assert [series_filter.resolve(shop(number)) for number in (7, 8, 9)] == [shop(7), shop(8), REST]


def test_patterns_apply_to_folded_names() -> None:
    series_filter = SeriesFilter(rules(include="GET", exclude="/3$", max_per_service=1))
    resolved = [series_filter.resolve(SeriesKey("shop", name)) for name in ("GET /1", "GET /2", "GET /3", "POST /")]
    assert resolved == [SeriesKey("shop", "GET /1"), REST, "filtered", "filtered"]
    after = SeriesFilter(series_filter.rules)
    after.preload([REST])
    assert after.admitted() == [REST]
    without = SeriesFilter(rules(exclude="[{]other[}]", max_per_service=1))
    assert [without.resolve(shop(number)) for number in range(2)] == [shop(0), "filtered"]
    without.preload([REST])
    assert without.admitted() == [shop(0)]


def test_a_series_of_folded_names_is_not_searched_for_by_name() -> None:
    series_filter = SeriesFilter(rules(max_per_service=2, rename=[("DELETE", "GET")], exclude="healthz"))
    assert series_filter.is_searchable(shop(0))
    for number in range(3):
        series_filter.resolve(shop(number))
    keys = [shop(0), shop(2), REST, HEALTH, SeriesKey("shop", "DELETE /0"), LOGIN]
    assert [series_filter.is_searchable(key) for key in keys] == [True, False, False, False, False, True]


def test_the_series_of_a_name_is_known_without_admitting_it() -> None:
    series_filter = SeriesFilter(rules(max_per_service=1, rename=[("DELETE", "GET")]))
    assert series_filter.name_of(SeriesKey("shop", "DELETE /0")) == shop(0)
    assert len(series_filter) == 0
    for number in range(2):
        series_filter.resolve(shop(number))
    names = [series_filter.name_of(key) for key in (SeriesKey("shop", "DELETE /0"), shop(1), shop(9), LOGIN)]
    assert names == [shop(0), REST, REST, LOGIN]


def test_folding_is_logged_once_for_each_service_with_three_examples(caplog: pytest.LogCaptureFixture) -> None:
    series_filter = SeriesFilter(rules(max_per_service=2), get_logger("series"))
    for number in range(5):
        series_filter.resolve(shop(number))
    series_filter.forget([shop(0)])
    for number in range(7):
        series_filter.resolve(shop(number))
        series_filter.resolve(SeriesKey("auth", f"login {number}"))
    assert events(caplog) == ["service_folded", "service_folded"]
    fields = caplog.records[0].exporter_fields  # type: ignore[attr-defined]
    assert fields["service_name"] == "shop"
    assert fields["examples"] == ["GET /2", "GET /1", "GET /0"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=60), st.integers(1, 5))
def test_no_service_has_more_series_than_its_limit_and_none_is_lost(given_: list[tuple[str, int]], most: int) -> None:
    keys = [SeriesKey(service, str(number)) for service, number in given_]
    series_filter = SeriesFilter(rules(max_per_service=most))
    resolved = [series_filter.resolve(key) for key in keys]
    assert all(key in (own, own.folded()) for key, own in zip(resolved, keys, strict=True))
    for service in "abc":
        own = {key for key in resolved if isinstance(key, SeriesKey) and key.service_name == service}
        assert len(own - {SeriesKey(service, "{other}")}) == min(
            most, len({k for k in keys if k.service_name == service})
        )


def test_replaced_rules_apply_to_known_and_new_names() -> None:
    series_filter = SeriesFilter(rules(exclude="/b$"))
    first, second, third = (SeriesKey("shop", f"GET /{name}") for name in "abc")
    assert [series_filter.resolve(key) for key in (first, second)] == [first, "filtered"]
    series_filter.use(rules(exclude="/a$", max_series=2), [first, second, third])
    assert [series_filter.resolve(key) for key in (first, second, third)] == ["filtered", second, third]
    assert series_filter.admitted() == [second, third]
    assert [series_filter.wants(key) for key in (first, second)] == [False, True]
    series_filter.use(rules(), [])
    assert series_filter.wants(first)
    assert series_filter.resolve(first) == first


def test_replaced_rules_rename_known_names() -> None:
    series_filter = SeriesFilter(rules())
    key = SeriesKey("shop", "GET /a")
    assert series_filter.resolve(key) == key
    series_filter.use(rules(rename=[("GET /a", "GET /b")]), [])
    assert series_filter.resolve(key) == series_filter.renamed(key) == SeriesKey("shop", "GET /b")
