"""The verdict on two sets of traces, and its sentence."""

import random
from dataclasses import replace
from typing import Any

import pytest

from exporter.cause.attributes import AttributeContrast
from exporter.cause.profile import TraceProfile
from exporter.cause.sentence import sentence
from exporter.cause.verdict import CauseKind, CauseVerdict, Outcome, compare
from tests.support.cause_traces import Work, profile, shop


def traces(seed: int, number: int = 20, **changes: Any) -> list[TraceProfile]:
    rng = random.Random(seed)
    result = []
    for _ in range(number):
        usual: dict[str, Any] = {"charge_ms": 20.0, "insert_ms": 5.0, "cart_ms": 8.0, "checkout_ms": 10.0} | changes
        drawn = {
            name: value * rng.uniform(0.8, 1.25) if name.endswith("_ms") else value for name, value in usual.items()
        }
        result.append(profile(shop(**drawn)))
    return result


def verdict(**changes: Any) -> CauseVerdict:
    return compare(traces(1, **changes), traces(2), "seed")


def test_a_slow_database_call() -> None:
    found = verdict(insert_ms=640)
    assert (found.outcome, found.kind, found.service_name) == (Outcome.KNOWN, CauseKind.SLOWER_CALLS, "payments")
    assert found.parts[0].change.component.span_name == "INSERT charges"
    assert found.share == pytest.approx(1, abs=0.02)
    text = sentence(found)
    assert text.startswith("Of the extra ")
    assert '(100%) are in payments, mostly in "INSERT charges": each call takes ' in text
    assert text.endswith("(20 traces of now against 20 of before.)")


def test_many_calls_instead_of_one() -> None:
    found = verdict(inserts=41)
    assert (found.kind, found.service_name) == (CauseKind.MORE_CALLS, "payments")
    assert "41 calls per request instead of 1" in sentence(found)


def test_calls_that_were_not_there_before() -> None:
    audit = Work("audit", "POST /log", 80)
    rng = random.Random(1)
    now = [profile(Work("checkout", "POST /pay", rng.uniform(9, 11), [*shop().calls, audit])) for _ in range(20)]
    found = compare(now, traces(2), "seed")
    assert (found.kind, found.service_name) == (CauseKind.NEW_CALLS, "audit")
    assert "1 call per request that were not waited for before" in sentence(found)


def test_a_slow_network_between_two_services() -> None:
    found = verdict(charge_gap_ms=470)
    assert (found.kind, found.service_name) == (CauseKind.PATH, "payments")
    text = sentence(found)
    assert 'mostly between checkout and payments "call POST /charge"' in text
    assert "The own work of payments takes as long as before: the network, a proxy, or a queue in front of it." in text


def test_a_busy_service() -> None:
    found = verdict(charge_gap_ms=470, charge_ms=200)
    assert (found.kind, found.service_name) == (CauseKind.BUSY, "payments")
    assert "it is too busy" in sentence(found)


def test_retries_are_named() -> None:
    found = compare(traces(1, retries=4, insert_ms=6), traces(2), "seed")
    assert found.service_name == "payments"
    assert found.kind in (CauseKind.MORE_CALLS, CauseKind.NEW_CALLS)
    assert found.failed is not None
    assert found.failed.are_retries
    assert "The additional calls are retries: most of them fail." in sentence(found)


def test_slow_calls_that_end_at_a_time_out() -> None:
    now = traces(1, 8) + [profile(shop(insert_ms=5_000, fails=True)) for _ in range(12)]
    found = compare(now, traces(2), "seed")
    assert found.plateau is not None
    assert (found.plateau.calls, found.plateau.slow_calls) == (12, 12)
    text = sentence(found)
    assert "12 of 12 slow calls end at 5 s, as at a time-out." in text
    assert "12 of 20 such calls fail, usually 0%." in text


def test_a_slow_pod_is_named() -> None:
    rng = random.Random(3)
    now = [
        profile(
            shop(charge_ms=20 * rng.uniform(0.8, 1.2) * (9 if number % 3 == 0 else 1), pod=f"payments-{number % 3}")
        )
        for number in range(21)
    ]
    assert "Calls with k8s.pod.name payments-0 take " in sentence(compare(now, traces(2, 21), "seed"))


def test_what_root_and_component_share_is_said_once() -> None:
    found = verdict(insert_ms=640)
    of_calls, of_requests = (
        AttributeContrast("k8s.pod.name", "payments-0", of_root, "frequency", None, 0.6, 0.15, 1e-3)
        for of_root in (False, True)
    )
    other = replace(of_requests, value="payments-1")
    text = sentence(replace(found, contrasts=[of_calls, of_requests, other]))
    assert text.count("60% have k8s.pod.name payments-0, before 15%.") == 1
    assert "60% have k8s.pod.name payments-1, before 15%." in text


def test_other_requests_than_usual() -> None:
    cheap, dear = Work("a", "do", 10, [Work("b", "x", 10)]), Work("a", "do", 10, [Work("c", "y", 200)])
    usual = [profile(cheap)] * 18 + [profile(dear)] * 2
    found = compare([profile(cheap)] * 5 + [profile(dear)] * 15, usual, "seed")
    assert (found.outcome, found.kind, found.service_name) == (Outcome.KNOWN, CauseKind.MIX, None)
    assert sentence(found).startswith("Other requests than usual: they make ")
    # With fewer of them the same is not sure.
    found = compare([profile(cheap)] * 16 + [profile(dear)] * 4, [profile(cheap)] * 20, "seed")
    assert (found.outcome, found.kind) == (Outcome.KNOWN, CauseKind.NEW_CALLS)
    found = compare([profile(cheap)] * 14 + [profile(dear)] * 6, usual, "seed")
    assert found.outcome is not Outcome.KNOWN


def test_no_difference() -> None:
    found = verdict()
    assert found.outcome is Outcome.NO_DIFFERENCE
    assert "could be distinguished from chance" in sentence(found)


def test_faster_requests_have_no_cause() -> None:
    assert compare(traces(2), traces(1, charge_ms=200), "seed").outcome is Outcome.NO_DIFFERENCE


def test_extra_time_everywhere_is_unclear() -> None:
    def four(own_ms: float) -> list[TraceProfile]:
        return [profile(Work("a", "do", 10, [Work(each, "work", own_ms) for each in "bcde"]))] * 20

    found = compare(four(20), four(10), "seed")
    assert found.outcome is Outcome.UNCLEAR
    assert sentence(found).startswith("Not known why: of the extra ")
    assert len(found.parts) == 3


@pytest.mark.parametrize(("slow", "healthy"), [(9, 20), (20, 9), (0, 0)])
def test_too_few_traces(slow: int, healthy: int) -> None:
    found = compare(traces(1, slow, charge_ms=200), traces(2, healthy), "seed")
    assert found.outcome is Outcome.NO_TRACES
    assert sentence(found).endswith("10 are needed.")


def test_healthy_traces_get_no_cause() -> None:
    outcomes = [compare(traces(seed), traces(seed + 1_000), f"{seed}").outcome for seed in range(40)]
    assert outcomes.count(Outcome.KNOWN) <= 1
