"""Plots of what is usual around the clock, as SVG: a small one for a row of a table, a large one for a page."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor, log10
from typing import Final

import htpy as h
from htpy import circle, g, line, path, rect, text, title

from exporter.baseline.levels import Baseline
from exporter.detection.explanation import duration
from exporter.evaluation.query import Profile, SlotBaseline
from exporter.evaluation.snapshot import SeriesStatus
from exporter.model.calendar import DayType, Slot
from exporter.web.pages import words

HOURS: Final = 24
_HIGHEST_OVER_USUAL: Final = 3.0
"""What is slower than the highest usual p95 by more than this is drawn at the upper edge, so that the usual is seen."""


@dataclass(frozen=True, slots=True)
class Present:
    """What is drawn of the present.

    Attributes:
        slot: the slot of the present hour.
        p50_seconds: the current median; absent without traffic.
        p95_seconds: the current 95th percentile; absent without traffic.
        anomalous: whether the series is flagged.
    """

    slot: Slot
    p50_seconds: float | None = None
    p95_seconds: float | None = None
    anomalous: bool = False

    @classmethod
    def of(cls, status: SeriesStatus, slot: Slot) -> "Present":
        """What a snapshot says of it."""
        return cls(slot, status.current_p50_seconds, status.current_p95_seconds, bool(status.shift))


def of_day_type(profile: Profile, day_type: DayType) -> list[SlotBaseline]:
    """The 24 slots of a type of day, in their order."""
    return sorted((each for each in profile.slots if each.slot.day_type is day_type), key=lambda each: each.slot.hour)


# The small one

_SMALL_WIDTH: Final = 144
_SMALL_HEIGHT: Final = 32
_PAD: Final = 4.0
# An image knows nothing of the page it stands in: these are to be seen on white and on black.
_BAND: Final = "#5b8def"
_NOW: Final = "#2a9d63"
_NOW_ANOMALOUS: Final = "#e5484d"


def small(profile: Profile, present: Present) -> h.Element:
    """The usual p50 to p95 over the 24 hours of the present type of day, and the current p95, as an image."""
    slots = of_day_type(profile, present.slot.day_type)
    top = _top(slots, present)
    width = _SMALL_WIDTH / HOURS

    def x(hour: float) -> float:
        return hour * width

    def y(seconds: float) -> float:
        return _SMALL_HEIGHT - _PAD - (_SMALL_HEIGHT - 2 * _PAD) * min(1.0, seconds / top)

    middle = x(present.slot.hour + 0.5)
    now = _NOW_ANOMALOUS if present.anomalous else _NOW
    return h.svg(
        xmlns="http://www.w3.org/2000/svg",
        width=str(_SMALL_WIDTH),
        height=str(_SMALL_HEIGHT),
        viewBox=f"0 0 {_SMALL_WIDTH} {_SMALL_HEIGHT}",
    )[
        line(x1="0", x2=str(_SMALL_WIDTH), y1=_n(y(0)), y2=_n(y(0)), stroke=_BAND, stroke_opacity="0.35"),
        rect(
            x=_n(x(present.slot.hour)),
            y="0",
            width=_n(width),
            height=str(_SMALL_HEIGHT),
            fill="#888",
            fill_opacity="0.18",
        ),
        (path(d=band, fill=_BAND, fill_opacity="0.4") for band in _bands(slots, x, y)),
        (path(d=median, fill="none", stroke=_BAND, stroke_width="1.5") for median in _medians(slots, x, y)),
        present.p95_seconds is not None and circle(cx=_n(middle), cy=_n(y(present.p95_seconds)), r="3.2", fill=now),
    ]


# The large one

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


def large(slots: Sequence[SlotBaseline], present: Present, top_seconds: float, *, label: str) -> h.Element:
    """The usual p50 to p95 in the slots of one type of day, their fallback levels, and how many traces each has.

    Args:
        slots: the 24 slots.
        present: the present, which is drawn if its slot is among them.
        top_seconds: what the scale reaches up to, see :func:`top_of`.
        label: what it is, for those who do not see it.
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
            text(x=_n(x(hour)), y=str(_HOUR_LABELS), text_anchor="middle" if hour else "start")[f"{hour:02d}"]
            for hour in range(0, HOURS, 3)
        ),
        present.slot in {each.slot for each in slots}
        and rect(".this-hour", x=_n(x(present.slot.hour)), y=str(_TOP), width=_n(width), height=str(_BARS - _TOP)),
        (path(".band", d=band) for band in _bands(slots, x, y)),
        (path(".median", d=median) for median in _medians(slots, x, y)),
        (path(".p95", d=edge) for edge in _edges(slots, x, y)),
        (_strip(each, x(each.slot.hour), width) for each in slots),
        (_bar(each, x(each.slot.hour), width, most) for each in slots),
        text(x=_n(_LEFT - 6), y=_n(_BARS), text_anchor="end")["traces"],
        present.slot in {each.slot for each in slots} and _present(present, x(present.slot.hour + 0.5), y, top),
        (_hover(each, x(each.slot.hour), width) for each in slots),
    ]


def top_of(profile: Profile, present: Present) -> float:
    """What the scale must reach up to, so that both types of day can be compared."""
    return _top(profile.slots, present)


