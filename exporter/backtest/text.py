"""The report as text, with local times; series names are escaped for the terminal."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import groupby

from exporter.backtest.budget import Proposal
from exporter.backtest.limits import nested
from exporter.backtest.replay import RegressionPeriod, SeriesReplay
from exporter.backtest.report import BacktestReport, Episode, per_1000_series_days
from exporter.backtest.score import DAY_SECONDS, Score
from exporter.config.units import format_duration
from exporter.detection.flag import FlagKind
from exporter.detection.regression.verdict import RegressionEvent
from exporter.explain.words import counted, hour_ranges, regression_sentence
from exporter.model.calendar import Calendar
from exporter.runtime.terminal import printable


def as_text(report: BacktestReport) -> str:
    """Render episodes and quarantine by series, then a summary and the score."""
    episodes = {name: list(group) for name, group in groupby(report.episodes(), key=lambda episode: episode.series)}
    blocks = [
        "\n".join(_series(replay, episodes.get(replay.series, []), report.calendar))
        for replay in report.replays
        if replay.series in episodes or replay.accepted_changes or replay.released or replay.regressions
    ]
    scores = report.scores()
    blocks.append("\n".join(_summary(report, [episode for found in episodes.values() for episode in found])))
    if scores is not None:
        elsewhere = report.labels_of_other_series()
        blocks += [
            "\n".join(_score(kind, score, elsewhere if kind is FlagKind.SHIFT else 0))
            for kind, score in scores.items()
            if kind is FlagKind.SHIFT or score.events or score.true_episodes or score.false_episodes
        ]
    blocks += map("\n".join, _proposals(report.proposals))
    return "\n\n".join(blocks)


def _series(replay: SeriesReplay, episodes: Iterable[Episode], calendar: Calendar) -> Iterator[str]:
    yield printable(replay.series)
    for episode in episodes:
        kind = "" if episode.kind is FlagKind.SHIFT else f"{episode.kind}, "
        yield f"  {kind}{_period(episode, calendar)}"
        yield f"    {episode.firing_periods[0].explanation or 'no explanation'}"
    for period in replay.regressions:
        yield f"  regression, {_regression_span(period, calendar)}"
        yield f"    {regression_sentence(period.regression, calendar.local)}"
    if replay.quarantined:
        yield f"  quarantined: {_hour_list(replay.quarantined, calendar)}"
    for change in replay.accepted_changes:
        yield (
            f"  accepted as the new baseline: change of {_minute(change.since, calendar)}, "
            f"accepted {_minute(change.accepted_at, calendar)}"
        )
    if replay.released:
        yield f"  released from quarantine, as they recur: {_hour_list(replay.released, calendar)}"


def _regression_span(period: RegressionPeriod, calendar: Calendar) -> str:
    how = {
        RegressionEvent.RAISED: "still present at the end",
        RegressionEvent.RESOLVED: f"gone {_minute(period.end, calendar)}",
        RegressionEvent.ACCEPTED: f"accepted as normal {_minute(period.end, calendar)}",
    }
    return f"found {_minute(period.start, calendar)}, {how[period.outcome]}"


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


def _summary(report: BacktestReport, episodes: Sequence[Episode]) -> Iterator[str]:
    days = report.series_days()
    traces = sum(replay.traces for replay in report.replays)
    start = min(replay.start for replay in report.replays)
    end = max(replay.end for replay in report.replays)
    yield (
        f"{len(report.replays):,} series, {counted(traces, 'trace')}, from {_minute(start, report.calendar)} "
        f"to {_minute(end, report.calendar)}; {days:,.1f} series-days after learning"
    )
    rate = per_1000_series_days(len(episodes), days)
    by_kind = {kind: sum(episode.kind is kind for episode in episodes) for kind in FlagKind}
    others = [f"{count:,} of {kind}" for kind, count in by_kind.items() if count and kind is not FlagKind.SHIFT]
    kinds = f" ({', '.join(others)})" if others else ""
    yield counted(len(episodes), "episode") + kinds + ("" if rate is None else f", {rate:,.1f} per 1000 series-days")
    quarantined = sum(len(replay.quarantined) for replay in report.replays)
    released = sum(len(replay.released) for replay in report.replays)
    accepted = sum(len(replay.accepted_changes) for replay in report.replays)
    yield (
        f"{counted(quarantined, 'hour')} quarantined, {released:,} released because they recur; "
        f"{counted(accepted, 'lasting change')} accepted as the new baseline"
    )
    regressions = sum(len(replay.regressions) for replay in report.replays)
    yield counted(regressions, "regression")
    if never_mature := report.never_mature():
        yield f"{never_mature:,} series never had enough history for a verdict"
    if report.damaged:
        names = ", ".join(map(printable, report.damaged[:3])) + (", …" if len(report.damaged) > 3 else "")
        yield f"{len(report.damaged):,} series with damaged history were left out: {names}"
    if report.settings:
        yield f"settings: {', '.join(map(printable, report.settings))}"


def _score(kind: FlagKind, score: Score, labels_of_other_series: int) -> Iterator[str]:
    left_out = []
    if score.labels_left_out:
        left_out.append(f"{score.labels_left_out:,} outside the scored time")
    if labels_of_other_series:
        left_out.append(f"{labels_of_other_series:,} of series that were not replayed")
    exclusions = f" (left out: {', '.join(left_out)})" if left_out else ""
    of_kind = "" if kind is FlagKind.SHIFT else f" of {kind}"
    yield f"against {counted(score.events, 'labelled event')}{of_kind}{exclusions}"
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


def _proposals(proposals: Sequence[Proposal]) -> Iterator[Iterable[str]]:
    for proposal in proposals:
        if proposal.kind is FlagKind.SHIFT or proposal.flags_before:
            yield _budget(proposal)
    if any(proposal.common is not None or proposal.overrides for proposal in proposals):
        yield _yaml(proposals)


def _budget(proposal: Proposal) -> Iterator[str]:
    budget = proposal.budget
    days = proposal.seconds / DAY_SECONDS
    whose = "for each endpoint" if budget.per_endpoint else "for all endpoints together"
    of_kind = "" if proposal.kind is FlagKind.SHIFT else f" of {proposal.kind}"
    yield f"budget of {budget.text}{of_kind} {whose}: {proposal.allowed:.1f} in {days:.1f} days"
    yield f"  now        {counted(proposal.flags_before, 'flag')} count against it"
    if proposal.common is None and not proposal.overrides and proposal.is_kept:
        yield "  kept by the present settings"
        return
    yield f"  then       {counted(proposal.flags, 'flag')}; {proposal.expected:,.0f} expected in as much later time"
    if not proposal.is_kept:
        yield "  NOT KEPT   even with the highest limits that were tried; disable endpoints, or allow more flags"
    elif not proposal.is_expected_to_hold:
        yield "  kept in this traffic, but more flags are expected later: too little history for so few flags"


def _yaml(proposals: Sequence[Proposal]) -> Iterator[str]:
    """Yield what to paste into the configuration."""
    common = {key: value for proposal in proposals for key, value in (proposal.common or {}).items()}
    if common:
        yield f"detection: {_flow(nested(common))}"
    overrides = [override for proposal in proposals for override in proposal.overrides]
    if overrides:
        yield "overrides:"
    for override in overrides:
        quoted = override.match.replace("'", "''")
        yield f"  - match: '{quoted}'  # {counted(override.flags_before, 'flag')} now, then {override.flags:,}"
        yield f"    detection: {_flow(nested(override.changes))}"


def _flow(value: object) -> str:
    """Return a value as YAML in one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_flow(each)}' for key, each in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else str(value)
