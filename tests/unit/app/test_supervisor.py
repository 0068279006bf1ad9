import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from exporter.app.app import Exporter, ReadingChangedError
from exporter.app.supervisor import Supervisor
from exporter.config import Config
from exporter.detection.flag import Flag
from exporter.metrics.self_metrics import SelfMetrics
from exporter.runtime.logs import get_logger
from exporter.store import DatabaseInUseError, Store, StoreError, move_corrupt_database
from tests.support.samples import KEY, NOON, events
from tests.support.tempo_server import FakeTempo, fake_tempo
from tests.support.wsgi import ask

UP = Flag(firing=True, since=NOON - 60.0)


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


def test_flags_that_are_up_outlive_a_database(tempo: FakeTempo, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "history.db")
    exporter = Exporter(config(tempo, tmp_path), store, SelfMetrics(), flags={KEY: UP})
    assert exporter.flags() == {KEY: UP}
    exporter.close()
    with closing(Store.open(tmp_path / "history.db")) as again:
        assert list(again.flags()) == [KEY], "after a restart it would be forgotten"


def test_a_database_that_is_damaged_while_running(
    tempo: FakeTempo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = SelfMetrics()
    with closing(Store.open(tmp_path / "history.db")) as store:
        Exporter(config(tempo, tmp_path), store, metrics, flags={KEY: UP}).close()
    keeper = Supervisor(config(tempo, tmp_path), metrics, get_logger("main"))
    # As if a thread had found it; the file itself is whole, so nothing else happens meanwhile.
    keeper._notice_damage(keeper._generation)
    failures: list[BaseException] = []
    begun = threading.Event()
    put_together = keeper._put_together

    def noticed(flags: dict[object, Flag]) -> Exporter:
        exporter = put_together(flags)  # type: ignore[arg-type]
        begun.set()
        return exporter

    keeper._put_together = noticed  # type: ignore[method-assign,assignment]
    keeper.start(failures.append)
    assert begun.wait(30)
    assert ask(keeper, "/-/healthy").status == "200 OK"
    # What an old thread says of the old file, and a second damage so soon after the first, change nothing now.
    keeper._notice_damage(1)
    keeper._notice_damage(keeper._generation)
    keeper.close()
    keeper.close()
    assert failures == []
    assert len(copies(tmp_path)) == 1
    # Its poller may have begun to see calm; the flag itself is the one from before.
    ((key, flag),) = keeper._exporter.flags().items()
    assert (key, flag._replace(keep_firing_since=None)) == (KEY, UP)
    (told,) = events(caplog, logging.ERROR)
    assert told == "database_replaced"
    assert metrics.state is not None


def test_what_cannot_be_set_aside_ends_it(tempo: FakeTempo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Supervisor(config(tempo, tmp_path), SelfMetrics(), get_logger("main"))

    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    keeper._notice_damage(keeper._generation)
    failed = threading.Event()
    failures: list[BaseException] = []

    def fail(error: BaseException) -> None:
        failures.append(error)
        failed.set()

    keeper.start(fail)
    assert failed.wait(30)
    keeper.close()
    (error,) = failures
    assert isinstance(error, StoreError)
    assert "cannot be renamed: Permission denied" in str(error)
    assert (tmp_path / "history.db").exists()


def test_other_refusals_set_nothing_aside(tempo: FakeTempo, tmp_path: Path) -> None:
    with closing(Store.open(tmp_path / "history.db")) as store:
        Exporter(config(tempo, tmp_path), store, SelfMetrics()).close()
    with pytest.raises(ReadingChangedError):
        Supervisor(config(tempo, tmp_path, scope="entry"), SelfMetrics(), get_logger("main"))
    with closing(Store.open(tmp_path / "history.db")), pytest.raises(DatabaseInUseError):
        Supervisor(config(tempo, tmp_path), SelfMetrics(), get_logger("main"))
    assert copies(tmp_path) == []


def test_names_of_copies_are_never_used_twice(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "history.db").write_text(str(number))
        (tmp_path / "history.db-wal").write_text(f"log of {number}")
        move_corrupt_database(tmp_path / "history.db", NOON)
    found = copies(tmp_path)
    assert [file.read_text() for file in found] == ["0", "1", "2"]
    assert [file.with_name(f"{file.name}-wal").read_text() for file in found] == ["log of 0", "log of 1", "log of 2"]
    assert not (tmp_path / "history.db").exists()


def test_a_database_in_use_is_not_set_aside(tmp_path: Path) -> None:
    with closing(Store.open(tmp_path / "history.db")), pytest.raises(DatabaseInUseError):
        move_corrupt_database(tmp_path / "history.db", NOON)
    assert copies(tmp_path) == []


@pytest.mark.parametrize(
    "statement",
    ["UPDATE windows SET state = 'nonsense'", "UPDATE windows SET error = CAST(x'ff' AS TEXT)"],
)
def test_rows_that_make_no_sense_are_damage_as_well(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "history.db"
    Store.open(path).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute(
            "INSERT INTO windows (start, end, state, read_at, requests, splits, duration_seconds, attempts)"
            " VALUES (0, 3600, 'done', 0, 1, 0, 0, 0)"
        )
        other.execute(statement)
        other.commit()
    damage: list[bool] = []
    with closing(Store.open(path, on_damage=lambda: damage.append(True))) as store:
        with pytest.raises(StoreError) as refused:
            store.ledger(0, 3600)
        assert refused.value.reason == "corrupt"
        assert damage == [True]
