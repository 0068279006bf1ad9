"""What a baseline must be, worked out from the requests themselves by the rules of the design.

Plain lists and sorting: nothing here knows of digests or of the exporter's own calendar.
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
    """Which days are weekend, and what the clock on the wall says. For time zones without summer time.

    Attributes:
        zone: the time zone.
        weekend: the days, as in the configuration.
    """

    zone: ZoneInfo
    weekend: tuple[str, ...]

    def hour(self, at: float) -> datetime:
        """The local hour that an instant lies in."""
        return datetime.fromtimestamp(at, self.zone).replace(minute=0, second=0, microsecond=0)

    def floor(self, at: float, seconds: int) -> float:
        """The last multiple of so many seconds on the local clock, at or before an instant."""
        midnight = self.hour(at).replace(hour=0).timestamp()
        return midnight + (at - midnight) // seconds * seconds

    def is_weekend(self, hour: datetime) -> bool:
        """Whether an hour belongs to a weekend day."""
        return _WEEKDAYS[hour.weekday()] in self.weekend


UTC_WEEK: Final = Week(ZoneInfo("UTC"), ("saturday", "sunday"))


def days_ago(at: float, zone: ZoneInfo, *days: int) -> tuple[str, ...]:
    """The days of the week that lie some days back."""
    today = datetime.fromtimestamp(at, zone)
    return tuple(_WEEKDAYS[(today - timedelta(days=ago)).weekday()] for ago in days)


@dataclass(frozen=True)
class Baseline:
    """A baseline as it must be published; without traces, at level 5, nothing but the level.

    Attributes:
        level: the fallback level.
        traces: how many traces are pooled.
        hours: from how many hours with traffic.
        p50_seconds: their exact median (nearest rank).
        p95_seconds: their exact 95th percentile.
        mature: whether it may serve a shift verdict.
    """

    level: int
    traces: int = 0
    hours: int = 0
    p50_seconds: float = 0.0
    p95_seconds: float = 0.0
    mature: bool = False


def baseline_at(at: float, requests: Iterable[Request], week: Week, *, known_at: float | None = None) -> Baseline:
    """The baseline of a series that is in force at an instant, with the default rules.

    Args:
        at: the instant, unix seconds.
        requests: the requests of one series in the range of history that is wanted.
        week: tells hours and days.
        known_at: where the instant is still to come, the present: what would be in force were it that hour now.
    """
    now = week.hour(at)
    present = now if known_at is None else week.hour(known_at)
    pool: dict[datetime, list[int]] = defaultdict(list)
    for request in requests:
        hour = week.hour(request.start)
        # The hour before the current one is left out: whether it was anomalous is not certain yet.
        if hour < present - timedelta(hours=1):
            pool[hour].append(request.duration_ns)
    same_type = {hour for hour in pool if week.is_weekend(hour) == week.is_weekend(now)}
    levels = (
        (1, {hour for hour in same_type if hour.hour == now.hour}, 50),
        (2, {hour for hour in same_type if (hour.hour - now.hour + 2) % 24 <= 4}, 20),
        (3, same_type, 50),
        (4, set(pool), 30),
    )
    serving = Baseline(5)
    for level, hours, needed in levels:
        durations = sorted(duration for hour in hours for duration in pool[hour])
        if len(durations) < needed:
            continue
        mature = _is_mature(level, sorted(hours), len(durations))
        if mature or serving.level == 5:
            serving = Baseline(
                level,
                len(durations),
                len(hours),
                nearest_rank(durations, 50) / 1e9,
                nearest_rank(durations, 95) / 1e9,
                mature,
            )
        if mature:
            break
    return serving


def nearest_rank(ordered: Sequence[int], percent: int) -> int:
    """The exact percentile of some durations in rising order."""
    return ordered[-(-percent * len(ordered) // 100) - 1]


def _is_mature(level: int, hours: Sequence[datetime], traces: int) -> bool:
    if len(hours) < 3 or traces < 30:
        return False
    if level == 2:
        return len({hour.date() for hour in hours}) >= 2
    return level == 1 or hours[-1] - hours[0] >= timedelta(hours=24)


def differences(page: Metrics, expected: Mapping[SeriesKey, Baseline]) -> list[str]:
    """What a page shows otherwise than expected: percentiles must be within 2 % of the exact ones, the rest exact."""
    found = []
    for series, baseline in expected.items():
        wanted: dict[str, object] = {"fallback_level": baseline.level}
        if baseline.level < 5:
            wanted |= {"samples": baseline.traces, "windows": baseline.hours}
            wanted["p50_seconds"] = pytest.approx(baseline.p50_seconds, rel=0.02)
            wanted["p95_seconds"] = pytest.approx(baseline.p95_seconds, rel=0.02)
        for name in ("fallback_level", "samples", "windows", "p50_seconds", "p95_seconds"):
            shown = page.get(f"baseline_{name}", series)
            if shown != wanted.get(name):
                found.append(f"{series}: baseline_{name} is {shown}, not {wanted.get(name)}")
    return found


def await_baselines(
    running: ExporterProcess, expected_at: Callable[[float], Mapping[SeriesKey, Baseline]], timeout: float = 30
) -> Metrics:
    """Wait until all history is read and the page shows the baselines that are expected at the time it was judged."""
    page = running.wait_until_filled(timeout)
    wrong: list[str] = []

    def as_expected() -> bool:
        nonlocal page, wrong
        page = running.metrics()
        wrong = differences(page, expected_at(page["snapshot_timestamp_seconds"]))
        return not wrong

    eventually(as_expected, lambda: "\n".join(wrong), timeout)
    return page
