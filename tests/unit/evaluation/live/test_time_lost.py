import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from statistics import mean, pstdev
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.baseline.levels import Baseline
from exporter.detection.flag import Flag, FlagKind, SeriesFlags
from exporter.detection.window import end_second
from exporter.evaluation.baseline_table import EMPTY_TABLE, BaselineTable, SeriesBaseline
from exporter.evaluation.live.evaluator import LiveEvaluator
from exporter.evaluation.live.time_lost import ReadingWeights
from exporter.evaluation.snapshot import SeriesStatus
from exporter.ingest.exact_reader import Budget
from exporter.ingest.sampling import WHOLE, TimeSample
from exporter.model.histogram import Digest, bucket_of_seconds
from exporter.model.span import SeriesKey, Span
from tests.support.fakes import FakeTempo
from tests.support.samples import HOUR, KEY, NOON, NS, SETTINGS, baseline, span, thresholds
from tests.unit.evaluation.live.test_poller import NOW, POLL, Bench

RARE = SeriesKey("checkout", "POST /refund")
TABLE = BaselineTable(NOON, {KEY: SeriesBaseline(float(NOON), baseline(p95=0.2), 0.4, thresholds(0.1))})
NOTHING: frozenset[SeriesKey] = frozenset()


def new_live(*, started_at: float = NOW - HOUR, flags: Mapping[SeriesKey, SeriesFlags] | None = None) -> LiveEvaluator:
    return LiveEvaluator(
        SETTINGS, lambda key: key, started_at=started_at, remembered_seconds=330.0, flags=flags or {},
    )  # fmt: skip


def status(live: LiveEvaluator, now: float = NOW, table: BaselineTable = TABLE) -> SeriesStatus:
    (found,) = live.tick(now, table).statuses
    return found


class TestCounting:
    def test_what_requests_took_longer_than_the_usual_p95(self) -> None:
        live = new_live()
        live.add_spans([span(n, NOW - n, seconds) for n, seconds in enumerate((0.1, 0.2, 0.3, 1.2))], NOW, TABLE)
        found = status(live)
        assert found.excess_traces_total == 2
        assert found.excess_seconds_total == pytest.approx(0.1 + 1.0)

    def test_each_span_once_and_late_ones_too(self) -> None:
        live, slow = new_live(), [span(n, NOW - n, 1.2) for n in range(10)]
        live.add_spans(slow[:6], NOW, TABLE)
        live.add_spans([*slow, *slow], NOW + 15, TABLE)
        live.add_spans([span(99, NOW - 100, 1.2)], NOW + 30, TABLE)
        assert status(live, NOW + 30).excess_seconds_total == pytest.approx(11.0)

    def test_spans_from_before_the_start_are_not_counted(self) -> None:
        live = new_live(started_at=NOW - 60)
        live.add_spans([span(1, NOW - 61, 1.2), span(2, NOW - 59, 1.2)], NOW, TABLE)
        assert status(live).excess_seconds_total == pytest.approx(1.0)

    def test_absent_without_a_baseline_and_zero_before_the_first_slow_span(self) -> None:
        live = new_live()
        live.add_spans([span(1, NOW, 1.2), span(2, NOW, 0.1)], NOW, replace(TABLE, series={}))
        found = status(live, table=replace(TABLE, series={}))
        assert (found.excess_traces_total, found.excess_seconds_total, found.time_lost) == (None, None, None)
        assert (status(live).excess_traces_total, status(live).excess_seconds_total) == (0, 0.0)

    def test_spans_that_arrive_before_the_baselines_are_counted_once_those_are_known(self) -> None:
        live = new_live()
        live.add_spans([span(1, NOW - 5, 1.2), span(2, NOW - 4, 0.1)], NOW, EMPTY_TABLE, lambda each: 4)
        live.add_spans([span(1, NOW - 5, 1.2)], NOW + 15, TABLE)
        found = status(live, NOW + 15)
        assert found.excess_traces_total == 4
        assert found.excess_seconds_total == pytest.approx(4.0)

    def test_usual_p95_is_that_of_the_hour_in_which_the_span_ended(self) -> None:
        one = NOON + HOUR
        following = BaselineTable(one, {KEY: SeriesBaseline(float(one), baseline(p95=0.7), 2.0)})
        live = new_live()
        live.add_spans([span(1, one - 20, 1.2)], one - 10.0, TABLE)
        live.add_spans([span(2, one - 5, 1.2), span(3, one + 2, 1.2)], one + 5.0, following)
        live.add_spans([span(4, one - 1, 1.2), span(5, one + 9, 1.2)], one + 20.0, following)
        assert status(live, one + 20.0, following).excess_seconds_total == pytest.approx(3 * 1.0 + 2 * 0.5)


