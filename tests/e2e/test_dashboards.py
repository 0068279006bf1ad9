"""Every query of every dashboard, put to a real Prometheus that scrapes the exporter in the middle of an incident."""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from exporter.demo.endpoints import Endpoint, SyntheticTraces
from exporter.demo.latency import Incident, Lognormal
from exporter.demo.routes import ApiOptions
from exporter.demo.scenario import SEED, calendar_weekend, demo_endpoints
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
BEGAN_SECONDS: Final = 240
WEEK_SECONDS: Final = 90
SCRAPES: Final = 8
ANOMALOUS: Final = 'tempo_anomaly_anomalous_since_timestamp_seconds{service_name="checkout"}'
JOB: Final = "tempo-anomaly-exporter"

QUIET: Final[Mapping[str, str]] = {
    "tempo-anomaly-exporter, Failed requests A": "nothing fails here, and what has not failed is left out of the graph",
}
"""Queries of which nothing comes, with the reason."""


@dataclass(frozen=True)
class Rig:
    """A Prometheus that scrapes one exporter under two addresses, as if it were two replicas."""

    prometheus: PrometheusServer
    tempo_url: str
    instances: tuple[str, str]
    series: frozenset[SeriesKey]
    until: float

    def values(self, *chosen: SeriesKey, **more: str | Sequence[str]) -> Values:
        """The variables of a dashboard when these endpoints are chosen, or none in particular."""
        return {
            "datasource": "prometheus",
            "tempo": "tempo",
            "job": JOB,
            "instance": self.instances,
            "service": [key.service_name for key in chosen] or ANYTHING,
            "endpoint": [key.span_name for key in chosen] or ANYTHING,
            "__range": "60s",
            "__interval": "2s",
            "__rate_interval": "6s",
            **more,
        }

    def ask(self, query: Query, values: Values) -> list[dict[str, Any]]:
        """What Prometheus answers to a query as a panel asks it, at an instant or over the last minute."""
        text = interpolate(query.text, values)
        if query.target.get("instant") or query.panel is None:
            return self._get("query", text, time=self.until)
        return self._get("query_range", text, start=self.until - 60, end=self.until, step=2)

    def _get(self, what: str, text: str, **parameters: float) -> list[dict[str, Any]]:
        asked: dict[str, str | float] = {"query": text, **parameters}
        response = requests.get(f"{self.prometheus.url}/api/v1/{what}", params=asked, timeout=10)
        assert response.ok, f"{response.text}\n{text}"
        body = response.json()
        assert not body.get("warnings"), body["warnings"]
        found: list[dict[str, Any]] = body["data"]["result"]
        return found

    def asked(self, board: Board, title: str, ref: str = "A", *, values: Values | None = None) -> list[dict[str, Any]]:
        """The answer to a query of a panel that is named."""
        (query,) = [each for each in prometheus_queries(board) if each.place == f"{board.uid}, {title} {ref}"]
        return self.ask(query, values or self.values())

    def search(self, traceql: str, start: float, end: float) -> list[dict[str, Any]]:
        """The traces that Tempo finds."""
        asked: dict[str, str | int] = {"q": traceql, "start": int(start), "end": int(end), "limit": 20}
        found = requests.get(f"{self.tempo_url}/api/search", params=asked, timeout=10)
        assert found.ok, f"{found.text}\n{traceql}"
        traces: list[dict[str, Any]] = found.json()["traces"]
        return traces


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The demo's shop with some endpoints more that have difficult names, four minutes into its incident."""
    now = time.time()
    incident = Incident(now - BEGAN_SECONDS, now + 600, 5.0)
    hostile = tuple(
        Endpoint(
            Operation(key.service_name, key.span_name),
            SeriesProfile(rate_per_minute=5, shape=Lognormal(0.3), incidents=(incident,)),
        )
        for key in HOSTILE
    )
    shop = demo_endpoints(now, incident_after_seconds=-BEGAN_SECONDS)
    traces = SyntheticTraces((*shop, *hostile), SEED, begin=now - 8 * 24 * 3600)
    home = tmp_path_factory.mktemp("dashboards")
    with ExitStack() as stack:
        tempo = stack.enter_context(TempoServer(traces, ApiOptions()))
        configuration = settings(
            tempo.url,
            calendar={"weekend": list(calendar_weekend(now))},
            polling={"backfill_duration": "72h"},
            detection={"hold": "1s"},
        )
        exporter = stack.enter_context(ExporterProcess(home, configuration))
        port = urlsplit(exporter.url).port
        instances = (f"127.0.0.1:{port}", f"localhost:{port}")
        prometheus = stack.enter_context(PrometheusServer(home / "prometheus", scraping(*instances, job=JOB)))
        exporter.wait_until_filled(WEEK_SECONDS)
        exporter.wait_for(
            lambda page: all(page.get("anomalous", key, kind="shift") == 1 for key in (CHECKOUT, *HOSTILE)), 60
        )
        # Rates need some scrapes, and exemplars an outlier since the start.
        flagged = exporter.wait_for(lambda page: page.get("outlier_traces_total", CHECKOUT), 60)
        prometheus.wait_for(f"count(count_over_time({ANOMALOUS}[1m]) > {SCRAPES}) == {len(instances)}", 60)
        yield Rig(prometheus, tempo.url, instances, frozenset(flagged.series()), time.time() - 1)


