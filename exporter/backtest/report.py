"""Result of a backtest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from exporter.backtest.labels import Label
from exporter.backtest.replay import FiringPeriod, SeriesReplay
from exporter.backtest.score import DAY_SECONDS, Score, group_episodes, score_series, total_score
from exporter.model.calendar import Calendar


class Episode(NamedTuple):
    """Firing periods of one series with short gaps in between.

    Attributes:
        series: the series.
        firing_periods: in time order.
    """

    series: str
    firing_periods: Sequence[FiringPeriod]

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

    def episodes(self) -> list[Episode]:
        """Return all episodes, by series and time."""
        return [
            Episode(replay.series, firing_periods)
            for replay in self.replays
            for firing_periods in group_episodes(replay.firing_periods)
        ]

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
        """Score the episodes against the labels; None without labels."""
        if self.labels is None:
            return None
        by_series: dict[str, list[Label]] = {}
        for label in self.labels:
            by_series.setdefault(label.series, []).append(label)
        return total_score(
            score_series(
                replay.firing_periods,
                by_series.get(replay.series, ()),
                since=replay.learned_until,
                until=replay.end,
                step_seconds=replay.step_seconds,
            )
            for replay in self.replays
        )


def per_1000_series_days(count: int, series_days: float) -> float | None:
    """Return a rate; None without any days."""
    return 1000 * count / series_days if series_days else None
