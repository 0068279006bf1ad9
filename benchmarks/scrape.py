"""Duration of scrapes over HTTP, with an idle exporter and with one that builds snapshots without a pause."""

import gzip
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Final

from benchmarks.context import Context
from benchmarks.exporter_process import Client
from benchmarks.harness import PollHarness
from benchmarks.raw_server import RawServer
from benchmarks.report import Budget, Figure, Reference, amount

_OPENMETRICS: Final = "application/openmetrics-text;version=1.0.0"
HEADERS: Final[Mapping[str, Mapping[str, str]]] = {
    "text": {"Accept": "text/plain"},
    "OpenMetrics, gzip": {"Accept": _OPENMETRICS, "Accept-Encoding": "gzip"},
    "text, gzip": {"Accept": "text/plain", "Accept-Encoding": "gzip"},
    "OpenMetrics": {"Accept": _OPENMETRICS},
    "protobuf with native histograms, gzip": {
        "Accept": "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
        "Accept-Encoding": "gzip",
    },
}
"""Request headers by format; Prometheus requests the second."""
_BUDGET_SECONDS: Final = 0.1
_MAX_SECONDS: Final = 4.0
_SCRAPERS: Final = 4
_MIN_SCRAPES: Final = 10
_REFERENCE_REPEATS: Final = 3


def measure(context: Context) -> Iterator[Figure]:
    """Yield the durations of scrapes in every format.

    The reference of a single scraper is prometheus_client rendering the same samples; that of several concurrent
    scrapers is a process that only sends the same bytes to as many clients.
    """
    for series in context.series:
        is_largest = series == context.series[-1]
        formats = list(HEADERS) if is_largest else list(HEADERS)[:2]
        with PollHarness(context.folder, series) as harness, ExitStack() as stack:
            clients = [stack.enter_context(closing(Client(harness.port))) for _ in range(_SCRAPERS)]
            page = clients[0].get("/metrics", HEADERS["text"]).body
            samples = sum(not line.startswith(b"#") for line in page.splitlines())
            text, openmetrics = harness.reference_seconds(_REFERENCE_REPEATS)
            raw = {name: _raw_seconds(clients[0], name, context.repeats) for name in formats} if is_largest else {}
            for building in (False, True):
                harness.build(building)
                for name in formats:
                    # The library has no protobuf; its text has the same samples.
                    rendered = openmetrics if name.startswith("OpenMetrics") else text
                    for scrapers in (1, _SCRAPERS) if is_largest else (1,):
                        concurrent = f"{scrapers} concurrent scrapers, " if scrapers > 1 else ""
                        seconds = _scrape(clients[:scrapers], HEADERS[name], context.repeats)
                        yield Figure(
                            f"scrape, {series:,} series ({samples:,} samples), {name}, {concurrent}"
                            f"{'building snapshots' if building else 'idle'}: p99 of {len(seconds)}",
                            _quantile(seconds, 0.99),
                            "seconds",
                            Reference("the same bytes from a raw server, idle", raw[name])
                            if concurrent
                            else Reference("prometheus_client's rendering", rendered),
                            Budget(_BUDGET_SECONDS),
                            detail=f"p50 {amount(_quantile(seconds, 0.5), 'seconds')}",
                        )
            harness.build(False)


def _scrape(clients: Sequence[Client], headers: Mapping[str, str], repeats: int) -> list[float]:
    """Return the seconds of each scrape by concurrent clients, at most ``repeats`` for each client."""
    first = clients[0].get("/metrics", headers).body
    if not (gzip.decompress(first) if "Accept-Encoding" in headers else first).count(b"tempo_anomaly_score"):
        raise RuntimeError("the response is not a metrics page")
    began = time.monotonic()

    def scrape(client: Client) -> list[float]:
        seconds: list[float] = []
        while len(seconds) < repeats and (len(seconds) < _MIN_SCRAPES or time.monotonic() - began < _MAX_SECONDS):
            seconds.append(client.get("/metrics", headers).seconds)
        return seconds

    with ThreadPoolExecutor(len(clients)) as pool:
        return [seconds for durations in pool.map(scrape, clients) for seconds in durations]


def _raw_seconds(client: Client, name: str, repeats: int) -> float:
    """Return the p99 of concurrent requests for the exporter's page to a raw server."""
    page = client.get("/metrics", HEADERS[name]).body
    with RawServer(page) as server, ExitStack() as stack:
        clients = [stack.enter_context(closing(Client(server.port))) for _ in range(_SCRAPERS)]
        return _quantile(_scrape(clients, HEADERS[name], repeats), 0.99)


def _quantile(values: list[float], q: float) -> float:
    """Return a quantile by the nearest rank."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]
