"""Result of a backtest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from exporter.backtest.budget import Proposal
from exporter.backtest.labels import Label
from exporter.backtest.replay import FiringPeriod, SeriesReplay
from exporter.backtest.score import DAY_SECONDS, Score, group_episodes, score_series, total_score
from exporter.detection.flag import FlagKind
from exporter.model.calendar import Calendar


class Episode(NamedTuple):
    """Firing periods of one flag of one series with short gaps in between.

    Attributes:
        series: the series.
        firing_periods: in time order.
    """

    series: str
    firing_periods: Sequence[FiringPeriod]

    @property
    def kind(self) -> FlagKind:
        """Which flag."""
        return self.firing_periods[0].kind

    @property
    def start(self) -> int:
        """Start, Unix seconds."""
        return self.firing_periods[0].start

    @property
    def end(self) -> int:
        """End, Unix seconds."""
        return max(period.end for period in self.firing_periods)

    @property
    def ongoing(self) -> bool:
        """Whether the flag was still firing at the end of the traffic."""
        return self.firing_periods[-1].ongoing


@dataclass(frozen=True)
class BacktestReport:
    """Result of a backtest.

    Attributes:
        kind: source of the traffic.
        path: the database or the file.
        calendar: for local times.
        settings: configuration overrides of this run, ``key=value`` each.
        learn_seconds: learning period of each series; None means until its first mature baseline.
        replays: the replayed series, by name.
        damaged: names of series whose stored history is damaged.
        rows: number of rows of the CSV file; None for stored history.
        bad_rows: number of invalid rows, by reason.
        labels: labelled incidents; None without labels.
        proposals: settings that keep to a budget, for each kind of flag; empty without a budget.
    """

    kind: Literal["history", "csv"]
    path: Path
    calendar: Calendar
    settings: Sequence[str]
    learn_seconds: int | None
    replays: Sequence[SeriesReplay]
    damaged: Sequence[str] = ()
    rows: int | None = None
    bad_rows: Mapping[str, int] = field(default_factory=dict)
    labels: Sequence[Label] | None = None
    proposals: Sequence[Proposal] = ()

    def episodes(self) -> list[Episode]:
        """Return all episodes, by series, time and kind."""
        return [episode for replay in self.replays for episode in _episodes(replay)]

    def series_days(self) -> float:
        """Return the days after learning, summed over the series."""
        return sum(max(0, replay.end - replay.learned_until) for replay in self.replays) / DAY_SECONDS

    def never_mature(self) -> int:
        """Return the number of series that never had a mature baseline."""
        return sum(not replay.evaluated_hours for replay in self.replays)

    def labels_of_other_series(self) -> int:
        """Return the number of labels of series that were not replayed; they are not scored."""
        replayed = {replay.series for replay in self.replays}
        return sum(label.series not in replayed for label in self.labels or ())

    def score(self) -> Score | None:
        """Score the episodes of all kinds against the labels; None without labels."""
        by_kind = self.scores()
        if by_kind is None:
            return None
        # A day of a series is one, however many flags it has.
        days = by_kind[FlagKind.SHIFT].series_days
        return replace(total_score(by_kind.values()), series_days=days)

    def scores(self) -> Mapping[FlagKind, Score] | None:
        """Score the episodes of each kind against the labels; None without labels."""
        if self.labels is None:
            return None
        by_series: dict[str, list[Label]] = {}
        for label in self.labels:
            by_series.setdefault(label.series, []).append(label)
        return {
            kind: total_score(
                score_series(
                    replay.periods_of(kind),
                    by_series.get(replay.series, ()),
                    since=replay.learned_until,
                    until=replay.end,
                    step_seconds=replay.step_seconds,
                    kind=kind,
                )
                for replay in self.replays
            )
            for kind in FlagKind
        }


def _episodes(replay: SeriesReplay) -> list[Episode]:
    found = [
        Episode(replay.series, periods) for kind in FlagKind for periods in group_episodes(replay.periods_of(kind))
    ]
    return sorted(found, key=lambda episode: episode.start)


def per_1000_series_days(count: int, series_days: float) -> float | None:
    """Return a rate; None without any days."""
    return 1000 * count / series_days if series_days else None
