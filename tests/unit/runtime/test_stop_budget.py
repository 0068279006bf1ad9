"""How the steps of stopping share their five seconds."""

import pytest

from exporter.runtime.stop_budget import STOP_SECONDS, StopBudget, StopStep
from tests.support.samples import Clock

STEPS: tuple[StopStep, ...] = ("web_config", "web_workers", "web_loop", "supervisor", "app")


def test_a_step_gets_its_share_at_first() -> None:
    budget = StopBudget(Clock())
    assert [budget.seconds_for(step) for step in STEPS] == [0.5, 1.0, 0.5, 1.0, 4.5]


def test_steps_that_use_up_their_shares_leave_time_for_the_app_and_the_database() -> None:
    clock = Clock()
    began = clock.now
    budget = StopBudget(clock)
    for step in STEPS[:-1]:
        clock.now += budget.seconds_for(step)
    assert budget.seconds_for("app") == pytest.approx(1.5)
    clock.now += budget.seconds_for("app")
    assert clock.now - began == pytest.approx(STOP_SECONDS - 0.5)


def test_nothing_is_left_after_the_end() -> None:
    clock = Clock()
    budget = StopBudget(clock)
    clock.now += 4.3
    assert budget.seconds_for("web_workers") == pytest.approx(0.2)
    clock.now += 10
    assert [budget.seconds_for(step) for step in STEPS] == [0.0] * 5
