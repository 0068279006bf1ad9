"""Parses user input (instants, durations, trace IDs, labels), and suggests series for a misspelt name."""

import math
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, tzinfo
from typing import Final

from exporter.config.units import parse_duration
from exporter.config.wording import all_near, shown
from exporter.model.span import SeriesKey

_LATEST: Final = 4_102_444_800
"""The year 2100. A later instant was almost certainly given in milliseconds."""
_TRACE_ID_DIGITS: Final = 32
_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:\d\d)?)?", re.ASCII)
_LABEL_NAME: Final = re.compile("[a-zA-Z_][a-zA-Z0-9_]*")
_SIMILAR: Final = 0.5


def parse_instant(text: str, zone: tzinfo, now: float) -> float:
    """Parse an instant: RFC 3339, possibly abbreviated, Unix seconds, or ``now``.

    Args:
        text: the input.
        zone: time zone of an instant without a UTC offset. When clocks go back and a local time occurs twice, the first
            is meant.
        now: the present, Unix seconds.

    Returns:
        Unix seconds.

    Raises:
        ValueError: the input is not an instant; the message is to be put after the parameter's name.
    """
    text = text.strip()
    if text == "now":
        return now
    if re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]+)?", text):
        seconds = float(text)
    else:
        # In a query string that was not encoded, a plus sign has become a space.
        text = re.sub(r"(?<=\d) (\d\d:\d\d)$", r"+\1", text) if "T" in text.upper() else text
        try:
            moment = datetime.fromisoformat(text.upper()) if _RFC_3339.fullmatch(text) else None
        except ValueError:
            moment = None
        if moment is None:
            raise ValueError(
                f"must be a time such as 2026-11-24T14:00 (local), 2026-11-24T14:00Z, Unix seconds or now, "
                f"not {shown(text)}"
            )
        try:
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()
        except OverflowError:
            seconds = math.inf
    if not 0 <= seconds < _LATEST:
        raise ValueError(f"must lie between 1970 and 2100, in seconds, not {shown(text)}")
    return seconds


def parse_seconds(text: str) -> float:
    """Parse a duration in the notation of the configuration, such as ``320ms`` or ``1s500ms``, into seconds.

    Raises:
        ValueError: the input is not a duration; the message is to be put after the parameter's name.
    """
    return parse_duration(text.strip()).total_seconds()


def parse_trace_id(text: str) -> str:
    """Parse a trace ID, and add missing leading zeros to make it 32 hex digits.

    Raises:
        ValueError: the input is not a trace ID; the message is to be put after the parameter's name.
    """
    text = text.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{1,32}", text) or not text.strip("0"):
        raise ValueError(f"must be up to 32 hex digits and not all 0, not {shown(text)}")
    return text.zfill(_TRACE_ID_DIGITS)


def parse_labels(given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Parse the labels of a series, ``name=value`` each, an empty value for none.

    Raises:
        ValueError: one of them is none; the message is to be put after the option's name.
    """
    labels: dict[str, str] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator or not _LABEL_NAME.fullmatch(name):
            raise ValueError(f"{shown(text)} is not NAME=VALUE with a name of letters, digits and underscores")
        labels[name] = value
    return tuple(sorted(labels.items()))


def nearest_series(wanted: SeriesKey, known: Iterable[SeriesKey], most: int = 5) -> list[SeriesKey]:
    """Return the known series with the most similar names, best first; series of the same service precede others."""
    by_service: dict[str, list[SeriesKey]] = {}
    for key in known:
        by_service.setdefault(key.service_name, []).append(key)
    own = by_service.pop(wanted.service_name, [])
    found = _nearest(wanted.span_name, {key: key.span_name for key in own}, most)
    if len(found) < most:
        others = {key: " ".join(key[:2]) for keys in by_service.values() for key in keys}
        found += _nearest(" ".join(wanted[:2]), others, most - len(found))
    return found or sorted(own)[:most]


def _nearest(name: str, names: dict[SeriesKey, str], most: int) -> list[SeriesKey]:
    keys: dict[str, list[SeriesKey]] = {}
    for key, candidate in sorted(names.items()):
        keys.setdefault(candidate, []).append(key)
    near = all_near(name, keys, most=most, cutoff=_SIMILAR)
    return [key for candidate in near for key in keys[candidate]][:most]
