"""The benchmark of incidents: its days are what it says, and it tells right incidents from wrong ones."""

from dataclasses import replace

import pytest

from benchmarks.incidents import Outcomes, figures, graph_day, run
from benchmarks.service_graph import FaultKind, GraphFault, generated, pet_shop, train_ticket
from exporter.model.critical_path import critical_path


def test_graphs_have_the_sizes_of_their_models_and_a_service_that_half_of_the_endpoints_use() -> None:
    for graph, services in ((train_ticket("1"), 40), (pet_shop(), 10)):
        assert services - 5 <= len(graph.services) <= services
        assert len(graph.users_of(graph.hub)) >= 0.4 * len(graph.operations)


@pytest.mark.parametrize(
    ("kind", "strength", "caller"),
    [
        ("slow_query", 15, ""),
        ("slow_instance", 40, ""),
        ("slow_network", 120, "adoption-list"),
        ("more_calls", 25, ""),
        ("busy", 20, ""),
    ],
)
def test_fault_makes_the_requests_that_pass_it_longer_by_what_it_says(
    kind: FaultKind, strength: float, caller: str
) -> None:
    graph = pet_shop()
    fault = GraphFault(kind, "users", strength, caller)
    for operation in graph.operations:
        slow, usual = (
            sum(generated(operation, faults, f"{number}").duration_ns for number in range(400)) / 400 / 1e6
            for faults in ((fault,), ())
        )
        extra_ms = fault.extra_ms(operation)
        assert (extra_ms > 0) == (operation.key in graph.users_of(caller or "users"))
        assert slow - usual == pytest.approx(extra_ms, rel=0.4, abs=3)
    trace = generated(graph.entries[0], (), "1")
    path = critical_path(trace.spans)
    assert path is not None
    assert path.root.duration_ns == trace.duration_ns
    assert path.oddities == replace(
        path.oddities, missing_parents=0, in_cycles=0, elsewhere=0, not_waited_for=0, moved=0
    )


def test_day_with_one_fault_is_the_same_each_time_and_one_notification_names_its_service() -> None:
    day = graph_day(pet_shop(), "1")
    short = replace(day, faults=day.faults[:1], chance=[])
    outcomes = run(short)
    assert outcomes == run(short)
    assert outcomes.flagged[0] > 1
    assert (outcomes.notifications, outcomes.first_right, outcomes.put_right) == ([1], [True], outcomes.flagged)


def test_figures_miss_their_targets_if_faults_are_merged_or_notify_often() -> None:
    good = Outcomes(flagged=[9, 7], notifications=[1, 1], first_right=[True, True], put_right=[9, 7], overlapping=1)
    assert [each.met for each in figures("x", good) if each.met is not None] == [True] * 4
    bad = Outcomes(flagged=[9, 7], notifications=[1, 3], first_right=[True, False], put_right=[9, 1], merged=1)
    bad.overlapping = 1
    assert [each.met for each in figures("x", bad) if each.met is not None] == [False] * 4
