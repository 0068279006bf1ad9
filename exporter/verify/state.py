"""Collects the state of a running exporter for the checks."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from exporter.model.span import SeriesKey
from exporter.verify.client import ExporterClient, Metrics, Probe

NIGHT_HOUR: Final = 3
"""The hour for which verdicts are checked: an alert at night wakes people, so it has to be right."""
SAMPLES: Final = 40
_HOUR_SECONDS: Final = 3600
_HOURS_PER_WEEK: Final = 168
_PAGE_SIZE: Final = 1000
_MAX_DAYS_AHEAD: Final = 14

METRICS: Final = (
    "build_info",
    "tempo_up",
    "tempo_requests_total",
    "tempo_request_failures_total",
    "snapshot_timestamp_seconds",
    "poll_last_success_timestamp_seconds",
    "live_edge_blind",
    "backfill_enabled",
    "backfill_complete",
    "backfill_empty",
    "backfill_progress_ratio",
    "backfill_windows",
    "backfill_coverage_ratio",
    "backfill_unsampled_coverage_ratio",
    "backfill_sampled_windows",
    "backfill_late_windows",
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
    "traces_skipped_total",
    "rootless_traces_ratio",
    "anomalous",
    "error_traces_total",
    "baseline_error_ratio",
    "baseline_traces",
    "source_counts_available",
    "source_traffic_ratio",
    "storage_failures_total",
    "config_last_reload_successful",
    "config_last_reload_success_timestamp_seconds",
    "web_config_last_reload_successful",
    "marks",
    "marks_last_reload_successful",
)


@dataclass(frozen=True, slots=True)
class BaselineCheck:
    """The exporter's baseline of one series for one hour.

    Attributes:
        key: the series.
        hour: hour of the local day.
        day_type: ``weekday`` or ``weekend``.
        level: fallback level.
        has_shift_verdict: whether a shift verdict would be possible.
    """

    key: SeriesKey
    hour: int
    day_type: str
    level: int
    has_shift_verdict: bool


@dataclass(frozen=True, slots=True)
class ExporterState:
    """Everything the checks look at.

    Attributes:
        healthy: response of the liveness probe.
        ready: response of the readiness probe.
        metrics: metrics of the exporter about itself.
        series: number of series with history.
        by_level: number of series on fallback levels 1 to 5, by day type and hour.
        mature_at_night: number of series whose baseline at :data:`NIGHT_HOUR` is mature, by day type.
        samples: baselines of sampled series and hours.
        nights: by day type, the baseline of one of those series in the next night; None without such a series or night.
    """

    healthy: Probe
    ready: Probe
    metrics: Metrics
    series: int
    by_level: Mapping[str, Sequence[Sequence[int]]]
    mature_at_night: Mapping[str, int]
    samples: Sequence[BaselineCheck]
    nights: Mapping[str, BaselineCheck | None]


def collect_state(client: ExporterClient) -> ExporterState:
    """Query everything the checks need.

    Raises:
        UnreachableError: the exporter does not respond.
    """
    healthy, ready = client.probe("/-/healthy"), client.probe("/-/ready")
    metrics = client.metrics(METRICS)
    series, by_level = _available_series(client)
    now = healthy.server_time
    samples = [_check_baseline(client, key, now + hours * _HOUR_SECONDS) for key, hours in sample(series)]
    mature = {
        day_type: [key for key, availability in series.items() if _is_mature_at_night(availability, day_type)]
        for day_type in by_level
    }
    return ExporterState(
        healthy=healthy,
        ready=ready,
        metrics=metrics,
        series=len(series),
        by_level=by_level,
        mature_at_night={day_type: len(keys) for day_type, keys in mature.items()},
        samples=samples,
        nights={day_type: _check_next_night(client, sample(keys, 1), day_type) for day_type, keys in mature.items()},
    )


def sample(keys: Iterable[SeriesKey], count: int = SAMPLES) -> list[tuple[SeriesKey, int]]:
    """Choose series, each with an hour of the coming week as hours from now.

    The choice depends on the names alone, so repeated runs check the same ones. With fewer series than samples, each
    series is chosen with several hours.
    """
    ranked = sorted(keys, key=lambda key: (_hash(key), key))
    if not ranked:
        return []
    samples = []
    for number in range(count):
        turn, position = divmod(number, len(ranked))
        key = ranked[position]
        samples.append((key, (_hash(key) + 7 * turn) % _HOURS_PER_WEEK))
    return samples


def _hash(key: SeriesKey) -> int:
    name = "\0".join(key.parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big")


def _available_series(client: ExporterClient) -> tuple[dict[SeriesKey, dict[str, Any]], Mapping[str, Any]]:
    page = client.query("available", limit=_PAGE_SIZE)
    by_level = page["series_by_level"]
    series: dict[SeriesKey, dict[str, Any]] = {}
    while True:
        series |= {_key(each): each for each in page["series"]}
        if page["next_cursor"] is None:
            return series, by_level
        page = client.query("available", limit=_PAGE_SIZE, cursor=page["next_cursor"])


def _key(document: Mapping[str, Any]) -> SeriesKey:
    labels = document.get("labels", {})
    return SeriesKey(document["service_name"], document["span_name"], tuple(sorted(labels.items())))


def _is_mature_at_night(availability: Mapping[str, Any], day_type: str) -> bool:
    level = availability["level_by_hour"][day_type][NIGHT_HOUR]
    return level < 5 and NIGHT_HOUR not in availability["learning_hours"][day_type]


def _check_baseline(client: ExporterClient, key: SeriesKey, at: float) -> BaselineCheck:
    response = client.query("check", **key.parameters, at=int(at))
    slot = response["bucket"]
    return BaselineCheck(key, slot["hour"], slot["day_type"], response["level"], response["no_shift_verdict"] is None)


def _check_next_night(
    client: ExporterClient, samples: Sequence[tuple[SeriesKey, int]], day_type: str
) -> BaselineCheck | None:
    """Check the first series in the next night of a day type; the exporter's calendar decides which night that is."""
    if not samples:
        return None
    key, _ = samples[0]
    response = client.query("check", **key.parameters)
    night = datetime.fromisoformat(response["hour"]["local"]).replace(hour=NIGHT_HOUR)
    for _ in range(_MAX_DAYS_AHEAD):
        night += timedelta(days=1)
        check = _check_baseline(client, key, night.timestamp())
        if check.hour != NIGHT_HOUR:
            # Daylight saving time begins or ends before that night.
            night += timedelta(hours=NIGHT_HOUR - check.hour)
            check = _check_baseline(client, key, night.timestamp())
        if (check.hour, check.day_type) == (NIGHT_HOUR, day_type):
            return check
    return None
