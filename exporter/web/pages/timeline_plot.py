"""SVG plots over time: latency, errors and traffic of an endpoint against the usual, the heat map, and flags.

Every plot fills the width of its figure: its data is drawn on a canvas of 1000 by 100 units that is stretched to the
plot's size, and its labels, which must not be stretched, are placed by percentages beside it.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from math import ceil, floor, log10
from typing import Final, NamedTuple

import htpy as h
from htpy import line, path, rect, svg, text, title

from exporter.detection.errors.verdict import percent
from exporter.detection.explanation import duration
from exporter.detection.flag import FlagKind, FlagPeriod
from exporter.evaluation.timeline import HeatMap, PointState, Timeline, TimelinePoint, heat_map
from exporter.model.calendar import HOUR_SECONDS
from exporter.model.histogram import bucket_upper_seconds
from exporter.model.time_mark import MarkKind, merged_ranges
from exporter.web.pages import formatting, timeline_words

_WIDTH: Final = 1000.0
_HEIGHT: Final = 100.0
_LEAST_RATIO: Final = 4.0
"""A scale of latencies covers at least this ratio, so that noise does not look like a change."""
_MAX_TICKS: Final = 6
_DECADE: Final = (1, 2, 5)
_LEAST_ERRORS: Final = 0.02
"""A scale of error ratios ends at this or above."""
_MIN_FLAG: Final = 2.0
"""Least width of a flag."""
_SHADES: Final = (0.01, 0.04, 0.1, 0.2, 0.4)
"""Shares of a point's traces from which the heat map has the next darker shade."""
_TICK_HOURS: Final = ((8, 1, 2), (30, 3, 6), (200, 24, 24))
"""Ranges up to so many hours have a label every so many hours of the day; of them, those of every so many also on a
phone."""

Value = Callable[[TimelinePoint], float | None]


class _Axis(NamedTuple):
    """Maps instants to the width of the canvas."""

    start: float
    end: float

    def x(self, at: float) -> float:
        return _WIDTH * min(1.0, max(0.0, (at - self.start) / max(1.0, self.end - self.start)))


class _LogScale:
    """Maps latencies to the height of the canvas, by their logarithm."""

    def __init__(self, lowest: float, highest: float, *, least_ratio: float = _LEAST_RATIO) -> None:
        missing = least_ratio / (highest / lowest)
        widened = missing**0.5 if missing > 1 else 1.0
        self._low, self._high = log10(lowest / widened), log10(highest * widened)

    def y(self, seconds: float) -> float:
        if seconds <= 0:
            return _HEIGHT
        share = (log10(seconds) - self._low) / (self._high - self._low)
        return _HEIGHT * (1 - min(1.0, max(0.0, share)))

    def ticks(self) -> list[float]:
        """Return round values within the scale."""
        decades = range(floor(self._low), ceil(self._high) + 1)
        found = [
            factor * 10.0**decade
            for decade in decades
            for factor in _DECADE
            if self._low <= log10(factor * 10.0**decade) <= self._high
        ]
        return found if len(found) <= _MAX_TICKS else [each for each in found if f"{each:e}".startswith("1")]


