"""The OpenAPI description, held to the answers of the API and to the parameters that it accepts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import UTC
from functools import partial
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from exporter import __version__
from exporter.app.marks import mark_of_json
from exporter.baseline.levels import FallbackLevel, FallbackRules
from exporter.cause.attributes import AttributeContrast
from exporter.cause.failures import FailedCalls, Plateau
from exporter.cause.rare_kinds import KindTraces, RareKind
from exporter.detection.flag import FlagKind, FlagPeriod
from exporter.detection.parameters import Parameters
from exporter.detection.policy import AppliedValue, SeriesPolicy
from exporter.detection.streams import StreamReason
from exporter.evaluation.causes.shift_cause import Shift
from exporter.evaluation.incident_tracker import IncidentTracker
from exporter.evaluation.query import BaselineQuerier, ErrorLimits, NoVerdict
from exporter.evaluation.snapshot import KindStatus, SeriesStatus, Snapshot
from exporter.evaluation.timeline_query import TimelineQuerier
from exporter.explain.document import STATES
from exporter.explain.drilldown import Drilldown
from exporter.model.calendar import Calendar, DayType, HourClock, Slot
from exporter.model.pattern import Pattern
from exporter.model.span import SeriesKey
from exporter.model.time_mark import MarkKind, TimeMark
from exporter.runtime.logs import get_logger
from exporter.store import Store, StoreError
from exporter.tempo import TempoError
from exporter.web.api.api import Api
from exporter.web.api.keys import KEYS
from exporter.web.http import Site, error_response
from tests.support.causes import a_cause, two_that_share_a_cause, with_cause
from tests.support.openapi import DOCUMENT, PREFIX, described_response, resolved, undescribed
from tests.support.samples import (
    DAY,
    HOSTILE_KEY,
    HOUR,
    KEY,
    NOON,
    REGRESSION,
    SETTINGS,
    VERSION,
    around,
    commit_hour,
    explanation,
    small_snapshot,
)
from tests.support.wsgi import WsgiResponse, ask
from tests.unit.web.test_api import NAMED, NOW, PROD, Bench, labelled  # noqa: F401 - a fixture

READ: Final = [path.removeprefix(PREFIX) for path, operations in DOCUMENT["paths"].items() if "get" in operations]
"""The paths that support GET."""
SPARSE: Final = SeriesKey("batch", "run")
SPARSE_QUERY: Final = urlencode(SPARSE.parameters)
POLICY: Final = SeriesPolicy(
    FallbackRules(), Parameters(), Parameters(), severity="critical", applied=(AppliedValue("ratio", "2", 1),)
)
MARK: Final = TimeMark(
    MarkKind.EXPECTED, Pattern("^elsewhere/"), NOON, NOON + HOUR, rule="FREQ=DAILY", comment="maintenance"
)
METHODS: Final = {"get": {"GET", "HEAD"}, "post": {"POST"}, "delete": {"DELETE"}}
"""The methods that a path supports, by its operation."""


def keys(value: Any, schema: Mapping[str, Any], place: str) -> Iterator[tuple[str, str]]:
    """Yield the described keys that have a value, each with the place of the object that describes it."""
    reference, schema = resolved(schema)
    place = reference or place
    if "anyOf" in schema:
        options = [each for each in schema["anyOf"] if each != {"type": "null"}]
        if value is not None:
            fitting = [each for each in options if set(resolved(each)[1]["required"]) <= value.keys()]
            yield from keys(value, fitting[0], place)
    elif isinstance(value, list):
        for item in value:
            yield from keys(item, schema["items"], place + "[]")
    elif isinstance(value, dict):
        for name, property_schema in schema.get("properties", {}).items():
            if value.get(name) is not None:
                yield place, name
                yield from keys(value[name], property_schema, f"{place}.{name}")


def described(schema: Mapping[str, Any], place: str, seen: set[str]) -> Iterator[tuple[str, str]]:
    """Yield all described keys, each with the place of the object that describes it."""
    reference, schema = resolved(schema)
    if reference in seen:
        return
    seen |= {reference} - {""}
    place = reference or place
    for option in schema.get("anyOf", ()):
        yield from described(option, place, seen)
    if "items" in schema:
        yield from described(schema["items"], place + "[]", seen)
    for name, property_schema in schema.get("properties", {}).items():
        yield place, name
        yield from described(property_schema, f"{place}.{name}", seen)


class Walk:
    """Requests that are checked against the description; remembers which described keys had a value."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, str]] = set()
        self.statuses: set[tuple[str, str]] = set()

    def check(self, name: str, response: WsgiResponse) -> Any:
        """Check a response to a GET request; returns its document."""
        status = response.status.partition(" ")[0]
        media_type, schema = described_response(name, status)
        assert response.headers["Content-Type"] == media_type
        document = json.loads(response.body)
        assert undescribed(name, status, document) == []
        self.seen |= set(keys(document, schema, f"{name} {status}"))
        is_named = status in DOCUMENT["paths"][PREFIX + name]["get"]["responses"]
        self.statuses.add((name, status if is_named else "default"))
        return document

    def get(self, site: Site, name: str, query: str = "", method: str = "GET") -> Any:
        return self.check(name, ask(site, PREFIX + name, method, query))


