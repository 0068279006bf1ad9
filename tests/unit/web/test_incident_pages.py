"""The pages of incidents."""

from dataclasses import replace
from urllib.parse import urlencode

import pytest

from exporter.cause.past_incidents import PastShift, past_incidents
from exporter.evaluation.causes.shift_cause import Shift
from exporter.evaluation.incident_tracker import IncidentPage, encode_incident
from exporter.evaluation.snapshot import SeriesStatus
from exporter.model.hour_evaluation import ShiftPeriod
from exporter.model.span import SeriesKey
from exporter.store import Store, StoreError
from tests.support.causes import a_cause, two_that_share_a_cause
from tests.support.page_reader import Pages, incident_tracker
from tests.support.samples import HOSTILE_KEY, LONG_KEY, NOON
from tests.support.wsgi import ask

CAUSE = a_cause()


def explained(key: SeriesKey, since: float) -> SeriesStatus:
    return SeriesStatus(key, shift=True, since=since, cause=replace(CAUSE, shift=Shift(key, since)))


def test_incident_is_listed_and_has_a_page_with_its_cause_and_endpoints() -> None:
    keeper = incident_tracker()
    keeper.observe(two_that_share_a_cause(), NOON)
    keeper.save()
    pages = Pages(incidents=keeper)
    listed = pages.read("/incidents")
    assert "payments: 2 endpoints" in listed.text
    assert "84 requests lost 4 min" in listed.text
    (incident,) = keeper.open
    url = f"incident?id={incident.id}"
    assert url in listed.attributes("href")
    page = pages.read("/incident", f"id={incident.id}")
    assert "INSERT charges" in page.text
    assert "began 11:58:44" in page.text
    assert page.text.index("payments POST /charge") < page.text.index("checkout POST /pay")
    assert "endpoint?service_name=checkout&span_name=POST+%2Fpay" in page.attributes("href")
    assert f"api/v1/{url}" in page.attributes("href")


def test_over_and_merged_incidents_say_so() -> None:
    keeper = incident_tracker()
    first, payments = two_that_share_a_cause()
    busy = replace(payments, since=NOON - 60.0, cause=a_cause(Shift(payments.key, NOON, NOON - 60.0), cart_ms=900.0))
    keeper.observe([first, busy], NOON)
    older, newer = keeper.open
    keeper.observe([first, replace(busy, cause=first.cause)], NOON + 15)
    keeper.save()
    pages = Pages(incidents=keeper)
    assert "merged" in pages.read("/incidents").text
    assert f"incident?id={older.id}" in pages.read("/incident", f"id={newer.id}").attributes("href")
    keeper.observe([], NOON + 30)
    keeper.observe([], NOON + 1000)
    keeper.save()
    assert "ended 12:00:30" in pages.read("/incident", f"id={older.id}").text


def test_incident_of_the_past_says_that_its_cause_is_not_known() -> None:
    store = Store.in_memory()
    (incident,) = past_incidents(
        [PastShift(SeriesKey("checkout", name), ShiftPeriod(NOON - 900.0, NOON - 60.0, 3.0)) for name in ("a", "b")], []
    )
    store.incidents.replace_reconstructed([encode_incident(incident)], [])
    pages = Pages(incidents=incident_tracker(store))
    listed = pages.read("/incidents").text
    assert "checkout, cause not known: 2 endpoints" in listed
    assert "from history" in listed
    text = pages.read("/incident", f"id={incident.id}").text
    assert "Found in the history; the cause is not known." in text
    assert "lost" not in text.replace("time lost was not counted", "").replace("Time lost", "")


def test_without_incidents_and_with_an_unknown_id() -> None:
    pages = Pages()
    assert "There are no incidents." in pages.read("/incidents").text
    for query in ("", "id=nothing", urlencode({"id": "<b>"})):
        assert ask(pages.site, "/incident", query=query).status == "404 Not Found"


def test_fifty_a_page_and_a_link_to_the_earlier_ones() -> None:
    keeper = incident_tracker()
    for number in range(51):
        keeper.observe([explained(SeriesKey("s", f"GET /{number}"), NOON - 100.0 + number)], NOON)
        keeper.observe([], NOON + 1)
        keeper.observe([], NOON + 1000)
    keeper.save()
    pages = Pages(incidents=keeper)
    first = pages.read("/incidents")
    (further,) = [url for url in first.attributes("href") if url and url.startswith("incidents?after=")]
    second = pages.read("/incidents", further.partition("?")[2])
    counts = [
        sum(bool(url and url.startswith("incident?id=")) for url in page.attributes("href")) for page in (first, second)
    ]
    assert counts == [50, 1]
    assert pages.read("/incidents", "after=nonsense").text == first.text


@pytest.mark.parametrize("key", [HOSTILE_KEY, LONG_KEY, SeriesKey("\ud800", "</td><script>")])
def test_hostile_names_are_text(key: SeriesKey) -> None:
    keeper = incident_tracker()
    keeper.observe([explained(key, NOON - 60.0)], NOON)
    keeper.save()
    (incident,) = keeper.open
    page = Pages(incidents=keeper).read("/incident", f"id={incident.id}")
    assert "script" not in page.tags
    assert "INSERT charges" in page.text


def test_unreadable_store_is_said() -> None:
    class Broken:
        def newest(self, limit: int, before: tuple[float, str] | None = None) -> IncidentPage:
            raise StoreError("locked", "the database is locked")

        def find(self, incident_id: str) -> None:
            raise StoreError("locked", "the database is locked")

    site = Pages(incidents=Broken()).site
    for path in ("/incidents", "/incident"):
        response = ask(site, path, query="id=a")
        assert response.status == "503 Service Unavailable"
        assert b"the database is locked" in response.body
