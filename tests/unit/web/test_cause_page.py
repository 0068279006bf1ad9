"""The page of the cause of a shift."""

from dataclasses import replace
from urllib.parse import urlencode

import pytest

from exporter.cause.past_incidents import PastShift, past_incidents
from exporter.cause.verdict import CauseVerdict, Outcome
from exporter.evaluation.causes.shift_cause import Shift, ShiftCause
from exporter.evaluation.incident_tracker import IncidentPage, IncidentTracker, encode_incident
from exporter.evaluation.snapshot import SeriesStatus, Snapshot
from exporter.explain.drilldown import Drilldown
from exporter.model.hour_evaluation import ShiftPeriod
from exporter.model.span import SeriesKey
from exporter.store import Store, StoreError
from tests.support.causes import CHECKOUT, two_that_share_a_cause, with_cause
from tests.support.page_reader import Pages, ParsedPage, incident_tracker
from tests.support.samples import HOSTILE_KEY, KEY, NOON, small_snapshot
from tests.support.wsgi import ask

NAMED = "service_name=checkout&span_name=GET+%2Fcart"


def page_of(snapshot: Snapshot | None) -> ParsedPage:
    series = () if snapshot is None else tuple(sorted(snapshot.series, key=lambda each: each.key))
    return Pages(None if snapshot is None else replace(snapshot, series=series)).read("/cause", NAMED)


def with_verdict(cause: ShiftCause) -> Snapshot:
    snapshot = small_snapshot()
    return replace(
        snapshot, series=tuple(replace(each, cause=cause) if each.shift else each for each in snapshot.series)
    )


def test_account_shows_what_a_request_waits_for_usually_and_now() -> None:
    page = page_of(with_cause(small_snapshot()))
    assert "cause known" in page.text
    assert "Of the extra " in page.text
    assert "payments INSERT charges" in page.text
    assert "between checkout and payments" in page.text
    assert "20 slow traces against 20 healthy ones of the same hour; 5 requests to Tempo in 1.2 s." in page.text
    assert any(label and label.startswith("usually ") for label in page.attributes("aria-label"))
    widths = [float(attributes["width"] or 0) for tag, attributes in page.elements if tag == "rect"]
    assert max(widths) == 240
    assert min(widths) >= 0


def test_traces_to_compare_are_linked() -> None:
    links = page_of(with_cause(small_snapshot())).attributes("href")
    for number in (0xBAD, 0x600D):
        assert f"trace?trace_id={number:032x}&{NAMED}" in links
    assert f"api/v1/why?{NAMED}" in links
    snapshot = with_cause(small_snapshot())
    (cause,) = [status.cause for status in snapshot.series if status.cause is not None]
    drilldown = Drilldown("https://grafana")
    url = drilldown.of_cause(cause)
    assert url is not None
    assert url in Pages(snapshot, drilldown=drilldown).read("/cause", NAMED).attributes("href")


def test_attribute_values_that_go_with_it_are_shown() -> None:
    page = page_of(with_cause(small_snapshot(), charge_ms=640.0, version="2", pod="payments-2"))
    assert "What goes with it" in page.text
    assert "service.version" in page.text


@pytest.mark.parametrize(
    ("outcome", "shown"), [(Outcome.NO_TRACES, "too few traces"), (Outcome.FAILED, "traces could not be read")]
)
def test_cause_that_is_not_known_is_said(outcome: Outcome, shown: str) -> None:
    cause = ShiftCause(Shift(KEY, float(NOON)), CauseVerdict(outcome, None, 3, 0), "Not known why: because.")
    page = page_of(with_verdict(cause))
    assert shown in page.text
    assert "Not known why: because." in page.text
    assert "What a request waits for" not in page.text


def test_flag_that_was_not_looked_at_and_series_without_a_flag() -> None:
    assert "has not been looked for yet" in page_of(small_snapshot()).text
    calm = replace(
        small_snapshot(), series=tuple(replace(each, shift=False, since=None) for each in small_snapshot().series)
    )
    page = page_of(calm).text
    assert "Its latency is not shifted now." in page
    assert "Nothing is known of an earlier shift" in page
    assert "Compare its traces now" in page


