"""Every query of every dashboard, run by a Prometheus that scrapes an exporter during an incident."""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from exporter.demo.endpoints import Endpoint, SyntheticTraces
from exporter.demo.faults import FastFailures
from exporter.demo.latency import Incident, Lognormal
from exporter.demo.routes import ApiOptions
from exporter.demo.scenario import FAULT_SERVICE, SEED, calendar_weekend, demo_endpoints
from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import Operation
from exporter.demo.traffic import SeriesProfile
from exporter.model.span import SeriesKey
from tests.support.dashboards import ANYTHING, BY_UID, Board, Query, Values, interpolate
from tests.support.monitoring import PrometheusServer, scraping
from tests.support.processes import ExporterProcess, settings

CHECKOUT: Final = SeriesKey("checkout", "POST /checkout")
HOSTILE: Final = (
    SeriesKey("a.b/c+d", "GET /a/{id}?q=(x|y)*$^[z]"),
    SeriesKey('say "hi"', 'SELECT "name" FROM "users"'),
    SeriesKey("back\\slash", "C:\\jobs\\n'ightly' \\d+"),
    SeriesKey("${job} $instance", "100% </script>&var-job=x#y, {{span_name}}"),
    SeriesKey("наблюдение 订单", "two\nlines\tand a tab"),
)
FAILING: Final = SeriesKey("accounts", "POST /accounts")
SILENT: Final = SeriesKey("accounts", "GET /accounts/{id}")
STARTED_SECONDS_AGO: Final = 240
SILENT_SECONDS_AGO: Final = 420
BACKFILL_TIMEOUT_SECONDS: Final = 240
SCRAPES: Final = 8
ANOMALOUS: Final = 'tempo_anomaly_anomalous_since_timestamp_seconds{service_name="checkout"}'
JOB: Final = "tempo-anomaly-exporter"

EMPTY: Final[Mapping[str, str]] = {
    "tempo-anomaly-exporter, Failed requests A": "no request fails here, and the graph leaves out zeros",
    "tempo-anomaly-endpoint, Last days and the weeks before A": "a verdict needs nine days of history",
    **{
        f"tempo-anomaly-overview, Slower than in the weeks before {ref}": "a verdict needs nine days of history"
        for ref in "ABC"
    },
    "tempo-anomaly-overview, Services as a whole A": "no service has four root spans that become slower",
}
"""Queries with an empty result, and the reason."""


@dataclass(frozen=True)
class Monitoring:
    """A Prometheus that scrapes one exporter under two addresses, like two replicas."""

    prometheus: PrometheusServer
    tempo_url: str
    instances: tuple[str, str]
    series: frozenset[SeriesKey]
    end: float

    def values(self, *selected: SeriesKey, **more: str | Sequence[str]) -> Values:
        """Return the variables of a dashboard with some endpoints selected, or all."""
        return {
            "datasource": "prometheus",
            "tempo": "tempo",
            "job": JOB,
            "instance": self.instances,
            "service": [key.service_name for key in selected] or ANYTHING,
            "endpoint": [key.span_name for key in selected] or ANYTHING,
            "__range": "60s",
            "__interval": "2s",
            "__rate_interval": "6s",
            **more,
        }

    def run(self, query: Query, values: Values) -> list[dict[str, Any]]:
        """Run a query as its panel does, at an instant or over the last minute."""
        text = interpolate(query.text, values)
        if query.target.get("instant") or query.panel is None:
            return self._get("query", text, time=self.end)
        return self._get("query_range", text, start=self.end - 60, end=self.end, step=2)

    def _get(self, path: str, text: str, **parameters: float) -> list[dict[str, Any]]:
        params: dict[str, str | float] = {"query": text, **parameters}
        response = requests.get(f"{self.prometheus.url}/api/v1/{path}", params=params, timeout=10)
        assert response.ok, f"{response.text}\n{text}"
        body = response.json()
        assert not body.get("warnings"), body["warnings"]
        result: list[dict[str, Any]] = body["data"]["result"]
        return result

    def run_panel(
        self, board: Board, title: str, ref: str = "A", *, values: Values | None = None
    ) -> list[dict[str, Any]]:
        """Run a query of a panel by title and reference."""
        (query,) = [each for each in prometheus_queries(board) if each.place == f"{board.uid}, {title} {ref}"]
        return self.run(query, values or self.values())

    def search(self, traceql: str, start: float, end: float) -> list[dict[str, Any]]:
        """Search Tempo for traces."""
        params: dict[str, str | int] = {"q": traceql, "start": int(start), "end": int(end), "limit": 20}
        response = requests.get(f"{self.tempo_url}/api/search", params=params, timeout=10)
        assert response.ok, f"{response.text}\n{traceql}"
        traces: list[dict[str, Any]] = response.json()["traces"]
        return traces


