"""Whatever becomes of the database, the exporter goes on, says so, and has everything in the end."""

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


@pytest.mark.timeout(180)
def test_a_database_that_refuses_for_a_while(tmp_path: Path) -> None:
    """A full disk, one that cannot be written, and a backup that holds the database: at the same time, in three."""
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
            page = exporter.wait_until_filled(60)
            assert page.get("storage_failures_total", reason="corrupt") == 0
            assert exporter.defects() == []
            assert exporter.stop() == 0
    for reason in reasons:
        ledger = windows(tmp_path / reason / DATABASE)
        assert {(start, end): stored or 0 for start, end, _, _, stored, _ in ledger} == {
            (start, end): traffic.between(start, end) for start, end, *_ in ledger
        }
        assert sum(row[3] for row in digests(tmp_path / reason / DATABASE)) == sum(row[4] or 0 for row in ledger)
        # A day's windows; in the first quarter of an hour the latest has not settled.
        assert len(ledger) >= 23


# A damaged file


@pytest.fixture(scope="module")
def tempo_url() -> Iterator[str]:
    with TempoServer(some_hours(time.time()).store()) as server:
        yield server.url


@pytest.fixture(scope="module")
def whole(tempo_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with everything in it, that nobody uses."""
    directory = tmp_path_factory.mktemp("whole")
    with ExporterProcess(directory, configuration(tempo_url)) as running:
        running.wait_until_filled()
        assert running.stop() == 0
    return directory / DATABASE


def configuration(url: str) -> dict[str, object]:
    return settings(url, polling={"backfill_duration": "24h"})


def root_page(database: Path, table: str) -> tuple[int, int]:
    """Where a table begins in the file, and how long a page is."""
    with closing(sqlite3.connect(database)) as connection:
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    return (page - 1) * page_size, page_size


def overwrite(database: Path, start: int, content: bytes) -> None:
    with database.open("r+b") as file:
        file.seek(start)
        file.write(content)


def no_header(database: Path) -> None:
    overwrite(database, 0, b"\xde\xad\xbe\xef" * 1024)


def no_database(database: Path) -> None:
    database.write_bytes(b"dear diary, " * 1000)


def cut_off(database: Path) -> None:
    with database.open("r+b") as file:
        file.truncate(database.stat().st_size // 3)


def no_ledger(database: Path) -> None:
    start, size = root_page(database, "windows")
    overwrite(database, start, b"\0" * size)


def no_digests(database: Path) -> None:
    """Nothing that is looked at before it runs."""
    start, size = root_page(database, "digests")
    overwrite(database, start, b"\xff" * size)


@pytest.mark.parametrize("damage", [no_header, no_database, cut_off, no_ledger, no_digests])
def test_a_damaged_database_is_set_aside_and_read_again(
    exporter: StartExporter, tempo_url: str, whole: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    database = tmp_path / DATABASE
    shutil.copy(whole, database)
    # It shows that an exporter has used the file, where the file itself may not.
    shutil.copy(f"{whole}.lock", f"{database}.lock")
    damage(database)
    damaged = database.read_bytes()
    running = exporter(configuration(tempo_url))

    running.wait_for(lambda page: page.get("storage_failures_total", reason="corrupt"))
    message = "database_replaced"
    eventually(lambda: bool(running.logged(message)), lambda: "nothing is said", 30)
    (told,) = running.logged(message)
    assert told["level"] == "error"
    # Until there is a fresh one, what is served is what was known before.
    when = datetime.fromisoformat(told["ts"]).timestamp()
    running.wait_for(lambda page: page["backfill_started_timestamp_seconds"] >= when)
    running.wait_until_filled()
    aside = Path(told["renamed_to"])
    assert aside.parent == tmp_path
    assert aside.name.startswith(f"{DATABASE}.corrupt-2")
    assert aside.exists()
    if damage in (no_header, no_database):
        # A file that opens may have been written to before the damage was found, as any database is.
        assert aside.read_bytes() == damaged
    if damage is no_digests:
        order = [record["event"] for record in running.logged()]
        assert order.index("started") < order.index(told["event"]), "it was not found while running"
    assert running.get("/-/healthy").status_code == 200
    assert running.stop() == 0
    assert windows(whole) <= windows(database)
    assert digests(whole) <= digests(database)


def test_a_log_of_the_damaged_one_is_not_played_into_the_fresh_one(
    exporter: StartExporter, tempo_url: str, whole: Path, tmp_path: Path
) -> None:
    database = tmp_path / DATABASE
    shutil.copy(whole, database)
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
    shutil.copy(f"{whole}.lock", crashed / f"{DATABASE}.lock")
    running = exporter(configuration(tempo_url), directory=crashed)
    running.wait_until_filled()
    assert running.stop() == 0
    assert list(crashed.glob("*.corrupt-*"))
    assert digests(whole) <= digests(crashed / DATABASE)
    with closing(sqlite3.connect(crashed / DATABASE)) as fresh:
        assert fresh.execute("SELECT count(*) FROM series WHERE service_name = 'from'").fetchone() == (0,)
        assert fresh.execute("PRAGMA integrity_check").fetchone() == ("ok",)
