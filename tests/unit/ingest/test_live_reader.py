"""The current traffic is read within a budget, and what is read of it is a fair sample."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean, median

import pytest

from exporter.ingest.exact_reader import Budget
from exporter.ingest.live_reader import LiveReader, LiveReading
from exporter.ingest.sampling import WHOLE
from exporter.model.span import SeriesKey, Span
from exporter.runtime.telemetry import Loop
from tests.support.fakes import Found, Recorder
from tests.support.samples import KEY, NOON

NS = 1_000_000_000
BUDGET = Budget(2000, 50)


def spans(start: int, end: int, per_second: float, *, slow_share: float = 0.1) -> list[Span]:
    """Traffic that ends evenly over a stretch; some of it takes much longer than a slice, the rest next to nothing."""
    count = round((end - start) * per_second)
    every = round(1 / slow_share)
    made = []
    for number in range(count):
        ended_ns = round((start + (number + 0.5) / per_second) * NS)
        duration_ns = 12 * NS if number * 7 % every == 0 else 20_000_000
        made.append(Span(f"{number:032x}", f"{number:016x}", KEY, ended_ns - duration_ns, duration_ns))
    return made


@dataclass
class EdgeTempo:
    """Searches some spans, each a trace of its own."""

    spans: list[Span]
    max_limit: int = 500
    max_range_seconds: int | None = None
    searches: list[tuple[int, int]] = field(default_factory=list)
    received: int = 0

    def search(self, start: int, end: int, *, loop: Loop, series: Sequence[SeriesKey] = ()) -> Found:
        assert loop == "poll"
        self.searches.append((start, end))
        found = [
            each
            for each in self.spans
            if each.start_ns <= end * NS and start * NS <= each.end_ns and (not series or each.key in series)
        ]
        found = found[: self.max_limit]
        self.received += len(found)
        return Found(found, len(found) >= self.max_limit, self.max_limit)

    def exists(self, start: int, end: int, *, loop: Loop) -> bool:
        raise AssertionError("nobody asks")


class Rig:
    def __init__(self, found: list[Span], budget: Budget = BUDGET, limit: int = 500) -> None:
        self.tempo = EdgeTempo(found, limit)
        self.telemetry = Recorder()
        self.reader = LiveReader(self.tempo, self.telemetry, budget, poll_seconds=120, hold_seconds=300)

    def poll(self, now: int, seconds: int = 120) -> LiveReading:
        self.tempo.searches.clear()
        self.tempo.received = 0
        return self.reader.read(now - seconds, now, lambda: False)


def test_what_fits_is_read_whole() -> None:
    rig = Rig(spans(NOON - 400, NOON, 5))
    for _ in range(3):
        reading = rig.poll(NOON)
        assert reading.sample == WHOLE
        ended = {each for each in rig.tempo.spans if each.end_ns >= (NOON - 120) * NS}
        assert set(reading.spans) >= ended
    assert rig.telemetry.sampled_windows == {}


@pytest.mark.parametrize("per_second", [40, 100])
def test_what_does_not_is_a_fair_sample_of_what_ended(per_second: int) -> None:
    rig = Rig(spans(NOON - 400, NOON, per_second))
    for number in range(4):
        reading = rig.poll(NOON)
        assert not reading.sample.is_whole
        # At first it has to be found out how dense it is.
        assert rig.tempo.received <= (2 if number == 0 else 1.5) * BUDGET.traces
        assert len(rig.tempo.searches) <= BUDGET.requests
        ended = [each for each in rig.tempo.spans if (NOON - 120) * NS < each.end_ns <= NOON * NS]
        chosen = [each for each in ended if reading.sample.includes(math.ceil(each.end_ns / NS) - 1)]
        assert Counter(reading.spans) == Counter(chosen)
        # Long traces overlap many slices, and yet are no more among them than among all.
        slow = [each.duration_ns > NS for each in reading.spans]
        assert mean(slow) == pytest.approx(0.1, abs=0.03)
        assert len(chosen) / len(ended) == pytest.approx(reading.sample.share, rel=0.35)
    assert rig.telemetry.sampled_windows["poll"] == 4
    assert rig.reader.density == pytest.approx(per_second, rel=0.2)


def test_the_next_poll_reads_the_same_slices() -> None:
    rig = Rig(spans(NOON - 400, NOON + 60, 100))
    rig.poll(NOON)
    one = rig.poll(NOON)
    other = rig.poll(NOON + 15)
    assert one.sample == other.sample
    both = [(NOON - 105) * NS < each.end_ns <= NOON * NS for each in one.spans]
    again = [each for each in other.spans if each.end_ns <= NOON * NS]
    assert set(again) == {each for each, in_both in zip(one.spans, both, strict=True) if in_both}


def test_a_longer_look_back_may_cost_more_in_proportion() -> None:
    rig = Rig(spans(NOON - 400, NOON, 14))
    assert rig.poll(NOON, 300).sample.is_whole


def test_traffic_that_grows_is_noticed_and_for_a_while_the_sample_stays_small() -> None:
    rig = Rig([*spans(NOON - 200, NOON, 5), *spans(NOON, NOON + 150, 150)])
    rig.poll(NOON)
    shares = []
    for later in range(15, 151, 15):
        shares.append(rig.poll(NOON + later).sample.share)
        assert rig.tempo.received <= 3.2 * BUDGET.traces
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] <= 1 / 8
    rig.tempo.spans = spans(NOON + 150, NOON + 1000, 5)
    assert rig.poll(NOON + 400).sample.share <= 1 / 8
    assert rig.poll(NOON + 751).sample.is_whole


def test_a_first_look_at_dense_traffic_costs_little_more_than_any_other() -> None:
    rig = Rig(spans(NOON - 400, NOON, 120))
    rig.poll(NOON)
    assert rig.tempo.received <= 3 * BUDGET.traces
    durations = [each.duration_ns for each in rig.poll(NOON).spans]
    # By now it is known how much comes with a search for a slice that is not of it: long traces.
    assert rig.tempo.received <= 1.5 * BUDGET.traces
    assert median(durations) == 20_000_000


def test_once_given_up_what_is_unread_is_counted() -> None:
    rig = Rig(spans(NOON - 400, NOON, 100))
    rig.poll(NOON)
    reading = rig.reader.read(NOON - 120, NOON, lambda: len(rig.tempo.searches) >= 2)
    assert reading.unread > 0


RARE = SeriesKey("checkout", 'POST "/refund"')


def test_endpoints_with_little_traffic_are_read_whole_beside_the_sample() -> None:
    rare = [each._replace(key=RARE, trace_id=f"f{each.trace_id[1:]}") for each in spans(NOON - 400, NOON, 0.2)]
    rig = Rig([*spans(NOON - 400, NOON, 100), *rare])
    rig.poll(NOON)
    usual = {KEY: 360_000.0, RARE: 720.0}
    rig.tempo.searches.clear()
    rig.tempo.received = 0
    reading = rig.reader.read(NOON - 120, NOON, lambda: False, lambda: usual)
    assert reading.by_name == {RARE}
    found = [each for each in reading.spans if each.key == RARE]
    assert Counter(found) == Counter(each for each in rare if (NOON - 120) * NS < each.end_ns <= NOON * NS)
    sampled = [each for each in reading.spans if each.key == KEY]
    assert all(reading.sample.includes(-(-each.end_ns // NS) - 1) for each in sampled)
    assert rig.tempo.received <= 1.5 * BUDGET.traces


def test_an_endpoint_that_has_much_more_traffic_than_usual_is_left_to_the_sample() -> None:
    rig = Rig(spans(NOON - 400, NOON, 100))
    rig.poll(NOON)
    reading = rig.reader.read(NOON - 120, NOON, lambda: False, lambda: {KEY: 10.0})
    assert reading.by_name == frozenset()
    assert reading.spans
    assert rig.tempo.received <= 4 * BUDGET.traces


def test_how_much_endpoints_usually_have_does_not_matter_where_all_is_read() -> None:
    def fail() -> dict[SeriesKey, float]:
        raise AssertionError("nobody needs it")

    rig = Rig(spans(NOON - 400, NOON, 5))
    assert rig.reader.read(NOON - 120, NOON, lambda: False, fail).sample.is_whole
