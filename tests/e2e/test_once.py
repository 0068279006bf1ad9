"""The command line: dry runs, and options that need no Tempo."""

import socket
import time
from pathlib import Path

import pytest
import yaml

from exporter import __version__
from exporter.demo.search import SearchLimits
from exporter.model.span import SeriesKey
from tests.e2e.conftest import StartTempo
from tests.support.expected_baselines import UTC_WEEK, baseline_at, differences
from tests.support.processes import run, settings, write_settings
from tests.support.scrape import Metrics
from tests.support.tempo_server import unused_url
from tests.support.traffic import HOUR, MINUTE, Traffic

CART = SeriesKey("shop", "GET /cart")


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """An empty working directory."""
    directory = tmp_path / "empty"
    directory.mkdir()
    return directory


def some_days(now: float) -> Traffic:
    traffic = Traffic()
    this_hour = int(now) // HOUR * HOUR
    traffic.hourly(CART, range(this_hour - 80 * HOUR, this_hour - HOUR, HOUR), count=20, scale=0.2)
    traffic.spread(CART, now - 2 * MINUTE, now - 5, count=30, scale=0.2)
    return traffic


def test_once_prints_the_metrics_page_and_leaves_no_files(tempo: StartTempo, tmp_path: Path, empty: Path) -> None:
    traffic = some_days(time.time())
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # The address cannot be bound, and the database would be in the empty directory.
        configuration = settings(
            tempo(traffic).url,
            polling={"backfill_duration": "72h"},
            web={"listen_address": f"127.0.0.1:{taken.getsockname()[1]}"},
            storage={"path": "history/exporter.db"},
        )
        ended = run(
            "--once", "--config", str(write_settings(tmp_path, configuration)), directory=empty, TMPDIR=str(temporary)
        )
    assert ended.returncode == 0, ended.stderr
    assert list(empty.iterdir()) == list(temporary.iterdir()) == []

    page = Metrics.parse(ended.stdout)
    assert page["backfill_complete"] == page["backfill_progress_ratio"] == page["tempo_up"] == 1
    assert page.get("current_traces", CART) == 30
    at = page["snapshot_timestamp_seconds"]
    since = UTC_WEEK.floor(page["backfill_started_timestamp_seconds"] - 72 * HOUR, HOUR)
    requests = [request for request in traffic.requests if request.start >= since]
    expected = baseline_at(at, requests, UTC_WEEK)
    assert differences(page, {CART: expected}) == []

    assert f"history: {page.by('backfill_windows', 'state')['done']:.0f} windows read" in ended.stderr
    assert f"series: 1 (1 on level {expected.level}), 0 still learning" in ended.stderr
    assert ended.stderr.endswith("\ncomplete\n")


def test_once_without_tempo_fails(tmp_path: Path, empty: Path) -> None:
    configuration = settings(unused_url(), polling={"backfill_duration": "2h"})
    ended = run("--once", "--config", str(write_settings(tmp_path, configuration)), directory=empty)
    assert ended.returncode == 1
    assert Metrics.parse(ended.stdout)["tempo_up"] == 0
    assert "NOT complete" in ended.stderr
    assert "cannot be reached" in ended.stderr or "refused" in ended.stderr.lower()
    assert list(empty.iterdir()) == []


def test_once_with_a_partial_window_fails(tempo: StartTempo, tmp_path: Path, empty: Path) -> None:
    now = time.time()
    traffic = some_days(now)
    crowded = int(now) // HOUR * HOUR - 5 * HOUR + 1234
    traffic.spread(CART, crowded + 0.1, crowded + 0.9, count=150, scale=0.05)
    url = tempo(traffic, limits=SearchLimits(max_result_limit=100)).url
    configuration = settings(url, tempo={"limit": 100}, polling={"backfill_duration": "12h"})
    ended = run("--once", "--config", str(write_settings(tmp_path, configuration)), directory=empty)
    assert ended.returncode == 1
    assert "1 partial" in ended.stderr
    assert Metrics.parse(ended.stdout).by("backfill_windows", "state")["partial"] == 1


INVALID = """
timezone: Europe/Berln
tempo: {url: "tempo:3200", limt: 100, timeout: soon}
polling: {backfill_batch: 7m, tempo_interval: 5m}
stats: {min_samples: 0}
"""


@pytest.mark.parametrize("option", ["--once", "--check-config", "--log-level=info"])
def test_all_configuration_errors_are_reported_together(tmp_path: Path, empty: Path, option: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(INVALID)
    ended = run(option, "--config", str(file), directory=empty, POLLING_SETTLE="later")
    assert ended.returncode == 2
    assert ended.stdout == ""
    for part in (
        "timezone", "Europe/Berlin", "tempo.url", "tempo.limt", "did you mean tempo.limit?", "tempo.timeout",
        "polling.backfill_batch", "stats.min_samples", "polling.settle (environment variable POLLING_SETTLE)",
        "polling.tempo_lookback (2m) must be at least polling.tempo_interval (5m)",
    ):  # fmt: skip
        assert part in ended.stderr, part
    assert "Traceback" not in ended.stderr
    assert list(empty.iterdir()) == []


def test_missing_configuration_file_is_reported(empty: Path) -> None:
    ended = run("--config", "nowhere.yaml", directory=empty)
    assert ended.returncode == 2
    assert "nowhere.yaml" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_check_config_shows_effective_values_without_secrets(tmp_path: Path, empty: Path) -> None:
    configuration = settings(
        "http://tempo.example:3200", tempo={"auth_token": "glc_hidden", "headers": {"X-Key": "k3y"}}
    )
    ended = run(
        "--check-config", "--config", str(write_settings(tmp_path, configuration)), directory=empty,
        POLLING_BACKFILL_DURATION="3d",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    shown = yaml.safe_load(ended.stdout)
    assert shown["tempo"]["url"] == "http://tempo.example:3200"
    assert shown["tempo"]["auth_token"] == shown["tempo"]["headers"]["X-Key"] == "<secret>"
    assert shown["polling"]["backfill_duration"] == "3d"
    assert "glc_hidden" not in ended.stdout + ended.stderr
    assert "k3y" not in ended.stdout + ended.stderr
    assert list(empty.iterdir()) == []


def test_version_is_printed(empty: Path) -> None:
    ended = run("--version", directory=empty)
    assert (ended.returncode, ended.stdout) == (0, f"tempo-anomaly-exporter, version {__version__}\n")
