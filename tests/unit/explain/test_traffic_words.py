"""The traffic of a series in the API and in sentences."""

from dataclasses import replace

import pytest

from exporter.baseline.levels import FallbackLevel
from exporter.detection.flag import FlagKind
from exporter.detection.traffic.verdict import TrafficEvidence, TrafficVerdict
from exporter.evaluation.live.traffic import CurrentTraffic
from exporter.evaluation.query import BaselineReport, NoVerdict
from exporter.evaluation.snapshot import KindStatus, SeriesStatus
from exporter.explain.check import Check
from exporter.explain.document import series_document
from exporter.explain.words import check_sentence
from exporter.model.calendar import Calendar, HourClock
from exporter.model.pattern import Pattern
from exporter.model.time_mark import MarkKind, MarkRange, TimeMark
from tests.support.samples import HOUR, KEY, NOON, explanation

CALENDAR = Calendar()
CLOCK = HourClock(CALENDAR)
EVIDENCE = TrafficEvidence(300, 2, 40.0, 0.8, 3e-9, FallbackLevel.EXACT, 5)
TRAFFIC = CurrentTraffic(160.0, TrafficVerdict(EVIDENCE, is_changed=True, persists=True, is_certain=True))
FIRING = KindStatus(FlagKind.TRAFFIC, firing=True, since=NOON - 60.0)


def test_document_has_the_figures_and_the_sentence() -> None:
    document = series_document(SeriesStatus(KEY, kinds=(FIRING,), current_traffic=TRAFFIC))
    assert document["traffic"] == {
        "anomalous": True,
        "since_unix": NOON - 60.0,
        "usual_requests": 160.0,
        "ratio": 0.05,
        "window_seconds": 300,
        "source_ratio": 0.8,
        "sentence": "2 requests in 5 minutes, 5 % of the usual traffic, which is 40 at this hour; the source has 80 % "
        "of its usual traffic; chance 3e-09; compared with 5 hours (level 1).",
    }


def test_without_current_traffic_only_the_flag_is_known() -> None:
    status = SeriesStatus(KEY, kinds=(FIRING,))
    traffic = series_document(status)["traffic"]
    assert (traffic["anomalous"], traffic["since_unix"], traffic["ratio"]) == (True, NOON - 60.0, None)
    assert series_document(replace(status, kinds=()))["traffic"] is None


@pytest.mark.parametrize(("requests", "text"), [(200, "5 times the usual traffic"), (0, "no requests")])
def test_a_rise_and_silence_are_named(requests: int, text: str) -> None:
    assert text in str(EVIDENCE._replace(requests=requests))


def sentence_of(status: SeriesStatus, marks: tuple[MarkRange, ...] = ()) -> str:
    report = BaselineReport(
        KEY, CLOCK.hour(NOON), None, None, (), None, (), NoVerdict.UNAVAILABLE, (), (), None, NOON - NOON % HOUR
    )
    report = replace(report, marks=marks)
    return check_sentence(Check(report, NOON, is_present=True, status=status), CALENDAR)


def test_sentence_says_what_people_have_marked_of_the_instant() -> None:
    expected, over, incident = (
        MarkRange(NOON - HOUR, end, TimeMark(kind, Pattern("cart"), 0, 1, comment=comment))
        for kind, end, comment in (
            (MarkKind.EXPECTED, NOON + HOUR, "load\ntest"),
            (MarkKind.NORMAL, NOON, "it is over"),
            (MarkKind.INCIDENT, NOON + 60, ""),
        )
    )
    sentence = sentence_of(SeriesStatus(KEY), (expected, over, incident))
    assert (
        r"People have marked it as expected until Tuesday 2026-11-17 13:00 UTC (load\ntest): there is no verdict while "
        "that lasts. People have marked it as incident until Tuesday 2026-11-17 12:01 UTC: its hours are left out of "
        "the baselines."
    ) in sentence
    assert "it is over" not in sentence
    assert sentence_of(SeriesStatus(KEY), (expected,) * 1000).count("People have marked") == 3


def test_sentence_says_that_traffic_has_dropped_and_since_when() -> None:
    sentence = sentence_of(SeriesStatus(KEY, kinds=(FIRING,), current_traffic=TRAFFIC))
    assert "Its traffic is far from the usual since 2026-11-17 11:59:00 UTC: 2 requests in 5 minutes, 5 %" in sentence
    assert "Its traffic is far from the usual since 2026-11-17 11:59:00 UTC." in sentence_of(
        SeriesStatus(KEY, kinds=(FIRING,))
    )


@pytest.mark.parametrize(("requests", "is_named"), [(120, True), (70, False)])
def test_a_rise_is_named_once(requests: int, *, is_named: bool) -> None:
    evidence = EVIDENCE._replace(requests=requests)
    current = TRAFFIC._replace(verdict=TRAFFIC.verdict._replace(evidence=evidence, is_changed=False))
    rise = "It has 3 times the usual traffic."
    assert (rise in sentence_of(SeriesStatus(KEY, current_traffic=current))) == is_named
    shifted = SeriesStatus(
        KEY, shift=True, current_traffic=current, explanation=replace(explanation(), traffic_ratio=evidence.ratio)
    )
    assert sentence_of(shifted).count(rise) == is_named
