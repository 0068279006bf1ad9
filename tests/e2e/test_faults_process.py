"""Faults of the machine: no file descriptors, clock jumps, and clients that never read."""

import resource
import socket
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from exporter.demo.tempo_api import TempoServer
from exporter.model.span import SeriesKey
from tests.e2e.conftest import StartExporter, StartTempo
from tests.e2e.test_faults_tempo import assert_exact
from tests.e2e.test_outage import failures
from tests.support.database import digests, windows
from tests.support.faulty_exporter import FaultyExporter
from tests.support.faulty_tempo import Gate, serving
from tests.support.processes import eventually, settings
from tests.support.tempo_server import fake_tempo
from tests.support.traffic import HOUR, MINUTE, Traffic

CART = SeriesKey("shop", "GET /cart")
DATABASE = "tempo-anomaly.db"


def traffic_around(now: float) -> Traffic:
    """Return traffic from yesterday until a few hours from now."""
    traffic = Traffic()
    this_hour = int(now) // HOUR * HOUR
    traffic.hourly(CART, range(this_hour - 30 * HOUR, this_hour + 5 * HOUR, HOUR), count=60, scale=0.2)
    return traffic


def test_accepts_connections_again_after_running_out_of_file_descriptors(
    exporter: StartExporter, tmp_path: Path
) -> None:
    traffic = traffic_around(time.time())
    with fake_tempo() as tempo:
        gate = Gate(serving(traffic, time.time))
        tempo.answer(gate)
        running = exporter(settings(tempo.url, tempo={"limit": 50}, polling={"backfill_duration": "24h"}))
        with requests.Session() as scraper:
            assert scraper.get(f"{running.url}/-/healthy", timeout=10).status_code == 200
            pid = running.process.pid
            soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))
            gate.open()
            # Open connections are still served; new ones wait.
            waiting = socket.create_connection(_address(running.url), timeout=60)
            waiting.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            eventually(
                lambda: bool(running.logged("accept_failed")),
                lambda: "accept_failed is not logged",
                30,
            )
            cpu = _cpu_seconds(pid)
            assert scraper.get(f"{running.url}/metrics", timeout=10).status_code == 200
            time.sleep(1)
            assert _cpu_seconds(pid) - cpu < 0.9, "busy loop"
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
            with waiting:
                assert waiting.recv(1000).startswith(b"HTTP/1.1 200 ")
        running.wait_until_filled()
        assert running.stop() == 0
    assert_exact(tmp_path / DATABASE, traffic)


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 0


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.timeout(600)
def test_clock_jumps_leave_no_gap_and_nothing_is_read_twice(tmp_path: Path) -> None:
    """The clock jumps ahead as after a suspend, and back as after a correction."""
    traffic = traffic_around(time.time())
    # Tempo's clock is ahead of all jumps, so that it hides no traces.
    with TempoServer(traffic.store(), clock=lambda: time.time() + 6 * HOUR) as server, ExitStack() as stack:
        running = FaultyExporter(tmp_path, settings(server.url, polling={"backfill_duration": "24h"}))
        stack.callback(running.kill)
        running.start()
        first = running.wait_until_filled()
        before = first["snapshot_timestamp_seconds"]

        running.inject(clock=3 * HOUR)
        page = running.wait_for(
            lambda page: page["history_windows"] >= first["history_windows"] + 3 and page["backfill_complete"] == 1
        )
        assert page["snapshot_timestamp_seconds"] > before + 3 * HOUR - MINUTE
        assert (page.get("current_traces", CART) or 0) > 0
        searches = len(server.searches())

        running.inject(clock=-2 * HOUR)
        running.wait_for(lambda page: page["snapshot_timestamp_seconds"] < before and page["backfill_complete"] == 1)
        assert running.get("/-/ready").status_code == 200
        running.inject()
        page = running.wait_for(
            lambda page: page["snapshot_timestamp_seconds"] > before and page["backfill_complete"] == 1
        )
        assert page["clock_jumps_total"] == 3
        jumps = [round(record["seconds"] / HOUR) for record in running.logged("clock_jumped")]
        assert jumps == [3, -5, 2]
        assert failures(page, "backfill") == failures(page, "poll") == {}
        assert running.defects() == []
        assert running.stop() == 0
        # No hour is read twice after the clock went back.
        read_again = Counter(
            (search["start"], search["end"])
            for search in server.searches()[searches:]
            if int(search["end"]) - int(search["start"]) >= HOUR and int(search["end"]) < before - 2 * HOUR
        )
        assert not [span for span, times in read_again.items() if times > 1]
    assert_exact(tmp_path / DATABASE, traffic)
    ledger = windows(tmp_path / DATABASE)
    assert sum(row[3] for row in digests(tmp_path / DATABASE)) == sum(row[4] or 0 for row in ledger)


def test_stops_in_time_with_clients_that_never_read(tempo: StartTempo, exporter: StartExporter, tmp_path: Path) -> None:
    traffic = traffic_around(time.time())
    server = tempo(traffic, delay_seconds=0.05)
    running = exporter(settings(server.url, tempo={"limit": 20}, polling={"backfill_duration": "24h"}))
    with ExitStack() as clients:
        for _ in range(20):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            clients.enter_context(client).connect(_address(running.url))
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
        assert running.metrics()["backfill_complete"] == 0
        assert running.stop(timeout=5) == 0
    restarted = exporter(settings(server.url, tempo={"limit": 20}, polling={"backfill_duration": "24h"}))
    restarted.wait_until_filled()
    assert restarted.stop() == 0
    assert_exact(tmp_path / DATABASE, traffic)
