import logging
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel

from exporter import __version__
from exporter.app.app import PassResult
from exporter.cli import run as running
from exporter.cli.main import main
from exporter.config import Config, load_config
from exporter.config.keys import KEYS
from exporter.demo.tempo_api import TempoServer
from exporter.demo.traces import TraceStore
from exporter.store import Store
from tests.support.samples import small_snapshot

Invoke = Callable[..., Result]


@pytest.fixture(autouse=True)
def _as_before(clean_environment: None) -> Iterator[None]:
    """Leaves logging, signals and the environment of the tests as they were."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    for number, handler in signals.items():
        signal.signal(number, handler)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the command."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def invoke(directory: Path) -> Invoke:
    """Runs the command line, in a directory of its own."""

    def run(*arguments: str, **environment: str) -> Result:
        return CliRunner().invoke(main, arguments, prog_name="tempo-anomaly-exporter", env=environment)

    return run


def write(directory: Path, name: str = "c.yaml", **sections: object) -> str:
    """A configuration file; its name."""
    (directory / name).write_text(yaml.safe_dump(sections))
    return name


class TestHelp:
    @pytest.mark.parametrize("option", ["--help", "-h"])
    def test_it_lists_the_commands_and_the_options_of_the_exporter_itself(self, invoke: Invoke, option: str) -> None:
        result = invoke(option)
        assert result.exit_code == 0
        assert {"run", "demo"} <= set(main.commands)
        for name in (*main.commands, "--config", "--log-level", "--version", "--once", "--check-config"):
            assert name in result.output

    @pytest.mark.parametrize("command", [[], *([name] for name in main.commands)])
    def test_every_command_says_what_it_does_and_which_version_it_is(self, invoke: Invoke, command: list[str]) -> None:
        helped = invoke(*command, "--help")
        assert helped.exit_code == 0
        for option in ("--config", "--log-level", "--version", "--help"):
            assert option in helped.output
        version = invoke(*command, "--version")
        assert (version.exit_code, version.output) == (0, f"tempo-anomaly-exporter, version {__version__}\n")


class TestCheckConfig:
    def test_it_prints_the_configuration_in_force(self, invoke: Invoke) -> None:
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

    def test_all_that_is_wrong_is_said_at_once(self, invoke: Invoke, directory: Path) -> None:
        file = write(directory, tempo={"ulr": "x"}, polling={"settle": "soon"})
        result = invoke("--config", file, "--check-config", STATS_K="many")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "3 problems in the configuration" in result.stderr
        for problem in ("tempo.ulr", "did you mean tempo.url?", "polling.settle", "stats.k"):
            assert problem in result.stderr
        assert "Traceback" not in result.output

    def test_a_file_that_is_not_there(self, invoke: Invoke) -> None:
        result = invoke("--config", "nowhere.yaml", "--check-config")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "nowhere.yaml" in result.stderr

    def test_nothing_is_started(self, invoke: Invoke, directory: Path) -> None:
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
    def test_they_may_stand_before_and_after_the_command(
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
    def test_what_makes_no_sense_is_refused(self, invoke: Invoke, arguments: list[str]) -> None:
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert "Error: " in result.stderr
        assert "Traceback" not in result.output

    @pytest.mark.parametrize(
        ("arguments", "level"),
        [([], "WARNING"), (["--log-level", "error"], "ERROR"), (["--log-level", "error", "run", "--log-level", "debug"],
                                                                "DEBUG")],
    )  # fmt: skip
    def test_the_log_level_of_the_command_line_counts(
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
    def test_mistakes(self, invoke: Invoke, arguments: tuple[str, ...], message: str) -> None:
        result = invoke("demo", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr


class TestRun:
    def test_an_address_in_use(self, invoke: Invoke, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            result = invoke(WEB_LISTEN_ADDRESS=address, LOG_LEVEL="error")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.endswith(
            f"cannot listen on {address}: Address already in use; set web.listen_address to a free port of an address "
            "of this machine\n"
        )

    def test_a_host_that_is_unknown(self, invoke: Invoke) -> None:
        result = invoke(WEB_LISTEN_ADDRESS="no-such-host.invalid:0", LOG_LEVEL="error")
        assert result.exit_code == 1
        assert "cannot listen on no-such-host.invalid:0: " in result.stderr

    def test_a_database_in_use(self, invoke: Invoke, directory: Path) -> None:
        store = Store.open(directory / "x.db")
        result = invoke(STORAGE_PATH="x.db", LOG_LEVEL="error")
        store.close()
        assert (result.exit_code, result.stdout) == (1, "")
        assert "x.db is in use by another exporter" in result.stderr

    def test_a_database_that_cannot_be_made(self, invoke: Invoke, directory: Path) -> None:
        (directory / "file").touch()
        result = invoke(STORAGE_PATH="file/x.db", LOG_LEVEL="error")
        assert result.exit_code == 1
        assert "file/x.db" in result.stderr
        assert "Traceback" not in result.output

    def test_a_history_that_was_read_with_something_else(self, invoke: Invoke, directory: Path) -> None:
        store = Store.open(directory / "x.db")
        store.describe_reading("tempo.scope=entry tempo.tenant='' tempo.filter=''")
        store.close()
        result = invoke(STORAGE_PATH="x.db", LOG_LEVEL="error")
        assert result.exit_code == 2
        assert "was read with tempo.scope=entry" in result.stderr
        Store.open(directory / "x.db").close()


class TestOnce:
    def test_the_page_goes_to_stdout_and_what_it_came_to_to_stderr(self, invoke: Invoke, directory: Path) -> None:
        with TempoServer(TraceStore([])) as tempo:
            result = invoke(
                "--once", TEMPO_URL=tempo.url, TEMPO_REQUESTS_PER_SECOND="1000", POLLING_BACKFILL_DURATION="5h"
            )
        assert result.exit_code == 0
        families = {family.name for family in text_string_to_metric_families(result.stdout)}
        assert {"tempo_anomaly_backfill_complete", "tempo_anomaly_baseline_p50_seconds"} <= families
        assert result.stderr.splitlines()[-1] == "complete"
        assert re.search(r"history: 0 windows read, [45] empty", result.stderr)
        assert "series: 0 (none), 0 still learning" in result.stderr
        assert list(directory.iterdir()) == []

    def test_without_tempo_it_fails_and_says_so(self, invoke: Invoke) -> None:
        with TempoServer(TraceStore([])) as gone:
            url = gone.url
        result = invoke("--once", TEMPO_URL=url, POLLING_BACKFILL_ENABLED="false")
        assert result.exit_code == 1
        assert "tempo_anomaly_tempo_up 0.0" in result.stdout
        assert result.stderr.splitlines()[-2:] == [
            "the current traffic could not be read; the log above says why",
            "NOT complete: what is missing stands above",
        ]


class Recorder:
    """Stands for a configuration, or a section of it, and remembers which keys were read."""

    def __init__(self, model: BaseModel, path: tuple[str, ...], read: set[str]) -> None:
        self.__dict__.update(_model=model, _path=path, _read=read)

    def __getattr__(self, name: str) -> Any:
        model = self.__dict__["_model"]
        if name not in type(model).model_fields:
            # Worked out from keys, such as host and port from the address: it is they that are read.
            return getattr(type(model), name).fget(self)
        path = (*self.__dict__["_path"], name)
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            return Recorder(value, path, self.__dict__["_read"])
        self.__dict__["_read"].add(".".join(path))
        return value


def test_every_key_of_the_configuration_is_used(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[str] = set()
    monkeypatch.setattr(running, "load_config", lambda *sources: Recorder(load_config(*sources), (), read))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # So it ends by itself, after everything was put together.
        result = invoke("run", WEB_LISTEN_ADDRESS=f"127.0.0.1:{taken.getsockname()[1]}", STORAGE_PATH="x.db")
    assert result.exit_code == 1
    assert "cannot listen" in result.stderr
    assert {key.dotted for key in KEYS.values()} <= read


@pytest.mark.parametrize("arguments", [("run",), ("--check-config",)])
def test_it_does_not_serve_openly_what_was_to_be_served_with_passwords(
    invoke: Invoke, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    web = tmp_path / "web.yml"
    web.write_text("basic_auth_user: {alice: x}\ntls_server_config: {cert_file: gone.crt, min_version: SSL3}\n")
    result = invoke(*arguments, WEB_CONFIG_FILE=str(web), STORAGE_PATH="x.db")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert f"web.config_file: 2 problems in {web}:" in result.stderr
    assert "did you mean basic_auth_users?" in result.stderr


@pytest.mark.parametrize(("alpha", "told"), [(0.001, 1), (0.0001, 0)])
def test_a_pass_tells_of_what_is_too_slow_to_be_chance_and_of_nothing_else(alpha: float, told: int) -> None:
    """An explanation is there as soon as a quantile has passed its gate, which a few slow requests may do."""
    result = PassResult(small_snapshot(), progress=None, polled=True)
    said = running.summary(result, alpha)
    assert f"slower than usual at this moment (a flag rises once that lasts): {told}\n" in said
    assert said.count("chance 2e-04") == told