OVERVIEW: Final = BY_UID["tempo-anomaly-overview"]
ENDPOINT: Final = BY_UID["tempo-anomaly-endpoint"]


def prometheus_queries(board: Board) -> list[Query]:
    return [query for query in board.queries() if query.source == "prometheus"]


def series_of(found: list[dict[str, Any]]) -> set[SeriesKey]:
    """The series that are named in the labels of an answer."""
    return {SeriesKey(**each["metric"]) for each in found if {"service_name", "span_name"} == each["metric"].keys()}


def value(found: list[dict[str, Any]]) -> float:
    """The value of an answer that is a single number."""
    (one,) = found
    return float(one["value"][1])


@pytest.mark.parametrize("uid", BY_UID)
def test_every_query_is_answered_with_something(rig: Rig, uid: str) -> None:
    values = rig.values(*[CHECKOUT] * (uid == ENDPOINT.uid))
    empty = [query.place for query in prometheus_queries(BY_UID[uid]) if not rig.ask(query, values)]
    assert set(empty) <= QUIET.keys()


@pytest.mark.parametrize("uid", BY_UID)
def test_no_query_fails_where_there_is_nothing(rig: Rig, uid: str) -> None:
    nowhere = rig.values(SeriesKey("none", "none"), job="none", instance="none")
    for query in prometheus_queries(BY_UID[uid]):
        found = rig.ask(query, nowhere)
        assert not found or "vector(0)" in query.text or query.text == "tempo_anomaly_build_info", query.place


@pytest.mark.parametrize("key", HOSTILE)
def test_an_endpoint_with_a_difficult_name_is_found_and_nothing_else(rig: Rig, key: SeriesKey) -> None:
    for query in prometheus_queries(ENDPOINT):
        found = rig.ask(query, rig.values(key))
        assert found, query.place
        assert "variable" in query.place or series_of(found) <= {key}, query.place


def test_several_endpoints_with_difficult_names_at_once(rig: Rig) -> None:
    chosen = (*HOSTILE, CHECKOUT)
    values = rig.values(*chosen)
    assert value(rig.asked(OVERVIEW, "Anomalous now", values=values)) == len(chosen)
    for query in prometheus_queries(OVERVIEW):
        if "variable" not in query.place:
            assert series_of(rig.ask(query, values)) <= set(chosen), query.place


def test_the_overview_names_what_is_anomalous(rig: Rig) -> None:
    anomalous = {CHECKOUT, *HOSTILE}
    assert value(rig.asked(OVERVIEW, "Anomalous now")) == len(anomalous)
    assert value(rig.asked(OVERVIEW, "Services affected")) == len({key.service_name for key in anomalous})
    for ref in "ABCDEFGHI":
        assert series_of(rig.asked(OVERVIEW, "Anomalous now, and since when", ref)) == anomalous
    assert anomalous <= series_of(rig.asked(OVERVIEW, "Highest scores now"))


