"""Expected baselines, computed from requests by the rules of the design.

Uses plain lists and sorting, neither digests nor the exporter's calendar.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import pytest

from exporter.model.span import SeriesKey
from tests.support.processes import ExporterProcess, eventually
from tests.support.scrape import Metrics
from tests.support.traffic import Request

_WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclass(frozen=True)
class Week:
    """Local hours and weekends of a time zone without daylight saving time.

    Attributes:
        zone: the time zone.
        weekend: calendar.weekend.
    """

    zone: ZoneInfo
    weekend: tuple[str, ...]

    def hour(self, at: float) -> datetime:
        """Return the local hour of an instant."""
        return datetime.fromtimestamp(at, self.zone).replace(minute=0, second=0, microsecond=0)

    def floor(self, at: float, seconds: int) -> float:
        """Round an instant down to a multiple of some seconds on the local clock."""
        midnight = self.hour(at).replace(hour=0).timestamp()
        return midnight + (at - midnight) // seconds * seconds

    def is_weekend(self, hour: datetime) -> bool:
        """Return whether an hour is on a weekend."""
        return _WEEKDAYS[hour.weekday()] in self.weekend


UTC_WEEK: Final = Week(ZoneInfo("UTC"), ("saturday", "sunday"))


def days_ago(at: float, zone: ZoneInfo, *days: int) -> tuple[str, ...]:
    """Return the weekdays of some days ago."""
    today = datetime.fromtimestamp(at, zone)
    return tuple(_WEEKDAYS[(today - timedelta(days=ago)).weekday()] for ago in days)


@dataclass(frozen=True)
class Baseline:
    """An expected baseline; at level 5 only the level is set.

    Attributes:
        level: the fallback level.
        traces: pooled traces.
        hours: pooled hours with traffic.
        p50_seconds: exact median (nearest rank).
        p95_seconds: exact 95th percentile.
        mature: whether shift verdicts use it.
    """

    level: int
    traces: int = 0
    hours: int = 0
    p50_seconds: float = 0.0
    p95_seconds: float = 0.0
    mature: bool = False


def baseline_at(at: float, requests: Iterable[Request], week: Week, *, known_at: float | None = None) -> Baseline:
    """Compute the baseline of a series at an instant, with the default rules.

    Args:
        at: Unix seconds.
        requests: requests of the series in the wanted history.
        week: local hours and weekends.
        known_at: the present, if the instant is in the future: the baseline if that hour were now.
    """
    now = week.hour(at)
    present = now if known_at is None else week.hour(known_at)
    pool: dict[datetime, list[int]] = defaultdict(list)
    for request in requests:
        hour = week.hour(request.start)
        # The hour before the current one is left out: its evaluation is not final.
        if hour < present - timedelta(hours=1):
            pool[hour].append(request.duration_ns)
    same_type = {hour for hour in pool if week.is_weekend(hour) == week.is_weekend(now)}
    levels = (
        (1, {hour for hour in same_type if hour.hour == now.hour}, 50),
        (2, {hour for hour in same_type if (hour.hour - now.hour + 2) % 24 <= 4}, 20),
        (3, same_type, 50),
        (4, set(pool), 30),
    )
    chosen = Baseline(5)
    for level, hours, needed in levels:
        durations = sorted(duration for hour in hours for duration in pool[hour])
        if len(durations) < needed:
            continue
        mature = _is_mature(level, sorted(hours), len(durations))
        if mature or chosen.level == 5:
            chosen = Baseline(
                level,
                len(durations),
                len(hours),
                nearest_rank(durations, 50) / 1e9,
                nearest_rank(durations, 95) / 1e9,
                mature,
            )
        if mature:
            break
    return chosen


def nearest_rank(ordered: Sequence[int], percent: int) -> int:
    """Return the exact percentile of sorted durations."""
    return ordered[-(-percent * len(ordered) // 100) - 1]


def _is_mature(level: int, hours: Sequence[datetime], traces: int) -> bool:
    if len(hours) < 3 or traces < 30:
        return False
    if level == 2:
        return len({hour.date() for hour in hours}) >= 2
    return level == 1 or hours[-1] - hours[0] >= timedelta(hours=24)


def differences(page: Metrics, expected: Mapping[SeriesKey, Baseline]) -> list[str]:
    """Return how a page differs from the expected baselines; percentiles may differ by 2 %."""
    messages = []
    for series, baseline in expected.items():
        values: dict[str, object] = {"fallback_level": baseline.level}
        if baseline.level < 5:
            values |= {"samples": baseline.traces, "windows": baseline.hours}
            values["p50_seconds"] = pytest.approx(baseline.p50_seconds, rel=0.02)
            values["p95_seconds"] = pytest.approx(baseline.p95_seconds, rel=0.02)
        for name in ("fallback_level", "samples", "windows", "p50_seconds", "p95_seconds"):
            shown = page.get(f"baseline_{name}", series)
            if shown != values.get(name):
                messages.append(f"{series}: baseline_{name} is {shown}, not {values.get(name)}")
    return messages


def await_baselines(
    running: ExporterProcess, expected_at: Callable[[float], Mapping[SeriesKey, Baseline]], timeout: float = 120
) -> Metrics:
    """Wait until the backfill is complete and the page shows the baselines expected at its snapshot's time."""
    page = running.wait_until_filled(timeout)
    messages: list[str] = []

    def is_expected() -> bool:
        nonlocal page, messages
        page = running.metrics()
        messages = differences(page, expected_at(page["snapshot_timestamp_seconds"]))
        return not messages

    eventually(is_expected, lambda: "\n".join(messages), timeout)
    return page
