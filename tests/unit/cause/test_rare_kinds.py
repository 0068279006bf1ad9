"""Kinds of requests that became frequent, and what healthy traces of them change."""

import random
from collections.abc import Sequence

import pytest

from exporter.cause.comparison import find_cause
from exporter.cause.profile import TraceProfile
from exporter.cause.rare_kinds import KindTraces, RareKind, rare_kinds
from exporter.cause.sentence import sentence
from exporter.cause.verdict import CauseKind, CauseVerdict, Outcome
from tests.support.cause_traces import MS, Work, profile
from tests.support.causes import drawn_shop

ITEMS = ("inventory", "GET /items")
CHARGE = ("payments", "POST /charge")
CART = ("cart", "GET /cart")


def usual(number: int, first: int = 0, **changes: float) -> list[TraceProfile]:
    rng = random.Random(first)
    return [profile(drawn_shop(rng, **changes), f"{first + each:032x}") for each in range(number)]


def rare(number: int, first: int = 500, *, items_ms: float = 500, more: Sequence[Work] = ()) -> list[TraceProfile]:
    """Requests that call another service than the others, and take twelve times as long."""
    rng = random.Random(first)

    def drawn(position: int) -> TraceProfile:
        items = Work(*ITEMS, items_ms * rng.uniform(0.8, 1.25))
        return profile(Work("checkout", "POST /pay", 10, [*more, items]), f"{first + position:032x}")

    return [drawn(position) for position in range(number)]


class TestWhichKinds:
    def test_a_kind_that_healthy_traces_lack(self) -> None:
        now = [*usual(8), *rare(12)]
        (kind,) = rare_kinds(now, usual(20, 100))
        assert kind.operations == [ITEMS]
        assert [*kind.trace_ids] == [each.trace_id for each in now[8:]]

    @pytest.mark.parametrize(("number", "kinds"), [(1, 1), (4, 1), (5, 0)])
    def test_a_kind_of_which_healthy_traces_have_few(self, number: int, kinds: int) -> None:
        assert len(rare_kinds([*usual(8), *rare(12)], [*usual(15, 100), *rare(number, 900)])) == kinds

    def test_a_kind_that_does_not_take_longer_is_not_looked_for(self) -> None:
        assert rare_kinds([*usual(8, insert_ms=600), *rare(12, items_ms=10)], usual(20, 100)) == []

    def test_one_trace_is_no_kind(self) -> None:
        assert rare_kinds([*usual(19), *rare(1)], usual(20, 100)) == []

    def test_a_kind_with_the_usual_calls_as_well(self) -> None:
        (kind,) = rare_kinds([*usual(8), *rare(12, more=drawn_shop(random.Random(1)).calls)], usual(20, 100))
        assert kind.operations == [ITEMS]

    def test_operations_that_are_rare_only_together(self) -> None:
        calls = [Work(*CART, 300), Work(*CHARGE, 300)]
        both = [profile(Work("checkout", "POST /pay", 10, calls), f"{each:032x}") for each in range(12)]
        alone = [profile(Work("checkout", "POST /pay", 10, [Work(*each, 30)])) for each in (CART, CHARGE)] * 8
        (kind,) = rare_kinds([*both, *alone], alone)
        assert kind.operations == [CART, CHARGE]

    def test_at_most_two_that_hold_the_most(self) -> None:
        def of(service: str, ms: float, number: int) -> list[TraceProfile]:
            return [profile(Work("checkout", "POST /pay", 10, [Work(service, "GET /", ms)]))] * number

        kinds = rare_kinds([*of("a", 500, 5), *of("b", 700, 5), *of("c", 400, 5)], usual(20, 100))
        assert [kind.operations for kind in kinds] == [[("b", "GET /")], [("a", "GET /")]]


def found_with(now: list[TraceProfile], healthy: list[TraceProfile], known: Sequence[TraceProfile]) -> CauseVerdict:
    """Compare all of the traces; ``known`` are the healthy traces of the first rare kind that can be read."""

    def read_kinds(kinds: Sequence[RareKind]) -> list[KindTraces]:
        assert [kind.operations for kind in kinds] == [[ITEMS]]
        return [KindTraces(kinds[0], {each.trace_id: each for each in known}, 0.012, 0.6)] if known else []

    profiles = {each.trace_id: each for each in (*now, *healthy)}
    verdict, _ = find_cause(
        {each.trace_id: each.duration_ns for each in now},
        {each.trace_id: each.duration_ns for each in healthy},
        "seed",
        lambda slow, usual: {each: profiles[each] for each in (*slow, *usual)},
        read_kinds=read_kinds,
    )
    return verdict


class TestVerdict:
    def test_a_rare_kind_that_became_frequent_is_another_mix(self) -> None:
        verdict = found_with([*usual(80), *rare(120)], usual(200, 1_000), rare(12, 9_000))
        assert (verdict.outcome, verdict.kind, verdict.service_name) == (Outcome.KNOWN, CauseKind.MIX, None)
        assert (verdict.incident_traces, verdict.reference_traces) == (20, 32)
        text = sentence(verdict)
        assert 'Other requests than usual: those that call inventory "GET /items" are 60% instead of 1%; they' in text
        assert "requests of the same kind take as long as before. (20 traces of now against 32 of before.)" in text

    def test_calls_that_no_healthy_request_makes_are_new(self) -> None:
        verdict = found_with([*usual(80), *rare(120)], usual(200, 1_000), ())
        assert (verdict.kind, verdict.service_name) == (CauseKind.NEW_CALLS, "inventory")
        assert verdict.more_frequent is None

    def test_a_rare_kind_that_takes_longer_is_blamed_on_its_service(self) -> None:
        verdict = found_with([*usual(80), *rare(120, items_ms=5_000)], usual(200, 1_000), rare(12, 9_000))
        assert (verdict.kind, verdict.service_name) == (CauseKind.SLOWER_CALLS, "inventory")
        assert verdict.parts[0].change.usual_seconds_per_call * 1_000 == pytest.approx(500, rel=0.2)
        assert verdict.more_frequent is None

    def test_a_kind_that_is_not_known_to_be_more_frequent_is_not_named(self) -> None:
        kind = RareKind([ITEMS], ["1"])
        assert not KindTraces(kind, {}, 0.1, None).is_more_frequent
        assert not KindTraces(kind, {}, None, 0.1).is_more_frequent
        assert not KindTraces(kind, {}, 0.1, 0.1).is_more_frequent
        assert KindTraces(kind, {}, 0.1, 0.2).is_more_frequent

    def test_traces_of_a_rare_kind_take_as_long_as_they_should(self) -> None:
        """Of the constants above: twelve times as long."""
        usual_ms = sum(each.duration_ns for each in usual(50)) / 50 / MS
        assert 10 < sum(each.duration_ns for each in rare(50)) / 50 / MS / usual_ms < 14
