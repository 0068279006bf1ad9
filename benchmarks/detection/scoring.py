"""What is counted: episodes, incidents found, and how soon."""

from collections.abc import Iterable, Sequence
from math import inf
from typing import Final, NamedTuple

from exporter.detection.flag import FlagEvent
from exporter.detection.tick import FlagChange

GRACE_SECONDS: Final = 300
"""An alert so soon after an event still belongs to it."""
SAME_EPISODE_SECONDS: Final = 600
"""Alerts less than this apart are one episode."""


class Episode(NamedTuple):
    """A flag was up from one instant to another (Unix seconds; infinite while it lasts)."""

    start: float
    end: float


class Event(NamedTuple):
    """What happened from one instant to another, and ought to be found; or ought neither way where it is ignored."""

    start: float
    end: float
    ignored: bool = False


def episodes(changes: Iterable[FlagChange], since: float = -inf) -> list[Episode]:
    """The episodes that a flag's changes make up, as far as they begin after an instant."""
    found: list[Episode] = []
    raised: float | None = None
    for change in changes:
        if change.event is FlagEvent.FIRING:
            raised = change.at
        elif raised is not None:
            found.append(Episode(raised, change.at))
            raised = None
    if raised is not None:
        found.append(Episode(raised, inf))
    merged: list[Episode] = []
    for episode in found:
        if merged and episode.start - merged[-1].end < SAME_EPISODE_SECONDS:
            merged[-1] = Episode(merged[-1].start, episode.end)
        else:
            merged.append(episode)
    return [episode for episode in merged if episode.start >= since]


def finding(event: Event, found: Sequence[Episode], grace_seconds: float = GRACE_SECONDS) -> Episode | None:
    """The first episode that overlaps an event or comes soon after it."""
    return next((e for e in found if e.start <= event.end + grace_seconds and e.end >= event.start), None)


class Tally(NamedTuple):
    """How alerts and labels agree.

    Attributes:
        labels: events that ought to be found.
        found: how many of them were.
        right: episodes that touch a label.
        wrong: episodes that touch none, not even an ignored one.
    """

    labels: int = 0
    found: int = 0
    right: int = 0
    wrong: int = 0

    def plus(self, other: "Tally") -> "Tally":
        """Both together."""
        return Tally(*map(sum, zip(self, other, strict=True)))

    @property
    def precision(self) -> float:
        """The share of episodes that were right; 1 where there were none."""
        alerts = self.right + self.wrong
        return self.right / alerts if alerts else 1.0

    @property
    def recall(self) -> float:
        """The share of labels that were found."""
        return self.found / self.labels if self.labels else 1.0


def tally(events: Sequence[Event], found: Sequence[Episode], step_seconds: float) -> Tally:
    """Hold episodes against labels, for a series with a point in every so many seconds."""
    grace = max(GRACE_SECONDS, 2 * step_seconds)
    wanted = [event for event in events if not event.ignored]
    right = wrong = 0
    for episode in found:
        touched = [
            e for e in events if episode.start <= e.end + GRACE_SECONDS and episode.end >= e.start - GRACE_SECONDS
        ]
        right += any(not event.ignored for event in touched)
        wrong += not touched
    return Tally(len(wanted), sum(finding(event, found, grace) is not None for event in wanted), right, wrong)
