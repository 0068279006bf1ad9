"""The command line and the report of the benchmarks."""

import pytest

from benchmarks.__main__ import NAMES, main
from benchmarks.history import entry, settled_windows
from benchmarks.report import Budget, Figure, Reference, table
from exporter.ingest.backfill_queue import BackfillQueue, Wait
from exporter.ingest.late_spans import LatePolicy
from exporter.model.calendar import Calendar
from exporter.model.ledger import BatchRules, wanted

_HOUR = 1_767_225_600
_SETTLE_SECONDS = 7200.0


def test_unknown_benchmark_is_refused_and_known_ones_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["backfil"])
    assert ended.value.code == 2
    assert "backfil" in (error := capsys.readouterr().err) and all(name in error for name in NAMES)


@pytest.mark.parametrize(
    ("figure", "is_kept"),
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
def test_budget_limits_the_value_or_the_ratio(figure: Figure, is_kept: bool | None) -> None:
    assert figure.is_kept is is_kept


def test_row_shows_figure_reference_and_budget() -> None:
    figure = Figure("a scrape", 0.05, "seconds", Reference("rendering", 0.5), Budget(0.1), detail="p50 20 ms")
    assert figure.row() == ("kept", "a scrape", "0.10 ×", "50 ms (p50 20 ms)", "500 ms rendering", "≤ 100 ms")
    assert table(("x", "y"), [("1", "long"), ("", "2")]).splitlines() == [
        "| x | y    |",
        "| - | ---- |",
        "| 1 | long |",
        "|   | 2    |",
    ]


@pytest.mark.parametrize("minute", [0, 1, 2, 30, 59])
def test_prepared_database_leaves_an_exporter_nothing_to_search_for(minute: int) -> None:
    now = _HOUR + 60.0 * minute
    calendar = Calendar()
    range_ = wanted(now, calendar, duration_seconds=7 * 86_400, settle_seconds=_SETTLE_SECONDS, batch_seconds=3600)
    late = LatePolicy(_SETTLE_SECONDS, 120)
    queue = BackfillQueue(
        range_,
        [entry(window, 1) for window in settled_windows(now)],
        calendar,
        settle_seconds=_SETTLE_SECONDS,
        clock=lambda: now,
        monotonic=lambda: now,
        first_late_check=lambda entry, now: None if late.is_last(entry.window, now) else now,
    )
    work = queue.take(BatchRules(limit=1000, most_traces=1000, usual_windows=1, longest_seconds=3600))
    assert isinstance(work, Wait)
