"""The report for people, in local time and safe to show on a terminal whatever the series are called."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import groupby

from exporter.backtest.replay import SeriesReplay
from exporter.backtest.report import BacktestReport, Episode, per_1000_series_days
from exporter.backtest.score import Score
from exporter.config.units import format_duration
from exporter.explain.words import counted, hour_ranges
from exporter.model.calendar import Calendar
from exporter.runtime.terminal import printable


def as_text(report: BacktestReport) -> str:
    """The episodes, what became of hours, and what it all adds up to."""
    found = {name: list(some) for name, some in groupby(report.episodes(), key=lambda episode: episode.series)}
    blocks = [
        "\n".join(_series(replay, found.get(replay.series, []), report.calendar))
        for replay in report.replays
        if replay.series in found or replay.accepted or replay.released
    ]
    score = report.score()
    blocks.append("\n".join(_summary(report, sum(map(len, found.values())))))
    if score is not None:
        blocks.append("\n".join(_score(score, report.labels_elsewhere())))
    return "\n\n".join(blocks)


def _series(replay: SeriesReplay, found: Iterable[Episode], calendar: Calendar) -> Iterator[str]:
    yield printable(replay.series)
    for episode in found:
        yield f"  {_span(episode, calendar)}"
        yield f"    {episode.alerts[0].explanation or 'why is not known'}"
    if replay.quarantined:
        yield f"  kept out of the baseline: {_hours(replay.quarantined, calendar)}"
    for accepted in replay.accepted:
        yield (
            f"  became the new normal: what began {_minute(accepted.since, calendar)}, "
            f"accepted {_minute(accepted.at, calendar)}"
        )
    if replay.released:
        yield f"  recurs, so it is usual and counts again: {_hours(replay.released, calendar)}"


def _span(episode: Episode, calendar: Calendar) -> str:
    start, end = calendar.local(episode.start), calendar.local(episode.end)
    until = f"{end:%H:%M:%S %Z}" if start.date() == end.date() else f"{end:%Y-%m-%d %H:%M:%S %Z}"
    lasted = format_duration(timedelta(seconds=episode.end - episode.start))
    flags = f", {len(episode.alerts)} flags" if len(episode.alerts) > 1 else ""
    ongoing = ", still up at the end" if episode.ongoing else ""
    return f"{start:%Y-%m-%d %H:%M:%S %Z} – {until} ({lasted}{flags}{ongoing})"


def _hours(starts: Sequence[int], calendar: Calendar) -> str:
    return f"{counted(len(starts), 'hour')} ({', '.join(hour_ranges(starts, calendar))})"


def _minute(unix_seconds: int, calendar: Calendar) -> str:
    return f"{calendar.local(unix_seconds):%Y-%m-%d %H:%M %Z}"


def _summary(report: BacktestReport, episodes: int) -> Iterator[str]:
    days = report.series_days()
    traces = sum(replay.traces for replay in report.replays)
    start = min(replay.start for replay in report.replays)
    end = max(replay.end for replay in report.replays)
    yield (
        f"{len(report.replays):,} series, {counted(traces, 'trace')}, from {_minute(start, report.calendar)} "
        f"to {_minute(end, report.calendar)}; {days:,.1f} series-days after learning"
    )
    rate = per_1000_series_days(episodes, days)
    yield counted(episodes, "episode") + ("" if rate is None else f", {rate:,.1f} per 1000 series-days")
    quarantined = sum(len(replay.quarantined) for replay in report.replays)
    released = sum(len(replay.released) for replay in report.replays)
    accepted = sum(len(replay.accepted) for replay in report.replays)
    yield (
        f"{counted(quarantined, 'hour')} kept out of the baselines, {released:,} released because they recur; "
        f"{counted(accepted, 'lasting change')} accepted as the new normal"
    )
    if unjudged := report.unjudged():
        yield f"{unjudged:,} of the series never had enough history for a verdict"
    if report.damaged:
        names = ", ".join(map(printable, report.damaged[:3])) + (", …" if len(report.damaged) > 3 else "")
        yield f"{len(report.damaged):,} further series have damaged history and were left out: {names}"
    if report.settings:
        yield f"tried with {', '.join(map(printable, report.settings))}"


def _score(score: Score, elsewhere: int) -> Iterator[str]:
    left_out = []
    if score.labels_left_out:
        left_out.append(f"{score.labels_left_out:,} outside of what counts")
    if elsewhere:
        left_out.append(f"{elsewhere:,} of series that were not replayed")
    aside = f" (left out: {', '.join(left_out)})" if left_out else ""
    yield f"against {counted(score.events, 'labelled event')}{aside}"
    delay = score.median_delay_seconds
    late = "" if delay is None else f", usually {format_duration(timedelta(seconds=round(delay)))} after they began"
    yield f"  recall     {_ratio(score.recall)}  {score.found:,} found{late}"
    neutral = f", {score.neutral_episodes:,} at what is to be ignored" if score.neutral_episodes else ""
    right, wrong = f"{score.true_episodes:,} true", f"{score.false_episodes:,} false"
    yield f"  precision  {_ratio(score.precision)}  {right}, {wrong}{neutral}"
    rate = score.false_per_1000_series_days
    yield f"  false      {'–' if rate is None else f'{rate:,.1f}'} per 1000 series-days"


def _ratio(ratio: float | None) -> str:
    return "   –" if ratio is None else f"{ratio:.2f}"
