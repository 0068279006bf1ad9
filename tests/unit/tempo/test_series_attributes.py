"""Series decided by attributes, asked of the embedded Tempo: searches by name, counts, and whole traces."""

from collections.abc import Iterator, Mapping

import pytest

from exporter.demo.routes import ApiOptions
from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import ROOT, Operation, SpanTimes, TraceShape, TraceStore, make_trace
from exporter.model.identity import OWN_NAME, Attribute, SeriesIdentity
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.tempo import ClientSettings, TempoClient, TempoError
from tests.support.tempo_server import Recorder

NS = 1_000_000_000
START = 1_795_077_000
ENVIRONMENT = (Attribute("resource", "deployment.environment.name"), Attribute("resource", "deployment.environment"))
WEIRD = Attribute("span", 'two "words"')
ROUTE = Attribute("span", "http.route")
BY_ALL = SeriesIdentity((ENVIRONMENT, (WEIRD,)), (ROUTE, OWN_NAME))
BY_ENVIRONMENT = SeriesIdentity((ENVIRONMENT,))
OPERATIONS = (
    Operation("shop", "GET", "server", (("deployment.environment.name", "prod"),),
              (("http.route", "/a"), ("http.request.method", "GET"))),
    Operation("shop", "HTTP GET", "server", (("deployment.environment", "prod"),),
              (("http.route", "/a"), ("http.method", "GET"))),
    Operation("shop", "GET", "server", (("deployment.environment.name", "staging"),),
              (("http.route", "/a"), ("http.request.method", "GET"))),
    Operation("shop", "GET", "server", (), (("http.route", "/a"), ("http.request.method", "GET"))),
    Operation("shop", "GET /a", "server", (("deployment.environment.name", "prod"),)),
    Operation("shop", "GET /a", "server", (("deployment.environment.name", "prod"),), (('two "words"', "5"),)),
    Operation("shop", "work", "server", (("deployment.environment.name", "prod"),)),
)  # fmt: skip
PROD = ("deployment_environment_name", "prod")
STAGING = ("deployment_environment_name", "staging")
SERIES: Mapping[SeriesKey, int] = {
    SeriesKey("shop", "GET /a", (PROD,)): 3,
    SeriesKey("shop", "GET /a", (STAGING,)): 1,
    SeriesKey("shop", "GET /a"): 1,
    SeriesKey("shop", "GET /a", (PROD, ("two__words_", "5"))): 1,
    SeriesKey("shop", "work", (PROD,)): 1,
}
"""The series of the operations by all attributes, and their spans."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    traces = [
        make_trace(number, TraceShape((operation,), (ROOT,)), [SpanTimes(number, (START + number) * NS, NS)])
        for number, operation in enumerate(OPERATIONS, start=1)
    ]
    with TempoServer(TraceStore(traces), ApiOptions()) as server:
        yield server.url


def client(url: str, identity: SeriesIdentity) -> TempoClient:
    settings = ClientSettings(url=url, requests_per_second=10_000, identity=identity)
    return TempoClient(settings, Recorder(), get_logger("tempo"), pause=lambda _: False)


def counted(keys: list[SeriesKey]) -> dict[SeriesKey, int]:
    return {key: keys.count(key) for key in keys}


def test_a_search_returns_the_series_of_every_span(url: str) -> None:
    found = client(url, BY_ALL).search(START, START + 60, loop="backfill")
    assert counted([span.key for span in found.spans]) == SERIES


@pytest.mark.parametrize("key", SERIES)
def test_a_search_by_name_returns_the_spans_of_that_series_alone(url: str, key: SeriesKey) -> None:
    found = client(url, BY_ALL).search(START, START + 60, loop="backfill", series=[key])
    assert counted([span.key for span in found.spans]) == {key: SERIES[key]}


def test_a_search_for_several_series(url: str) -> None:
    wanted = list(SERIES)[1:4]
    found = client(url, BY_ALL).search(START, START + 60, loop="backfill", series=wanted)
    assert counted([span.key for span in found.spans]) == {key: SERIES[key] for key in wanted}


def test_counts_by_series_have_the_labels(url: str) -> None:
    counts = client(url, BY_ENVIRONMENT).count(START, START + 60, 30, loop="backfill", by_series=True).by_series
    assert counts == {
        SeriesKey("shop", "GET", (PROD,)): 1,
        SeriesKey("shop", "HTTP GET", (PROD,)): 1,
        SeriesKey("shop", "GET", (STAGING,)): 1,
        SeriesKey("shop", "GET"): 1,
        SeriesKey("shop", "GET /a", (PROD,)): 2,
        SeriesKey("shop", "work", (PROD,)): 1,
    }


def test_counts_by_more_fields_than_tempo_can_are_not_asked_for(url: str) -> None:
    tempo = client(url, BY_ALL)
    with pytest.raises(TempoError, match="cannot count"):
        tempo.count(START, START + 60, 30, loop="backfill", by_series=True)
    assert tempo.count(START, START + 60, 30, loop="backfill").by_step_end


def test_spans_of_a_whole_trace_have_their_series(url: str) -> None:
    tempo = client(url, BY_ALL)
    found = [tempo.fetch_trace(f"{number:032x}", loop="api")[0].key for number in range(1, len(OPERATIONS) + 1)]
    assert counted(found) == SERIES
