"""What the pages say in words: instants, ages, levels, and how a series stands."""

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
from exporter.explain.words import LEVEL_NAMES
from exporter.model.span import SeriesKey, encodable

LEVELS: Final = {**LEVEL_NAMES, FallbackLevel.EXACT: "this hour"}
"""The names that answers use too, but that the pages always speak of the hour that it is."""
UNKNOWN: Final = "–"
_LONGEST_NAME: Final = 160


@dataclass(frozen=True, slots=True)
class Times:
    """Says when something was.

    Attributes:
        now: Unix seconds.
        local: the local time of an instant.
    """

    now: float
    local: Callable[[float], datetime]

    def at(self, unix_seconds: float) -> h.Element:
        """An instant: the time alone if it lies within half a day."""
        local = self.local(unix_seconds)
        near = abs(self.now - unix_seconds) < 12 * 3600
        shown = local.strftime("%H:%M:%S" if near else "%Y-%m-%d %H:%M")
        return h.time(datetime=local.isoformat(timespec="seconds"), title=local.strftime("%A, %Y-%m-%d %H:%M:%S %Z"))[
            shown
        ]

    def since(self, unix_seconds: float) -> h.Fragment:
        """An instant, and how long ago that is."""
        return h.fragment[self.at(unix_seconds), f" ({self.age(unix_seconds)})"]

    def age(self, unix_seconds: float) -> str:
        """How long ago an instant is; what lies ahead by a little is now."""
        return f"{span(max(0.0, self.now - unix_seconds))} ago"


def span(seconds: float) -> str:
    """A span of time for people, to its largest unit, or to two of them where the first is small."""
    whole = int(seconds)
    for name, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if whole >= size:
            count, rest = divmod(whole, size)
            smaller = {"d": ("h", 3600), "h": ("min", 60)}.get(name)
            more = f" {rest // smaller[1]} {smaller[0]}" if smaller and count < 3 and rest >= smaller[1] else ""
            return f"{count} {name}{more}"
    return f"{whole} s"


def seconds(value: float | None) -> str:
    """A latency, if there is one."""
    return UNKNOWN if value is None else duration(value)


def times(ratio: float) -> str:
    """A factor to two digits."""
    return f"{ratio:.2g}" if ratio < 100 else f"{ratio:,.0f}"


def count(number: int, noun: str) -> str:
    """So many of something."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def ratio(status: SeriesStatus) -> float | None:
    """The current p95 over the usual one."""
    usual = None if status.baseline is None else status.baseline.p95_seconds
    return status.current_p95_seconds / usual if usual and status.current_p95_seconds is not None else None


def name(text: str, longest: int | None = _LONGEST_NAME) -> h.Element:
    """A name, set apart from what stands around it, since it may be in any script, and cut where that is said."""
    return h.bdi[cut(text, longest) or "(no name)"]


def cut(text: str, longest: int | None = _LONGEST_NAME) -> str:
    """The beginning of a name that is too long to be shown in full."""
    shown = encodable(text)
    return shown if longest is None or len(shown) <= longest else shown[: longest - 1] + "…"


def names(key: SeriesKey, longest: int | None = _LONGEST_NAME) -> h.Fragment:
    """Service and span name of a series."""
    return h.fragment[
        h.span(".service")[name(key.service_name, longest)], " ", h.span(".span")[name(key.span_name, longest)]
    ]


def standing(status: SeriesStatus, usual: BaselineReport | None, parameters: Parameters) -> str:
    """How a series stands, in a sentence or two, also where nothing is wrong.

    Args:
        status: what the snapshot knows of it.
        usual: what the history knows of it; absent where that could not be read.
        parameters: the settings of the shift detector.
    """
    if status.explanation is not None:
        return str(status.explanation)
    return " ".join(filter(None, (_present(status, parameters), _verdict(status, usual))))


def _present(status: SeriesStatus, parameters: Parameters) -> str:
    window = span(parameters.window_seconds)
    if status.current_traces is None:
        return "What it does now is not known: the current traffic could not be read."
    if not status.current_traces:
        return f"No requests in the last {window}."
    extended = status.current_traces <= parameters.min_traces and parameters.max_window_seconds > (
        parameters.window_seconds
    )
    within = f"the current window (up to {span(parameters.max_window_seconds)})" if extended else f"the last {window}"
    return (
        f"{count(status.current_traces, 'request')} in {within}: "
        f"p50 {seconds(status.current_p50_seconds)}, p95 {seconds(status.current_p95_seconds)}."
    )


def _verdict(status: SeriesStatus, usual: BaselineReport | None) -> str:
    baseline = status.baseline
    if not status.is_baseline_known:
        return "What is usual at this hour is still being worked out, so there is no verdict yet."
    if baseline is None:
        return "There is too little history for a baseline (level 5), so there is no verdict."
    text = (
        f"Usual are p50 {duration(baseline.p50_seconds)} and p95 {duration(baseline.p95_seconds)} "
        f"({compared_with(baseline)}, level {baseline.level:d}, {count(baseline.count, 'trace')})."
    )
    if usual is None:
        return text
    if usual.shift:
        limits = ", ".join(f"p{100 * each.quantile:g} above {duration(each.limit_seconds)}" for each in usual.shift)
        return f"{text} Slower than usual would be {limits}, if chance and the usual swing do not explain it."
    why = {
        NoVerdict.LEARNING: "from too few hours or days yet to tell a shift by, so only single outliers are flagged",
        NoVerdict.NOT_EVALUATED: "but the past is still being judged, so there is no verdict until that is done",
    }
    return f"{text} That is {why[usual.no_verdict]}." if usual.no_verdict in why else text
