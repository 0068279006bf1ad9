"""Refusals to start: one line that says what to do."""

import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from exporter.model.span import SeriesKey
from exporter.store import Store
from tests.e2e.conftest import StartExporter, StartTempo
from tests.support.processes import run, settings, write_settings
from tests.support.traffic import HOUR, Traffic


def some_hours() -> Traffic:
    traffic = Traffic()
    this_hour = int(time.time()) // HOUR * HOUR
    traffic.hourly(SeriesKey("shop", "GET /cart"), range(this_hour - 5 * HOUR, this_hour, HOUR), count=10, scale=0.2)
    return traffic


def test_second_exporter_on_one_database_is_refused(tempo: StartTempo, exporter: StartExporter, tmp_path: Path) -> None:
    configuration = settings(tempo(Traffic()).url, storage={"path": str(tmp_path / "history.db")})
    first = exporter(configuration)
    other = tmp_path / "other"
    other.mkdir()
    second = run("--config", str(write_settings(other, configuration)), directory=other)
    assert second.returncode == 1
    assert f"{tmp_path}/history.db is in use by another exporter (process {first.process.pid})" in second.stderr
    assert "storage.path" in second.stderr
    assert len(second.stderr.splitlines()) == 1

    assert first.get("/-/healthy").status_code == 200
    assert first.stop() == 0
    third = exporter(configuration)
    assert third.get("/-/healthy").status_code == 200


def test_database_is_free_after_a_crash(tempo: StartTempo, exporter: StartExporter) -> None:
    configuration = settings(tempo(Traffic()).url)
    exporter(configuration).kill()
    assert exporter(configuration).get("/-/healthy").status_code == 200


def test_port_in_use_is_reported(tempo: StartTempo, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        configuration = settings(tempo(Traffic()).url, web={"listen_address": address})
        ended = run("--config", str(write_settings(tmp_path, configuration)), directory=tmp_path)
    assert ended.returncode == 1
    assert f"cannot listen on {address}: Address already in use" in ended.stderr
    assert "web.listen_address" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_history_of_the_old_default_scope_is_refused_and_can_be_kept(
    tempo: StartTempo, exporter: StartExporter, tmp_path: Path
) -> None:
    url = tempo(some_hours()).url
    first = exporter(settings(url, tempo={"scope": "root"}))
    first.wait_for(lambda page: page["history_traces"] > 0)
    assert first.stop() == 0
    ended = run("--config", str(write_settings(tmp_path, settings(url))), directory=tmp_path)
    assert ended.returncode == 2
    assert "set tempo.scope: root to keep this history" in ended.stderr
    assert "or set storage.path to a new file" in ended.stderr
    kept = exporter(settings(url, tempo={"scope": "root"}))
    kept.wait_for(lambda page: page["history_traces"] > 0)


def test_filter_that_matched_nothing_can_be_corrected(tempo: StartTempo, exporter: StartExporter) -> None:
    url = tempo(some_hours()).url
    wrong = exporter(settings(url, tempo={"filter": 'name="GET /card"'}))
    wrong.wait_for(lambda page: page["backfill_complete"] == 1)
    assert wrong.stop() == 0
    right = exporter(settings(url, tempo={"filter": 'name="GET /cart"'}))
    right.wait_for(lambda page: page["backfill_complete"] == 1 and page["history_traces"] > 0)


def test_foreign_file_is_refused_and_unchanged(tempo: StartTempo, tmp_path: Path) -> None:
    files = {name: tmp_path / name / "kept" for name in ("diary", "shop")}
    for file in files.values():
        file.parent.mkdir()
    files["diary"].write_text("dear diary, ")
    with closing(sqlite3.connect(files["shop"])) as other:
        other.executescript("CREATE TABLE orders (id INTEGER); INSERT INTO orders VALUES (1); PRAGMA user_version = 2")
    messages = {"diary": "not a SQLite database", "shop": "without the exporter's tables"}
    url = tempo(Traffic()).url
    for name, file in files.items():
        content = file.read_bytes()
        configuration = settings(url, storage={"path": str(file)})
        for _ in range(2):
            # The first start must not leave anything that makes the file look like an exporter's.
            ended = run("--config", str(write_settings(tmp_path, configuration)), directory=tmp_path)
            assert ended.returncode == 2
            assert str(file) in ended.stderr
            assert messages[name] in ended.stderr
            assert "Set storage.path to another file" in ended.stderr
            assert len(ended.stderr.splitlines()) == 1
            assert list(file.parent.iterdir()) == [file]
            assert file.read_bytes() == content


def test_database_of_a_newer_version_is_refused_and_unchanged(tempo: StartTempo, tmp_path: Path) -> None:
    database = tmp_path / "tempo-anomaly.db"
    Store.open(database).close()
    with closing(sqlite3.connect(database)) as newer:
        newer.execute("PRAGMA user_version = 1000")
    content = database.read_bytes()
    ended = run("--config", str(write_settings(tmp_path, settings(tempo(Traffic()).url))), directory=tmp_path)
    assert ended.returncode == 1
    assert "version 1000" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert database.read_bytes() == content
