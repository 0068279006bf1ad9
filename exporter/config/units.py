"""Durations as Prometheus writes them: ``90s``, ``15m``, ``7d``, ``1h30m``."""

import re
from datetime import timedelta
from typing import Final

from exporter.config.wording import shown

_UNITS: Final = {
    "y": timedelta(days=365),
    "w": timedelta(weeks=1),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
_DURATION: Final = re.compile("".join(rf"(?:([0-9]+){unit})?" for unit in _UNITS))
_FORMAT_UNITS: Final = ("d", "h", "m", "s", "ms")
"""Without weeks and years: 28d is easier to compare with 14d than 4w is with 14d."""


def parse_duration(text: str) -> timedelta:
    """Parse a duration in the notation of Prometheus.

    Numbers with a unit, from the largest to the smallest, each unit at most once: ``y`` (365 days), ``w``, ``d``,
    ``h``, ``m``, ``s``, ``ms``. A plain ``0`` needs no unit.

    Raises:
        ValueError: not a duration, or one that is too long; the message says what to write.
    """
    if text == "0":
        return timedelta()
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise ValueError(_problem(text))
    try:
        return sum(
            (int(number) * unit for number, unit in zip(match.groups(), _UNITS.values(), strict=True) if number),
            timedelta(),
        )
    except (OverflowError, ValueError):  # more days than a timedelta holds, more digits than an int may be read from
        raise ValueError("is too long") from None


def format_duration(duration: timedelta) -> str:
    """Format a duration so that `parse_duration` reads it back: ``1d12h``, ``250ms``, ``0s``.

    It is rounded to milliseconds, the smallest unit of the notation.

    Raises:
        ValueError: the duration is negative.
    """
    if duration < timedelta():
        raise ValueError(f"a duration cannot be negative: {duration}")
    # In whole numbers: a float does not hold the milliseconds of 300,000 years.
    rest = (duration + _UNITS["ms"] / 2) // _UNITS["ms"] * _UNITS["ms"]
    parts = []
    for unit in _FORMAT_UNITS:
        count, rest = divmod(rest, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def _problem(text: str) -> str:
    if re.fullmatch("[0-9]+", text):
        return f"needs a unit, such as s, m, h or d, not {shown(text)}"
    return f"must be a duration such as 90s, 15m, 7d or 1h30m, not {shown(text)}"
