"""Marks over the API: listed always, added and deleted only where that is allowed."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from exporter.app.marks import mark_of_json
from exporter.evaluation.query import BaselineQuerier
from exporter.evaluation.timeline_query import TimelineQuerier
from exporter.model.calendar import Calendar, HourClock
from exporter.model.time_mark import TimeMark
from exporter.runtime.logs import get_logger
from exporter.store import Store
from exporter.web.api.api import Api
from exporter.web.http import Site
from tests.support.causes import two_that_share_a_cause
from tests.support.openapi import undescribed
from tests.support.samples import HOUR, NOON, SETTINGS
from tests.support.wsgi import WsgiResponse, ask
from tests.unit.web.test_api import NAMED, Bench

CALENDAR = Calendar()
BODY = {"match": "^checkout/", "from": "2026-11-17T10:00", "to": "2026-11-17T12:00", "as": "expected", "comment": "<b>"}


class MarksBench(Bench):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.site = self.new_site(allowed=True)

    def new_site(self, *, allowed: bool) -> Site:
        querier = BaselineQuerier(self.store, HourClock(CALENDAR), SETTINGS, lambda: self.marks.current)
        api = Api(
            querier,
            TimelineQuerier(self.store, HourClock(CALENDAR), SETTINGS, querier),
            lambda: self.snapshot,
            self._fetch,
            renamed=lambda key: key,
            calendar=CALENDAR,
            clock=self.clock,
            find_cause=self._find_cause,
            incidents=self.incidents,
            marks=self.marks,
            parse_mark=partial(mark_of_json, zone=CALENDAR.zone) if allowed else None,
        )
        return Site(api.pages(), get_logger("web"), api.writers())

    def post(self, body: Any, content_type: str = "application/json; charset=utf-8") -> WsgiResponse:
        encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
        return ask(self.site, "/api/v1/marks", "POST", body=encoded, content_type=content_type)


@pytest.fixture
def bench() -> Iterator[MarksBench]:
    store = Store.in_memory()
    yield MarksBench(store)
    store.close()


def test_added_mark_is_listed_and_shown_with_what_it_is_about(bench: MarksBench) -> None:
    response = bench.post(BODY)
    assert response.status == "201 Created"
    added = json.loads(response.body)
    assert added == {
        "id": added["id"],
        "as": "expected",
        "match": "^checkout/",
        "start_unix": NOON - 2 * HOUR,
        "end_unix": NOON,
        "rrule": None,
        "comment": "<b>",
        "source": "api",
    }
    assert bench.get("marks") == {"can_be_added": True, "marks": [added]}
    assert bench.get("baseline", f"{NAMED}&at=now")["marks"] == [added]
    assert bench.get("check", NAMED)["marks"] == [added]
    assert bench.get("check", f"{NAMED}&at={NOON - 3 * HOUR - 1}")["marks"] == []

    deleted = ask(bench.site, "/api/v1/marks", "DELETE", f"id={added['id']}")
    assert (deleted.status, json.loads(deleted.body)) == ("200 OK", {"deleted": added["id"]})
    assert bench.get("marks")["marks"] == []
    assert ask(bench.site, "/api/v1/marks", "DELETE", f"id={added['id']}").status == "404 Not Found"
    assert ask(bench.site, "/api/v1/marks", "DELETE").status == "400 Bad Request"


def test_incident_shows_marks_of_its_time(bench: MarksBench) -> None:
    bench.incidents.observe(two_that_share_a_cause(), NOON + 600.0)
    bench.incidents.save()
    (incident,) = bench.get("incidents")["incidents"]
    assert bench.get("incident", f"id={incident['incident']}")["marks"] == []
    bench.post({**BODY, "match": "", "to": "2026-11-17T12:30"})
    bench.post({**BODY, "match": "", "to": "2026-11-17T10:30"})
    (mark,) = bench.get("incident", f"id={incident['incident']}")["marks"]
    assert mark["end_unix"] == NOON + HOUR // 2


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_other_content_type_is_refused(bench: MarksBench, content_type: str) -> None:
    response = bench.post(BODY, content_type)
    document = json.loads(response.body)
    assert (document["status"], response.headers["Content-Type"]) == (415, "application/problem+json")
    assert "Content-Type: application/json" in document["detail"]
    assert bench.get("marks")["marks"] == []


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        (b"{", {"body": "must be a JSON object"}),
        ({**BODY, "as": "x"}, {"as": "must be one of expected, incident, normal"}),
        ({**BODY, "to": "2026-11-17T09:00"}, {"to": "must be after from, not 2026-11-17 09:00"}),
        ({**BODY, "match": "(", "rrule": "x"}, {"match": "must be a regular expression", "rrule": "must be a recur"}),
        ({**BODY, "rrule": "FREQ=HOURLY"}, {"rrule": "must contain FREQ with one of DAILY"}),
        (
            {"match": "x", "form": "2026-11-17", "to": "2026-11-18", "as": "normal"},
            {"from": "is missing", "form": "is not a known key; did you mean from?"},
        ),
    ],
)
def test_what_is_wrong_with_a_mark_is_reported_as_for_parameters(
    bench: MarksBench, body: Any, errors: dict[str, str]
) -> None:
    response = bench.post(body)
    document = json.loads(response.body)
    assert (document["status"], response.headers["Content-Type"]) == (400, "application/problem+json")
    found = {each["parameter"]: each["detail"] for each in document["errors"]}
    assert found.keys() == errors.keys()
    assert all(found[key].startswith(detail) for key, detail in errors.items()), found
    assert document["detail"] == "; ".join(f"{each['parameter']} {each['detail']}" for each in document["errors"])
    assert undescribed("marks", "400", document, "post") == []
    assert bench.get("marks")["marks"] == []


def test_a_defect_is_not_blamed_on_the_mark(bench: MarksBench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: TimeMark) -> TimeMark:
        raise RuntimeError("a defect")

    monkeypatch.setattr(bench.marks, "add", broken)
    response = bench.post(BODY)
    assert response.status == "500 Internal Server Error"
    assert b"a defect" not in response.body


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_nothing_is_written_where_it_is_not_allowed(bench: MarksBench, method: str) -> None:
    bench.site = bench.new_site(allowed=False)
    response = ask(bench.site, "/api/v1/marks", method, "id=x", body=b"{}", content_type="application/json")
    assert response.status == "403 Forbidden"
    assert "web.allow_marks" in json.loads(response.body)["detail"]
    assert bench.get("marks") == {"can_be_added": False, "marks": []}
