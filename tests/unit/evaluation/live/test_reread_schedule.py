"""Which seconds a poll cycle reads: nothing is lost compared with reading the whole lookback in every cycle."""

import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporter.evaluation.baseline_table import SeriesBaseline
from exporter.evaluation.live.reread_schedule import Lateness, RereadSchedule, reread_ages
from exporter.ingest.exact_reader import Budget
from exporter.model.span import SeriesKey, Span
from tests.support.fakes import FakeTempo
from tests.support.samples import KEY, NOON, baseline, span, thresholds
from tests.unit.evaluation.live.test_poller import NOW, POLL, Bench

INTERVAL: Final = 15.0
LOOKBACK: Final = 120.0
MAX_BACK: Final = 36_000.0
"""Longer than any pause in these tests: what ended longer ago than that after a pause is not read at all."""
BIN: Final = 5.0


def distribution(delays: Sequence[float]) -> list[float]:
    """Shares by bin of some delays."""
    counts = Counter(min(35, int(delay / BIN)) for delay in delays)
    return [counts[number] / len(delays) for number in range(36)]


def chosen(delays: Sequence[float], max_reads: float = 3.4) -> tuple[float, ...]:
    return reread_ages(distribution(delays), BIN, INTERVAL, LOOKBACK, max_reads)


class TestLateness:
    def test_a_delay_that_all_intervals_contain_is_found(self) -> None:
        lateness = Lateness(BIN, 36)
        for after, by in [(0, 20), (12, 27), (18, 33), (3, 18), (14, 29)]:
            lateness.observe(after, by, 10)
        shares = lateness.shares()
        assert sum(shares) == pytest.approx(1)
        assert shares[3] > 0.95

    def test_nothing_is_assumed_about_where_in_an_interval_spans_arrived(self) -> None:
        lateness = Lateness(BIN, 36)
        lateness.observe(30, 120, 100)
        shares = lateness.shares()
        assert shares[6:24] == pytest.approx([1 / 18] * 18)
        assert sum(shares[:6]) == 0

    def test_old_observations_count_less(self) -> None:
        lateness = Lateness(BIN, 36)
        lateness.observe(0, 5, 100)
        lateness.fade(600)
        assert lateness.spans == pytest.approx(50)
        lateness.observe(60, 65, 50)
        shares = lateness.shares()
        assert (shares[0], shares[12]) == pytest.approx((0.5, 0.5))
        lateness.fade(3600 * 24)
        assert lateness.spans == 0
        assert lateness.shares() == [0] * 36

    def test_extreme_delays_count_for_the_first_and_the_last_bin(self) -> None:
        lateness = Lateness(BIN, 36)
        lateness.observe(-3, 0, 1)
        lateness.observe(1000, 2000, 1)
        shares = lateness.shares()
        assert (shares[0], shares[35]) == pytest.approx((0.5, 0.5))


class TestAges:
    def test_spans_searchable_at_once_need_one_more_read_for_those_that_ended_just_before_a_cycle(self) -> None:
        assert chosen([0.5] * 100) == (5,)

    def test_some_late_spans_are_worth_a_read_when_they_become_searchable(self) -> None:
        assert chosen([0.5] * 98 + [41, 42]) in {(5, 45), (5, 40, 45)}

    def test_very_few_late_spans_are_left_to_the_last_read(self) -> None:
        assert chosen([0.5] * 1999 + [60]) == (5,)

    def test_no_more_reads_than_allowed(self) -> None:
        late = [number * 0.9 for number in range(100)]

        def reads(ages: Sequence[float]) -> float:
            """How often a span is fetched, averaged over when the first cycle after its end is."""
            total = 0.0
            for phase in (2.5, 7.5, 12.5):
                cycles = [phase + INTERVAL * number for number in range(9)]
                read_at = {phase} | {min(cycle for cycle in cycles if cycle >= age) for age in (*ages, LOOKBACK)}
                total += sum(delay <= at for at in read_at for delay in late) / len(late)
            return total / 3

        assert 2.9 < reads(chosen(late)) < 3.5
        assert chosen(late, max_reads=1) == ()
        assert len(chosen(late, max_reads=100)) >= 6


class Trace(NamedTuple):
    """A trace: for each span, when it began, ended and became searchable."""

    spans: tuple[tuple[float, float, float], ...]

    def found(self, now: float, ranges: Sequence[tuple[int, int]]) -> list[int]:
        """Numbers of the spans that a search of some ranges finds; it finds whole traces, as far as they are there."""
        there = [number for number, (_, _, at) in enumerate(self.spans) if at <= now]
        if not there:
            return []
        first, last = min(self.spans[n][0] for n in there), max(self.spans[n][1] for n in there)
        return there if any(start <= last and first <= end for start, end in ranges) else []


