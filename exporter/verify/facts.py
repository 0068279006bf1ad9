"""What is learned of a running exporter before anything is said about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from exporter.model.span import SeriesKey
from exporter.verify.client import ExporterClient, Metrics, Probe
from exporter.verify.sample import sample

NIGHT_HOUR: Final = 3
"""The hour that nobody is awake to look at: if it can be judged, an alert at that hour can be believed."""
_HOUR_SECONDS: Final = 3600
_PAGE: Final = 1000
_DAYS_AHEAD: Final = 14

METRICS: Final = (
    "build_info",
    "tempo_up",
    "tempo_requests_total",
    "tempo_request_failures_total",
    "snapshot_timestamp_seconds",
    "poll_last_success_timestamp_seconds",
    "backfill_enabled",
    "backfill_complete",
    "backfill_progress_ratio",
    "backfill_windows",
    "backfill_coverage_ratio",
    "backfill_unsampled_coverage_ratio",
    "backfill_sampled_windows",
    "backfill_wanted_since_timestamp_seconds",
    "backfill_oldest_trace_timestamp_seconds",
    "history_traces",
    "history_windows",
    "search_saturations_total",
    "search_splits_total",
    "search_truncated_windows_total",
    "series",
    "series_limit",
    "series_dropped_total",
    "series_learning",
    "storage_failures_total",
)


@dataclass(frozen=True, slots=True)
class SampledVerdict:
    """What the exporter says of one series in one hour.

    Attributes:
        key: the series.
        hour: hour of the local day.
        day_type: ``weekday`` or ``weekend``.
        level: fallback level.
        verdict: whether a shift could be told.
    """

    key: SeriesKey
    hour: int
    day_type: str
    level: int
    verdict: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is looked at.

    Attributes:
        healthy: what the liveness probe answered.
        ready: what the readiness probe answered.
        metrics: the exporter's own metrics.
        series: how many series have a history.
        by_level: for each type of day and hour how many series stand on levels 1 to 5.
        able: for each type of day how many series could tell a shift at night.
        sampled: what is usual for some series in some hours.
        nights: for each type of day one series that was really asked about the next night; absent where none can be.
    """

    healthy: Probe
    ready: Probe
    metrics: Metrics
    series: int
    by_level: Mapping[str, Sequence[Sequence[int]]]
    able: Mapping[str, int]
    sampled: Sequence[SampledVerdict]
    nights: Mapping[str, SampledVerdict | None]


def collect(client: ExporterClient) -> Facts:
    """Ask all there is to ask.

    Raises:
        UnreachableError: the exporter does not answer.
    """
    healthy, ready = client.probe("/-/healthy"), client.probe("/-/ready")
    metrics = client.metrics(METRICS)
    listed, by_level = _available(client)
    now = healthy.at
    sampled = [_judged(client, key, now + hours * _HOUR_SECONDS) for key, hours in sample(listed)]
    able = {day_type: [key for key, each in listed.items() if _able(each, day_type)] for day_type in by_level}
    return Facts(
        healthy=healthy,
        ready=ready,
        metrics=metrics,
        series=len(listed),
        by_level=by_level,
        able={day_type: len(keys) for day_type, keys in able.items()},
        sampled=sampled,
        nights={day_type: _night(client, sample(keys, 1), day_type) for day_type, keys in able.items()},
    )


def _available(client: ExporterClient) -> tuple[dict[SeriesKey, dict[str, Any]], Mapping[str, Any]]:
    page = client.ask("available", limit=_PAGE)
    by_level = page["series_by_level"]
    listed: dict[SeriesKey, dict[str, Any]] = {}
    while True:
        listed |= {SeriesKey(each["service_name"], each["span_name"]): each for each in page["series"]}
        if page["next_cursor"] is None:
            return listed, by_level
        page = client.ask("available", limit=_PAGE, cursor=page["next_cursor"])


def _able(availability: Mapping[str, Any], day_type: str) -> bool:
    level = availability["level_by_hour"][day_type][NIGHT_HOUR]
    return level < 5 and NIGHT_HOUR not in availability["learning_hours"][day_type]


def _judged(client: ExporterClient, key: SeriesKey, at: float) -> SampledVerdict:
    answer = client.ask("check", service_name=key.service_name, span_name=key.span_name, at=int(at))
    bucket = answer["bucket"]
    return SampledVerdict(key, bucket["hour"], bucket["day_type"], answer["level"], answer["no_shift_verdict"] is None)


def _night(client: ExporterClient, chosen: Sequence[tuple[SeriesKey, int]], day_type: str) -> SampledVerdict | None:
    """What the exporter says of a series in the next night of a type of day; its own calendar decides which that is."""
    if not chosen:
        return None
    key, _ = chosen[0]
    answer = client.ask("check", service_name=key.service_name, span_name=key.span_name)
    night = datetime.fromisoformat(answer["hour"]["local"]).replace(hour=NIGHT_HOUR)
    for _ in range(_DAYS_AHEAD):
        night += timedelta(days=1)
        judged = _judged(client, key, night.timestamp())
        if judged.hour != NIGHT_HOUR:
            # The clocks are changed before that night.
            night += timedelta(hours=NIGHT_HOUR - judged.hour)
            judged = _judged(client, key, night.timestamp())
        if (judged.hour, judged.day_type) == (NIGHT_HOUR, day_type):
            return judged
    return None