class TimelinePlots:
    """The plots of one timeline. They share their axis, and the times in their tooltips."""

    def __init__(self, timeline: Timeline, times: formatting.Times) -> None:
        self._timeline = timeline
        self._times = times
        points = timeline.points
        self._axis = _Axis(timeline.start, points[-1].end if points else timeline.end)
        self._marked = {
            kind: merged_ranges(each for each in timeline.marks if each.mark.kind is kind) for kind in MarkKind
        }
        self._tooltips = [
            (_span(point, self._axis), timeline_words.point_time(point, times) + self._marks_text(point))
            for point in points
        ]

    def latency(self) -> h.Element | None:
        """Draw p50 and p95 over the usual band, with quarantined hours and the flags about it; None without any."""
        points, axis = self._timeline.points, self._axis
        known = [value for point in points for value in _latencies(point) if value]
        if not known:
            return None
        scale = _LogScale(min(known) / 1.15, max(known) * 1.15)
        read = [
            point._replace(p50_seconds=None, p95_seconds=None) if point.state is PointState.CURRENT else point
            for point in points
        ]
        current = [point for point in points if point.state is PointState.CURRENT]
        return _chart(
            ".latency",
            timeline_words.latency_plot_text(self._timeline),
            [
                *self._shades(FlagKind.SHIFT, lambda point: point.is_quarantined),
                _path(".band", _band(points, axis, _usual_p50, _usual_p95, scale.y)),
                _path(".p50", _steps(read, axis, _p50, scale.y)),
                _path(".p95", _steps(read, axis, _p95, scale.y)),
                _path(".p50.current", _steps(current, axis, _p50, scale.y)),
                _path(".p95.current", _steps(current, axis, _p95, scale.y)),
                self._change(),
                self._hovers(timeline_words.latency_point_text),
            ],
            [(scale.y(tick), duration(tick)) for tick in scale.ticks()],
        )

    def errors(self) -> h.Element | None:
        """Draw the error ratio over the usual one, with the flags about errors; None while failures are unknown."""
        points = self._timeline.points
        ratios = [point.error_ratio for point in points if point.error_ratio is not None]
        usual = [point.usual.error_ratio for point in points if point.usual.error_ratio is not None]
        if not ratios and not usual:
            return None
        return self._bars(
            FlagKind.ERRORS,
            value=lambda point: point.error_ratio,
            usual=lambda point: point.usual.error_ratio,
            is_quarantined=lambda point: point.is_error_quarantined,
            top=1.1 * max(_LEAST_ERRORS, *ratios, *usual),
            description=timeline_words.errors_plot_text(self._timeline),
            label=percent,
            tooltip=timeline_words.errors_point_text,
        )

    def traffic(self) -> h.Element | None:
        """Draw the requests over the usual number, with the flags about traffic; None if there never were any."""
        points = self._timeline.points
        top = 1.1 * max([max(point.requests or 0.0, point.usual_requests or 0.0) for point in points], default=0.0)
        if not top:
            return None
        return self._bars(
            FlagKind.TRAFFIC,
            value=lambda point: point.requests,
            usual=lambda point: point.usual_requests,
            is_quarantined=lambda _: False,
            top=top,
            description=timeline_words.traffic_plot_text(self._timeline),
            label=formatting.amount,
            tooltip=timeline_words.traffic_point_text,
        )

    def heat(self) -> h.Element | None:
        """Draw how the durations are distributed at each point; None without any."""
        found = heat_map(self._timeline)
        if not found.bounds:
            return None
        bounds = [bucket_upper_seconds(bucket) for bucket in found.bounds]
        scale = _LogScale(bounds[0], bounds[-1], least_ratio=1.0)
        return _chart(
            ".heat",
            timeline_words.heat_plot_text(bounds[0], bounds[-1]),
            [
                *(
                    _path(f".shade{shade}", drawn)
                    for shade, drawn in enumerate(_cells(self._timeline, found, self._axis))
                ),
                self._change(),
                self._hovers(timeline_words.heat_point_text),
            ],
            [(scale.y(tick), duration(tick)) for tick in scale.ticks()],
        )

    def time_axis(self) -> h.Element:
        """Draw the labels of the time."""
        return time_axis(self._axis.start, self._axis.end, self._times)

    def _bars(
        self,
        kind: FlagKind,
        *,
        value: Value,
        usual: Value,
        is_quarantined: Callable[[TimelinePoint], bool],
        top: float,
        description: str,
        label: Callable[[float], str],
        tooltip: Callable[[TimelinePoint], str],
    ) -> h.Element:
        points = self._timeline.points

        def y(number: float) -> float:
            return _HEIGHT * (1 - min(1.0, number / top))

        return _chart(
            f".bars-{kind.value}",
            description,
            [
                *self._shades(kind, is_quarantined),
                _path(".bar", _columns(points, self._axis, value, y)),
                _path(".usual", _steps(points, self._axis, usual, y)),
                self._hovers(tooltip),
            ],
            [(y(tick), label(tick)) for tick in _linear_ticks(top)],
        )

    def _shades(self, kind: FlagKind, is_quarantined: Callable[[TimelinePoint], bool]) -> Iterator[h.Node]:
        """Yield the background: what was not read, quarantined hours, what people have marked, and flags of a kind."""
        for class_, has in (
            (".unread", lambda point: point.state is not PointState.READ),
            (".quarantined", lambda point: point.state is PointState.READ and is_quarantined(point)),
        ):
            for shaded, run in groupby(self._timeline.points, key=has):
                if shaded:
                    points = list(run)
                    x = self._axis.x(points[0].start)
                    width = self._axis.x(points[-1].end) - x
                    yield rect(class_, x=_px(x), y="0", width=_px(width), height=_px(_HEIGHT))
        for start, end in merged_ranges(self._timeline.marks):
            x = self._axis.x(start)
            # What is shorter than a flag would not be seen.
            width = max(_MIN_FLAG, self._axis.x(end) - x)
            yield rect(".marked", x=_px(min(x, _WIDTH - width)), y="0", width=_px(width), height=_px(_HEIGHT))
        for period in self._timeline.flags:
            if period.kind is kind:
                until = self._timeline.end if period.until is None else period.until
                yield _flag_rect(period, until, self._axis, y=0.0, height=_HEIGHT)

    def _marks_text(self, point: TimelinePoint) -> str:
        """Name the kinds of marks that a point overlaps; their comments are in a list on the page."""
        kinds = [
            kind
            for kind, ranges in self._marked.items()
            if (behind := bisect_left(ranges, point.end, key=lambda each: each[0]))
            and ranges[behind - 1][1] > point.start
        ]
        return timeline_words.marks_text(kinds)

    def _change(self) -> h.Node:
        at = self._timeline.changepoint
        if at is None or not self._timeline.start < at < self._timeline.end:
            return None
        x = _px(self._axis.x(at))
        return line(".change", x1=x, x2=x, y1="0", y2=_px(_HEIGHT))[title[timeline_words.change_text(at, self._times)]]

    def _hovers(self, tooltip: Callable[[TimelinePoint], str]) -> "_Rendered":
        """Return a transparent rectangle with a tooltip for each point."""
        # A thousand of them are on one page: as elements, they would take most of the time.
        return _Rendered(
            "".join(
                f'<rect class="hover" x="{x}" y="0" width="{width}" height="{_HEIGHT:g}">'
                f"<title>{escape(when)}: {escape(tooltip(point))}</title></rect>"
                for point, ((x, width), when) in zip(self._timeline.points, self._tooltips, strict=True)
            )
        )


