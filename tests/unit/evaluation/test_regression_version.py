"""Which version a regression began with: what is searched, how often, and what is said."""

import logging
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from exporter.evaluation.regression_version import (
    MAX_ATTEMPTS,
    RETRY_SECONDS,
    RegressionVersion,
    RegressionVersions,
    VersionSearch,
    stored_version,
)
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.runtime.telemetry import Loop
from exporter.store import Store
from exporter.tempo.errors import RangeTooLongError, TempoError
from tests.support.fakes import FrozenClock, Recorder
from tests.support.samples import REGRESSION, logged

KEY = SeriesKey("checkout", "POST /pay")
OTHER = SeriesKey("gateway", "GET /cart")
BEGAN = (REGRESSION.began_after, REGRESSION.began_before)
NOW = REGRESSION.raised_at


@dataclass
class Tempo:
    """Has spans with versions, each at an instant in Unix seconds; returns the first ones that match."""

    spans: list[tuple[int, str]]
    max_range_seconds: int = 7 * 24 * HOUR_SECONDS
    failures: int = 0
    asked: list[tuple[int, int]] = field(default_factory=list)

    def sample_versions(
        self, key: SeriesKey, start: int, end: int, limit: int, *, loop: Loop, version: str | None = None
    ) -> list[str]:
        assert loop == "version"
        self.asked.append((start, end))
        if self.failures:
            self.failures -= 1
            raise TempoError("Tempo is down", reason="connection", retryable=True)
        if end - start > self.max_range_seconds:
            raise RangeTooLongError("too long", max_seconds=self.max_range_seconds)
        found = [each for at, each in self.spans if start <= at < end and version in (None, each)]
        return found[:limit]


def found(*spans: tuple[int, str], **settings: Any) -> RegressionVersion:
    return VersionSearch(Tempo(list(spans), **settings)).find(KEY, REGRESSION, NOW)


def around(before: list[str], after: list[str]) -> list[tuple[int, str]]:
    return [
        *((BEGAN[0] - 60 * (number + 1), each) for number, each in enumerate(before)),
        *((BEGAN[1] + 60 * (number + 1), each) for number, each in enumerate(after)),
    ]


def test_version_that_no_span_had_before_appeared() -> None:
    version = found(*around(["1.0"] * 5, ["1.0", "1.1", "1.1"]))
    assert version == RegressionVersion("appeared", "1.1", "1.0")
    assert version.sentence == "Version 1.1 of the service appeared then; before, it was 1.0."


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (["1.0"] * 5, ["1.0"] * 5, RegressionVersion("same", "1.0", "1.0")),
        (["1.0", "1.1"], ["1.1"] * 5, RegressionVersion("same", "1.1", "1.0")),
        ([""], ["1.1"], RegressionVersion("appeared", "1.1", "")),
        (["1.0"], [""], RegressionVersion("no_version")),
        ([], ["1.1"], RegressionVersion("no_traces")),
        (["1.0"], [], RegressionVersion("no_traces")),
        # One span of ten does not slow a median.
        (["1.0"], [*["1.0"] * 9, "1.1"], RegressionVersion("same", "1.0", "1.0")),
    ],
)
def test_what_is_said_of_other_versions(before: list[str], after: list[str], expected: RegressionVersion) -> None:
    version = found(*around(before, after))
    assert version == expected
    assert RegressionVersion.decode(version.encode()) == version
    assert version.sentence.endswith(".")


def test_version_that_the_sample_missed_did_not_appear() -> None:
    # The sample of 20 has none of the few spans of a canary.
    assert found(*around(["1.0"] * 30 + ["1.1"], ["1.1"] * 5)).outcome == "same"


def test_traces_further_away_serve_where_there_are_no_nearer_ones() -> None:
    far = [(BEGAN[0] - 20 * HOUR_SECONDS, "1.0"), (BEGAN[1] + 60, "1.1")]
    assert found(*far) == RegressionVersion("appeared", "1.1", "1.0")


