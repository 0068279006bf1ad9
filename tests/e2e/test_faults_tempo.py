"""Faults of Tempo: nothing is lost, each is logged, and the exporter recovers without a restart."""

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
    """Assert that every ledger entry counts exactly the requests that started in its window."""
    ledger = windows(database)
    assert ledger
    for start, end, state, traces, stored, coverage in ledger:
        expected = traffic.between(start, end)
        assert (traces or 0, stored or 0) == (expected, expected), (start, end, state)
        assert coverage in (None, 1.0)


FAULTS: list[Responder] = [
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


def test_history_is_exact_when_every_search_fails_once(tmp_path: Path) -> None:
    traffic = some_hours(time.time())
    with fake_tempo() as tempo:
        tempo.answer(FaultFirst(FAULTS, serving(traffic, time.time)))
        configuration = settings(
            tempo.url, tempo={"limit": 50, "timeout": "1s", "max_concurrency": 16}, polling={"backfill_duration": "24h"}
        )
        with ExporterProcess(tmp_path, configuration) as running:
            # Every search fails once, some after a second, and slow ones are split into more that fail once.
            page = running.wait_until_filled(240)
            assert failures(page, "backfill").keys() == {
                "rate_limited", "server_error", "connection", "malformed", "timeout",
            }  # fmt: skip
            assert page.by("backfill_windows", "state")["failed"] == 0
            assert page["backfill_coverage_ratio"] == 1
            assert running.stop() == 0
    assert_exact(tmp_path / DATABASE, traffic)


# Permanent faults


@dataclass
class Fault:
    """A fault that stays until it is repaired.

    Attributes:
        reason: reason label of the failed requests.
        advice: part of the logged error.
        running: the affected exporter.
        repair: removes the fault.
    """

    reason: str
    advice: str
    running: ExporterProcess
    repair: Callable[[], object]

    def is_visible(self, page: Metrics) -> bool:
        """Return whether a page counts the failures."""
        counted = self.reason in failures(page, "backfill") and self.reason in failures(page, "poll")
        return counted and page.by("backfill_windows", "state")["failed"] > 0


class Faults:
    """Creates faults, each with its own Tempo and exporter."""

    def __init__(self, stack: ExitStack, directory: Path, correct: Responder) -> None:
        self._stack = stack
        self._directory = directory
        self._correct = correct

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

    def all(self) -> Iterator[Fault]:
        yield self.wrong_token()
        yield self.wrong_tenant()
        yield self.redirected()
        yield self.untrusted()
        yield self.unknown_host()

    def wrong_token(self) -> Fault:
        def guarded(handler: Handler) -> None:
            is_authorized = handler.headers["Authorization"] == "Bearer right"
            (self._correct if is_authorized else replying("who are you", 401))(handler)

        file = self._directory / "token.txt"
        file.write_text("wrong")
        running = self._exporter("token", self._tempo(guarded).url, auth_token_file=str(file))
        return Fault("unauthorized", "tempo.auth_token", running, lambda: file.write_text("right"))

    def wrong_tenant(self) -> Fault:
        tempo = self._tempo(replying("no such tenant", 403))
        return Fault(
            "unauthorized", "tempo.tenant", self._exporter("tenant", tempo.url), lambda: tempo.answer(self._correct)
        )

    def redirected(self) -> Fault:
        tempo = self._tempo(replying("", 302, Location="https://login.example/?to=tempo"))
        return Fault(
            "redirect", "Set tempo.url", self._exporter("redirect", tempo.url), lambda: tempo.answer(self._correct)
        )

    def untrusted(self) -> Fault:
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*write_pair(self._directory, trustme.CA(), "stranger"))
        running = self._exporter(
            "tls",
            self._tempo(self._correct, context).url,
            tls={"ca_file": str(write_authority(self._directory, authority, "authority"))},
        )
        return Fault(
            "tls",
            "tempo.tls.ca_file",
            running,
            lambda: context.load_cert_chain(*write_pair(self._directory, authority, "tempo")),
        )

    def unknown_host(self) -> Fault:
        running = self._exporter("resolver", self._tempo(self._correct).url.replace("127.0.0.1", "localhost"))
        (running.directory / FILE).write_text('{"sql": "", "clock": 0, "resolver": true}')
        return Fault("connection", "the host name cannot be resolved", running, running.inject)


@pytest.mark.timeout(600)
def test_exporter_recovers_from_repaired_faults_without_a_restart(tmp_path: Path) -> None:
    traffic = some_hours(time.time())
    with ExitStack() as stack:
        faults = list(Faults(stack, tmp_path, serving(traffic, time.time)).all())
        for fault in faults:
            fault.running.start()
        for fault in faults:
            fault.running.wait_for(fault.is_visible)
            page = fault.running.metrics()
            assert page["tempo_up"] == (fault.reason == "unauthorized"), fault
            (record, *_) = fault.running.logged("window_failed")
            assert fault.advice in record["error"]
            assert fault.running.get("/-/healthy").status_code == 200
            fault.repair()
        for fault in faults:
            # A failed window is retried after half a minute.
            page = fault.running.wait_until_filled(timeout=240)
            assert page["tempo_up"] == 1
            assert page["history_traces"] > 0
            assert fault.running.defects() == []
            assert fault.running.stop() == 0
    for fault in faults:
        assert_exact(fault.running.directory / DATABASE, traffic)
