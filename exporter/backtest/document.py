"""The report as JSON; docs/backtest.md documents the keys. Keys are stable; new ones may be added.

Times are in Unix seconds, and unknown values are null. Episodes have the form of labels, so that those of one run can
be used to score another.
"""

import json
from collections.abc import Sequence
from typing import Any

from exporter.backtest.budget import Proposal
from exporter.backtest.limits import nested
from exporter.backtest.replay import AnyExplanation, SeriesReplay
from exporter.backtest.report import BacktestReport, Episode, per_1000_series_days
from exporter.backtest.score import Score
from exporter.detection.errors.verdict import ErrorExplanation
from exporter.detection.flag import FlagKind
from exporter.detection.regression.verdict import RegressionEvent
from exporter.detection.traffic.verdict import TrafficEvidence
from exporter.explain.document import explanation_document


def as_json(report: BacktestReport) -> str:
    """Render the report as ASCII JSON."""
    episodes = report.episodes()
    score, scores = report.score(), report.scores()
    days = report.series_days()
    return json.dumps(
        {
            "source": {
                "kind": report.kind,
                "path": str(report.path),
                "rows": report.rows,
                "bad_rows": dict(sorted(report.bad_rows.items())),
                "damaged_series": list(report.damaged),
            },
            "settings": list(report.settings),
            "learn_seconds": report.learn_seconds,
            "summary": {
                "series": len(report.replays),
                "series_unjudged": report.never_mature(),
                "series_days": days,
                "traces": sum(replay.traces for replay in report.replays),
                "episodes": len(episodes),
                "episodes_by_kind": {kind.value: sum(each.kind is kind for each in episodes) for kind in FlagKind},
                "episodes_per_1000_series_days": per_1000_series_days(len(episodes), days),
                "quarantined_hours": sum(len(replay.quarantined) for replay in report.replays),
                "accepted_changes": sum(len(replay.accepted_changes) for replay in report.replays),
                "regressions": sum(len(replay.regressions) for replay in report.replays),
                "released_hours": sum(len(replay.released) for replay in report.replays),
            },
            "score": None
            if score is None or scores is None
            else {
                **_score(score),
                "labels_elsewhere": report.labels_of_other_series(),
                "by_kind": {kind.value: _score(each) for kind, each in scores.items()},
            },
            "budget": _budgets(report.proposals),
            "episodes": [_episode(episode) for episode in episodes],
            "series": [_series(replay) for replay in report.replays],
        },
        indent=2,
        allow_nan=False,
    )


def _score(score: Score) -> dict[str, Any]:
    return {
        "events": score.events,
        "found": score.found,
        "recall": score.recall,
        "true_episodes": score.true_episodes,
        "false_episodes": score.false_episodes,
        "neutral_episodes": score.neutral_episodes,
        "precision": score.precision,
        "false_episodes_per_1000_series_days": score.false_per_1000_series_days,
        "median_delay_seconds": score.median_delay_seconds,
        "labels_left_out": score.labels_left_out,
    }


def _episode(episode: Episode) -> dict[str, Any]:
    explanation = episode.firing_periods[0].explanation
    return {
        "series": episode.series,
        "kind": episode.kind.value,
        "start_unix": episode.start,
        "end_unix": episode.end,
        "ongoing": episode.ongoing,
        "alerts": [{"start_unix": period.start, "end_unix": period.end} for period in episode.firing_periods],
        "explanation": None if explanation is None else _explanation(explanation),
    }


def _explanation(explanation: AnyExplanation) -> dict[str, Any]:
    if isinstance(explanation, ErrorExplanation):
        return {
            "sentence": str(explanation),
            "requests": explanation.requests,
            "failures": explanation.failures,
            "allowed": explanation.allowed,
            "usual_ratio": explanation.usual_ratio,
            "limit_ratio": explanation.limit_ratio,
            "chance": explanation.chance,
            "baseline": {
                "level": int(explanation.baseline.level),
                "windows": explanation.baseline.windows,
                "traces": explanation.baseline.requests,
            },
        }
    if isinstance(explanation, TrafficEvidence):
        return {
            "sentence": str(explanation),
            "requests": explanation.requests,
            "usual_requests": explanation.usual,
            "seconds": explanation.seconds,
            "source_ratio": explanation.source,
            "chance": explanation.chance,
            "baseline": {"level": int(explanation.level), "windows": explanation.hours},
        }
    baseline = explanation.baseline
    return {
        **explanation_document(explanation),
        "baseline": {"level": int(baseline.level), "windows": baseline.windows, "traces": baseline.count},
    }


def _series(replay: SeriesReplay) -> dict[str, Any]:
    return {
        "series": replay.series,
        "traces": replay.traces,
        "start_unix": replay.start,
        "end_unix": replay.end,
        "counts_from_unix": replay.learned_until,
        "judged_hours": replay.evaluated_hours,
        "quarantined_hours": list(replay.quarantined),
        "accepted": [{"since_unix": change.since, "at_unix": change.accepted_at} for change in replay.accepted_changes],
        "released_hours": list(replay.released),
        "errors": [
            {
                "start_unix": period.start,
                "end_unix": None if period.ongoing else period.end,
                "explanation": None if period.explanation is None else str(period.explanation),
            }
            for period in replay.error_periods
        ],
        "regressions": [
            {
                "raised_at_unix": period.start,
                "ended_at_unix": None if period.outcome is RegressionEvent.RAISED else period.end,
                "outcome": None if period.outcome is RegressionEvent.RAISED else period.outcome.value,
                "began_after_unix": period.regression.began_after,
                "began_before_unix": period.regression.began_before,
                "quantile": period.regression.quantile,
                "ratio": period.regression.ratio,
            }
            for period in replay.regressions
        ],
    }


def overrides_document(proposal: Proposal) -> list[dict[str, Any]]:
    """Return the proposed overrides as the configuration has them."""
    return [{"match": each.match, "detection": nested(each.changes)} for each in proposal.overrides]


def _budgets(proposals: Sequence[Proposal]) -> dict[str, Any] | None:
    """Return the proposal about latency shifts, as in earlier versions, and those of all kinds."""
    by_kind = {proposal.kind: _budget(proposal) for proposal in proposals}
    if FlagKind.SHIFT not in by_kind:
        return None
    return {**by_kind[FlagKind.SHIFT], "by_kind": {kind.value: each for kind, each in by_kind.items()}}


def _budget(proposal: Proposal) -> dict[str, Any]:
    return {
        "budget": proposal.budget.text,
        "per_endpoint": proposal.budget.per_endpoint,
        "seconds": proposal.seconds,
        "allowed_flags": proposal.allowed,
        "flags_before": proposal.flags_before,
        "flags": proposal.flags,
        "expected_flags": round(proposal.expected, 1),
        "kept": proposal.is_kept,
        "expected_to_hold": proposal.is_expected_to_hold,
        "detection": None if proposal.common is None else nested(proposal.common),
        "overrides": overrides_document(proposal),
    }