def test_replicas_do_not_count_twice(rig: Rig) -> None:
    count = len(rig.series)
    assert value(rig.asked(OVERVIEW, "Endpoints watched")) == count
    assert sum(float(each["value"][1]) for each in rig.asked(OVERVIEW, "Services now", "D")) == count
    for board in (OVERVIEW, ENDPOINT):
        for query in prometheus_queries(board):
            found = rig.ask(query, rig.values(*[CHECKOUT] * (board is ENDPOINT)))
            names = [tuple(sorted(each["metric"].items())) for each in found]
            assert "variable" in query.place or not any("instance" in dict(name) for name in names), query.place
            assert len(names) == len(set(names))


def test_the_latest_outlier_leads_to_its_trace(rig: Rig) -> None:
    (target,) = [each for panel in ENDPOINT.charts for each in panel["targets"] if each.get("exemplar")]
    expression = interpolate(target["expr"], rig.values(CHECKOUT))
    found = rig.prometheus.exemplars(expression, rig.until - 60, rig.until)
    (threshold,) = rig.prometheus.query(interpolate(f"max({ENDPOINT_THRESHOLD})", rig.values(CHECKOUT)))
    exemplars = [exemplar for each in found for exemplar in each["exemplars"]]
    assert exemplars
    for exemplar in exemplars:
        assert float(exemplar["value"]) > threshold.value
        trace = requests.get(f"{rig.tempo_url}/api/traces/{exemplar['labels']['trace_id']}", timeout=10)
        assert trace.status_code == 200


ENDPOINT_THRESHOLD: Final = (
    "tempo_anomaly_outlier_threshold_seconds{service_name=~`${service:regex}`, span_name=~`${endpoint:regex}`}"
)


def threshold_variable(rig: Rig, key: SeriesKey) -> str:
    """The hidden variable with the threshold, worked out from the answer as Grafana does it."""
    (query,) = [each for each in prometheus_queries(ENDPOINT) if each.place.endswith("variable threshold_us")]
    (answer,) = rig.ask(query, rig.values(key))
    labels = ",".join(f'{name}="{text}"' for name, text in answer["metric"].items())
    at, number = answer["value"]
    found = re.search(query.target["regex"].strip("/"), f"{{{labels}}} {number} {at * 1000:.0f}")
    assert found
    return found[1]


@pytest.mark.parametrize("key", [CHECKOUT, *HOSTILE])
def test_slow_traces_are_searched_for_by_their_exact_names(rig: Rig, key: SeriesKey) -> None:
    threshold = threshold_variable(rig, key)
    (metric,) = rig.prometheus.query(interpolate(f"max({ENDPOINT_THRESHOLD})", rig.values(key)))
    assert int(threshold) == pytest.approx(metric.value * 1e6, abs=1)
    (query,) = [each for each in ENDPOINT.queries() if each.source == "tempo"]
    found = rig.search(
        interpolate(query.text, rig.values(key, threshold_us=threshold)), rig.until - BEGAN_SECONDS, rig.until
    )
    assert found
    assert {(each["rootServiceName"], each["rootTraceName"]) for each in found} == {key}
    assert all(each["durationMs"] * 1000 >= int(threshold) - 1000 for each in found)


@pytest.mark.parametrize("key", [CHECKOUT, HOSTILE[0], HOSTILE[3]])
def test_links_into_tempo_find_the_same_traces(rig: Rig, key: SeriesKey) -> None:
    values = {
        **rig.values(key, threshold_us=threshold_variable(rig, key)),
        "__from": f"{(rig.until - BEGAN_SECONDS) * 1000:.0f}",
        "__to": f"{rig.until * 1000:.0f}",
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
        found = rig.search(pane["queries"][0]["query"], start, end)
        assert found, link.place
        assert {(each["rootServiceName"], each["rootTraceName"]) for each in found} == {key}
