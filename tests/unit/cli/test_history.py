"""The ``history`` command."""

import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from exporter.cli.main import main
from exporter.model.label import LabelNames
from exporter.model.span import SeriesKey
from exporter.store import Store
from tests.support.backtest_traffic import MONDAY, requests, write_history
from tests.support.samples import DAY, HOUR
from tests.unit.metrics.test_timed_exposition import parsed

PAY, CART = SeriesKey("shop", "GET /pay"), SeriesKey("shop", "GET /cart")
DAYS = 2
# The test data is old, so the wanted history of the last days is never complete.
INCOMPLETE = ("--incomplete",)


@pytest.fixture(autouse=True)
def in_temporary_directory(clean_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    traffic = {PAY: requests(DAYS, 120), CART: requests(DAYS, 30, seed=2)}
    return write_history(tmp_path_factory.mktemp("history") / "history.db", traffic, DAYS)


@pytest.fixture
def storage_path(database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STORAGE_PATH", str(database))
    return database


def history(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["history", *map(str, arguments)])


def samples(text: str) -> Iterator[Any]:
    for family in parsed(text):
        yield from family.samples


@pytest.mark.usefixtures("storage_path")
class TestWriting:
    def test_writes_to_standard_output(self) -> None:
        result = history(*INCOMPLETE)
        assert result.exit_code == 0, result.stderr
        all_samples = list(samples(result.stdout))
        assert {SeriesKey(each.labels["service_name"], each.labels["span_name"]) for each in all_samples} == {PAY, CART}
        assert {each.labels["job"] for each in all_samples} == {"tempo-anomaly-exporter"}
        assert {each.labels["instance"] for each in all_samples} == {"localhost:9817"}
        assert result.stderr == (
            f"2 series, {len(all_samples):,} samples, from 2026-01-05 00:00 UTC to 2026-01-07 00:00 UTC; it ends there "
            "because newer history is not read yet\n"
        )

    def test_names_are_cut_as_on_the_metrics_page(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        key = SeriesKey("shop", "SELECT " + "column, " * 600)
        traffic = {each: requests(DAYS, 30) for each in (key, key._replace(span_name=key.span_name + "x"))}
        monkeypatch.setenv("STORAGE_PATH", str(write_history(tmp_path / "long.db", traffic, DAYS)))
        for max_bytes in (64, 1000):
            monkeypatch.setenv("SERIES_MAX_LABEL_BYTES", str(max_bytes))
            written = {each.labels["span_name"] for each in samples(history(*INCOMPLETE).stdout)}
            assert written == {LabelNames(max_bytes).of(each).span_name for each in traffic}
            assert {len(name.encode()) for name in written} == {max_bytes}

    def test_labels_are_those_of_the_series(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        traffic = {PAY._replace(labels=(("env", each),)): requests(DAYS, 30) for each in ("prod", "staging")}
        monkeypatch.setenv("STORAGE_PATH", str(write_history(tmp_path / "labels.db", traffic, DAYS)))
        monkeypatch.setenv("SERIES_LABELS", "[resource.env]")
        assert {each.labels["env"] for each in samples(history(*INCOMPLETE).stdout)} == {"prod", "staging"}
        refused = history(*INCOMPLETE, "--label", "env=prod")
        assert (refused.exit_code, refused.stdout) == (2, "")

    def test_writes_to_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "week.om"
        file.write_text("previous content")
        result = history(*INCOMPLETE, "--output", file)
        assert (result.exit_code, result.stdout) == (0, "")
        assert file.read_text() == history(*INCOMPLETE).stdout
        assert list(tmp_path.iterdir()) == [file]

    def test_range_and_step_are_respected(self) -> None:
        result = history(
            *INCOMPLETE, "--since", "2026-01-05T12:00", "--until", str(MONDAY + 18 * HOUR), "--step", "30m"
        )
        times = {round(float(each.timestamp)) for each in samples(result.stdout)}
        assert times == set(range(MONDAY + 12 * HOUR + 1800, MONDAY + 18 * HOUR + 1, 1800))
        assert result.stderr.endswith("to 2026-01-05 18:00 UTC; it ends there because --until is set\n")

    @pytest.mark.parametrize("time", ["2026-01-05T13:00", "2026-01-05 12:00Z", "2026-01-05T07:00:00-05:00"])
    def test_times_without_offset_are_local(self, monkeypatch: pytest.MonkeyPatch, time: str) -> None:
        monkeypatch.setenv("TIMEZONE", "Europe/Berlin")
        result = history(*INCOMPLETE, "--since", time)
        assert min(round(float(each.timestamp)) for each in samples(result.stdout)) == MONDAY + 12 * HOUR + 300
        assert "from 2026-01-05 13:00 CET" in result.stderr

    def test_labels(self) -> None:
        given = ("--label", "job=tempo", "--label", "instance=", "--label", 'cluster=a="b"')
        labels = next(samples(history(*INCOMPLETE, *given).stdout)).labels
        assert labels == {"service_name": "shop", "span_name": "GET /pay", "job": "tempo", "cluster": 'a="b"'}

    @pytest.mark.parametrize(
        ("listen", "instance"),
        [(":9999", "localhost:9999"), ("[::]:9817", "localhost:9817"), ("10.0.0.7:80", "10.0.0.7:80"),
         ("[fe80::1]:9817", "[fe80::1]:9817")],
    )  # fmt: skip
    def test_instance_is_the_listen_address(self, monkeypatch: pytest.MonkeyPatch, listen: str, instance: str) -> None:
        monkeypatch.setenv("WEB_LISTEN_ADDRESS", listen)
        assert next(samples(history(*INCOMPLETE).stdout)).labels["instance"] == instance

    def test_works_beside_a_running_exporter(self, storage_path: Path) -> None:
        with closing(Store.open(storage_path)):
            assert history(*INCOMPLETE).exit_code == 0


@pytest.mark.usefixtures("storage_path")
class TestRefusing:
    def test_incomplete_history_is_rejected(self, database: Path, tmp_path: Path) -> None:
        result = history("--output", tmp_path / "week.om", "--since", "2026-01-05T12:00")
        # All of the current week is missing, but nothing of the written range.
        assert result.exit_code == 0
        incomplete = write_history(tmp_path / "incomplete.db", {PAY: requests(1, 60)}, 1)
        duration = f"{(int(time.time()) - MONDAY) // DAY + 2}d"
        environment = {
            "STORAGE_PATH": str(incomplete),
            "POLLING_BACKFILL_DURATION": duration,
            "STORAGE_RETENTION": duration,
        }
        result = CliRunner(env=environment).invoke(main, ["history", "--output", str(tmp_path / "none.om")])
        assert result.exit_code == 1
        assert "are not read yet" in result.stderr
        assert not (tmp_path / "none.om").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--step", "7m"), "--step 7m must be 5m, 10m, 15m, 20m, 30m or 1h"),
            (("--step", "5"), "--step "),
            (("--step", "1ms"), "--step 1ms must be"),
            (
                ("--since", "yesterday"),
                "--since must be a time such as 2026-11-24T14:00 (local), 2026-11-24T14:00Z, Unix seconds or now",
            ),
            (("--until", "9" * 30), "--until must be a time such as"),
            (("--label", "job"), "--label 'job' is not NAME=VALUE"),
            (("--label", "a-b=c"), "--label 'a-b=c' is not NAME=VALUE"),
            (("--label", "kind=c"), "--label kind cannot be set"),
            (("--label", "__name__=c"), "--label __name__ cannot be set"),
        ],
    )
    def test_invalid_options_exit_with_2(self, arguments: tuple[str, ...], message: str) -> None:
        result = history(*arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith(message)
        assert result.stdout == ""

    def test_range_without_history_is_rejected(self) -> None:
        result = history("--until", "2025-01-01T00:00")
        assert (result.exit_code, result.stderr) == (1, "no history is stored in that range\n")

    def test_unwritable_output_is_reported(self, tmp_path: Path) -> None:
        result = history(*INCOMPLETE, "--output", tmp_path / "missing" / "week.om")
        assert result.exit_code == 1
        assert result.stderr == (
            f"cannot write {tmp_path}/missing/week.om.part: No such file or directory; choose a file in a writable "
            "directory\n"
        )

    def test_full_temporary_directory_is_reported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("exporter.metrics.timed_exposition.TemporaryFile", fail)
        result = history(*INCOMPLETE, "--output", tmp_path / "week.om")
        assert result.exit_code == 1
        assert result.stderr == (
            "cannot write temporary files: No space left on device; free some space or set TMPDIR\n"
        )
        assert not list(tmp_path.glob("week.om*"))


def test_missing_history_is_reported() -> None:
    result = history()
    assert result.exit_code == 1
    assert result.stderr.startswith("there is no history at tempo-anomaly.db: run the exporter")
    assert "STORAGE_PATH" in result.stderr


def test_invalid_configuration_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("nonsense: 1")
    assert history("--config", tmp_path / "c.yaml").exit_code == 2


def test_damaged_series_are_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_history(tmp_path / "damaged.db", {PAY: requests(1, 60), CART: requests(1, 60, seed=2)}, 1)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(
            "UPDATE digests SET digest = x'ff' WHERE series_id = 1 AND window_start = ?", (MONDAY + 5 * HOUR,)
        )
    monkeypatch.setenv("STORAGE_PATH", str(file))
    result = history(*INCOMPLETE)
    assert result.exit_code == 1
    assert {each.labels["span_name"] for each in samples(result.stdout)} == {CART.span_name}
    assert "left out because their stored history is damaged: 1 series ('shop'/'GET /pay')" in result.stderr


def test_closed_pipe_ends_the_command(storage_path: Path) -> None:
    """``history | head`` ends without a message about a broken pipe."""
    code = "from exporter.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "history", *INCOMPLETE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith("# HELP")
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    assert process.wait(30) == 1
    process.stderr.close()


def test_no_temporary_files_remain(storage_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert history(*INCOMPLETE).exit_code == 0
    assert not list(folder.iterdir())


def test_command_is_listed_in_help() -> None:
    assert "history" in CliRunner().invoke(main, ["--help"]).stdout
