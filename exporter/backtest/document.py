"""The report as JSON; docs/backtest.md documents the keys. Keys are stable; new ones may be added.

Times are in Unix seconds, and unknown values are null. Episodes have the form of labels, so that those of one run can
be used to score another.
"""

import json
from typing import Any

from exporter.backtest.replay import SeriesReplay
from exporter.backtest.report import BacktestReport, Episode, per_1000_series_days
from exporter.backtest.score import Score
from exporter.detection.explanation import Explanation
from exporter.explain.document import explanation_document


def as_json(report: BacktestReport) -> str:
    """Render the report as ASCII JSON."""
    episodes = report.episodes()
    score = report.score()
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
                "episodes_per_1000_series_days": per_1000_series_days(len(episodes), days),
                "quarantined_hours": sum(len(replay.quarantined) for replay in report.replays),
                "accepted_changes": sum(len(replay.accepted_changes) for replay in report.replays),
                "released_hours": sum(len(replay.released) for replay in report.replays),
            },
            "score": None if score is None else {**_score(score), "labels_elsewhere": report.labels_of_other_series()},
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
        "start_unix": episode.start,
        "end_unix": episode.end,
        "ongoing": episode.ongoing,
        "alerts": [{"start_unix": period.start, "end_unix": period.end} for period in episode.firing_periods],
        "explanation": None if explanation is None else _explanation(explanation),
    }


def _explanation(explanation: Explanation) -> dict[str, Any]:
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
    }
