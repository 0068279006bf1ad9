"""How well alerts agree with labelled incidents: what was found, how soon, and what was false. Pure arithmetic.

An incident is found when an alert overlaps it or the margin behind it. Alerts that follow one another closely are one
episode, as they are for whoever is woken; an episode is false when it touches no incident and no margin around one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, NamedTuple, Protocol, TypeVar

from exporter.backtest.labels import Label

MARGIN_SECONDS: Final = 300
"""So close to an incident counts as at it."""
MARGIN_STEPS: Final = 2
"""Behind an incident the margin is as long as so many steps of the series, where that is more."""
EPISODE_GAP_SECONDS: Final = 600
"""Alerts less than this apart are one episode."""
DAY_SECONDS: Final = 86_400


class Timed(Protocol):
    """Anything that lasts from one instant to another, in Unix seconds, both included."""

    @property
    def start(self) -> float:
        """When it begins."""

    @property
    def end(self) -> float:
        """When it is over."""


_T = TypeVar("_T", bound=Timed)


class Interval(NamedTuple):
    """The barest alert there is: from one instant to another, Unix seconds."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Score:
    """How alerts and labels agree, for one series or for many.

    Attributes:
        events: incidents that were to be found.
        delays_seconds: for each that was found, how long after its beginning there was an alert.
        true_episodes: episodes that touch an incident.
        false_episodes: episodes that touch none.
        neutral_episodes: episodes that only touch what is to be ignored.
        labels_left_out: labels that began before anything counted, or after the series had ended.
        series_days: days in which episodes counted, added up over the series.
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
        """Incidents that were found."""
        return len(self.delays_seconds)

    @property
    def recall(self) -> float | None:
        """Share of the incidents that were found; None where there was none."""
        return self.found / self.events if self.events else None

    @property
    def precision(self) -> float | None:
        """Share of the episodes, neutral ones aside, that were right; None where there was none."""
        episodes = self.true_episodes + self.false_episodes
        return self.true_episodes / episodes if episodes else None

    @property
    def false_per_1000_series_days(self) -> float | None:
        """How often it was wrong; None where no time counted."""
        return 1000 * self.false_episodes / self.series_days if self.series_days else None

    @property
    def median_delay_seconds(self) -> float | None:
        """The usual delay of those found; None where none was."""
        return median(self.delays_seconds) if self.delays_seconds else None


def episodes(alerts: Iterable[_T]) -> list[list[_T]]:
    """The alerts of one series as episodes, in time order: those that hardly pause in between belong together."""
    found: list[list[_T]] = []
    end = 0.0
    for alert in sorted(alerts, key=lambda alert: (alert.start, alert.end)):
        if found and alert.start - end < EPISODE_GAP_SECONDS:
            found[-1].append(alert)
            end = max(end, alert.end)
        else:
            found.append([alert])
            end = alert.end
    return found


def score_series(
    alerts: Iterable[Timed], labels: Iterable[Label], *, since: float, until: float, step_seconds: float
) -> Score:
    """The score of one series.

    Args:
        alerts: when its flag was up.
        labels: its incidents. Those that began outside of ``[since, until)`` are ignored.
        since: when learning was over, Unix seconds: alerts raised earlier do not count.
        until: when the series ended, Unix seconds.
        step_seconds: the usual distance of its requests.
    """
    counted = [alert for alert in alerts if alert.start >= since]
    labels = list(labels)
    inside = [label for label in labels if since <= label.start < until]
    events = [label for label in inside if not label.ignore]
    behind = max(MARGIN_SECONDS, MARGIN_STEPS * step_seconds)
    delays = []
    for event in events:
        hits = [alert.start for alert in counted if _touch(alert, event.start, event.end + behind)]
        if hits:
            delays.append(max(0.0, min(hits) - event.start))
    right = wrong = neutral = 0
    for episode in episodes(counted):
        if _touches_any(episode, events, behind):
            right += 1
        elif _touches_any(episode, labels, behind):
            neutral += 1
        else:
            wrong += 1
    return Score(
        events=len(events),
        delays_seconds=tuple(delays),
        true_episodes=right,
        false_episodes=wrong,
        neutral_episodes=neutral,
        labels_left_out=len(labels) - len(inside),
        series_days=max(0.0, until - since) / DAY_SECONDS,
    )


def total(scores: Iterable[Score]) -> Score:
    """The score of several series together."""
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


def _touches_any(episode: Sequence[Timed], labels: Iterable[Label], behind: float) -> bool:
    """Whether an episode, the pauses in it included, touches any of the labels or the margins round them."""
    whole = Interval(episode[0].start, max(alert.end for alert in episode))
    return any(_touch(whole, label.start - MARGIN_SECONDS, label.end + behind) for label in labels)


def _touch(alert: Timed, start: float, end: float) -> bool:
    return alert.start <= end and alert.end >= start