def whole_snapshot() -> Snapshot:
    """A snapshot in which every key of an endpoint has a value somewhere."""
    snapshot = with_cause(small_snapshot())
    series = [
        replace(
            each,
            policy=POLICY,
            regressed=True,
            regression=REGRESSION,
            regression_version=VERSION,
            service=snapshot.services[0],
        )
        for each in snapshot.series
    ]
    no_traffic = KindStatus(FlagKind.TRAFFIC, firing=True, since=NOON - 90.0)
    of_runs = replace(
        explanation(), run_seconds=(0.5, 0.6), longest_run_seconds=0.4, pattern_minutes=((0, 5),), traffic_ratio=3.0
    )
    return replace(
        snapshot,
        series=(
            *series,
            SeriesStatus(SPARSE, explanation=of_runs),
            SeriesStatus(HOSTILE_KEY, stream=StreamReason.NAME),
            SeriesStatus(PROD, kinds=(no_traffic,)),
        ),
    )


def whole_cause() -> Any:
    cause = a_cause(Shift(KEY, NOW, NOON - 75.5))
    verdict = replace(
        cause.verdict,
        own_factor=1.5,
        contrasts=[AttributeContrast("k8s.pod.name", "<b>", False, "time", 3.0, 0.5, 0.25, 1e-6)],
        failed=FailedCalls(20, 10, 0.01, True),
        plateau=Plateau(12, 12, 5.0, 3),
        more_frequent=KindTraces(RareKind([("search", "POST /index")], []), {}, 0.01, 0.5),
    )
    change = verdict.parts[0].change
    part = replace(verdict.parts[0], change=replace(change, component=change.component._replace(callee="ledger")))
    return replace(cause, verdict=replace(verdict, parts=[part, *verdict.parts[1:]]))


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    store = Store.in_memory()
    yield Bench(store)
    store.close()


@pytest.fixture(scope="module")
def walk(labelled: Site) -> Iterator[Walk]:  # noqa: F811
    """All answers: of an exporter with data, of an empty one, with labels, and all errors."""
    walk = Walk()
    store = Store.in_memory()
    for start in range(NOON - 12 * DAY, NOON, HOUR):
        commit_hour(store, start, {SPARSE: around(0.1, 1)})
    bench = Bench(store)

    def get(name: str, query: str = "") -> Any:
        return walk.get(bench.site, name, query)

    for name in ("series", "available", "incidents", "marks"):
        get(name)
    bench.marks.set_configured([MARK])
    bench.marks.add(MARK)
    get("marks")
    bench.snapshot = None
    get("series")
    bench.snapshot = whole_snapshot()
    for state in STATES:
        get("series", f"state={state}")
    get("series", "limit=1&anomalous=false")
    for query in (NAMED, f"{NAMED}&duration=500ms", f"{NAMED}&duration=500ms&at={NOON - DAY}", SPARSE_QUERY):
        get("check", query)
    for query in (NAMED, f"{NAMED}&at={NOON - 5 * DAY}", f"{SPARSE_QUERY}&at={NOON}"):
        get("baseline", query)
    for query in (NAMED, f"{NAMED}&range=7d", SPARSE_QUERY):
        get("timeline", query)
    get("available", "limit=1")
    get("trace", "trace_id=1")
    get("trace", f"trace_id=1&{urlencode({'service_name': 'stock', 'span_name': 'reserve'})}")
    bench.snapshot, bench.cause = small_snapshot(), whole_cause()
    get("why", NAMED)
    bench.cause = None
    get("why", f"{NAMED}&at={NOON}")
    bench.incidents.observe(two_that_share_a_cause(), NOW)
    bench.incidents.observe([], NOW + 1)
    bench.incidents.observe([], NOW + 1000)
    other = SeriesStatus(PROD, shift=True, since=NOW + 5000, cause=a_cause(Shift(PROD, NOW + 5000, NOW + 5000)))
    bench.incidents.observe([other], NOW + 5000)
    bench.incidents.save()
    get("incidents", "limit=1")
    with pytest.MonkeyPatch.context() as patch:
        merge_incidents(patch)
        for summary in get("incidents")["incidents"]:
            get("incident", f"id={summary['incident']}")
    with pytest.MonkeyPatch.context() as patch:
        change_reports(patch)
        for name, query in (("check", ""), ("baseline", f"&at={NOON}"), ("baseline", ""), ("timeline", "")):
            get(name, NAMED + query)
    get("openapi.json")
    with_grafana = bench.site_with(Drilldown("https://grafana"))
    for name, query in (("series", ""), ("why", NAMED)):
        walk.get(with_grafana, name, query)
    for name in ("check", "baseline", "timeline", "why"):
        walk.get(labelled, name, urlencode(PROD.parameters))
    walk.get(labelled, "baseline", urlencode({**PROD.parameters, "at": NOON}))
    for name, query in (("series", ""), ("available", ""), ("trace", "trace_id=1")):
        walk.get(labelled, name, query)
    walk.get(labelled, "check", "service_name=shop&span_name=GET+/")  # 400: several match
    refuse(walk, bench)
    yield walk
    store.close()


