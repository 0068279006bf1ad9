"""SIGTERM and SIGINT stop the exporter within five seconds."""

import time
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals

import pytest

from exporter.model.span import SeriesKey
from tests.e2e.conftest import StartExporter, StartTempo
from tests.support.faulty_tempo import silent_tempo
from tests.support.processes import ExporterProcess, eventually, settings
from tests.support.traffic import HOUR, Traffic

CART = SeriesKey("shop", "GET /cart")

_STOP_SECONDS = 15.0
"""Less than any request to the Tempo of these tests takes."""

both_signals = pytest.mark.parametrize("number", [SIGTERM, SIGINT], ids=lambda number: number.name)


def some_days() -> Traffic:
    traffic = Traffic()
    this_hour = int(time.time()) // HOUR * HOUR
    traffic.hourly(CART, range(this_hour - 50 * HOUR, this_hour, HOUR), count=10, scale=0.2)
    return traffic


def assert_stops(running: ExporterProcess, number: Signals) -> None:
    """Assert that it stops in time without errors, and that SQLite has removed its log."""
    assert running.stop(number, timeout=_STOP_SECONDS) == 0
    assert running.logged()[-1]["event"] == "stopped"
    assert running.logged("stop_timeout") == []
    assert not [record for record in running.logged() if record["level"] == "error"]
    assert sorted(file.name for file in running.directory.glob("*.db*")) == [
        "tempo-anomaly.db",
        "tempo-anomaly.db.lock",
    ]


@both_signals
def test_stops_when_idle(tempo: StartTempo, exporter: StartExporter, number: Signals) -> None:
    running = exporter(settings(tempo(some_days()).url, polling={"backfill_duration": "48h", "tempo_interval": "60s"}))
    running.wait_for(lambda page: page["backfill_complete"] == 1 and page.get("snapshot_timestamp_seconds"))
    assert_stops(running, number)


@both_signals
def test_stops_during_backfill_from_a_slow_tempo(tempo: StartTempo, exporter: StartExporter, number: Signals) -> None:
    server = tempo(some_days(), delay_seconds=25.0)
    running = exporter(settings(server.url, tempo={"timeout": "30s"}, polling={"backfill_duration": "48h"}))
    eventually(lambda: len(server.searches()) >= 2, lambda: "no searches", 120)
    assert_stops(running, number)


@both_signals
def test_stops_while_tempo_hangs(exporter: StartExporter, tmp_path: Path, number: Signals) -> None:
    with silent_tempo() as url:
        running = exporter(settings(url, tempo={"timeout": "60s"}))
        assert running.get("/-/healthy").status_code == 200
        assert running.get("/-/ready").status_code == 503
        assert_stops(running, number)


@both_signals
def test_interrupted_dry_run_leaves_no_files(tempo: StartTempo, tmp_path: Path, number: Signals) -> None:
    server = tempo(some_days(), delay_seconds=25.0)
    running = ExporterProcess(tmp_path, settings(server.url, polling={"backfill_duration": "48h"}), "--once")
    running.launch()
    try:
        eventually(lambda: len(server.searches()) >= 1, lambda: "no searches", 120)
        assert running.stop(number, timeout=_STOP_SECONDS) == 1
    finally:
        running.kill()
    assert running.lines[-1] == "interrupted; nothing was written"
    assert running.defects() == []
    assert list(tmp_path.glob("*.db*")) == []
