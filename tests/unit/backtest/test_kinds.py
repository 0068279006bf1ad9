"""Flags of all kinds in one report: episodes, labels, scores and proposals by kind."""

import json
from io import StringIO
from pathlib import Path

import pytest

from exporter.app.settings import evaluation_settings
from exporter.backtest.budget import parse_budget
from exporter.backtest.document import as_json
from exporter.backtest.labels import Label, LabelsError, read_labels
from exporter.backtest.recorded_traffic import RecordedTraffic
from exporter.backtest.report import BacktestReport
from exporter.backtest.run import BacktestOptions, backtest
from exporter.backtest.score import Interval, score_series
from exporter.backtest.text import as_text
from exporter.backtest.traffic import Requests
from exporter.config import load_config
from exporter.detection.flag import FlagKind
from exporter.model.calendar import Calendar, HourClock
from tests.support.backtest_traffic import MONDAY

DAY, HOUR, NS = 86_400, 3600, 10**9
SILENT = MONDAY + 3 * DAY + 10 * HOUR
"""Two endpoints have 30 requests an hour for four days; one is silent for three hours of the last."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("kinds")
    rows = [
        f"{name},{second},{50 + second % 13}"
        for name in ("shop/pay", "shop/search")
        for second in range(MONDAY, MONDAY + 4 * DAY, 120)
        if name == "shop/search" or not SILENT <= second < SILENT + 3 * HOUR
    ]
    (directory / "traffic.csv").write_text("\n".join(["series,unix_seconds,duration_ms", *rows]), "utf-8")
    return directory


@pytest.fixture(scope="module")
def report(files: Path) -> BacktestReport:
    labels = [
        {"series": "shop/pay", "start_unix": SILENT, "end_unix": SILENT + 3 * HOUR, "kind": "traffic"},
        {"series": "shop/pay", "start_unix": SILENT + 8 * HOUR, "end_unix": SILENT + 9 * HOUR},
    ]
    (files / "labels.json").write_text(json.dumps(labels), "utf-8")
    options = BacktestOptions(
        csv=files / "traffic.csv",
        labels=files / "labels.json",
        learn_seconds=3 * DAY,
        budget=parse_budget("2/week"),
    )
    return backtest(load_config(None, {}), options, lambda _: None, StringIO())


def test_silence_is_an_episode_of_traffic(report: BacktestReport) -> None:
    (episode,) = report.episodes()
    assert (episode.series, episode.kind, episode.ongoing) == ("shop/pay", FlagKind.TRAFFIC, False)
    assert SILENT < episode.start <= SILENT + HOUR
    assert SILENT + 3 * HOUR < episode.end <= SILENT + 4 * HOUR
    text = as_text(report)
    assert "  traffic, 20" in text
    assert "% of the usual traffic" in text
    assert "1 episode (1 of traffic)" in text


def test_failures_of_a_file_are_judged_as_current_traffic_is(tmp_path: Path) -> None:
    begin = MONDAY + 3 * DAY + 10 * HOUR
    rows = [
        f"shop/pay,{second},{50 + second % 13},{int(begin <= second < begin + HOUR and second % 60 == 0)}"
        for second in range(MONDAY, MONDAY + 4 * DAY, 20)
    ]
    path = tmp_path / "traffic.csv"
    path.write_text("\n".join(["series,unix_seconds,duration_ms,failed", *rows]), "utf-8")
    found = backtest(
        load_config(None, {}), BacktestOptions(csv=path, learn_seconds=3 * DAY), lambda _: None, StringIO()
    )
    (episode,) = found.episodes()
    assert (episode.series, episode.kind, episode.ongoing) == ("shop/pay", FlagKind.ERRORS, False)
    # Every third request fails.
    assert begin < episode.start <= begin + 240
    assert begin + HOUR < episode.end <= begin + HOUR + 360
    assert "requests failed" in as_text(found)
    disabled = load_config(None, {"DETECTION_ERRORS_ENABLED": "false"})
    without = backtest(disabled, BacktestOptions(csv=path, learn_seconds=3 * DAY), lambda _: None, StringIO())
    assert without.episodes() == []


def test_each_kind_is_scored_by_its_labels(report: BacktestReport) -> None:
    scores = report.scores()
    assert scores is not None
    assert (scores[FlagKind.TRAFFIC].recall, scores[FlagKind.TRAFFIC].precision) == (1.0, 1.0)
    assert (scores[FlagKind.SHIFT].recall, scores[FlagKind.SHIFT].precision) == (0.0, None)
    assert scores[FlagKind.ERRORS].events == 0
    total = report.score()
    assert total is not None
    assert (total.events, total.found, total.true_episodes) == (2, 1, 1)
    assert total.series_days == scores[FlagKind.SHIFT].series_days
    text = as_text(report)
    assert "against 1 labelled event\n" in text
    assert "against 1 labelled event of traffic\n" in text
    assert "of errors" not in text


def test_json_has_the_kinds(report: BacktestReport) -> None:
    document = json.loads(as_json(report))
    (episode,) = document["episodes"]
    assert episode["kind"] == "traffic"
    assert episode["explanation"]["requests"] < episode["explanation"]["usual_requests"]
    assert document["summary"]["episodes_by_kind"] == {"shift": 0, "errors": 0, "traffic": 1}
    assert document["score"]["by_kind"]["traffic"]["found"] == document["score"]["found"] == 1
    # The silence is labelled, so it does not count against the budget.
    assert document["budget"]["by_kind"]["traffic"]["flags_before"] == 0


def test_episodes_serve_as_labels_with_their_kind(report: BacktestReport, tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(json.loads(as_json(report))["episodes"]), "utf-8")
    (label,) = read_labels(path)
    assert (label.series, label.kind) == ("shop/pay", FlagKind.TRAFFIC)


def test_unknown_kind_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text('[{"series": "x", "start_unix": 1, "end_unix": 2, "kind": "slow"}]', "utf-8")
    with pytest.raises(LabelsError, match=r"slow"):
        read_labels(path)


def test_gap_of_years_in_a_file_is_left_out() -> None:
    series = {"shop/pay": Requests(), "shop/search": Requests()}
    for requests in series.values():
        for start in (MONDAY - 10 * 365 * DAY, MONDAY):
            for second in range(start, start + 2 * DAY, 60):
                requests.add(second * NS, NS // 10)
    recorded = RecordedTraffic(series, evaluation_settings(load_config(None, {})).detector(HourClock(Calendar())))
    assert recorded.end == MONDAY + 2 * DAY
    assert recorded.hours < 20 * 24


def test_flags_at_labels_of_another_kind_count_neither_way() -> None:
    labels = [Label("x", 1000, 2000, kind=FlagKind.ERRORS)]
    of_shift = score_series([Interval(1100, 1900)], labels, since=0, until=9000, step_seconds=1)
    assert (of_shift.events, of_shift.true_episodes, of_shift.false_episodes, of_shift.neutral_episodes) == (0, 0, 0, 1)
    of_errors = score_series([Interval(1100, 1900)], labels, since=0, until=9000, step_seconds=1, kind=FlagKind.ERRORS)
    assert (of_errors.events, of_errors.found, of_errors.true_episodes) == (1, 1, 1)
    late = score_series([], labels, since=1500, until=9000, step_seconds=1)
    assert late.labels_left_out == 0
