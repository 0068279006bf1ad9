"""Ledger: the wanted range, pending windows, retries, batches and progress."""

from collections.abc import Sequence
from dataclasses import replace
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model.calendar import Calendar
from exporter.model.ledger import (
    BatchRules,
    LedgerEntry,
    Wanted,
    Window,
    WindowState,
    expected_density,
    next_batch,
    pending,
    ready,
    retry_pause_seconds,
    wanted,
)
from tests.support.ledgers import (
    DAY,
    HOUR,
    NOON,
    UTC_CALENDAR,
    calendars,
    entry,
    failed,
    ledgers,
    ranges,
    seconds_covered,
    steps,
)

RULES = BatchRules(limit=1000)


def hours(*back: int) -> list[Window]:
    return [Window(NOON - ago * HOUR, NOON - ago * HOUR + HOUR) for ago in back]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Wanted, Sequence[LedgerEntry], Calendar]:
    range_ = draw(ranges())
    return range_, draw(ledgers(range_)), draw(calendars)


# Wanted range


@given(st.floats(NOON - 9 * DAY, NOON + 9 * DAY), calendars, st.integers(1, 30 * DAY), st.integers(1, DAY), steps)
def test_wanted_range_ends_with_the_last_settled_window(
    now: float, calendar: Calendar, duration: int, settle: int, step: int
) -> None:
    range_ = wanted(now, calendar, duration_seconds=duration, settle_seconds=settle, batch_seconds=step)
    assert range_.start <= range_.end <= now - settle
    assert calendar.grid_next(range_.end, step) > now - settle
    if duration >= settle + HOUR:
        assert range_.start <= now - duration < calendar.grid_next(range_.start, step)


@pytest.mark.parametrize(("batch_seconds", "step"), [(300, 300), (HOUR, HOUR), (6 * HOUR, HOUR)])
def test_windows_are_at_most_an_hour_long(batch_seconds: int, step: int) -> None:
    range_ = wanted(NOON, UTC_CALENDAR, duration_seconds=DAY, settle_seconds=900, batch_seconds=batch_seconds)
    assert range_.step_seconds == step


def test_wanted_range_is_empty_if_nothing_has_settled() -> None:
    range_ = wanted(NOON, UTC_CALENDAR, duration_seconds=600, settle_seconds=900, batch_seconds=300)
    assert range_.start == range_.end
    assert pending([], range_, UTC_CALENDAR) == []


# Pending windows


@given(cases())
def test_read_and_pending_windows_partition_the_range_for_any_ledger(
    case: tuple[Wanted, Sequence[LedgerEntry], Calendar],
) -> None:
    range_, entries, calendar = case
    planned = pending(entries, range_, calendar)
    read = [found.window for found in entries if found.state.settled]
    assert seconds_covered([*planned, *read], range_) == (
        [(range_.start, range_.end)] if range_.start < range_.end else []
    )
    assert all(range_.start <= window.start < window.end <= range_.end for window in planned)


@given(cases())
def test_pending_windows_are_sorted_newest_first_and_lie_in_one_local_hour(
    case: tuple[Wanted, Sequence[LedgerEntry], Calendar],
) -> None:
    range_, entries, calendar = case
    planned = pending(entries, range_, calendar)
    assert planned == sorted(planned, reverse=True)
    for window in planned:
        assert 0 < window.seconds <= range_.step_seconds
        assert calendar.slot(window.start) == calendar.slot(window.end - 1)


@given(cases())
def test_nothing_is_pending_after_all_pending_windows_were_read(
    case: tuple[Wanted, Sequence[LedgerEntry], Calendar],
) -> None:
    range_, entries, calendar = case
    planned = pending(entries, range_, calendar)
    assert pending([*entries, *(entry(*window) for window in planned)], range_, calendar) == []


@given(cases(), st.integers(0, 3 * DAY))
def test_longer_range_only_adds_older_pending_windows(
    case: tuple[Wanted, Sequence[LedgerEntry], Calendar], more: int
) -> None:
    range_, entries, calendar = case
    start = calendar.grid_floor(range_.start, range_.step_seconds)
    before = Wanted(start, max(start, range_.end), range_.step_seconds)
    longer = Wanted(calendar.grid_floor(start - more, range_.step_seconds), before.end, range_.step_seconds)
    planned = pending(entries, longer, calendar)
    planned_before = pending(entries, before, calendar)
    assert planned[: len(planned_before)] == planned_before
    assert all(window.end <= start for window in planned[len(planned_before) :])


