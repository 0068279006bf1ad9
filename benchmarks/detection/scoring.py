"""Match the flag's episodes with events."""

from collections.abc import Iterable, Sequence
from math import inf
from typing import Final, NamedTuple

from exporter.detection.flag import FlagChange, FlagEvent

GRACE_SECONDS: Final = 300
"""An episode that starts this soon after an event still matches it."""
SAME_EPISODE_SECONDS: Final = 600
"""Episodes less than this apart are merged."""


class Episode(NamedTuple):
    """A time range in which the flag fired (Unix seconds; the end is infinite while it fires)."""

    start: float
    end: float


class Event(NamedTuple):
    """A time range in which the flag should fire; an ignored one counts neither way."""

    start: float
    end: float
    ignored: bool = False


def episodes(changes: Iterable[FlagChange[object]], since: float = -inf) -> list[Episode]:
    """Return the merged episodes of a flag's changes that start at or after ``since``."""
    found: list[Episode] = []
    fired: float | None = None
    for change in changes:
        if change.event is FlagEvent.FIRING:
            fired = change.at
        elif fired is not None:
            found.append(Episode(fired, change.at))
            fired = None
    if fired is not None:
        found.append(Episode(fired, inf))
    merged: list[Episode] = []
    for episode in found:
        if merged and episode.start - merged[-1].end < SAME_EPISODE_SECONDS:
            merged[-1] = Episode(merged[-1].start, episode.end)
        else:
            merged.append(episode)
    return [episode for episode in merged if episode.start >= since]


def finding(event: Event, found: Sequence[Episode], grace_seconds: float = GRACE_SECONDS) -> Episode | None:
    """Return the first episode that overlaps an event or starts soon after it."""
    return next((e for e in found if e.start <= event.end + grace_seconds and e.end >= event.start), None)


class Tally(NamedTuple):
    """Agreement of episodes and labels.

    Attributes:
        labels: events that should be found.
        found: events that were found.
        right: episodes that match a label.
        wrong: episodes that match no label, not even an ignored one.
    """

    labels: int = 0
    found: int = 0
    right: int = 0
    wrong: int = 0

    def plus(self, other: "Tally") -> "Tally":
        """Return the sum of both."""
        return Tally(*map(sum, zip(self, other, strict=True)))

    @property
    def precision(self) -> float:
        """The share of episodes that match a label; 1 without episodes."""
        alerts = self.right + self.wrong
        return self.right / alerts if alerts else 1.0

    @property
    def recall(self) -> float:
        """The share of labels that were found; 1 without labels."""
        return self.found / self.labels if self.labels else 1.0


def tally(events: Sequence[Event], found: Sequence[Episode], step_seconds: float) -> Tally:
    """Match the episodes of a series with its labels; points are ``step_seconds`` apart."""
    grace = max(GRACE_SECONDS, 2 * step_seconds)
    labels = [event for event in events if not event.ignored]
    right = wrong = 0
    for episode in found:
        matched = [
            e for e in events if episode.start <= e.end + GRACE_SECONDS and episode.end >= e.start - GRACE_SECONDS
        ]
        right += any(not event.ignored for event in matched)
        wrong += not matched
    return Tally(len(labels), sum(finding(event, found, grace) is not None for event in labels), right, wrong)
