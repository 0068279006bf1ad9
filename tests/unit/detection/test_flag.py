"""The flag fires and resolves only after the condition has held, or been absent, for the hold times."""

from hypothesis import given
from hypothesis import strategies as st

from exporter.detection.flag import INACTIVE, Flag, FlagEvent, advance_flag
from exporter.detection.parameters import Parameters

PARAMETERS = Parameters(hold_seconds=60, clear_hold_seconds=120)


def run(*ticks: tuple[float, str]) -> list[tuple[float, FlagEvent]]:
    """Return the events of ticks: ``!`` shifted and persists, ``~`` only persists, ``.`` neither."""
    flag, events = INACTIVE, []
    for now, condition in ticks:
        flag, event = advance_flag(
            flag, now, shifted=condition == "!", persists=condition in "!~", parameters=PARAMETERS
        )
        if event is not None:
            events.append((now, event))
    return events


def test_fires_after_the_hold_time() -> None:
    assert run((0, "!"), (15, "!"), (45, "!")) == []
    assert run((0, "!"), (15, "!"), (60, "!")) == [(60, FlagEvent.FIRING)]


def test_hold_time_restarts_after_a_tick_without_the_condition() -> None:
    assert run((0, "!"), (45, "."), (60, "!"), (105, "!")) == []
    assert run((0, "!"), (45, "~"), (60, "!"), (120, "!")) == [(120, FlagEvent.FIRING)]


def test_hold_time_that_a_verdict_asks_for() -> None:
    flag = INACTIVE
    events = []
    for now, hold_seconds in ((0.0, 60.0), (60.0, 240.0), (120.0, 240.0), (135.0, 120.0)):
        flag, event = advance_flag(
            flag, now, shifted=True, persists=True, parameters=PARAMETERS, hold_seconds=hold_seconds
        )
        events.append(event)
        assert flag.firing or flag.pending_since == 0
    assert events == [None, None, None, FlagEvent.FIRING]
    assert flag.since == 0


def test_resolves_after_the_clear_hold_and_keeps_firing_while_the_shift_persists() -> None:
    firing = [(0.0, "!"), (60.0, "!")]
    assert run(*firing, (75, "."), (180, ".")) == [(60, FlagEvent.FIRING)]
    assert run(*firing, (75, "."), (195, ".")) == [(60, FlagEvent.FIRING), (195, FlagEvent.RESOLVED)]
    assert run(*firing, (75, "."), (180, "~"), (195, "."), (300, ".")) == [(60, FlagEvent.FIRING)]


def test_clock_set_back_delays_a_transition_by_at_most_the_hold_time() -> None:
    assert run((3600, "!"), (0, "!"), (45, "!")) == []
    assert run((3600, "!"), (0, "!"), (60, "!")) == [(60, FlagEvent.FIRING)]
    firing = [(3600.0, "!"), (3660.0, "!"), (3675.0, ".")]
    assert run(*firing, (0, "."), (105, ".")) == [(3660, FlagEvent.FIRING)]
    assert run(*firing, (0, "."), (120, ".")) == [(3660, FlagEvent.FIRING), (120, FlagEvent.RESOLVED)]


def test_since_is_the_start_of_the_condition() -> None:
    flag = INACTIVE
    for now in (30.0, 60.0, 90.0):
        flag, _ = advance_flag(flag, now, shifted=True, persists=True, parameters=PARAMETERS)
    assert flag == Flag(firing=True, since=30.0)
    flag, _ = advance_flag(flag, 105.0, shifted=False, persists=False, parameters=PARAMETERS)
    assert (flag.firing, flag.since, flag.keep_firing_since) == (True, 30.0, 105.0)


@given(st.lists(st.sampled_from("!~."), max_size=60))
def test_events_alternate_and_state_is_consistent(ticks: list[str]) -> None:
    flag = INACTIVE
    events = []
    for index, condition in enumerate(ticks):
        flag, event = advance_flag(
            flag, 15.0 * index, shifted=condition == "!", persists=condition in "!~", parameters=PARAMETERS
        )
        if event is not None:
            events.append(event)
            assert flag.firing is (event is FlagEvent.FIRING)
        assert (flag.since is not None) is flag.firing
        assert not (flag.firing and flag.pending_since is not None)
        assert flag.firing or flag.keep_firing_since is None
    assert events == [FlagEvent.FIRING, FlagEvent.RESOLVED] * (len(events) // 2) + [FlagEvent.FIRING] * (
        len(events) % 2
    )
