"""The report as text, with local times; series names are escaped for the terminal."""

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
    """Render episodes and quarantine by series, then a summary and the score."""
    episodes = {name: list(group) for name, group in groupby(report.episodes(), key=lambda episode: episode.series)}
    blocks = [
        "\n".join(_series(replay, episodes.get(replay.series, []), report.calendar))
        for replay in report.replays
        if replay.series in episodes or replay.accepted_changes or replay.released
    ]
    score = report.score()
    blocks.append("\n".join(_summary(report, sum(map(len, episodes.values())))))
    if score is not None:
        blocks.append("\n".join(_score(score, report.labels_of_other_series())))
    return "\n\n".join(blocks)


def _series(replay: SeriesReplay, episodes: Iterable[Episode], calendar: Calendar) -> Iterator[str]:
    yield printable(replay.series)
    for episode in episodes:
        yield f"  {_period(episode, calendar)}"
        yield f"    {episode.firing_periods[0].explanation or 'no explanation'}"
    if replay.quarantined:
        yield f"  quarantined: {_hour_list(replay.quarantined, calendar)}"
    for change in replay.accepted_changes:
        yield (
            f"  accepted as the new baseline: change of {_minute(change.since, calendar)}, "
            f"accepted {_minute(change.accepted_at, calendar)}"
        )
    if replay.released:
        yield f"  released from quarantine, as they recur: {_hour_list(replay.released, calendar)}"


def _period(episode: Episode, calendar: Calendar) -> str:
    start, end = calendar.local(episode.start), calendar.local(episode.end)
    until = f"{end:%H:%M:%S %Z}" if start.date() == end.date() else f"{end:%Y-%m-%d %H:%M:%S %Z}"
    lasted = format_duration(timedelta(seconds=episode.end - episode.start))
    flags = f", {len(episode.firing_periods)} flags" if len(episode.firing_periods) > 1 else ""
    ongoing = ", still firing at the end" if episode.ongoing else ""
    return f"{start:%Y-%m-%d %H:%M:%S %Z} – {until} ({lasted}{flags}{ongoing})"


def _hour_list(starts: Sequence[int], calendar: Calendar) -> str:
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
    accepted = sum(len(replay.accepted_changes) for replay in report.replays)
    yield (
        f"{counted(quarantined, 'hour')} quarantined, {released:,} released because they recur; "
        f"{counted(accepted, 'lasting change')} accepted as the new baseline"
    )
    if never_mature := report.never_mature():
        yield f"{never_mature:,} series never had enough history for a verdict"
    if report.damaged:
        names = ", ".join(map(printable, report.damaged[:3])) + (", …" if len(report.damaged) > 3 else "")
        yield f"{len(report.damaged):,} series with damaged history were left out: {names}"
    if report.settings:
        yield f"settings: {', '.join(map(printable, report.settings))}"


def _score(score: Score, labels_of_other_series: int) -> Iterator[str]:
    left_out = []
    if score.labels_left_out:
        left_out.append(f"{score.labels_left_out:,} outside the scored time")
    if labels_of_other_series:
        left_out.append(f"{labels_of_other_series:,} of series that were not replayed")
    exclusions = f" (left out: {', '.join(left_out)})" if left_out else ""
    yield f"against {counted(score.events, 'labelled event')}{exclusions}"
    delay = score.median_delay_seconds
    delay_text = "" if delay is None else f", median delay {format_duration(timedelta(seconds=round(delay)))}"
    yield f"  recall     {_ratio(score.recall)}  {score.found:,} found{delay_text}"
    neutral = f", {score.neutral_episodes:,} ignored" if score.neutral_episodes else ""
    true_count, false_count = f"{score.true_episodes:,} true", f"{score.false_episodes:,} false"
    yield f"  precision  {_ratio(score.precision)}  {true_count}, {false_count}{neutral}"
    rate = score.false_per_1000_series_days
    yield f"  false      {'–' if rate is None else f'{rate:,.1f}'} per 1000 series-days"


def _ratio(ratio: float | None) -> str:
    return "   –" if ratio is None else f"{ratio:.2f}"
