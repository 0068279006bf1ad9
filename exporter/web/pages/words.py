"""Texts of the pages: instants, ages, levels, names, and the summary of a series."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import htpy as h

from exporter.baseline.levels import FallbackLevel
from exporter.detection.explanation import compared_with, duration
from exporter.detection.parameters import Parameters
from exporter.evaluation.query import BaselineReport, NoVerdict
from exporter.evaluation.snapshot import SeriesStatus
from exporter.explain.words import LEVEL_NAMES, counted
from exporter.model.span import SeriesKey, encodable

LEVELS: Final = {**LEVEL_NAMES, FallbackLevel.EXACT: "this hour"}
"""Names of the fallback levels; on the pages, the exact hour is always the present one."""
UNKNOWN: Final = "–"
_LONGEST_NAME: Final = 160


@dataclass(frozen=True, slots=True)
class Times:
    """Formats instants relative to the present.

    Attributes:
        now: the present, Unix seconds.
        local: returns the local time of an instant.
    """

    now: float
    local: Callable[[float], datetime]

    def at(self, unix_seconds: float) -> h.Element:
        """Format an instant; without the date if it is within twelve hours of now."""
        local = self.local(unix_seconds)
        is_near = abs(self.now - unix_seconds) < 12 * 3600
        text = local.strftime("%H:%M:%S" if is_near else "%Y-%m-%d %H:%M")
        return h.time(datetime=local.isoformat(timespec="seconds"), title=local.strftime("%A, %Y-%m-%d %H:%M:%S %Z"))[
            text
        ]

    def since(self, unix_seconds: float) -> h.Fragment:
        """Format an instant and its age."""
        return h.fragment[self.at(unix_seconds), f" ({self.age(unix_seconds)})"]

    def age(self, unix_seconds: float) -> str:
        """Format the age of an instant; one in the future has age 0."""
        return f"{coarse_duration(max(0.0, self.now - unix_seconds))} ago"


def coarse_duration(seconds: float) -> str:
    """Format a duration of seconds to days in its largest unit, or in the largest two if there are few of the first."""
    whole = int(seconds)
    for name, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if whole >= size:
            count, rest = divmod(whole, size)
            smaller = {"d": ("h", 3600), "h": ("min", 60)}.get(name)
            more = f" {rest // smaller[1]} {smaller[0]}" if smaller and count < 3 and rest >= smaller[1] else ""
            return f"{count} {name}{more}"
    return f"{whole} s"


def latency(seconds: float | None) -> str:
    """Format a latency, which may be unknown."""
    return UNKNOWN if seconds is None else duration(seconds)


def factor(ratio: float) -> str:
    """Format a ratio to two digits."""
    return f"{ratio:.2g}" if ratio < 100 else f"{ratio:,.0f}"


def p95_ratio(status: SeriesStatus) -> float | None:
    """The current p95 divided by that of the baseline; None if either is unknown or the baseline's is 0."""
    current, baseline = status.current_p95_seconds, status.baseline
    if current is None or baseline is None or not baseline.p95_seconds:
        return None
    return current / baseline.p95_seconds


def name_element(text: str, longest: int | None = _LONGEST_NAME) -> h.Element:
    """Render a name in isolation from the text around it, since it may be in a right-to-left script."""
    return h.bdi[cut(text, longest) or "(no name)"]


def cut(text: str, longest: int | None = _LONGEST_NAME) -> str:
    """Shorten a name to a number of characters, and escape what cannot be encoded."""
    shown = encodable(text)
    return shown if longest is None or len(shown) <= longest else shown[: longest - 1] + "…"


def series_names(key: SeriesKey, longest: int | None = _LONGEST_NAME) -> h.Fragment:
    """Render service and span name of a series."""
    return h.fragment[
        h.span(".service")[name_element(key.service_name, longest)],
        " ",
        h.span(".span")[name_element(key.span_name, longest)],
    ]


def summary(status: SeriesStatus, report: BaselineReport | None, parameters: Parameters) -> str:
    """Describe the current state of a series: the explanation of its shift, or its latency and baseline.

    Args:
        status: its status in the snapshot.
        report: its baseline in the stored history; None if that could not be read.
        parameters: settings of the shift detector.
    """
    if status.explanation is not None:
        return str(status.explanation)
    return " ".join(filter(None, (_current_sentence(status, parameters), _baseline_sentences(status, report))))


def _current_sentence(status: SeriesStatus, parameters: Parameters) -> str:
    window = coarse_duration(parameters.window_seconds)
    if status.current_traces is None:
        return "The current latency is unknown: Tempo could not be read."
    if not status.current_traces:
        return f"No requests in the last {window}."
    is_extended = status.current_traces <= parameters.min_traces and parameters.max_window_seconds > (
        parameters.window_seconds
    )
    longest = coarse_duration(parameters.max_window_seconds)
    within = f"the evaluation window (up to {longest})" if is_extended else f"the last {window}"
    return (
        f"{counted(status.current_traces, 'request')} in {within}: "
        f"p50 {latency(status.current_p50_seconds)}, p95 {latency(status.current_p95_seconds)}."
    )


def _baseline_sentences(status: SeriesStatus, report: BaselineReport | None) -> str:
    baseline = status.baseline
    if not status.is_baseline_known:
        return "The baseline for this hour is still being computed, so there is no verdict yet."
    if baseline is None:
        return "There is too little history for a baseline (level 5), so there is no verdict."
    text = (
        f"Baseline: p50 {duration(baseline.p50_seconds)}, p95 {duration(baseline.p95_seconds)} "
        f"({compared_with(baseline)}, level {baseline.level:d}, {counted(baseline.count, 'trace')})."
    )
    if report is None:
        return text
    if report.shift:
        *limits, last = (f"p{100 * each.quantile:g} above {duration(each.limit_seconds)}" for each in report.shift)
        shift = f"{', '.join(limits)} or {last}" if limits else last
        return f"{text} A shift would be {shift}, unless chance or the usual swing explains it."
    reason = {
        NoVerdict.LEARNING: "It covers too few hours or days for a shift verdict, so only single outliers are flagged.",
        NoVerdict.NOT_EVALUATED: "Past hours are still being evaluated; there is no shift verdict until that is done.",
    }
    return f"{text} {reason[report.no_verdict]}" if report.no_verdict in reason else text
