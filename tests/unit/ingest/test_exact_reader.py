"""The exact reader returns every span of a range, or names the seconds that it could not read completely."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from exporter.ingest.exact_reader import Budget, ExactReader, ReadResult, TooDenseError
from exporter.model.span import SeriesKey, Span
from exporter.tempo.errors import RangeTooLongError, TempoError
from tests.support.fakes import KEY, NS, FakeTempo, Recorder, away, span
from tests.support.ledgers import HOUR, NOON

END = NOON + 400

whole_seconds = st.integers(NOON - 30, END + 30).map(lambda second: second * NS)
any_starts = st.integers((NOON - 30) * NS, (END + 30) * NS)
durations = st.one_of(st.sampled_from([0, 1, NS]), st.integers(0, 3 * NS), st.integers(0, 100 * NS))


@st.composite
def traffic(draw: st.DrawFn) -> list[Span]:
    """Spans before, in and after the range, many of them on whole seconds; a few traces have several spans."""
    starts = st.one_of(whole_seconds, any_starts)
    traces = st.one_of(st.none(), st.none(), st.none(), st.integers(900_001, 900_003))
    return [
        span(0, trace=trace)._replace(start_ns=start, duration_ns=duration)
        for start, duration, trace in draw(st.lists(st.tuples(starts, durations, traces), max_size=60))
    ]


ranges = st.tuples(st.integers(NOON, END - 1), st.integers(1, 400)).map(lambda r: (r[0], min(END, r[0] + r[1])))


def read(
    tempo: FakeTempo, start: int, end: int, telemetry: Recorder | None = None, **options: object
) -> tuple[list[Span], ReadResult]:
    spans: list[Span] = []
    reader = ExactReader(tempo, telemetry or Recorder(), "backfill")
    return spans, reader.read(start, end, spans.extend, **options)  # type: ignore[arg-type]


def started_in(spans: Sequence[Span], start: int, end: int) -> Counter[Span]:
    return Counter(each for each in spans if start * NS <= each.start_ns < end * NS)


def touching(spans: Sequence[Span], start: int, end: int) -> set[str]:
    """The traces that overlap a range, both ends included."""
    traces: dict[str, list[Span]] = defaultdict(list)
    for each in spans:
        traces[each.trace_id].append(each)
    return {
        trace_id
        for trace_id, trace in traces.items()
        if min(each.start_ns for each in trace) <= end * NS and start * NS <= max(each.end_ns for each in trace)
    }


def fullest_second(spans: Sequence[Span], start: int, end: int) -> int:
    return max(len(touching(spans, second, second + 1)) for second in range(start, end))


@given(traffic(), ranges, st.integers(1, 70), st.integers())
def test_every_span_is_read_exactly_once(spans: list[Span], range_: tuple[int, int], limit: int, seed: int) -> None:
    """Holds if every single second has fewer traces than a search returns."""
    start, end = range_
    limit = max(limit, 1 + fullest_second(spans, start, end))
    telemetry = Recorder()
    tempo = FakeTempo(spans, max_limit=limit, seed=seed)
    kept, reading = read(tempo, start, end, telemetry)
    assert Counter(kept) == started_in(spans, start, end)
    assert reading.truncated == ()
    assert reading.kept == len(kept)
    assert reading.requests == len(tempo.searches)
    assert reading.splits == telemetry.splits["backfill"]
    assert reading.received - reading.kept == telemetry.skipped["backfill", "outside_window"]


@given(traffic(), ranges, st.integers(1, 10), st.integers())
def test_only_saturated_seconds_are_truncated(
    spans: list[Span], range_: tuple[int, int], limit: int, seed: int
) -> None:
    """Where traces are long, some of these seconds are read by the duration of spans."""
    start, end = range_
    kept, reading = read(FakeTempo(spans, max_limit=limit, seed=seed), start, end)
    saturated = {second for second in range(start, end) if len(touching(spans, second, second + 1)) >= limit}
    truncated = {first for first, last in reading.truncated if last - first == 1}
    assert len(truncated) == len(reading.truncated)
    assert truncated <= saturated
    assert Counter(kept) == Counter(
        {each: number for each, number in started_in(spans, start, end).items() if each.start_ns // NS not in truncated}
    )


@given(traffic(), ranges, st.integers(1, 200), st.integers())
def test_adjacent_ranges_contain_every_span_once(
    spans: list[Span], range_: tuple[int, int], after: int, seed: int
) -> None:
    start, end = range_
    tempo = FakeTempo(spans, max_limit=100, seed=seed)
    one, _ = read(tempo, start, end)
    other, _ = read(tempo, end, end + after)
    assert Counter(one) + Counter(other) == started_in(spans, start, end + after)


@given(traffic(), ranges, st.integers(1, 120), st.floats(0, 500), st.integers(4, 70))
def test_expected_traces_and_limited_ranges_do_not_change_the_result(
    spans: list[Span], range_: tuple[int, int], allowed_seconds: int, expected: float, limit: int
) -> None:
    start, end = range_
    assume(fullest_second(spans, start, end) < limit)
    tempo = FakeTempo(spans, max_limit=limit, allowed_seconds=allowed_seconds)
    kept, reading = read(tempo, start, end, expected_traces=expected)
    assert Counter(kept) == started_in(spans, start, end)
    assert reading.truncated == ()
    assert reading.requests == len(tempo.searches) + tempo.refusals


@given(traffic(), ranges, st.integers(1, 70))
def test_read_by_overlap_returns_all_spans_of_traces_that_overlap_the_range(
    spans: list[Span], range_: tuple[int, int], limit: int
) -> None:
    start, end = range_
    limit = max(limit, 1 + fullest_second(spans, start, end))
    kept, reading = read(FakeTempo(spans, max_limit=limit), start, end, by_start=False)
    expected = touching(spans, start, end)
    # Each search returns whole traces, so some spans are received several times.
    assert {each.trace_id for each in kept} == expected
    assert {each.span_id for each in kept} == {each.span_id for each in spans if each.trace_id in expected}
    assert reading.kept == reading.received == len(kept)


def second_by_second(per_second: int, seconds: int) -> list[Span]:
    """Even traffic in the middle of every second, so that a search finds no spans of adjacent seconds."""
    return [span(NOON + second + 0.5) for second in range(seconds) for _ in range(per_second)]


def test_newest_part_of_a_split_range_is_read_first() -> None:
    tempo = FakeTempo(second_by_second(1, 8), max_limit=4)
    read(tempo, NOON, NOON + 8)
    assert tempo.searches[0] == (NOON, NOON + 8)
    unsplit = [found for found in tempo.searches if found[1] - found[0] <= 2]
    assert unsplit == [(NOON + 6, NOON + 8), (NOON + 4, NOON + 6), (NOON + 2, NOON + 4), (NOON, NOON + 2)]


def test_response_with_exactly_the_limit_counts_as_saturated_and_is_split() -> None:
    telemetry = Recorder()
    kept, reading = read(FakeTempo(second_by_second(1, 4), max_limit=4), NOON, NOON + 4, telemetry)
    assert len(kept) == 4
    assert (reading.requests, reading.splits, telemetry.splits) == (3, 1, {"backfill": 1})


def test_traces_of_a_saturated_second_are_discarded_and_counted() -> None:
    """Tempo returned the traces that it found first, which are not a representative sample."""
    telemetry = Recorder()
    burst = [span(NOON + 1.5) for _ in range(10)]
    kept, reading = read(FakeTempo([*second_by_second(3, 3), *burst], max_limit=8), NOON, NOON + 3, telemetry)
    assert reading.truncated == ((NOON + 1, NOON + 2),)
    assert len(kept) == reading.kept == 2 * 3
    assert telemetry.skipped["backfill", "saturated"] == 8


def test_spans_that_start_at_the_end_of_the_range_are_counted_in_at_end() -> None:
    """Tempo counts them in the range, the ledger in the next window."""
    spans = [span(NOON), span(NOON + 5), span(NOON + 10), span(NOON + 10), span(NOON + 10.5)]
    for limit in (100, 3):
        kept, reading = read(FakeTempo(spans, max_limit=limit), NOON, NOON + 10)
        assert (len(kept), reading.at_end) == (2, 2)


class TestBudget:
    def test_range_within_the_budget_is_read(self) -> None:
        kept, reading = read(
            FakeTempo(second_by_second(1, 64), max_limit=10), NOON, NOON + 64, budget=Budget(1000, 15 + 16)
        )
        assert (len(kept), reading.requests) == (64, 15)

    def test_exceeded_request_budget_raises_an_error_with_the_density(self) -> None:
        tempo = FakeTempo(second_by_second(4, 64), max_limit=20)
        with pytest.raises(TooDenseError) as error:
            read(tempo, NOON, NOON + 64, budget=Budget(100_000, 7))
        assert (error.value.requests, len(tempo.searches)) == (7, 7)
        assert error.value.density == pytest.approx(5, rel=0.3)
        assert error.value.splits == 5

    def test_traces_of_saturated_searches_count_towards_the_trace_budget(self) -> None:
        tempo = FakeTempo(second_by_second(4, 64), max_limit=20)
        with pytest.raises(TooDenseError) as error:
            read(tempo, NOON, NOON + 64, budget=Budget(50, 1000))
        assert 50 < error.value.received <= 50 + 20
        assert len(tempo.searches) == 3

    def test_search_for_named_series_reads_only_their_spans(self) -> None:
        others = [span(NOON + 0.5, key=SeriesKey("checkout", "GET /")) for _ in range(30)]
        tempo = FakeTempo([*others, *second_by_second(1, 8)], max_limit=20)
        kept, reading = read(tempo, NOON, NOON + 8, series=[KEY])
        assert {each.key for each in kept} == {KEY}
        assert (len(kept), reading.requests) == (8, 1)


def test_range_with_many_expected_traces_is_split_before_the_first_search() -> None:
    """The response of a saturated search is discarded, so the reader avoids searches that will be saturated."""
    tempo = FakeTempo(second_by_second(2, 100), max_limit=20)
    kept, reading = read(tempo, NOON, NOON + 100, expected_traces=200.0)
    assert len(kept) == 200
    assert (reading.splits, reading.requests) == (0, 20)
    lengths = {end - start for start, end in tempo.searches}
    assert lengths == {5}


def test_few_expected_traces_split_nothing_and_very_many_split_down_to_seconds() -> None:
    tempo = FakeTempo(max_limit=20)
    read(tempo, NOON, NOON + 100, expected_traces=0.0)
    assert tempo.searches == [(NOON, NOON + 100)]
    read(tempo, NOON, NOON + 3, expected_traces=1e12)
    assert sorted(tempo.searches[1:]) == [(NOON + second, NOON + second + 1) for second in range(3)]


def test_range_longer_than_tempo_allows_is_read_in_parts_after_one_refusal() -> None:
    tempo = FakeTempo(second_by_second(1, 100), allowed_seconds=30)
    kept, reading = read(tempo, NOON, NOON + 100)
    assert len(kept) == 100
    assert (tempo.refusals, reading.requests, reading.splits) == (1, 5, 0)
    read(tempo, NOON, NOON + 100)
    assert tempo.refusals == 1
    assert len(tempo.searches) == 8


def test_refusal_without_a_lower_limit_is_raised() -> None:
    def refuse(start: int, end: int) -> None:
        raise RangeTooLongError("range exceeds", max_seconds=10)

    tempo = FakeTempo(before_search=refuse)
    with pytest.raises(RangeTooLongError):
        read(tempo, NOON, NOON + 100)
    assert len(tempo.searches) == 1


def test_failed_search_is_raised() -> None:
    with pytest.raises(TempoError):
        read(FakeTempo(before_search=away), NOON, NOON + HOUR)


@given(st.integers(0, 20))
def test_truncated_lists_the_seconds_left_unread_after_should_stop(patience: int) -> None:
    spans = second_by_second(1, 64)
    tempo = FakeTempo(spans, max_limit=8)
    kept, reading = read(tempo, NOON, NOON + 64, should_stop=lambda: len(tempo.searches) >= patience)
    unread = [second for start, end in reading.truncated for second in range(start, end)]
    assert len(unread) == len(set(unread))
    missing = started_in(spans, NOON, NOON + 64) - Counter(kept)
    assert sorted(unread) == sorted(each.start_ns // NS for each in missing)
    assert len(tempo.searches) <= patience
    # The newest part is read first, so the oldest seconds are left.
    assert sorted(unread) == list(range(NOON, NOON + len(unread)))


def test_two_spans_of_one_trace_are_read_where_each_started() -> None:
    """A trace counts once towards the limit; each of its spans belongs to the range in which it started."""
    pair = [span(NOON + 0.25, trace=900_001), span(NOON + 5.25, trace=900_001)]
    tempo = FakeTempo(pair, max_limit=2)
    assert read(tempo, NOON, NOON + 1)[0] == pair[:1]
    assert read(tempo, NOON + 5, NOON + 6)[0] == pair[1:]
    assert read(tempo, NOON, NOON + 6)[1].splits == 0


class TestBurst:
    """A second with more traces than a search returns, in an hour with few others."""

    OTHERS = 1560

    def tempo(self, burst: int, tempo_limit: int) -> FakeTempo:
        spans = [span(NOON + HOUR * (n + 0.5) / self.OTHERS) for n in range(self.OTHERS)]
        return FakeTempo(
            [*spans, *[span(NOON + 1234.5) for _ in range(burst)]], max_limit=2000, tempo_limit=tempo_limit
        )

    def test_burst_is_read_with_the_highest_limit_and_hardly_anything_is_wasted(self) -> None:
        tempo = self.tempo(9000, 262_144)
        kept, reading = read(tempo, NOON, NOON + HOUR)
        assert (len(kept), reading.truncated) == (9000 + self.OTHERS, ())
        assert reading.wasted == 2000
        assert [limit for limit in tempo.limits if limit > 2000] == [max(tempo.limits)]

    def test_burst_beyond_the_highest_limit_costs_that_second_only(self) -> None:
        tempo = self.tempo(9000, 3000)
        kept, reading = read(tempo, NOON, NOON + HOUR)
        assert reading.truncated == ((NOON + 1234, NOON + 1235),)
        assert len(kept) == sum(not NOON + 1234 <= each.start_ns / NS < NOON + 1235 for each in tempo.spans)
        # Halving the hour down to the second would waste twelve responses.
        assert reading.wasted == 2000 + 3000

    def test_waste_beyond_the_budget_ends_the_read(self) -> None:
        tempo = FakeTempo(second_by_second(4, 64), max_limit=20)
        with pytest.raises(TooDenseError) as error:
            read(tempo, NOON, NOON + 64, budget=Budget(100_000, 1000, wasted=50))
        assert (error.value.received, error.value.requests) == (60, 3)

    def test_lower_limit_can_be_asked_for(self) -> None:
        tempo = FakeTempo(second_by_second(1, 64), max_limit=1000)
        read(tempo, NOON, NOON + 64, limit=100)
        read(tempo, NOON, NOON + 64, limit=5000)
        assert tempo.limits == [100, 1000]


class TestSlowTempo:
    """A search that takes too long is split, as one that is saturated is."""

    @staticmethod
    def slow(seconds: int, failed: list[int]) -> FakeTempo:
        """A Tempo that can search ranges of at most so many seconds in time."""

        def search(start: int, end: int) -> None:
            if end - start > seconds:
                failed.append(end - start)
                raise TempoError("timed out", reason="timeout", retryable=True, is_slow=True)

        return FakeTempo(second_by_second(1, HOUR), max_limit=10_000, before_search=search)

    @staticmethod
    def reader(tempo: FakeTempo) -> ExactReader:
        return ExactReader(tempo, Recorder(), "backfill")

    def test_range_is_halved_until_tempo_is_fast_enough(self) -> None:
        failed: list[int] = []
        kept, reading = read(self.slow(900, failed), NOON, NOON + HOUR)
        assert (len(kept), reading.truncated) == (HOUR, ())
        assert failed == [3600, 1800]
        assert reading.requests == 2 + 4

    def test_affordable_length_is_remembered_and_grows_after_many_successes(self) -> None:
        failed: list[int] = []
        tempo = self.slow(900, failed)
        reader = self.reader(tempo)
        for _ in range(8):
            reader.read(NOON, NOON + HOUR, lambda spans: None)
        assert failed == [3600, 1800]
        tempo.before_search = lambda start, end: None
        for _ in range(20):
            reader.read(NOON, NOON + HOUR, lambda spans: None)
        tempo.searches.clear()
        reader.read(NOON, NOON + HOUR, lambda spans: None)
        assert tempo.searches == [(NOON, NOON + HOUR)]

    def test_requests_that_slowness_costs_are_not_taken_for_density(self) -> None:
        """A budget of one request finds out whether a range is dense."""
        kept, _ = read(self.slow(900, []), NOON, NOON + HOUR, budget=Budget(100_000, 1))
        assert len(kept) == HOUR

    def test_tempo_that_is_too_slow_for_a_minute_is_down_and_no_length_is_remembered(self) -> None:
        failed: list[int] = []
        tempo = self.slow(10, failed)
        reader = self.reader(tempo)
        for _ in range(2):
            with pytest.raises(TempoError):
                reader.read(NOON, NOON + HOUR, lambda spans: None)
        assert failed == [3600, 1800, 900, 450, 225, 113, 57] * 2

    def test_other_failures_are_not_split(self) -> None:
        tempo = FakeTempo(before_search=away)
        with pytest.raises(TempoError):
            self.reader(tempo).read(NOON, NOON + HOUR, lambda spans: None)
        assert len(tempo.searches) == 1


def long_traces(per_second: int, seconds: float, until: int, *, jitter: float = 0.0) -> list[Span]:
    """Traces of one length, from well before NOON on; with a jitter they differ in duration."""
    count = round((until + seconds) * per_second)
    return [span(NOON - seconds + (n + 0.5) / per_second, seconds + jitter * (n % 97)) for n in range(count)]


class TestLongTraces:
    """Traces that last long, and more of them overlap every second than a search returns."""

    SECONDS = 600

    def tempo(self, tempo_limit: int = 262_144, **options: object) -> FakeTempo:
        """Two traces begin every second, and last for 300 s."""
        return FakeTempo(long_traces(2, 300, self.SECONDS), max_limit=500, tempo_limit=tempo_limit, **options)  # type: ignore[arg-type]

    def test_limit_is_raised_so_that_everything_is_read(self) -> None:
        kept, reading = read(self.tempo(), NOON, NOON + self.SECONDS)
        assert (len(kept), reading.truncated) == (2 * self.SECONDS, ())
        assert reading.requests <= 8

    def test_raised_limit_is_remembered(self) -> None:
        tempo = self.tempo()
        reader = ExactReader(tempo, Recorder(), "backfill")
        reader.read(NOON, NOON + self.SECONDS, lambda spans: None)
        tempo.searches.clear()
        reading = reader.read(NOON, NOON + self.SECONDS, lambda spans: None)
        assert (reading.kept, reading.wasted, len(tempo.searches)) == (2 * self.SECONDS, 0, 1)

    def test_raised_limit_is_forgotten_once_traces_are_short(self) -> None:
        tempo = self.tempo()
        reader = ExactReader(tempo, Recorder(), "backfill")
        reader.read(NOON, NOON + self.SECONDS, lambda spans: None)
        tempo.spans = second_by_second(1, 10)
        for _ in range(200):
            reader.read(NOON, NOON + 10, lambda spans: None)
        assert (tempo.limits[-150] > 500, tempo.limits[-1]) == (True, 500)

    def test_response_stays_within_memory(self) -> None:
        tempo = self.tempo(trace_bytes=80_000)
        kept, _ = read(tempo, NOON, NOON + self.SECONDS)
        assert len(kept) == 2 * self.SECONDS
        assert 500 < max(tempo.limits) <= (64 << 20) // 80_000

    def test_beyond_the_highest_limit_short_and_long_spans_are_searched_separately(self) -> None:
        tempo = FakeTempo(long_traces(2, 300, self.SECONDS, jitter=0.1), max_limit=250, tempo_limit=500)
        kept, reading = read(tempo, NOON, NOON + self.SECONDS)
        assert (len(kept), reading.truncated) == (2 * self.SECONDS, ())

    def test_what_cannot_be_read_says_how_many_traces_overlap(self) -> None:
        kept, reading = read(self.tempo(tempo_limit=500), NOON, NOON + 4)
        assert (kept, len(reading.truncated)) == ([], 4)
        assert reading.overlap is not None
        assert reading.overlap.traces == 500
        assert reading.overlap.began <= 10
        assert read(FakeTempo([span(NOON + 0.5) for _ in range(20)], max_limit=9), NOON, NOON + 1)[1].overlap is None

    @pytest.mark.parametrize("is_remembered", [False, True])
    def test_refused_limit_is_not_asked_for_again(self, is_remembered: bool) -> None:
        """A store that is not Tempo may refuse it in words of its own."""
        tempo = self.tempo()
        reader = ExactReader(tempo, Recorder(), "backfill")
        if is_remembered:
            reader.read(NOON, NOON + 4, lambda spans: None)
        asked = tempo.search
        refused: list[int] = []

        def search(start: int, end: int, *, limit: int | None = None, **options: object) -> object:
            if limit is not None and limit > 500:
                refused.append(limit)
                raise TempoError("no", reason="refused", status=400)
            return asked(start, end, limit=limit, **options)  # type: ignore[arg-type]

        tempo.search = search  # type: ignore[method-assign, assignment]
        assert len(reader.read(NOON, NOON + 4, lambda spans: None).truncated) == 4
        assert len(refused) == 1

    def test_dense_second_is_asked_for_with_a_higher_limit(self) -> None:
        tempo = FakeTempo([span(NOON + 1.5) for _ in range(60)], max_limit=20, tempo_limit=1000)
        kept, reading = read(tempo, NOON, NOON + 3)
        assert (len(kept), reading.truncated) == (60, ())
