"""Whatever Tempo does instead of answering, nothing is lost, it is said, and it passes by itself."""

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from exporter.model.span import SeriesKey
from tests.e2e.test_outage import failures
from tests.support.certificates import write_authority, write_pair
from tests.support.database import windows
from tests.support.faulty_exporter import FILE, FaultyExporter
from tests.support.faulty_tempo import FaultFirst, serving
from tests.support.processes import ExporterProcess, settings
from tests.support.scrape import Metrics
from tests.support.tempo_server import (
    FakeTempo,
    Handler,
    Responder,
    chunked,
    dripping,
    fake_tempo,
    hanging,
    hanging_up,
    raw,
    replying,
    search_body,
    truncating,
)
from tests.support.traffic import HOUR, Traffic

CART = SeriesKey("shop", "GET /cart")
LOGIN = SeriesKey("shop", "POST /login")
DATABASE = "tempo-anomaly.db"


def some_hours(now: float) -> Traffic:
    traffic = Traffic()
    this_hour = int(now) // HOUR * HOUR
    for endpoint in (CART, LOGIN):
        traffic.hourly(endpoint, range(this_hour - 30 * HOUR, this_hour + HOUR, HOUR), count=40, scale=0.2)
    return traffic


def assert_exact(database: Path, traffic: Traffic) -> None:
    """Every window in the ledger holds what began in it, no more and no less."""
    ledger = windows(database)
    assert ledger
    for start, end, state, traces, stored, coverage in ledger:
        expected = traffic.between(start, end)
        assert (traces or 0, stored or 0) == (expected, expected), (start, end, state)
        assert coverage in (None, 1.0)


STORM: list[Responder] = [
    replying("slow down", 429, Retry_After="0"),
    replying("slow down", 429),
    replying("too many outstanding requests", 500),
    replying("<html>Bad Gateway</html>", 502, "text/html"),
    replying("no healthy upstream", 503, "text/plain", Retry_After="1"),
    hanging_up,
    truncating(search_body(), keep=20),
    hanging,
    dripping(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"),
    replying("<html>log in</html>", 200, "text/html"),
    replying('{"traces": [{"traceID"', 200),
    replying({"traces": [], "metrics": {"completedJobs": 1, "totalJobs": 7}}, 200),
    chunked(b"[" * 1000),
    raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
]


def test_a_storm_in_which_every_search_fails_at_first(tmp_path: Path) -> None:
    traffic = some_hours(time.time())
    with fake_tempo() as tempo:
        tempo.answer(FaultFirst(STORM, serving(traffic, time.time)))
        configuration = settings(
            tempo.url, tempo={"limit": 50, "timeout": "1s", "max_concurrency": 16}, polling={"backfill_duration": "24h"}
        )
        with ExporterProcess(tmp_path, configuration) as running:
            page = running.wait_until_filled(60)
            assert failures(page, "backfill").keys() == {
                "rate_limited", "server_error", "connection", "malformed", "timeout",
            }  # fmt: skip
            assert page.by("backfill_windows", "state")["failed"] == 0
            assert page["backfill_coverage_ratio"] == 1
            assert running.stop() == 0
    assert_exact(tmp_path / DATABASE, traffic)


# What needs somebody to mend it


@dataclass
class Trouble:
    """A fault that stays until somebody mends it.

    Attributes:
        reason: the reason of the failed requests.
        advice: what the log names to look at.
        running: the exporter that has it.
        mend: takes the fault away.
    """

    reason: str
    advice: str
    running: ExporterProcess
    mend: Callable[[], object]

    def noticed(self, page: Metrics) -> bool:
        """Whether a page tells of it."""
        known = self.reason in failures(page, "backfill") and self.reason in failures(page, "poll")
        return known and page.by("backfill_windows", "state")["failed"] > 0


class Troubles:
    """Some of them at the same time, each with a Tempo and an exporter of its own."""

    def __init__(self, stack: ExitStack, directory: Path, truth: Responder) -> None:
        self._stack = stack
        self._directory = directory
        self._truth = truth

    def _tempo(self, first: Responder, tls: ssl.SSLContext | None = None) -> FakeTempo:
        tempo = self._stack.enter_context(fake_tempo(tls))
        tempo.answer(first)
        return tempo

    def _exporter(self, name: str, url: str, **tempo: Any) -> FaultyExporter:
        directory = self._directory / name
        directory.mkdir(exist_ok=True)
        configuration = settings(url, tempo=tempo, polling={"backfill_duration": "6h"})
        process = FaultyExporter(directory, configuration)
        self._stack.callback(process.kill)
        return process

    def all(self) -> Iterator[Trouble]:
        yield self.wrong_token()
        yield self.wrong_tenant()
        yield self.redirected()
        yield self.untrusted()
        yield self.unknown_host()

    def wrong_token(self) -> Trouble:
        def guarded(handler: Handler) -> None:
            welcome = handler.headers["Authorization"] == "Bearer right"
            (self._truth if welcome else replying("who are you", 401))(handler)

        file = self._directory / "token.txt"
        file.write_text("wrong")
        running = self._exporter("token", self._tempo(guarded).url, auth_token_file=str(file))
        return Trouble("unauthorized", "tempo.auth_token", running, lambda: file.write_text("right"))

    def wrong_tenant(self) -> Trouble:
        tempo = self._tempo(replying("no such tenant", 403))
        return Trouble(
            "unauthorized", "tempo.tenant", self._exporter("tenant", tempo.url), lambda: tempo.answer(self._truth)
        )

    def redirected(self) -> Trouble:
        tempo = self._tempo(replying("", 302, Location="https://login.example/?to=tempo"))
        return Trouble(
            "redirect", "Set tempo.url", self._exporter("redirect", tempo.url), lambda: tempo.answer(self._truth)
        )

    def untrusted(self) -> Trouble:
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*write_pair(self._directory, trustme.CA(), "stranger"))
        running = self._exporter(
            "tls",
            self._tempo(self._truth, context).url,
            tls={"ca_file": str(write_authority(self._directory, authority, "authority"))},
        )
        return Trouble(
            "tls",
            "tempo.tls.ca_file",
            running,
            lambda: context.load_cert_chain(*write_pair(self._directory, authority, "tempo")),
        )

    def unknown_host(self) -> Trouble:
        running = self._exporter("resolver", self._tempo(self._truth).url.replace("127.0.0.1", "localhost"))
        (running.directory / FILE).write_text('{"sql": "", "clock": 0, "resolver": true}')
        return Trouble("connection", "the host name is not known", running, running.inject)


@pytest.mark.timeout(240)
def test_what_somebody_has_to_mend_needs_no_restart(tmp_path: Path) -> None:
    traffic = some_hours(time.time())
    with ExitStack() as stack:
        troubles = list(Troubles(stack, tmp_path, serving(traffic, time.time)).all())
        for trouble in troubles:
            trouble.running.start()
        for trouble in troubles:
            trouble.running.wait_for(trouble.noticed)
            page = trouble.running.metrics()
            assert page["tempo_up"] == (trouble.reason == "unauthorized"), trouble
            (said, *_) = trouble.running.logged("window_failed")
            assert trouble.advice in said["error"]
            assert trouble.running.get("/-/healthy").status_code == 200
            trouble.mend()
        for trouble in troubles:
            # A window that has failed rests for half a minute.
            page = trouble.running.wait_until_filled(timeout=120)
            assert page["tempo_up"] == 1
            assert page["history_traces"] > 0
            assert trouble.running.defects() == []
            assert trouble.running.stop() == 0
    for trouble in troubles:
        assert_exact(trouble.running.directory / DATABASE, traffic)
