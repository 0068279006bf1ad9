"""Draw the pictures of ``docs/detection.md``: one endpoint, its baseline and swing, and an incident.

``python -m benchmarks.detection_picture > docs/detection.svg`` draws a day, and
``python -m benchmarks.detection_picture batch > docs/detection-batch.svg`` some hours with a batch in each of them. The
output is deterministic.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, NamedTuple

from exporter.baseline.levels import FallbackRules
from exporter.demo.latency import Incident, Lognormal
from exporter.demo.traffic import Batch, SeriesProfile, SeriesTraffic, SyntheticRequest
from exporter.detection.detector import Detector, SeriesState
from exporter.detection.flag import FlagEvent
from exporter.detection.history import advance
from exporter.detection.parameters import Parameters
from exporter.detection.profile import raised_at
from exporter.detection.replay import Replay
from exporter.model.accumulator import Accumulator
from exporter.model.calendar import HOUR_SECONDS, Calendar, HourClock
from exporter.model.histogram import Digest, bucket_upper_seconds
from exporter.model.histogram_codec import encode_digest, encode_marks
from exporter.model.hours import SeriesHours, hours_of
from exporter.model.ledger import Window
from exporter.model.series_hour import StoredWindow
from exporter.model.span import SeriesKey, Span

_SEED: Final = 20
_NS: Final = 1_000_000_000
_DAY: Final = 24 * HOUR_SECONDS
_BEGIN: Final = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp())
_LEARNING_DAYS: Final = 9
_DRAWN: Final = _BEGIN + _LEARNING_DAYS * _DAY
_QUANTILE_INDEX: Final = 1  # p90
_STEP_SECONDS: Final = 300
_KEY: Final = SeriesKey("checkout", "POST /checkout")

_WIDTH: Final = 960
_HEIGHT: Final = 400
_LEFT: Final = 64
_RIGHT: Final = 28
_TOP: Final = 44
_BOTTOM: Final = 52
_LEGEND: Final = (
    (0, "#212121", "— p90 of the last five minutes"),
    (230, "#1565c0", "— baseline p90 of the hour, and its swing above"),
    (560, "#ef6c00", "- - gate: what a shift must exceed"),
)


class _Scene(NamedTuple):
    """What is drawn.

    Attributes:
        profile: traffic of the endpoint.
        first: first hour of the drawn day.
        hours: number of hours.
        label_hours: distance of the labels of the time axis.
    """

    profile: SeriesProfile
    first: int = 0
    hours: int = 24
    label_hours: int = 3

    @property
    def begin(self) -> int:
        """Start of the picture, Unix seconds."""
        return _DRAWN + self.first * HOUR_SECONDS

    @property
    def end(self) -> int:
        """End of the picture, Unix seconds."""
        return self.begin + self.hours * HOUR_SECONDS


_PROFILE: Final = SeriesProfile(
    rate_per_minute=12,
    base_seconds=0.12,
    shape=Lognormal(0.4),
    peak_hour=14,
    latency_swing=2.2,
    traffic_swing=0.4,
    load_sd=0.09,
    load_correlation_minutes=40,
)


def _incident(begin: float, end: float, factor: float) -> tuple[Incident]:
    return (Incident(_DRAWN + begin * HOUR_SECONDS, _DRAWN + end * HOUR_SECONDS, factor),)


_SCENES: Final = {
    "day": _Scene(replace(_PROFILE, incidents=_incident(15.2, 16.4, 2.6))),
    "batch": _Scene(
        replace(_PROFILE, batch=Batch(minute=0, minutes=4, factor=3), incidents=_incident(12.4, 13.3, 2.4)),
        first=9,
        hours=6,
        label_hours=1,
    ),
}


class _MarkLimits(NamedTuple):
    """The p90 of the baseline at a mark, with its swing, and the gate; in seconds."""

    at: int
    baseline: float
    swing: float
    gate: float


def _traffic(profile: SeriesProfile) -> list[list[SyntheticRequest]]:
    traffic = SeriesTraffic(profile, _SEED)
    return [list(traffic.hour(_BEGIN // HOUR_SECONDS + number)) for number in range((_LEARNING_DAYS + 1) * 24)]


def _stored_window(start: int, requests: Sequence[SyntheticRequest]) -> StoredWindow:
    accumulator = Accumulator([Window(start, start + HOUR_SECONDS)], lambda key: key)
    accumulator.add(Span("0" * 32, "0" * 16, _KEY, *request) for request in requests)
    (content,) = accumulator.finish()
    item = content.series[_KEY]
    return StoredWindow(start, item.digest.count, encode_digest(item.digest), encode_marks(item.marks))


def _limits(
    detector: Detector, clock: HourClock, hours: Sequence[Sequence[SyntheticRequest]], scene: _Scene
) -> list[_MarkLimits]:
    history = SeriesHours()
    state: SeriesState | None = None
    limits = []
    for number, requests in enumerate(hours):
        start = _BEGIN + number * HOUR_SECONDS
        if scene.begin <= start < scene.end and state is not None:
            outlook, _ = detector.schedule_at(history, state, start, ())
            if outlook.thresholds is None:
                raise ValueError(f"there is no baseline for hour {number}")
            threshold = outlook.thresholds.quantiles[_QUANTILE_INDEX]
            for mark in range(start + _STEP_SECONDS, start + HOUR_SECONDS + 1, _STEP_SECONDS):
                window = mark - _STEP_SECONDS + 1, mark
                raised = raised_at(outlook.thresholds.profile, start, *window)[_QUANTILE_INDEX]
                drawn = (threshold.baseline, threshold.stat + raised, threshold.gate + raised)
                limits.append(_MarkLimits(mark, *map(bucket_upper_seconds, drawn)))
        for hour in hours_of([_stored_window(start, requests)], clock):
            history.append(hour)
        state = advance(detector, history, start + HOUR_SECONDS, state).state
    return limits


def _current(hours: Sequence[Sequence[SyntheticRequest]], scene: _Scene) -> list[tuple[int, float]]:
    """Return the p90 of the evaluation window every five minutes of the picture."""
    ended = sorted((start + took, took) for requests in hours for start, took in requests)
    points = []
    for now in range(scene.begin + _STEP_SECONDS, scene.end + 1, _STEP_SECONDS):
        window = [took for end, took in ended if (now - _STEP_SECONDS) * _NS < end <= now * _NS]
        if window:
            points.append((now, Digest.of_ns(window).quantile_seconds(0.9)))
    return points


def _flags(detector: Detector, clock: HourClock, hours: Sequence[Sequence[SyntheticRequest]]) -> list[tuple[int, int]]:
    replay = Replay(detector)
    for number, requests in enumerate(hours):
        replay.add_hour(clock.hour(_BEGIN + number * HOUR_SECONDS), requests)
    fired = [change.at for change in replay.changes if change.event is FlagEvent.FIRING]
    resolved = [change.at for change in replay.changes if change.event is FlagEvent.RESOLVED]
    return list(zip(fired, resolved, strict=True))


def draw(name: str = "day") -> str:
    """Return one of the pictures as SVG."""
    scene = _SCENES[name]
    clock = HourClock(Calendar())
    detector = Detector(FallbackRules(), Parameters(), clock)
    hours = _traffic(scene.profile)
    limits = _limits(detector, clock, hours, scene)
    current = _current(hours, scene)
    highest = max(value for _, value in current) * 1.05

    def x(unix_seconds: float) -> float:
        return round(_LEFT + (unix_seconds - scene.begin) / (scene.end - scene.begin) * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(seconds: float) -> float:
        return round(_HEIGHT - _BOTTOM - seconds / highest * (_HEIGHT - _TOP - _BOTTOM), 1)

    def steps(values: Sequence[float]) -> list[str]:
        points = [
            (limit.at - edge * _STEP_SECONDS, value)
            for limit, value in zip(limits, values, strict=True)
            for edge in (1, 0)
        ]
        # Of a level stretch only the ends are drawn.
        inner = zip(points, points[1:], points[2:], strict=False)
        kept = [middle for before, middle, after in inner if not before[1] == middle[1] == after[1]]
        return [f"{x(at)},{y(value)}" for at, value in (points[0], *kept, points[-1])]

    baseline = steps([limit.baseline for limit in limits])
    band = steps([limit.swing for limit in limits]) + list(reversed(baseline))
    gate = steps([limit.gate for limit in limits])
    line = [f"{x(now)},{y(value)}" for now, value in current]
    frame = f"{_WIDTH} {_HEIGHT}"
    elements = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {frame}" font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
    ]
    for fired, resolved in _flags(detector, clock, hours):
        if scene.begin <= fired < scene.end:
            size = f'width="{x(resolved) - x(fired):.1f}" height="{_HEIGHT - _TOP - _BOTTOM}"'
            elements.append(f'<rect x="{x(fired)}" y="{_TOP}" {size} fill="#c62828" fill-opacity=".12"/>')
            label = f"firing {_clock(fired)}–{_clock(resolved)}"
            elements.append(f'<text x="{x(fired)}" y="{_TOP - 8}" fill="#c62828">{label}</text>')
    for fifth in range(int(highest * 5) + 1):
        level = y(fifth / 5)
        elements.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{level}" y2="{level}" stroke="#e0e0e0"/>')
        elements.append(f'<text x="{_LEFT - 8}" y="{level + 4}" text-anchor="end" fill="#555">{fifth * 200} ms</text>')
    for hour in range(scene.first, scene.first + scene.hours + 1, scene.label_hours):
        position = f'x="{x(_DRAWN + hour * HOUR_SECONDS)}" y="{_HEIGHT - _BOTTOM + 18}"'
        elements.append(f'<text {position} text-anchor="middle" fill="#555">{hour:02d}:00</text>')
    elements += [
        f'<polygon points="{" ".join(band)}" fill="#1565c0" fill-opacity=".18"/>',
        f'<polyline points="{" ".join(baseline)}" fill="none" stroke="#1565c0" stroke-width="2"/>',
        f'<polyline points="{" ".join(gate)}" fill="none" stroke="#ef6c00" stroke-width="1.5" stroke-dasharray="5 4"/>',
        f'<polyline points="{" ".join(line)}" fill="none" stroke="#212121" stroke-width="1.3"/>',
    ]
    for offset, colour, text in _LEGEND:
        elements.append(f'<text x="{_LEFT + offset}" y="{_HEIGHT - 12}" fill="{colour}">{text}</text>')
    elements.append("</svg>\n")
    return "\n".join(elements)


def _clock(unix_seconds: int) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%H:%M")


if __name__ == "__main__":
    sys.stdout.write(draw(*sys.argv[1:2]))
