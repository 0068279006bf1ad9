"""Small, fixed samples of what the exporter reads and publishes, and a store with evaluated history."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from exporter.baseline.levels import Baseline, FallbackLevel, FallbackRules
from exporter.baseline.outlier import OutlierRule
from exporter.detection.errors.verdict import ErrorBaseline, ErrorExplanation
from exporter.detection.explanation import Explanation
from exporter.detection.flag import FlagKind
from exporter.detection.parameters import Parameters
from exporter.detection.regression.verdict import Regression
from exporter.detection.service_shift import ServiceVerdict
from exporter.detection.thresholds import QuantileThreshold, Thresholds
from exporter.detection.traffic.verdict import TrafficEvidence, TrafficVerdict
from exporter.evaluation.live.edge import LiveEdge
from exporter.evaluation.live.time_lost import TimeLost
from exporter.evaluation.live.traffic import CurrentTraffic
from exporter.evaluation.manager import BaselineManager
from exporter.evaluation.regression_version import RegressionVersion
from exporter.evaluation.settings import EvaluationSettings
from exporter.evaluation.snapshot import Exemplar, HistoryFacts, KindStatus, SeriesStatus, ServiceStatus, Snapshot
from exporter.ingest.backfill_queue import BackfillStatus
from exporter.model.accumulator import Accumulator
from exporter.model.calendar import Calendar, DayType, HourClock, Slot
from exporter.model.histogram import bucket_of_seconds
from exporter.model.hour_evaluation import QUANTILES
from exporter.model.ledger import LedgerEntry, LedgerProgress, Window, WindowState
from exporter.model.service import ServiceKey
from exporter.model.span import SeriesKey, Span
from exporter.runtime.logs import get_logger
from exporter.store import Store

NS = 1_000_000_000
HOUR = 3600
DAY = 24 * HOUR
NOON = int(datetime(2026, 11, 17, 12, tzinfo=UTC).timestamp())
"""A Tuesday."""
KEY = SeriesKey("checkout", "GET /cart")
QUOTED_KEY = SeriesKey('naïve "svc"', 'GET "/a\\b"\nline 订单')
HOSTILE_KEY = SeriesKey('<script>alert("1")</script>', 'GET "/a\\b"\n# TYPE x gauge {y="z"} \x00\r ünï 订单')
REGRESSION = Regression(
    raised_at=NOON - DAY,
    began_after=NOON - 2 * DAY - 2 * HOUR,
    began_before=NOON - 2 * DAY,
    quantile=0.5,
    ratio=1.25,
    before_seconds=0.2,
    hours=24,
    deviations=6.5,
)
VERSION = RegressionVersion("appeared", "2.4.0", "2.3.1")
LONG_KEY = SeriesKey("shop", "SELECT " + "column, " * 600)
"""Longer than Prometheus accepts as a label."""

SETTINGS = EvaluationSettings(FallbackRules(), OutlierRule(), Parameters(), stale_after_seconds=float(DAY))


class Clock:
    """A clock that a test moves by hand; serves as wall clock and as monotonic clock."""

    def __init__(self, now: float = NOON) -> None:
        self.now = float(now)

    def __call__(self) -> float:
        return self.now


ERRORS = ErrorExplanation(
    requests=412,
    failures=31,
    allowed=8,
    usual_ratio=0.004,
    limit_ratio=0.024,
    swing_ratio=0.0,
    chance=2e-9,
    expected_ratio=0.006,
    baseline=ErrorBaseline(FallbackLevel.EXACT, Slot(12, DayType.WEEKDAY), 5, 10_000, 40),
)


SERVICE_VERDICT = ServiceVerdict(ratio=1.625, threshold_ratio=1.25, endpoints=5, shifted=True, persists=True)


def events(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    """The keys of the logged events of at least a level."""
    return [event_of(record) for record in caplog.records if record.levelno >= level]


def logged(caplog: pytest.LogCaptureFixture, event: str) -> list[Mapping[str, object]]:
    """The fields of the records of one event."""
    return [record.__dict__["exporter_fields"] for record in caplog.records if event_of(record) == event]


def event_of(record: logging.LogRecord) -> str:
    """The event key of a log record; empty if a library logged it."""
    return getattr(record, "exporter_event", "")


def span(number: int, ended_at: float, seconds: float = 0.1, key: SeriesKey = KEY) -> Span:
    """A span that ended at an instant; the same number gives the same span."""
    duration_ns = round(seconds * NS)
    return Span(f"{number:032x}", f"{number:016x}", key, round(ended_at * NS) - duration_ns, duration_ns)


def baseline(
    p50: float = 0.1,
    p95: float = 0.2,
    mad: float = 0.01,
    level: FallbackLevel = FallbackLevel.EXACT,
    *,
    mature: bool = True,
) -> Baseline:
    return Baseline(level, Slot(12, DayType.WEEKDAY), mature, 5, 500, p50, p95, mad)


def thresholds(seconds: float = 0.1) -> Thresholds:
    """The thresholds of a series with hardly any swing, the same for all quantiles."""
    baseline_bucket, stat, gate, clear = (bucket_of_seconds(seconds * factor) for factor in (1, 1.1, 1.4, 1.2))
    quantiles = [QuantileThreshold(q, baseline_bucket, 0.01, stat, gate, clear) for q in QUANTILES]
    return Thresholds(tuple(quantiles), 0.003, bucket_of_seconds(seconds / 1.4))


Durations = Mapping[SeriesKey, Sequence[float]]


def entry(window: Window, traces: int) -> LedgerEntry:
    """The ledger entry of a window that was read."""
    state = WindowState.DONE if traces else WindowState.EMPTY
    return LedgerEntry(window, state, read_at=window.end, traces=traces, stored=traces, coverage=1.0)


def commit_hour(store: Store, start: int, durations: Durations, length: int = HOUR) -> LedgerEntry:
    """Store an hour, or a shorter window, in which spans of the given durations in seconds started evenly."""
    window = Window(start, start + length)
    accumulator = Accumulator([window], lambda key: key)
    for number, (key, seconds) in enumerate(durations.items()):
        step = length / max(1, len(seconds))
        accumulator.add(
            Span(f"{number:016x}{position:016x}", "1" * 16, key, int((start + position * step) * NS), round(each * NS))
            for position, each in enumerate(seconds)
        )
    ledger_entry = entry(window, sum(map(len, durations.values())))
    store.commit([ledger_entry], accumulator.finish())
    return ledger_entry


def around(median: float, count: int) -> list[float]:
    """Unsorted durations between 80 % and 120 % of a median."""
    return [median * (0.8 + 0.4 * (position * 7 % count) / max(1, count - 1)) for position in range(count)]


def evaluate_history(store: Store, until: int, settings: EvaluationSettings = SETTINGS) -> BaselineManager:
    """Evaluate all stored hours that end by an instant; returns the manager that has done so."""
    manager = BaselineManager(
        store,
        HourClock(Calendar()),
        settings,
        settled_until=lambda: until,
        on_accepted=lambda: None,
        monotonic=Clock(0.0),
        log=get_logger("test"),
    )
    manager.catch_up(until + 600)
    return manager


def explanation() -> Explanation:
    """The evidence for a shift."""
    return Explanation(
        quantile=0.9,
        traces=300,
        slow=38,
        allowed=30,
        limit_seconds=0.168,
        baseline_seconds=0.12,
        current_seconds=0.31,
        swing_factor=1.2,
        chance=2e-4,
        baseline=baseline(),
    )


def small_snapshot() -> Snapshot:
    """A firing series, a learning one with a hostile name, and one without a baseline."""
    return Snapshot(
        evaluated_at=NOON + 0.25,
        build_seconds=0.125,
        series=(
            SeriesStatus(QUOTED_KEY, baseline(level=FallbackLevel.GLOBAL, mature=False), 0.4, 0, outlier=False),
            SeriesStatus(
                KEY,
                baseline(),
                0.4,
                300,
                0.2,
                0.625,
                score=2.5,
                shift=True,
                outlier=True,
                since=NOON - 75.5,
                changepoint=NOON - DAY,
                traces_total=12_345_678,
                outliers_total=17,
                exemplar=Exemplar(f"{0xC0FFEE:032x}", 1.25, NOON - 3.5),
                explanation=explanation(),
                excess_traces_total=312,
                excess_seconds_total=845.5,
                time_lost=TimeLost(42, 130.5, NOON - 75.5),
                current_failures=3,
                failures_total=1234,
                baseline_error_ratio=0.004,
                kinds=(
                    KindStatus(FlagKind.ERRORS, True, NOON - 90.0, 3.5, ERRORS),
                    KindStatus(FlagKind.TRAFFIC, firing=False),
                ),
                current_traffic=CurrentTraffic(
                    360.0,
                    TrafficVerdict(
                        TrafficEvidence(300, 300, 360.0, 1.0, 1.0, FallbackLevel.EXACT, 10),
                        is_changed=False,
                        persists=False,
                        is_certain=True,
                    ),
                ),
            ),
            SeriesStatus(SeriesKey("checkout", "POST /pay"), current_traces=2, current_p50_seconds=0.0),
        ),
        poll_seconds=0.5,
        poll_share=0.25,
        poll_read_amplification=2.5,
        edge=LiveEdge(blind=False),
        source_traffic_ratio=0.875,
        history=HistoryFacts(168, 1_000_000, float(NOON - 7 * DAY), 4_194_304, 3),
        services=(
            ServiceStatus(ServiceKey("checkout"), SERVICE_VERDICT, firing=True, since=NOON - 75.5),
            ServiceStatus(ServiceKey(QUOTED_KEY.service_name), None, firing=True, since=NOON - 30.0),
        ),
    )


def backfill_status() -> BackfillStatus:
    """A backfill with windows in every state."""
    progress = LedgerProgress(
        pending=10, done=120, empty=20, partial=2, failed=1, expired=15, traces_read=990_000, traces_there=1_000_000.0
    )
    unsampled = replace(progress, done=117, traces_read=888_000, traces_there=890_000.0)
    wanted_since = NOON - 7 * DAY - HOUR
    return BackfillStatus(
        progress, unsampled, wanted_since, started_at=NOON - 60.0, completed_at=NOON - 10.0, late_windows=4
    )
