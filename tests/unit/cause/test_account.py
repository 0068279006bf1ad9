"""The account of an incident: sums are exact, and the extra time belongs to the right service."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.cause.account import Account, account_of
from exporter.cause.profile import Component, TraceProfile, profile_of
from exporter.model.critical_path import TraceSpan, critical_path
from tests.support.cause_traces import MS, T0_NS, Work, profile, shop


def many(work: Work, number: int = 20) -> list[TraceProfile]:
    return [profile(work)] * number


def varied(seed: int, number: int = 20, **changes: float) -> list[TraceProfile]:
    """Checkouts whose times vary by a third."""
    rng = random.Random(seed)
    usual = {"charge_ms": 20.0, "insert_ms": 5.0, "cart_ms": 8.0, "checkout_ms": 10.0} | changes
    return [
        profile(shop(**{name: value * rng.uniform(0.7, 1.3) for name, value in usual.items()}))  # type: ignore[arg-type]
        for _ in range(number)
    ]


def blamed(account: Account) -> dict[str, float]:
    return {each.service_name: round(each.seconds * 1000, 6) for each in account.services}


@st.composite
def works(draw: st.DrawFn, depth: int = 3) -> Work:
    names = st.sampled_from("abcd")
    calls = draw(st.lists(works(depth=depth - 1), max_size=3)) if depth else []
    return Work(
        draw(names),
        f"do {draw(names)}",
        draw(st.integers(0, 50)),
        calls,
        draw(st.integers(0, 20)),
        fails=draw(st.booleans()),
    )


sets_of_traces = st.lists(works().map(profile), min_size=1, max_size=5)


@st.composite
def hostile_traces(draw: st.DrawFn) -> TraceProfile:
    """Any spans: shared ids, cycles, missing parents, clocks that differ."""
    ids = st.sampled_from(["", *"1234567"])
    spans = draw(
        st.lists(
            st.builds(
                TraceSpan,
                ids,
                ids,
                st.sampled_from(["a", "b", "ü", ""]),
                st.sampled_from(["x", "y", "\ud800"]),
                st.sampled_from(["client", "server", "internal", "producer", "consumer", "odd"]),
                st.integers(T0_NS, T0_NS + 100 * MS),
                st.integers(0, 100 * MS),
                st.booleans(),
            ),
            min_size=1,
            max_size=12,
        )
    )
    path = critical_path(spans)
    assert path is not None
    return profile_of("0" * 32, path)


class TestSums:
    @settings(max_examples=25, deadline=None)
    @given(sets_of_traces, sets_of_traces, st.lists(works().map(profile), max_size=3))
    def test_everything_adds_up(
        self, incident: list[TraceProfile], reference: list[TraceProfile], supplement: list[TraceProfile]
    ) -> None:
        account = account_of(incident, reference, "seed", supplement=supplement, replicates=5)
        assert_exact(account, incident, reference, supplement)

    @settings(max_examples=25, deadline=None)
    @given(*[st.lists(hostile_traces(), min_size=least, max_size=3) for least in (1, 1, 0)])
    def test_hostile_traces_break_nothing(
        self, incident: list[TraceProfile], reference: list[TraceProfile], supplement: list[TraceProfile]
    ) -> None:
        account = account_of(incident, reference, "seed", supplement=supplement, replicates=5)
        assert_exact(account, incident, reference, supplement)

    @settings(max_examples=15, deadline=None)
    @given(sets_of_traces, sets_of_traces, sets_of_traces)
    def test_supplement_of_other_kinds_changes_nothing(
        self, incident: list[TraceProfile], reference: list[TraceProfile], others: list[TraceProfile]
    ) -> None:
        """Kinds that are similar to none of the incident's."""
        strange = [replace(each, shape=frozenset({("elsewhere", str(n))})) for n, each in enumerate(others)]
        plain = account_of(incident, reference, "seed", replicates=1)
        account = account_of(incident, reference, "seed", supplement=strange, replicates=1)
        assert account.reference_traces == len(reference) + len(others)
        assert account.mix_seconds == pytest.approx(plain.mix_seconds)
        known = {each.component: each for each in account.changes}
        for change in plain.changes:
            assert known[change.component].delta_seconds == pytest.approx(change.delta_seconds)

    def test_a_trace_with_ten_thousand_spans(self) -> None:
        wide = Work("a", "root", 1, [Work("b", "call", 1)] * 5_000)
        account = account_of(many(wide, 2), many(Work("a", "root", 1, [Work("b", "call", 1)]), 2), "seed", replicates=2)
        assert account.services[0].service_name == "b"
        assert account.changes[0].all_now_calls == 5_000

    @settings(max_examples=15, deadline=None)
    @given(sets_of_traces, sets_of_traces, st.permutations("abcd"))
    def test_renaming_services_changes_names_only(
        self, incident: list[TraceProfile], reference: list[TraceProfile], order: Sequence[str]
    ) -> None:
        names = dict(zip("abcd", order, strict=True))
        renamed = account_of(_renamed(incident, names), _renamed(reference, names), "seed", replicates=1)
        account = account_of(incident, reference, "seed", replicates=1)
        # Names decide between shapes that are equally similar; with only one shape, nothing else may differ.
        if len({each.shape for each in reference}) == 1:
            assert renamed.extra_seconds == pytest.approx(account.extra_seconds)
            assert {names[name]: value for name, value in blamed(account).items()} == pytest.approx(blamed(renamed))

    def test_it_depends_on_nothing_but_the_traces_and_the_seed(self) -> None:
        incident, reference = varied(1, charge_ms=100), varied(2)
        first, again = (account_of(incident, reference, "seed") for _ in range(2))
        assert first == again


