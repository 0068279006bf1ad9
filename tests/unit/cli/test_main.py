"""The command line: help, options, configuration check, runs that cannot start, a single pass."""

import logging
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel

from exporter import __version__, cli
from exporter.app.app import PassResult
from exporter.cli import run as running
from exporter.cli.main import COMMANDS, load_command, main
from exporter.config import Config, load_config
from exporter.config.keys import KEYS
from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import TraceStore
from exporter.model.pattern import Pattern
from exporter.model.time_mark import MarkKind, MarkRange, TimeMark
from exporter.store import Store
from tests.support.samples import HOUR, KEY, NOON, commit_hour, small_snapshot

Invoke = Callable[..., Result]


@pytest.fixture(autouse=True)
def _restore_process_state(clean_environment: None, restored_signals: None) -> Iterator[None]:
    """Restore logging, signal handlers and the environment after the test."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory of the command."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def invoke(directory: Path) -> Invoke:
    """Return a function that runs the command line in an empty directory."""

    def run(*arguments: str, **environment: str) -> Result:
        return CliRunner().invoke(main, arguments, prog_name="tempo-anomaly-exporter", env=environment)

    return run


def write(directory: Path, name: str = "c.yaml", **sections: object) -> str:
    """Write a configuration file; returns its name."""
    (directory / name).write_text(yaml.safe_dump(sections))
    return name


class TestHelp:
    @pytest.mark.parametrize("option", ["--help", "-h"])
    def test_lists_commands_and_options(self, invoke: Invoke, option: str) -> None:
        result = invoke(option)
        assert result.exit_code == 0
        for name in (*COMMANDS, "--config", "--log-level", "--version", "--once", "--check-config"):
            assert name in result.output

    @pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
    def test_every_command_has_help_and_version(self, invoke: Invoke, command: list[str]) -> None:
        helped = invoke(*command, "--help")
        assert helped.exit_code == 0
        for option in ("--config", "--log-level", "--version", "--help"):
            assert option in helped.output
        version = invoke(*command, "--version")
        assert (version.exit_code, version.output) == (0, f"tempo-anomaly-exporter, version {__version__}\n")

    @pytest.mark.parametrize("name", COMMANDS)
    def test_the_list_of_commands_has_the_first_sentence_of_their_help(self, name: str) -> None:
        command = load_command(name)
        assert command.name == name
        assert command.get_short_help_str(limit=200) == COMMANDS[name]
        assert len(COMMANDS[name]) <= 66, "it would wrap in a terminal of 80 columns"

    def test_every_module_of_a_command_is_listed(self) -> None:
        modules = {file.stem for file in Path(cli.__file__).parent.glob("*.py")}
        assert modules == {*COMMANDS, "__init__", "common", "main", "exporter_options", "output", "healthcheck"}

    @pytest.mark.parametrize("option", ["--help", "--version"])
    def test_help_and_version_import_no_command(self, option: str) -> None:
        code = (
            "import atexit, sys\n"
            "atexit.register(lambda: print(*(name for name in sys.modules if name.startswith('exporter.'))))\n"
            "from exporter.cli.main import main\n"
            f"main(['{option}'])"
        )
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        imported = set(ran.stdout.splitlines()[-1].split())
        expected = {
            "exporter.cli",
            "exporter.cli.common",
            "exporter.cli.main",
            "exporter.cli.output",
            "exporter.runtime",
        }
        assert imported == {*expected, "exporter.runtime.signals", "exporter.runtime.tuning"}, ran.stderr


class TestCheckConfig:
    def test_prints_the_effective_configuration(self, invoke: Invoke) -> None:
        result = invoke("--check-config")
        assert (result.exit_code, result.stderr) == (0, "")
        assert Config.model_validate(yaml.safe_load(result.stdout)) == Config()

    def test_environment_beats_file(self, invoke: Invoke, directory: Path) -> None:
        file = write(directory, polling={"settle": "20m"}, timezone="Asia/Taipei")
        result = invoke("--config", file, "--check-config", POLLING_SETTLE="30m")
        shown = yaml.safe_load(result.stdout)
        assert (shown["polling"]["settle"], shown["timezone"]) == ("30m", "Asia/Taipei")

    def test_secrets_are_masked(self, invoke: Invoke) -> None:
        result = invoke("--check-config", TEMPO_AUTH_TOKEN="hunter2hunter2")
        assert result.exit_code == 0
        assert "hunter2hunter2" not in result.output
        assert yaml.safe_load(result.stdout)["tempo"]["auth_token"] == "<secret>"

    @pytest.mark.parametrize(
        ("key", "section"),
        [
            ("tempo.tls.ca_file", {"tls": {"ca_file": "FILE"}}),
            ("tempo.tls.cert_file", {"tls": {"cert_file": "FILE", "key_file": "good"}}),
            ("tempo.tls.key_file", {"tls": {"cert_file": "good", "key_file": "FILE"}}),
            ("tempo.auth_token_file", {"auth_token_file": "FILE"}),
            ("tempo.basic_auth.password_file", {"basic_auth": {"username": "me", "password_file": "FILE"}}),
        ],
    )
    def test_a_file_that_is_missing_or_empty_is_named(
        self, invoke: Invoke, directory: Path, key: str, section: dict[str, object]
    ) -> None:
        (directory / "good").write_text("x")
        (directory / "empty").touch()
        text, file = yaml.safe_dump({"tempo": section}), directory / "files.yaml"
        for name, problem in (("nowhere", "cannot be read: No such file or directory"), ("empty", "is empty")):
            file.write_text(text.replace("FILE", name))
            result = invoke("--config", str(file), "--check-config")
            assert (result.exit_code, result.stdout) == (2, "")
            assert f"  - {key} {name} {problem}\n" in result.stderr
        file.write_text(text.replace("FILE", "good"))
        assert invoke("--config", str(file), "--check-config").exit_code == 0

    def test_reports_all_errors_together(self, invoke: Invoke, directory: Path) -> None:
        file = write(directory, tempo={"ulr": "x"}, polling={"settle": "soon"})
        result = invoke("--config", file, "--check-config", STATS_K="many")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "3 problems in the configuration" in result.stderr
        for problem in ("tempo.ulr", "did you mean tempo.url?", "polling.settle", "stats.k"):
            assert problem in result.stderr
        assert "Traceback" not in result.output

    @pytest.mark.parametrize("conditions", ['name="x" // only x', 'name="x" | count() > 2', '{name="x"}'])
    def test_reports_a_filter_that_cannot_be_joined_to_a_query(self, invoke: Invoke, conditions: str) -> None:
        result = invoke("--check-config", TEMPO_FILTER=conditions)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "tempo.filter (environment variable TEMPO_FILTER) must" in result.stderr

    def test_reports_a_missing_file(self, invoke: Invoke) -> None:
        result = invoke("--config", "nowhere.yaml", "--check-config")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "nowhere.yaml" in result.stderr

    def test_creates_no_file(self, invoke: Invoke, directory: Path) -> None:
        invoke("--check-config")
        assert list(directory.iterdir()) == []


class TestOptions:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["--config", "c.yaml", "--check-config"],
            ["--config", "c.yaml", "run", "--check-config"],
            ["run", "--config", "c.yaml", "--check-config"],
            ["run", "--check-config", "--config=c.yaml", "--log-level", "debug"],
            ["--log-level=debug", "--config", "c.yaml", "run", "--check-config"],
            ["--config", "other.yaml", "run", "--config", "c.yaml", "--check-config"],
        ],
    )
    def test_options_may_precede_or_follow_the_command(
        self, invoke: Invoke, directory: Path, arguments: list[str]
    ) -> None:
        write(directory, "other.yaml", timezone="Europe/Paris")
        write(directory, timezone="Asia/Taipei")
        result = invoke(*arguments)
        assert result.exit_code == 0
        assert yaml.safe_load(result.stdout)["timezone"] == "Asia/Taipei"

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--once", "run"],
            ["--check-config", "demo"],
            ["--config", "c.yaml", "demo"],
            ["demo", "--config", "c.yaml"],
            ["--log-level", "loud"],
            ["serve"],
            ["--wat"],
        ],
    )
    def test_invalid_combinations_are_refused(self, invoke: Invoke, arguments: list[str]) -> None:
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert "Error: " in result.stderr
        assert "Traceback" not in result.output

    @pytest.mark.parametrize(
        ("arguments", "level"),
        [([], "WARNING"), (["--log-level", "error"], "ERROR"), (["--log-level", "error", "run", "--log-level", "debug"],
                                                                "DEBUG")],
    )  # fmt: skip
    def test_the_log_level_of_the_command_line_overrides_the_configuration(
        self, invoke: Invoke, directory: Path, arguments: list[str], level: str
    ) -> None:
        file = write(directory, log={"level": "warning"})
        command = arguments if "run" in arguments else [*arguments, "run"]
        assert invoke(*command, "--config", file, "--check-config").exit_code == 0
        assert logging.getLevelName(logging.getLogger().level) == level


class TestDemo:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--for", "nan"), "'nan' is not a finite number"),
            (("--for", "-1"), "not in the range x>=0"),
            (("--incident-after", "inf"), "'inf' is not a finite number"),
        ],
    )
    def test_invalid_values_are_refused(self, invoke: Invoke, arguments: tuple[str, ...], message: str) -> None:
        result = invoke("demo", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr


class TestRun:
    def test_reports_a_listen_address_in_use(self, invoke: Invoke, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            result = invoke(WEB_LISTEN_ADDRESS=address, LOG_LEVEL="error")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.endswith(
            f"cannot listen on {address}: Address already in use; set web.listen_address to a free port of an address "
            "of this machine\n"
        )

    def test_reports_an_unknown_listen_host(self, invoke: Invoke) -> None:
        result = invoke(WEB_LISTEN_ADDRESS="no-such-host.invalid:0", LOG_LEVEL="error")
        assert result.exit_code == 1
        assert "cannot listen on no-such-host.invalid:0: " in result.stderr

    def test_reports_a_database_in_use(self, invoke: Invoke, directory: Path) -> None:
        store = Store.open(directory / "x.db")
        result = invoke(STORAGE_PATH="x.db", LOG_LEVEL="error")
        store.close()
        assert (result.exit_code, result.stdout) == (1, "")
        assert "x.db is in use by another exporter" in result.stderr

    def test_reports_a_database_that_cannot_be_created(self, invoke: Invoke, directory: Path) -> None:
        (directory / "file").touch()
        result = invoke(STORAGE_PATH="file/x.db", LOG_LEVEL="error")
        assert result.exit_code == 1
        assert "file/x.db" in result.stderr
        assert "Traceback" not in result.output

    def test_reports_a_history_that_was_read_with_another_scope(self, invoke: Invoke, directory: Path) -> None:
        store = Store.open(directory / "x.db")
        store.declare_reading("tempo.scope=root tempo.tenant='' tempo.filter=''")
        commit_hour(store, NOON, {KEY: [0.1]})
        store.close()
        result = invoke(STORAGE_PATH="x.db", LOG_LEVEL="error")
        assert result.exit_code == 2
        assert "was read with tempo.scope=root" in result.stderr
        assert "set tempo.scope: root" in result.stderr
        Store.open(directory / "x.db").close()


class TestOnce:
    def test_prints_metrics_to_stdout_and_a_summary_to_stderr(self, invoke: Invoke, directory: Path) -> None:
        """Nothing in all of history is not a success: tenant, filter or scope may be wrong."""
        with TempoServer(TraceStore([])) as tempo:
            result = invoke(
                "--once", TEMPO_URL=tempo.url, TEMPO_REQUESTS_PER_SECOND="1000", POLLING_BACKFILL_DURATION="5h"
            )
        assert result.exit_code == 1
        families = {family.name for family in text_string_to_metric_families(result.stdout)}
        assert {"tempo_anomaly_backfill_complete", "tempo_anomaly_baseline_p50_seconds"} <= families
        assert result.stderr.splitlines()[-1] == "NOT complete: see above for what is missing"
        assert (
            "all of the history is empty; a search without filter and scope finds nothing either: check tempo.tenant "
            "(not set) and whether traces reach Tempo at all; tempo.filter (not set) and tempo.scope (entry) are not "
            "the cause"
        ) in result.stderr
        assert re.search(r"history: 0 windows read, [45] empty", result.stderr)
        assert "series: 0 (none), 0 still learning" in result.stderr
        assert list(directory.iterdir()) == []

    def test_fails_without_tempo(self, invoke: Invoke) -> None:
        with TempoServer(TraceStore([])) as gone:
            url = gone.url
        result = invoke("--once", TEMPO_URL=url, POLLING_BACKFILL_ENABLED="false")
        assert result.exit_code == 1
        assert "tempo_anomaly_tempo_up 0.0" in result.stdout
        assert result.stderr.splitlines()[-2:] == [
            "the current traffic could not be read; see the log above",
            "NOT complete: see above for what is missing",
        ]


class Recorder:
    """Wraps a configuration or a section and records which keys are read."""

    def __init__(self, model: BaseModel, path: tuple[str, ...], read: set[str]) -> None:
        self.__dict__.update(_model=model, _path=path, _read=read)

    def __getattr__(self, name: str) -> Any:
        model = self.__dict__["_model"]
        if name not in type(model).model_fields:
            # A property that is derived from keys, such as host and port of the listen address.
            return getattr(type(model), name).fget(self)
        path = (*self.__dict__["_path"], name)
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            return Recorder(value, path, self.__dict__["_read"])
        self.__dict__["_read"].add(".".join(path))
        return value


def test_run_uses_every_key_of_the_configuration(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[str] = set()
    monkeypatch.setattr(running, "load_config", lambda *sources: Recorder(load_config(*sources), (), read))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # With the address in use it ends by itself, after everything is built.
        result = invoke("run", WEB_LISTEN_ADDRESS=f"127.0.0.1:{taken.getsockname()[1]}", STORAGE_PATH="x.db")
    assert result.exit_code == 1
    assert "cannot listen" in result.stderr
    assert {key.dotted for key in KEYS.values()} <= read


@pytest.mark.parametrize("arguments", [("run",), ("--check-config",)])
def test_an_invalid_web_config_file_prevents_the_start(
    invoke: Invoke, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    web = tmp_path / "web.yml"
    web.write_text("basic_auth_user: {alice: x}\ntls_server_config: {cert_file: gone.crt, min_version: SSL3}\n")
    result = invoke(*arguments, WEB_CONFIG_FILE=str(web), STORAGE_PATH="x.db")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert f"web.config_file: 2 problems in {web}:" in result.stderr
    assert "did you mean basic_auth_users?" in result.stderr


@pytest.mark.parametrize(("alpha", "count"), [(0.001, 1), (0.0001, 0)])
def test_the_summary_lists_only_series_that_are_too_slow_to_be_chance(alpha: float, count: int) -> None:
    """An explanation exists as soon as a quantile has passed its gate, which a few slow requests may cause."""
    text = running.summary(PassResult(small_snapshot(), progress=None, polled=True), alpha)
    assert f"slower than usual at this moment (a flag fires once that lasts): {count}\n" in text
    assert text.count("chance 2e-04") == count


def test_the_summary_lists_failures_and_traffic() -> None:
    snapshot = small_snapshot()
    text = running.summary(PassResult(snapshot, progress=None, polled=True), 0.001)
    assert "failing more often than usual at this moment: 1\n" in text
    assert "  checkout 'GET /cart': 31 of the last 412 requests failed" in text
    assert "all endpoints together: 88 % of the usual traffic\n" in text
    assert "far from the usual traffic at this moment: 0\n" in text
    _, status, _ = snapshot.series
    assert status.current_traffic is not None
    verdict = status.current_traffic.verdict
    silent = verdict._replace(is_changed=True, persists=True, evidence=verdict.evidence._replace(requests=0))
    changed = replace(status, current_traffic=status.current_traffic._replace(verdict=silent))
    text = running.summary(PassResult(replace(snapshot, series=(changed,)), progress=None, polled=True), 0.001)
    assert "far from the usual traffic at this moment: 1\n  checkout 'GET /cart': no requests in 5 minutes" in text


def test_the_summary_counts_endpoints_that_a_mark_leaves_without_a_verdict() -> None:
    snapshot = small_snapshot()
    assert "marked" not in running.summary(PassResult(snapshot, progress=None, polled=True), 0.001)
    ranges = [
        MarkRange(NOON, NOON + HOUR, TimeMark(kind, Pattern("cart"), NOON, NOON + HOUR))
        for kind in (MarkKind.EXPECTED, MarkKind.INCIDENT)
    ]
    series = [replace(each, marks=(mark,)) for each, mark in zip(snapshot.series[:2], ranges, strict=True)]
    text = running.summary(PassResult(replace(snapshot, series=tuple(series)), progress=None, polled=True), 0.001)
    assert "marked as expected or normal, so without a verdict at this moment: 1\n" in text


@pytest.mark.parametrize("arguments", [("--once", "--check-config"), ("run", "--check-config", "--once")])
def test_once_and_check_config_exclude_each_other(invoke: Invoke, arguments: tuple[str, ...]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error: --once and --check-config exclude each other: choose one" in result.stderr
