"""Databases as an older version of the exporter wrote them."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlite_utils import Database

from exporter.store.schema import MIGRATIONS


def make_older(path: Path, version: int) -> None:
    """Replace a closed database by one with the schema of an older version and what of the content that can hold.

    Args:
        path: the database of the present version.
        version: how many migrations the older version had applied.
    """
    older = path.with_name(path.name + ".older")
    with closing(sqlite3.connect(older)) as raw:
        (application,), (vacuum,) = _pragmas(path)
        raw.execute(f"PRAGMA auto_vacuum = {vacuum}")
        raw.execute(f"PRAGMA application_id = {application}")
        for migrate in MIGRATIONS[:version]:
            migrate(Database(raw))
        raw.execute(f"PRAGMA user_version = {version}")
        raw.commit()
        raw.execute("ATTACH ? AS newer", (str(path),))
        for table in _tables(raw, "main") & _tables(raw, "newer"):
            names = ", ".join(sorted(_columns(raw, "main", table) & _columns(raw, "newer", table)))
            raw.execute(f"DELETE FROM main.{table}")
            raw.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM newer.{table}")
        raw.commit()
    older.replace(path)


def _pragmas(path: Path) -> list[tuple[int]]:
    with closing(sqlite3.connect(path)) as raw:
        return [raw.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "auto_vacuum")]


def _tables(raw: sqlite3.Connection, schema: str) -> set[str]:
    found = raw.execute(f"SELECT name FROM {schema}.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return {name for (name,) in found}


def _columns(raw: sqlite3.Connection, schema: str, table: str) -> set[str]:
    return {name for _, name, *_ in raw.execute(f"PRAGMA {schema}.table_info({table})")}
