"""What the demo says about flags."""

from dataclasses import replace

import pytest

from exporter.demo.show import report_flags
from exporter.detection.flag import FlagKind
from exporter.evaluation.snapshot import KindStatus, Snapshot
from tests.support.samples import ERRORS, NOON, small_snapshot


def test_each_kind_is_reported_when_it_fires_and_when_it_is_resolved(capsys: pytest.CaptureFixture[str]) -> None:
    failing = KindStatus(FlagKind.ERRORS, firing=True, since=NOON, score=3.0, explanation=ERRORS)
    silent = KindStatus(FlagKind.TRAFFIC, firing=True, since=NOON)
    calm = replace(small_snapshot().series[0], shift=False, kinds=())

    flagged = report_flags(Snapshot(NOON, series=(replace(calm, kinds=(failing,)),)), {})
    first = capsys.readouterr().out
    flagged = report_flags(Snapshot(NOON, series=(replace(calm, kinds=(failing, silent)),)), flagged)
    second = capsys.readouterr().out
    flagged = report_flags(Snapshot(NOON, series=(calm,)), flagged)
    third = capsys.readouterr().out

    name = f"{calm.key.service_name} {calm.key.span_name}"
    assert f"FAILING    {name}" in first
    assert "31 of the last 412 requests failed" in first
    assert f"TRAFFIC    {name}" in second
    assert "FAILING" not in second
    assert "None" not in second
    assert f"RESOLVED   {name}: failures" in third
    assert f"RESOLVED   {name}: traffic" in third
    assert flagged == {}
