"""Spans that reach Tempo after their window was read get into the record, once, and coverage says so until then."""

import logging
import random
from collections import Counter
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.ingest.exact_reader import Budget
from exporter.ingest.late_spans import LatePolicy, is_complete, late_by_window, needs_reread, with_late_spans
from exporter.ingest.window_table import was_sampled
from exporter.model.calendar import HourClock
from exporter.model.histogram import Digest
from exporter.model.hours import hours_of
from exporter.model.ledger import Window, WindowState
from exporter.model.span import SeriesKey, Span
from tests.support.fakes import KEY, NS, FakeTempo, away, span
from tests.support.ledgers import DAY, HOUR, NOON, UTC_CALENDAR, entry
from tests.support.samples import events
from tests.unit.ingest.test_backfill import (
    LOGIN,
    LOOKBACK,
    NOW,
    SETTLE,
    BackfillBench,
    digests_of,
    fails_in,
    hour,
    no_connection,
    steady,
)

LATE = 24 * HOUR
POLICY = LatePolicy(LATE, LOOKBACK)
JOB = SeriesKey("reports", "build report")
Counting = Literal["exact", "empty"]


def jobs(seconds: float, *, every: float = 240.0, spread: float = 0.0, since: float = -6 * HOUR) -> list[Span]:
    """Requests that last long, from some hours before noon until two days after it."""
    chance = random.Random(1)
    count = int((2 * DAY - since) // every)
    return [
        span(NOON + since + number * every + 0.5, seconds * chance.lognormvariate(0, spread), JOB)
        for number in range(count)
    ]


def bench_for(
    tempo: FakeTempo, *, since: BackfillBench | None = None, hours: int = 30, **settings: object
) -> BackfillBench:
    """A backfill whose Tempo finds spans once they have ended; after another one, with its ledger."""
    bench = BackfillBench(
        tempo,
        hours=hours,
        late=LATE,
        now=NOW if since is None else since.clock.now,
        store=None if since is None else since.store,
        **settings,  # type: ignore[arg-type]
    )
    tempo.time_now = bench.clock.time
    return bench


def run_until(bench: BackfillBench, ago: float, *, step: float = 1200.0) -> None:
    """Make single passes until some seconds after noon."""
    while bench.clock.now < NOON + ago:
        bench.clock.advance(min(step, NOON + ago - bench.clock.now))
        bench.read()


def final_windows(bench: BackfillBench) -> list[Window]:
    """Windows that were read, and are checked no more."""
    return [each.window for each in bench.ledger().values() if each.state.is_stored and each.late_check_at is None]


# The whole backfill


@pytest.mark.parametrize("counting", ["exact", "empty"])
@pytest.mark.parametrize("batch", [HOUR, HOUR // 2])
def test_requests_of_an_hour_are_in_the_record_after_the_last_check(counting: Counting, batch: int) -> None:
    tempo = FakeTempo([*jobs(HOUR, spread=0.25), *steady(4)], counting=counting)
    bench = bench_for(tempo, batch=batch)
    bench.read()
    newest = max(bench.ledger())
    assert bench.ledger()[newest].coverage is None
    assert bench.backfill.status.late_windows
    run_until(bench, 26 * HOUR)
    final = final_windows(bench)
    assert newest in final
    assert all(bench.ledger()[window].coverage == 1.0 for window in final)
    stored, expected = bench.stored(), digests_of(tempo.spans, sorted(bench.ledger()))
    assert {key: value for key, value in expected.items() if key[1] <= newest.start} == {
        key: value for key, value in stored.items() if key[1] <= newest.start
    }
    pooled = Digest.pool(value for (key, start), value in stored.items() if key == JOB and start <= newest.start)
    durations = sorted(each.duration_ns for each in tempo.spans if each.key == JOB)
    assert pooled.quantile_seconds(0.95) == pytest.approx(durations[int(0.95 * len(durations))] / NS, rel=0.06)


@pytest.mark.parametrize("counting", ["exact", "empty"])
@pytest.mark.parametrize("seconds", [2 * HOUR, 20 * HOUR])
def test_requests_that_last_longer_than_any_window_are_in_the_record(counting: Counting, seconds: int) -> None:
    tempo = FakeTempo(jobs(seconds, every=1200, since=-30 * HOUR), counting=counting)
    bench = bench_for(tempo)
    bench.read()
    assert (JOB, hour(1).start) not in bench.stored()
    assert bench.ledger()[hour(1)].coverage is None
    run_until(bench, 25 * HOUR + 200)
    assert bench.stored()[JOB, hour(1).start].count == 3
    assert bench.ledger()[hour(1)].coverage == 1.0


@pytest.mark.parametrize("counting", ["exact", "empty"])
def test_late_requests_that_fail_are_in_the_record_once(counting: Counting) -> None:
    chance = random.Random(2)
    spans = [each._replace(failed=chance.random() < 0.3) for each in [*jobs(2 * HOUR, every=300), *steady(4)]]
    bench = bench_for(FakeTempo(spans, counting=counting))
    bench.read()
    run_until(bench, 26 * HOUR)
    newest = max(final_windows(bench))
    found: dict[SeriesKey, dict[int, int]] = {}
    for stored in bench.store.history([JOB, KEY, LOGIN], 0, newest.end):
        for each in hours_of(stored.windows, HourClock(UTC_CALENDAR)):
            failures = each.failures()
            assert failures is not None
            for mark, count in failures.items():
                found.setdefault(stored.key, Counter())[mark] += count
    oldest = min(bench.ledger()).start
    expected: dict[SeriesKey, dict[int, int]] = {}
    for span_ in spans:
        if span_.failed and oldest * NS <= span_.start_ns < newest.end * NS:
            expected.setdefault(span_.key, Counter())[-(-span_.end_ns // (300 * NS)) * 300] += 1
    assert found == expected
    assert sum(expected[JOB].values()) > 10


@pytest.mark.parametrize("counting", ["exact", "empty"])
def test_short_requests_that_are_delivered_late_are_in_the_record(counting: Counting) -> None:
    tempo = FakeTempo(steady(6), counting=counting)
    bench = bench_for(tempo)
    bench.read()
    run_until(bench, 20 * HOUR)
    late = span(NOON - 1800, 0.2, LOGIN)
    tempo.spans = [*tempo.spans, late]
    run_until(bench, 25 * HOUR)
    assert bench.stored()[LOGIN, hour(1).start] == Digest.of_ns([late.duration_ns])
    assert bench.stored()[KEY, hour(1).start].count == 10


def test_coverage_tells_about_late_spans_before_they_are_in_the_record() -> None:
    few = [span(NOON - 1800, 2.5 * HOUR, KEY)]
    tempo = FakeTempo([*steady(6, per_hour=200), *few], counting="empty")
    bench = bench_for(tempo)
    bench.read()
    # Nothing hints at requests that last longer.
    assert (bench.ledger()[hour(1)].coverage, bench.ledger()[hour(1)].late_spans) == (1.0, 0)
    run_until(bench, 3.1 * HOUR)
    found = bench.ledger()[hour(1)]
    assert (found.traces, found.late_spans, found.coverage) == (200, 1, 200 / 201)
    assert found.may_lack_late_spans
    assert bench.backfill.status.progress.coverage == 1200 / 1201
    # It does not count as sampled, and is not reread for so little until the last check.
    assert not was_sampled(found)
    run_until(bench, 24 * HOUR)
    assert bench.stored()[KEY, hour(1).start].count == 200
    run_until(bench, 26 * HOUR)
    assert bench.stored()[KEY, hour(1).start].count == 201
    assert bench.ledger()[hour(1)].coverage == 1.0
    run_until(bench, 30 * HOUR)
    assert bench.backfill.status.late_windows == 0


def test_window_of_short_requests_is_complete_from_the_start() -> None:
    bench = bench_for(FakeTempo(steady(6)))
    bench.read()
    assert [bench.ledger()[hour(ago)].coverage for ago in range(1, 7)] == [1.0] * 6
    assert bench.backfill.status.late_windows == 0


def test_restarts_at_any_time_lose_and_double_nothing() -> None:
    tempo = FakeTempo([*jobs(1.5 * HOUR, spread=0.25, since=-3 * HOUR), *steady(6)])
    bench = bench_for(tempo)
    while bench.clock.now < NOON + 25.5 * HOUR:
        bench.read()
        bench.clock.advance(2000)
        bench = bench_for(tempo, since=bench)
    bench.read()
    windows = [window for window in bench.ledger() if window.end <= NOON]
    expected = digests_of(tempo.spans, windows)
    assert {key: value for key, value in bench.stored().items() if key[1] < NOON} == expected


def test_young_windows_of_an_earlier_version_are_checked_and_old_ones_are_not() -> None:
    tempo = FakeTempo([*jobs(HOUR, since=-40 * HOUR), *steady(1)])
    first = BackfillBench(tempo, hours=40)
    tempo.time_now = first.clock.time
    first.read()
    assert {each.late_check_at for each in first.ledger().values()} == {None}
    before = first.stored()
    second = bench_for(tempo, since=first, hours=40)
    run_until(second, 26 * HOUR)
    after = second.stored()
    assert after[JOB, hour(1).start].count == 15 > before.get((JOB, hour(1).start), Digest({})).count
    assert tempo.long_searches
    assert min(start for start, _, _ in tempo.long_searches) >= NOON - LATE - HOUR


def test_running_exporter_checks_windows_as_time_passes() -> None:
    tempo = FakeTempo([*jobs(2 * HOUR, every=1200), span(NOON - 1800, 0.1, LOGIN)])
    bench = bench_for(tempo, tick=0.001)
    expected = digests_of(tempo.spans, [hour(1), hour(2)])
    with bench.running():
        bench.wait_until(lambda: bench.stored().items() >= expected.items(), advance=600)
        bench.wait_until(lambda: bench.ledger()[hour(1)].late_check_at is None, advance=600)
        bench.wait_until(lambda: bench.backfill.status.progress.complete)
    assert bench.stored().items() >= expected.items()


def test_window_in_which_a_count_finds_more_than_the_last_reread_is_read_once_more() -> None:
    tempo = FakeTempo(steady(6), counting="exact")
    bench = bench_for(tempo)
    bench.read()
    run_until(bench, 20 * HOUR)
    # Tempo counts a span that was delivered twice, and returns it once.
    tempo.count = FakeTempo([*steady(6), span(NOON - 9, 0.1)], counting="exact").count  # type: ignore[method-assign]
    run_until(bench, 26 * HOUR)
    last = bench.ledger()[hour(1)]
    assert (last.traces, last.coverage, last.late_check_at) == (10, 10 / 11, None)
    assert last.retry_at is not None
    assert not was_sampled(last)


def test_spans_on_the_edges_of_windows_cause_no_reread(caplog: pytest.LogCaptureFixture) -> None:
    """Tempo counts a span that starts on an edge in the window before it, the ledger in the window after it."""
    edges = [span(NOON - ago * HOUR, 0.1) for ago in (6, 4, 3, 0) for _ in range(ago + 1)]
    tempo = FakeTempo([*steady(6), *edges, span(NOON + 10, 0.1)], counting="exact")
    bench = bench_for(tempo, hours=40)
    caplog.set_level(logging.INFO)
    bench.read()
    run_until(bench, 26 * HOUR)
    assert set(final_windows(bench)) >= {hour(ago) for ago in range(1, 7)}
    assert "windows_reread_late" not in events(caplog)
    assert {bench.ledger()[hour(ago)].coverage for ago in range(1, 7)} == {1.0}


# Failures


def test_windows_stay_as_read_while_tempo_is_down_and_are_checked_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    tempo = FakeTempo([*jobs(HOUR), *steady(3)])
    bench = bench_for(tempo, hours=20)
    bench.read()
    before = bench.stored()
    tempo.before_search = away
    run_until(bench, 8 * HOUR)
    assert {key: bench.stored()[key] for key in before} == before
    assert bench.ledger()[hour(1)].state is WindowState.DONE
    assert "late_check_failed" in events(caplog)
    tempo.before_search = lambda start, end: None
    run_until(bench, 20 * HOUR)
    assert bench.stored()[JOB, hour(1).start].count == 15


def test_failed_check_is_repeated_after_growing_pauses() -> None:
    tempo = FakeTempo(steady(1))
    bench = bench_for(tempo)
    bench.read()
    tempo.before_search = fails_in(hour(1), no_connection)
    bench.clock.advance(HOUR)
    for pause in (30, 60, 120):
        searches = len(tempo.searches)
        bench.read()
        assert len(tempo.searches) > searches
        searches = len(tempo.searches)
        bench.clock.advance(pause - 1)
        bench.read()
        assert len(tempo.searches) == searches
        bench.clock.advance(1)
    tempo.before_search = lambda start, end: None
    bench.read()
    assert len(tempo.long_searches) == 1


def test_window_that_cannot_be_reread_keeps_its_digests_and_says_what_it_lacks() -> None:
    tempo = FakeTempo([*jobs(HOUR), *steady(3)])
    bench = bench_for(tempo)
    bench.read()
    before = bench.stored()

    def fail_whole_reads(start: int, end: int) -> None:
        if len(tempo.long_searches) > searches:
            away(start, end)

    searches = len(tempo.long_searches)
    tempo.before_search = fail_whole_reads
    bench.clock.advance(2 * HOUR)
    bench.read()
    entry_ = bench.ledger()[hour(1)]
    assert {key: bench.stored()[key] for key in before} == before
    assert entry_.late_spans and entry_.coverage is not None and entry_.coverage < 0.99
    assert not was_sampled(entry_)


def test_window_that_tempo_no_longer_keeps_stays_and_is_checked_no_more() -> None:
    tempo = FakeTempo(steady(6))
    bench = bench_for(tempo)
    bench.read()
    before = bench.stored()
    run_until(bench, 10 * HOUR)
    tempo.spans = []
    run_until(bench, 26 * HOUR)
    assert bench.stored() == before
    assert bench.ledger()[hour(1)].late_check_at is None
    searches = len(tempo.searches)
    bench.clock.advance(60)
    bench.read()
    assert len(tempo.searches) == searches


def test_full_search_for_late_spans_leads_to_a_reread() -> None:
    tempo = FakeTempo([*jobs(HOUR, every=60), *steady(3)], max_limit=100)
    bench = bench_for(tempo)
    bench.read()
    assert bench.stored()[JOB, hour(1).start].count < 60
    run_until(bench, 3.2 * HOUR)
    assert bench.stored()[JOB, hour(1).start].count == 60


def test_sampled_window_is_sampled_once_more_for_its_late_spans() -> None:
    short = [span(NOON - HOUR + number * 1.2 + 0.3, 0.1) for number in range(3000)]
    tempo = FakeTempo([*short, *jobs(HOUR, every=30, since=-2 * HOUR)], max_limit=600)
    bench = bench_for(tempo, hours=30, budget=Budget(1000, 40))
    bench.read()
    first = bench.ledger()[hour(1)]
    assert was_sampled(first)
    run_until(bench, 26 * HOUR, step=6 * HOUR)
    last = bench.ledger()[hour(1)]
    assert was_sampled(last)
    assert last.late_check_at is None
    assert last.there == pytest.approx(3120, rel=0.15)
    share = bench.stored()[JOB, hour(1).start].count / last.stored
    assert share == pytest.approx(120 / 3120, rel=0.5)


# Cost


@pytest.mark.parametrize("batch", [HOUR, 300])
@pytest.mark.parametrize("counting", ["exact", "empty"])
def test_a_day_of_short_requests_costs_a_search_for_each_check(counting: Counting, batch: int) -> None:
    traffic = [span(NOON - 30 * HOUR + number * 300 + 0.5, 0.1) for number in range(12 * 3 * 30)]
    tempo = FakeTempo(traffic, counting=counting)
    bench = bench_for(tempo, hours=27, batch=batch)
    bench.read()
    run_until(bench, 3 * HOUR)
    before, searches = len(tempo.long_searches), len(tempo.searches)
    run_until(bench, 15 * HOUR)
    assert len(tempo.long_searches) - before == 4 * 12
    assert min(shortest for _, _, shortest in tempo.long_searches) >= (SETTLE - LOOKBACK) * NS
    reads = len(tempo.searches) - searches - 4 * 12
    windows = 12 * HOUR // batch
    # Where Tempo counts, no window is read twice.
    assert reads <= windows if counting == "exact" else reads <= 2 * windows


# The decision


@given(st.integers(0, 2 * DAY), st.sampled_from([60, 300, HOUR]), st.integers(900, 2 * DAY), st.integers(0, 300))
def test_checks_come_later_and_later_until_the_time_for_late_spans_is_over(
    start: int, length: int, late: int, lookback: int
) -> None:
    policy, window = LatePolicy(late, lookback), Window(start, start + length)
    now, checks = float(window.end), []
    while (due := policy.next_check(window, now)) is not None:
        assert due > now
        assert not policy.is_last(window, now)
        checks.append(due)
        now = due
    assert 1 <= len(checks) <= 5
    assert policy.is_last(window, now)
    assert checks[-1] == policy.next_check(window, window.end, only_last=True)
    assert window.end + late <= checks[-1] <= window.end + late * 25 / 24 + lookback + 1e-6


def test_windows_of_an_hour_are_due_together() -> None:
    quarters = [Window(NOON + number * 900, NOON + number * 900 + 900) for number in range(4)]
    assert {POLICY.next_check(window, NOON + HOUR) for window in quarters} == {NOON + 2 * HOUR + LOOKBACK}


def test_no_window_is_checked_if_no_span_can_be_late() -> None:
    assert LatePolicy(0, LOOKBACK).next_check(hour(1), NOON) is None
    assert LatePolicy(0, LOOKBACK).is_last(hour(1), NOON)


@given(
    st.integers(-HOUR * NS, 0), st.integers(0, 3 * DAY * NS), st.integers(0, DAY), st.sampled_from(["filtered", None])
)
def test_span_that_ended_after_the_read_is_late_and_found_by_its_duration(
    start_ns: int, duration_ns: int, age: int, reason: str | None
) -> None:
    read = replace(entry(*hour(1)), read_at=NOON + SETTLE + age)
    found = Span("1", "1", KEY, NOON * NS + start_ns, duration_ns)
    late = late_by_window([found], [read], POLICY, lambda key: reason or key)[hour(1)].total()
    is_unseen = found.end_ns > (read.read_at - LOOKBACK) * NS and start_ns < 0
    assert late == (is_unseen and reason is None)
    if is_unseen:
        assert duration_ns >= POLICY.unseen_seconds(hour(1), read.read_at) * NS


def test_late_spans_are_counted_in_the_window_in_which_they_began() -> None:
    entries = [replace(entry(*hour(ago)), read_at=NOON + SETTLE) for ago in (4, 2, 1)]
    starts = [-5 * HOUR, -4 * HOUR, -3 * HOUR, -2 * HOUR - 1, -2 * HOUR, -1, 0]
    spans = [span(NOON + start, 9 * HOUR) for start in starts]
    late = late_by_window(spans, entries, POLICY, lambda key: key)
    assert [late[hour(ago)].total() for ago in (4, 2, 1)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("late", "stored", "is_reread"),
    [
        ({}, {}, False),
        ({KEY: 10}, {KEY: 900}, False),
        ({KEY: 11}, {KEY: 900}, True),
        ({KEY: 5}, {KEY: 50}, False),
        ({KEY: 6}, {KEY: 50}, True),
        ({LOGIN: 1}, {}, True),
        ({KEY: 6, LOGIN: 5}, {KEY: 500, LOGIN: 500}, True),
    ],
)
def test_window_is_reread_for_more_than_one_percent_or_a_tenth_of_a_series(
    late: dict[SeriesKey, int], stored: dict[SeriesKey, int], *, is_reread: bool
) -> None:
    whole = entry(*hour(1), traces=1000, coverage=1.0)
    assert needs_reread(whole, late, stored) == is_reread
    # Each span of a sample stands for ten.
    sample = entry(*hour(1), traces=1000, coverage=0.1)
    assert needs_reread(sample, {key: 10 * count for key, count in late.items()}, stored) == is_reread


@pytest.mark.parametrize(
    ("fields", "count", "expected"),
    [
        ({}, 100, True),
        ({}, 101, False),
        ({}, None, False),
        ({}, 80, False),  # counts below what was read say nothing
        ({"late_spans": 1}, 100, False),
        ({"late_spans": None, "coverage": None}, 100, True),
        ({"state": WindowState.PARTIAL, "coverage": None}, 100, False),
        ({"coverage": 0.1}, 1000, True),
        ({"coverage": 0.1}, 1100, False),
        ({"coverage": 0.1}, None, True),
        ({"state": WindowState.EMPTY, "traces": 0}, None, False),
    ],
)
def test_last_check_asks_for_a_reread_unless_counts_show_that_nothing_is_missing(
    fields: dict[str, object], count: int | None, *, expected: bool
) -> None:
    read = entry(*hour(1), traces=100, coverage=1.0)
    assert is_complete(replace(read, **fields), count) == expected  # type: ignore[arg-type]


@given(st.integers(0, 500), st.integers(0, 50), st.integers(0, 50), st.sampled_from([1.0, 0.2]))
def test_coverage_follows_from_the_last_check_only(traces: int, earlier: int, late: int, coverage: float) -> None:
    read = entry(*hour(1), traces=traces, coverage=coverage)
    once = with_late_spans(read, earlier, may_lack=False, late_check_at=NOON)
    twice = with_late_spans(once, late, may_lack=False, late_check_at=NOON)
    assert twice.coverage is not None
    if traces or not late:
        assert twice.coverage == pytest.approx(traces / (traces / coverage + late) if traces else 1.0)
    else:
        assert twice.coverage == 0.0
    assert (twice.late_spans, twice.traces) == (late, traces)
    unknown = with_late_spans(read, 0, may_lack=True, late_check_at=NOON)
    assert unknown.late_spans is None
    assert unknown.coverage == (None if coverage == 1.0 or not traces else coverage)
