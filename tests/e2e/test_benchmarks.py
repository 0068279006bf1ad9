"""Quick runs of the benchmarks: every budget is measured. At these sizes the figures mean nothing."""

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from benchmarks.__main__ import CIRCUMSTANCES, NAMES
from benchmarks.detection.__main__ import main as measure_detection
from benchmarks.report import HEADER
from tests.support.paths import REPOSITORY


def rows(text: str, header: Sequence[str]) -> list[list[str]]:
    """Return the rows of the table with a header, as cells."""
    lines = iter(text.splitlines())
    for line in lines:
        if cells(line) == list(header):
            break
    next(lines)
    return [cells(line) for line in iter(lambda: next(lines, ""), "")]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.timeout(600)
def test_quick_run_measures_every_budget() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick"],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    figures = rows(done.stdout, HEADER)
    budgets = {(what, limit) for budget, what, _, _, _, limit in figures if budget in ("kept", "MISSED")}
    for beginning, limit in (
        ("backfill of 7 days", "≤ 1.5 ×"),
        ("the whole exporter, source at 14,000 traces/s", "≤ 1.25 ×"),
        ("a window of 4 × the budget of 2,000 traces: requests", "≤ 100"),
        ("a window of 4 × the budget of 2,000 traces: bytes", "≤ 1.5 ×"),
        ("poll cycle", "≤ 1.0 s"),
        ("scrape, 5 series", "≤ 100 ms"),
        ("evaluating 7 days", "≤ 120 s"),
        ("restart with 7 days", "≤ 5.0 s"),
        ("searches for windows read before", "≤ 0"),
        ("page of an endpoint with 7 days", "≤ 300 ms"),
        ("memory with 5 series", "≤ 80.0 MB"),
        ("database", "≤ 250 bytes"),
    ):
        assert any(what.startswith(beginning) and limit == found for what, found in budgets), (beginning, budgets)
    assert any("4 concurrent scrapers" in what for what, _ in budgets)
    assert any(figure[1].endswith("p95 off by") for figure in figures)
    # This figure does not depend on the size or the machine.
    read_again = next(figure for figure in figures if figure[1] == "searches for windows read before")
    assert read_again[0] == "kept" and read_again[3] == "0"
    circumstances = rows(done.stdout, CIRCUMSTANCES)
    assert [name for name, _, _, _ in circumstances] == list(NAMES)
    assert all(int(before.split()[0]) > 0 for _, _, _, before in circumstances)


def test_quick_detection_run_shows_the_effect_of_the_swing(capsys: pytest.CaptureFixture[str]) -> None:
    assert measure_detection(["--quick", "--processes", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for what in ("series-days: plain", "the same without the swing", "× 5–10, 20–100 requests"):
        (line,) = [line for line in lines if what in line]
        assert line.startswith("| met ")
