"""The supervisor: a damaged database is renamed, and the app continues on a new one."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from exporter.app.app import ReadingChangedError, build_app
from exporter.app.supervisor import Supervisor
from exporter.config import Config
from exporter.detection.flag import Flag, FlagKind
from exporter.metrics.self_metrics import SelfMetrics
from exporter.runtime.logs import get_logger
from exporter.runtime.telemetry import StorageFailure
from exporter.store import DatabaseInUseError, Store, StoreError
from tests.support.samples import KEY, NOON, commit_hour, events
from tests.support.tempo_server import FakeTempo, fake_tempo
from tests.support.wsgi import ask

FIRING = Flag(firing=True, since=NOON - 60.0)
DEADLINE_SECONDS = 30


@pytest.fixture
def tempo() -> Iterator[FakeTempo]:
    with fake_tempo() as tempo:
        yield tempo


def config(tempo: FakeTempo, directory: Path, scope: str = "root") -> Config:
    return Config.model_validate(
        {"tempo": {"url": tempo.url, "scope": scope}, "storage": {"path": str(directory / "history.db")}}
    )


def copies(directory: Path) -> list[Path]:
    return sorted(file for file in directory.glob("*.corrupt-*") if not file.name.endswith(("-wal", "-shm")))


class Disk:
    """Opens real databases, and reports damage to one of them when a test says so."""

    def __init__(self) -> None:
        self.reports: list[Callable[[], None]] = []

    def open(self, path: Path, *, on_failure: Callable[[StorageFailure], None], on_damage: Callable[[], None]) -> Store:
        store = Store.open(path, on_failure=on_failure, on_damage=on_damage)
        self.reports.append(on_damage)
        return store

    def damage(self, number: int) -> None:
        """Report damage to the database that was opened at this position."""
        self.reports[number]()

    def wait_for(self, number: int) -> None:
        """Wait until so many databases were opened."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while len(self.reports) < number:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_database_that_is_damaged_while_running_is_replaced_once(
    tempo: FakeTempo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Store.open(tmp_path / "history.db")) as store:
        before = build_app(config(tempo, tmp_path), store, SelfMetrics(), flags={KEY: {FlagKind.SHIFT: FIRING}})
        before.save_flags()
        before.close()
    disk, metrics = Disk(), SelfMetrics()
    failures: list[BaseException] = []
    supervisor = Supervisor(config(tempo, tmp_path), metrics, get_logger("main"), open_store=disk.open)
    damaged_app = supervisor.app
    disk.damage(0)
    supervisor.start(failures.append)
    disk.wait_for(2)
    assert ask(supervisor, "/-/healthy").status == "200 OK"
    # Another report about the old file, and damage to the new file soon after the first replacement.
    disk.damage(0)
    disk.damage(1)
    supervisor.close()
    supervisor.close()
    assert failures == []
    assert len(disk.reports) == 2
    assert len(copies(tmp_path)) == 1
    assert supervisor.app is not damaged_app
    # The poller may have begun to count how long the shift is gone; apart from that it is the flag from before.
    ((key, flag),) = supervisor.app.flags().items()
    assert (key, flag[FlagKind.SHIFT]._replace(keep_firing_since=None)) == (KEY, FIRING)
    assert events(caplog, logging.ERROR) == ["database_replaced"]
    assert metrics.state is not None
    with closing(Store.open(tmp_path / "history.db")) as fresh:
        assert list(fresh.flags()) == [KEY]


def test_a_database_that_is_damaged_at_the_start_is_replaced(tempo: FakeTempo, tmp_path: Path) -> None:
    Store.open(tmp_path / "history.db").close()
    (tmp_path / "history.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 8192)
    supervisor = Supervisor(config(tempo, tmp_path), SelfMetrics(), get_logger("main"))
    supervisor.close()
    assert len(copies(tmp_path)) == 1


def test_a_damaged_database_that_cannot_be_renamed_is_reported(
    tempo: FakeTempo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk()
    supervisor = Supervisor(config(tempo, tmp_path), SelfMetrics(), get_logger("main"), open_store=disk.open)

    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    disk.damage(0)
    failed = threading.Event()
    failures: list[BaseException] = []

    def on_failure(error: BaseException) -> None:
        failures.append(error)
        failed.set()

    supervisor.start(on_failure)
    assert failed.wait(DEADLINE_SECONDS)
    supervisor.close()
    (error,) = failures
    assert isinstance(error, StoreError)
    assert "Permission denied" in str(error)
    assert (tmp_path / "history.db").exists()


def test_other_errors_at_the_start_rename_nothing(tempo: FakeTempo, tmp_path: Path) -> None:
    with closing(Store.open(tmp_path / "history.db")) as store:
        app = build_app(config(tempo, tmp_path), store, SelfMetrics())
        commit_hour(store, NOON, {KEY: [0.1]})
        app.close()
    with pytest.raises(ReadingChangedError):
        Supervisor(config(tempo, tmp_path, scope="entry"), SelfMetrics(), get_logger("main"))
    with closing(Store.open(tmp_path / "history.db")), pytest.raises(DatabaseInUseError):
        Supervisor(config(tempo, tmp_path), SelfMetrics(), get_logger("main"))
    assert copies(tmp_path) == []


def test_close_is_safe_before_start(tempo: FakeTempo, tmp_path: Path) -> None:
    supervisor = Supervisor(config(tempo, tmp_path), SelfMetrics(), get_logger("main"))
    supervisor.close()
    Store.open(tmp_path / "history.db").close()