@dataclass(frozen=True, slots=True)
class _Rendered:
    """Markup in which everything is escaped that needs to be."""

    markup: str

    def __html__(self) -> str:
        return self.markup


def time_axis(start: float, end: float, times: formatting.Times) -> h.Element:
    """Draw the labels of the time, for plots of a range of Unix seconds."""
    axis = _Axis(start, end)
    return svg(".chart.time", aria_hidden="true")[
        [
            text(
                class_={"minor": is_minor},
                x=f"{axis.x(at) / _WIDTH:.2%}",
                y="1em",
                text_anchor="start" if axis.x(at) < 40 else "end" if axis.x(at) > 960 else "middle",
            )[label]
            for at, label, is_minor in _time_ticks(start, end, times)
        ]
    ]


def flag_strip(periods: Sequence[tuple[FlagPeriod, str]], start: float, end: float) -> h.Element:
    """Draw when the flags of an endpoint fired, each with its description, in a lane for each kind."""
    axis = _Axis(start, end)
    height = _HEIGHT / len(FlagKind)
    lanes = {kind: lane * height for lane, kind in enumerate(FlagKind)}
    return svg(".chart.strip", role="img", aria_label="; ".join(label for _, label in periods))[
        svg(viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}", preserveAspectRatio="none", width="100%", height="100%")[
            [
                _flag_rect(
                    period,
                    end if period.until is None else period.until,
                    axis,
                    y=lanes[period.kind],
                    height=height,
                    label=label,
                )
                for period, label in periods
            ]
        ]
    ]


# Parts of the plots


def _latencies(point: TimelinePoint) -> Iterator[float | None]:
    yield from (point.p50_seconds, point.p95_seconds, _usual_p50(point), _usual_p95(point))


def _p50(point: TimelinePoint) -> float | None:
    return point.p50_seconds


def _p95(point: TimelinePoint) -> float | None:
    return point.p95_seconds


def _usual_p50(point: TimelinePoint) -> float | None:
    return None if point.usual.baseline is None else point.usual.baseline.p50_seconds


def _usual_p95(point: TimelinePoint) -> float | None:
    return None if point.usual.baseline is None else point.usual.baseline.p95_seconds


def _span(point: TimelinePoint, axis: _Axis) -> tuple[str, str]:
    """Return the position and the width of a point."""
    x = axis.x(point.start)
    return _px(x), _px(axis.x(point.end) - x)


def _chart(class_: str, description: str, drawn: Sequence[h.Node], ticks: Sequence[tuple[float, str]]) -> h.Element:
    """Combine what is drawn on the canvas with grid lines and labels, given by height on the canvas."""
    return svg(f".chart{class_}", role="img", aria_label=description)[
        [line(".grid", x1="0", x2="100%", y1=f"{y:.1f}%", y2=f"{y:.1f}%") for y, _ in ticks],
        svg(viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}", preserveAspectRatio="none", width="100%", height="100%")[drawn],
        # Above its line, but within the plot.
        [text(x="2", y=f"{y:.1f}%", dy="-3" if y > 15 else "12")[label] for y, label in ticks],
    ]


def _path(class_: str, drawn: str) -> h.Node:
    return path(class_, d=drawn) if drawn else None


def _flag_rect(
    period: FlagPeriod, until: float, axis: _Axis, *, y: float, height: float, label: str | None = None
) -> h.Element:
    x = axis.x(period.since)
    width = max(_MIN_FLAG, axis.x(until) - x)
    return rect(
        f".flag.{period.kind.value}", x=_px(min(x, _WIDTH - width)), y=_px(y), width=_px(width), height=_px(height)
    )[label is not None and title[label]]


