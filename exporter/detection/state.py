"""What judging a series' past has come to: small enough to store beside it, and all that is needed to go on."""

from typing import NamedTuple

import msgspec

from exporter.detection.flag import INACTIVE, Flag
from exporter.detection.settlement import SettledHour
from exporter.detection.verdict import HourThresholds


class SeriesState(NamedTuple):
    """What judging the past has come to for one series; all times are unix seconds.

    Attributes:
        until: every hour that ended by then is judged; the next one begins here.
        changepoint: start of the present behaviour, if a lasting change was accepted.
        run: the settled hours of a change that may become the new normal.
        suspects: starts of hours that a flag has touched and that can still be quarantined for it.
        flag: the flag as of the last mark.
        schedule: thresholds of the hours that the next window can reach into.
        recent: traces that it can reach, or that ended later: second, bucket and count.
    """

    until: int
    changepoint: int | None = None
    run: tuple[SettledHour, ...] = ()
    suspects: tuple[int, ...] = ()
    flag: Flag = INACTIVE
    schedule: tuple[HourThresholds, ...] = ()
    recent: tuple[tuple[int, int, int], ...] = ()


def encode_state(state: SeriesState) -> bytes:
    """A state as JSON."""
    return msgspec.json.encode(state)


def decode_state(data: bytes) -> SeriesState:
    """The state that :func:`encode_state` wrote.

    Raises:
        ValueError: the bytes are something else; judging must begin anew.
    """
    return msgspec.json.decode(data, type=SeriesState)
