"""Draw the picture of a regression in ``docs/detection.md``.

``python -m benchmarks.regression_picture > docs/detection-regression.svg``; the output is deterministic.
"""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from exporter.baseline.levels import FallbackRules
from exporter.demo.latency import Incident, Lognormal
from exporter.demo.traffic import DAY_SECONDS, SeriesProfile, SeriesTraffic
from exporter.detection.detector import Detector
from exporter.detection.parameters import Parameters
from exporter.detection.regression.verdict import RegressionChange, RegressionEvent
from exporter.detection.replay import Replay
from exporter.model.calendar import HOUR_SECONDS, Calendar, HourClock
from exporter.model.histogram import Digest

_SEED: Final = 4
_BEGIN: Final = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp())
_DAYS: Final = 35
_STEP: Final = _BEGIN + 22 * DAY_SECONDS + 15 * HOUR_SECONDS
_BACK: Final = _STEP + 8 * DAY_SECONDS
_PROFILE: Final = SeriesProfile(
    rate_per_minute=2,
    base_seconds=0.12,
    shape=Lognormal(0.5),
    latency_swing=1.5,
    traffic_swing=0.4,
    weekend_latency=0.9,
    load_sd=0.08,
    load_correlation_minutes=60,
    day_sd=0.02,
    incidents=(Incident(_STEP, _BACK, 1.2),),
)

_WIDTH: Final = 960
_HEIGHT: Final = 360
_LEFT: Final = 64
_RIGHT: Final = 28
_TOP: Final = 44
_BOTTOM: Final = 52


class _Observed(NamedTuple):
    """Start and median of each hour, in seconds, and what became of regressions."""

    medians: Sequence[tuple[int, float]]
    changes: Sequence[RegressionChange]


def _observe() -> _Observed:
    traffic = SeriesTraffic(_PROFILE, _SEED)
    clock = HourClock(Calendar())
    replay = Replay(Detector(FallbackRules(), Parameters(), clock))
    medians = []
    for start in range(_BEGIN, _BEGIN + _DAYS * DAY_SECONDS, HOUR_SECONDS):
        requests = traffic.hour(start // HOUR_SECONDS)
        replay.add_hour(clock.hour(start), requests, live=False)
        if requests:
            medians.append((start, Digest.of_ns(took for _, took in requests).quantile_seconds(0.5)))
    return _Observed(medians, replay.regressions)


def draw() -> str:
    """Return the picture as SVG."""
    observed = _observe()
    highest = max(median for _, median in observed.medians) * 1.05
    end = _BEGIN + _DAYS * DAY_SECONDS
    days = [
        (start + DAY_SECONDS // 2, sum(found) / len(found))
        for start in range(_BEGIN, end, DAY_SECONDS)
        if (found := [median for at, median in observed.medians if start <= at < start + DAY_SECONDS])
    ]

    def x(unix_seconds: float) -> float:
        return round(_LEFT + (unix_seconds - _BEGIN) / (end - _BEGIN) * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(seconds: float) -> float:
        return round(_HEIGHT - _BOTTOM - seconds / highest * (_HEIGHT - _TOP - _BOTTOM), 1)

    def line(points: Sequence[tuple[int, float]], style: str) -> str:
        drawn = " ".join(f"{x(at)},{y(value)}" for at, value in points)
        return f'<polyline points="{drawn}" fill="none" {style}/>'

    def band(since: float, until: float, style: str) -> str:
        size = f'width="{x(until) - x(since):.1f}" height="{_HEIGHT - _TOP - _BOTTOM}"'
        return f'<rect x="{x(since)}" y="{_TOP}" {size} {style}/>'

    frame = f"{_WIDTH} {_HEIGHT}"
    elements = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {frame}" font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
    ]
    raised = [change for change in observed.changes if change.event is RegressionEvent.RAISED]
    ended = [change.at for change in observed.changes if change.event is not RegressionEvent.RAISED]
    for number, change in enumerate(raised):
        until = ended[number] if number < len(ended) else end
        elements.append(band(change.at, until, 'fill="#c62828" fill-opacity=".12"'))
        began = change.regression.began_after, change.regression.began_before
        elements.append(band(*began, 'fill="#ef6c00"'))
        label = f"began {_local(began[0])} to {_local(began[1])}, found {_local(change.at)}, gone {_local(until)}"
        place = f'x="{x(until)}" y="{_TOP - 8}" text-anchor="end"'
        elements.append(f'<text {place} fill="#c62828">{label}</text>')
    for twentieth in range(int(highest * 20) + 1):
        level = y(twentieth / 20)
        elements.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{level}" y2="{level}" stroke="#e0e0e0"/>')
        text = f"{twentieth * 50} ms"
        elements.append(f'<text x="{_LEFT - 8}" y="{level + 4}" text-anchor="end" fill="#555">{text}</text>')
    for day in range(0, _DAYS + 1, 7):
        place = f'x="{x(_BEGIN + day * DAY_SECONDS)}" y="{_HEIGHT - _BOTTOM + 18}"'
        elements.append(f'<text {place} text-anchor="middle" fill="#555">day {day}</text>')
    elements += [
        line(observed.medians, 'stroke="#90a4ae" stroke-width="1"'),
        line(days, 'stroke="#212121" stroke-width="1.8"'),
    ]
    for offset, colour, text in (
        (0, "#607d8b", "— median of each hour"),
        (230, "#212121", "— its mean over each day"),
        (460, "#ef6c00", "▮ when it began"),
        (640, "#c62828", "▮ flag"),
    ):
        elements.append(f'<text x="{_LEFT + offset}" y="{_HEIGHT - 12}" fill="{colour}">{text}</text>')
    elements.append("</svg>\n")
    return "\n".join(elements)


def _local(unix_seconds: int) -> str:
    at = datetime.fromtimestamp(unix_seconds, UTC)
    return f"day {(unix_seconds - _BEGIN) // DAY_SECONDS} {at:%H:%M}"


if __name__ == "__main__":
    sys.stdout.write(draw())