def _runs(points: Iterable[TimelinePoint], value: Value) -> Iterator[list[tuple[TimelinePoint, float]]]:
    """Yield runs of adjacent points with known values."""
    run: list[tuple[TimelinePoint, float]] = []
    for point in points:
        known = value(point)
        if run and (known is None or run[-1][0].end != point.start):
            yield run
            run = []
        if known is not None:
            run.append((point, known))
    if run:
        yield run


def _steps(points: Iterable[TimelinePoint], axis: _Axis, value: Value, y: Callable[[float], float]) -> str:
    """Build the path of a value as steps, with a gap where it is unknown."""
    drawn = []
    for run in _runs(points, value):
        drawn.append(f"M{_px(axis.x(run[0][0].start))} {_px(y(run[0][1]))}")
        for (point, _), level in _levels(run, y):
            drawn.append(f"V{level}H{_px(axis.x(point.end))}")
    return "".join(drawn)


def _levels(
    run: Sequence[tuple[TimelinePoint, float]], y: Callable[[float], float]
) -> Iterator[tuple[tuple[TimelinePoint, float], str]]:
    """Yield the last point of each level of a run, with its height."""
    for level, same in groupby(run, key=lambda each: _px(y(each[1]))):
        *_, last = same
        yield last, level


def _band(points: Iterable[TimelinePoint], axis: _Axis, low: Value, high: Value, y: Callable[[float], float]) -> str:
    """Build the path of the area between two values that are known of the same points."""
    drawn = []
    for run in _runs(points, high):
        upper = "".join(f"V{level}H{_px(axis.x(point.end))}" for (point, _), level in _levels(run, y))
        below = [(point, value) for point, _ in reversed(run) if (value := low(point)) is not None]
        lower = "".join(f"V{_px(y(value))}H{_px(axis.x(point.start))}" for point, value in below)
        drawn.append(f"M{_px(axis.x(run[0][0].start))} {_px(y(run[0][1]))}{upper}{lower}Z")
    return "".join(drawn)


def _columns(points: Iterable[TimelinePoint], axis: _Axis, value: Value, y: Callable[[float], float]) -> str:
    drawn = []
    for point in points:
        known = value(point)
        if known:
            x, width = axis.x(point.start), axis.x(point.end) - axis.x(point.start)
            top = min(y(known), _HEIGHT - 1)
            drawn.append(f"M{_px(x + 0.1 * width)} {_px(_HEIGHT)}V{_px(top)}h{_px(0.8 * width)}V{_px(_HEIGHT)}z")
    return "".join(drawn)


def _cells(timeline: Timeline, found: HeatMap, axis: _Axis) -> list[str]:
    """Build a path for each shade of the heat map."""
    rows = len(found.bounds) - 1
    height = _HEIGHT / rows
    drawn: list[list[str]] = [[] for _ in range(len(_SHADES) + 1)]
    for point, counts in zip(timeline.points, found.counts, strict=True):
        total = sum(counts)
        if not total:
            continue
        # The difference of rounded positions: otherwise there are gaps between columns.
        left, right = (round(axis.x(at), 1) for at in (point.start, point.end))
        x, width = _px(left), _px(right - left)
        row = 0
        for shade, run in groupby(counts, key=lambda count: _shade(count, total)):
            length = len(list(run))
            if shade is not None:
                bottom, size = _px(_HEIGHT - row * height), _px(length * height)
                drawn[shade].append(f"M{x} {bottom}v-{size}h{width}v{size}z")
            row += length
    return ["".join(cells) for cells in drawn]


def _shade(count: int, total: int) -> int | None:
    return sum(count >= share * total for share in _SHADES) if count else None


def _linear_ticks(top: float) -> Iterator[float]:
    """Yield one or two round values above 0."""
    size = 10.0 ** floor(log10(top))
    step = size * next(each for each in (0.2, 0.5, 1, 2, 5) if top / (each * size) < 3)
    for number in range(1, int(top / step + 1e-9) + 1):
        yield number * step


def _time_ticks(start: float, end: float, times: formatting.Times) -> Iterator[tuple[float, str, bool]]:
    """Yield instant, label and whether it is one of the less important ones, at full hours of the local clock."""
    hours = (end - start) / HOUR_SECONDS
    _, every, important = next((each for each in _TICK_HOURS if hours <= each[0]), _TICK_HOURS[-1])
    # In every time zone, full hours are at a multiple of a quarter of an hour.
    for at in range(ceil(start / 900) * 900, int(end) + 1, 900):
        local = times.local(at)
        if local.minute == 0 and local.hour % every == 0:
            yield at, timeline_words.tick_text(local, by_day=every == 24), local.hour % important != 0


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
