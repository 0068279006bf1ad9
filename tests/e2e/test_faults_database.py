"""Faults of the database: the exporter keeps running, logs the fault, and its history is complete in the end."""

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path

import pytest

from exporter.demo.tempo_api import TempoServer
from exporter.model.span import SeriesKey
from tests.e2e.conftest import StartExporter
from tests.support.database import digests, windows
from tests.support.faulty_exporter import FaultyExporter
from tests.support.faulty_tempo import Gate, serving
from tests.support.processes import ExporterProcess, eventually, settings
from tests.support.tempo_server import fake_tempo
from tests.support.traffic import HOUR, Traffic

DATABASE = "tempo-anomaly.db"
ENDPOINTS = [SeriesKey("shop", f"GET /page/{first}{second}") for first in "abcdefgh" for second in "vwxyz"]


def some_hours(now: float) -> Traffic:
    traffic = Traffic()
    this_hour = int(now) // HOUR * HOUR
    for endpoint in ENDPOINTS:
        traffic.hourly(endpoint, range(this_hour - 30 * HOUR, this_hour - HOUR, HOUR), count=10, scale=0.2)
    return traffic


@pytest.mark.timeout(600)
def test_history_is_complete_after_temporary_write_failures(tmp_path: Path) -> None:
    """Three exporters at the same time: a full disk, a read-only database, and a database locked by a backup."""
    traffic = some_hours(time.time())
    reasons = ("full", "readonly", "locked")
    with ExitStack() as stack:
        tempo = stack.enter_context(fake_tempo())
        gate = Gate(serving(traffic, time.time))
        tempo.answer(gate)
        running: dict[str, FaultyExporter] = {}
        for reason in reasons:
            (tmp_path / reason).mkdir()
            configuration = settings(tempo.url, tempo={"timeout": "60s"}, polling={"backfill_duration": "24h"})
            running[reason] = FaultyExporter(tmp_path / reason, configuration)
            stack.callback(running[reason].kill)
            running[reason].start()
        running["full"].inject(sql="PRAGMA max_page_count = 1")
        running["readonly"].inject(sql="PRAGMA query_only = ON")
        backup = stack.enter_context(closing(sqlite3.connect(tmp_path / "locked" / DATABASE)))
        backup.execute("BEGIN IMMEDIATE")
        gate.open()
        for reason, exporter in running.items():
            page = exporter.wait_for(lambda page: page.get("storage_failures_total", reason=reason))  # noqa: B023
            assert page["backfill_complete"] == 0
            assert page["tempo_up"] == 1
            assert exporter.get("/-/healthy").status_code == 200
            assert exporter.logged("windows_not_stored")
        running["full"].inject()
        running["readonly"].inject()
        backup.rollback()
        for exporter in running.values():
            page = exporter.wait_until_filled()
            assert page.get("storage_failures_total", reason="corrupt") == 0
            assert exporter.defects() == []
            assert exporter.stop() == 0
    for reason in reasons:
        ledger = windows(tmp_path / reason / DATABASE)
        assert {(start, end): stored or 0 for start, end, _, _, stored, _ in ledger} == {
            (start, end): traffic.between(start, end) for start, end, *_ in ledger
        }
        assert sum(row[3] for row in digests(tmp_path / reason / DATABASE)) == sum(row[4] or 0 for row in ledger)
        # A day of windows; during the first 15 minutes of an hour the newest has not settled.
        assert len(ledger) >= 23


# Damaged files


@pytest.fixture(scope="module")
def tempo_url() -> Iterator[str]:
    with TempoServer(some_hours(time.time()).store()) as server:
        yield server.url