def test_windows_of_all_states_but_failed_count_as_read() -> None:
    (window,) = hours(1)
    range_ = Wanted(*window, HOUR)
    for state in WindowState:
        left = pending([entry(*window, state)], range_, UTC_CALENDAR)
        assert left == ([window] if state is WindowState.FAILED else [])


# Retries


def test_retry_pause_doubles_from_30_seconds_to_an_hour() -> None:
    assert [retry_pause_seconds(attempts) for attempts in range(1, 10)] == [
        30, 60, 120, 240, 480, 960, 1920, 3600, 3600,
    ]  # fmt: skip
    assert retry_pause_seconds(0) == 30
    assert retry_pause_seconds(1_000_000) == 3600


def test_failed_window_is_ready_at_its_retry_time() -> None:
    one, two = hours(1, 2)
    entries = [failed(one, retry_at=NOON + 30)]
    assert ready([one, two], entries, NOON) == [two]
    assert ready([one, two], entries, NOON + 29.9) == [two]
    assert ready([one, two], entries, NOON + 30) == [one, two]


def test_windows_within_a_failed_window_of_another_grid_wait_for_its_retry() -> None:
    (hour,) = hours(1)
    parts = [Window(start, start + 900) for start in range(hour.start, hour.end, 900)]
    assert ready(parts, [failed(hour, retry_at=NOON + 30)], NOON) == []
    assert ready(parts, [failed(hour, retry_at=NOON + 30)], NOON + 31) == parts


def test_retry_time_too_far_ahead_is_ignored() -> None:
    """It was written by a clock that was a day ahead, and has been set back since."""
    (window,) = hours(1)
    assert ready([window], [failed(window, retry_at=NOON + DAY)], NOON) == [window]
    assert ready([window], [failed(window, retry_at=NOON + HOUR)], NOON) == []


# Batches


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[Window], Sequence[LedgerEntry], BatchRules]:
    range_, entries, calendar = draw(cases())
    rules = BatchRules(
        limit=draw(st.integers(1, 5000)),
        usual_windows=draw(st.integers(1, 6)),
        most_windows=draw(st.integers(1, 30)),
        longest_seconds=draw(st.sampled_from([900, HOUR, 5 * HOUR, 168 * HOUR])),
    )
    return pending(entries, range_, calendar), entries, rules


@given(batches())
def test_batch_is_the_newest_window_and_adjacent_ones_expected_to_fit(
    case: tuple[list[Window], Sequence[LedgerEntry], BatchRules],
) -> None:
    windows, entries, rules = case
    if not windows:
        return
    batch = next_batch(windows, entries, rules)
    assert list(batch.windows) == list(reversed(windows[: len(batch.windows)]))
    assert all(one.end == other.start for one, other in zip(batch.windows, batch.windows[1:], strict=False))
    assert (batch.start, batch.end) == (batch.windows[0].start, batch.windows[-1].end)
    density = expected_density(windows[0], entries)
    if density is None:
        assert batch.expected_traces is None
    else:
        assert batch.expected_traces == pytest.approx(density * (batch.end - batch.start))
    if len(batch.windows) == 1:
        return
    failures = {found.window for found in entries if found.state is WindowState.FAILED}
    assert failures.isdisjoint(batch.windows)
    assert len(batch.windows) <= rules.most_windows
    assert batch.end - batch.start <= rules.longest_seconds
    if batch.expected_traces is None:
        assert len(batch.windows) <= rules.usual_windows
    else:
        assert batch.expected_traces <= rules.limit * rules.fill * (1 + 1e-9)


def test_batch_has_the_configured_length_while_traffic_is_unknown() -> None:
    windows = hours(1, 2, 3, 4)
    assert next_batch(windows, [], RULES).windows == (windows[0],)
    four = BatchRules(limit=1000, usual_windows=3)
    assert next_batch(windows, [], four).windows == (windows[2], windows[1], windows[0])
    assert next_batch(windows, [], four).expected_traces is None