@pytest.fixture(scope="module")
def monitoring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitoring]:
    """The demo's shop plus endpoints with hostile names, four minutes into the incident; one fails, one is silent."""
    now = time.time()
    incident = Incident(now - STARTED_SECONDS_AGO, now + 600, 5.0)
    hostile = tuple(
        Endpoint(
            Operation(key.service_name, key.span_name),
            SeriesProfile(rate_per_minute=5, shape=Lognormal(0.3), incidents=(incident,)),
        )
        for key in HOSTILE
    )
    steady = SeriesProfile(rate_per_minute=5, shape=Lognormal(0.3))
    others = (
        Endpoint(
            Operation(FAILING.service_name, FAILING.span_name),
            steady,
            failures=FastFailures(now - STARTED_SECONDS_AGO, now + 600, share=0.8, factor=0.9),
        ),
        Endpoint(
            Operation(SILENT.service_name, SILENT.span_name),
            replace(steady, gaps=((now - SILENT_SECONDS_AGO, now + 600),)),
        ),
    )
    shop = demo_endpoints(now, incident_after_seconds=-STARTED_SECONDS_AGO)
    traces = SyntheticTraces((*shop, *hostile, *others), SEED, begin=now - 8 * 24 * 3600)
    home = tmp_path_factory.mktemp("dashboards")
    with ExitStack() as stack:
        tempo = stack.enter_context(TempoServer(traces, ApiOptions()))
        configuration = settings(
            tempo.url,
            # Without the endpoints that the one of the incident calls.
            tempo={"scope": "root"},
            calendar={"weekend": list(calendar_weekend(now))},
            polling={"backfill_duration": "72h"},
            detection={"hold": "1s"},
            # The names stay as hostile as they are.
            series={"placeholders": False},
        )
        exporter = stack.enter_context(ExporterProcess(home, configuration))
        port = urlsplit(exporter.url).port
        instances = (f"127.0.0.1:{port}", f"localhost:{port}")
        prometheus = stack.enter_context(PrometheusServer(home / "prometheus", scraping(*instances, job=JOB)))
        exporter.wait_until_filled(BACKFILL_TIMEOUT_SECONDS)
        exporter.wait_for(
            lambda page: all(page.get("anomalous", key, kind="shift") == 1 for key in (CHECKOUT, *HOSTILE))
        )
        exporter.wait_for(lambda page: page.get("anomalous", FAILING, kind="errors") == 1)
        exporter.wait_for(lambda page: page.get("anomalous", SILENT, kind="traffic") == 1)
        # Rates need several scrapes, and exemplars an outlier since the start.
        flagged = exporter.wait_for(lambda page: page.get("outlier_traces_total", CHECKOUT))
        prometheus.wait_for(f"count(count_over_time({ANOMALOUS}[1m]) > {SCRAPES}) == {len(instances)}")
        prometheus.wait_for(f"count(count by (service_name) (tempo_anomaly_incident_info)) == {1 + len(HOSTILE)}")
        yield Monitoring(prometheus, tempo.url, instances, frozenset(flagged.series()), time.time() - 1)


OVERVIEW: Final = BY_UID["tempo-anomaly-overview"]
ENDPOINT: Final = BY_UID["tempo-anomaly-endpoint"]


def prometheus_queries(board: Board) -> list[Query]:
    return [query for query in board.queries() if query.source == "prometheus"]


def series_of(found: list[dict[str, Any]]) -> set[SeriesKey]:
    """Return the series named in the labels of a result."""
    return {SeriesKey(**each["metric"]) for each in found if {"service_name", "span_name"} == each["metric"].keys()}


def value(found: list[dict[str, Any]]) -> float:
    """Return the value of a result with a single number."""
    (one,) = found
    return float(one["value"][1])


@pytest.mark.parametrize("uid", BY_UID)
def test_every_query_has_a_result(monitoring: Monitoring, uid: str) -> None:
    values = monitoring.values(*[CHECKOUT] * (uid == ENDPOINT.uid))
    empty = [query.place for query in prometheus_queries(BY_UID[uid]) if not monitoring.run(query, values)]
    assert set(empty) <= EMPTY.keys()


@pytest.mark.parametrize("uid", BY_UID)
def test_queries_without_matching_series_are_empty(monitoring: Monitoring, uid: str) -> None:
    no_match = monitoring.values(SeriesKey("none", "none"), job="none", instance="none")
    for query in prometheus_queries(BY_UID[uid]):
        found = monitoring.run(query, no_match)
        assert not found or "vector(0)" in query.text or query.text == "tempo_anomaly_build_info", query.place