@pytest.fixture(scope="module")
def intact(tempo_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete database that no process uses."""
    directory = tmp_path_factory.mktemp("intact")
    with ExporterProcess(directory, configuration(tempo_url)) as running:
        running.wait_until_filled()
        assert running.stop() == 0
    return directory / DATABASE


def configuration(url: str) -> dict[str, object]:
    return settings(url, polling={"backfill_duration": "24h"})


def root_page(database: Path, table: str) -> tuple[int, int]:
    """Return the offset of a table's root page, and the page size."""
    with closing(sqlite3.connect(database)) as connection:
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    return (page - 1) * page_size, page_size


def overwrite(database: Path, start: int, content: bytes) -> None:
    with database.open("r+b") as file:
        file.seek(start)
        file.write(content)


def overwrite_header(database: Path) -> None:
    overwrite(database, 0, b"\xde\xad\xbe\xef" * 1024)


def replace_with_text(database: Path) -> None:
    database.write_bytes(b"dear diary, " * 1000)


def truncate(database: Path) -> None:
    with database.open("r+b") as file:
        file.truncate(database.stat().st_size // 3)


def zero_ledger(database: Path) -> None:
    start, size = root_page(database, "windows")
    overwrite(database, start, b"\0" * size)


def overwrite_digests(database: Path) -> None:
    """Damage a table that is not read at the start."""
    start, size = root_page(database, "digests")
    overwrite(database, start, b"\xff" * size)


@pytest.mark.parametrize("damage", [overwrite_header, replace_with_text, truncate, zero_ledger, overwrite_digests])
def test_damaged_database_is_moved_and_history_read_again(
    exporter: StartExporter, tempo_url: str, intact: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    database = tmp_path / DATABASE
    shutil.copy(intact, database)
    # The lock file shows that the database is an exporter's, even if its header is damaged.
    shutil.copy(f"{intact}.lock", f"{database}.lock")
    damage(database)
    damaged = database.read_bytes()
    running = exporter(configuration(tempo_url))

    running.wait_for(lambda page: page.get("storage_failures_total", reason="corrupt"))
    event = "database_replaced"
    eventually(lambda: bool(running.logged(event)), lambda: f"{event} is not logged", 30)
    (record,) = running.logged(event)
    assert record["level"] == "error"
    # The old snapshot is served until the new database is open.
    replaced_at = datetime.fromisoformat(record["ts"]).timestamp()
    running.wait_for(lambda page: page["backfill_started_timestamp_seconds"] >= replaced_at)
    running.wait_until_filled()
    moved = Path(record["renamed_to"])
    assert moved.parent == tmp_path
    assert moved.name.startswith(f"{DATABASE}.corrupt-2")
    assert moved.exists()
    if damage in (overwrite_header, replace_with_text):
        # SQLite opens the other files, and may write to them before it finds the damage.
        assert moved.read_bytes() == damaged
    if damage is overwrite_digests:
        order = [each["event"] for each in running.logged()]
        assert order.index("started") < order.index(record["event"]), "the damage was found before the start"
    assert running.get("/-/healthy").status_code == 200
    assert running.stop() == 0
    assert windows(intact) <= windows(database)
    assert digests(intact) <= digests(database)


def test_write_ahead_log_of_damaged_database_is_not_applied_to_the_new_one(
    exporter: StartExporter, tempo_url: str, intact: Path, tmp_path: Path
) -> None:
    database = tmp_path / DATABASE
    shutil.copy(intact, database)
    with closing(sqlite3.connect(database)) as other:
        other.execute("PRAGMA wal_autocheckpoint = 0")
        other.execute("INSERT INTO series (service_name, span_name) VALUES ('from', 'the log')")
        other.commit()
        log = (tmp_path / f"{DATABASE}-wal").read_bytes()
        assert log
        crashed = tmp_path / "crashed"
        crashed.mkdir()
        shutil.copy(database, crashed / DATABASE)
        (crashed / f"{DATABASE}-wal").write_bytes(log)
    (crashed / DATABASE).write_bytes(b"\0" * 100)
    shutil.copy(f"{intact}.lock", crashed / f"{DATABASE}.lock")
    running = exporter(configuration(tempo_url), directory=crashed)
    running.wait_until_filled()
    assert running.stop() == 0
    assert list(crashed.glob("*.corrupt-*"))
    assert digests(intact) <= digests(crashed / DATABASE)
    with closing(sqlite3.connect(crashed / DATABASE)) as fresh:
        assert fresh.execute("SELECT count(*) FROM series WHERE service_name = 'from'").fetchone() == (0,)
        assert fresh.execute("PRAGMA integrity_check").fetchone() == ("ok",)
