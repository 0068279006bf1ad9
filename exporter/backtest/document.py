"""The report as JSON. docs/backtest.md says what its keys mean; they stay what they are, further ones may be added.

All times are Unix seconds, and what is unknown is null. Episodes have the form of labels: those of one run, taken out
of the document, can be what another one is compared with.
"""

import json
from typing import Any

from exporter.backtest.replay import SeriesReplay
from exporter.backtest.report import BacktestReport, Episode, per_1000_series_days
from exporter.backtest.score import Score
from exporter.detection.explanation import Explanation
from exporter.explain.document import explanation_document


def as_json(report: BacktestReport) -> str:
    """The report, in ASCII."""
    found = report.episodes()
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
                "series_unjudged": report.unjudged(),
                "series_days": days,
                "traces": sum(replay.traces for replay in report.replays),
                "episodes": len(found),
                "episodes_per_1000_series_days": per_1000_series_days(len(found), days),
                "quarantined_hours": sum(len(replay.quarantined) for replay in report.replays),
                "accepted_changes": sum(len(replay.accepted) for replay in report.replays),
                "released_hours": sum(len(replay.released) for replay in report.replays),
            },
            "score": None if score is None else {**_score(score), "labels_elsewhere": report.labels_elsewhere()},
            "episodes": [_episode(episode) for episode in found],
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
    explanation = episode.alerts[0].explanation
    return {
        "series": episode.series,
        "start_unix": episode.start,
        "end_unix": episode.end,
        "ongoing": episode.ongoing,
        "alerts": [{"start_unix": alert.start, "end_unix": alert.end} for alert in episode.alerts],
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
        "counts_from_unix": replay.counts_from,
        "judged_hours": replay.judged_hours,
        "quarantined_hours": list(replay.quarantined),
        "accepted": [{"since_unix": accepted.since, "at_unix": accepted.at} for accepted in replay.accepted],
        "released_hours": list(replay.released),
    }
