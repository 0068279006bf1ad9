"""The HTTP server: pages, formats, methods, misbehaving clients, and hostile names."""

import http.client
import math
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from exporter.demo.tempo_api import TempoServer
from exporter.model.span import SeriesKey
from exporter.web.pages.formatting import cut
from tests.e2e.conftest import StartExporter
from tests.support.processes import ExporterProcess, settings
from tests.support.scrape import OPENMETRICS, PREFIX, Metrics
from tests.support.tempo_server import FakeTempo, a_span, a_trace, fake_tempo, replying, search_body
from tests.support.traffic import HOUR, MINUTE, Traffic

ENDPOINTS = [SeriesKey("shop", f"GET /page-{number}") for number in range(30)]

LONE_SURROGATE = "half a pair \ud83d of surrogates"
HOSTILE = [
    'quotes " and "more", backslashes \\ \\n \\" and a line\nbreak',
    '{service_name="x"} 1\n# HELP x y\nx 1 # {trace_id="0"} 1',
    "</td><script>alert('x')</script>&lt;b&gt;&amp;",
    "%s%(x)s{0}{x}\t\r\u2028\u202e\x85\x1b[31m",
    "GET /" + "x" * 595,
    "日本語 ü",
    "NUL \0 inside",
    LONE_SURROGATE,
    "",
]


def as_published(name: str) -> str:
    """Return a name as published, without NUL and lone surrogates."""
    return name.replace("\0", "\ufffd").replace("\ud83d", "\ufffd")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExporterProcess]:
    """An idle exporter with thirty endpoints."""
    traffic = Traffic()
    now = time.time()
    this_hour = int(now) // HOUR * HOUR
    for endpoint in ENDPOINTS:
        traffic.hourly(endpoint, range(this_hour - 30 * HOUR, this_hour - HOUR, HOUR), count=4, scale=0.2)
        traffic.spread(endpoint, now - MINUTE, now - 5, count=20, scale=0.2)
    with TempoServer(traffic.store()) as server:
        configuration = settings(server.url, polling={"backfill_duration": "24h", "tempo_interval": "1s"})
        with ExporterProcess(tmp_path_factory.mktemp("exporter"), configuration) as process:
            process.wait_until_filled()
            yield process


def names_of(page: Metrics) -> set[str]:
    return {name for name, _ in page.samples}


def test_status_page_and_probes(running: ExporterProcess) -> None:
    start = running.get("/")
    assert start.status_code == 200
    assert start.headers["Content-Type"] == "text/html; charset=utf-8"
    for part in ("GET /page-7", 'href="metrics"', "no endpoint has enough history", "Endpoints <small>30<"):
        assert part in start.text
    translated = running.get("/", headers={"Accept-Language": "zh-TW,zh;q=0.9,en;q=0.8"})
    assert translated.headers["Content-Language"] == "zh-TW"
    for part in ("GET /page-7", 'href="metrics"', "沒有任何端點有足夠的歷史", "端點 <small>30<"):
        assert part in translated.text
    for path in ("/-/healthy", "/-/ready"):
        assert running.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/nothing", "/metrics/", "/-/", "/metrics%2f", "/..%2f..%2fetc/passwd"])
def test_unknown_path_is_not_found(running: ExporterProcess, path: str) -> None:
    assert running.get(path).status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_other_methods_are_not_allowed(running: ExporterProcess, method: str) -> None:
    response = requests.request(method, f"{running.url}/metrics", timeout=10)
    assert response.status_code == 405
    assert response.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/", "/metrics", "/-/healthy", "/-/ready", "/nothing"])
