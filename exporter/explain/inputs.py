"""What people write into a question: instants, durations, trace ids."""

import math
import re
from datetime import datetime, tzinfo
from typing import Final

from exporter.config.units import parse_duration
from exporter.config.wording import shown

_LATEST: Final = 4_102_444_800
"""The year 2100: whoever asks about a later instant has mistaken the unit."""
_TRACE_ID_DIGITS: Final = 32
_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:\d\d)?)?", re.ASCII)


def parse_instant(text: str, zone: tzinfo, now: float) -> float:
    """Unix seconds of an instant, written as RFC 3339 (as much of it as is needed), as Unix seconds, or as ``now``.

    Args:
        text: what was written.
        zone: whose clock an instant without an offset from UTC is read from; of a time that comes twice there, when the
            clock is turned back, the first is meant.
        now: Unix seconds.

    Raises:
        ValueError: it is neither; the message goes on where the name of the parameter stands.
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
    """The seconds of a duration, written as in the configuration: ``320ms``, ``1s500ms``.

    Raises:
        ValueError: it is none; the message goes on where the name of the parameter stands.
    """
    return parse_duration(text.strip()).total_seconds()


def parse_trace_id(text: str) -> str:
    """A trace id with all its 32 digits; leading zeros may be missing.

    Raises:
        ValueError: it is none; the message goes on where the name of the parameter stands.
    """
    text = text.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{1,32}", text) or not text.strip("0"):
        raise ValueError(f"must be up to 32 hex digits and not all 0, not {shown(text)}")
    return text.zfill(_TRACE_ID_DIGITS)
