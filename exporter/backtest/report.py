"""What a backtest has found, and what it adds up to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from exporter.backtest.labels import Label
from exporter.backtest.replay import Alert, SeriesReplay
from exporter.backtest.score import DAY_SECONDS, Score, episodes, score_series, total
from exporter.model.calendar import Calendar


class Episode(NamedTuple):
    """Alerts of one series that follow one another closely.

    Attributes:
        series: the series.
        alerts: the alerts, by time.
    """

    series: str
    alerts: Sequence[Alert]

    @property
    def start(self) -> int:
        """When it began, Unix seconds."""
        return self.alerts[0].start

    @property
    def end(self) -> int:
        """When it was over, Unix seconds."""
        return max(alert.end for alert in self.alerts)

    @property
    def ongoing(self) -> bool:
        """Whether the flag was still up at the end of the traffic."""
        return self.alerts[-1].ongoing


@dataclass(frozen=True)
class BacktestReport:
    """What a backtest has found.

    Attributes:
        kind: where the traffic came from.
        path: the file it came from.
        calendar: tells local times.
        settings: what was set for this run, ``key=value`` each.
        learn_seconds: how much of each series was for learning; absent: up to its first mature baseline.
        replays: the series, by name.
        damaged: names of series whose stored history cannot be read.
        rows: rows of the CSV file; absent for stored history.
        bad_rows: those that could not be used, by reason.
        labels: what is to be found; absent where there are no labels.
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
        """All episodes, by series and time."""
        return [Episode(replay.series, alerts) for replay in self.replays for alerts in episodes(replay.alerts)]

    def series_days(self) -> float:
        """Days in which episodes counted, added up over the series."""
        return sum(max(0, replay.end - replay.counts_from) for replay in self.replays) / DAY_SECONDS

    def unjudged(self) -> int:
        """Series that never had a mature baseline."""
        return sum(not replay.judged_hours for replay in self.replays)

    def labels_elsewhere(self) -> int:
        """Labels of series that were not replayed; they are not part of the score."""
        known = {replay.series for replay in self.replays}
        return sum(label.series not in known for label in self.labels or ())

    def score(self) -> Score | None:
        """How it agrees with the labels, if there are any."""
        if self.labels is None:
            return None
        by_series: dict[str, list[Label]] = {}
        for label in self.labels:
            by_series.setdefault(label.series, []).append(label)
        return total(
            score_series(
                replay.alerts,
                by_series.get(replay.series, ()),
                since=replay.counts_from,
                until=replay.end,
                step_seconds=replay.step_seconds,
            )
            for replay in self.replays
        )


def per_1000_series_days(count: int, series_days: float) -> float | None:
    """A rate; None where no time counted."""
    return 1000 * count / series_days if series_days else None
