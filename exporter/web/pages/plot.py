"""SVG plots by hour of day: the baseline, small for table rows and large for pages; usual errors and traffic."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import groupby
from math import ceil, floor, log10
from typing import Final

import htpy as h
from htpy import circle, g, line, path, rect, text, title

from exporter.baseline.levels import Baseline
from exporter.detection.explanation import duration
from exporter.evaluation.query import Profile, SlotBaseline
from exporter.evaluation.snapshot import SeriesStatus
from exporter.explain.words import counted
from exporter.model.calendar import DayType, Slot
from exporter.model.histogram_codec import DamagedDigestError
from exporter.model.span import SeriesKey
from exporter.runtime.logs import LimitedLog
from exporter.store import StoreError
from exporter.web.http import HttpRequest, HttpResponse, text_response
from exporter.web.pages.endpoint_words import usual_text
from exporter.web.pages.sources import HistoryCache, Sources
from exporter.web.pages.status_words import ENGLISH

HOURS: Final = 24
_MAX_TOP_RATIO: Final = 3.0
"""The scale ends at this multiple of the highest baseline p95, so that the baseline stays visible; a higher current
value is drawn at the upper edge."""


@dataclass(frozen=True, slots=True)
class CurrentLatency:
    """The current latency to draw.

    Attributes:
        slot: slot of the present hour.
        p50_seconds: current median; absent without traffic.
        p95_seconds: current 95th percentile; absent without traffic.
        is_anomalous: whether the shift flag is firing.
    """

    slot: Slot
    p50_seconds: float | None = None
    p95_seconds: float | None = None
    is_anomalous: bool = False

    @classmethod
    def of(cls, status: SeriesStatus, slot: Slot) -> "CurrentLatency":
        """Take it from the status of a series."""
        return cls(slot, status.current_p50_seconds, status.current_p95_seconds, bool(status.shift))


def slots_of_day_type(profile: Profile, day_type: DayType) -> list[SlotBaseline]:
    """Return the 24 slots of a day type, by hour."""
    return sorted((each for each in profile.slots if each.slot.day_type is day_type), key=lambda each: each.slot.hour)


# Small plot

_SMALL_WIDTH: Final = 144
_SMALL_HEIGHT: Final = 32
_PAD: Final = 4.0
# An image cannot follow the colour scheme of its page: these colours are visible on white and on black.
_BAND: Final = "#5b8def"
_NOW: Final = "#2a9d63"
_NOW_ANOMALOUS: Final = "#e5484d"


def small(profile: Profile, current: CurrentLatency) -> h.Element:
    """Draw the baseline from p50 to p95 over the 24 hours of the current day type, and the current p95, as an image."""
    slots = slots_of_day_type(profile, current.slot.day_type)
    top = _top(slots, current)
    width = _SMALL_WIDTH / HOURS

    def x(hour: float) -> float:
        return hour * width

    def y(seconds: float) -> float:
        return _SMALL_HEIGHT - _PAD - (_SMALL_HEIGHT - 2 * _PAD) * min(1.0, seconds / top)

    middle = x(current.slot.hour + 0.5)
    now = _NOW_ANOMALOUS if current.is_anomalous else _NOW
    return h.svg(
        xmlns="http://www.w3.org/2000/svg",
        width=str(_SMALL_WIDTH),
        height=str(_SMALL_HEIGHT),
        viewBox=f"0 0 {_SMALL_WIDTH} {_SMALL_HEIGHT}",
    )[
        line(x1="0", x2=str(_SMALL_WIDTH), y1=_px(y(0)), y2=_px(y(0)), stroke=_BAND, stroke_opacity="0.35"),
        rect(
            x=_px(x(current.slot.hour)),
            y="0",
            width=_px(width),
            height=str(_SMALL_HEIGHT),
            fill="#888",
            fill_opacity="0.18",
        ),
        (path(d=band, fill=_BAND, fill_opacity="0.4") for band in _bands(slots, x, y)),
        (path(d=median, fill="none", stroke=_BAND, stroke_width="1.5") for median in _medians(slots, x, y)),
        current.p95_seconds is not None and circle(cx=_px(middle), cy=_px(y(current.p95_seconds)), r="3.2", fill=now),
    ]


# Large plot

_WIDTH: Final = 520
_HEIGHT: Final = 236
_LEFT: Final = 58
_RIGHT: Final = 6
_TOP: Final = 12
_FLOOR: Final = 168
_STRIP: Final = 172
_STRIP_HEIGHT: Final = 6
_BARS: Final = 222
_BARS_HEIGHT: Final = 24
_HOUR_LABELS: Final = 192
_DOT: Final = 4.5


def large(slots: Sequence[SlotBaseline], current: CurrentLatency, top_seconds: float, *, label: str) -> h.Element:
    """Draw the baseline from p50 to p95 by hour of one day type, with fallback levels and numbers of traces.

    Args:
        slots: the 24 slots of the day type.
        current: the current latency; drawn if its slot is one of them.
        top_seconds: upper end of the scale, see :func:`top_of_scale`.
        label: description for screen readers.
    """
    ticks = list(_ticks(top_seconds))
    top = max(top_seconds, ticks[-1])
    width = (_WIDTH - _LEFT - _RIGHT) / HOURS

    def x(hour: float) -> float:
        return _LEFT + hour * width

    def y(seconds: float) -> float:
        return _FLOOR - (_FLOOR - _TOP) * min(1.0, seconds / top)

    most = max((each.traces for each in slots), default=0) or 1
    return h.svg(".profile", viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=label)[
        (_gridline(tick, y(tick)) for tick in ticks),
        (
            text(x=_px(x(hour)), y=str(_HOUR_LABELS), text_anchor="middle" if hour else "start")[f"{hour:02d}"]
            for hour in range(0, HOURS, 3)
        ),
        current.slot in {each.slot for each in slots}
        and rect(".this-hour", x=_px(x(current.slot.hour)), y=str(_TOP), width=_px(width), height=str(_BARS - _TOP)),
        (path(".band", d=band) for band in _bands(slots, x, y)),
        (path(".median", d=median) for median in _medians(slots, x, y)),
        (path(".p95", d=edge) for edge in _edges(slots, x, y)),
        (_strip(each, x(each.slot.hour), width) for each in slots),
        (_bar(each, x(each.slot.hour), width, most) for each in slots),
        text(x=_px(_LEFT - 6), y=_px(_BARS), text_anchor="end")["traces"],
        current.slot in {each.slot for each in slots} and _draw_current(current, x(current.slot.hour + 0.5), y, top),
        (_hover(each, x(each.slot.hour), width) for each in slots),
    ]


def top_of_scale(profile: Profile, current: CurrentLatency) -> float:
    """Return the upper end of a scale for both day types, so that their plots can be compared."""
    return _top(profile.slots, current)


def slot_description(each: SlotBaseline) -> str:
    """Describe the baseline of a slot."""
    hours = f"{each.slot.day_type} {each.slot.hour:02d}–{(each.slot.hour + 1) % HOURS:02d} h"
    own = f"{counted(each.traces, 'trace')} in {counted(each.hours, 'hour')} of this slot"
    if each.baseline is None:
        return f"{hours}: too little history; {own}"
    return (
        f"{hours}: p50 {duration(each.baseline.p50_seconds)}, p95 {duration(each.baseline.p95_seconds)}, "
        f"level {each.baseline.level:d} ({ENGLISH.levels[each.baseline.level]}); {own}"
    )


def _gridline(seconds: float, y: float) -> h.Fragment:
    return _labelled_line(y, duration(seconds) if seconds else "0")


def _labelled_line(y: float, label: str) -> h.Fragment:
    return h.fragment[
        line(".grid", x1=str(_LEFT), x2=str(_WIDTH - _RIGHT), y1=_px(y), y2=_px(y)),
        text(x=_px(_LEFT - 6), y=_px(y + 4), text_anchor="end")[label],
    ]


def _strip(each: SlotBaseline, x: float, width: float) -> h.Element:
    level = int(each.baseline.level) if each.baseline else 5
    return rect(f".l{level}", x=_px(x + 0.5), y=str(_STRIP), width=_px(width - 1), height=str(_STRIP_HEIGHT))


def _bar(each: SlotBaseline, x: float, width: float, most: int) -> h.Node:
    height = _BARS_HEIGHT * each.traces / most
    return bool(each.traces) and rect(
        ".bar", x=_px(x + 1), y=_px(_BARS - max(1.0, height)), width=_px(width - 2), height=_px(max(1.0, height))
    )


def _hover(each: SlotBaseline, x: float, width: float) -> h.Element:
    return rect(".hover", x=_px(x), y=str(_TOP), width=_px(width), height=str(_BARS - _TOP))[
        title[slot_description(each)]
    ]


def _draw_current(current: CurrentLatency, x: float, y: Callable[[float], float], top: float) -> h.Node:
    if current.p50_seconds is None or current.p95_seconds is None:
        return None
    upper = y(current.p95_seconds)
    end = "end" if x > _WIDTH / 2 else "start"
    return g(class_=["now", {"anomalous": current.is_anomalous}])[
        line(x1=_px(x), x2=_px(x), y1=_px(upper), y2=_px(y(current.p50_seconds))),
        circle(".hollow", cx=_px(x), cy=_px(y(current.p50_seconds)), r=str(_DOT - 1)),
        # A value beyond the scale is drawn as a wedge that points up.
        path(d=f"M{x - 5:.1f} {upper + 5:.1f}h10l-5 -9z")
        if current.p95_seconds > top
        else circle(cx=_px(x), cy=_px(upper), r=str(_DOT)),
        text(x=_px(x + (-9 if end == "end" else 9)), y=_px(upper + 4), text_anchor=end)[
            f"p95 {duration(current.p95_seconds)}"
        ],
    ]


# Errors and traffic

_SIGNAL_HEIGHT: Final = 118
_SIGNAL_FLOOR: Final = 92
_SIGNAL_LABELS: Final = 112


@dataclass(frozen=True, slots=True)
class SignalPlot:
    """The usual value of an endpoint by hour of the day, such as its error ratio.

    Attributes:
        values: value by slot; unknown ones are missing.
        top: upper end of the scale.
        number: formats a value.
        current: slot of the present hour, and the present value; None if it is unknown.
        is_anomalous: whether the flag about it is firing.
    """

    values: Mapping[Slot, float]
    top: float
    number: Callable[[float], str]
    current: tuple[Slot, float | None]
    is_anomalous: bool

    def draw(self, day_type: DayType, label: str) -> h.Element:
        """Draw the 24 hours of a day type, with a description for screen readers."""
        width = (_WIDTH - _LEFT - _RIGHT) / HOURS
        ticks = list(_ticks(self.top))
        top = max(self.top, ticks[-1])
        slot, now = self.current

        def x(hour: float) -> float:
            return _LEFT + hour * width

        def y(value: float) -> float:
            return _SIGNAL_FLOOR - (_SIGNAL_FLOOR - _TOP) * min(1.0, value / top)

        known = [(hour, self.values.get(Slot(hour, day_type))) for hour in range(HOURS)]
        return h.svg(".profile", viewBox=f"0 0 {_WIDTH} {_SIGNAL_HEIGHT}", role="img", aria_label=label)[
            (_labelled_line(y(tick), self.number(tick)) for tick in (ticks[0], ticks[-1])),
            (
                text(x=_px(x(hour)), y=str(_SIGNAL_LABELS), text_anchor="middle" if hour else "start")[f"{hour:02d}"]
                for hour in range(0, HOURS, 3)
            ),
            slot.day_type is day_type
            and rect(
                ".this-hour", x=_px(x(slot.hour)), y=str(_TOP), width=_px(width), height=str(_SIGNAL_FLOOR - _TOP)
            ),
            (
                rect(
                    ".usual-bar", x=_px(x(hour) + 1), y=_px(y(value)), width=_px(width - 2),
                    height=_px(max(1.0, _SIGNAL_FLOOR - y(value))),
                )
                for hour, value in known
                if value is not None
            ),
            slot.day_type is day_type
            and now is not None
            and g(class_=["now", {"anomalous": self.is_anomalous}])[
                circle(cx=_px(x(slot.hour + 0.5)), cy=_px(y(now)), r=str(_DOT))
            ],
            (
                rect(".hover", x=_px(x(hour)), y=str(_TOP), width=_px(width), height=str(_SIGNAL_FLOOR - _TOP))[
                    title[usual_text(Slot(hour, day_type), None if value is None else self.number(value))]
                ]
                for hour, value in known
            ),
        ]  # fmt: skip


# Shared by all plots

Scale = Callable[[float], float]


def _top(slots: Sequence[SlotBaseline], current: CurrentLatency) -> float:
    """Return the latency at the upper end of the scale."""
    highest = max((each.baseline.p95_seconds for each in slots if each.baseline), default=0.0)
    now = current.p95_seconds or 0.0
    return 1.05 * (max(highest, min(now, _MAX_TOP_RATIO * highest)) or now) or 1.0


def _runs(slots: Sequence[SlotBaseline]) -> Iterator[list[tuple[int, Baseline]]]:
    """Yield runs of consecutive hours that have a baseline."""
    for has_baseline, run in groupby(slots, key=lambda each: each.baseline is not None):
        if has_baseline:
            yield [(each.slot.hour, each.baseline) for each in run if each.baseline is not None]


def _bands(slots: Sequence[SlotBaseline], x: Scale, y: Scale) -> Iterator[str]:
    """Yield outlines of the area between p50 and p95, in steps of an hour."""
    for run in _runs(slots):
        upper = [(x(hour), x(hour + 1), y(baseline.p95_seconds)) for hour, baseline in run]
        lower = [(x(hour + 1), x(hour), y(baseline.p50_seconds)) for hour, baseline in reversed(run)]
        yield f"{_steps(upper + lower)}z"


def _medians(slots: Sequence[SlotBaseline], x: Scale, y: Scale) -> Iterator[str]:
    for run in _runs(slots):
        yield _steps([(x(hour), x(hour + 1), y(baseline.p50_seconds)) for hour, baseline in run])


def _edges(slots: Sequence[SlotBaseline], x: Scale, y: Scale) -> Iterator[str]:
    for run in _runs(slots):
        yield _steps([(x(hour), x(hour + 1), y(baseline.p95_seconds)) for hour, baseline in run])


def _steps(levels: Sequence[tuple[float, float, float]]) -> str:
    """Build the path of horizontal lines, each given as start, end and height."""
    points = [f"{_px(x)} {_px(height)}" for begin, end, height in levels for x in (begin, end)]
    return "M" + "L".join(points)


def _ticks(top: float) -> Iterator[float]:
    """Yield three to five round values, from 0 to the top or just above it."""
    rough = top / 4
    size = 10.0 ** floor(log10(rough))
    step = size * next(each for each in (1, 2, 5, 10) if each * size >= rough)
    for number in range(ceil(top / step - 1e-9) + 1):
        yield number * step


def _px(value: float) -> str:
    return f"{value:.1f}"


# Handler


class PlotImage:
    """Handler of ``/plot?service_name=…&span_name=…``: the small plot of an endpoint.

    A table loads its plots as separate images, so that the page itself needs no database query.
    """

    def __init__(self, sources: Sources, profiles: HistoryCache[SeriesKey, Profile], log: LimitedLog) -> None:
        self._sources = sources
        self._profiles = profiles
        self._log = log

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Return the image, or 404 if the endpoint is not in the snapshot."""
        status = self._sources.requested_series(request)
        if status is None:
            return text_response("There is no such endpoint", HTTPStatus.NOT_FOUND)
        now = self._sources.clock()
        try:
            profile = self._profiles.get(status.key, now)
        except (StoreError, DamagedDigestError) as error:
            self._log.warning("page_incomplete", "a page cannot show baselines", series=status.key.parts, error=error)
            return text_response("The stored history cannot be read", HTTPStatus.SERVICE_UNAVAILABLE)
        image = str(small(profile, CurrentLatency.of(status, self._sources.slot(now))))
        # The current latency changes with the next poll. Until then, sorting or paging a table reloads no image.
        caching = f"private, max-age={int(self._sources.interval_seconds)}"
        return HttpResponse(image.encode(), "image/svg+xml", headers=(("Cache-Control", caching),))
