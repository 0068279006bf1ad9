"""A database with a week of evaluated history, and the restart of an exporter on it."""

import math
import shutil
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from benchmarks.context import Context, in_child
from benchmarks.exporter_process import Client, ExporterProcess
from benchmarks.history import EvaluationCost, evaluate_history, evaluate_next_hour, write_history
from benchmarks.machine import Memory
from benchmarks.scrape import HEADERS
from benchmarks.tempo_source import TempoSource
from benchmarks.traffic import Traffic, series_key
from exporter.model.label import DEFAULT_LABEL_NAMES
from exporter.web.pages import links

_T = TypeVar("_T")

_TRACES_PER_SECOND: Final = 1 / 30
"""For each series: ten in an evaluation window of five minutes."""
_BEFORE_SECONDS: Final = 330
_AFTER_SECONDS: Final = 150
_ROUNDS: Final = 3
_VISITED_PAGES: Final = 40


@dataclass(frozen=True, slots=True)
class EvaluatedDatabase:
    """A database as an exporter leaves it after a week.

    Attributes:
        path: the database; copy it before writing to it.
        evaluated_series: series whose history was evaluated; the others are copies of them.
        first_cost: cost of evaluating them and building the first baseline table.
        hour_cost: cost of evaluating one more hour of all series and building the next table.
    """

    path: Path
    evaluated_series: int
    first_cost: EvaluationCost
    hour_cost: EvaluationCost


class StartTimes(NamedTuple):
    """Seconds that an exporter took after its start.

    Attributes:
        wall: until the first snapshot.
        poll: the part of it spent on reading the live edge.
        cpu: processor time of the process until the first snapshot.
        baselines: until a snapshot had baselines.
    """

    wall: float
    poll: float
    cpu: float
    baselines: float


@dataclass(frozen=True, slots=True)
class Restart:
    """Measurements of an exporter started on a copy of the database.

    Attributes:
        start: times of a start with the stored baseline table.
        reconfigured: times of a start with other settings, which has to build the table.
        history_searches: searches for history until the end of the measurement.
        fresh: memory before the first scrape.
        warm: memory after several poll cycles and scrapes in every format.
        pages: times of pages and scrapes.
    """

    start: StartTimes
    reconfigured: StartTimes
    history_searches: float
    fresh: Memory
    warm: Memory
    pages: "PageTimes"


class PageTimes(NamedTuple):
    """Seconds that responses took.

    Attributes:
        week: pages of endpoints with seven days of their past, each visited for the first time in this hour.
        week_cpu: processor time of the exporter for each of them, with that of poll cycles meanwhile.
        week_again: the same pages once more.
        day: the same with 24 hours.
        api: their timelines of seven days from the API.
        scrapes: scrapes while such pages are loaded without a pause.
    """

    week: Sequence[float]
    week_cpu: float
    week_again: Sequence[float]
    day: Sequence[float]
    api: Sequence[float]
    scrapes: Sequence[float]


def evaluated_database(context: Context, series: int) -> EvaluatedDatabase:
    """Prepare the database."""
    evaluated, first_cost = context.once(_evaluated, min(series, context.evaluated_series))
    path = context.folder / f"history-{series}.db"
    shutil.copyfile(evaluated, path)
    _multiply(path, context.evaluated_series, series)
    hour_cost = in_child(evaluate_next_hour, path)
    return EvaluatedDatabase(path, min(series, context.evaluated_series), first_cost, hour_cost)


def _evaluated(context: Context, series: int) -> tuple[Path, EvaluationCost]:
    """Prepare a database in which all but the last hour is evaluated."""
    path = context.folder / f"evaluated-{series}.db"
    in_child(write_history, path, series)
    return path, in_child(evaluate_history, path)


def measure_long_history(context: Context, series: int) -> tuple[int, EvaluationCost]:
    """Return the days of history kept, and the cost of one more hour with that much history."""
    path = context.folder / "long.db"
    in_child(write_history, path, series, context.kept_days)
    in_child(evaluate_history, path)
    cost = in_child(evaluate_next_hour, path)
    path.unlink()
    return context.kept_days, cost


