"""The live edge while people know better: nothing is flagged, and what ended then is not compared afterwards."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from exporter.detection.flag import Flag, FlagEvent, FlagKind, SeriesFlags
from exporter.evaluation.live.evaluator import LiveEvaluator
from exporter.evaluation.snapshot import SeriesStatus
from exporter.model.pattern import Pattern
from exporter.model.time_mark import MarkKind, TimeMark, TimeMarks
from tests.support.samples import KEY, NOON, REGRESSION, SETTINGS, span
from tests.unit.evaluation.live.test_evaluator import NOW, REMEMBERED_SECONDS, TABLE, admit_all, steady, tick_through

FIRING: Mapping[FlagKind, Flag] = {kind: Flag(firing=True, since=NOW - 600) for kind in FlagKind}


class Bench:
    def __init__(self, flags: SeriesFlags | None = None) -> None:
        self.marks = TimeMarks()
        self.live = LiveEvaluator(
            SETTINGS,
            admit_all,
            started_at=NOW - 3600,
            remembered_seconds=REMEMBERED_SECONDS,
            flags={} if flags is None else {KEY: flags},
            marks=lambda: self.marks,
        )

    def mark(self, start: float, end: float, kind: MarkKind = MarkKind.EXPECTED, match: str = "checkout") -> None:
        self.marks = TimeMarks([TimeMark(kind, Pattern(match), int(start), int(end))])

    def status(self, now: float) -> SeriesStatus:
        (status,) = self.live.tick(now, TABLE).statuses
        return status


def is_quiet(status: SeriesStatus) -> bool:
    return (status.shift, status.outlier, status.score, status.regressed, status.kinds) == (None, None, None, None, ())


@pytest.mark.parametrize("kind", [MarkKind.EXPECTED, MarkKind.NORMAL])
def test_nothing_is_flagged_while_the_mark_lasts_and_for_what_ended_then(kind: MarkKind) -> None:
    bench = Bench()
    bench.mark(NOW, NOW + 300, kind)
    results = tick_through(bench.live, NOW, 1.0, 19)
    assert all(is_quiet(status) for result in results for status in result.statuses)
    assert not any(result.changes or result.suspects for result in results)
    (last,) = results[-1].statuses
    assert last.current_traces
    assert last.current_p50_seconds == pytest.approx(1.0, rel=0.05)
    assert last.outliers_total == 0
    assert [each.mark.kind for each in last.marks] == [kind]

    after = tick_through(bench.live, NOW + 300, 0.1, 8)
    assert not any(result.changes for result in after)
    (status,) = after[-1].statuses
    assert (status.shift, status.marks) == (False, ())
    assert status.current_p95_seconds == pytest.approx(0.1, rel=0.05)


def test_what_is_still_slow_after_the_mark_is_flagged() -> None:
    bench = Bench()
    bench.mark(NOW, NOW + 300)
    tick_through(bench.live, NOW, 1.0, 19)
    after = tick_through(bench.live, NOW + 285, 1.0, 12)
    assert [change.event for result in after for change in result.changes] == [FlagEvent.FIRING]


def test_incident_is_flagged_all_the_same() -> None:
    bench = Bench()
    bench.mark(NOW, NOW + 300, MarkKind.INCIDENT)
    results = tick_through(bench.live, NOW, 1.0, 19)
    assert [change.kind for result in results for change in result.changes] == [FlagKind.SHIFT]
    (status,) = results[-1].statuses
    assert [each.mark.kind for each in status.marks] == [MarkKind.INCIDENT]


def test_mark_resolves_every_flag_and_forgets_it() -> None:
    bench = Bench(FIRING)
    bench.live.add_spans(steady(NOW, 1.0), NOW, TABLE)
    bench.mark(NOW - 600, NOW + 600)
    result = bench.live.tick(NOW, TABLE)
    assert {(change.kind, change.event) for change in result.changes} == {
        (kind, FlagEvent.RESOLVED) for kind in FlagKind
    }
    assert result.flags == {KEY: {}}
    assert is_quiet(result.statuses[0])
    assert bench.live.flags() == {}


def test_flag_from_before_a_restart_is_quiet_before_the_first_evaluation() -> None:
    bench = Bench(FIRING)
    bench.mark(NOW - 600, NOW + 600)
    (status,) = bench.live.hold(None, NOW, replace(TABLE, is_evaluated=False))
    assert is_quiet(status)


def test_alarm_that_is_marked_as_normal_afterwards_is_resolved() -> None:
    bench = Bench()
    assert any(result.changes for result in tick_through(bench.live, NOW, 1.0, 12))
    bench.mark(NOW, NOW + 181, MarkKind.NORMAL)
    after = tick_through(bench.live, NOW + 180, 0.1, 12)
    assert [change.event for result in after for change in result.changes] == [FlagEvent.RESOLVED]


def test_regression_is_no_verdict_while_the_mark_lasts() -> None:
    table = replace(TABLE, series={KEY: replace(TABLE.get(KEY), is_compared=True, regression=REGRESSION)})
    bench = Bench()
    bench.live.add_spans([span(1, NOW)], NOW, table)
    (before,) = bench.live.tick(NOW, table).statuses
    assert (before.regressed, before.regression) == (True, REGRESSION)
    bench.mark(NOW - 60, NOW + 60)
    (status,) = bench.live.tick(NOW + 15, table).statuses
    assert is_quiet(status)
    assert status.regression is None


def test_mark_of_other_series_changes_nothing() -> None:
    bench, plain = Bench(), Bench()
    bench.mark(NOON, NOON + 86_400, match="billing")
    with_mark, without = (tick_through(each.live, NOW, 1.0, 12) for each in (bench, plain))
    assert [each.changes for each in with_mark] == [each.changes for each in without]
    assert [each.statuses[0].score for each in with_mark] == [each.statuses[0].score for each in without]
    assert any(each.changes for each in with_mark)
