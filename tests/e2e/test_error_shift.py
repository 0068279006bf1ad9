"""Requests that fail fast: flagged as errors while their latency gets better, and resolved; with a simulated clock."""

import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from exporter.demo.traces import ROOT, Operation, SpanTimes, Trace, TraceShape, TraceStore, make_trace
from exporter.explain.check import check
from exporter.explain.document import check_document
from exporter.explain.text import check_text
from exporter.model.calendar import Calendar
from exporter.model.span import SeriesKey
from tests.support.samples import logged
from tests.support.simulated import simulated
from tests.support.traffic import MINUTE, NS

PAY: Final = Operation("checkout", "POST /pay", "server")
HEALTHY, FAILED = (TraceShape((each,), (ROOT,)) for each in (PAY, PAY.failed()))
KEY: Final = SeriesKey(PAY.service, PAY.name)
BEGIN: Final = datetime(2026, 3, 4, 10, 20, tzinfo=UTC).timestamp()
END: Final = BEGIN + 5 * MINUTE
UTC_CALENDAR: Final = Calendar()


def request(number: int, start: float, *, failed: bool) -> Trace:
    """Return a request; one that fails takes a tenth of the time."""
    duration_ns = int((0.02 if failed else 0.2) * NS)
    return make_trace(number, FAILED if failed else HEALTHY, [SpanTimes(number, int(start * NS), duration_ns)])


def traffic() -> TraceStore:
    """Return three days of a request a minute, every 500th of which fails, and then of one a second."""
    past = [BEGIN - 15 * MINUTE - 60 * number for number in range(72 * 60)]
    recent = [BEGIN - 15 * MINUTE + number for number in range(35 * 60)]
    traces = [request(number, start, failed=number % 500 == 0) for number, start in enumerate(past, 1)]
    return TraceStore(
        traces
        + [
            request(len(past) + 1 + number, start, failed=BEGIN <= start < END and number % 3 == 0)
            for number, start in enumerate(recent)
        ]
    )


def test_requests_that_fail_fast_are_flagged_and_resolved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with simulated(tmp_path, traffic(), BEGIN, polling={"backfill_duration": "72h"}) as exporter:
        page = exporter.tick_until(lambda page: page.get("anomalous", KEY, kind="errors") == 1, 4 * MINUTE)
        assert page.get("anomalous", KEY, kind="shift") == 0
        assert (page.get("current_p50_seconds", KEY) or 1) <= (page.get("baseline_p50_seconds", KEY) or 0) * 1.05
        assert BEGIN <= (page.get("errors_since_timestamp_seconds", KEY) or 0) <= exporter.now
        assert 0 < (page.get("baseline_error_ratio", KEY) or 0) < 0.01
        assert (page.get("error_score", KEY) or 0) >= 1
        result = check(exporter.app.evaluation.querier, KEY, now=exporter.now)
        assert re.search(
            r"^  failures   more than 2\.\d+ % of the requests \(usually 0\.\d+ %, by ",
            check_text(result, UTC_CALENDAR),
            re.MULTILINE,
        )
        thresholds = check_document(result, UTC_CALENDAR)["error_thresholds"]
        assert thresholds["baseline_error_ratio"] == page.get("baseline_error_ratio", KEY)
        (firing,) = logged(caplog, "errors_firing")
        assert "requests failed" in str(firing["explanation"])
        exporter.tick_until(
            lambda page: page.get("anomalous", KEY, kind="errors") == 0, END + 8 * MINUTE - exporter.now
        )
        assert exporter.now > END
    assert len(logged(caplog, "errors_resolved")) == 1
    assert logged(caplog, "shift_firing") == []


def test_what_is_disabled_is_not_published_although_its_flag_fired_before(tmp_path: Path) -> None:
    history = {"backfill_duration": "72h"}
    with simulated(tmp_path, traffic(), BEGIN, polling=history) as exporter:
        exporter.tick_until(lambda page: page.get("anomalous", KEY, kind="errors") == 1, 4 * MINUTE)
        assert kinds_of(exporter.app.exposition()) == KINDS
        now = exporter.now
    disabled = {"errors": {"enabled": False}, "traffic": {"enabled": False}}
    with simulated(tmp_path, traffic(), now, polling=history, detection=disabled) as exporter:
        exporter.tick()
        page = exporter.app.exposition()
        assert kinds_of(page) == set()
        assert 'kind="shift"' in page
        assert exporter.app.flags() == {}


KINDS: Final = {
    'kind="errors"', 'kind="traffic"', "current_error_ratio{", "baseline_error_ratio{", "error_score{",
    "errors_since_timestamp_seconds{", "error_traces_total{", "baseline_traces{", "traffic_ratio{",
}  # fmt: skip
"""What a page has only if failures and traffic are judged."""


def kinds_of(page: str) -> set[str]:
    return {text for text in KINDS if text in page}