def _renamed(traces: Sequence[TraceProfile], names: dict[str, str]) -> list[TraceProfile]:
    def component(old: Component) -> Component:
        return old._replace(service_name=names[old.service_name], callee=names.get(old.callee, ""))

    return [
        TraceProfile(
            each.trace_id,
            each.duration_ns,
            {component(key): value for key, value in each.self_ns.items()},
            {component(key): value for key, value in each.path_calls.items()},
            {component(key): value for key, value in each.calls.items()},
            frozenset((names[service], name) for service, name in each.shape),
            component(each.root),
        )
        for each in traces
    ]


def assert_exact(
    account: Account,
    incident: Sequence[TraceProfile],
    reference: Sequence[TraceProfile],
    supplement: Sequence[TraceProfile] = (),
) -> None:
    def mean(traces: Sequence[TraceProfile]) -> float:
        return sum(each.duration_ns for each in traces) / len(traces) / 1e9

    def same(one: float, other: float) -> bool:
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)

    for trace in (*incident, *reference, *supplement):
        assert sum(trace.self_ns.values()) == trace.duration_ns
    assert same(account.extra_seconds, mean(incident) - mean(reference))
    assert same(account.usual_seconds, mean(reference))
    assert same(account.extra_seconds, account.base_seconds + account.mix_seconds)
    assert same(sum(each.delta_seconds for each in account.changes), account.base_seconds)
    assert same(sum(each.seconds for each in account.services), account.base_seconds)
    for change in account.changes:
        assert same(change.slower_seconds + change.more_seconds, change.delta_seconds)
    for service in account.services:
        assert 0 <= service.share <= 1
        assert 0 <= service.stability <= 1
    assert 0 <= account.certainty <= 1


