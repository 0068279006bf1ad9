"""Windows with up to a hundred times the budget: the sample represents them, and its cost does not grow."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import median

import pytest

from benchmarks.dense_traffic import DenseTraffic
from exporter.ingest.exact_reader import SEARCH_FILL, Budget
from exporter.ingest.series_filter import SeriesFilter, SeriesRules
from exporter.ingest.tempo_counts import TempoCounts
from exporter.ingest.window_reader import BatchResult, WindowReader
from exporter.model.histogram import Digest
from exporter.model.ledger import Batch, Window
from exporter.model.pattern import Pattern
from exporter.model.span import SeriesKey, Span
from exporter.runtime.logs import get_logger
from exporter.runtime.telemetry import Loop
from exporter.tempo.counts import SpanCounts
from exporter.tempo.errors import TempoError
from exporter.tempo.query import ANY_DURATION, DurationRange
from tests.support.fakes import Found, Recorder
from tests.support.samples import HOUR, NOON

BUDGET = Budget(traces=50_000, requests=100)
LIMIT = 5000
WINDOW = Window(NOON, NOON + HOUR)


@dataclass
class DenseTempo:
    """Searches generated dense traffic, and counts it if `counting` is set."""

    traffic: DenseTraffic
    counting: bool = True
    max_limit: int = LIMIT
    max_range_seconds: int | None = None
    max_count_range_seconds: int | None = None
    searches: list[tuple[int, int, int]] = field(default_factory=list)

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
        spans = self._spans(start, end, series)
        self.searches.append((start, end, len(spans)))
        return Found(spans, len(spans) >= self.max_limit, self.max_limit)

    def _spans(self, start: int, end: int, series: Sequence[SeriesKey]) -> Sequence[Span]:
        # Generates little more than a search returns, because an hour has millions of spans.
        per_second = sum(e.per_hour for e in self.traffic.endpoints if not series or e.key in series) / HOUR
        last = min(end, start + int(2 * self.max_limit / per_second) + 1) if per_second else end
        return self.traffic.spans(start, last, series)[: self.max_limit]

    def exists(self, start: int, end: int, *, loop: Loop) -> bool:
        return True

    def count(self, start: int, end: int, step_seconds: int, *, loop: Loop, by_series: bool = False) -> SpanCounts:
        if not self.counting:
            raise TempoError("empty ring", reason="server_error", status=500)
        counts = {e.key: e.per_hour * (end - start) // HOUR for e in self.traffic.endpoints}
        return SpanCounts({end: sum(counts.values())}, counts if by_series else {})

    @property
    def received(self) -> int:
        return sum(traces for _, _, traces in self.searches)


def read_hour(
    tempo: DenseTempo, *, budget: Budget = BUDGET, known: Sequence[SeriesKey] = (), rules: SeriesRules | None = None,
    expected: float | None = None,
) -> tuple[BatchResult, Recorder]:  # fmt: skip
    telemetry = Recorder()
    counts = TempoCounts(tempo, telemetry, lambda: 0.0, get_logger("test"))
    counts.learn([WINDOW], [])
    series_filter = SeriesFilter(rules or SeriesRules(placeholders=False))
    series_filter.preload(known)
    reader = WindowReader(tempo, counts, series_filter, telemetry, budget)
    (result,) = reader.read(Batch((WINDOW,), counts.of(WINDOW) or expected), threading.Event().is_set)
    return result, telemetry


@cache
def hour_of(times: int, *, counting: bool = True) -> tuple[DenseTempo, BatchResult, Recorder]:
    """Read an hour that has about `times` as many traces as the budget allows."""
    per_hour = round(0.95 * times * BUDGET.traces)
    tempo = DenseTempo(DenseTraffic(per_hour, busiest=max(5000, min(100_000, times * 1000))), counting)
    return tempo, *read_hour(tempo)


def digests(result: BatchResult) -> Mapping[SeriesKey, Digest]:
    (content,) = result.contents
    return {key: item.digest for key, item in content.series.items()}


def errors(tempo: DenseTempo, result: BatchResult, q: float) -> list[float]:
    """Relative errors of a quantile, one for each endpoint of which at least 200 traces were read."""
    found = digests(result)
    return [
        abs(found[each.key].quantile_seconds(q) / each.quantile_seconds(q, NOON) - 1)
        for each in tempo.traffic.endpoints
        if each.key in found and found[each.key].count >= 200
    ]


def test_traffic_of_a_sampled_window_is_what_tempo_counts() -> None:
    tempo, result, _ = hour_of(100)
    (content,) = result.contents
    per_hour = {each.key: each.per_hour for each in tempo.traffic.endpoints}
    assert {key: item.requests for key, item in content.series.items()} == {
        key: max(per_hour[key], item.digest.count) for key, item in content.series.items()
    }
    assert any(item.digest.count < per_hour[key] / 50 for key, item in content.series.items())


def test_counts_of_names_that_share_a_series_are_added() -> None:
    traffic = DenseTraffic(100_000, busiest=3000)
    rules = SeriesRules(placeholders=False, rename=[(Pattern("^.*$"), "all")])
    result, _ = read_hour(DenseTempo(traffic), budget=Budget(10_000, 100), rules=rules)
    (content,) = result.contents
    by_service: dict[str, int] = {}
    for each in traffic.endpoints:
        by_service[each.key.service_name] = by_service.get(each.key.service_name, 0) + each.per_hour
    assert {key.service_name: item.requests for key, item in content.series.items()} == by_service


def test_without_counts_only_traffic_read_by_name_is_known() -> None:
    tempo, result, _ = hour_of(100, counting=False)
    (content,) = result.contents
    assert {item.requests for item in content.series.values()} <= {
        None,
        *(i.digest.count for i in content.series.values()),
    }
    assert any(item.requests is None for item in content.series.values())
    assert result.estimated_total == pytest.approx(sum(each.per_hour for each in tempo.traffic.endpoints), rel=0.1)


@pytest.mark.parametrize("counting", [True, False])
def test_sampled_quantiles_are_accurate_at_a_hundred_times_the_budget(counting: bool) -> None:
    tempo, result, _ = hour_of(100, counting=counting)
    p50, p95 = errors(tempo, result, 0.5), errors(tempo, result, 0.95)
    assert len(p50) >= 50
    assert median(p50) <= 0.03
    assert median(p95) <= 0.08
    assert max(p50) <= 0.25


def test_rarest_endpoints_of_a_sampled_window_are_read_whole() -> None:
    tempo, result, _ = hour_of(100)
    found = digests(result)
    rare = [each for each in tempo.traffic.endpoints if each.per_hour <= 100]
    assert len(rare) > 100
    for each in rare:
        spans = tempo.traffic.spans(NOON, NOON + HOUR, [each.key])
        assert found[each.key] == Digest.of_ns(
            s.duration_ns for s in spans if NOON * 10**9 <= s.start_ns < (NOON + HOUR) * 10**9
        )


def test_sample_contains_similar_shares_of_every_quarter_of_an_hour() -> None:
    tempo, result, _ = hour_of(100)
    (content,) = result.contents
    busiest = tempo.traffic.endpoints[-1].key
    by_mark = {mark: digest.count for mark, digest in content.series[busiest].marks.items()}
    quarters = [sum(by_mark.get(mark, 0) for mark in range(first, first + 3)) for first in (1, 4, 7, 10)]
    assert min(quarters) > 0.6 * max(quarters)


def test_cost_of_a_sampled_read_does_not_grow_with_the_traffic() -> None:
    costs = []
    for times in (1, 2, 10, 100):
        tempo, result, telemetry = hour_of(times)
        assert result.is_sampled == (times > 1)
        assert telemetry.sampled_windows["backfill"] == (times > 1)
        assert tempo.received <= 1.2 * BUDGET.traces
        assert len(tempo.searches) <= BUDGET.requests
        assert result.reading.requests == len(tempo.searches)
        costs.append((len(tempo.searches), tempo.received))
    _, twice, tenfold, hundredfold = costs
    assert tenfold <= (twice[0] * 1.25, twice[1] * 1.25)
    assert hundredfold <= (tenfold[0] * 1.25, tenfold[1] * 1.25)


def test_coverage_is_the_share_of_the_traces_in_the_window_that_were_read() -> None:
    tempo, result, _ = hour_of(100)
    (content,) = result.contents
    there = sum(each.per_hour for each in tempo.traffic.endpoints)
    assert content.traces / there == pytest.approx(0.008, rel=0.3)
    assert result.estimated_total == pytest.approx(there, rel=0.05)


class TestWithoutCounts:
    def test_density_is_probed_at_little_cost(self) -> None:
        tempo, result, _ = hour_of(100, counting=False)
        assert result.is_sampled
        # The cost of a saturated search, of probes of a few seconds, and of the sample.
        assert tempo.received <= 1.4 * BUDGET.traces
        assert len(tempo.searches) <= BUDGET.requests
        there = sum(each.per_hour for each in tempo.traffic.endpoints)
        assert result.estimated_total == pytest.approx(there, rel=0.05)

    def test_window_of_unknown_density_within_the_budget_is_read_whole(self) -> None:
        tempo = DenseTempo(DenseTraffic(BUDGET.traces // 2, busiest=5000), counting=False)
        result, telemetry = read_hour(tempo)
        (content,) = result.contents
        assert not result.is_sampled
        assert content.traces == pytest.approx(sum(each.per_hour for each in tempo.traffic.endpoints), rel=0.01)
        assert tempo.received <= BUDGET.traces
        assert telemetry.sampled_windows == {}

    def test_window_much_denser_than_expected_is_sampled_instead(self) -> None:
        tempo = DenseTempo(DenseTraffic(100 * BUDGET.traces), counting=False)
        result, _ = read_hour(tempo, expected=20_000.0)
        assert result.is_sampled
        assert tempo.received <= 2.7 * BUDGET.traces
        assert median(errors(tempo, result, 0.5)) <= 0.03

    def test_known_endpoints_missing_from_the_sample_are_read_by_name(self) -> None:
        tempo = DenseTempo(DenseTraffic(100 * BUDGET.traces), counting=False)
        known = [each.key for each in tempo.traffic.endpoints if each.per_hour <= 30][:60]
        result, _ = read_hour(tempo, known=known)
        found = digests(result)
        by_key = {each.key: each for each in tempo.traffic.endpoints}
        whole = [key for key in known if key in found and found[key].count >= by_key[key].per_hour - 1]
        assert len(whole) > 0.8 * len(known)


def test_excluded_endpoints_are_not_stored_from_a_sampled_window() -> None:
    tempo = DenseTempo(DenseTraffic(20 * BUDGET.traces))
    result, _ = read_hour(tempo, rules=SeriesRules(exclude=[Pattern("service-1?[0-5]/")], placeholders=False))
    (content,) = result.contents
    assert content.skipped["filtered"] > 0
    assert not any(key.service_name in ("service-1", "service-5", "service-10") for key in content.series)


def test_endpoints_merged_by_renaming_are_not_read_by_name() -> None:
    """A million names with one trace each become one endpoint, which the sample represents well enough."""
    tempo = DenseTempo(DenseTraffic(20 * BUDGET.traces))
    rules = SeriesRules(rename=[(Pattern(r"/[a-z]+$"), "/{id}")])
    result, _ = read_hour(tempo, rules=rules)
    assert all(key.span_name.endswith("/{id}") for key in digests(result))
    assert not [search for search in tempo.searches if search[1] - search[0] == HOUR]


def test_saturated_seconds_are_reported_as_truncated_and_their_traces_discarded() -> None:
    tempo = DenseTempo(DenseTraffic(100 * BUDGET.traces), max_limit=1000)
    result, telemetry = read_hour(tempo)
    assert result.is_sampled
    assert result.reading.truncated
    assert telemetry.skipped["backfill", "saturated"] > 0
    rare = {each.key for each in tempo.traffic.endpoints if each.per_hour < 1000 * SEARCH_FILL}
    assert digests(result).keys() <= rare
    assert len(tempo.searches) <= BUDGET.requests


def test_window_of_one_minute_is_sampled_in_slices() -> None:
    tempo = DenseTempo(DenseTraffic(100 * BUDGET.traces))
    telemetry = Recorder()
    counts = TempoCounts(tempo, telemetry, lambda: 0.0, get_logger("test"))
    reader = WindowReader(tempo, counts, SeriesFilter(SeriesRules()), telemetry, Budget(1000, 20))
    for minute in range(3):
        window = Window(NOON + 60 * minute, NOON + 60 * minute + 60)
        (result,) = reader.read(Batch((window,), 1389 * 60.0), lambda: False)
        assert result.is_sampled
        assert result.contents[0].traces > 500
        assert result.estimated_total == pytest.approx(1389 * 60, rel=0.2)


def test_second_read_of_a_window_returns_the_same_digests() -> None:
    tempo = DenseTempo(DenseTraffic(20 * BUDGET.traces))
    assert digests(read_hour(tempo)[0]) == digests(read_hour(tempo)[0])