class TestResolvedFlag:
    """What was found while the flag fired is still shown: from memory, or as the incident has kept it."""

    CALM = replace(small_snapshot(), series=(SeriesStatus(CHECKOUT, shift=False),))
    NAMED = urlencode({"service_name": CHECKOUT.service_name, "span_name": CHECKOUT.span_name})

    def tracker(self, store: Store | None = None) -> IncidentTracker:
        tracker = incident_tracker(store)
        tracker.observe(two_that_share_a_cause(), NOON)
        tracker.observe([], NOON + 60)
        tracker.observe([], NOON + 1000)
        tracker.save()
        return tracker

    @pytest.mark.parametrize("is_restarted", [False, True])
    def test_account_kept_by_the_incident(self, is_restarted: bool) -> None:
        store = Store.in_memory()
        incidents = self.tracker(store)
        pages = Pages(self.CALM, incidents=incident_tracker(store) if is_restarted else incidents)
        (incident,) = incidents.newest(1).incidents
        assert incident.cause is not None
        page = pages.read("/cause", self.NAMED)
        for shown in (
            "Its latency is not shifted now.",
            incident.cause.text,
            "What a request waits for",
            "payments INSERT charges",
            "was slow",
        ):
            assert shown in page.text
        assert f"incident?id={incident.id}" in page.attributes("href")
        assert [label for label in page.attributes("aria-label") if label and ", then " in label]
        gone = Pages(replace(self.CALM, series=()), incidents=incidents)
        of_incident = f"{self.NAMED}&incident={incident.id}"
        assert incident.cause.text in gone.read("/cause", of_incident).text
        of_incident_page = pages.read("/incident", f"id={incident.id}")
        assert "What a request waits for" in of_incident_page.text
        (link,) = [each for each in of_incident_page.attributes("href") if each and each.startswith("cause?")]
        assert incident.cause.text in pages.read("/cause", link.partition("?")[2]).text

    def test_cause_in_memory_that_belonged_to_no_incident(self) -> None:
        unclear = ShiftCause(
            Shift(CHECKOUT, float(NOON), NOON - 60.0),
            CauseVerdict(Outcome.UNCLEAR, None, 20, 20),
            "Not known why: much.",
        )
        page = Pages(self.CALM, last_causes={CHECKOUT: unclear}).read("/cause", self.NAMED)
        assert "Not known why: much." in page.text
        assert "unclear" in page.text
        # What was looked at without a flag, by the API, is no finding about a shift.
        asked = replace(unclear, shift=Shift(CHECKOUT, float(NOON)))
        assert "Not known why" not in Pages(self.CALM, last_causes={CHECKOUT: asked}).read("/cause", self.NAMED).text

    def test_what_is_not_kept_is_said(self) -> None:
        incidents = incident_tracker()
        first, payments = two_that_share_a_cause()
        incidents.observe([first, replace(payments, cause=None)], NOON)
        incidents.save()
        pages = Pages(replace(self.CALM, series=(SeriesStatus(payments.key, shift=False),)), incidents=incidents)
        page = pages.read("/cause", urlencode({"service_name": payments.key[0], "span_name": payments.key[1]}))
        assert "nothing is kept about this endpoint" in page.text
        past = past_incidents(
            [PastShift(SeriesKey("checkout", name), ShiftPeriod(1.0, 2.0, 3.0)) for name in ("GET /a", "POST /pay")], []
        )
        store = Store.in_memory()
        store.incidents.replace_reconstructed([encode_incident(each) for each in past], [])
        page = Pages(self.CALM, incidents=incident_tracker(store)).read("/cause", self.NAMED)
        assert "found in the history, so no traces were compared" in page.text

    def test_unreadable_store_is_said(self) -> None:
        class Broken:
            def newest(self, limit: int, before: tuple[float, str] | None = None) -> IncidentPage:
                raise StoreError("locked", "the database is locked")

            def find(self, incident_id: str) -> None:
                raise StoreError("locked", "the database is locked")

        assert "the database is locked" in Pages(self.CALM, incidents=Broken()).read("/cause", self.NAMED).text


def test_unknown_series_is_not_found() -> None:
    response = ask(Pages(small_snapshot()).site, "/cause", query="service_name=a&span_name=b")
    assert response.status == "404 Not Found"


def test_hostile_names_and_values_are_text() -> None:
    script = "<script>alert(1)</script>"
    snapshot = with_cause(small_snapshot(), charge_ms=640.0, version=script)
    series = [replace(each, key=HOSTILE_KEY) if each.key == KEY else each for each in snapshot.series]
    pages = Pages(replace(snapshot, series=tuple(sorted(series, key=lambda each: each.key))))
    page = pages.read("/cause", urlencode(HOSTILE_KEY._asdict()))
    assert f"service.version {script}" in page.text
    assert "script" not in [tag for tag, _ in page.elements]


def test_endpoint_and_status_page_show_the_cause() -> None:
    snapshot = with_cause(small_snapshot())
    pages = Pages(replace(snapshot, series=tuple(sorted(snapshot.series, key=lambda each: each.key))))
    for page in (pages.read("/"), pages.read("/endpoint", NAMED)):
        assert "are in payments, mostly in " in page.text
        assert f"cause?{NAMED}" in page.attributes("href")
