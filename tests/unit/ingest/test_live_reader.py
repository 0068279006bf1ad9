"""The live reader reads current traffic within a budget, whole or as a fair sample."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean, median

import pytest

from exporter.ingest.exact_reader import Budget
from exporter.ingest.live_reader import LiveReader, LiveReading
from exporter.ingest.sampling import WHOLE
from exporter.model.identity import BY_NAME, Attribute, SeriesIdentity
from exporter.model.span import SeriesKey, Span
from exporter.runtime.telemetry import Loop
from exporter.tempo.query import ANY_DURATION, DurationRange
from tests.support.fakes import FakeTempo, Found, Recorder, span
from tests.support.samples import KEY, NOON

NS = 1_000_000_000
BUDGET = Budget(2000, 50)


def spans(start: int, end: int, per_second: float, *, slow_share: float = 0.1) -> list[Span]:
    """Spans whose ends are spread evenly over a stretch; some last 12 seconds, the others 20 milliseconds."""
    count = round((end - start) * per_second)
    every = round(1 / slow_share)
    result = []
    for number in range(count):
        ended_ns = round((start + (number + 0.5) / per_second) * NS)
        duration_ns = 12 * NS if number * 7 % every == 0 else 20_000_000
        result.append(Span(f"{number:032x}", f"{number:016x}", KEY, ended_ns - duration_ns, duration_ns))
    return result


@dataclass
class EdgeTempo:
    """Searches spans, each of which is a trace.

    Attributes:
        broad: series whose conditions match all spans; as the client does, it returns those of the series.
        names: the series that each search was restricted to.
    """

    spans: list[Span]
    max_limit: int = 500
    max_range_seconds: int | None = None
    searches: list[tuple[int, int]] = field(default_factory=list)
    received: int = 0
    broad: frozenset[SeriesKey] = frozenset()
    names: list[tuple[SeriesKey, ...]] = field(default_factory=list)

    @property
    def highest_limit(self) -> int:
        return self.max_limit

    def search(
        self,
        start: int,
        end: int,
        *,
        loop: Loop,
        limit: int | None = None,
        series: Sequence[SeriesKey] = (),
        durations: DurationRange = ANY_DURATION,
        may_split: bool = False,
    ) -> Found:
        assert loop == "poll"
        self.searches.append((start, end))
        self.names.append(tuple(series))
        wanted = frozenset(series)
        found = [
            each
            for each in self.spans
            if each.start_ns <= end * NS
            and start * NS <= each.end_ns
            and (not series or each.key in series or wanted & self.broad)
        ]
        found = found[: self.max_limit]
        self.received += len(found)
        kept = [each for each in found if not series or each.key in series]
        return Found(kept, len(found) >= self.max_limit, self.max_limit)

    def exists(self, start: int, end: int, *, loop: Loop) -> bool:
        raise AssertionError("the live reader must not probe for traces")


class LiveReaderBench:
    def __init__(
        self, found: list[Span], budget: Budget = BUDGET, limit: int = 500, identity: SeriesIdentity = BY_NAME
    ) -> None:
        self.tempo = EdgeTempo(found, limit)
        self.telemetry = Recorder()
        self.reader = LiveReader(
            self.tempo, self.telemetry, budget, poll_seconds=120, hold_seconds=300, identity=identity
        )

    def poll(self, now: int, seconds: int = 120) -> LiveReading:
        self.tempo.searches.clear()
        self.tempo.received = 0
        return self.reader.read([(now - seconds, now)], lambda: False)


def test_traffic_within_the_budget_is_read_whole() -> None:
    bench = LiveReaderBench(spans(NOON - 400, NOON, 5))
    for _ in range(3):
        reading = bench.poll(NOON)
        assert reading.sample == WHOLE
        ended = {each for each in bench.tempo.spans if each.end_ns >= (NOON - 120) * NS}
        assert set(reading.spans) >= ended
    assert bench.telemetry.sampled_windows == {}


@pytest.mark.parametrize("per_second", [40, 100])
def test_traffic_beyond_the_budget_is_read_as_a_fair_sample_of_ended_traces(per_second: int) -> None:
    bench = LiveReaderBench(spans(NOON - 400, NOON, per_second))
    for number in range(4):
        reading = bench.poll(NOON)
        assert not reading.sample.is_whole
        # The first poll also pays for finding out the density.
        assert bench.tempo.received <= (2 if number == 0 else 1.5) * BUDGET.traces
        assert len(bench.tempo.searches) <= BUDGET.requests
        ended = [each for each in bench.tempo.spans if (NOON - 120) * NS < each.end_ns <= NOON * NS]
        chosen = [each for each in ended if reading.sample.includes(math.ceil(each.end_ns / NS) - 1)]
        assert Counter(reading.spans) == Counter(chosen)
        # Long traces overlap many slices, but their share of the sample is the same as of all traces.
        slow = [each.duration_ns > NS for each in reading.spans]
        assert mean(slow) == pytest.approx(0.1, abs=0.03)
        assert len(chosen) / len(ended) == pytest.approx(reading.sample.share, rel=0.35)
    assert bench.telemetry.sampled_windows["poll"] == 4
    assert bench.reader.density == pytest.approx(per_second, rel=0.2)


def test_next_poll_reads_the_same_slices() -> None:
    bench = LiveReaderBench(spans(NOON - 400, NOON + 60, 100))
    bench.poll(NOON)
    first = bench.poll(NOON)
    second = bench.poll(NOON + 15)
    assert first.sample == second.sample
    in_both_ranges = [(NOON - 105) * NS < each.end_ns <= NOON * NS for each in first.spans]
    reread = [each for each in second.spans if each.end_ns <= NOON * NS]
    assert set(reread) == {each for each, in_both in zip(first.spans, in_both_ranges, strict=True) if in_both}


def test_parts_of_a_poll_are_read_as_the_same_sample_as_all_of_it() -> None:
    """Which part a poll reads depends on how late spans are; the evaluation window must not depend on that."""
    bench = LiveReaderBench(spans(NOON - 400, NOON + 60, 100))
    bench.poll(NOON)
    every = bench.poll(NOON)
    for ranges in ([(NOON - 20, NOON)], [(NOON - 20, NOON), (NOON - 120, NOON - 90)], [(NOON - 75, NOON - 60)]):
        part = bench.reader.read(ranges, lambda: False)
        assert part.sample == every.sample
        expected = [each for each in every.spans if any(start * NS < each.end_ns <= end * NS for start, end in ranges)]
        assert Counter(part.spans) == Counter(expected)
        assert part.ended == len(expected)


def test_several_ranges_are_read_whole_newest_first() -> None:
    bench = LiveReaderBench(spans(NOON - 400, NOON, 5, slow_share=1e-9))
    bench.poll(NOON)
    bench.tempo.searches.clear()
    reading = bench.reader.read([(NOON - 20, NOON), (NOON - 150, NOON - 120)], lambda: False)
    assert bench.tempo.searches == [(NOON - 20, NOON), (NOON - 150, NOON - 120)]
    assert reading.received == len(reading.spans) == pytest.approx(250, abs=4)
    assert reading.ended == 250
    assert not reading.is_cut_short


def test_density_is_that_of_the_last_minutes_in_any_part_of_them() -> None:
    """A Tempo that returns nothing younger than half a minute, and a burst."""
    bench = LiveReaderBench(spans(NOON - 400, NOON - 30, 14))
    bench.poll(NOON)
    for _ in range(5):
        assert bench.reader.read([(NOON - 30, NOON)], lambda: False).sample.is_whole
    assert bench.reader.density == pytest.approx(14 * 90 / 120, rel=0.05)
    bench.tempo.spans += spans(NOON - 10, NOON, 70, slow_share=1e-9)
    assert bench.reader.read([(NOON - 30, NOON)], lambda: False).sample.is_whole
    assert bench.reader.density == pytest.approx((14 * 90 + 70 * 10) / 120, rel=0.05)


def test_budget_grows_in_proportion_to_the_range_of_a_read() -> None:
    bench = LiveReaderBench(spans(NOON - 400, NOON, 14))
    assert bench.poll(NOON, 300).sample.is_whole


def test_sample_shrinks_as_traffic_grows_and_stays_small_for_the_hold_time() -> None:
    bench = LiveReaderBench([*spans(NOON - 200, NOON, 5), *spans(NOON, NOON + 150, 150)])
    bench.poll(NOON)
    shares = []
    for later in range(15, 151, 15):
        shares.append(bench.poll(NOON + later).sample.share)
        assert bench.tempo.received <= 3.2 * BUDGET.traces
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] <= 1 / 8
    bench.tempo.spans = spans(NOON + 150, NOON + 1000, 5)
    assert bench.poll(NOON + 400).sample.share <= 1 / 8
    assert bench.poll(NOON + 751).sample.is_whole


def test_first_poll_of_dense_traffic_costs_at_most_three_budgets() -> None:
    bench = LiveReaderBench(spans(NOON - 400, NOON, 120))
    bench.poll(NOON)
    assert bench.tempo.received <= 3 * BUDGET.traces
    durations = [each.duration_ns for each in bench.poll(NOON).spans]
    # The reader now knows how many spans outside of a slice a search for it returns: those of long traces.
    assert bench.tempo.received <= 1.5 * BUDGET.traces
    assert median(durations) == 20_000_000


def test_traffic_denser_than_probed_is_sampled() -> None:
    """The probed seconds are quiet, and all others are far too dense."""
    probed = {NOON - 120 + 120 * number // 4 for number in (1, 2, 3)}
    dense = spans(NOON - 400, NOON, 100, slow_share=1e-9)
    bench = LiveReaderBench([each for each in dense if each.end_ns // NS not in probed])
    reading = bench.poll(NOON)
    assert not reading.sample.is_whole
    assert reading.spans
    assert bench.reader.density == pytest.approx(100, rel=0.2)


def test_ranges_left_unread_after_should_stop_are_counted() -> None:
    bench = LiveReaderBench(spans(NOON - 400, NOON, 100))
    bench.poll(NOON)
    reading = bench.reader.read([(NOON - 120, NOON)], lambda: len(bench.tempo.searches) >= 2)
    assert reading.unread > 0
    assert reading.is_cut_short


RARE = SeriesKey("checkout", 'POST "/refund"')


def test_endpoints_with_little_traffic_are_read_whole_in_addition_to_the_sample() -> None:
    rare = [each._replace(key=RARE, trace_id=f"f{each.trace_id[1:]}") for each in spans(NOON - 400, NOON, 0.2)]
    bench = LiveReaderBench([*spans(NOON - 400, NOON, 100), *rare])
    bench.poll(NOON)
    per_hour = {KEY: 360_000.0, RARE: 720.0}
    bench.tempo.searches.clear()
    bench.tempo.received = 0
    reading = bench.reader.read([(NOON - 120, NOON)], lambda: False, lambda: per_hour)
    assert reading.by_name == {RARE}
    found = [each for each in reading.spans if each.key == RARE]
    assert Counter(found) == Counter(each for each in rare if (NOON - 120) * NS < each.end_ns <= NOON * NS)
    sampled = [each for each in reading.spans if each.key == KEY]
    assert all(reading.sample.includes(-(-each.end_ns // NS) - 1) for each in sampled)
    assert bench.tempo.received <= 1.5 * BUDGET.traces


def test_a_series_whose_conditions_match_the_spans_of_others_is_found_and_left_to_the_sample() -> None:
    rare, bare = (KEY._replace(labels=labels) for labels in ((("env", "prod"),), ()))
    dense = KEY._replace(labels=(("env", "staging"),))
    found = [each._replace(key=dense) for each in spans(NOON - 400, NOON, 100)]
    for number, key in enumerate((rare, bare)):
        few = spans(NOON - 400, NOON, 0.2)
        found += [each._replace(key=key, trace_id=f"{number + 1}{each.trace_id[1:]}") for each in few]
    bench = LiveReaderBench(found, identity=SeriesIdentity(((Attribute("resource", "env"),),)))
    bench.tempo.broad = frozenset({bare})
    bench.poll(NOON)
    per_hour = {dense: 360_000.0, rare: 720.0, bare: 720.0}
    readings = [bench.reader.read([(NOON - 120, NOON)], lambda: False, lambda: per_hour) for _ in range(2)]
    assert [reading.by_name for reading in readings] == [{rare}, {rare}]
    bench.tempo.names.clear()
    bench.reader.read([(NOON - 120, NOON)], lambda: False, lambda: per_hour)
    assert not any(bare in names for names in bench.tempo.names)


def test_endpoint_with_much_more_traffic_than_usual_is_read_by_the_sample_only() -> None:
    bench = LiveReaderBench(spans(NOON - 400, NOON, 100))
    bench.poll(NOON)
    reading = bench.reader.read([(NOON - 120, NOON)], lambda: False, lambda: {KEY: 10.0})
    assert reading.by_name == frozenset()
    assert reading.spans
    assert bench.tempo.received <= 4 * BUDGET.traces


def test_usual_traffic_is_not_requested_if_everything_is_read() -> None:
    def fail() -> dict[SeriesKey, float]:
        raise AssertionError("a whole read must not request the usual traffic")

    bench = LiveReaderBench(spans(NOON - 400, NOON, 5))
    assert bench.reader.read([(NOON - 120, NOON)], lambda: False, fail).sample.is_whole


def test_traces_that_last_longer_than_their_requests_are_read() -> None:
    """More of them overlap every second than a search returns; the next poll asks for more at once."""
    found = [span(NOON - 420 + n / 2, 300) for n in range(840)]
    tempo = FakeTempo(found, max_limit=500, tempo_limit=262_144)
    reader = LiveReader(tempo, Recorder(), BUDGET, poll_seconds=120, hold_seconds=300)
    for _ in range(2):
        tempo.searches.clear()
        reading = reader.read([(NOON - 120, NOON)], lambda: False)
        assert reading.sample == WHOLE
        assert {each.span_id for each in reading.spans} == {each.span_id for each in found}
        assert reading.unread == 0
    assert len(tempo.searches) <= 2


def test_current_traffic_that_long_traces_hide_says_so() -> None:
    tempo = FakeTempo([span(NOON - 420 + n / 2, 300) for n in range(840)], max_limit=500)
    reader = LiveReader(tempo, Recorder(), BUDGET, poll_seconds=120, hold_seconds=300)
    reading = reader.read([(NOON - 120, NOON)], lambda: False)
    assert reading.unread > 0
    assert reading.overlap is not None
    assert reading.overlap.traces == 500