def merge_incidents(patch: pytest.MonkeyPatch) -> None:
    """Let every incident be a part of another one."""
    find, newest = IncidentTracker.find, IncidentTracker.newest

    def merged(incident: Any) -> Any:
        return replace(incident, merged_into="66a1fcc708d7")

    def newest_merged(tracker: IncidentTracker, *arguments: Any) -> Any:
        page = newest(tracker, *arguments)
        return page._replace(incidents=[merged(each) for each in page.incidents])

    patch.setattr(IncidentTracker, "find", lambda *arguments: merged(find(*arguments)))
    patch.setattr(IncidentTracker, "newest", newest_merged)


def change_reports(patch: pytest.MonkeyPatch) -> None:
    """Let baselines have what only some weeks of history or a configuration bring."""
    report, profile = BaselineQuerier.report, BaselineQuerier.profile

    def changed(*arguments: Any) -> Any:
        return replace(
            report(*arguments),
            changepoint=NOON - DAY,
            regression=REGRESSION,
            regression_version=VERSION,
            is_compared=True,
            policy=POLICY,
            stream=StreamReason.NAME,
            no_verdict=NoVerdict.STREAM,
            errors=ErrorLimits(0.004, 0.024, 0.008, FallbackLevel.EXACT, Slot(12, DayType.WEEKDAY), 5, 7489),
        )

    usual, timeline = TimelineQuerier.usual, TimelineQuerier.timeline

    def changed_usual(*arguments: Any) -> Any:
        found = usual(*arguments)
        return replace(found, signals=tuple(each._replace(error_ratio=0.01) for each in found.signals))

    def changed_timeline(*arguments: Any) -> Any:
        found = timeline(*arguments)
        points = [point._replace(failures=1) for point in found.points]
        flag = FlagPeriod(FlagKind.SHIFT, NOON - 7200.0, NOON - 3600.0)
        return replace(found, points=points, flags=[flag], changepoint=NOON - DAY)

    patch.setattr(TimelineQuerier, "usual", changed_usual)
    patch.setattr(TimelineQuerier, "timeline", changed_timeline)
    patch.setattr(BaselineQuerier, "report", changed)
    patch.setattr(BaselineQuerier, "profile", lambda *arguments: replace(profile(*arguments), changepoint=NOON - DAY))