@pytest.mark.parametrize("key", HOSTILE)
def test_hostile_name_selects_exactly_its_endpoint(monitoring: Monitoring, key: SeriesKey) -> None:
    for query in prometheus_queries(ENDPOINT):
        found = monitoring.run(query, monitoring.values(key))
        assert found or query.place in EMPTY, query.place
        assert "variable" in query.place or series_of(found) <= {key}, query.place


def test_several_hostile_names_select_exactly_their_endpoints(monitoring: Monitoring) -> None:
    selected = (*HOSTILE, CHECKOUT)
    values = monitoring.values(*selected)
    assert value(monitoring.run_panel(OVERVIEW, "Anomalous now", values=values)) == len(selected)
    for query in prometheus_queries(OVERVIEW):
        if "variable" not in query.place:
            assert series_of(monitoring.run(query, values)) <= set(selected), query.place


def test_overview_shows_anomalous_endpoints(monitoring: Monitoring) -> None:
    anomalous = {CHECKOUT, *HOSTILE}
    assert value(monitoring.run_panel(OVERVIEW, "Anomalous now")) == len(anomalous)
    assert value(monitoring.run_panel(OVERVIEW, "Services affected")) == len({key.service_name for key in anomalous})
    for ref in "ABCDEFGHI":
        assert series_of(monitoring.run_panel(OVERVIEW, "Anomalous now, and since when", ref)) == anomalous
    assert anomalous <= series_of(monitoring.run_panel(OVERVIEW, "Highest scores now"))


def test_overview_shows_what_fails_and_what_has_no_traffic(monitoring: Monitoring) -> None:
    for ref in "ABCD":
        assert series_of(monitoring.run_panel(OVERVIEW, "Failing more often than usual", ref)) == {FAILING}
    for ref in "AB":
        assert series_of(monitoring.run_panel(OVERVIEW, "Far from the usual traffic", ref)) == {SILENT}
    assert value(monitoring.run_panel(OVERVIEW, "Failing more often than usual", "B")) > 0.5
    assert value(monitoring.run_panel(OVERVIEW, "Far from the usual traffic", "A")) < 0.5
    kinds = {
        each["metric"]["kind"]: float(each["values"][-1][1]) for each in monitoring.run_panel(OVERVIEW, "Flags by kind")
    }
    assert kinds == {"shift": 1 + len(HOSTILE), "errors": 1, "traffic": 1}
    for ref in "BFGHJ":
        assert CHECKOUT in series_of(monitoring.run_panel(OVERVIEW, "Highest scores now", ref)), ref


def by_incident(found: list[dict[str, Any]]) -> dict[str, float]:
    """Return the values of a result with one row for each incident."""
    assert len({each["metric"]["incident"] for each in found}) == len(found)
    return {each["metric"]["incident"]: float(each["value"][1]) for each in found}


def test_overview_shows_incidents_with_cause_victims_and_time_lost(monitoring: Monitoring) -> None:
    rows = {ref: monitoring.run_panel(OVERVIEW, "Incidents now", ref) for ref in "ABCDEF"}
    members = monitoring.run_panel(OVERVIEW, "Anomalous now, and since when", "K")
    incidents = {
        SeriesKey(each["metric"]["service_name"], each["metric"]["span_name"]): each["metric"]["incident"]
        for each in members
    }
    assert incidents.keys() == {CHECKOUT, *HOSTILE}
    assert all(by_incident(rows[ref]).keys() == set(incidents.values()) for ref in "ABCDF")
    causes = {each["metric"]["incident"]: each["metric"]["cause_service_name"] for each in rows["A"]}
    assert causes == {incidents[CHECKOUT]: FAULT_SERVICE, **{incidents[key]: key.service_name for key in HOSTILE}}
    assert set(by_incident(rows["D"]).values()) == {1}
    assert by_incident(rows["E"]) == {incidents[CHECKOUT]: 1}
    lost = by_incident(rows["F"])
    assert lost[incidents[CHECKOUT]] > 0
    endpoints = monitoring.run_panel(OVERVIEW, "Anomalous now, and since when", "J")
    lost_by_endpoint = {SeriesKey(**each["metric"]): float(each["value"][1]) for each in endpoints}
    assert lost == {incidents[key]: pytest.approx(seconds) for key, seconds in lost_by_endpoint.items()}
    (incident,) = monitoring.run_panel(ENDPOINT, "Incident", values=monitoring.values(CHECKOUT))
    assert (incident["metric"]["incident"], incident["metric"]["role"]) == (incidents[CHECKOUT], "victim")


