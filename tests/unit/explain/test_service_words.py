"""The shift of a service as a whole, in the API and in the sentences about its endpoints."""

from dataclasses import replace

from exporter.evaluation.query import BaselineReport, NoVerdict
from exporter.evaluation.snapshot import SeriesStatus, ServiceStatus
from exporter.explain.check import Check
from exporter.explain.document import series_document
from exporter.explain.words import check_sentence, service_sentence
from exporter.model.calendar import Calendar, HourClock
from exporter.model.service import ServiceKey
from tests.support.samples import HOUR, KEY, NOON, SERVICE_VERDICT

CALENDAR = Calendar()
SERVICE = ServiceStatus(ServiceKey(KEY.service_name), SERVICE_VERDICT, firing=True, since=NOON - 90.0)
SENTENCE = (
    "Its service as a whole is slower than usual: as a median, its 5 endpoints with traffic take 1.62 × their usual (a "
    "shift from 1.25 × on)."
)


def sentence_of(status: SeriesStatus) -> str:
    hour = HourClock(CALENDAR).hour(NOON)
    report = BaselineReport(
        KEY, hour, None, None, (), None, (), NoVerdict.UNAVAILABLE, (), (), None, NOON - NOON % HOUR
    )
    return check_sentence(Check(report, NOON, is_present=True, status=status), CALENDAR)


def test_sentence_about_an_endpoint_names_the_shift_of_its_service() -> None:
    status = SeriesStatus(KEY, shift=False, score=0.4)
    assert "service as a whole" not in sentence_of(status)
    assert SENTENCE in sentence_of(replace(status, service=SERVICE))


def test_document_has_the_figures() -> None:
    assert series_document(SeriesStatus(KEY))["service_shift"] is None
    assert series_document(SeriesStatus(KEY, service=SERVICE))["service_shift"] == {
        "since_unix": NOON - 90.0,
        "service_ratio": 1.625,
        "service_limit_ratio": 1.25,
        "compared_endpoints": 5,
        "sentence": SENTENCE,
    }


def test_ratio_that_is_unknown_or_back_at_the_usual_is_not_named() -> None:
    over = SERVICE._replace(verdict=SERVICE_VERDICT._replace(ratio=0.97))
    for service in (SERVICE._replace(verdict=None), over):
        assert "×" not in service_sentence(service)
