"""The benchmarks in their short form: each of them runs and says what it measured. How long it took says nothing."""

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from benchmarks.__main__ import CIRCUMSTANCES, NAMES, main
from benchmarks.report import HEADER, Budget, Figure, Reference, table
from tests.support.paths import REPOSITORY


def rows(text: str, header: Sequence[str]) -> list[list[str]]:
    """The cells of the table with a header, line by line."""
    lines = iter(text.splitlines())
    for line in lines:
        if cells(line) == list(header):
            break
    next(lines)
    return [cells(line) for line in iter(lambda: next(lines, ""), "")]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_short_form_measures_everything_that_has_a_budget() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick"],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    figures = rows(done.stdout, HEADER)
    budgets = {(what, limit) for verdict, what, _, _, _, limit in figures if verdict in ("kept", "MISSED")}
    for beginning, limit in (
        ("backfill of 7 days", "≤ 1.5 ×"),
        ("the whole exporter, source at 14,000 traces/s", "≤ 1.25 ×"),
        ("a window of 4 × the budget of 2,000 traces: requests", "≤ 100"),
        ("a window of 4 × the budget of 2,000 traces: bytes", "≤ 1.5 ×"),
        ("poll cycle", "≤ 3.0 s"),
        ("scrape, 5 series", "≤ 100 ms"),
        ("evaluating 7 days", "≤ 120 s"),
        ("restart with 7 days", "≤ 5.0 s"),
        ("searches for windows read before", "≤ 0"),
        ("memory with 5 series", "≤ 80.0 MB"),
        ("database", "≤ 250 bytes"),
    ):
        assert any(what.startswith(beginning) and limit == found for what, found in budgets), (beginning, budgets)
    assert any("4 concurrent scrapers" in what for what, _ in budgets)
    assert any(figure[1].endswith("p95 off by") for figure in figures)
    # What does not depend on the machine is measured for what it is.
    again = next(figure for figure in figures if figure[1] == "searches for windows read before")
    assert again[0] == "kept" and again[3] == "0"
    took = rows(done.stdout, CIRCUMSTANCES)
    assert [name for name, _, _, _ in took] == list(NAMES)
    assert all(int(before.split()[0]) > 0 for _, _, _, before in took)


def test_an_unknown_benchmark_is_refused_with_the_names_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["backfil"])
    assert ended.value.code == 2
    assert "backfil" in (error := capsys.readouterr().err) and all(name in error for name in NAMES)


@pytest.mark.parametrize(
    ("figure", "kept"),
    [
        (Figure("a", 2.0, "seconds"), None),
        (Figure("a", 2.0, "seconds", budget=Budget(2.0)), True),
        (Figure("a", 2.1, "seconds", budget=Budget(2.0)), False),
        (Figure("a", 3.0, "seconds", Reference("b", 2.0), Budget(1.5, "ratio")), True),
        (Figure("a", 3.1, "seconds", Reference("b", 2.0), Budget(1.5, "ratio")), False),
        (Figure("a", 3.0, "seconds", budget=Budget(1.5, "ratio")), False),
        (Figure("a", float("nan"), "count", budget=Budget(0)), False),
    ],
)
def test_a_budget_is_kept_by_what_it_limits(figure: Figure, kept: bool | None) -> None:
    assert figure.is_kept is kept


def test_a_figure_stands_beside_its_reference_and_its_budget() -> None:
    figure = Figure("a scrape", 0.05, "seconds", Reference("rendering", 0.5), Budget(0.1), detail="p50 20 ms")
    assert figure.row() == ("kept", "a scrape", "0.10 ×", "50 ms (p50 20 ms)", "500 ms rendering", "≤ 100 ms")
    assert table(("x", "y"), [("1", "long"), ("", "2")]).splitlines() == [
        "| x | y    |",
        "| - | ---- |",
        "| 1 | long |",
        "|   | 2    |",
    ]
