"""Texts of the plots over time, in English: what they show, and their tooltips."""

from collections.abc import Sequence
from datetime import datetime

from exporter.detection.errors.verdict import percent
from exporter.detection.explanation import duration
from exporter.detection.flag import FlagKind
from exporter.evaluation.timeline import PointState, Timeline, TimelinePoint
from exporter.explain.words import counted
from exporter.model.time_mark import MarkKind
from exporter.web.pages.formatting import Times, amount


def tick_text(local: datetime, *, by_day: bool) -> str:
    """Label an instant on a time axis."""
    return f"{local:%a} {local.day}" if by_day else f"{local:%H:%M}"


def latency_plot_text(timeline: Timeline) -> str:
    """Describe the plot of the latency for screen readers."""
    known = [point.p95_seconds for point in timeline.points if point.p95_seconds is not None]
    range_ = f"p95 from {duration(min(known))} to {duration(max(known))}" if known else "no requests"
    return f"Latency over time: {range_}{_flags_count(timeline, FlagKind.SHIFT)}"


def errors_plot_text(timeline: Timeline) -> str:
    """Describe the plot of the error ratio."""
    known = [point.error_ratio for point in timeline.points if point.error_ratio is not None]
    most = f"at most {percent(max(known))}" if known else "unknown"
    return f"Error ratio over time: {most}{_flags_count(timeline, FlagKind.ERRORS)}"


def traffic_plot_text(timeline: Timeline) -> str:
    """Describe the plot of the traffic."""
    known = [point.requests for point in timeline.points if point.requests is not None]
    most = f"at most {amount(max(known))} in one point" if known else "unknown"
    return f"Requests over time: {most}{_flags_count(timeline, FlagKind.TRAFFIC)}"


def heat_plot_text(lowest_seconds: float, highest_seconds: float) -> str:
    """Describe the heat map."""
    return f"Distribution of durations over time, from {duration(lowest_seconds)} to {duration(highest_seconds)}"


def _flags_count(timeline: Timeline, kind: FlagKind) -> str:
    count = sum(flag.kind is kind for flag in timeline.flags)
    return f"; the flag fired {counted(count, 'time')}" if count else ""


def latency_point_text(point: TimelinePoint) -> str:
    """Describe the latency of a point."""
    baseline = point.usual.baseline
    usual = (
        ""
        if baseline is None
        else f"; usual p50 {duration(baseline.p50_seconds)}, p95 {duration(baseline.p95_seconds)}"
    )
    out = "; kept out of the baseline" if point.is_quarantined else ""
    return f"{_latency_of(point)}{usual}{out}"


def _latency_of(point: TimelinePoint) -> str:
    if point.p50_seconds is None or point.p95_seconds is None:
        return "not read" if point.state is PointState.UNREAD else "no requests"
    return f"p50 {duration(point.p50_seconds)}, p95 {duration(point.p95_seconds)}"


def errors_point_text(point: TimelinePoint) -> str:
    """Describe the error ratio of a point."""
    if point.error_ratio is None:
        now = "unknown" if point.traces else "no requests"
    else:
        now = f"{point.failures:,} of {counted(point.traces, 'request')} failed ({percent(point.error_ratio)})"
    usual = "" if point.usual.error_ratio is None else f"; usual {percent(point.usual.error_ratio)}"
    return f"{now}{usual}"


def traffic_point_text(point: TimelinePoint) -> str:
    """Describe the traffic of a point."""
    now = "unknown" if point.requests is None else f"{amount(point.requests)} requests"
    usual = "" if point.usual_requests is None else f"; usual {amount(point.usual_requests)}"
    return f"{now}{usual}"


def heat_point_text(point: TimelinePoint) -> str:
    """Describe the durations of a point."""
    return f"{counted(point.digest.count, 'trace')}, {_latency_of(point)}"


def point_time(point: TimelinePoint, times: Times) -> str:
    """Format the time of a point."""
    start, end = times.local(point.start), times.local(point.end)
    return f"{start:%a %Y-%m-%d %H:%M}–{end:%H:%M}"


def marks_text(kinds: Sequence[MarkKind]) -> str:
    """Say what people have marked a point as; empty without marks."""
    return f" (marked by people: {', '.join(kinds)})" if kinds else ""


def change_text(at: float, times: Times) -> str:
    """Describe an accepted change."""
    return f"A lasting change, since {times.local(at):%Y-%m-%d %H:%M}"
