"""Renaming a damaged database, and what counts as damage."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from exporter.store import DatabaseInUseError, Store, StoreError, move_corrupt_database
from tests.support.samples import NOON


def copies(directory: Path) -> list[Path]:
    return sorted(file for file in directory.glob("*.corrupt-*") if not file.name.endswith(("-wal", "-shm")))


def test_every_copy_gets_a_name_of_its_own(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "history.db").write_text(str(number))
        (tmp_path / "history.db-wal").write_text(f"log of {number}")
        move_corrupt_database(tmp_path / "history.db", NOON)
    names = copies(tmp_path)
    assert [file.read_text() for file in names] == ["0", "1", "2"]
    assert [file.with_name(f"{file.name}-wal").read_text() for file in names] == ["log of 0", "log of 1", "log of 2"]
    assert not (tmp_path / "history.db").exists()


def test_a_database_in_use_is_not_renamed(tmp_path: Path) -> None:
    with closing(Store.open(tmp_path / "history.db")), pytest.raises(DatabaseInUseError):
        move_corrupt_database(tmp_path / "history.db", NOON)
    assert copies(tmp_path) == []


@pytest.mark.parametrize(
    "statement",
    ["UPDATE windows SET state = 'nonsense'", "UPDATE windows SET error = CAST(x'ff' AS TEXT)"],
)
def test_rows_that_cannot_be_decoded_are_damage(tmp_path: Path, statement: str) -> None:
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
