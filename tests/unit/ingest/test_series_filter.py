"""Which series are watched, under which names, and what happens when there are too many."""

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


def test_without_rules_every_series_is_kept_under_its_own_name() -> None:
    admission = SeriesFilter(rules())
    assert admission.resolve(CART) == CART
    assert admission.resolve(SeriesKey("", "")) == SeriesKey("", "")
    assert len(admission) == 2


def test_one_of_the_included_must_match_and_none_of_the_excluded() -> None:
    admission = SeriesFilter(rules(include="^shop/ login$", exclude="healthz"))
    assert admission.resolve(CART) == CART
    assert admission.resolve(LOGIN) == LOGIN
    assert admission.resolve(HEALTH) == "filtered"
    assert admission.resolve(SeriesKey("auth", "logout")) == "filtered"
    assert len(admission) == 2


def test_patterns_see_the_service_and_the_span_joined_by_a_slash() -> None:
    admission = SeriesFilter(rules(exclude="^shop/GET"))
    assert admission.resolve(CART) == "filtered"
    assert admission.resolve(SeriesKey("workshop", "GET /cart")) != "filtered"


def test_series_that_are_renamed_alike_are_one() -> None:
    admission = SeriesFilter(rules(rename=[(r"/\d+", "/{id}"), (r"\?.*$", "")], max_series=1))
    kept = SeriesKey("shop", "GET /order/{id}")
    assert admission.resolve(SeriesKey("shop", "GET /order/17")) == kept
    assert admission.resolve(SeriesKey("shop", "GET /order/18?page=2")) == kept
    assert admission.resolve(kept) == kept
    assert len(admission) == 1


def test_renaming_comes_first() -> None:
    admission = SeriesFilter(rules(exclude="secret", rename=[("secret", "public")]))
    assert admission.resolve(SeriesKey("shop", "secret")) == SeriesKey("shop", "public")


def test_first_come_first_served() -> None:
    admission = SeriesFilter(rules(max_series=1))
    assert admission.resolve(CART) == CART
    assert admission.resolve(LOGIN) == "series_limit"
    assert admission.resolve(CART) == CART
    assert (len(admission), admission.dropped) == (1, 1)


def test_a_series_that_finds_no_room_is_counted_once() -> None:
    admission = SeriesFilter(rules(max_series=1))
    admission.resolve(CART)
    for _ in range(5):
        assert admission.resolve(LOGIN) == "series_limit"
        assert admission.resolve(HEALTH) == "series_limit"
    assert admission.dropped == 2


def test_series_known_from_before_come_first_in_their_old_order() -> None:
    admission = SeriesFilter(rules(max_series=2, exclude="healthz"))
    admission.preload([HEALTH, LOGIN, CART, SeriesKey("shop", "third")])
    assert len(admission) == 2
    assert admission.resolve(LOGIN) == LOGIN
    assert admission.resolve(CART) == CART
    assert admission.resolve(HEALTH) == "filtered"
    assert admission.resolve(SeriesKey("shop", "third")) == "series_limit"


def test_what_is_forgotten_makes_room() -> None:
    admission = SeriesFilter(rules(max_series=1))
    admission.resolve(CART)
    admission.resolve(LOGIN)
    admission.forget([CART, HEALTH])
    assert len(admission) == 0
    assert admission.resolve(LOGIN) == LOGIN
    assert admission.resolve(CART) == "series_limit"


def test_flood_of_new_names_is_bounded_in_memory_and_evicts_no_admitted_series() -> None:
    admission = SeriesFilter(rules(max_series=1))
    admission.resolve(CART)
    for number in range(100_010):
        admission.resolve(SeriesKey("scanner", f"GET /{number}"))
    assert admission.dropped == 100_010
    assert len(admission) == 1
    assert admission.resolve(CART) == CART
    assert len(admission._resolved) <= 100_000


@given(st.lists(st.sampled_from([SeriesKey("s", name) for name in "abcdefgh"])), st.integers(1, 8))
def test_never_more_than_there_is_room_for_and_always_the_same_answer(asked: list[SeriesKey], most: int) -> None:
    admission = SeriesFilter(rules(max_series=most))
    answers: dict[SeriesKey, object] = {}
    for key in asked:
        answer = admission.resolve(key)
        assert answers.setdefault(key, answer) == answer
    distinct = list(dict.fromkeys(asked))
    assert [key for key, answer in answers.items() if answer == key] == distinct[:most]
    assert admission.dropped == max(0, len(distinct) - most)
    assert len(admission) == min(most, len(distinct))


def test_threads_that_ask_at_once_get_the_same_resolved() -> None:
    admission = SeriesFilter(rules(max_series=50))
    keys = [SeriesKey("s", str(number)) for number in range(200)]
    start = threading.Barrier(4)
    answers: list[list[object]] = []

    def ask_all() -> None:
        start.wait()
        answers.append([admission.resolve(key) for key in keys])

    threads = [threading.Thread(target=ask_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert all(answer == answers[0] for answer in answers)
    assert (len(admission), admission.dropped) == (50, 150)


def test_ids_become_placeholders_after_the_users_own_names() -> None:
    admission = SeriesFilter(
        SeriesRules(rename=[(Pattern(r"/orders/\d+"), "/orders/{order}")], placeholders=True, max_series=2)
    )
    assert admission.resolve(SeriesKey("shop-2024", "GET /orders/17/items/3")) == SeriesKey(
        "shop-2024", "GET /orders/{order}/items/{number}"
    )
    assert admission.resolve(SeriesKey("shop-2024", "GET /orders/18/items/4")) in admission._admitted
    assert len(admission) == 1


def test_that_it_is_full_is_said_once_until_there_is_room_again(caplog: pytest.LogCaptureFixture) -> None:
    admission = SeriesFilter(rules(max_series=1), get_logger("series"))
    for key in (CART, LOGIN, HEALTH, LOGIN):
        admission.resolve(key)
    assert events(caplog) == ["series_limit_reached"]
    admission.forget([CART])
    for key in (LOGIN, CART, HEALTH):
        admission.resolve(key)
    assert len(caplog.records) == 2


def test_a_flood_of_long_names_takes_bounded_memory() -> None:
    admission = SeriesFilter(rules(max_series=10))
    tracemalloc.start()
    for number in range(40_000):
        admission.resolve(SeriesKey("scanner", f"GET /{'x' * 900}{number}"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Kept, these names would take 38 MB.
    assert peak < 24 << 20
    assert admission.dropped == 40_000 - 10


@pytest.mark.parametrize("part", ["a/", "a@", "1-", "f", "0", "a.b@", "%40", "2026-11-2", "12345678-1234-", "é"])
def test_a_hostile_name_of_100_kb_takes_milliseconds(part: str) -> None:
    admission = SeriesFilter(
        SeriesRules(
            include=[Pattern(r"^(\w+/?)*(.*)*")],
            exclude=[Pattern("/(.*/)*(health|ready)$"), Pattern("(a*)*b$")],
            rename=[(Pattern("(a|aa)+!"), "x"), (Pattern(r"(\d+)*x"), r"\1")],
        )
    )
    started = time.thread_time()
    admission.resolve(SeriesKey("edge", part * (100_000 // len(part)) + "!"))
    assert time.thread_time() - started < 1