class TestSinceTheShift:
    def test_counts_from_the_moment_when_the_flag_became_pending(self) -> None:
        live, number = new_live(), 0
        found: list[tuple[float, SeriesStatus]] = []
        for now in range(int(NOW), int(NOW) + 600, 15):
            live.add_spans([span(number := number + 1, now - n, 1.2) for n in range(15)], now, TABLE)
            found.append((now, status(live, now)))
        firing = [(now, each.since, each.time_lost) for now, each in found if each.time_lost is not None]
        assert 0 < len(firing) < len(found)
        assert all(bool(each.shift) == (each.time_lost is not None) for _, each in found)
        for at, since, lost in firing:
            assert lost is not None
            assert since is not None
            assert (lost.since, lost.requests) == (since, at - since)
            assert lost.seconds == pytest.approx(lost.requests)

    def test_of_a_shift_from_before_a_restart_counts_since_the_start(self) -> None:
        flag = Flag(firing=True, since=NOW - HOUR)
        live = new_live(started_at=NOW - 10, flags={KEY: {FlagKind.SHIFT: flag}})
        slow = [span(n, NOW - n, 1.2) for n in range(60)]
        live.add_spans(slow, NOW, TABLE)
        found = status(live)
        assert found.since == NOW - HOUR
        assert found.time_lost is not None
        assert (found.time_lost.requests, found.time_lost.since) == (11, NOW - 10)
        assert found.time_lost.seconds == pytest.approx(11.0)

    def test_ends_with_the_shift(self) -> None:
        live = new_live(flags={KEY: {FlagKind.SHIFT: Flag(firing=True, since=NOW - 100)}})
        for now in range(int(NOW), int(NOW) + 900, 15):
            live.add_spans([span(now * 100 + n, now - n, 0.1) for n in range(15)], now, TABLE)
            live.tick(now, TABLE)
        assert status(live, NOW + 900).time_lost is None


def searched(now: float, since: float = 300.0) -> list[tuple[int, int]]:
    return [(int(now - since), int(now) + 2)]


