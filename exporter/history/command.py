"""The command: parses its options, writes the history, and prints a summary."""

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO, Final
from zoneinfo import ZoneInfo

import click

from exporter.config import Config, ConfigError, build_calendar, load_config
from exporter.config.units import parse_duration
from exporter.config.wording import shown
from exporter.explain.inputs import parse_instant
from exporter.history.range import IncompleteHistoryError, NothingToWriteError
from exporter.history.write import ExportOptions, HistoryExport, atomic_file, write_history
from exporter.metrics.timed_exposition import OWN_LABELS
from exporter.model.calendar import HOUR_SECONDS, Calendar
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.runtime import logs
from exporter.runtime.exits import EXIT_FAILED, EXIT_USAGE, failed
from exporter.runtime.signals import interruptible
from exporter.store import DatabaseVersionError, StoreError

DEFAULT_JOB: Final = "tempo-anomaly-exporter"
_LABEL: Final = re.compile("[a-zA-Z_][a-zA-Z0-9_]*")
_EVERY_INTERFACE: Final = ("", "0.0.0.0", "::")  # noqa: S104 - not bound here
_SHOWN: Final = 5


class UsageError(Exception):
    """An option is invalid; the message says which and why."""


def run_command(
    config_file: Path | None,
    log_level: str | None,
    *,
    output: Path | None,
    since: str | None,
    until: str | None,
    step: str,
    labels: Sequence[str],
    incomplete: bool,
) -> int:
    """Run the command.

    Args:
        config_file: the configuration file.
        log_level: overrides the configured level.
        output: output file; None means standard output.
        since: start of the range.
        until: end of the range.
        step: time between samples, as a duration.
        labels: labels to add, ``name=value`` each.
        incomplete: write the history even if some of it is not read yet.

    Returns:
        The exit status: 0, 1 if nothing was written or not all of it, 2 for invalid options.
    """
    try:
        config = load_config(config_file, os.environ)
        zone = ZoneInfo(config.timezone)
        options = ExportOptions(
            target_labels=target_labels(labels, config),
            since=None if since is None else instant("--since", since, zone),
            until=None if until is None else instant("--until", until, zone),
            step_seconds=step_seconds(step),
            incomplete=incomplete,
        )
    except (ConfigError, UsageError) as error:
        return failed(str(error), EXIT_USAGE)
    logs.configure(log_level or config.log.level, config.log.format)
    try:
        with interruptible(), _open_output(output) as out:
            export = write_history(config, options, out, sys.stderr, time.time())
    except KeyboardInterrupt:
        return failed("interrupted; the output is incomplete and must not be used")
    except (NothingToWriteError, IncompleteHistoryError, StoreError, DatabaseVersionError) as error:
        return failed(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is None:
            return failed(f"cannot write temporary files: {error.strerror}; free some space or set TMPDIR")
        return failed(f"cannot write {error.filename}: {error.strerror}; choose a file in a writable directory")
    click.echo(_summary(export, build_calendar(config)), err=True)
    return EXIT_FAILED if export.damaged else 0


def target_labels(given: Sequence[str], config: Config) -> dict[str, str]:
    """Return the labels to add: defaults for ``job`` and ``instance`` as Prometheus would set them, and the given ones.

    An empty value removes a label.

    Raises:
        UsageError: a label is invalid, or is one that the exporter itself sets.
    """
    host = "localhost" if config.web.host in _EVERY_INTERFACE else config.web.host
    address = f"[{host}]:{config.web.port}" if ":" in host else f"{host}:{config.web.port}"
    labels = {"job": DEFAULT_JOB, "instance": address}
    for label in given:
        name, separator, value = label.partition("=")
        if not separator or not _LABEL.fullmatch(name):
            raise UsageError(f"--label {shown(label)} is not NAME=VALUE with a name of letters, digits and underscores")
        if name in OWN_LABELS or name.startswith("__"):
            raise UsageError(f"--label {name} cannot be set: the exporter or Prometheus sets it")
        labels[name] = value
    return {name: value for name, value in labels.items() if value}


def instant(option: str, text: str, zone: ZoneInfo) -> int:
    """Parse a time option to whole Unix seconds.

    Raises:
        UsageError: the time is invalid.
    """
    try:
        return int(parse_instant(text, zone, time.time()))
    except ValueError as error:
        raise UsageError(f"{option} {error}") from None


def step_seconds(text: str) -> int:
    """Parse ``--step`` to seconds.

    Raises:
        UsageError: it is not a duration, or not an allowed one.
    """
    try:
        step = parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--step {error}") from None
    seconds = int(step.total_seconds())
    whole = timedelta(seconds=seconds) == step and seconds > 0
    if not whole or seconds % MARK_SECONDS or HOUR_SECONDS % seconds:
        raise UsageError(f"--step {text} must be 5m, 10m, 15m, 20m, 30m or 1h")
    return seconds


@contextmanager
def _open_output(output: Path | None) -> Iterator[IO[bytes]]:
    if output is None:
        yield sys.stdout.buffer
    else:
        with atomic_file(output) as file:
            yield file


def _summary(export: HistoryExport, calendar: Calendar) -> str:
    since, until = (f"{calendar.local(at):%Y-%m-%d %H:%M %Z}" for at in (export.range.since, export.range.until))
    summary = f"{export.series:,} series, {export.samples:,} samples, from {since} to {until}"
    lines = [f"{summary}; it ends there because {export.range.reason}"]
    if export.damaged:
        names = ", ".join(f"{key.service_name!r}/{key.span_name!r}" for key in export.damaged[:_SHOWN])
        lines.append(f"left out because their stored history is damaged: {len(export.damaged):,} series ({names})")
    return "\n".join(lines)
