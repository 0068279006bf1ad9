"""How long a scrape takes over HTTP, with nothing else going on and while snapshots are built without a pause."""

import gzip
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Final

from benchmarks.bare import Bare
from benchmarks.context import Context
from benchmarks.report import Budget, Figure, Reference, amount
from benchmarks.rig import Rig
from benchmarks.running import Client

_OPENMETRICS: Final = "application/openmetrics-text;version=1.0.0"
HEADERS: Final[Mapping[str, Mapping[str, str]]] = {
    "text": {"Accept": "text/plain"},
    "OpenMetrics, gzip": {"Accept": _OPENMETRICS, "Accept-Encoding": "gzip"},
    "text, gzip": {"Accept": "text/plain", "Accept-Encoding": "gzip"},
    "OpenMetrics": {"Accept": _OPENMETRICS},
}
"""What can be asked for; the second is what Prometheus asks for."""
_BUDGET_SECONDS: Final = 0.1
_LONGEST_SECONDS: Final = 4.0
_AT_ONCE: Final = 4
_FEWEST: Final = 10
_REFERENCE_REPEATS: Final = 3


def measure(context: Context) -> Iterator[Figure]:
    """Scrapes in every format, beside prometheus_client's rendering of the same samples.

    Those of several scrapers at once are beside the same bytes for as many clients from a process that only sends.
    """
    for series in context.series:
        most = series == context.series[-1]
        formats = list(HEADERS) if most else list(HEADERS)[:2]
        with Rig(context.folder, series) as rig, ExitStack() as stack:
            clients = [stack.enter_context(closing(Client(rig.port))) for _ in range(_AT_ONCE)]
            page = clients[0].get("/metrics", HEADERS["text"]).body
            samples = sum(not line.startswith(b"#") for line in page.splitlines())
            text, openmetrics = rig.reference_seconds(_REFERENCE_REPEATS)
            bare = {name: _bare(clients[0], name, context.repeats) for name in formats} if most else {}
            for building in (False, True):
                rig.build(building)
                for name in formats:
                    rendered = openmetrics if name.startswith("OpenMetrics") else text
                    for scrapers in (1, _AT_ONCE) if most else (1,):
                        at_once = f"{scrapers} scrapers at once, " if scrapers > 1 else ""
                        seconds = _scrape(clients[:scrapers], HEADERS[name], context.repeats)
                        yield Figure(
                            f"scrape, {series:,} series ({samples:,} samples), {name}, {at_once}"
                            f"{'snapshots built all the time' if building else 'idle'}: p99 of {len(seconds)}",
                            _quantile(seconds, 0.99),
                            "seconds",
                            Reference("the same bytes from bare sendall, idle", bare[name])
                            if at_once
                            else Reference("prometheus_client's rendering", rendered),
                            Budget(_BUDGET_SECONDS),
                            detail=f"p50 {amount(_quantile(seconds, 0.5), 'seconds')}",
                        )
            rig.build(False)


def _scrape(clients: Sequence[Client], headers: Mapping[str, str], repeats: int) -> list[float]:
    """How long scrapes take, each client's one after the other, for as long as that is worth while."""
    first = clients[0].get("/metrics", headers).body
    if not (gzip.decompress(first) if "Accept-Encoding" in headers else first).startswith(b"# HELP"):
        raise RuntimeError("what was scraped is no page of metrics")
    began = time.monotonic()

    def ask(client: Client) -> list[float]:
        seconds: list[float] = []
        while len(seconds) < repeats and (len(seconds) < _FEWEST or time.monotonic() - began < _LONGEST_SECONDS):
            seconds.append(client.get("/metrics", headers).seconds)
        return seconds

    with ThreadPoolExecutor(len(clients)) as pool:
        return [seconds for some in pool.map(ask, clients) for seconds in some]


def _bare(client: Client, name: str, repeats: int) -> float:
    """The same quantile for what that client is sent, if as many as scrape at once are sent it without an exporter."""
    page = client.get("/metrics", HEADERS[name]).body
    with Bare(page) as bare, ExitStack() as stack:
        clients = [stack.enter_context(closing(Client(bare.port))) for _ in range(_AT_ONCE)]
        return _quantile(_scrape(clients, HEADERS[name], repeats), 0.99)


def _quantile(values: list[float], q: float) -> float:
    """The nearest rank."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]
