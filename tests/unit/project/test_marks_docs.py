"""docs/marks.md: its examples are valid, and mean what it says."""

import re
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from benchmarks.detection.suites import Suite, cases
from benchmarks.marks import Outcome, job_and_faults, lost, rows
from exporter.app.marks import configured_marks, mark_of_json, marks_of_file
from exporter.config import load_config
from exporter.model.span import SeriesKey
from exporter.model.time_mark import MarkKind, TimeMarks, check_rule
from tests.support.paths import REPOSITORY

TEXT = (REPOSITORY / "docs" / "marks.md").read_text("utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
CONFIGURATION, _, FILE, _ = BLOCKS


@pytest.mark.parametrize("block", [block for block in BLOCKS if block != FILE])
def test_configuration_blocks_are_valid(block: str, tmp_path: Path) -> None:
    path = tmp_path / "exporter.yaml"
    path.write_text(block)
    load_config(path, {})


def test_configured_example_is_about_the_load_test_and_every_sunday_night(tmp_path: Path) -> None:
    path = tmp_path / "exporter.yaml"
    path.write_text(CONFIGURATION)
    marks = TimeMarks(configured_marks(load_config(path, {})))
    checkout, other = marks.of(SeriesKey("checkout", "GET /")), marks.of(SeriesKey("stock", "GET /"))
    assert checkout is not None
    assert other is not None
    load_test = datetime(2026, 11, 24, 15, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
    assert [each.mark.comment for each in checkout.at(load_test)] == ["load test before the sale"]
    assert other.at(load_test) == []
    sunday = datetime(2027, 3, 7, 2, 30, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
    assert [each.mark.comment for each in other.at(sunday)] == ["maintenance window"]


def test_file_example_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "marks.yaml"
    path.write_text(FILE)
    assert [mark.kind for mark in marks_of_file(path, UTC)] == [MarkKind.NORMAL, MarkKind.INCIDENT]


def test_body_of_the_request_is_a_mark() -> None:
    (body,) = re.findall(r"-d '(\{.*\})'", TEXT)
    assert mark_of_json(body.encode(), UTC).kind is MarkKind.NORMAL


def test_parts_of_rules_are_those_that_are_supported() -> None:
    line = TEXT.partition("by RFC 5545")[2].partition("\n- `comment`")[0]
    parts = set(re.findall(r"`([A-Z]+)`", line)) - {"DAILY", "WEEKLY", "MONTHLY", "YEARLY"}
    with pytest.raises(ValueError, match="supported are") as error:
        check_rule("FREQ=WEEKLY;BYHOUR=3", datetime(2026, 1, 1, tzinfo=UTC))
    assert parts == set(str(error.value).partition("supported are ")[2].split(", "))


def test_quick_benchmark_marks_a_series_and_counts_what_follows() -> None:
    case = next(each for each in cases(Suite.PLAIN, 1, "marks/1") if each.profile.rate_per_minute == 0.5)
    job, faults = job_and_faults(case)
    assert len(job) >= 4
    assert len(faults) > 12
    assert all(fault.end < run.start or fault.start > run.end for fault in faults for run in job)
    outcomes = [
        Outcome(0.5, is_marked=True, repetitions=4, repeats_without=3, repeats=0, found_without=100, found=99),
        Outcome(0.5, is_marked=False),
    ]
    assert lost(outcomes) == pytest.approx(0.01)
    assert rows(outcomes)[-1][1:5] == ("1 of 2", "4", "3", "0 (target 0)")