def described(each: SlotBaseline) -> str:
    """What is usual in a slot, in words."""
    what = f"{each.slot.day_type} {each.slot.hour:02d}–{(each.slot.hour + 1) % HOURS:02d} h"
    own = f"{words.count(each.traces, 'trace')} in {words.count(each.hours, 'hour')} of its own"
    if each.baseline is None:
        return f"{what}: too little history; {own}"
    return (
        f"{what}: p50 {duration(each.baseline.p50_seconds)}, p95 {duration(each.baseline.p95_seconds)}, "
        f"level {each.baseline.level:d} ({words.LEVELS[each.baseline.level]}); {own}"
    )


def _gridline(seconds: float, y: float) -> h.Fragment:
    return h.fragment[
        line(".grid", x1=str(_LEFT), x2=str(_WIDTH - _RIGHT), y1=_n(y), y2=_n(y)),
        text(x=_n(_LEFT - 6), y=_n(y + 4), text_anchor="end")[duration(seconds) if seconds else "0"],
    ]


def _strip(each: SlotBaseline, x: float, width: float) -> h.Element:
    level = int(each.baseline.level) if each.baseline else 5
    return rect(f".l{level}", x=_n(x + 0.5), y=str(_STRIP), width=_n(width - 1), height=str(_STRIP_HEIGHT))


def _bar(each: SlotBaseline, x: float, width: float, most: int) -> h.Node:
    height = _BARS_HEIGHT * each.traces / most
    return bool(each.traces) and rect(
        ".bar", x=_n(x + 1), y=_n(_BARS - max(1.0, height)), width=_n(width - 2), height=_n(max(1.0, height))
    )


def _hover(each: SlotBaseline, x: float, width: float) -> h.Element:
    return rect(".hover", x=_n(x), y=str(_TOP), width=_n(width), height=str(_BARS - _TOP))[title[described(each)]]


def _present(present: Present, x: float, y: Callable[[float], float], top: float) -> h.Node:
    if present.p50_seconds is None or present.p95_seconds is None:
        return None
    upper = y(present.p95_seconds)
    end = "end" if x > _WIDTH / 2 else "start"
    return g(class_=["now", {"anomalous": present.anomalous}])[
        line(x1=_n(x), x2=_n(x), y1=_n(upper), y2=_n(y(present.p50_seconds))),
        circle(".hollow", cx=_n(x), cy=_n(y(present.p50_seconds)), r=str(_DOT - 1)),
        # What is beyond the scale is a wedge that points there.
        path(d=f"M{x - 5:.1f} {upper + 5:.1f}h10l-5 -9z")
        if present.p95_seconds > top
        else circle(cx=_n(x), cy=_n(upper), r=str(_DOT)),
        text(x=_n(x + (-9 if end == "end" else 9)), y=_n(upper + 4), text_anchor=end)[
            f"p95 {duration(present.p95_seconds)}"
        ],
    ]


# What both are drawn with

Scale = Callable[[float], float]


def _top(slots: Sequence[SlotBaseline], present: Present) -> float:
    """The largest latency on the scale."""
    usual = max((each.baseline.p95_seconds for each in slots if each.baseline), default=0.0)
    now = present.p95_seconds or 0.0
    return 1.05 * (max(usual, min(now, _HIGHEST_OVER_USUAL * usual)) or now) or 1.0


def _runs(slots: Sequence[SlotBaseline]) -> Iterator[list[tuple[int, Baseline]]]:
    """Hours next to one another that have a baseline."""
    for known, run in groupby(slots, key=lambda each: each.baseline is not None):
        if known:
            yield [(each.slot.hour, each.baseline) for each in run if each.baseline is not None]


def _bands(slots: Sequence[SlotBaseline], x: Scale, y: Scale) -> Iterator[str]:
    """Outlines of what lies between the usual p50 and p95, in steps of an hour."""
    for run in _runs(slots):
        there = [(x(hour), x(hour + 1), y(usual.p95_seconds)) for hour, usual in run]
        back = [(x(hour + 1), x(hour), y(usual.p50_seconds)) for hour, usual in reversed(run)]
        yield f"{_steps(there + back)}z"


def _medians(slots: Sequence[SlotBaseline], x: Scale, y: Scale) -> Iterator[str]:
    for run in _runs(slots):
        yield _steps([(x(hour), x(hour + 1), y(usual.p50_seconds)) for hour, usual in run])


def _edges(slots: Sequence[SlotBaseline], x: Scale, y: Scale) -> Iterator[str]:
    for run in _runs(slots):
        yield _steps([(x(hour), x(hour + 1), y(usual.p95_seconds)) for hour, usual in run])


def _steps(levels: Sequence[tuple[float, float, float]]) -> str:
    """A path along level pieces, each from one place to another at some height."""
    points = [f"{_n(place)} {_n(height)}" for begin, end, height in levels for place in (begin, end)]
    return "M" + "L".join(points)


def _ticks(top: float) -> Iterator[float]:
    """Round values from 0 to a little above or at the top, some three to five."""
    rough = top / 4
    size = 10.0 ** floor(log10(rough))
    step = size * next(each for each in (1, 2, 5, 10) if each * size >= rough)
    for number in range(ceil(top / step - 1e-9) + 1):
        yield number * step


def _n(value: float) -> str:
    return f"{value:.1f}"
