"""Standard output that is full, or that cannot encode a character: one line, status 1, for every command."""

import io
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.cli.main import COMMANDS, main
from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import ROOT, Operation, SpanTimes, TraceShape, TraceStore, make_trace
from exporter.model.span import SeriesKey
from exporter.store import Store
from tests.support.paths import REPOSITORY
from tests.support.processes import command
from tests.support.samples import HOUR, KEY, commit_hour
from tools.processes import environment

FULL = Path("/dev/full")
FOREIGN = SeriesKey("shop", "GET /訂單")


@pytest.fixture(autouse=True)
def _process_state(
    clean_environment: None, restored_signals: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database with an hour of history."""
    path = tmp_path / "tempo-anomaly.db"
    store = Store.open(path)
    now = int(time.time())
    commit_hour(store, now - now % HOUR - 5 * HOUR, {KEY: [0.1] * 60, FOREIGN: [0.1] * 60})
    store.close()
    return path


@pytest.fixture
def tempo() -> Iterator[TempoServer]:
    """A Tempo that has one trace, of an endpoint with a name that is not ASCII."""
    shape = TraceShape((Operation(*FOREIGN[:2]),), (ROOT,))
    trace = make_trace(1, shape, [SpanTimes(1, int((time.time() - 30) * 1e9), 10**6)])
    with TempoServer(TraceStore([trace])) as server:
        yield server


def run(stream: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run a command with this standard output; returns the exit status."""
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    assert sys.stdout is stream
    # As the interpreter does at its end.
    stream.flush()
    return ended.value.code


def expect_one_line(capsys: pytest.CaptureFixture[str], reason: str) -> None:
    assert re.fullmatch(f"Error: cannot write to standard output: {reason}\n", capsys.readouterr().err)


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        *((name, "--help") for name in COMMANDS),
        ("--check-config",),
        ("run", "--check-config"),
        ("verify", "--url", "http://127.0.0.1:1"),
        ("verify", "--url", "http://127.0.0.1:1", "--json"),
        ("explain", "--service", KEY.service_name, "--span", KEY.span_name),
        ("explain", "--service", KEY.service_name, "--span", KEY.span_name, "--json"),
        ("history", "--incomplete", "--until", "now"),
        ("backtest",),
    ],
    ids=" ".join,
)
def test_full_output_is_one_line(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FULL.open("w", encoding="utf-8") as full:
        assert run(full, monkeypatch, *arguments) == 1
    expect_one_line(capsys, "No space left on device")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("argument", ["--version", "--check-config"])
def test_full_output_of_a_process_is_one_line(argument: str, unbuffered: str) -> None:
    with FULL.open("w") as full:
        ran = subprocess.run(
            command(argument), stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
            env=environment(PYTHONUNBUFFERED=unbuffered), cwd=REPOSITORY,
        )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (1, "Error: cannot write to standard output: No space left on device\n")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_full_output_of_a_single_pass_is_one_line(
    tempo: TempoServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEMPO_URL", tempo.url)
    monkeypatch.setenv("POLLING_BACKFILL_ENABLED", "false")
    with FULL.open("w", encoding="utf-8") as full:
        assert run(full, monkeypatch, "--once", "--log-level", "error") == 1
    expect_one_line(capsys, "No space left on device")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_character_that_the_encoding_lacks_is_one_line(
    encoding: str, database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STORAGE_PATH", str(database))
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    assert run(stream, monkeypatch, "explain", "--service", "shop", "--span", FOREIGN.span_name) == 1
    expect_one_line(capsys, rf"its encoding, {encoding}, has no '\\u8a02'; set PYTHONIOENCODING=utf-8")


def test_metrics_are_utf_8_in_any_locale(tempo: TempoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPO_URL", tempo.url)
    monkeypatch.setenv("POLLING_BACKFILL_ENABLED", "false")
    output = io.BytesIO()
    run(io.TextIOWrapper(output, "latin-1"), monkeypatch, "--once", "--log-level", "error")
    assert f'span_name="{FOREIGN.span_name}"' in output.getvalue().decode("utf-8")


def test_closed_pipe_is_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Closed(io.TextIOWrapper):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Closed(io.BytesIO()))
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == ""
