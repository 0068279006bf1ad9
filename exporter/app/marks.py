"""Marks on time: from the configuration, its marks file and requests to the API."""

import json
import math
from collections.abc import Callable, Iterable
from datetime import tzinfo
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from exporter.app.settings import label_names
from exporter.config import Config, ConfigError
from exporter.config.load import load_marks, validate_mark
from exporter.config.problem import dotted
from exporter.config.schema import MarkSettings
from exporter.evaluation.silences import read_silences
from exporter.evaluation.time_marks import MarkTelemetry, TimeMarkRegistry, stored_marks
from exporter.model.pattern import Pattern
from exporter.model.time_mark import MarkKind, MarkSource, TimeMark, TimeMarks
from exporter.runtime.logs import get_logger
from exporter.store import Store
from exporter.web.api.parameters import BadParametersError, ParameterError

ENDPOINT_ALERTS: Final = (
    "TempoAnomalyLatencyShift",
    "TempoAnomalyLatencyShiftSevere",
    "TempoAnomalyServiceLatencyShift",
    "TempoAnomalyServiceLatencyShiftSevere",
)
"""A silence may name one of these alerts; one of another alert, such as that on regressions, is about less."""


def configured_marks(config: Config) -> list[TimeMark]:
    """Return the marks of the configuration, without those of its marks file."""
    return time_marks(config.marks, ZoneInfo(config.timezone))


def time_marks(
    settings: Iterable[MarkSettings], zone: tzinfo, source: MarkSource = MarkSource.CONFIGURATION
) -> list[TimeMark]:
    """Translate marks; those without a UTC offset are local."""
    marks = []
    for each in settings:
        since, until = each.instants(zone)
        marks.append(
            TimeMark(
                MarkKind(each.kind),
                Pattern(each.match),
                math.floor(since.timestamp()),
                math.ceil(until.timestamp()),
                zone,
                each.rrule,
                each.comment,
                source,
            )
        )
    return marks


def marks_of_file(path: Path, zone: tzinfo) -> list[TimeMark]:
    """Read a marks file.

    Raises:
        ConfigError: it is invalid; the message lists all errors.
    """
    return time_marks(load_marks(path, zone), zone, MarkSource.FILE)


def marks_file_problems(config: Config) -> tuple[str, ...]:
    """Return what is wrong with the marks file, each with the key or its place in the file."""
    if config.marks_file is None:
        return ()
    try:
        marks_of_file(config.marks_file, ZoneInfo(config.timezone))
    except ConfigError as error:
        # Of a file that cannot be read, the path alone would not say what wants it.
        return tuple(
            f"marks_file {each}" if each.startswith(str(config.marks_file)) else each for each in error.problems
        )
    return ()


def mark_of_json(body: bytes, zone: tzinfo) -> TimeMark:
    """Read a mark from the body of a request: an object with the keys of an item of ``marks``.

    Raises:
        BadParametersError: it is none.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise BadParametersError([ParameterError("body", "must be a JSON object with match, from, to and as")])
    settings, problems = validate_mark(document, zone)
    if settings is None or problems:
        raise BadParametersError([ParameterError(dotted(each.path), each.text) for each in problems])
    (mark,) = time_marks([settings], zone, MarkSource.API)
    return mark


def marks_for_command(config: Config, store: Store | None) -> TimeMarks:
    """Return the marks of the configuration, its marks file and the history, for a command that reads history.

    Raises:
        ConfigError: the marks file is invalid.
        StoreError: the history cannot be read.
    """
    zone = ZoneInfo(config.timezone)
    of_file = [] if config.marks_file is None else marks_of_file(config.marks_file, zone)
    return TimeMarks([*configured_marks(config), *of_file, *([] if store is None else stored_marks(store))])


def build_registry(
    config: Config,
    store: Store,
    *,
    on_change: Callable[[], None],
    telemetry: MarkTelemetry,
    clock: Callable[[], float],
    monotonic: Callable[[], float],
) -> TimeMarkRegistry:
    """Build the registry of all marks.

    Raises:
        StoreError: the store cannot be read.
    """
    zone = ZoneInfo(config.timezone)
    alertmanager = config.alertmanager
    silences = read_silences(
        alertmanager.url, alertmanager.timeout.total_seconds(), label_names(config).names, ENDPOINT_ALERTS
    )
    return TimeMarkRegistry(
        store,
        configured=configured_marks(config),
        file=config.marks_file,
        load_file=lambda path: marks_of_file(path, zone),
        read_silences=silences if alertmanager.url else None,
        silence_seconds=alertmanager.interval.total_seconds(),
        on_change=on_change,
        telemetry=telemetry,
        clock=clock,
        monotonic=monotonic,
        log=get_logger("marks"),
    )
