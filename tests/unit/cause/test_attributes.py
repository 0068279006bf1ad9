"""Attribute values that go with slow calls."""

import random

import pytest

from exporter.cause.attributes import AttributeContrast, attribute_contrasts, fisher_chance, rank_sum_chance
from exporter.cause.profile import Component, TraceProfile
from tests.support.cause_traces import profile, shop

CHARGE = Component("payments", "POST /charge", "server")
PODS = ("payments-1", "payments-2", "payments-3")


def traces(
    seed: int, *, slow_pod: str = "", factor: float = 8, version: str = "1", number: int = 20
) -> list[TraceProfile]:
    rng = random.Random(seed)
    result = []
    for _ in range(number):
        pod = rng.choice(PODS)
        charge_ms = 20 * rng.uniform(0.7, 1.3) * (factor if pod == slow_pod else 1)
        result.append(profile(shop(charge_ms=charge_ms, pod=pod, version=version)))
    return result


def names(contrasts: list[AttributeContrast]) -> list[tuple[str, str, str]]:
    return [(each.name, each.value, each.basis) for each in contrasts]


def test_a_slow_pod_is_found_by_time() -> None:
    found = sum(
        ("k8s.pod.name", "payments-2", "time")
        in names(attribute_contrasts(traces(seed, slow_pod="payments-2"), traces(seed + 100), CHARGE))
        for seed in range(20)
    )
    assert found == 20
    contrast = attribute_contrasts(traces(1, slow_pod="payments-2"), traces(101), CHARGE)[0]
    assert contrast.factor == pytest.approx(8, rel=0.3)
    assert contrast.chance <= 0.05


def test_healthy_traces_seldom_show_a_contrast() -> None:
    false = sum(bool(attribute_contrasts(traces(seed), traces(seed + 100), CHARGE)) for seed in range(100))
    assert false <= 10


def test_a_new_version_is_found_by_frequency() -> None:
    contrasts = attribute_contrasts(traces(1, version="2"), traces(2), CHARGE)
    assert names(contrasts) == [("service.version", "2", "frequency")]
    assert (contrasts[0].incident_share, contrasts[0].reference_share, contrasts[0].factor) == (1, 0, None)


def test_ids_cost_nothing() -> None:
    def with_ids(profiles: list[TraceProfile], first: int) -> list[TraceProfile]:
        result = []
        for number, each in enumerate(profiles, first):
            calls = each.calls[CHARGE]
            ids = {f"id.{key}": frozenset([f"{number}-{key}"]) for key in range(50)}
            result.append(_with_calls(each, calls._replace(attributes={**calls.attributes, **ids})))
        return result

    def _with_calls(each: TraceProfile, calls: object) -> TraceProfile:
        return TraceProfile(
            each.trace_id,
            each.duration_ns,
            each.self_ns,
            each.path_calls,
            {**each.calls, CHARGE: calls},  # type: ignore[dict-item]
            each.shape,
            each.root,
        )

    incident, reference = traces(1, slow_pod="payments-2"), traces(2)
    plain = attribute_contrasts(incident, reference, CHARGE)
    assert plain
    assert attribute_contrasts(with_ids(incident, 0), with_ids(reference, 100), CHARGE) == plain


def test_attributes_of_the_root_are_compared_too() -> None:
    def root_version(number: int) -> list[TraceProfile]:
        rng = random.Random(number)
        result = []
        for _ in range(20):
            work = shop(charge_ms=20 * rng.uniform(0.9, 1.1))
            result.append(
                profile(type(work)(work.service, work.name, work.own_ms, work.calls, attributes={"v": str(number)}))
            )
        return result

    contrasts = attribute_contrasts(root_version(2), root_version(1), CHARGE)
    assert [(each.name, each.value, each.of_root) for each in contrasts] == [("v", "2", True)]


def test_a_component_without_calls_has_no_contrasts() -> None:
    assert attribute_contrasts(traces(1), traces(2), Component("x", "y", "server")) == []


class TestFormulas:
    def test_fisher(self) -> None:
        # The lady tasting tea: 4 of 4 by chance is 1 in 70, at least 3 of 4 is 17 in 70.
        assert fisher_chance(4, 4, 4, 8) == pytest.approx(1 / 70)
        assert fisher_chance(3, 4, 4, 8) == pytest.approx(17 / 70)
        assert fisher_chance(0, 4, 4, 8) == pytest.approx(1)

    def test_rank_sum(self) -> None:
        assert rank_sum_chance([5, 6, 7, 8, 9], [1, 2, 3, 4, 0]) == pytest.approx(1 / 252, rel=1.5)
        assert rank_sum_chance([1, 2, 3], [4, 5, 6]) > 0.9
        assert rank_sum_chance([1, 1], [1, 1]) == 1
        # Never below what an exact test could give.
        assert rank_sum_chance([9], [1, 2, 3]) >= 1 / 4
