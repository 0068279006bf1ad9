"""One series as it is stored, ready to be asked what is usual for it."""

from typing import Final

from exporter.core.civil import HOUR_SECONDS
from exporter.core.detection.detector import Detector, Outlook
from exporter.core.detection.state import decode_state
from exporter.core.hours import CivilHour, Hours, hours_of
from exporter.store import SeriesHistory

_BEHIND_SECONDS: Final = 3 * HOUR_SECONDS
"""With more of the past unjudged there is no verdict on the present: an incident might stand in the baseline."""


class SeriesRecord:
    """The judged past of one series. What is asked of it must be asked in the order of time.

    Attributes:
        history: its hours with their judgements; those that are out of reach are dropped as questions move on.
        epoch: start of its present behaviour, if a lasting change was accepted.
        suspects: starts of hours that are not pooled because a raised flag has touched them.
    """

    def __init__(self, stored: SeriesHistory, detector: Detector) -> None:
        """Take what is stored, and the rules by which it is judged."""
        self._detector = detector
        self.suspects = stored.suspects
        self.history = Hours(hours_of(stored.windows, detector.clock, stored.judgements))
        self.epoch = epoch_of(stored.state)

    def expect(self, civil: CivilHour) -> Outlook:
        """What is expected in an hour; that of a slot which is not the hour's own is asked about in the same way.

        Raises:
            DamagedDigestError: stored bytes are damaged.
        """
        return self._detector.expect(self.history, civil, epoch=self.epoch, suspects=self.suspects)


def judged_far_enough(judged_until: int | None, start: int) -> bool:
    """Whether the past of an hour is judged far enough for a verdict.

    Args:
        judged_until: up to when the past was judged; absent if it never was.
        start: when the hour begins, Unix seconds.
    """
    return judged_until is not None and start - judged_until <= _BEHIND_SECONDS


def epoch_of(state: bytes | None) -> int | None:
    """The epoch in the state of a series, as it is stored; a state that cannot be read has none."""
    if state is None:
        return None
    try:
        return decode_state(state).epoch
    except ValueError:
        # Whoever judges the past says so, and begins anew.
        return None
