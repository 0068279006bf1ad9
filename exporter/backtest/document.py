"""The report as JSON. The keys below stay what they are; further ones may be added. All times are Unix seconds.

- ``source``: ``kind`` (``history`` or ``csv``), ``path``, ``rows`` and ``bad_rows`` (number by reason; of a CSV file,
  else null and empty), ``damaged_series`` (names; their stored bytes cannot be read)
- ``settings``: what was given with ``--set``, as text
- ``learn_seconds``: learning time of each series; null: up to its first mature baseline
- ``summary``: ``series``, ``series_unjudged`` (never had a mature baseline), ``series_days`` (after learning),
  ``traces``, ``episodes``, ``episodes_per_1000_series_days``, ``quarantined_hours``, ``accepted_changes``,
  ``released_hours``
- ``score`` (null without labels): ``events``, ``found``, ``recall``, ``true_episodes``, ``false_episodes``,
  ``neutral_episodes`` (touch only ignored labels), ``precision``, ``false_episodes_per_1000_series_days``,
  ``median_delay_seconds``, ``labels_left_out`` (outside of what counts), ``labels_elsewhere`` (series not replayed)
- ``episodes``, by series and time: ``series``, ``start_unix``, ``end_unix``, ``ongoing`` (still up at the end of the
  traffic), ``alerts`` (``start_unix`` and ``end_unix`` of each), ``explanation`` of the first: ``sentence``,
  ``quantile``, ``traces``, ``slow``, ``allowed``, ``limit_seconds``, ``usual_seconds``, ``current_seconds``,
  ``swing_factor``, ``chance``, ``baseline`` (``level``, ``windows``, ``traces``)
- ``series``, by name: ``series``, ``traces``, ``start_unix``, ``end_unix``, ``counts_from_unix`` (learning was over),
  ``judged_hours``, ``quarantined_hours`` (their starts), ``accepted`` (``since_unix``, ``at_unix``),
  ``released_hours`` (their starts)

What is unknown, such as the precision without episodes, is null. Episodes have the form of labels: those of one run,
taken out of the document, can be what another one is compared with.
"""

import json
from typing import Any

from exporter.backtest.replay import SeriesReplay
from exporter.backtest.report import Episode, Report, per_1000_series_days
from exporter.backtest.score import Score
from exporter.core.detection.explanation import Explanation


def as_json(report: Report) -> str:
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
        "sentence": str(explanation),
        "quantile": explanation.quantile,
        "traces": explanation.traces,
        "slow": explanation.slow,
        "allowed": explanation.allowed,
        "limit_seconds": explanation.limit_seconds,
        "usual_seconds": explanation.usual_seconds,
        "current_seconds": explanation.current_seconds,
        "swing_factor": explanation.swing_factor,
        "chance": explanation.chance,
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
