"""The rule by which a stretch of time is read whole, probed or sampled."""

from dataclasses import dataclass, field

import pytest

from exporter.ingest.exact_reader import Budget, ExactReader, TooDenseError
from exporter.ingest.read_policy import (
    Probe,
    ReadCost,
    max_whole_traces,
    probe_density,
    read_within_budget,
    whole_read_budget,
)
from exporter.model.span import Span
from tests.support.fakes import NS, FakeTempo, Recorder, span
from tests.support.ledgers import NOON


@dataclass
class FakeStretch:
    """A stretch of which at most 100 traces are read whole; remembers how it was read.

    Attributes:
        wasted: whether reading stops because of wasted responses, before it is known how much there is.
    """

    traces: int
    expected: float | None = None
    probed: float = 0.0
    limit: int = 10
    wasted: bool = False
    steps: list[str] = field(default_factory=list)

    def fits(self) -> bool:
        return self.expected is None or self.expected <= 100

    def read_whole(self) -> str | None:
        self.steps.append("whole")
        if self.traces <= (self.limit if self.expected is None else 100):
            return "whole"
        found = self.limit if self.expected is None or self.wasted else 101
        self.expected = max(self.expected or 0.0, found)
        return None

    def probe(self) -> None:
        self.steps.append("probe")
        self.expected = self.probed

    def read_sample(self) -> str:
        self.steps.append("sample")
        return "sample"


@pytest.mark.parametrize(
    ("stretch", "steps"),
    [
        (FakeStretch(5), ["whole"]),
        (FakeStretch(50, expected=50), ["whole"]),
        (FakeStretch(50, expected=101), ["sample"]),
        (FakeStretch(500, expected=50), ["whole", "sample"]),
        (FakeStretch(500, expected=50, wasted=True, probed=500), ["whole", "probe", "sample"]),
        (FakeStretch(50, probed=50), ["whole", "probe", "whole"]),
        (FakeStretch(500, probed=500), ["whole", "probe", "sample"]),
        (FakeStretch(500, probed=50), ["whole", "probe", "whole", "sample"]),
    ],
)
def test_read_within_budget_chooses_by_what_is_expected(stretch: FakeStretch, steps: list[str]) -> None:
    assert read_within_budget(stretch) == steps[-1]
    assert stretch.steps == steps


def test_whole_read_may_expect_no_more_than_budget_and_searches_allow() -> None:
    assert max_whole_traces(Budget(1000, 100), 500) == 1000
    assert max_whole_traces(Budget(1000, 2), 500) == pytest.approx(500)


def test_whole_read_of_unknown_traffic_is_a_single_search() -> None:
    assert whole_read_budget(Budget(1000, 20), None) == Budget(1500, 1, 500)
    assert whole_read_budget(Budget(1000, 20), 300.0) == Budget(1500, 20, 500)
    assert whole_read_budget(Budget(1000, 20), 300.0, request_tolerance=2) == Budget(1500, 40, 500)


def starts_in(span: Span, start: int, end: int) -> bool:
    return start * NS <= span.start_ns < end * NS


def test_probe_counts_the_spans_that_belong_to_each_range() -> None:
    tempo = FakeTempo([span(NOON + second + 0.5) for second in range(10) for _ in range(second)])
    ranges = [(NOON + 2, NOON + 4), (NOON + 6, NOON + 8)]
    probe = probe_density(ExactReader(tempo, Recorder(), "backfill"), ranges, 2, starts_in, lambda: False)
    assert probe == Probe(density=(2 + 3 + 6 + 7) / 4, received=18, requests=2)


def test_probe_takes_a_saturated_search_for_its_limit() -> None:
    tempo = FakeTempo([span(NOON + 0.5) for _ in range(100)], max_limit=20)
    probe = probe_density(ExactReader(tempo, Recorder(), "backfill"), [(NOON, NOON + 1)], 1, starts_in, lambda: False)
    assert probe == Probe(density=20, received=20, requests=1)


def test_probe_that_should_stop_knows_nothing() -> None:
    exact = ExactReader(FakeTempo(), Recorder(), "poll")
    assert probe_density(exact, [(NOON, NOON + 1)], 1, starts_in, lambda: True) == Probe(None, 0, 0)


def test_cost_adds_up_over_all_attempts() -> None:
    cost = ReadCost()
    cost.add_abandoned(TooDenseError(40, 3, 1, 2.5))
    cost.add_probe(Probe(1.5, 10, 4))
    cost.kept = 7
    total = cost.total(at_end=2)
    assert (total.received, total.wasted, total.kept, total.at_end) == (50, 50, 7, 2)
    assert (total.requests, total.splits, cost.density) == (7, 1, 2.5)