def _multiply(path: Path, evaluated: int, series: int) -> None:
    """Copy everything stored for the evaluated series to further series."""
    connection = sqlite3.connect(path)
    for first in range(evaluated, series, evaluated):
        names = [(number + 1, *series_key(number)[:2]) for number in range(first, min(first + evaluated, series))]
        connection.executemany("INSERT INTO series (id, service_name, span_name) VALUES (?, ?, ?)", names)
        for table in ("digests", "judgements", "states"):
            columns = [column[1] for column in connection.execute(f"PRAGMA table_info({table})")]
            selected = ", ".join("series_id + :shift" if column == "series_id" else column for column in columns)
            connection.execute(
                f"INSERT INTO {table} SELECT {selected} FROM {table} WHERE series_id <= :most",
                {"shift": first, "most": min(evaluated, series - first)},
            )
        connection.commit()
    connection.close()


def measure_restart(context: Context, series: int) -> Restart:
    """Start exporters on copies of the database, with traffic in every series for a few minutes."""
    database = context.once(evaluated_database, series)
    polling = {
        # Nothing new settles during the measurement: every search for history is for a window read before.
        "settle": "2h",
        "tempo_interval": f"{context.poll_seconds}s",
    }
    changed: Mapping[str, Mapping[str, Any]] = {"polling": polling, "detection": {"ratio": 1.5}}
    reconfigured = _measure(context, database, series, changed, _start_times)

    def measure(exporter: ExporterProcess) -> Restart:
        return _restart(exporter, reconfigured, series)

    return _measure(context, database, series, {"polling": polling}, measure)


def _measure(
    context: Context,
    database: EvaluatedDatabase,
    series: int,
    settings: Mapping[str, Mapping[str, Any]],
    measure: Callable[[ExporterProcess], _T],
) -> _T:
    """Start an exporter on a copy of the database, with traffic, and measure it."""
    copy = context.folder / f"restarted-{series}.db"
    shutil.copyfile(database.path, copy)
    now = int(time.time())
    start, end = now - _BEFORE_SECONDS, now + _AFTER_SECONDS
    traces = int(series * _TRACES_PER_SECOND * (end - start))
    with (
        TempoSource(Traffic(traces, start, end, series, even=True), live=True) as source,
        ExporterProcess(context.folder, source.url, copy, settings) as exporter,
    ):
        measured = measure(exporter)
    copy.unlink()
    return measured


def _start_times(exporter: ExporterProcess) -> StartTimes:
    wall = exporter.wait_until(exporter.is_ready)
    cpu = exporter.cpu_seconds
    poll = exporter.value("poll_duration_seconds")
    baselines = exporter.wait_until(lambda: exporter.value("series_learning") is not None)
    return StartTimes(wall, math.nan if poll is None else poll, cpu, baselines)


def _restart(exporter: ExporterProcess, reconfigured: StartTimes, series: int) -> Restart:
    start = _start_times(exporter)
    fresh = exporter.memory
    for _ in range(_ROUNDS):
        for headers in HEADERS.values():
            exporter.client.get("/metrics", headers)
        _wait_for_poll(exporter)
    searches = exporter.value('tempo_requests_total{loop="backfill"}')
    warm = exporter.memory
    pages = _page_times(exporter, series)
    return Restart(start, reconfigured, math.nan if searches is None else searches, fresh, warm, pages)


def _page_times(exporter: ExporterProcess, series: int) -> PageTimes:
    keys = [series_key(number) for number in range(min(series, _VISITED_PAGES))]

    def visit(page: str, range_name: str) -> list[float]:
        urls = (links.past_url(page, key, DEFAULT_LABEL_NAMES, range_name) for key in keys)
        responses = [exporter.client.get(f"/{url}") for url in urls]
        if any(response.status != HTTPStatus.OK for response in responses):
            raise RuntimeError(f"a response is not a page: {[response.status for response in responses]}")
        return [response.seconds for response in responses]

    cpu = exporter.cpu_seconds
    week = visit(links.ENDPOINT, "7d")
    week_cpu = (exporter.cpu_seconds - cpu) / len(keys)
    week_again, day = (visit(links.ENDPOINT, name) for name in ("7d", "24h"))
    api = visit(links.TIMELINE_API, "7d")
    scrapes: list[float] = []
    with closing(Client(exporter.port)) as scraper, ThreadPoolExecutor(1) as pool:
        visits = pool.submit(visit, links.ENDPOINT, "7d")
        while not visits.done():
            scrapes.append(scraper.get("/metrics", HEADERS["OpenMetrics, gzip"]).seconds)
        visits.result()
    return PageTimes(week, week_cpu, week_again, day, api, scrapes)


def _wait_for_poll(exporter: ExporterProcess) -> None:
    last = exporter.value("poll_last_success_timestamp_seconds")
    exporter.wait_until(lambda: exporter.value("poll_last_success_timestamp_seconds") != last, 0.5)
