"""A Tempo that answers wrongly: what is stored is counted once, no window counts as complete that is not."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from exporter.demo.routes import ApiOptions
from exporter.evaluation.live.series import SeenSpans
from exporter.ingest.exact_reader import Budget, ReadResult
from exporter.ingest.late_spans import LatePolicy
from exporter.ingest.ledger_entries import read_outcomes
from exporter.ingest.live_reader import LiveReader
from exporter.ingest.window_reader import BatchResult
from exporter.ingest.window_table import WindowRecord
from exporter.model.accumulator import WindowContent
from exporter.model.histogram import Digest
from exporter.model.ledger import WindowState
from exporter.runtime.logs import get_logger
from exporter.tempo import ClientSettings, TempoClient, TempoError
from tests.support.fakes import FrozenClock
from tests.support.fakes import Recorder as ReaderRecorder
from tests.support.faulty_tempo import Lie, WrongAnswerError, lying
from tests.support.ledgers import NOON
from tests.support.samples import KEY
from tests.support.tempo_server import Recorder, fake_tempo
from tests.support.traffic import HOUR, Traffic
from tests.unit.ingest.test_backfill import NOW, BackfillBench, hour

HOURS = 3
PER_HOUR = 40
Document = dict[str, Any]


def known_traffic() -> Traffic:
    """Steady requests, one of them exactly on the edge of each window."""
    traffic = Traffic()
    for start in range(NOON - HOURS * HOUR, NOON, HOUR):
        traffic.spread(KEY, start, start + HOUR, count=PER_HOUR - 1, scale=0.2)
        traffic.request(KEY, start, 0.1)
    return traffic


def is_count(path: str) -> bool:
    return path == "/api/metrics/query_range"


def counts_times(factor: float, *, hot: Callable[[], float] | None = None) -> Lie:
    """Counts are wrong by a factor; those of the last minutes only, where an instant is given."""

    def lie(path: str, params: Mapping[str, str], document: Document) -> None:
        for series in document.get("series", ()) if is_count(path) else ():
            for sample in series["samples"]:
                if hot is None or int(sample["timestampMs"]) / 1000 > hot():
                    sample["value"] = round(sample.get("value", 0) * factor)

    return lie


def counts_of_half_the_steps(path: str, params: Mapping[str, str], document: Document) -> None:
    for series in document.get("series", ()) if is_count(path) else ():
        series["samples"] = series["samples"][::2]


def partial_counts(path: str, params: Mapping[str, str], document: Document) -> None:
    if is_count(path):
        counts_times(0.5)(path, params, document)
        document["status"] = "PARTIAL"


def unfinished_counts(path: str, params: Mapping[str, str], document: Document) -> None:
    if is_count(path):
        counts_times(2)(path, params, document)
        document["metrics"] |= {"completedJobs": 1, "totalJobs": 2}


def duplicates(path: str, params: Mapping[str, str], document: Document) -> None:
    """What two blocks hold comes twice, and counts twice."""
    counts_times(2)(path, params, document)
    if "traces" in document:
        document["traces"] *= 2


def lacks_half(until: float, now: Callable[[], float]) -> Lie:
    """Searches lack half of the traces at first, without a word; counts are right, or there are none."""

    def lie(path: str, params: Mapping[str, str], document: Document) -> None:
        if "traces" in document and now() < until:
            document["traces"] = document["traces"][::2]

    return lie


@dataclass
class Unfinished:
    """The first answer to each search lacks half of the traces, since Tempo has not finished its jobs."""

    requested: set[tuple[str, ...]] = field(default_factory=set)

    def __call__(self, path: str, params: Mapping[str, str], document: Document) -> None:
        if "traces" in document and (request := tuple(params.values())) not in self.requested:
            self.requested.add(request)
            document["traces"] = document["traces"][::2]
            document["metrics"] |= {"completedJobs": 1, "totalJobs": 2}


@contextmanager
def backfill_of(
    traffic: Traffic,
    lie: Callable[[FrozenClock], Lie],
    *,
    late: float = 0.0,
    options: ApiOptions | None = None,
    tick: float = 1000.0,
    hours: int = HOURS,
) -> Iterator[BackfillBench]:
    """A backfill that reads from a Tempo that is wrong."""
    with fake_tempo() as server:
        settings = ClientSettings(url=server.url, requests_per_second=10_000)
        client = TempoClient(settings, Recorder(), get_logger("test"), pause=lambda _: False)
        bench = BackfillBench(client, hours=hours, late=late, tick=tick)  # type: ignore[arg-type]
        server.answer(lying(traffic, bench.clock.time, lie(bench.clock), options))
        yield bench
        client.close()


def assert_nothing_false(bench: BackfillBench, traffic: Traffic) -> None:
    """No span counts twice, and no window that lacks spans says that it is complete."""
    stored = bench.stored()
    for window, entry in bench.ledger().items():
        there = traffic.between(*window)
        assert entry.traces <= there
        assert stored.get((KEY, window.start), Digest({})).count == entry.traces
        if entry.traces < there:
            assert (entry.state, entry.coverage) != (WindowState.DONE, 1.0)


def assert_exact(bench: BackfillBench, traffic: Traffic) -> None:
    """The digests of all windows are those of the traffic."""
    durations: dict[int, list[int]] = {}
    for request in traffic.requests:
        durations.setdefault(int(request.start // HOUR) * HOUR, []).append(request.duration_ns)
    assert bench.stored() == {(KEY, start): Digest.of_ns(values) for start, values in durations.items()}


@pytest.mark.parametrize(
    ("lie", "coverage"),
    [
        # A doubled count looks like a loss.
        (counts_times(2), 0.5),
        (duplicates, 1.0),
        (counts_times(0.4), 1.0),
        (counts_times(0), 1.0),
        (counts_of_half_the_steps, 1.0),
        (partial_counts, 1.0),
        (unfinished_counts, 1.0),
        (Unfinished(), 1.0),
    ],
    ids=["doubled", "twice", "too-low", "zero", "missing", "partial", "unfinished-counts", "unfinished"],
)
def test_wrong_counts_and_answers_change_nothing_that_is_stored(lie: Lie, coverage: float) -> None:
    traffic = known_traffic()
    with backfill_of(traffic, lambda _: lie) as bench:
        bench.read()
        assert_nothing_false(bench, traffic)
        assert_exact(bench, traffic)
        for entry in bench.ledger().values():
            assert entry.coverage == pytest.approx(coverage, abs=0.01)
            assert (entry.coverage == 1.0) == (coverage == 1.0)


def test_counts_that_are_doubled_while_traces_are_recent_do_not_last() -> None:
    """The window is read once more after a while, and Tempo is asked again how much is in it."""
    traffic = known_traffic()

    def hot(clock: FrozenClock) -> Lie:
        return counts_times(2, hot=lambda: clock.now - 1800)

    with backfill_of(traffic, hot, tick=0.001) as bench:
        with bench.running():
            bench.wait_until(lambda: bench.backfill.status.progress.complete)
            assert bench.ledger()[hour(1)].coverage == pytest.approx(0.8, abs=0.1)
            bench.wait_until(lambda: bench.ledger()[hour(1)].coverage == 1.0, advance=60)
        assert_exact(bench, traffic)


@pytest.mark.parametrize("metrics", ["enabled", "empty"])
def test_answers_that_lack_traces_are_complete_in_the_end(metrics: Any) -> None:
    """Where Tempo counts, the loss is known at once. Where it does not, only the last reread shows it."""
    traffic = known_traffic()

    def lie(clock: FrozenClock) -> Lie:
        return lacks_half(NOON + 2 * HOUR, clock.time)

    with backfill_of(traffic, lie, options=ApiOptions(metrics=metrics), late=12 * HOUR, hours=30) as bench:
        while bench.clock.now < NOON + 16 * HOUR:
            bench.read()
            if metrics == "enabled":
                assert_nothing_false(bench, traffic)
            bench.clock.advance(HOUR / 2)
        assert_exact(bench, traffic)
        assert {bench.ledger()[hour(ago)].coverage for ago in range(1, HOURS + 1)} == {1.0}


# Current traffic


def recent_refused(until: float, now: Callable[[], float]) -> Lie:
    """Tempo 3.0 refuses searches of recent time while it lags (``fail_on_high_lag``)."""

    def lie(path: str, params: Mapping[str, str], document: Document) -> None:
        if now() < until and float(params.get("end", 0)) > now() - 60:
            raise WrongAnswerError(500, "live store lag is too high")

    return lie


@pytest.mark.parametrize("is_refused", [False, True], ids=["twice", "refused"])
def test_current_traffic_is_counted_once_and_nothing_is_missing_afterwards(is_refused: bool) -> None:
    clock = FrozenClock(NOON)
    traffic = Traffic()
    traffic.spread(KEY, NOON, NOON + 300, count=100, scale=0.2)
    lie = recent_refused(NOON + 90, clock.time) if is_refused else duplicates
    found, failures = [], 0
    with fake_tempo() as server:
        server.answer(lying(traffic, clock.time, lie))
        settings = ClientSettings(url=server.url, requests_per_second=10_000)
        client = TempoClient(settings, Recorder(), get_logger("test"), pause=lambda _: False)
        reader = LiveReader(client, ReaderRecorder(), Budget(20_000, 50), poll_seconds=120, hold_seconds=300)
        seen = SeenSpans()
        while clock.now < NOON + 400:
            now = int(clock.now)
            try:
                reading = reader.read([(now - 120, now)], lambda: False)
            except TempoError as error:
                assert "live store lag is too high" in str(error)
                failures += 1
            else:
                found += [(each.trace_id, each.duration_ns) for each in reading.spans if seen.is_new(each)]
            clock.advance(15)
        client.close()
    assert sorted(found) == sorted((each.trace_id, each.duration_ns) for each in traffic.requests)
    assert failures == (6 if is_refused else 0)


# Samples


@pytest.mark.parametrize(
    ("counted", "coverage"),
    [(None, 0.25), (500, 0.25), (2500, 0.25), (3000, 1 / 3), (4000, 0.25), (8000, 0.125)],
)
def test_sample_is_not_complete_because_of_a_count_that_is_too_low(counted: int | None, coverage: float) -> None:
    """1,000 traces of a window stand for 4,000; counts that come near, or are higher, are taken."""
    window = hour(1)
    content = WindowContent(window, {}, {"filtered": 1000})
    reading = ReadResult(received=1000, kept=1000, requests=64, splits=0, truncated=())
    (outcome,) = read_outcomes(
        BatchResult([content], reading, 4000.0),
        [WindowRecord(window)],
        lambda window, read: counted,
        LatePolicy(0, 120),
        began_at=NOW,
        seconds=1.0,
        now=NOW,
    )
    assert outcome.found.state is WindowState.DONE
    assert outcome.found.coverage == pytest.approx(coverage)
