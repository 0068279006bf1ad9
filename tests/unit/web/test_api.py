"""The API over WSGI: its responses for a known history, and its errors."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, ClassVar
from urllib.parse import urlencode

import pytest

from exporter.detection.flag import FlagKind
from exporter.detection.streams import StreamReason
from exporter.evaluation.causes.shift_cause import Shift, ShiftCause
from exporter.evaluation.query import BaselineQuerier
from exporter.evaluation.snapshot import KindStatus, SeriesStatus, Snapshot
from exporter.evaluation.time_marks import TimeMarkRegistry
from exporter.evaluation.timeline_query import TimelineQuerier
from exporter.explain.drilldown import NO_LINKS, Drilldown
from exporter.model.calendar import Calendar, HourClock
from exporter.model.critical_path import TraceSpan
from exporter.model.label import DEFAULT_LABEL_NAMES, LabelNames
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.store import Store, StoreError
from exporter.tempo import TempoError
from exporter.tempo.decode import MAX_NAME_CHARACTERS
from exporter.web.api.api import Api
from exporter.web.http import Site
from tests.support.causes import a_cause, two_that_share_a_cause
from tests.support.page_reader import incident_tracker
from tests.support.samples import (
    DAY,
    HOSTILE_KEY,
    HOUR,
    KEY,
    LONG_KEY,
    NOON,
    REGRESSION,
    SETTINGS,
    Clock,
    around,
    commit_hour,
    evaluate_history,
    small_snapshot,
)
from tests.support.wsgi import ask

NOW = NOON + 600.0
MS = 1_000_000
NAMED = "service_name=checkout&span_name=GET+/cart"
RARE = SeriesKey("checkout", "GET /cart/items")
TRACE = [
    TraceSpan("1", "", *KEY[:2], "server", int((NOON + 60) * 1e9), 1000 * MS),
    TraceSpan("2", "1", "stock", "reserve", "client", int((NOON + 60) * 1e9) + 100 * MS, 800 * MS),
]


@dataclass
class Bench:
    """An API over a history of nine days; a test sets the snapshot and the trace that Tempo returns."""

    store: Store
    snapshot: Snapshot | None = field(default_factory=small_snapshot)
    trace: list[TraceSpan] | Exception = field(default_factory=lambda: list(TRACE))
    clock: Clock = field(default_factory=lambda: Clock(NOW))
    sought: list[Shift] = field(default_factory=list)
    cause: ShiftCause | None = None
    while_looking: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        for start in range(NOON - 9 * DAY, NOON, HOUR):
            commit_hour(self.store, start, {KEY: around(0.1, 30)})
        commit_hour(self.store, NOON - 2 * DAY, {RARE: around(0.1, 10)})
        evaluate_history(self.store, NOON)
        self.incidents = incident_tracker(self.store)
        self.marks = TimeMarkRegistry(self.store, clock=self.clock, monotonic=self.clock, log=get_logger("marks"))
        self.api = self.api_with(NO_LINKS)
        self.site = Site(self.api.pages(), get_logger("web"))

    def api_with(self, drilldown: Drilldown) -> Api:
        querier = BaselineQuerier(self.store, HourClock(Calendar()), SETTINGS)
        return Api(
            querier,
            TimelineQuerier(self.store, HourClock(Calendar()), SETTINGS, querier),
            lambda: self.snapshot,
            self._fetch,
            renamed=lambda key: key,
            calendar=Calendar(),
            clock=self.clock,
            find_cause=self._find_cause,
            incidents=self.incidents,
            marks=self.marks,
            drilldown=drilldown,
        )

    def site_with(self, drilldown: Drilldown) -> Site:
        return Site(self.api_with(drilldown).pages(), get_logger("web"))

    def _find_cause(self, shift: Shift) -> ShiftCause:
        self.sought.append(shift)
        self.while_looking()
        return self.cause or a_cause(shift)

    def _fetch(self, trace_id: str) -> list[TraceSpan]:
        if isinstance(self.trace, Exception):
            raise self.trace
        return self.trace

    def get(self, name: str, query: str = "") -> Any:
        response = ask(self.site, f"/api/v1/{name}", query=query)
        assert (response.status, response.headers["Content-Type"]) == ("200 OK", "application/json"), response.body
        return json.loads(response.body)

    def refused(self, name: str, query: str = "", method: str = "GET") -> Any:
        response = ask(self.site, f"/api/v1/{name}", method, query)
        assert response.headers["Content-Type"] == "application/problem+json"
        document = json.loads(response.body)
        assert response.status == f"{document['status']} {document['title']}"
        assert document["type"] == "about:blank"
        return document


@pytest.fixture(scope="module")
def shared_bench() -> Iterator[Bench]:
    """Its history, which no test changes, is built once."""
    store = Store.in_memory()
    yield Bench(store)
    store.close()


@pytest.fixture
def bench(shared_bench: Bench) -> Iterator[Bench]:
    yield shared_bench
    shared_bench.snapshot = small_snapshot()
    shared_bench.trace = list(TRACE)


class TestCheck:
    def test_baseline_and_verdict_on_a_duration(self, bench: Bench) -> None:
        found = bench.get("check", f"{NAMED}&duration=500ms")
        durations = sorted(around(0.1, 30))
        p50, p95 = durations[14], durations[28]
        baseline = found["baseline"]
        assert baseline["p50_seconds"] == pytest.approx(p50, rel=0.0111)
        assert baseline["p95_seconds"] == pytest.approx(p95, rel=0.0111)
        # Tuesday noon: the weekdays of nine days, without the present hour.
        assert [hour["start_unix"] for hour in baseline["pooled_hours"]] == [
            NOON - days * DAY for days in (8, 7, 6, 5, 4, 1)
        ]
        assert (baseline["samples"], baseline["windows"], found["level"]) == (180, 6, 1)
        assert found["slot"] == {"hour": 12, "day_type": "weekday", "name": "weekday 12:00-13:00"}
        assert found["hour"] == {
            "start_unix": NOON,
            "end_unix": NOON + HOUR,
            "local": "2026-11-17T12:00:00+00:00",
            "timezone": "UTC",
        }
        threshold = found["outlier_threshold_seconds"]
        assert threshold == max(
            2 * baseline["p95_seconds"], baseline["p50_seconds"] + 10 * max(baseline["mad_seconds"], 0.001)
        )
        assert found["duration"] == {
            "seconds": 0.5,
            "outlier": True,
            "threshold_ratio": 0.5 / threshold,
            "p50_ratio": 0.5 / baseline["p50_seconds"],
            "p95_ratio": 0.5 / baseline["p95_seconds"],
            "slower_traces": 0,
        }
        assert found["no_shift_verdict"] is None
        assert "500 ms is an outlier for checkout GET /cart on weekdays 12–13 h" in found["sentence"]
        assert bench.get("check", f"{NAMED}&duration=90ms")["duration"]["outlier"] is False

    def test_live_status_is_included_only_for_the_present(self, bench: Bench) -> None:
        now = bench.get("check", NAMED)
        assert (now["present"], now["at_unix"]) == (True, NOW)
        assert (now["now"]["shifted"], now["now"]["score"]) == (True, 2.5)
        assert "42 requests lost 2 min beyond the usual p95." in now["sentence"]
        assert now["now"]["explanation"]["slow"] == 38
        assert "Its latency is shifted since 2026-11-17 11:58:44 UTC: 38 of the last 300 requests" in now["sentence"]
        assert bench.get("check", f"{NAMED}&at=now") == now
        then = bench.get("check", f"{NAMED}&at={int(NOW) - 1}")
        assert (then["present"], then["now"]) == (False, None)

    @pytest.mark.parametrize(
        "at",
        [str(NOON - DAY), f"{NOON - DAY}.5", "2026-11-16T12:00:00Z", "2026-11-16T13:00:00%2B01:00",
         "2026-11-16T13:00:00+01:00", "2026-11-16t12:00z"],
    )  # fmt: skip
    def test_notations_of_an_instant(self, bench: Bench, at: str) -> None:
        found = bench.get("check", f"{NAMED}&at={at}")
        assert found["hour"]["start_unix"] == NOON - DAY
        assert found["baseline"]["windows"] == 5

    def test_a_series_with_too_little_history_has_no_verdict_and_says_what_to_do(self, bench: Bench) -> None:
        found = bench.get("check", "service_name=checkout&span_name=GET+/cart/items&duration=1s")
        assert (found["level"], found["baseline"], found["no_shift_verdict"]) == (5, None, "unavailable")
        assert found["duration"]["outlier"] is None
        assert [(each["level"], each["traces"], each["needed_traces"]) for each in found["levels"]] == [
            (1, 0, 50), (2, 0, 20), (3, 0, 50), (4, 10, 30),
        ]  # fmt: skip
        assert "everything 10 of 30 traces" in found["sentence"]

    def test_a_stream_has_no_verdict_and_says_why(self) -> None:
        socket = SeriesKey("chat", "GET /ws")
        bench = Bench(Store.in_memory())
        for start in range(NOON - 2 * DAY, NOON - DAY, HOUR):
            commit_hour(bench.store, start, {socket: around(400.0, 30)})
        query = "service_name=chat&span_name=GET+/ws"
        found = bench.get("check", query)
        assert (found["kind"], found["stream_reason"], found["no_shift_verdict"]) == ("stream", "name", "stream")
        assert (found["outlier_threshold_seconds"], found["shift_thresholds"]) == (None, [])
        assert found["baseline"] is not None
        assert "chat GET /ws usually lasts" in found["sentence"]
        assert "It is a stream by its name" in found["sentence"]
        checked = bench.get("check", f"{query}&duration=1h")
        bench.store.close()
        assert checked["duration"]["outlier"] is None
        assert "Whether 3,600 s is much for chat GET /ws is not judged." in checked["sentence"]

    def test_folded_names_are_explained(self, bench: Bench) -> None:
        bench.snapshot = Snapshot(NOW, series=(SeriesStatus(KEY.folded(), current_traces=2),))
        sentence = bench.get("check", "service_name=checkout&span_name={other}")["sentence"]
        assert "all span names of its service beyond series.max_per_service" in sentence

    def test_a_series_that_only_the_live_edge_has_is_known(self, bench: Bench) -> None:
        assert bench.get("check", "service_name=checkout&span_name=POST+/pay")["now"]["current_traces"] == 2


class TestComparisons:
    """Links into Traces Drilldown."""

    def test_flags_and_causes_have_the_links_of_the_pages(self, bench: Bench) -> None:
        drilldown = Drilldown("https://grafana")
        site = bench.site_with(drilldown)
        assert bench.snapshot is not None
        (status,) = [status for status in bench.snapshot.series if status.shift]
        urls = drilldown.of_flags(status, bench.snapshot.evaluated_at)
        assert list(urls) == ["shift", "errors"]
        series, checked, past, why = (
            json.loads(ask(site, f"/api/v1/{name}", query=query).body)
            for name, query in (("series", ""), ("check", NAMED), ("check", f"{NAMED}&at={NOON}"), ("why", NAMED))
        )
        assert [each["comparison_urls"] for each in series["series"]] == [{}, urls, {}]
        assert checked["now"]["comparison_urls"] == urls
        assert past["now"] is None
        assert why["comparison_url"].startswith("https://grafana/a/grafana-exploretraces-app/explore?")
        bench.sought.clear()

    def test_without_the_address_of_grafana_there_are_none(self, bench: Bench) -> None:
        assert [each["comparison_urls"] for each in bench.get("series")["series"]] == [{}, {}, {}]


class TestBaseline:
    def test_at_an_instant(self, bench: Bench) -> None:
        found = bench.get("baseline", f"{NAMED}&at={NOON}")
        checked = bench.get("check", f"{NAMED}&at={NOON}")
        assert found == {name: value for name, value in checked.items() if name in found}
        assert found["baseline"]["samples"] == 180

    def test_all_slots(self, bench: Bench) -> None:
        slots = bench.get("baseline", NAMED)["slots"]
        names = [(each["slot"]["day_type"], each["slot"]["hour"]) for each in slots]
        assert names == [(day_type, hour) for day_type in ("weekday", "weekend") for hour in range(24)]
        assert slots[12]["baseline"]["samples"] == slots[12]["own_traces"] == 180
        # With only one Saturday and one Sunday, the nearby hours are used.
        assert (slots[24]["level"], slots[24]["own_windows"]) == (2, 2)

    def test_all_slots_have_the_usual_traffic_and_failures(self, bench: Bench) -> None:
        slots = bench.get("baseline", NAMED)["slots"]
        assert slots[12]["usual_requests"] == 30.0
        # It is not known which requests of this history failed.
        assert {each["baseline_error_ratio"] for each in slots} == {None}


class TestTimeline:
    @pytest.mark.parametrize(("range_", "hours"), [("6h", 6), ("24h", 24), ("7d", 168)])
    def test_points_against_the_usual_of_their_hours(self, bench: Bench, range_: str, hours: int) -> None:
        found = bench.get("timeline", f"{NAMED}&range={range_}")
        assert (found["range"], found["step_seconds"], found["end_unix"]) == (range_, HOUR, int(NOW))
        *past, present = found["points"]
        assert [each["start_unix"] for each in past] == list(range(NOON - hours * HOUR, NOON, HOUR))
        assert found["start_unix"] == NOON - hours * HOUR
        durations = sorted(around(0.1, 30))
        for point in past:
            if point["start_unix"] == NOON - 2 * DAY:
                # In this hour, only the other endpoint had requests.
                assert (point["origin"], point["traces"], point["observed_p50_seconds"]) == ("history", 0, None)
                continue
            assert (point["origin"], point["traces"], point["total_requests"]) == ("history", 30, 30.0)
            assert point["observed_p50_seconds"] == pytest.approx(durations[14], rel=0.0111)
            assert point["observed_p95_seconds"] == pytest.approx(durations[28], rel=0.0111)
            assert point["baseline"]["p95_seconds"] == pytest.approx(durations[28], rel=0.0111)
            assert (point["usual_requests"], point["error_ratio"], point["quarantined"]) == (30.0, None, False)
        assert (present["origin"], present["total_requests"], present["observed_p50_seconds"]) == (None, None, None)
        assert [sum(column) for column in found["heat_map"]["counts"]] == [each["traces"] for each in found["points"]]

    def test_the_default_range_is_a_day_and_flags_that_fire_have_no_end(self, bench: Bench) -> None:
        found = bench.get("timeline", NAMED)
        assert found["range"] == "24h"
        assert found["flags"] == [
            {"flag": "errors", "since_unix": NOON - 90.0, "until_unix": None},
            {"flag": "shift", "since_unix": NOON - 75.5, "until_unix": None},
        ]

    def test_heat_map_has_a_bound_on_either_side_of_each_row(self, bench: Bench) -> None:
        found = bench.get("timeline", NAMED)
        bounds, counts = found["heat_map"]["bounds_seconds"], found["heat_map"]["counts"]
        assert bounds == sorted(bounds)
        assert {len(column) for column in counts} == {len(bounds) - 1}
        assert len(counts) == len(found["points"])

    def test_a_series_without_history_has_an_empty_past(self, bench: Bench) -> None:
        found = bench.get("timeline", "service_name=checkout&span_name=POST+/pay&range=6h")
        assert {each["traces"] for each in found["points"]} == {0}
        assert {each["baseline"] for each in found["points"]} == {None}
        assert found["heat_map"] == {"bounds_seconds": [], "counts": [[]] * 7}

    def test_invalid_requests(self, bench: Bench) -> None:
        assert bench.refused("timeline", f"{NAMED}&range=1y")["errors"][0]["parameter"] == "range"
        assert bench.refused("timeline", "service_name=no&span_name=where")["status"] == 404


class TestLists:
    def test_baselines_are_null_while_they_are_being_computed(self, bench: Bench) -> None:
        series = (
            SeriesStatus(KEY, current_traces=3, is_baseline_known=False),
            SeriesStatus(RARE, shift=True, is_baseline_known=False),
        )
        bench.snapshot = Snapshot(NOW, series=series, has_baselines=False)
        first, second = bench.get("series")["series"]
        assert (first["state"], first["current_traces"], second["state"]) == ("unjudged", 3, "shifted")
        for name in ("level", "level_name", "baseline", "outlier_threshold_seconds", "shifted", "outlier", "score"):
            assert first[name] is None, name

    def test_series_and_their_states(self, bench: Bench) -> None:
        found = bench.get("series")
        assert (found["total"], found["next_cursor"], found["evaluated_at_unix"]) == (3, None, NOON + 0.25)
        assert [each["state"] for each in found["series"]] == ["learning", "shifted", "unavailable"]
        shifted = found["series"][1]
        assert shifted["time_lost"] == {"requests": 42, "seconds": 130.5, "since_unix": NOON - 75.5}
        assert (shifted["excess_traces_total"], shifted["excess_seconds_total"]) == (312, 845.5)
        assert [each["time_lost"] for each in found["series"] if each["state"] != "shifted"] == [None, None]
        assert shifted["last_outlier"] == {"trace_id": f"{0xC0FFEE:032x}", "seconds": 1.25, "at_unix": NOON - 3.5}
        assert [each["span_name"] for each in bench.get("series", "state=shifted")["series"]] == ["GET /cart"]
        assert [each["span_name"] for each in bench.get("series", "match=PAY")["series"]] == ["POST /pay"]
        assert bench.get("series", "service_name=unknown")["series"] == []

    def test_anomalous_endpoints_have_a_firing_flag_or_a_regression(self, bench: Bench) -> None:
        errors, traffic = (KindStatus(kind, firing=True) for kind in (FlagKind.ERRORS, FlagKind.TRAFFIC))
        anomalous = [
            SeriesStatus(SeriesKey("a", "errors"), kinds=(errors,)),
            SeriesStatus(SeriesKey("a", "regression"), shift=False, regressed=True, regression=REGRESSION),
            SeriesStatus(SeriesKey("a", "shift"), shift=True),
            SeriesStatus(SeriesKey("a", "traffic"), kinds=(traffic,)),
        ]
        usual = SeriesStatus(SeriesKey("b", "usual"), shift=False, regressed=False, outlier=True)
        bench.snapshot = Snapshot(NOW, series=(*anomalous, usual))
        found = {
            value: [each["span_name"] for each in bench.get("series", f"anomalous={value}")["series"]]
            for value in ("true", "false", "")
        }
        names = ["errors", "regression", "shift", "traffic"]
        assert found == {"true": names, "false": ["usual"], "": [*names, "usual"]}
        for state, name in (("failing", "errors"), ("unusual_traffic", "traffic"), ("shifted", "shift")):
            assert [each["span_name"] for each in bench.get("series", f"state={state}")["series"]] == [name]

    def test_streams_have_a_kind_a_reason_and_a_state(self, bench: Bench) -> None:
        stream = SeriesStatus(RARE, current_traces=3, stream=StreamReason.NAME)
        bench.snapshot = Snapshot(NOW, series=(SeriesStatus(KEY), stream))
        found = [(each["kind"], each["stream_reason"], each["state"]) for each in bench.get("series")["series"]]
        assert found == [("request", None, "unavailable"), ("stream", "name", "stream")]
        assert [each["kind"] for each in bench.get("series", "state=stream")["series"]] == ["stream"]

    def test_without_a_snapshot_the_list_is_empty(self, bench: Bench) -> None:
        bench.snapshot = None
        assert bench.get("series") == {
            "evaluated_at_unix": None,
            "judged_at_unix": None,
            "total": 0,
            "next_cursor": None,
            "series": [],
        }

    def test_long_lists_are_paginated_with_any_names(self, bench: Bench) -> None:
        keys = sorted(
            [HOSTILE_KEY, SeriesKey("", ""), *(SeriesKey("svc", f"GET /{number:03}") for number in range(250))]
        )
        bench.snapshot = Snapshot(NOON, series=tuple(SeriesStatus(key) for key in keys))
        found: list[SeriesKey] = []
        query = "limit=100"
        for expected in (100, 100, 52):
            page = bench.get("series", query)
            assert (page["total"], len(page["series"])) == (252, expected)
            found += [SeriesKey(each["service_name"], each["span_name"]) for each in page["series"]]
            query = f"limit=100&cursor={page['next_cursor']}"
        assert query == "limit=100&cursor=None"
        assert found == keys

    def test_levels_by_hour(self, bench: Bench) -> None:
        found = bench.get("available")
        assert [each["span_name"] for each in found["series"]] == ["GET /cart", "GET /cart/items"]
        cart, rare = found["series"]
        assert cart["level_by_hour"]["weekday"][12] == 1
        assert cart["learning_hours"] == {"weekday": [], "weekend": []}
        assert cart["traces_by_hour"]["weekday"][12] == 180
        assert set(rare["level_by_hour"]["weekday"] + rare["level_by_hour"]["weekend"]) == {5}
        assert found["series_by_level"]["weekday"][12] == [1, 0, 0, 0, 1]
        second = bench.get("available", f"limit=1&cursor={bench.get('available', 'limit=1')['next_cursor']}")
        assert ([each["span_name"] for each in second["series"]], second["series_by_level"]) == (
            ["GET /cart/items"],
            None,
        )


class TestTrace:
    def test_critical_path_and_comparison_with_the_baseline(self, bench: Bench) -> None:
        found = bench.get("trace", "trace_id=C0FFEE")
        assert found["trace_id"] == f"{0xC0FFEE:032x}"
        assert [(each["service_name"], each["self_seconds"], each["share"]) for each in found["services"]] == [
            ("stock", 0.8, 0.8),
            ("checkout", 0.2, 0.2),
        ]
        assert [
            (step["span_name"], step["begins_seconds"], step["self_seconds"]) for step in found["critical_path"]
        ] == [
            ("GET /cart", 0.0, 0.2),
            ("reserve", 0.1, 0.8),
        ]
        assert found["check"]["duration"]["outlier"] is True
        assert found["sentence"].startswith(
            "checkout GET /cart took 1 s, 80% of it in stock; most of all in stock reserve, 800 ms (80%). "
            "1 s is an outlier for checkout GET /cart"
        )

    def test_one_endpoint_of_a_trace(self, bench: Bench) -> None:
        found = bench.get("trace", "trace_id=1&service_name=stock&span_name=reserve")
        assert (found["root"]["duration_seconds"], found["oddities"]["elsewhere"]) == (0.8, 1)
        assert found["check"]["level"] == 5
        missing = bench.refused("trace", "trace_id=1&service_name=stock&span_name=release")
        assert (missing["status"], missing["detail"]) == (404, f"trace {'1'.zfill(32)} has no span of stock release")

    def test_spans_that_share_an_id_are_both_shown(self, bench: Bench) -> None:
        client = TRACE[0]._replace(service_name="front-proxy", name="route", kind="client")
        bench.trace = [client._replace(span_id="2", parent_id="2", service_name="db"), TRACE[0], client]
        found = bench.get("trace", "trace_id=1")
        assert [(step["service_name"], step["depth"]) for step in found["critical_path"]][:2] == [
            ("front-proxy", 0),
            ("checkout", 1),
        ]
        assert (found["spans"], found["oddities"]["duplicates"], found["oddities"]["roots"]) == (3, 0, 1)
        asked = bench.get("trace", "trace_id=1&service_name=checkout&span_name=GET+/cart")
        assert (asked["root"]["service_name"], asked["root"]["span_id"]) == ("checkout", "1")

    def test_an_unknown_trace_is_not_found(self, bench: Bench) -> None:
        bench.trace = []
        found = bench.refused("trace", "trace_id=1")
        assert found["status"] == 404
        assert "Tempo has no trace" in found["detail"]

    def test_an_error_of_tempo_is_a_bad_gateway(self, bench: Bench) -> None:
        bench.trace = TempoError("GET http://tempo: connection refused", reason="connection")
        found = bench.refused("trace", "trace_id=1")
        assert (found["status"], found["reason"]) == (502, "connection")

    def test_a_tempo_that_hangs_leaves_a_worker_free(self, bench: Bench) -> None:
        both_running, unblock = threading.Barrier(3), threading.Event()

        class Hanging(list[TraceSpan]):
            def __iter__(self) -> Iterator[TraceSpan]:
                both_running.wait(10)
                unblock.wait(10)
                return iter(TRACE)

        bench.trace = Hanging()
        threads = [threading.Thread(target=bench.get, args=("trace", "trace_id=1")) for _ in range(2)]
        for thread in threads:
            thread.start()
        both_running.wait(10)
        try:
            response = ask(bench.site, "/api/v1/series")
            assert response.status == "503 Service Unavailable"
            assert response.headers["Retry-After"] == "1"
        finally:
            unblock.set()
            for thread in threads:
                thread.join()
        assert bench.get("series")["total"] == 3


class TestWhy:
    """The cause of a shift, which costs Tempo several requests."""

    runs: ClassVar = count(1)

    @pytest.fixture(autouse=True)
    def forget(self, bench: Bench) -> Iterator[None]:
        """Wait until nothing is cached any more."""
        snapshot = bench.snapshot
        bench.sought.clear()
        bench.clock.now += 100.0 * next(self.runs)
        yield
        bench.snapshot, bench.while_looking, bench.clock.now = snapshot, lambda: None, NOW

    def test_cause_is_looked_for_once_a_minute(self, bench: Bench) -> None:
        first, second = (bench.get("why", NAMED) for _ in range(2))
        assert first == second
        assert (first["outcome"], first["cause"], first["cause_service_name"]) == ("known", "slower_calls", "payments")
        assert first["parts"][0]["span_name"] == "INSERT charges"
        assert first["sentence"].startswith("Of the extra ")
        account = first["account"]
        assert sum(each["now_seconds"] - each["healthy_seconds"] for each in account["components"]) == pytest.approx(
            account["extra_seconds"] - account["mix_seconds"]
        )
        (shift,) = bench.sought
        assert (shift.key, shift.at, shift.since) == (KEY, bench.clock.now, NOON - 75.5)

    def test_instant_in_the_past_has_no_flag(self, bench: Bench) -> None:
        assert bench.get("why", f"{NAMED}&at={NOON - DAY}")["outcome"] == "known"
        (shift,) = bench.sought
        assert (shift.at, shift.since) == (NOON - DAY, None)

    def test_cause_that_is_known_already_costs_no_request(self, bench: Bench) -> None:
        assert bench.snapshot is not None
        cause = a_cause(Shift(KEY, NOON + 5.0, NOON - 75.5))
        series = [replace(each, cause=cause) if each.shift else each for each in bench.snapshot.series]
        bench.snapshot = replace(bench.snapshot, series=tuple(series))
        assert bench.get("why", NAMED)["at_unix"] == NOON + 5.0
        assert bench.sought == []
        (found,) = [each["shift_cause"] for each in bench.get("series")["series"] if each["shift_cause"]]
        assert (found["outcome"], found["cause_service_name"]) == ("known", "payments")

    def test_one_at_a_time(self, bench: Bench) -> None:
        refused = []
        bench.while_looking = lambda: refused.append(ask(bench.site, "/api/v1/why", query=f"{NAMED}&at=1"))
        bench.get("why", NAMED)
        (response,) = refused
        assert response.status == "503 Service Unavailable"
        assert response.headers["Retry-After"] == "5"

    def test_unknown_series(self, bench: Bench) -> None:
        assert bench.refused("why", "service_name=x&span_name=y")["status"] == 404
        assert bench.sought == []


class TestAliases:
    """Keys that were renamed to the terms of the glossary keep their old names."""

    ALIASES: ClassVar = {
        "bucket": "slot",
        "epoch_unix": "changepoint_unix",
        "judged_at_unix": "evaluated_at_unix",
        "usual_seconds": "baseline_seconds",
    }

    def pairs(self, document: Any) -> Iterator[tuple[str, Any, Any]]:
        """Old key and both values, wherever one of the two keys is."""
        if isinstance(document, dict):
            for old, new in self.ALIASES.items():
                if old in document or new in document:
                    yield old, document[old], document[new]
        for item in document.values() if isinstance(document, dict) else document if isinstance(document, list) else ():
            yield from self.pairs(item)

    def test_old_and_new_keys_have_the_same_value(self, bench: Bench) -> None:
        paths = (
            ("check", NAMED),
            ("baseline", NAMED),
            ("baseline", f"{NAMED}&at={NOON}"),
            ("series", ""),
            ("timeline", NAMED),
        )
        found = [pair for path, query in paths for pair in self.pairs(bench.get(path, query))]
        assert {old for old, _, _ in found} == set(self.ALIASES)
        assert [old for old, old_value, new_value in found if old_value != new_value] == []
        assert {old for old, value, _ in found if value is not None} == set(self.ALIASES)


class TestErrors:
    def test_all_parameter_errors_are_reported_together(self, bench: Bench) -> None:
        found = bench.refused("check", "servce_name=x&span_name=a&span_name=b&duration=2&at=noon")
        assert found["status"] == 400
        assert {each["parameter"]: each["detail"] for each in found["errors"]} == {
            "service_name": "is missing",
            "span_name": "must be given once, not 2 times",
            "duration": "needs a unit, such as s, m, h or d, not '2'",
            "at": "must be a time such as 2026-11-24T14:00 (local), 2026-11-24T14:00Z, Unix seconds or now, not 'noon'",
            "servce_name": "is not a parameter of this path; did you mean service_name?",
        }

    @pytest.mark.parametrize(
        ("name", "query", "parameter"),
        [
            ("check", f"{NAMED}&at=-1", "at"),
            ("check", f"{NAMED}&at=1795532340000", "at"),
            ("check", f"{NAMED}&at=14:00", "at"),
            ("check", f"{NAMED}&at=2026-13-24T14:00:00Z", "at"),
            ("check", f"{NAMED}&at=9999-12-31T23:59:59-23:59", "at"),
            ("check", f"{NAMED}&duration=-5s", "duration"),
            ("check", f"{NAMED}&duration=" + "9" * 400 + "d", "duration"),
            ("series", "limit=0", "limit"),
            ("series", "limit=1001", "limit"),
            ("series", "limit=٣", "limit"),
            ("series", "cursor=bm90IGpzb24=", "cursor"),
            ("series", "cursor=WzEsMl0=", "cursor"),
            ("series", "cursor=%ff", "cursor"),
            ("series", "state=anomalus", "state"),
            ("trace", "", "trace_id"),
            ("trace", "trace_id=0", "trace_id"),
            ("trace", "trace_id=..%2f..%2fsearch", "trace_id"),
            ("trace", "trace_id=1&span_name=x", "service_name"),
        ],
    )
    def test_invalid_parameters(self, bench: Bench, name: str, query: str, parameter: str) -> None:
        found = bench.refused(name, query)
        assert (found["status"], [each["parameter"] for each in found["errors"]]) == (400, [parameter])

    @pytest.mark.parametrize("name", ["check", "baseline"])
    def test_an_unknown_series_is_not_found_and_lists_similar_names(self, bench: Bench, name: str) -> None:
        found = bench.refused(name, "service_name=checkout&span_name=GET+/carts")
        assert found["status"] == 404
        assert found["nearest"][0] == {"service_name": "checkout", "span_name": "GET /cart"}
        assert (
            bench.refused(name, "service_name=chekout&span_name=GET+/cart")["nearest"][0]["service_name"] == "checkout"
        )

    def test_series_is_found_by_its_whole_name_and_by_its_label(self, bench: Bench) -> None:
        bench.snapshot = Snapshot(NOON, series=(SeriesStatus(LONG_KEY),))
        bench.trace = [TraceSpan("1", "", *LONG_KEY[:2], "server", NOON * 10**9, MS)]
        for names in (LONG_KEY, DEFAULT_LABEL_NAMES.of(LONG_KEY)):
            query = urlencode(names.parameters)
            for name in ("check", "baseline", "trace"):
                found = bench.get(name, query + ("&trace_id=1" if name == "trace" else ""))
                assert (found["service_name"], found["span_name"]) == LONG_KEY[:2]
        long = SeriesKey(LONG_KEY.span_name, "GET /")
        bench.snapshot = Snapshot(NOON, series=(SeriesStatus(long), SeriesStatus(KEY)))
        for service_name in (long.service_name, DEFAULT_LABEL_NAMES.of(long).service_name):
            found = bench.get("series", urlencode({"service_name": service_name}))
            assert [each["service_name"] for each in found["series"]] == [long.service_name]

    def test_cursor_of_the_longest_names_fits_into_a_request(self, bench: Bench) -> None:
        keys = [SeriesKey("🙂" * MAX_NAME_CHARACTERS, "🙂" * (MAX_NAME_CHARACTERS - 1) + end) for end in "ab"]
        bench.snapshot = Snapshot(NOON, series=tuple(map(SeriesStatus, keys)))
        cursor = bench.get("series", "limit=1")["next_cursor"]
        assert len(cursor) < 100_000
        assert bench.get("series", f"cursor={cursor}")["series"][0]["span_name"] == keys[1].span_name

    def test_other_methods_and_paths_are_errors(self, bench: Bench) -> None:
        assert bench.refused("check", method="POST")["status"] == 405
        assert bench.refused("nothing")["status"] == 404

    def test_an_error_of_the_database_is_unavailable(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise StoreError("locked", "reading the history failed: database is locked")

        monkeypatch.setattr(bench.store, "history", refuse)
        found = bench.refused("check", NAMED)
        assert (found["status"], found["reason"]) == (503, "locked")

    def test_damaged_history_is_an_error(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        original = bench.store.history

        def damaged(*arguments: Any, **options: Any) -> Iterator[Any]:
            for stored in original(*arguments, **options):
                yield stored._replace(windows=[window._replace(digest=b"\xff\xff") for window in stored.windows])

        monkeypatch.setattr(bench.store, "history", damaged)
        found = bench.refused("check", NAMED)
        assert found["status"] == 500
        assert "damaged" in found["detail"]


ENV = "deployment_environment_name"


class TestIncidents:
    def test_list_and_document_of_one_incident(self, bench: Bench) -> None:
        bench.incidents.observe(two_that_share_a_cause(), NOW)
        bench.incidents.save()
        listed = bench.get("incidents")
        assert listed["next_cursor"] is None
        (summary,) = listed["incidents"]
        document = bench.get("incident", f"id={summary['incident']}")
        endpoints = document.pop("endpoints")
        assert document.pop("marks") == []
        assert document == summary
        assert (summary["cause"], summary["cause_service_name"], summary["end_unix"]) == (
            "slower_calls",
            "payments",
            None,
        )
        assert summary["endpoints_by_role"] == {"cause": 1, "victim": 1, "unexplained": 0}
        assert summary["time_lost"] == {"requests": 84, "seconds": 261.0}
        assert [(each["service_name"], each["role"]) for each in endpoints] == [
            ("payments", "cause"), ("checkout", "victim"),
        ]  # fmt: skip
        assert endpoints[0]["shift_cause"] is None
        found = endpoints[1]["shift_cause"]
        assert (found["sentence"], found["cause_service_name"]) == (summary["sentence"], "payments")
        components = [each["span_name"] for each in found["account"]["components"]]
        assert components[0] == "INSERT charges"
        assert len(components) <= 10

    def test_list_is_paged_from_the_newest(self, bench: Bench) -> None:
        known = a_cause()
        for number in range(5):
            key, since = SeriesKey("s", str(number)), NOON + number / 3
            cause = replace(known, shift=Shift(key, NOW, since))
            bench.incidents.observe([SeriesStatus(key, shift=True, since=since, cause=cause)], NOW)
            bench.incidents.observe([], NOW + 1)
            bench.incidents.observe([], NOW + 1000)
        bench.incidents.save()
        starts, cursor = [], ""
        for _ in range(3):
            page = bench.get("incidents", f"limit=2&cursor={cursor}")
            starts += [each["start_unix"] for each in page["incidents"]]
            cursor = page["next_cursor"] or ""
        assert starts[:5] == [NOON + number / 3 for number in (4, 3, 2, 1, 0)]
        assert cursor == ""

    def test_unknown_id_and_invalid_cursor_are_refused(self, bench: Bench) -> None:
        assert "storage.retention" in bench.refused("incident", "id=nothing")["detail"]
        assert bench.refused("incident")["errors"][0]["parameter"] == "id"
        for cursor in ("x", "WzFd", base64.urlsafe_b64encode(b'[Infinity, "a"]').decode()):
            assert bench.refused("incidents", f"cursor={cursor}")["errors"][0]["parameter"] == "cursor"


PROD, STAGING = (SeriesKey("shop", "GET /", ((ENV, each),)) for each in ("prod", "staging"))
BARE = SeriesKey("shop", "GET /login")


@pytest.fixture(scope="module")
def labelled() -> Iterator[Site]:
    store = Store.in_memory()
    for start in range(NOON - 9 * DAY, NOON, HOUR):
        commit_hour(store, start, {PROD: around(0.1, 30), STAGING: around(0.3, 30), BARE: around(0.1, 1)})
    evaluate_history(store, NOON)
    snapshot = Snapshot(NOON, series=tuple(map(SeriesStatus, sorted((PROD, STAGING, BARE)))))
    start_ns = int((NOON + 60) * 1e9)
    trace = [TraceSpan("1", "", "shop", "GET", "server", start_ns, 900 * MS, endpoint="GET /", labels=STAGING.labels)]
    querier = BaselineQuerier(store, HourClock(Calendar()), SETTINGS)
    api = Api(
        querier,
        TimelineQuerier(store, HourClock(Calendar()), SETTINGS, querier),
        lambda: snapshot,
        lambda _: trace,
        renamed=lambda key: key,
        label_names=LabelNames(names=(ENV,)),
        calendar=Calendar(),
        clock=Clock(NOW),
        find_cause=a_cause,
        incidents=incident_tracker(store),
    )
    yield Site(api.pages(), get_logger("web"))
    store.close()


class TestLabels:
    def get(self, site: Site, name: str, query: str) -> Any:
        return json.loads(ask(site, f"/api/v1/{name}", query=query).body)

    def test_a_label_selects_the_series(self, labelled: Site) -> None:
        for key, p50 in ((PROD, 0.1), (STAGING, 0.3)):
            found = self.get(labelled, "check", urlencode(key.parameters))
            assert found["labels"] == {ENV: key.labels[0][1]}
            assert found["baseline"]["p50_seconds"] == pytest.approx(p50, rel=0.05)
        assert "labels" not in self.get(labelled, "check", urlencode(BARE.parameters))

    def test_without_a_label_a_series_must_be_the_only_one(self, labelled: Site) -> None:
        found = self.get(labelled, "baseline", "service_name=shop&span_name=GET+/")
        assert (found["status"], found["matching"]) == (400, [PROD.fields, STAGING.fields])
        found = self.get(labelled, "check", f"service_name=shop&span_name=GET+/&{ENV}=")
        assert (found["status"], found["nearest"][:2]) == (404, [PROD.fields, STAGING.fields])

    def test_lists_are_filtered_by_label(self, labelled: Site) -> None:
        for name in ("series", "available"):
            found = {
                value: [each.get("labels") for each in self.get(labelled, name, f"{ENV}={value}")["series"]]
                for value in ("prod", "", "none")
            }
            assert found == {"prod": [{ENV: "prod"}], "": [None], "none": []}
            assert self.get(labelled, name, "match=STAGING")["total"] == 1

    def test_pages_of_a_list_go_on_behind_labels(self, labelled: Site) -> None:
        pages = [self.get(labelled, "series", "limit=1")]
        while pages[-1]["next_cursor"]:
            pages.append(self.get(labelled, "series", f"limit=1&cursor={pages[-1]['next_cursor']}"))
        found = [each for page in pages for each in page["series"]]
        assert [each.get("labels") for each in found] == [{ENV: "prod"}, {ENV: "staging"}, None]

    @pytest.mark.parametrize("label", ["x", ["a"], ["a", 1], ["a", "b", "c"]])
    def test_a_cursor_with_something_else_than_labels_is_refused(self, labelled: Site, label: Any) -> None:
        cursor = base64.urlsafe_b64encode(json.dumps(["a", "b", [label]]).encode()).decode()
        assert self.get(labelled, "series", f"cursor={cursor}")["status"] == 400

    def test_a_trace_is_compared_with_the_series_of_its_attributes(self, labelled: Site) -> None:
        found = self.get(labelled, "trace", "trace_id=1")
        assert (found["span_name"], found["labels"], found["root"]["span_name"]) == ("GET /", {ENV: "staging"}, "GET")
        assert found["check"]["duration"]["outlier"]
        assert self.get(labelled, "trace", f"trace_id=1&{urlencode(STAGING.parameters)}")["labels"] == {ENV: "staging"}
        assert self.get(labelled, "trace", f"trace_id=1&{urlencode(PROD.parameters)}")["status"] == 404
