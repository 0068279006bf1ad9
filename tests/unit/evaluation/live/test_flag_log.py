"""Log lines about flags: each by itself, or one about many."""

import logging

import pytest

from exporter.detection.flag import FlagEvent, FlagKind
from exporter.evaluation.live.evaluator import SeriesFlagChange
from exporter.evaluation.live.flag_log import MAX_LINES, PERIOD_SECONDS, FlagLog
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from tests.support.samples import events, logged


def changes(count: int, kind: FlagKind, event: FlagEvent = FlagEvent.FIRING) -> list[SeriesFlagChange]:
    return [
        SeriesFlagChange(SeriesKey("shop" if number % 4 else "search", f"GET /{number}"), kind, event, "a sentence")
        for number in range(count)
    ]


@pytest.fixture
def times() -> list[float]:
    return [1000.0]


@pytest.fixture
def log(times: list[float], caplog: pytest.LogCaptureFixture) -> FlagLog:
    caplog.set_level(logging.INFO)
    return FlagLog(get_logger("poller"), lambda: times[0])


@pytest.mark.parametrize("kind", FlagKind)
@pytest.mark.parametrize("event", FlagEvent)
def test_few_flags_are_logged_with_their_explanation(
    log: FlagLog, caplog: pytest.LogCaptureFixture, kind: FlagKind, event: FlagEvent
) -> None:
    log.write(changes(3, kind, event))
    assert events(caplog) == [f"{kind}_{event}"] * 3
    (first, *_) = logged(caplog, f"{kind}_{event}")
    assert first == {"service_name": "search", "span_name": "GET /0", "explanation": "a sentence"}


def test_a_change_of_everything_is_some_lines_and_a_number(log: FlagLog, caplog: pytest.LogCaptureFixture) -> None:
    log.write([*changes(1000, FlagKind.TRAFFIC), *changes(3, FlagKind.SHIFT)])
    assert events(caplog).count("traffic_firing") == MAX_LINES
    assert events(caplog).count("shift_firing") == 3
    (summary,) = logged(caplog, "flags_summarized")
    left = 1000 - MAX_LINES
    assert summary == {
        "kind": FlagKind.TRAFFIC, "change": FlagEvent.FIRING, "endpoints": left, "services": 2,
        "most_in": ["shop", "search"],
    }  # fmt: skip


def test_flags_of_later_cycles_are_counted_until_the_period_is_over(
    log: FlagLog, times: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    log.write(changes(MAX_LINES, FlagKind.ERRORS))
    times[0] += PERIOD_SECONDS / 2
    log.write(changes(1, FlagKind.ERRORS))
    log.write(changes(1, FlagKind.ERRORS, FlagEvent.RESOLVED))
    times[0] += PERIOD_SECONDS / 2
    log.write(changes(1, FlagKind.ERRORS))
    assert events(caplog) == [*["errors_firing"] * MAX_LINES, "flags_summarized", "errors_resolved", "errors_firing"]