def test_head_is_get_without_the_body(running: ExporterProcess, path: str) -> None:
    address = urlsplit(running.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    try:
        connection.request("HEAD", path)
        head = connection.getresponse()
        assert head.read() == b""
        # The next response on this connection would start with the body, if there were one.
        connection.request("GET", path)
        get = connection.getresponse()
        body = get.read()
    finally:
        connection.close()
    assert (head.status, head.headers["Content-Type"]) == (get.status, get.headers["Content-Type"])
    assert int(head.headers["Content-Length"]) > 0
    assert int(get.headers["Content-Length"]) == len(body)


@pytest.mark.parametrize("openmetrics", [False, True])
@pytest.mark.parametrize("gzipped", [False, True])
def test_metrics_in_every_format(running: ExporterProcess, openmetrics: bool, gzipped: bool) -> None:
    response = running.get(
        "/metrics",
        headers={
            "Accept": OPENMETRICS if openmetrics else "text/plain",
            "Accept-Encoding": "gzip" if gzipped else "identity",
        },
    )
    assert response.headers.get("Content-Encoding") == ("gzip" if gzipped else None)
    kind = "application/openmetrics-text" if openmetrics else "text/plain"
    assert response.headers["Content-Type"].startswith(f"{kind}; version=")
    assert response.text.endswith("# EOF\n") == openmetrics
    page = Metrics.parse(response.text, openmetrics=openmetrics)
    assert page.series() == set(ENDPOINTS)
    assert names_of(page) == names_of(running.metrics())
    assert page.get("current_traces", ENDPOINTS[0]) == 20


def test_name_parameter_selects_families(running: ExporterProcess) -> None:
    names = ["tempo_anomaly_current_traces", "tempo_anomaly_tempo_up", "tempo_anomaly_tempo_requests_total"]
    response = running.get("/metrics", params={"name[]": names})
    assert names_of(Metrics.parse(response.text)) == set(names)
    assert Metrics.parse(running.get("/metrics", params={"name[]": "nothing"}).text).samples == {}


def test_counters_start_at_zero_and_no_value_is_nan(running: ExporterProcess) -> None:
    page = running.metrics()
    for name, loop in (("search_truncated_windows_total", "poll"), ("tempo_requests_total", "api")):
        assert page.get(name, loop=loop) == 0
    assert page.get("tempo_request_failures_total", loop="backfill", reason="tls") == 0
    assert page.get("storage_failures_total", reason="full") == 0
    assert all(not math.isnan(value) for value in page.samples.values())
    assert all(family.documentation for family in page.families.values())
    assert all(name.startswith((PREFIX, "process_")) for name in names_of(page))


def connected(running: ExporterProcess) -> socket.socket:
    address = urlsplit(running.url)
    client = socket.socket()
    # A small receive buffer, so that unread responses block the server soon.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(10)
    client.connect((address.hostname, address.port))
    return client


def test_silent_and_slow_clients_do_not_block_others(running: ExporterProcess) -> None:
    request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as clients:
        for _ in range(10):
            clients.enter_context(connected(running))
            clients.enter_context(connected(running)).sendall(request[:-10])
            # Megabytes of responses that the client never reads.
            clients.enter_context(connected(running)).sendall(request * 20)
        for _ in range(5):
            assert running.metrics().series() == set(ENDPOINTS)
            assert running.get("/").status_code == 200


def test_malformed_requests_do_no_harm(running: ExporterProcess) -> None:
    for malformed in (b"\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"G" * 300_000):
        with connected(running) as client:
            try:
                client.sendall(malformed)
                client.shutdown(socket.SHUT_WR)
                client.recv(1000)
            except OSError:
                pass  # the server may close the connection
    assert running.get("/-/healthy").status_code == 200
    assert running.running


# Hostile names


class PageText(HTMLParser):
    """Collects the elements of a page, and the names in it."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.names: list[str] = []
        self._in_name = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        if tag == "bdi":
            self._in_name = True
            self.names.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_name = self._in_name and tag != "bdi"

    def handle_data(self, data: str) -> None:
        if self._in_name:
            self.names[-1] += data


def hostile_traces(now: float) -> list[dict[str, Any]]:
    """Return a settled and a current trace for each name, as a service and as a span."""
    traces = []
    for position, name in enumerate(HOSTILE):
        service = {"key": "service.name", "value": {"stringValue": name}}
        for place, start in enumerate((now - 3 * HOUR, now - MINUTE)):
            number = 10 * position + 2 * place + 1
            times = {"startTimeUnixNano": str(int(start) * 1_000_000_000), "durationNanos": "5000000"}
            spans = [
                a_span(number, name=name, **times),
                a_span(number + 1, attributes=[service], **times),
            ]
            traces.append(a_trace(number, rootServiceName="shop", spanSets=[{"spans": spans, "matched": 2}]))
    return traces


@pytest.fixture
def hostile_tempo() -> Iterator[FakeTempo]:
    with fake_tempo() as tempo:
        # json.dumps escapes everything but ASCII, lone surrogates included.
        tempo.answer(replying(search_body(*hostile_traces(time.time()))))
        yield tempo


def test_hostile_names_are_escaped_and_survive_a_restart(
    hostile_tempo: FakeTempo, exporter: StartExporter, tmp_path: Path
) -> None:
    running = exporter(settings(hostile_tempo.url, polling={"backfill_duration": "6h"}))
    running.wait_until_filled()
    names = {as_published(name) for name in HOSTILE}
    expected = {SeriesKey("shop", name) for name in names} | {SeriesKey(name, "GET /") for name in names}

    for accept in ("text/plain", OPENMETRICS):
        response = running.get("/metrics", headers={"Accept": accept})
        response.encoding = "utf-8"
        page = Metrics.parse(response.text, openmetrics=accept == OPENMETRICS)
        assert page.series() == expected
        assert {page.get("current_traces", series) for series in expected} == {1}
        assert page.get("traces_skipped_total", loop="poll", reason="invalid") == 0
        assert page["history_traces"] == 2 * len(HOSTILE)

    text = PageText()
    response = running.get("/")
    text.feed(response.content.decode("utf-8"))
    assert "script" not in text.elements
    assert {cut(name) or "(no name)" for name in names} <= set(text.names)

    # The stored names are the same after a restart.
    assert running.stop() == 0
    hostile_tempo.answer(replying(search_body()))
    restarted = exporter(settings(hostile_tempo.url, polling={"backfill_duration": "6h"}), directory=tmp_path)
    assert restarted.wait_for(lambda page: page.series()).series() == expected