class TestWeights:
    """A new span counts if its second is in the present sample and in that of the last reading of that second."""

    QUARTER = TimeSample(2, 4)
    EIGHTH = TimeSample(2, 8)

    def weights(self, *samples: TimeSample, by_name: Sequence[frozenset[SeriesKey]] = ()) -> ReadingWeights:
        found = ReadingWeights(330.0)
        for number, sample in enumerate(samples):
            now = NOW + 15 * number
            found.add(now, searched(now), sample, by_name[number] if by_name else NOTHING)
        return found

    def test_one_where_everything_is_read(self) -> None:
        weights = self.weights(WHOLE, WHOLE)
        assert {weights(span(n, NOW - n)) for n in range(100)} == {1}

    @pytest.mark.parametrize("samples", [[QUARTER], [QUARTER, WHOLE], [WHOLE, QUARTER], [EIGHTH, QUARTER, QUARTER]])
    def test_number_of_seconds_that_a_sampled_one_stands_for(self, samples: list[TimeSample]) -> None:
        weights = self.weights(*samples)
        seconds = range(int(NOW) - 250, int(NOW) + 1)
        found = {second: weights(span(second, second)) for second in seconds}
        assert {second for second, weight in found.items() if weight} == {
            second for second in seconds if self.QUARTER.includes(second - 1)
        }
        assert set(found.values()) == {0, 4}
        assert sum(found.values()) == pytest.approx(len(seconds), abs=8)

    def test_after_a_whole_reading_new_spans_stand_for_themselves(self) -> None:
        weights = self.weights(self.EIGHTH, WHOLE, WHOLE)
        assert {weights(span(n, NOW - n)) for n in range(100)} == {1}

    def test_seconds_after_a_sampled_reading_count_as_they_are_read(self) -> None:
        weights = self.weights(self.EIGHTH, WHOLE)
        sizes = {
            second: {weights(span(second + n, second + n)) for n in range(14)} - {0}
            for second in (int(NOW) - 60, int(NOW) + 3)
        }
        assert list(sizes.values()) == [{8}, {1}]

    def test_reading_says_nothing_about_seconds_that_it_did_not_cover(self) -> None:
        weights = ReadingWeights(330.0)
        weights.add(NOW, searched(NOW), WHOLE, NOTHING)
        weights.add(NOW + 15, searched(NOW + 15, 20), self.EIGHTH, NOTHING)
        weights.add(NOW + 30, searched(NOW + 30), WHOLE, NOTHING)
        assert {weights(span(n, NOW - 6 - n)) for n in range(100)} == {1}
        assert {weights(span(n, NOW + 15 - n)) for n in range(18)} == {0, 8}

    def test_missed_part_counts_as_not_covered(self) -> None:
        weights = ReadingWeights(330.0)
        weights.add(NOW, searched(NOW), self.EIGHTH, NOTHING, missed=[(int(NOW) - 100, int(NOW) - 50)])
        weights.add(NOW + 15, searched(NOW + 15), WHOLE, NOTHING)
        assert {weights(span(n, NOW - 50 - n)) for n in range(50)} == {1}
        assert {weights(span(n, NOW - n)) for n in range(50)} == {0, 8}

    def test_series_that_is_read_by_name_stands_for_itself(self) -> None:
        whole = frozenset({RARE})
        weights = self.weights(self.QUARTER, self.QUARTER, by_name=[whole, whole])
        assert {weights(span(n, NOW - n, key=RARE)) for n in range(50)} == {1}
        # It was sampled before, so what the sample stood for must not be counted again.
        weights = self.weights(self.QUARTER, self.QUARTER, by_name=[NOTHING, whole])
        assert {weights(span(n, NOW - n, key=RARE)) for n in range(50)} == {0, 4}
        assert {weights(span(n, NOW + 15 - n, key=RARE)) for n in range(10)} == {1}

    def test_readings_are_forgotten_with_their_spans(self) -> None:
        weights = ReadingWeights(330.0)
        weights.add(NOW, searched(NOW), self.QUARTER, NOTHING)
        weights.add(NOW + 400, searched(NOW + 400), WHOLE, NOTHING)
        assert {weights(span(n, NOW - n)) for n in range(50)} == {1}


class Traffic(NamedTuple):
    """A span: the second in which it ended, after the beginning of a run, and how many seconds it became searchable."""

    second: int
    searchable: float


class Cycle(NamedTuple):
    """What a cycle does: when, how far back each range reaches, the sample, and whether the series is read by name."""

    at: int
    ranges: Sequence[tuple[int, int]]
    one_in: int
    by_name: bool
    missed: bool