def refuse(walk: Walk, bench: Bench) -> None:
    """Cause all errors, one after another."""
    for name in READ:
        walk.get(bench.site, name, "nothing=1")
        walk.get(bench.site, name, method="DELETE")
        unauthorized = error_response(PREFIX + name, HTTPStatus.UNAUTHORIZED, "no")
        walk.check(name, WsgiResponse("401 no", {"Content-Type": unauthorized.content_type}, unauthorized.body))
    for name in ("check", "baseline", "timeline", "why"):
        walk.get(bench.site, name, "service_name=checkout&span_name=GET+/carts")
    walk.get(bench.site, "incident", "id=x")
    bench.trace = []
    walk.get(bench.site, "trace", "trace_id=1")
    bench.trace = TempoError("connection refused", reason="connection")
    walk.get(bench.site, "trace", "trace_id=1")

    def fail(error: Exception) -> Any:
        raise error

    errors = (StoreError("locked", "database is locked"), ZeroDivisionError())
    for error in errors:
        with pytest.MonkeyPatch.context() as patch:
            for method in ("history", "series", "incidents"):
                patch.setattr(bench.store, method, lambda *_, error=error, **__: fail(error), raising=False)
            for name in ("check", "baseline", "timeline"):
                walk.get(bench.site, name, NAMED)


def test_document_is_valid_and_served(bench: Bench) -> None:
    assert list(OpenAPIV31SpecValidator(deepcopy(DOCUMENT)).iter_errors()) == []
    assert bench.get("openapi.json") == {**DOCUMENT, "info": {**DOCUMENT["info"], "version": __version__}}


@pytest.mark.parametrize(
    "text",
    ['{"next_cursor": null, "incidents": [], "new": 1}', '{"next_cursor": 1, "incidents": []}', '{"incidents": []}'],
)
def test_an_answer_that_differs_from_the_description_is_found(text: str) -> None:
    response = WsgiResponse("200 OK", {"Content-Type": "application/json"}, text.encode())
    with pytest.raises(AssertionError, match="incidents 200"):
        Walk().check("incidents", response)


def new_site(bench: Bench) -> Site:
    """Return a site on which marks can be added."""
    querier = BaselineQuerier(bench.store, HourClock(Calendar()), SETTINGS)
    api = Api(
        querier,
        TimelineQuerier(bench.store, HourClock(Calendar()), SETTINGS, querier),
        lambda: None,
        lambda _: [],
        renamed=lambda key: key,
        calendar=Calendar(),
        clock=bench.clock,
        find_cause=a_cause,
        incidents=bench.incidents,
        marks=bench.marks,
        parse_mark=partial(mark_of_json, zone=UTC),
    )
    return Site(api.pages(), get_logger("web"), api.writers())


def test_every_route_is_described_with_its_methods(bench: Bench) -> None:
    assert bench.api.pages().keys() == DOCUMENT["paths"].keys()
    site = new_site(bench)
    for path, operations in DOCUMENT["paths"].items():
        refused = ask(site, path, "PUT")
        described = {method for operation in operations for method in METHODS[operation]}
        assert set(refused.headers["Allow"].split(", ")) == described, path


def test_answers_to_requests_that_write_are_as_described(bench: Bench) -> None:
    site = new_site(bench)
    body = {
        "match": "x",
        "from": "2026-11-17",
        "to": "2026-11-18",
        "as": "normal",
        "rrule": "FREQ=WEEKLY",
        "comment": "c",
    }
    properties = DOCUMENT["components"]["schemas"]["NewMark"]["properties"]
    assert body.keys() == properties.keys()
    added = ask(site, f"{PREFIX}marks", "POST", body=json.dumps(body).encode(), content_type="application/json")
    document = json.loads(added.body)
    assert undescribed("marks", "201", document, "post") == []
    deleted = ask(site, f"{PREFIX}marks", "DELETE", f"id={document['id']}")
    assert undescribed("marks", "200", json.loads(deleted.body), "delete") == []
    for query, status in ((f"id={document['id']}", "404"), ("", "400")):
        refused = ask(site, f"{PREFIX}marks", "DELETE", query)
        assert (refused.status[:3], undescribed("marks", status, json.loads(refused.body), "delete")) == (status, [])
    refused = ask(site, f"{PREFIX}marks", "POST", body=b"{}", content_type="text/plain")
    assert undescribed("marks", "415", json.loads(refused.body), "post") == []


def test_every_described_key_occurs_in_an_answer(walk: Walk) -> None:
    expected: set[tuple[str, str]] = set()
    seen_references: set[str] = set()
    for name in READ:
        _, schema = described_response(name, "200")
        expected |= set(described(schema, f"{name} 200", seen_references))
    missing = sorted(expected - walk.seen)
    assert not missing, "\n".join(map(str, missing))


