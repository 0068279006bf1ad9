"""The ``backtest`` command on a stored history, on a file with labels, and with errors."""

import io
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from exporter.backtest.run import BacktestOptions
from exporter.backtest.run import backtest as backtest_run
from exporter.cli.main import main
from exporter.config import Config
from exporter.model.label import LabelNames
from exporter.model.span import SeriesKey
from exporter.store import Store
from exporter.store.schema import MIGRATIONS
from tests.support.backtest_traffic import MONDAY, Incident, requests, write_csv, write_history

DAYS = 4
INCIDENT = Incident(76.5, 77.5, 6.0)
"""On the fourth day."""
LEARN = ("--learn", "3d")
INTERRUPTED = "interrupted; there is no result\n"
PAY, CART = SeriesKey("shop", "GET /pay"), SeriesKey("shop", "GET /cart")


@pytest.fixture(autouse=True)
def in_temporary_directory(clean_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a directory with the same traffic as a file and as a database, and labels for both."""
    directory = tmp_path_factory.mktemp("backtest")
    pay, cart = requests(DAYS, 30, [INCIDENT]), requests(DAYS, 30, seed=2)
    write_csv(directory / "traffic.csv", {"pay": pay, "cart": cart})
    write_history(directory / "history.db", {PAY: pay, CART: cart}, DAYS)
    bounds = {"start_unix": MONDAY + 76.5 * 3600, "end_unix": MONDAY + 77.5 * 3600}
    (directory / "labels.json").write_text(
        json.dumps([{"series": name, **bounds} for name in ("pay", "shop/GET /pay", "elsewhere")]), "utf-8"
    )
    return directory


def backtest(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["backtest", *map(str, arguments)])


def backtest_json(*arguments: str | Path) -> dict[str, Any]:
    result = backtest(*arguments, "--json")
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def storage_of(files: Path) -> tuple[str, str]:
    return "--set", f"storage.path={files / 'history.db'}"


def test_backtest_replays_the_stored_history(files: Path) -> None:
    result = backtest(*storage_of(files))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "shop/GET /pay"
    assert re.fullmatch(r"  2026-01-08 04:[345]\d:00 UTC – 0[56]:\d\d:00 UTC \((\d+m|1h(\d+m)?)\)", lines[1])
    assert re.search(r"took longer than .* compared with .*traces\)\.$", lines[2])
    assert lines[3].startswith("  quarantined: ")
    assert "2026-01-08 04:00–" in lines[3]
    assert "shop/GET /cart" not in result.stdout
    assert re.search(r"^2 series, 5,\d{3} traces, from 2026-01-05 00:00 UTC to 2026-01-09 00:00 UTC", lines[5])
    assert lines[6].startswith("1 episode, ")
    assert result.stderr == ""


@pytest.mark.parametrize("source", ["csv", "history"])
def test_overrides_apply_to_the_series_that_they_match(files: Path, source: str) -> None:
    options = ("--csv", files / "traffic.csv", *LEARN) if source == "csv" else storage_of(files)

    def episodes(overrides: str) -> int:
        return len(backtest_json(*options, "--set", f"overrides={overrides}")["episodes"])

    assert episodes("[{match: pay, enabled: false}]") == 0
    assert episodes("[{match: pay, detection: {ratio: 20}}]") == 0
    assert episodes("[{match: cart, detection: {ratio: 20}}]") == 1


def test_times_are_in_the_configured_timezone(files: Path) -> None:
    result = backtest(*storage_of(files), "--set", "timezone=Asia/Taipei")
    assert "2026-01-08 12:" in result.stdout
    assert "CST" in result.stdout


def test_backtest_scores_a_file_against_labels(files: Path) -> None:
    result = backtest("--csv", files / "traffic.csv", *LEARN, "--labels", files / "labels.json")
    assert result.exit_code == 0
    assert "\n".join(result.stdout.splitlines()[-4:]).startswith("against 1 labelled event")
    assert "(left out: 2 of series that were not replayed)" in result.stdout
    assert "recall     1.00  1 found" in result.stdout
    assert "precision  1.00  1 true, 0 false" in result.stdout
    assert "false      0.0 per 1000 series-days" in result.stdout


@pytest.mark.parametrize("source", ["csv", "history"])
def test_json_report(files: Path, source: str) -> None:
    source_options = ("--csv", files / "traffic.csv", *LEARN) if source == "csv" else storage_of(files)
    report = backtest_json(*source_options, "--labels", files / "labels.json")
    (episode,) = report["episodes"]
    assert MONDAY + 76.5 * 3600 < episode["start_unix"] < MONDAY + 77 * 3600
    assert MONDAY + 77 * 3600 < episode["end_unix"] < MONDAY + 78 * 3600
    assert episode["series"] == ("pay" if source == "csv" else "shop/GET /pay")
    assert episode["explanation"]["sentence"].startswith(str(episode["explanation"]["slow"]))
    assert episode["explanation"]["baseline"]["level"] in {1, 2, 3, 4}
    summary, score = report["summary"], report["score"]
    assert (summary["series"], summary["episodes"]) == (2, 1)
    assert summary["traces"] == sum(series["traces"] for series in report["series"])
    assert summary["episodes_per_1000_series_days"] == pytest.approx(1000 / summary["series_days"])
    assert (score["events"], score["found"], score["recall"], score["precision"]) == (1, 1, 1.0, 1.0)
    assert score["labels_elsewhere"] == 2
    assert 0 < score["median_delay_seconds"] < 1800
    assert report["source"]["kind"] == source
    assert (report["source"]["rows"] is None) == (source == "history")


def test_set_overrides_a_detection_setting(files: Path) -> None:
    report = backtest_json(*storage_of(files), "--set", "detection.ratio=20")
    assert report["episodes"] == []
    assert report["settings"][1] == "detection.ratio=20"
    assert report["summary"]["episodes_per_1000_series_days"] == 0


def test_service_and_span_select_series(files: Path) -> None:
    report = backtest_json(*storage_of(files), "--service", "shop", "--span", "GET /cart")
    assert [series["series"] for series in report["series"]] == ["shop/GET /cart"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--service", "shpo"), "no series with the service 'shpo' is stored; did you mean shop?"),
        (("--service", "shop", "--span", "\x1b[31m"), r"no series with the span '\x1b[31m' is stored"),
    ],
)
def test_unknown_service_or_span_is_reported(files: Path, arguments: tuple[str, ...], message: str) -> None:
    result = backtest(*storage_of(files), *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.strip() == message


def test_series_is_selected_by_its_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = SeriesKey("shop", "SELECT " + "column, " * 600)
    other = key._replace(span_name=key.span_name + "x")
    write_history(tmp_path / "long.db", {key: requests(DAYS, 30), other: requests(DAYS, 30, seed=2)}, DAYS)
    monkeypatch.setenv("STORAGE_PATH", str(tmp_path / "long.db"))
    for span in (key.span_name, LabelNames().of(key).span_name):
        report = backtest_json(*LEARN, "--span", span)
        assert [each["series"] for each in report["series"]] == [f"shop/{key.span_name}"]


def test_series_is_selected_by_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prod, staging = (CART._replace(labels=(("env", each),)) for each in ("prod", "staging"))
    traffic = {CART: requests(DAYS, 30), prod: requests(DAYS, 30, seed=2), staging: requests(DAYS, 30, seed=3)}
    write_history(tmp_path / "labels.db", traffic, DAYS)
    monkeypatch.setenv("STORAGE_PATH", str(tmp_path / "labels.db"))

    def names(*arguments: str) -> list[str]:
        return [each["series"] for each in backtest_json(*LEARN, *arguments)["series"]]

    assert names() == [CART.text, prod.text, staging.text]
    assert names("--label", "env=prod") == ['shop/GET /cart{env="prod"}']
    assert names("--service", "shop", "--label", "env=") == ["shop/GET /cart"]
    result = backtest("--label", "env=prdo")
    assert (result.exit_code, result.stderr.strip()) == (
        1, "no series with the env 'prdo' is stored; did you mean prod?",
    )  # fmt: skip
    assert backtest("--label", "env").exit_code == 2


def test_backtest_beside_a_running_exporter_writes_nothing(files: Path) -> None:
    with closing(Store.open(files / "history.db")) as running:
        before = [entry.window for entry in running.ledger(0, 2**40)]
        assert backtest(*storage_of(files)).exit_code == 0
        assert [entry.window for entry in running.ledger(0, 2**40)] == before
        assert running.evaluated_until() is None


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    name = "\x1b]0;owned\x07\u202e\r" + "x" * 5000
    csv = write_csv(tmp_path / "t.csv", {name: requests(DAYS, 20, [INCIDENT])})
    result = backtest("--csv", csv, *LEARN)
    assert result.exit_code == 0
    assert r"\x1b]0;owned\x07\u202e\rxxx" in result.stdout
    assert all(line.isprintable() and len(line) < 500 for line in result.output.splitlines())
    assert backtest_json("--csv", csv, *LEARN)["series"][0]["series"] == name


def test_bad_rows_are_reported_once(tmp_path: Path) -> None:
    csv = write_csv(tmp_path / "t.csv", {"pay": requests(1, 5)})
    with csv.open("a") as file:
        file.write("pay,1,x\n" * 1000)
    result = backtest("--csv", csv, "--learn", "1h")
    assert result.exit_code == 0
    assert len(result.stderr.splitlines()) == 1
    assert "1,000 of " in result.stderr
    assert "1,000 with a duration that is not in milliseconds" in result.stderr
    bad_rows = backtest_json("--csv", csv, "--learn", "1h")["source"]["bad_rows"]
    assert bad_rows == {"with a duration that is not in milliseconds": 1000}


def test_accepted_change_and_released_hours_are_reported(tmp_path: Path) -> None:
    traffic = {
        SeriesKey("a", "change"): requests(5, 20, [Incident(60, 999, 2.5)]),
        SeriesKey("a", "batch"): requests(
            5, 20, [Incident(24.0 * day + 3, 24.0 * day + 4, 4.0) for day in range(1, 5)]
        ),
    }
    result = backtest("--set", f"storage.path={write_history(tmp_path / 'h.db', traffic, 5)}")
    assert re.search(
        r"  accepted as the new baseline: change of 2026-01-07 .* UTC, accepted 2026-01-08 ", result.stdout
    )
    assert re.search(r"  released from quarantine, as they recur: \d+ hours \(2026-01-\d\d 0[23]:00–", result.stdout)
    assert "1 lasting change accepted as the new baseline" in result.stdout


def damage(database: Path, *span_names: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        for name in span_names:
            connection.execute(
                "UPDATE digests SET digest = x'ff' WHERE series_id = (SELECT id FROM series WHERE span_name = ?)",
                (name,),
            )


def test_damaged_series_are_named_and_left_out(files: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(files / "history.db", tmp_path))
    damage(copy, CART.span_name)
    report = backtest_json("--set", f"storage.path={copy}")
    assert [series["series"] for series in report["series"]] == ["shop/GET /pay"]
    assert report["source"]["damaged_series"] == ["shop/GET /cart"]
    text = backtest("--set", f"storage.path={copy}").stdout
    assert "1 series with damaged history were left out: shop/GET /cart" in text
    damage(copy, PAY.span_name)
    result = backtest("--set", f"storage.path={copy}")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "the stored history is damaged" in result.stderr


@pytest.mark.parametrize("state", ["nothing", "an empty history"])
def test_missing_or_empty_history_is_reported(tmp_path: Path, state: str) -> None:
    if state == "an empty history":
        Store.open(tmp_path / "tempo-anomaly.db").close()
    before = sorted(tmp_path.iterdir())
    result = backtest()
    assert (result.exit_code, result.stdout) == (1, "")
    assert "--csv" in result.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_file_shorter_than_the_learning_period_is_reported(tmp_path: Path) -> None:
    csv = write_csv(tmp_path / "t.csv", {"a": requests(3, 2), "b": requests(2, 2)})
    result = backtest("--csv", csv)
    assert result.exit_code == 1
    assert "longer than the learning period of 7d (the longest is 3d): set a shorter one with --learn" in result.stderr


def test_file_without_a_valid_row_is_reported(tmp_path: Path) -> None:
    csv = tmp_path / "t.csv"
    csv.write_text("series,unix_seconds,duration_ms\nx\n", "utf-8")
    result = backtest("--csv", csv)
    assert result.exit_code == 1
    assert "no valid row" in result.stderr
    assert "1 of 1 rows" in result.stderr


def test_history_of_an_older_version_is_rejected(files: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(files / "history.db", tmp_path))
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) - 1}")
    result = backtest("--set", f"storage.path={copy}")
    assert result.exit_code == 1
    assert "Run this exporter on it once to migrate it" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--csv", "none.csv"), "none.csv"),
        (("--labels", "none.json"), "none.json"),
        (("--csv", "bad.csv"), "the header must be"),
        (("--labels", "bad.csv"), "not a file of labels"),
        (("--learn", "soon"), "--learn must be a duration"),
        (("--learn", "7"), "--learn needs a unit"),
        (("--budget", "2"), "--budget must be a number of flags and a time, such as 2/week"),
        (("--budget", "0/week"), "not '0/week'"),
        (("--set", "detection.ratio=1"), "detection.ratio (--set) must be greater than 1"),
        (("--set", "tempo.url=http://x"), "has no effect on a backtest"),
        (("--csv", "bad.csv", "--service", "a"), "leave them out with --csv"),
        (("--config", "none.yaml"), "none.yaml cannot be read"),
    ],
)
def test_invalid_options_exit_with_2(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    (tmp_path / "bad.csv").write_text("a,b\n", "utf-8")
    result = backtest(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_config_option_is_used(files: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"storage: {{path: {files / 'history.db'}}}\ndetection: {{ratio: 20}}\n", "utf-8")
    before = CliRunner().invoke(main, ["--config", str(config), "backtest", "--json"])
    assert json.loads(before.stdout)["episodes"] == []
    after = backtest_json("--config", config, "--set", "detection.ratio=1.4")
    assert len(after["episodes"]) == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.runtime.terminal._REFRESH_SECONDS", 0.001)
    terminal = Terminal()
    options = BacktestOptions(csv=files / "traffic.csv", learn_seconds=2 * 86_400)
    backtest_run(Config(), options, lambda warning: None, terminal)
    lines = terminal.getvalue().split("\r\x1b[2K")
    assert any(re.fullmatch(r"replaying \[#+\.+\]  \d\d%  1 of 2 series", line) for line in lines)
    assert lines[-1] == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_signal_interrupts_the_backtest(files: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    monkeypatch.setattr("exporter.backtest.run.replay_requests", lambda *_: signal.raise_signal(number))
    result = backtest("--csv", files / "traffic.csv")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", INTERRUPTED)
    assert signal.getsignal(number) is before


def test_ctrl_c_ends_the_process_without_a_traceback(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless.csv")
    process = subprocess.Popen(
        [sys.executable, "-m", "exporter", "backtest", "--csv", "endless.csv"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            # Opening the pipe succeeds once the command reads it; while it is open, the command waits for more.
            pipe = open_for_writing(tmp_path / "endless.csv")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
            os.close(pipe)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (1, "", INTERRUPTED)


def open_for_writing(pipe: Path) -> int:
    deadline = time.monotonic() + 60
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            assert time.monotonic() < deadline, "the command does not read the pipe"
            time.sleep(0.02)


BUDGET_DAYS = 6
LOUD = [Incident(24.0 * day + 10, 24.0 * day + 10.8, factor) for day, factor in ((3, 8), (4, 2.5), (5, 4))]
"""Three incidents, one a day, of which the first is the largest."""


@pytest.fixture(scope="module")
def loud_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a directory with an endpoint that has incidents, as a file and as a database."""
    directory = tmp_path_factory.mktemp("budget")
    traffic = {SeriesKey("shop", "GET /pay (v1.0) 'a'"): requests(BUDGET_DAYS, 20, LOUD)}
    write_csv(directory / "traffic.csv", {key.text: rows for key, rows in traffic.items()})
    write_history(directory / "history.db", traffic, BUDGET_DAYS)
    return directory


@pytest.mark.parametrize("source", ["csv", "history"])
def test_printed_overrides_keep_the_budget_on_the_same_traffic(loud_files: Path, tmp_path: Path, source: str) -> None:
    options = ("--csv", loud_files / "traffic.csv", *LEARN) if source == "csv" else (*storage_of(loud_files), *LEARN)
    printed = backtest(*options, "--budget", "5/week")
    assert printed.exit_code == 0, printed.output
    _, _, proposal = printed.stdout.partition("\nbudget of ")
    assert proposal.startswith(
        "5/week for all endpoints together: 2.1 in 3.0 days\n  now        3 flags count against it\n"
    )
    left = int(re.findall(r"^  then +(\d+) flag", proposal, re.MULTILINE)[0])
    pasted = tmp_path / "pasted.yaml"
    pasted.write_text(proposal[proposal.index("\noverrides:") :], "utf-8")
    again = backtest_json("--config", pasted, *options, "--budget", "5/week")
    assert len(again["episodes"]) == again["budget"]["flags_before"] == left <= 2
    assert (again["budget"]["overrides"], again["budget"]["detection"], again["budget"]["kept"]) == ([], None, True)


def test_budget_in_the_json_report(loud_files: Path, tmp_path: Path) -> None:
    plain = backtest_json(*storage_of(loud_files), "--budget", "1/day/endpoint")
    assert plain["budget"]["per_endpoint"]
    assert (plain["budget"]["flags_before"], plain["budget"]["overrides"]) == (3, [])
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(plain["episodes"][1:]), "utf-8")
    report = backtest_json(*storage_of(loud_files), "--labels", labels, "--budget", "1/week")
    budget = report["budget"]
    assert (budget["flags_before"], budget["flags"], budget["kept"], budget["expected_to_hold"]) == (1, 0, True, False)
    (override,) = budget["overrides"]
    assert override["match"] == r"^shop/GET /pay \(v1\.0\) 'a'$"
    assert override["detection"]["ratio"] > 1.4


def test_missing_history_message_says_what_to_do(tmp_path: Path) -> None:
    result = backtest()
    assert result.exit_code == 1
    assert result.stderr.startswith("there is no history at tempo-anomaly.db: run the exporter until")
    assert result.stderr.endswith("; or replay a file with --csv\n")
    assert list(tmp_path.iterdir()) == []