def counted(traffic: Sequence[Traffic], cycles: Sequence[Cycle], origin: int) -> int:
    """Return the requests that the cycles of a live edge count, where every span took longer than usual."""
    weights, live = ReadingWeights(330.0), new_live(started_at=origin)
    spans = [(origin + each.searchable, span(n, origin + each.second, 1.2)) for n, each in enumerate(traffic)]
    table = replace(TABLE, start=origin // HOUR * HOUR)
    for cycle in cycles:
        now = origin + cycle.at
        sample = WHOLE if cycle.one_in == 1 else TimeSample(2, cycle.one_in)
        ranges = [(origin + start, origin + end) for start, end in cycle.ranges]
        # The budget was spent before the oldest half was read.
        missed = [sample.stratum(start) for start, _ in _slices(sample, ranges, now - 60)] if cycle.missed else []
        weights.add(now, ranges, sample, frozenset({KEY}) if cycle.by_name else NOTHING, missed)
        found = [
            each
            for at, each in spans
            if at <= now
            and any(start * NS < each.end_ns <= end * NS for start, end in ranges)
            and (cycle.by_name or _is_read(each, sample, missed))
        ]
        live.add_spans(found, now, table, weights)
    status_ = status(live, origin + cycles[-1].at, table)
    assert status_.excess_traces_total is not None
    return status_.excess_traces_total


def _slices(sample: TimeSample, ranges: Sequence[tuple[int, int]], before: int) -> list[tuple[int, int]]:
    return [slice_ for start, end in ranges for slice_ in sample.slices_in(start, min(end, before))]


def _is_read(each: Span, sample: TimeSample, missed: Sequence[tuple[int, int]]) -> bool:
    second = end_second(each.end_ns) - 1
    return sample.includes(second) and not any(start <= second < end for start, end in missed)


def a_schedule(random: Random, one_in: Sequence[int] = (1, 2, 4, 8, 16)) -> list[Cycle]:
    """Return 15 cycles: the newest seconds always, older ones at times, everything at last."""
    cycles = []
    for number in range(15):
        at = 15 * (number + 1)
        ranges = [(at - random.choice((17, 32, 47)), at + 2)]
        if random.random() < 0.5:
            end = ranges[0][0] - random.randrange(60)
            ranges.append((end - random.randrange(1, 60), end))
        is_last = number >= 13
        cycles.append(
            Cycle(
                at,
                [(-30, at + 2)] if is_last or not number else ranges,
                random.choice(one_in),
                by_name=random.random() < 0.2,
                missed=not is_last and random.random() < 0.2,
            )
        )
    return cycles


def some_traffic(random: Random, spans: int = 150) -> list[Traffic]:
    """Return spans that end within three minutes and are searchable up to 40 seconds later; all from the start on."""
    seconds = [random.randrange(1, 170) for _ in range(spans)]
    return [Traffic(second, second + random.choice((0, 0, 40)) * random.random()) for second in seconds]


class TestEstimate:
    """Any succession of readings: parts read again, sample sizes that change, series read by name, late spans."""

    @given(seed=st.integers(0, 1 << 32))
    def test_exact_where_everything_is_read(self, seed: int) -> None:
        random = Random(seed)
        cycles = [cycle._replace(missed=False) for cycle in a_schedule(random, one_in=(1,))]
        assert counted(traffic := some_traffic(random), cycles, int(NOW)) == len(traffic)

    @given(seed=st.integers(0, 1 << 32))
    def test_exact_where_the_series_is_read_by_name(self, seed: int) -> None:
        random = Random(seed)
        cycles = [cycle._replace(by_name=True) for cycle in a_schedule(random)]
        assert counted(traffic := some_traffic(random), cycles, int(NOW)) == len(traffic)

    @pytest.mark.parametrize("seed", range(8))
    def test_unbiased_over_many_choices_of_seconds(self, seed: int) -> None:
        """Which seconds a sample holds depends on the time alone, so the same run at other times is another choice."""
        random = Random(seed)
        cycles, traffic = a_schedule(random), some_traffic(random)
        found = [counted(traffic, cycles, int(NOW) + 32 * random.randrange(1 << 20)) for _ in range(120)]
        error = pstdev(found) / math.sqrt(len(found))
        assert error < 0.05 * len(traffic)
        assert mean(found) == pytest.approx(len(traffic), abs=3.5 * error)


def relative_error(one_in: int, lost: Sequence[float], incident_seconds: float) -> float:
    """Return the standard error of the time lost, as docs/metrics.md states it."""
    of_requests = (one_in - 1) * (1 + (pstdev(lost) / mean(lost)) ** 2) / len(lost)
    of_ends = (2 * one_in / incident_seconds) ** 2 / 3
    return math.sqrt(of_requests + of_ends)


def lognormal(random: Random, factor: float = 1.0) -> float:
    return 0.1 * factor * math.exp(random.gauss(0, 0.5))


TRUE_P95 = 0.1 * math.exp(0.5 * 1.6448536)


def measured_baseline(random: Random) -> Baseline:
    """The baseline of 5,000 requests of history."""
    counts: dict[int, int] = {}
    for _ in range(5000):
        bucket = bucket_of_seconds(lognormal(random))
        counts[bucket] = counts.get(bucket, 0) + 1
    digest = Digest(counts)
    return baseline(digest.quantile_seconds(0.5), digest.quantile_seconds(0.95))


@pytest.mark.parametrize("one_in", [2, 8])
def test_documented_error_is_that_of_the_sample(one_in: int) -> None:
    random, sample, errors, expected = Random(one_in), TimeSample(2, one_in), [], 0.0
    for _ in range(200):
        start = int(NOW) + random.randrange(1 << 24)
        lost = [(second, seconds) for second in range(start, start + 180) for _ in range(10)
                if (seconds := lognormal(random, 3.0) - TRUE_P95) > 0]  # fmt: skip
        found = one_in * sum(seconds for second, seconds in lost if sample.includes(second))
        errors.append(found / sum(seconds for _, seconds in lost) - 1)
        expected = relative_error(one_in, [seconds for _, seconds in lost], 180)
    assert abs(mean(errors)) < 3.5 * expected / math.sqrt(len(errors))
    assert 0.6 * expected < pstdev(errors) < 1.05 * expected


@pytest.mark.parametrize(
    ("quiet", "busy", "budget", "share"),
    [(12, 12, 1600, 1), (6, 60, 1600, 1 / 4), (6, 40, 600, 1 / 8)],
    ids=["whole", "one in 4", "one in 8"],
)
def test_as_near_to_the_truth_as_documented(quiet: int, busy: int, budget: int, share: float) -> None:
    """Six minutes of which three are an incident; spans become findable up to 40 seconds after their end."""
    random = Random(7)
    bench = Bench(FakeTempo(max_limit=1000), replace(POLL, budget=Budget(budget, 50)))
    usual = measured_baseline(random)
    bench.history.series = {KEY: SeriesBaseline(NOW, usual, 10.0, thresholds())}
    arrivals: list[tuple[float, Span]] = []
    for second in range(int(NOW) - 30, int(NOW) + 330):
        is_incident = NOW + 60 <= second < NOW + 240
        rate = busy if is_incident else quiet
        for n in range(rate):
            seconds = lognormal(random, 3.0 if is_incident else 1.0)
            each = span(second * 1000 + n, second + (n + 0.5) / rate, seconds)
            arrivals.append((each.end_ns / NS + 40 * random.random(), each))
    arrivals.sort()
    while bench.clock.now < NOW + 390:
        bench.cycle(after=15)
        found = bisect_left(arrivals, (bench.clock.now,))
        bench.tempo.spans += [each for _, each in arrivals[:found]]
        del arrivals[:found]
    assert min(each.poll_share or 0 for each in bench.published) == share
    lost = [seconds for each in bench.tempo.spans if (seconds := each.duration_ns / NS - usual.p95_seconds) > 0]
    result = bench.status()
    if share == 1:
        assert result.excess_traces_total == len(lost)
        assert result.excess_seconds_total == pytest.approx(sum(lost), rel=1e-9)
        # The baseline is that of a history with chance, whose p95 is not quite that of the traffic.
        true = [seconds for each in bench.tempo.spans if (seconds := each.duration_ns / NS - TRUE_P95) > 0]
        assert result.excess_seconds_total == pytest.approx(sum(true), rel=0.05)
    else:
        assert result.excess_seconds_total == pytest.approx(
            sum(lost), rel=2.5 * relative_error(round(1 / share), lost, 180)
        )