class TestBlame:
    def test_own_time_belongs_to_its_service(self) -> None:
        account = account_of(many(shop(cart_ms=58)), many(shop()), "seed")
        assert blamed(account) == {"cart": 50, "checkout": 0, "payments": 0}
        assert account.services[0].share == 1

    def test_a_call_to_what_is_not_traced_belongs_to_the_caller(self) -> None:
        account = account_of(many(shop(insert_ms=55)), many(shop()), "seed")
        assert blamed(account)["payments"] == 50
        assert account.changes[0].component == Component("payments", "INSERT charges", "client")

    def test_a_gap_belongs_to_the_callee(self) -> None:
        account = account_of(many(shop(charge_gap_ms=51)), many(shop()), "seed")
        assert blamed(account) == {"payments": 50, "cart": 0, "checkout": 0}

    def test_gaps_of_all_calls_of_a_service_belong_to_the_caller(self) -> None:
        account = account_of(many(shop(charge_gap_ms=51, cart_gap_ms=51)), many(shop()), "seed")
        assert account.services[0].service_name == "checkout"
        # Nothing is known of other calls of both callees, so they keep a third.
        assert blamed(account)["checkout"] == pytest.approx(2 * 50 * 2 / 3, abs=1e-3)

    def test_more_calls_are_no_slower_ones(self) -> None:
        account = account_of(many(shop(inserts=11)), many(shop()), "seed")
        change = account.changes[0]
        assert (change.usual_calls, change.now_calls) == pytest.approx((1, 11))
        assert change.more_seconds == pytest.approx(0.050)
        assert change.slower_seconds == pytest.approx(0)

    def test_a_component_that_healthy_requests_lack_is_new(self) -> None:
        plain = Work("a", "GET /", 10)
        account = account_of(many(Work("a", "GET /", 10, [Work("b", "audit", 40)])), many(plain), "seed")
        assert {each.component.service_name for each in account.changes if each.is_new} == {"a", "b"}
        assert blamed(account) == {"b": 41, "a": 0}

    def test_time_that_disappears_is_negative(self) -> None:
        account = account_of(many(Work("a", "GET /", 10)), many(Work("a", "GET /", 10, [Work("b", "audit", 40)])), "x")
        assert account.extra_seconds == pytest.approx(-0.041)
        assert account.services[0].share == 0


class TestMix:
    def test_another_mix_of_requests_is_no_slower_component(self) -> None:
        cheap, dear = Work("a", "do", 10, [Work("b", "x", 10)]), Work("a", "do", 10, [Work("c", "y", 200)])
        usual = [profile(cheap)] * 18 + [profile(dear)] * 2
        now = [profile(cheap)] * 5 + [profile(dear)] * 15
        account = account_of(now, usual, "seed")
        assert account.base_seconds == pytest.approx(0)
        assert account.mix_seconds == pytest.approx(account.extra_seconds)
        assert account.extra_seconds > 0.1

    def test_a_kind_that_is_not_known_is_compared_with_everything(self) -> None:
        usual, strange = Work("a", "do", 10, [Work("b", "x", 10)]), Work("a", "do", 10, [Work("c", "y", 200)])
        account = account_of(many(strange), many(usual), "seed")
        assert account.mix_seconds == pytest.approx(0)
        assert account.services[0].service_name == "c"

    def test_a_rare_kind_is_compared_with_further_healthy_traces_of_it(self) -> None:
        cheap, dear = Work("a", "do", 10, [Work("b", "x", 10)]), Work("a", "do", 10, [Work("c", "y", 200)])
        now = [profile(cheap)] * 5 + [profile(dear)] * 15
        account = account_of(now, many(cheap), "seed", supplement=many(dear, 8))
        assert account.base_seconds == pytest.approx(0)
        assert account.mix_seconds == pytest.approx(0.75 * (0.211 - 0.021))
        assert account.usual_seconds == pytest.approx(0.021)
        assert account.mix_certainty == 1

    def test_slower_requests_of_a_rare_kind_are_slower(self) -> None:
        cheap, dear = Work("a", "do", 10, [Work("b", "x", 10)]), Work("a", "do", 10, [Work("c", "y", 200)])
        slow = Work("a", "do", 10, [Work("c", "y", 1_000)])
        now = [profile(cheap)] * 5 + [profile(slow)] * 15
        account = account_of(now, [*many(cheap), profile(dear)], "seed", supplement=many(dear, 8))
        assert blamed(account) == {"a": 0, "b": 0, "c": 600}
        assert account.changes[0].usual_seconds_per_call == pytest.approx(0.2)


class TestCertainty:
    def test_a_clear_cause_is_certain(self) -> None:
        account = account_of(varied(1, charge_ms=200), varied(2), "seed")
        first = account.services[0]
        assert (first.service_name, first.stability, account.certainty) == ("payments", 1, 1)
        assert 0.7 < first.bound <= 1

    def test_healthy_traces_on_both_sides_are_uncertain(self) -> None:
        certain = [account_of(varied(seed), varied(seed + 1_000), "seed") for seed in range(20)]
        assert sum(each.services[0].stability >= 0.9 and each.certainty >= 0.9 for each in certain) <= 4