def test_replicas_are_not_counted_twice(monitoring: Monitoring) -> None:
    count = len(monitoring.series)
    assert value(monitoring.run_panel(OVERVIEW, "Endpoints watched")) == count
    assert sum(float(each["value"][1]) for each in monitoring.run_panel(OVERVIEW, "Services now", "D")) == count
    for board in (OVERVIEW, ENDPOINT):
        for query in prometheus_queries(board):
            found = monitoring.run(query, monitoring.values(*[CHECKOUT] * (board is ENDPOINT)))
            names = [tuple(sorted(each["metric"].items())) for each in found]
            assert "variable" in query.place or not any("instance" in dict(name) for name in names), query.place
            assert len(names) == len(set(names))


def test_exemplars_lead_to_traces_of_outliers(monitoring: Monitoring) -> None:
    (target,) = [each for panel in ENDPOINT.charts for each in panel["targets"] if each.get("exemplar")]
    expression = interpolate(target["expr"], monitoring.values(CHECKOUT))
    found = monitoring.prometheus.exemplars(expression, monitoring.end - 60, monitoring.end)
    # An exemplar is an outlier by the threshold of its own page, and the threshold moves as history is evaluated.
    (threshold,) = monitoring.prometheus.query(
        interpolate(f"min(min_over_time({ENDPOINT_THRESHOLD}[10m]))", monitoring.values(CHECKOUT))
    )
    exemplars = [exemplar for each in found for exemplar in each["exemplars"]]
    assert exemplars
    for exemplar in exemplars:
        assert float(exemplar["value"]) > threshold.value
        trace = requests.get(f"{monitoring.tempo_url}/api/traces/{exemplar['labels']['trace_id']}", timeout=10)
        assert trace.status_code == 200


ENDPOINT_THRESHOLD: Final = (
    "tempo_anomaly_outlier_threshold_seconds{service_name=~`${service:regex}`, span_name=~`${endpoint:regex}`}"
)


def threshold_variable(monitoring: Monitoring, key: SeriesKey) -> str:
    """Return the hidden variable with the threshold, extracted from the result as Grafana does."""
    (query,) = [each for each in prometheus_queries(ENDPOINT) if each.place.endswith("variable threshold_us")]
    (series,) = monitoring.run(query, monitoring.values(key))
    labels = ",".join(f'{name}="{text}"' for name, text in series["metric"].items())
    at, number = series["value"]
    found = re.search(query.target["regex"].strip("/"), f"{{{labels}}} {number} {at * 1000:.0f}")
    assert found
    return found[1]


@pytest.mark.parametrize("key", [CHECKOUT, *HOSTILE])
def test_slow_traces_panel_searches_exact_names(monitoring: Monitoring, key: SeriesKey) -> None:
    threshold = threshold_variable(monitoring, key)
    (metric,) = monitoring.prometheus.query(interpolate(f"max({ENDPOINT_THRESHOLD})", monitoring.values(key)))
    assert int(threshold) == pytest.approx(metric.value * 1e6, abs=1)
    (query,) = [each for each in ENDPOINT.queries() if each.source == "tempo"]
    found = monitoring.search(
        interpolate(query.text, monitoring.values(key, threshold_us=threshold)),
        monitoring.end - STARTED_SECONDS_AGO,
        monitoring.end,
    )
    assert found
    assert {(each["rootServiceName"], each["rootTraceName"]) for each in found} == {key[:2]}
    assert all(each["durationMs"] * 1000 >= int(threshold) - 1000 for each in found)


@pytest.mark.parametrize("key", [CHECKOUT, HOSTILE[0], HOSTILE[3]])
def test_links_to_tempo_search_exact_names(monitoring: Monitoring, key: SeriesKey) -> None:
    values = {
        **monitoring.values(key, threshold_us=threshold_variable(monitoring, key)),
        "__from": f"{(monitoring.end - STARTED_SECONDS_AGO) * 1000:.0f}",
        "__to": f"{monitoring.end * 1000:.0f}",
        "__data.fields.service_name": key.service_name,
        "__data.fields.span_name": key.span_name,
        '__data.fields["Value #I"].numeric': "0.5",
        '__data.fields["Value #D"].numeric': "0.5",
    }
    links = [link for board in (OVERVIEW, ENDPOINT) for link in board.links() if "Slow traces" in link.place]
    assert len(links) == 4
    for link in links:
        parameters = parse_qs(urlsplit(interpolate(link.url, values, "raw")).query)
        (pane,) = json.loads(parameters["panes"][0]).values()
        start, end = (int(pane["range"][which]) / 1000 for which in ("from", "to"))
        found = monitoring.search(pane["queries"][0]["query"], start, end)
        assert found, link.place
        assert {(each["rootServiceName"], each["rootTraceName"]) for each in found} == {key[:2]}
