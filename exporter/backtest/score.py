"""Scores firing periods against labelled incidents: how many were found, how soon, and what was false. Pure functions.

An incident is found if the flag fires during the incident or within a margin after it. Firing periods with short gaps
form one episode, because they are one alert for a person. An episode is false if it overlaps no incident and no margin.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, NamedTuple, Protocol, TypeVar

from exporter.backtest.labels import Label
from exporter.detection.flag import FlagKind

MARGIN_SECONDS: Final = 300
"""Margin before and after an incident."""
MARGIN_STEPS: Final = 2
"""The margin after an incident is at least this many median steps between requests."""
EPISODE_GAP_SECONDS: Final = 600
"""Firing periods with a shorter gap form one episode."""
DAY_SECONDS: Final = 86_400


class Period(Protocol):
    """A period in Unix seconds, bounds included."""

    @property
    def start(self) -> float:
        """Start, Unix seconds."""

    @property
    def end(self) -> float:
        """End, Unix seconds."""


_T = TypeVar("_T", bound=Period)


class Interval(NamedTuple):
    """A plain period, in Unix seconds."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Score:
    """Score of one or several series.

    Attributes:
        events: number of incidents to be found.
        delays_seconds: for each found incident, the time from its start until the flag fired.
        true_episodes: number of episodes that overlap an incident.
        false_episodes: number of episodes that overlap none.
        neutral_episodes: number of episodes that overlap only ignored incidents.
        labels_left_out: number of labels that start in the learning period or after the end of the series.
        series_days: scored days, summed over the series.
    """

    events: int = 0
    delays_seconds: tuple[float, ...] = ()
    true_episodes: int = 0
    false_episodes: int = 0
    neutral_episodes: int = 0
    labels_left_out: int = 0
    series_days: float = 0.0

    @property
    def found(self) -> int:
        """Number of incidents found."""
        return len(self.delays_seconds)

    @property
    def recall(self) -> float | None:
        """Share of incidents found; None without incidents."""
        return self.found / self.events if self.events else None

    @property
    def precision(self) -> float | None:
        """Share of true episodes among true and false ones; None without episodes."""
        episodes = self.true_episodes + self.false_episodes
        return self.true_episodes / episodes if episodes else None

    @property
    def false_per_1000_series_days(self) -> float | None:
        """Rate of false episodes; None without scored days."""
        return 1000 * self.false_episodes / self.series_days if self.series_days else None

    @property
    def median_delay_seconds(self) -> float | None:
        """Median delay of found incidents; None if none was found."""
        return median(self.delays_seconds) if self.delays_seconds else None


def group_episodes(periods: Iterable[_T]) -> list[list[_T]]:
    """Group the firing periods of one series into episodes, in time order."""
    groups: list[list[_T]] = []
    end = 0.0
    for period in sorted(periods, key=lambda period: (period.start, period.end)):
        if groups and period.start - end < EPISODE_GAP_SECONDS:
            groups[-1].append(period)
            end = max(end, period.end)
        else:
            groups.append([period])
            end = period.end
    return groups


def score_series(
    firing_periods: Iterable[Period],
    labels: Iterable[Label],
    *,
    since: float,
    until: float,
    step_seconds: float,
    kind: FlagKind = FlagKind.SHIFT,
) -> Score:
    """Score one flag of one series.

    Args:
        firing_periods: when its flag fired.
        labels: its incidents; those that start outside ``[since, until)`` are not scored. Those of other kinds need not
            be found, and flags at them are not false.
        since: end of the learning period, Unix seconds; earlier firing periods are not scored.
        until: end of the series, Unix seconds.
        step_seconds: median time between its requests.
        kind: the flag.
    """
    scored_periods = [period for period in firing_periods if period.start >= since]
    labels = list(labels)
    own = [label for label in labels if label.kind is kind]
    scored_labels = [label for label in own if since <= label.start < until]
    events = [label for label in scored_labels if not label.ignore]
    margin_after = _margin_after(step_seconds)
    delays = []
    for event in events:
        hits = [period.start for period in scored_periods if _overlaps(period, event.start, event.end + margin_after)]
        if hits:
            delays.append(max(0.0, min(hits) - event.start))
    true = false = neutral = 0
    for episode in group_episodes(scored_periods):
        if _overlaps_any(episode, events, margin_after):
            true += 1
        elif _overlaps_any(episode, labels, margin_after):
            neutral += 1
        else:
            false += 1
    return Score(
        events=len(events),
        delays_seconds=tuple(delays),
        true_episodes=true,
        false_episodes=false,
        neutral_episodes=neutral,
        labels_left_out=len(own) - len(scored_labels),
        series_days=max(0.0, until - since) / DAY_SECONDS,
    )


def unlabelled_episodes(firing_periods: Iterable[_T], labels: Iterable[Label], step_seconds: float) -> list[list[_T]]:
    """Return the episodes of one series that touch no label, not even one to be ignored: the false ones of the score.

    Args:
        firing_periods: when its flag fired, after learning.
        labels: its incidents.
        step_seconds: median time between its requests.
    """
    labels = list(labels)
    return [
        episode
        for episode in group_episodes(firing_periods)
        if not _overlaps_any(episode, labels, _margin_after(step_seconds))
    ]


def total_score(scores: Iterable[Score]) -> Score:
    """Add the scores of several series."""
    scores = list(scores)
    return Score(
        events=sum(score.events for score in scores),
        delays_seconds=tuple(delay for score in scores for delay in score.delays_seconds),
        true_episodes=sum(score.true_episodes for score in scores),
        false_episodes=sum(score.false_episodes for score in scores),
        neutral_episodes=sum(score.neutral_episodes for score in scores),
        labels_left_out=sum(score.labels_left_out for score in scores),
        series_days=sum(score.series_days for score in scores),
    )


def _margin_after(step_seconds: float) -> float:
    return max(MARGIN_SECONDS, MARGIN_STEPS * step_seconds)


def _overlaps_any(episode: Sequence[Period], labels: Iterable[Label], margin_after: float) -> bool:
    """Return whether an episode, including its gaps, overlaps any label or its margins."""
    whole = Interval(episode[0].start, max(period.end for period in episode))
    return any(_overlaps(whole, label.start - MARGIN_SECONDS, label.end + margin_after) for label in labels)


def _overlaps(period: Period, start: float, end: float) -> bool:
    return period.start <= end and period.end >= start