def test_every_error_that_a_path_describes_occurs(walk: Walk) -> None:
    specific = {
        (name, status)
        for name in READ
        for status in DOCUMENT["paths"][PREFIX + name]["get"]["responses"]
        if status not in ("500", "503")
    }
    assert sorted(specific - walk.statuses) == []
    assert {status for _, status in walk.statuses} == {"200", "400", "401", "404", "500", "502", "503", "default"}


def test_every_explained_key_is_described() -> None:
    used = {
        name
        for component, schema in DOCUMENT["components"]["schemas"].items()
        if component != "NewMark"  # the keys of a request
        for _, name in described(schema, "", {f"#/components/schemas/{each}" for each in DOCUMENT["components"]})
    }
    assert used == KEYS.keys()


class TestParameters:
    """What the description says about parameters is what the handlers accept."""

    VALUES: Final[Mapping[str, str]] = {
        "trace_id": "1",
        "service_name": "checkout",
        "span_name": "GET /cart",
        "duration": "1s",
        "at": "now",
        "state": "usual",
        "anomalous": "true",
        "limit": "1",
        "id": "x",
        "match": "x",
        "range": "6h",
    }

    def declared(self, name: str) -> Mapping[str, Mapping[str, Any]]:
        return {each["name"]: each for each in DOCUMENT["paths"][PREFIX + name]["get"]["parameters"]}

    def errors(self, bench: Bench, name: str, query: Mapping[str, str]) -> dict[str, str]:
        """Return the parameters that are refused with the reasons."""
        response = ask(bench.site, PREFIX + name, query=urlencode(query))
        return {each["parameter"]: each["detail"] for each in json.loads(response.body).get("errors", ())}

    def required(self, name: str) -> dict[str, str]:
        return {each: self.VALUES[each] for each, found in self.declared(name).items() if found["required"]}

    @pytest.mark.parametrize("name", READ)
    def test_accepted_are_the_described_ones(self, bench: Bench, name: str) -> None:
        candidates = {*self.VALUES, "cursor", "labels", "nothing"}
        every = {each: self.VALUES.get(each, "") for each in candidates}
        refused = self.errors(bench, name, every)
        unknown = {each for each, detail in refused.items() if "is not a parameter" in detail}
        assert candidates - unknown == self.declared(name).keys() - {"labels"}

    @pytest.mark.parametrize("name", READ)
    def test_required_are_those_that_must_be_given(self, bench: Bench, name: str) -> None:
        assert {each for each, detail in self.errors(bench, name, {}).items() if detail == "is missing"} == set(
            self.required(name)
        )

    @pytest.mark.parametrize("name", ["series", "available", "incidents"])
    def test_limit_has_the_described_range_and_default(self, bench: Bench, name: str) -> None:
        schema = self.declared(name)["limit"]["schema"]
        for limit, is_accepted in (
            (schema["minimum"], True),
            (schema["minimum"] - 1, False),
            (schema["maximum"], True),
            (schema["maximum"] + 1, False),
        ):
            assert ("limit" not in self.errors(bench, name, {"limit": str(limit)})) is is_accepted

    def test_default_limit(self, bench: Bench) -> None:
        many = tuple(SeriesStatus(SeriesKey("s", f"{number:03}")) for number in range(150))
        bench.snapshot = Snapshot(NOON, series=many)
        shown = bench.get("series")["series"]
        bench.snapshot = small_snapshot()
        assert len(shown) == self.declared("series")["limit"]["schema"]["default"]

    @pytest.mark.parametrize("parameter", ["state", "anomalous"])
    def test_choices_are_the_described_ones(self, bench: Bench, parameter: str) -> None:
        choices: Sequence[str] = self.declared("series")[parameter]["schema"]["enum"]
        assert [self.errors(bench, "series", {parameter: each}) for each in choices] == [{}] * len(choices)
        assert f"must be one of {', '.join(choices)}, not" in self.errors(bench, "series", {parameter: "x"})[parameter]

    @pytest.mark.parametrize(
        "name", ["check", "baseline", "timeline", "series", "available", "trace", "why", "incidents"]
    )
    def test_labels_are_accepted_where_they_are_described(self, labelled: Site, name: str) -> None:  # noqa: F811
        query = urlencode({**self.required(name), **dict(PROD.labels)})
        document = json.loads(ask(labelled, PREFIX + name, query=query).body)
        is_unknown = any("is not a parameter" in each["detail"] for each in document.get("errors", ()))
        assert is_unknown is ("labels" not in self.declared(name))
