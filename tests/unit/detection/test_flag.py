"""The flag rises when the condition holds and falls when it is gone, not before and not at a single tick."""

from hypothesis import given
from hypothesis import strategies as st

from exporter.detection.flag import INACTIVE, Flag, FlagEvent, advance_flag
from exporter.detection.parameters import Parameters

PARAMETERS = Parameters(hold_seconds=60, clear_hold_seconds=120)


def run(*ticks: tuple[float, str]) -> list[tuple[float, FlagEvent]]:
    """The events of ticks: ``!`` shifted and still slow, ``~`` still slow, ``.`` neither."""
    flag, events = INACTIVE, []
    for now, what in ticks:
        flag, event = advance_flag(flag, now, shifted=what == "!", still=what in "!~", parameters=PARAMETERS)
        if event is not None:
            events.append((now, event))
    return events


def test_it_rises_after_the_hold() -> None:
    assert run((0, "!"), (15, "!"), (45, "!")) == []
    assert run((0, "!"), (15, "!"), (60, "!")) == [(60, FlagEvent.FIRING)]


def test_one_tick_without_starts_the_hold_anew() -> None:
    assert run((0, "!"), (45, "."), (60, "!"), (105, "!")) == []
    assert run((0, "!"), (45, "~"), (60, "!"), (120, "!")) == [(120, FlagEvent.FIRING)]


def test_it_falls_after_the_clear_hold_and_stays_while_the_newest_are_slow() -> None:
    up = [(0.0, "!"), (60.0, "!")]
    assert run(*up, (75, "."), (180, ".")) == [(60, FlagEvent.FIRING)]
    assert run(*up, (75, "."), (195, ".")) == [(60, FlagEvent.FIRING), (195, FlagEvent.RESOLVED)]
    assert run(*up, (75, "."), (180, "~"), (195, "."), (300, ".")) == [(60, FlagEvent.FIRING)]


def test_a_clock_that_was_set_back_delays_no_more_than_the_hold() -> None:
    assert run((3600, "!"), (0, "!"), (45, "!")) == []
    assert run((3600, "!"), (0, "!"), (60, "!")) == [(60, FlagEvent.FIRING)]
    up = [(3600.0, "!"), (3660.0, "!"), (3675.0, ".")]
    assert run(*up, (0, "."), (105, ".")) == [(3660, FlagEvent.FIRING)]
    assert run(*up, (0, "."), (120, ".")) == [(3660, FlagEvent.FIRING), (120, FlagEvent.RESOLVED)]


def test_since_is_when_the_condition_began() -> None:
    flag = INACTIVE
    for now in (30.0, 60.0, 90.0):
        flag, _ = advance_flag(flag, now, shifted=True, still=True, parameters=PARAMETERS)
    assert flag == Flag(firing=True, since=30.0)
    flag, _ = advance_flag(flag, 105.0, shifted=False, still=False, parameters=PARAMETERS)
    assert (flag.firing, flag.since, flag.keep_firing_since) == (True, 30.0, 105.0)


@given(st.lists(st.sampled_from("!~."), max_size=60))
def test_events_take_turns_and_a_flag_that_is_down_remembers_only_what_is_pending(ticks: list[str]) -> None:
    flag = INACTIVE
    events = []
    for index, what in enumerate(ticks):
        flag, event = advance_flag(flag, 15.0 * index, shifted=what == "!", still=what in "!~", parameters=PARAMETERS)
        if event is not None:
            events.append(event)
            assert flag.firing is (event is FlagEvent.FIRING)
        assert (flag.since is not None) is flag.firing
        assert not (flag.firing and flag.pending_since is not None)
        assert flag.firing or flag.keep_firing_since is None
    assert events == [FlagEvent.FIRING, FlagEvent.RESOLVED] * (len(events) // 2) + [FlagEvent.FIRING] * (
        len(events) % 2
    )