class Cycle(NamedTuple):
    """A poll cycle: time since the one before, and whether Tempo answers."""

    after: float
    answers: bool = True


SECONDS = st.floats(0, 400).map(lambda value: round(value, 2))
SPANS = st.tuples(
    st.floats(-400, 600).map(lambda value: round(value, 2)),
    st.one_of(st.just(0.2), st.floats(0, 200)),
    st.one_of(SECONDS, st.sampled_from([0.0, 15.0, 30.0, 60.0, 90.0, 119.9, 120.0])),
).map(lambda drawn: (drawn[0] - drawn[1], drawn[0], drawn[0] + drawn[2]))
TRACES = st.lists(st.lists(SPANS, min_size=1, max_size=3).map(lambda spans: Trace(tuple(spans))), max_size=12)
CYCLES = st.lists(
    st.one_of(
        st.just(Cycle(15.0)),
        st.builds(Cycle, st.floats(0.5, 80).map(lambda value: round(value, 3)), st.booleans()),
        st.builds(Cycle, st.sampled_from([2.0, 14.9, 15.1, 30.0, 45.0, 400.0, 4000.0]), st.booleans()),
    ),
    max_size=40,
)


def follow(
    cycles: Sequence[Cycle], traces: Sequence[Trace], usual_delay: float
) -> Iterator[tuple[float, set[tuple[int, int]], set[tuple[int, int]]]]:
    """Yield the time of each cycle, the spans found so far, and those that reading all of the lookback has found.

    Before these cycles, steady traffic with one delay is learned. After them, the last seconds leave the lookback.
    """
    schedule = RereadSchedule(INTERVAL, LOOKBACK, MAX_BACK)
    now, last = 0.0, 0.0
    found: set[tuple[int, int]] = set()
    found_in_all: set[tuple[int, int]] = set()

    def search(ranges: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
        return {(name, number) for name, trace in enumerate(traces) for number in trace.found(now, ranges)}

    steady, last_reads = [Cycle(15.0)] * 20, [Cycle(15.0)] * 11
    for number, cycle in enumerate([Cycle(0), *steady, *cycles, *last_reads]):
        now += cycle.after
        if not cycle.answers:
            continue
        back = min(MAX_BACK, LOOKBACK + max(0.0, now - last - INTERVAL)) if number else 300
        last = now
        if number <= len(steady) + len(cycles):
            found_in_all |= search([(int(now - back), int(now) + 2)])
        if number == 0:
            found |= search([(int(now - 300), int(now) + 2)])
            schedule.start(now, now - 300)
        else:
            ranges = schedule.ranges(now)
            new = search(ranges) - found
            found |= new
            ended = Counter(-int(-traces[name].spans[each][1] // 1) for name, each in new)
            if number <= len(steady):
                usual = {second for second in range(int(now) - 15, int(now)) if second + usual_delay <= now}
                ended.update(dict.fromkeys((second - int(usual_delay) for second in usual), 5))
            schedule.finish(now, ranges, ended, is_complete=True)
        yield now, found, found_in_all


@settings(max_examples=60, deadline=None)
@given(CYCLES, TRACES, st.sampled_from([0.0, 10.0, 40.0]))
@example([Cycle(15.0)] * 20, [Trace(((300.0, 300.1, 300.1 + 119),))], 0.0)
@example([Cycle(15.0)] * 8 + [Cycle(15.4)], [Trace(((0.0, 0.0, 120.3),))], 0.0)
@example([Cycle(45.0)] * 10, [Trace(((300.0, 300.1, 380.0), (100.0, 500.0, 500.0)))], 0.0)
def test_no_span_is_lost_that_reading_the_whole_lookback_would_find(
    cycles: list[Cycle], traces: list[Trace], usual_delay: float
) -> None:
    *_, (_, found, found_in_all) = follow(cycles, [_shifted(trace, 300) for trace in traces], usual_delay)
    assert found_in_all <= found


@settings(max_examples=25, deadline=None)
@given(TRACES)
def test_a_span_is_found_at_most_the_lookback_and_two_cycles_after_its_trace(traces: list[Trace]) -> None:
    traces = [_shifted(trace, 300) for trace in traces]
    for now, found, found_in_all in follow([Cycle(15.0)] * 40, traces, 0.0):
        for name, number in found_in_all - found:
            ended = max(end for _, end, at in traces[name].spans if at <= now)
            assert now - ended < LOOKBACK + 2 * INTERVAL + 1, number


def _shifted(trace: Trace, seconds: float) -> Trace:
    return Trace(tuple((begin + seconds, end + seconds, at + seconds) for begin, end, at in trace.spans))


class TestRanges:
    def steady(self, delay: int = 3, cycles: int = 12, spans: int = 50) -> tuple[RereadSchedule, float]:
        """A schedule that has learned one delay."""
        schedule, now = RereadSchedule(INTERVAL, LOOKBACK, MAX_BACK), float(NOON)
        schedule.start(now, now - 300)
        for _ in range(cycles):
            now += INTERVAL
            schedule.finish(now, schedule.ranges(now), {int(now) - delay - 1: spans}, is_complete=True)
        return schedule, now

    def relative(self, schedule: RereadSchedule, now: float) -> list[tuple[int, int]]:
        return [(start - int(now), end - int(now)) for start, end in schedule.ranges(now)]

    def test_newest_part_is_read_in_each_cycle_and_the_oldest_in_every_second(self) -> None:
        schedule, now = self.steady()
        ranges = []
        for _ in range(4):
            now += INTERVAL
            ranges.append(self.relative(schedule, now))
            schedule.finish(now, schedule.ranges(now), {int(now) - 4: 50}, is_complete=True)
        newest = [each[0] for each in ranges]
        assert all(-35 <= start <= -15 and end == 2 for start, end in newest)
        assert sorted(map(len, ranges)) == [1, 1, 2, 2]
        assert [each[1] for each in ranges if len(each) == 2] == [(-151, -121)] * 2

    def test_little_traffic_is_read_whole(self) -> None:
        schedule, now = self.steady(spans=1)
        assert schedule.ages is None
        assert self.relative(schedule, now + INTERVAL) == [(-136, 2)]

    def test_whole_lookback_is_read_for_a_while_after_a_cycle_that_found_much_less(self) -> None:
        schedule, now = self.steady()
        now += INTERVAL
        schedule.finish(now, schedule.ranges(now), {}, is_complete=True)
        lengths = []
        for _ in range(20):
            now += INTERVAL
            lengths.append(sum(end - start for start, end in schedule.ranges(now)))
            schedule.finish(now, schedule.ranges(now), {int(now) - 4: 50}, is_complete=True)
        assert min(lengths[:9]) >= 120
        assert max(lengths[10:]) < 80

    def test_bursts_are_no_reason_to_read_everything(self) -> None:
        schedule, now = self.steady()
        for number in range(40):
            now += INTERVAL
            ranges = schedule.ranges(now)
            schedule.finish(now, ranges, {} if number % 4 else {int(now) - 4: 200}, is_complete=True)
            if number > 20:
                assert sum(end - start for start, end in ranges) < 80

    def test_what_was_not_read_in_time_is_due_in_the_next_cycle(self) -> None:
        schedule, now = self.steady()
        complete = schedule.ranges(now + INTERVAL)
        schedule.finish(now + INTERVAL, complete, {int(now): 50}, is_complete=False)
        due = schedule.ranges(now + 2 * INTERVAL)
        assert all(any(start <= first and last <= end for start, end in due) for first, last in complete)

    def test_time_that_is_never_enough_does_not_pile_up(self) -> None:
        schedule, now = self.steady()
        for _ in range(50):
            now += INTERVAL
            schedule.finish(now, schedule.ranges(now), {int(now) - 4: 50}, is_complete=False)
        assert sum(end - start for start, end in schedule.ranges(now + INTERVAL)) <= LOOKBACK + 4 * INTERVAL

    def test_clock_set_back_reads_the_lookback(self) -> None:
        schedule, now = self.steady()
        now -= 100_000
        assert self.relative(schedule, now) == [(-121, 2)]
        schedule.finish(now, schedule.ranges(now), {}, is_complete=True)
        assert schedule.settled is not None
        assert schedule.settled <= now
        assert schedule.ages is not None

    def test_delays_of_spans_that_were_not_looked_for_are_not_learned(self) -> None:
        schedule, now = self.steady()
        now += 600
        found = {int(now) - 500: 7, int(now) - 4: 3}
        assert schedule.finish(now, schedule.ranges(now), found, is_complete=True) == {4.5: 3}


@dataclass
class DelayedTempo(FakeTempo):
    """A Tempo in which each span becomes searchable some time after its end.

    Attributes:
        arriving: spans that are not searchable yet, by when they will be.
        fetched: spans returned so far.
    """

    arriving: list[tuple[float, Span]] = field(default_factory=list)
    fetched: int = 0

    def at(self, now: float) -> None:
        """Make searchable what has arrived by now; what is so old that no cycle searches for it disappears."""
        behind = bisect_left(self.arriving, now, key=lambda each: each[0])
        recent = [each for each in self.spans if each.end_ns / 1e9 > now - 240]
        self.spans = [*recent, *(each for _, each in self.arriving[:behind])]
        del self.arriving[:behind]

    def _overlapping(self, start: int, end: int, series: frozenset[SeriesKey] = frozenset()) -> list[list[Span]]:
        found = super()._overlapping(start, end, series)
        self.fetched += sum(map(len, found))
        return found


DELAYS: Final[dict[str, Callable[[random.Random], float]]] = {
    "at once": lambda _: 0.5,
    "7 to 11 s": lambda chance: chance.uniform(7, 11),
    "21 to 31 s": lambda chance: chance.uniform(21, 31),
    "exponential, 5 s": lambda chance: min(90, chance.expovariate(1 / 5)),
    "exponential, 30 s": lambda chance: min(90, chance.expovariate(1 / 30)),
    "up to 90 s": lambda chance: chance.uniform(0, 90),
    "90 s": lambda _: 90,
}


class DelayBench(Bench):
    """A poller with steady traffic that becomes searchable with a delay."""

    def __init__(self, delay: str, per_second: float, budget: Budget, cycles: int) -> None:
        self.until = NOW + 15 * cycles
        chance = random.Random(7)
        self.spans = [
            span(number, NOW - 60 + (number + chance.random()) / per_second, 0.1)
            for number in range(round(per_second * (self.until - NOW + 60)))
        ]
        arriving = [(each.end_ns / 1e9 + DELAYS[delay](chance), each) for each in self.spans]
        self.delayed = DelayedTempo(max_limit=20_000, arriving=sorted(arriving, key=lambda pair: pair[0]))
        super().__init__(self.delayed, replace(POLL, budget=budget))
        usual = replace(baseline(), windows=1, count=round(3600 * per_second))
        self.history.series = {KEY: SeriesBaseline(NOW, usual, 0.4, thresholds())}
        self.totals: list[tuple[int, int]] = []
        """Spans fetched and spans counted by the end of each cycle."""
        for number in range(cycles):
            self.delayed.at(self.clock.now + (15 if number else 0))
            self.cycle(15 if number else 0)
            self.totals.append((self.delayed.fetched, self.status().traces_total))

    def ended(self, since: float, until: float) -> int:
        return sum(since < each.end_ns / 1e9 <= until for each in self.spans)

    def amplification(self, cycles: int) -> float:
        """Spans fetched for each one counted, in the last cycles."""
        (fetched_before, counted_before), (fetched, counted) = self.totals[-cycles], self.totals[-1]
        return (fetched - fetched_before) / (counted - counted_before)


@pytest.mark.parametrize("delay", DELAYS)
def test_late_spans_are_counted_once_and_fetched_at_most_four_times(delay: str) -> None:
    bench = DelayBench(delay, 2, Budget(20_000, 50), cycles=45)
    counted = bench.status().traces_total
    # All that has left the lookback was found, and of the rest what is searchable.
    assert bench.ended(NOW - 60, bench.until - 180) <= counted <= len(bench.spans) - len(bench.delayed.arriving)
    assert bench.amplification(cycles=30) <= 4
    ratio = bench.published[-1].poll_read_amplification
    assert ratio is not None
    # The first minutes, in which everything is read, still count.
    assert bench.amplification(cycles=30) - 0.5 <= ratio <= 5
    # Spans from before the start are not observed.
    assert 0.8 * counted <= sum(bench.telemetry.delays.values()) <= counted


@pytest.mark.parametrize("delay", ["7 to 11 s", "up to 90 s"])
def test_sampled_traffic_is_fetched_at_most_four_times_too(delay: str) -> None:
    bench = DelayBench(delay, 8, Budget(400, 50), cycles=40)
    share = bench.published[-1].poll_share
    assert share is not None
    assert share <= 1 / 2
    assert bench.amplification(cycles=25) <= 4
    in_sample = bench.ended(bench.until - 15 * 25 - 60, bench.until - 75) * share
    assert bench.totals[-1][1] - bench.totals[-26][1] == pytest.approx(in_sample, rel=0.3)
