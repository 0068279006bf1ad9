"""Windows a hundred times too dense to be read whole: what is read stands for them, at a cost that does not grow."""

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
from tests.support.fakes import Found, Recorder
from tests.support.samples import HOUR, NOON

BUDGET = Budget(traces=50_000, requests=100)
LIMIT = 5000
WINDOW = Window(NOON, NOON + HOUR)


@dataclass
class DenseTempo:
    """Searches dense traffic, and counts it where it is let."""

    traffic: DenseTraffic
    counting: bool = True
    max_limit: int = LIMIT
    max_range_seconds: int | None = None
    max_count_range_seconds: int | None = None
    searches: list[tuple[int, int, int]] = field(default_factory=list)

    def search(self, start: int, end: int, *, loop: Loop, series: Sequence[SeriesKey] = ()) -> Found:
        spans = self._spans(start, end, series)
        self.searches.append((start, end, len(spans)))
        return Found(spans, len(spans) >= self.max_limit, self.max_limit)

    def _spans(self, start: int, end: int, series: Sequence[SeriesKey]) -> Sequence[Span]:
        # More than a search returns is not worked out: an hour of this is millions.
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
    admission = SeriesFilter(rules or SeriesRules(placeholders=False))
    admission.preload(known)
    reader = WindowReader(tempo, counts, admission, telemetry, budget)
    (part,) = reader.read(Batch((WINDOW,), counts.of(WINDOW) or expected), threading.Event().is_set)
    return part, telemetry


@cache
def hour_of(times: int, *, counting: bool = True) -> tuple[DenseTempo, BatchResult, Recorder]:
    """The reading of an hour that holds so many times the budget."""
    per_hour = round(0.95 * times * BUDGET.traces)
    tempo = DenseTempo(DenseTraffic(per_hour, busiest=max(5000, min(100_000, times * 1000))), counting)
    return tempo, *read_hour(tempo)


def digests(part: BatchResult) -> Mapping[SeriesKey, Digest]:
    (content,) = part.contents
    return {key: item.digest for key, item in content.series.items()}


def errors(tempo: DenseTempo, part: BatchResult, q: float) -> list[float]:
    """How far a quantile is off, for each endpoint of which at least 200 traces were read."""
    found = digests(part)
    return [
        abs(found[each.key].quantile_seconds(q) / each.quantile_seconds(q, NOON) - 1)
        for each in tempo.traffic.endpoints
        if each.key in found and found[each.key].count >= 200
    ]


@pytest.mark.parametrize("counting", [True, False])
def test_quantiles_at_a_hundred_times_the_budget(counting: bool) -> None:
    tempo, part, _ = hour_of(100, counting=counting)
    p50, p95 = errors(tempo, part, 0.5), errors(tempo, part, 0.95)
    assert len(p50) >= 50
    assert median(p50) <= 0.03
    assert median(p95) <= 0.08
    assert max(p50) <= 0.25


def test_the_rarest_endpoints_are_read_whole() -> None:
    tempo, part, _ = hour_of(100)
    found = digests(part)
    rare = [each for each in tempo.traffic.endpoints if each.per_hour <= 100]
    assert len(rare) > 100
    for each in rare:
        truth = tempo.traffic.spans(NOON, NOON + HOUR, [each.key])
        assert found[each.key] == Digest.of_ns(
            s.duration_ns for s in truth if NOON * 10**9 <= s.start_ns < (NOON + HOUR) * 10**9
        )


def test_every_quarter_of_an_hour_has_its_share() -> None:
    tempo, part, _ = hour_of(100)
    (content,) = part.contents
    busiest = tempo.traffic.endpoints[-1].key
    by_mark = {mark: digest.count for mark, digest in content.series[busiest].marks.items()}
    quarters = [sum(by_mark.get(mark, 0) for mark in range(first, first + 3)) for first in (1, 4, 7, 10)]
    assert min(quarters) > 0.6 * max(quarters)


def test_what_it_costs_does_not_grow_with_the_traffic() -> None:
    costs = []
    for times in (1, 2, 10, 100):
        tempo, part, telemetry = hour_of(times)
        assert part.is_sampled == (times > 1)
        assert telemetry.sampled_windows["backfill"] == (times > 1)
        assert tempo.received <= 1.2 * BUDGET.traces
        assert len(tempo.searches) <= BUDGET.requests
        assert part.reading.requests == len(tempo.searches)
        costs.append((len(tempo.searches), tempo.received))
    _, twice, tenfold, hundredfold = costs
    assert tenfold <= (twice[0] * 1.25, twice[1] * 1.25)
    assert hundredfold <= (tenfold[0] * 1.25, tenfold[1] * 1.25)


