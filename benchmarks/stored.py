"""A week of judged history, and a real exporter that is started on it as after a restart."""

import math
import shutil
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from benchmarks.context import Context, in_child
from benchmarks.history import JudgeCost, judge, turn, write_history
from benchmarks.machine import Memory
from benchmarks.running import RunningExporter
from benchmarks.scrape import HEADERS
from benchmarks.source import Source
from benchmarks.traffic import Traffic, series_key

_T = TypeVar("_T")

_TRACES_PER_SECOND: Final = 1 / 30
"""Of every series: ten in an evaluation window of five minutes."""
_BEFORE_SECONDS: Final = 330
_AFTER_SECONDS: Final = 150
_ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class JudgedHistory:
    """A database that an exporter would have left behind after a week.

    Attributes:
        path: the database; to be copied, not written to.
        judged_series: how many series were judged; the others are copies of them under other names.
        judging: what judging them has cost, and working out the first book.
        turn: what judging one more hour of all series has cost, and working out the next book.
    """

    path: Path
    judged_series: int
    judging: JudgeCost
    turn: JudgeCost


class Start(NamedTuple):
    """The way to the first snapshot, and to what is usual, in seconds.

    Attributes:
        wall: how long the first snapshot took.
        poll: how much of that went by in reading the live edge.
        cpu: the processor time of the process by then.
        known: how long it took until there was a snapshot with baselines.
    """

    wall: float
    poll: float
    cpu: float
    known: float


@dataclass(frozen=True, slots=True)
class Restarted:
    """What was seen of an exporter that was started on such a database.

    Attributes:
        start: its way to the first snapshot.
        anew: that of another one, which had to work out the book of the hour, its settings being changed.
        history_searches: how often it had searched for history in the end.
        fresh: its memory before the first scrape.
        settled: its memory after some cycles and some scrapes in every format.
    """

    start: Start
    anew: Start
    history_searches: float
    fresh: Memory
    settled: Memory


def judged_history(context: Context, series: int) -> JudgedHistory:
    """Make the database."""
    judged, judging = context.once(_judged, min(series, context.judged_series))
    path = context.folder / f"history-{series}.db"
    shutil.copyfile(judged, path)
    _multiply(path, context.judged_series, series)
    return JudgedHistory(path, min(series, context.judged_series), judging, in_child(turn, path))


def _judged(context: Context, series: int) -> tuple[Path, JudgeCost]:
    """A database in which all but the last hour is judged."""
    path = context.folder / f"judged-{series}.db"
    in_child(write_history, path, series)
    return path, in_child(judge, path)


def long_history(context: Context, series: int) -> tuple[int, JudgeCost]:
    """How many days are kept, and what the turn of an hour costs with so much history of some series."""
    path = context.folder / "long.db"
    in_child(write_history, path, series, context.kept_days)
    in_child(judge, path)
    cost = in_child(turn, path)
    path.unlink()
    return context.kept_days, cost


def _multiply(path: Path, judged: int, series: int) -> None:
    """Copy all that is stored of the first series to further ones."""
    connection = sqlite3.connect(path)
    for first in range(judged, series, judged):
        names = [(number + 1, *series_key(number)) for number in range(first, min(first + judged, series))]
        connection.executemany("INSERT INTO series (id, service_name, span_name) VALUES (?, ?, ?)", names)
        for table in ("digests", "judgements", "states"):
            columns = [column[1] for column in connection.execute(f"PRAGMA table_info({table})")]
            selected = ", ".join("series_id + :shift" if column == "series_id" else column for column in columns)
            connection.execute(
                f"INSERT INTO {table} SELECT {selected} FROM {table} WHERE series_id <= :most",
                {"shift": first, "most": min(judged, series - first)},
            )
        connection.commit()
    connection.close()


def restarted(context: Context, series: int) -> Restarted:
    """Start an exporter on copies of the database, with traffic in every series for a few minutes."""
    history = context.once(judged_history, series)
    polling = {
        # Nothing new settles meanwhile: every search for history is one for something that was read before.
        "settle": "2h",
        "tempo_interval": f"{context.poll_seconds}s",
    }
    anew = _traced(context, history, series, {"polling": polling, "detection": {"ratio": 1.5}}, _started)
    return _traced(context, history, series, {"polling": polling}, lambda exporter: _observed(exporter, anew))


def _traced(
    context: Context,
    history: JudgedHistory,
    series: int,
    settings: Mapping[str, Mapping[str, Any]],
    look: Callable[[RunningExporter], _T],
) -> _T:
    """Start an exporter on a copy of a database, with traffic, and look at it."""
    database = context.folder / f"restarted-{series}.db"
    shutil.copyfile(history.path, database)
    now = int(time.time())
    start, end = now - _BEFORE_SECONDS, now + _AFTER_SECONDS
    traces = int(series * _TRACES_PER_SECOND * (end - start))
    with (
        Source(Traffic(traces, start, end, series, even=True), live=True) as source,
        RunningExporter(context.folder, source.url, database, settings) as exporter,
    ):
        seen = look(exporter)
    database.unlink()
    return seen


def _started(exporter: RunningExporter) -> Start:
    wall = exporter.wait_until(exporter.is_ready)
    cpu = exporter.cpu_seconds
    poll = exporter.value("poll_duration_seconds")
    known = exporter.wait_until(lambda: exporter.value("series_learning") is not None)
    return Start(wall, math.nan if poll is None else poll, cpu, known)


def _observed(exporter: RunningExporter, anew: Start) -> Restarted:
    start = _started(exporter)
    fresh = exporter.memory
    for _ in range(_ROUNDS):
        for headers in HEADERS.values():
            exporter.client.get("/metrics", headers)
        _wait_for_poll(exporter)
    searches = exporter.value('tempo_requests_total{loop="backfill"}')
    return Restarted(start, anew, math.nan if searches is None else searches, fresh, exporter.memory)


def _wait_for_poll(exporter: RunningExporter) -> None:
    last = exporter.value("poll_last_success_timestamp_seconds")
    exporter.wait_until(lambda: exporter.value("poll_last_success_timestamp_seconds") != last, 0.5)
