"""Formats of values on the pages: instants, latencies, ratios, and names, which are hostile."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import htpy as h

from exporter.detection.errors.verdict import percent
from exporter.detection.explanation import duration
from exporter.evaluation.snapshot import SeriesStatus
from exporter.explain.words import coarse_duration
from exporter.model.service import ServiceKey
from exporter.model.span import SeriesKey, encodable

UNKNOWN: Final = "–"
_LONGEST_NAME: Final = 160


class TimeWords:
    """Texts about instants and durations, in English."""

    def coarse_duration(self, seconds: float) -> str:
        """Format a duration of seconds to days."""
        return coarse_duration(seconds)

    def ago(self, age: str) -> str:
        """Format an age."""
        return f"{age} ago"

    def in_brackets(self, text: str) -> str:
        """Put a text behind another one, in brackets."""
        return f" ({text})"

    def full_instant(self, local: datetime) -> str:
        """Format an instant with the day of the week."""
        return f"{local:%A, %Y-%m-%d %H:%M:%S %Z}"


_ENGLISH: Final = TimeWords()


@dataclass(frozen=True, slots=True)
class Times:
    """Formats instants relative to the present.

    Attributes:
        now: the present, Unix seconds.
        local: returns the local time of an instant.
        words: texts in the language of the page.
    """

    now: float
    local: Callable[[float], datetime]
    words: TimeWords = _ENGLISH

    def at(self, unix_seconds: float) -> h.Element:
        """Format an instant; without the date if it is within twelve hours of now."""
        local = self.local(unix_seconds)
        is_near = abs(self.now - unix_seconds) < 12 * 3600
        text = local.strftime("%H:%M:%S" if is_near else "%Y-%m-%d %H:%M")
        return h.time(datetime=local.isoformat(timespec="seconds"), title=self.words.full_instant(local))[text]

    def since(self, unix_seconds: float) -> h.Fragment:
        """Format an instant and its age."""
        return h.fragment[self.at(unix_seconds), self.words.in_brackets(self.age(unix_seconds))]

    def age(self, unix_seconds: float) -> str:
        """Format the age of an instant; one in the future has age 0."""
        return self.words.ago(self.words.coarse_duration(max(0.0, self.now - unix_seconds)))


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


def traffic_ratio(status: SeriesStatus) -> float | None:
    """The current traffic divided by the usual; None while unknown."""
    return None if status.current_traffic is None else status.current_traffic.verdict.evidence.ratio


def ratio_text(ratio: float | None) -> str:
    """Format a share in percent, which may be unknown."""
    return UNKNOWN if ratio is None else percent(ratio)


def name_element(text: str, longest: int | None = _LONGEST_NAME) -> h.Element:
    """Render a name in isolation from the text around it, since it may be in a right-to-left script."""
    return h.bdi[cut(text, longest) or "(no name)"]


def cut(text: str, longest: int | None = _LONGEST_NAME) -> str:
    """Shorten a name to a number of characters, and escape what cannot be encoded."""
    shown = encodable(text)
    return shown if longest is None or len(shown) <= longest else shown[: longest - 1] + "…"


def series_names(key: SeriesKey, longest: int | None = _LONGEST_NAME) -> h.Fragment:
    """Render service and span name of a series, and the values of its labels."""
    return h.fragment[
        h.span(".service")[name_element(key.service_name, longest)],
        " ",
        h.span(".span")[name_element(key.span_name, longest)],
        ((" ", h.span(".label", title=name)[name_element(value, longest)]) for name, value in key.labels),
    ]


def service_names(key: ServiceKey, longest: int | None = _LONGEST_NAME) -> h.Fragment:
    """Render the name of a service, and the values of its labels."""
    return h.fragment[
        h.span(".service")[name_element(key.service_name, longest)],
        ((" ", h.span(".label", title=name)[name_element(value, longest)]) for name, value in key.labels),
    ]


def joined(parts: Sequence[h.Node], separator: str = ", ") -> h.Node:
    """List some parts."""
    return h.fragment[([separator, part] if position else part for position, part in enumerate(parts))]


def floored_percent(ratio: float) -> str:
    """Format a share, rounded down so that only a complete one is 100 %."""
    return f"{int(1000 * ratio) / 10:g} %"


def amount(number: float) -> str:
    """Format a number of requests."""
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"