def test_coverage_is_what_was_read_of_what_is_there() -> None:
    tempo, part, _ = hour_of(100)
    (content,) = part.contents
    there = sum(each.per_hour for each in tempo.traffic.endpoints)
    assert content.traces / there == pytest.approx(0.008, rel=0.3)
    assert part.estimated_total == pytest.approx(there, rel=0.05)


class TestWithoutCounts:
    def test_how_dense_it_is_is_found_out_for_little(self) -> None:
        tempo, part, _ = hour_of(100, counting=False)
        assert part.is_sampled
        # A full search, a few seconds to look at, and the sample.
        assert tempo.received <= 1.4 * BUDGET.traces
        assert len(tempo.searches) <= BUDGET.requests
        there = sum(each.per_hour for each in tempo.traffic.endpoints)
        assert part.estimated_total == pytest.approx(there, rel=0.05)

    def test_a_window_that_proves_to_fit_is_read_whole(self) -> None:
        tempo = DenseTempo(DenseTraffic(BUDGET.traces // 2, busiest=5000), counting=False)
        part, telemetry = read_hour(tempo)
        (content,) = part.contents
        assert not part.is_sampled
        assert content.traces == pytest.approx(sum(each.per_hour for each in tempo.traffic.endpoints), rel=0.01)
        assert tempo.received <= BUDGET.traces
        assert telemetry.sampled_windows == {}

    def test_a_wrong_expectation_is_found_out(self) -> None:
        tempo = DenseTempo(DenseTraffic(100 * BUDGET.traces), counting=False)
        part, _ = read_hour(tempo, expected=20_000.0)
        assert part.is_sampled
        assert tempo.received <= 2.7 * BUDGET.traces
        assert median(errors(tempo, part, 0.5)) <= 0.03

    def test_endpoints_known_before_that_the_sample_missed_are_read_by_name(self) -> None:
        tempo = DenseTempo(DenseTraffic(100 * BUDGET.traces), counting=False)
        known = [each.key for each in tempo.traffic.endpoints if each.per_hour <= 30][:60]
        part, _ = read_hour(tempo, known=known)
        found = digests(part)
        by_key = {each.key: each for each in tempo.traffic.endpoints}
        whole = [key for key in known if key in found and found[key].count >= by_key[key].per_hour - 1]
        assert len(whole) > 0.8 * len(known)


def test_endpoints_that_nobody_wants_cost_nothing() -> None:
    tempo = DenseTempo(DenseTraffic(20 * BUDGET.traces))
    part, _ = read_hour(tempo, rules=SeriesRules(exclude=[Pattern("service-1?[0-5]/")], placeholders=False))
    (content,) = part.contents
    assert content.skipped["filtered"] > 0
    assert not any(key.service_name in ("service-1", "service-5", "service-10") for key in content.series)


def test_names_that_differ_by_an_id_are_left_to_the_sample() -> None:
    """A million names of one trace each are one endpoint with a million: not worth a search for each."""
    tempo = DenseTempo(DenseTraffic(20 * BUDGET.traces))
    rules = SeriesRules(rename=[(Pattern(r"/[a-z]+$"), "/{id}")])
    part, _ = read_hour(tempo, rules=rules)
    assert all(key.span_name.endswith("/{id}") for key in digests(part))
    assert not [search for search in tempo.searches if search[1] - search[0] == HOUR]


def test_where_even_a_second_is_too_full_it_is_known_and_nothing_biased_is_kept() -> None:
    tempo = DenseTempo(DenseTraffic(100 * BUDGET.traces), max_limit=1000)
    part, telemetry = read_hour(tempo)
    assert part.is_sampled
    assert part.reading.truncated
    assert telemetry.skipped["backfill", "saturated"] > 0
    rare = {each.key for each in tempo.traffic.endpoints if each.per_hour < 1000 * SEARCH_FILL}
    assert digests(part).keys() <= rare
    assert len(tempo.searches) <= BUDGET.requests


def test_a_short_window_has_its_slices_too() -> None:
    tempo = DenseTempo(DenseTraffic(100 * BUDGET.traces))
    telemetry = Recorder()
    counts = TempoCounts(tempo, telemetry, lambda: 0.0, get_logger("test"))
    reader = WindowReader(tempo, counts, SeriesFilter(SeriesRules()), telemetry, Budget(1000, 20))
    for minute in range(3):
        window = Window(NOON + 60 * minute, NOON + 60 * minute + 60)
        (part,) = reader.read(Batch((window,), 1389 * 60.0), lambda: False)
        assert part.is_sampled
        assert part.contents[0].traces > 500
        assert part.estimated_total == pytest.approx(1389 * 60, rel=0.2)


def test_reading_again_reads_the_same() -> None:
    tempo = DenseTempo(DenseTraffic(20 * BUDGET.traces))
    assert digests(read_hour(tempo)[0]) == digests(read_hour(tempo)[0])