def test_shorter_ranges_are_searched_where_tempo_allows_no_longer_ones() -> None:
    tempo = Tempo(around(["1.0"], ["1.1"]), max_range_seconds=2 * HOUR_SECONDS)
    assert VersionSearch(tempo).find(KEY, REGRESSION, NOW) == RegressionVersion("appeared", "1.1", "1.0")
    # Each is refused once, and then searched once.
    assert [(end - start) // HOUR_SECONDS for start, end in tempo.asked] == [6, 2, 6, 2, 24, 2]


def test_hostile_version_is_cut_and_escaped() -> None:
    version = found(*around(["1.0"], ["\x1b[2J\n\u202e" + "x" * 5000]))
    assert len(version.version) == 256
    assert "\\x1b[2J\\n\\u202exxx" in version.sentence
    assert version.sentence.isprintable()
    assert len(version.sentence) < 300


@pytest.mark.parametrize("text", ["", "{}", "[1, 2]", '["other", "", ""]'])
def test_damaged_result_is_rejected(text: str) -> None:
    with pytest.raises(ValueError):
        RegressionVersion.decode(text)


class Bench:
    """Keeps versions with a frozen clock."""

    def __init__(self, store: Store, tempo: Tempo) -> None:
        self.clock = FrozenClock(float(NOW))
        self.telemetry = Recorder()
        self.tempo = tempo
        self.versions = RegressionVersions(
            VersionSearch(tempo),
            store,
            self.telemetry,
            clock=self.clock.time,
            monotonic=self.clock.monotonic,
            log=get_logger("versions"),
        )

    def look(self) -> float:
        return self.versions.look_at_next()


@pytest.fixture
def store() -> Iterator[Store]:
    with closing(Store.in_memory()) as opened:
        yield opened


def bench(store: Store, **settings: Any) -> Bench:
    return Bench(store, Tempo(around(["1.0"], ["1.1"]), **settings))


def test_version_is_searched_once_and_remembered_over_a_restart(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first = bench(store)
    assert first.versions.of(KEY, REGRESSION) is None
    first.versions.observe({KEY: REGRESSION})
    first.look()
    expected = RegressionVersion("appeared", "1.1", "1.0")
    assert first.versions.of(KEY, REGRESSION) == expected == stored_version(store, KEY, REGRESSION)
    assert first.telemetry.versions == ["appeared"]
    assert len(first.tempo.asked) == 3
    (record,) = logged(caplog, "regression_version")
    assert (record["version"], record["version_before"], record["span_name"]) == ("1.1", "1.0", "POST /pay")
    # The ratio of the last days changes, the regression does not.
    first.versions.observe({KEY: REGRESSION._replace(ratio=1.3)})
    first.clock.advance(10 * RETRY_SECONDS)
    first.look()
    second = bench(store)
    second.versions.observe({KEY: REGRESSION})
    second.look()
    assert second.versions.of(KEY, REGRESSION) == expected
    assert (len(first.tempo.asked), second.tempo.asked, second.telemetry.versions) == (3, [], [])


def test_another_regression_of_the_series_is_looked_at(store: Store) -> None:
    tested = bench(store)
    tested.versions.observe({KEY: REGRESSION})
    tested.look()
    later = REGRESSION._replace(raised_at=REGRESSION.raised_at + 6 * HOUR_SECONDS)
    tested.versions.observe({KEY: later, OTHER: REGRESSION})
    assert tested.versions.of(KEY, later) is None
    assert tested.look() == tested.look() == 0.0
    assert tested.versions.of(KEY, later) is not None
    assert tested.versions.of(OTHER, REGRESSION) is not None
    assert tested.look() > 0


def test_failure_is_said_and_tried_again_later(store: Store) -> None:
    tested = bench(store, failures=1)
    tested.versions.observe({KEY: REGRESSION})
    tested.look()
    version = tested.versions.of(KEY, REGRESSION)
    assert version is not None
    assert "could not be searched" in version.sentence
    assert tested.look() == RETRY_SECONDS
    assert stored_version(store, KEY, REGRESSION) is None
    tested.clock.advance(RETRY_SECONDS)
    tested.look()
    assert tested.versions.of(KEY, REGRESSION) == RegressionVersion("appeared", "1.1", "1.0")
    assert tested.telemetry.versions == ["failed", "appeared"]


def test_failures_end_some_day(store: Store) -> None:
    tested = bench(store, failures=10**9)
    tested.versions.observe({KEY: REGRESSION})
    for _ in range(2 * MAX_ATTEMPTS):
        tested.look()
        tested.clock.advance(RETRY_SECONDS)
    assert tested.telemetry.versions == ["failed"] * MAX_ATTEMPTS
    assert stored_version(store, KEY, REGRESSION) == RegressionVersion("failed")


def test_what_breaks_the_search_is_not_searched_for_forever(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tested = bench(store)
    attempts = []

    def broken(*_: Any) -> RegressionVersion:
        attempts.append(tested.clock.monotonic())
        raise RuntimeError("broken")

    monkeypatch.setattr(VersionSearch, "find", broken)
    tested.versions.observe({KEY: REGRESSION})
    for _ in range(2 * MAX_ATTEMPTS):
        with suppress(RuntimeError):
            tested.look()
        tested.clock.advance(RETRY_SECONDS)
    assert len(attempts) == MAX_ATTEMPTS


def test_store_is_asked_once_about_each_regression(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bench(store)
    first.versions.observe({KEY: REGRESSION})
    first.look()
    asked = []
    regression_version = store.regression_version

    def counted(key: SeriesKey, raised_at: int) -> str | None:
        asked.append(key)
        return regression_version(key, raised_at)

    monkeypatch.setattr(store, "regression_version", counted)
    tested = bench(store)
    tested.versions.observe({KEY: REGRESSION, OTHER: REGRESSION})
    for _ in range(4):
        tested.look()
    assert sorted(asked) == [KEY, OTHER]
    assert tested.telemetry.versions == ["appeared"]


def test_without_a_search_nothing_is_known(store: Store) -> None:
    tested = bench(store)
    tested.versions.use(None)
    tested.versions.observe({KEY: REGRESSION})
    tested.look()
    assert tested.versions.of(KEY, REGRESSION) is None
    assert tested.tempo.asked == []