def test_batch_is_long_in_quiet_and_short_in_dense_traffic() -> None:
    windows = hours(*range(2, 40))
    (newest,) = hours(1)
    quiet = next_batch(windows, [entry(*newest, traces=10)], RULES)
    assert len(quiet.windows) == 24
    busy = next_batch(windows, [entry(*newest, traces=150)], RULES)
    assert len(busy.windows) == 3
    assert busy.expected_traces == pytest.approx(450)
    dense = next_batch(windows, [entry(*newest, traces=70_000)], RULES)
    assert len(dense.windows) == 1
    assert dense.expected_traces == pytest.approx(70_000)


def test_batch_ends_at_a_gap_and_before_a_failed_window() -> None:
    (newest,) = hours(1)
    known = [entry(*newest, traces=1)]
    assert len(next_batch(hours(2, 3, 5, 6), known, RULES).windows) == 2
    bad = failed(hours(4)[0], retry_at=NOON)
    assert len(next_batch(hours(2, 3, 4, 5), [*known, bad], RULES).windows) == 2


def test_failed_window_is_a_batch_of_its_own() -> None:
    windows = hours(2, 3, 4)
    known = [entry(*hours(1)[0], traces=1), failed(windows[0], retry_at=NOON)]
    assert next_batch(windows, known, RULES).windows == (windows[0],)


def test_batch_is_no_longer_than_the_range_tempo_searches() -> None:
    rules = BatchRules(limit=1000, longest_seconds=3 * HOUR)
    assert len(next_batch(hours(*range(2, 12)), [entry(*hours(1)[0])], rules).windows) == 3


def test_expected_density_is_the_maximum_of_the_nearest_windows() -> None:
    far, *near = hours(20, 6, 5, 4)
    counts = [100, 700, 300]
    known = [
        entry(*far, traces=99_999),
        *(entry(*window, traces=count) for window, count in zip(near, counts, strict=True)),
    ]
    (window,) = hours(3)
    assert expected_density(window, known) == pytest.approx(700 / HOUR)
    assert expected_density(window, []) is None


def test_expected_density_ignores_windows_that_were_not_read() -> None:
    one, two, three = hours(1, 2, 3)
    known = [failed(one, retry_at=NOON), entry(*two, WindowState.EXPIRED)]
    assert expected_density(three, known) is None
    # A partial window without traces was too dense to read; that does not make it empty.
    assert expected_density(three, [*known, entry(*hours(9)[0], WindowState.PARTIAL)]) is None
    assert expected_density(three, [*known, entry(*hours(9)[0], WindowState.PARTIAL, traces=36)]) == 0.01


def test_wanted_range_follows_the_local_clock() -> None:
    berlin = Calendar(ZoneInfo("Europe/Berlin"))
    range_ = wanted(NOON, berlin, duration_seconds=4 * DAY, settle_seconds=900, batch_seconds=HOUR)
    # Four days from noon to noon across the start of DST, without the newest hour, which has not settled.
    assert berlin.local(range_.start).hour == 11
    assert len(pending([], range_, berlin)) == 4 * 24 - 1


def test_counts_of_tempo_take_precedence_over_the_expected_density() -> None:
    windows = hours(2, 3, 4, 5)
    known = [entry(*hours(1)[0], traces=10)]
    counted = dict(zip(windows, (100, 200, 4000, 100), strict=True))
    batch = next_batch(windows, known, RULES, counted.get)
    assert (batch.windows, batch.expected_traces) == ((windows[1], windows[0]), 300)
    del counted[windows[1]]
    assert next_batch(windows, known, RULES, counted.get).expected_traces == pytest.approx(110)


def test_window_above_the_trace_limit_is_a_batch_of_its_own() -> None:
    windows = hours(2, 3)
    rules = replace(RULES, limit=10_000, most_traces=1000)
    assert len(next_batch(windows, [], rules, dict.fromkeys(windows, 400).get).windows) == 2
    assert len(next_batch(windows, [], rules, dict.fromkeys(windows, 600).get).windows) == 1


def test_expected_density_extrapolates_from_coverage() -> None:
    (window,) = hours(1)
    sampled = replace(entry(*window, traces=36), coverage=0.01)
    assert sampled.there == pytest.approx(3600)
    assert expected_density(hours(2)[0], [sampled]) == pytest.approx(1.0)
