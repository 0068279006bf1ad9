"""``history``: write the stored history for Prometheus."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO, Final
from zoneinfo import ZoneInfo

import click

from exporter.app.settings import label_names
from exporter.cli.common import EXIT_FAILED, EXIT_USAGE, TIME_HELP, Shared, failed, shared_options
from exporter.config import Config, ConfigError, build_calendar, load_config
from exporter.config.units import parse_duration
from exporter.explain.inputs import parse_instant, parse_labels
from exporter.history.range import IncompleteHistoryError, NothingToWriteError
from exporter.history.write import ExportOptions, HistoryExport, atomic_file, write_history
from exporter.metrics.timed_exposition import OWN_LABELS
from exporter.model.calendar import HOUR_SECONDS, Calendar
from exporter.model.histogram_codec import MARK_SECONDS
from exporter.runtime import logs
from exporter.runtime.signals import interruptible
from exporter.store import DatabaseVersionError, StoreError

DEFAULT_JOB: Final = "tempo-anomaly-exporter"
_EVERY_INTERFACE: Final = ("", "0.0.0.0", "::")  # noqa: S104 - nothing is bound here
_MAX_NAMED_SERIES: Final = 5


class UsageError(Exception):
    """A mistake on the command line."""


@click.command()
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write to a file, which appears once it is complete. [default: standard output]",
)
@click.option("--since", metavar="TIME", help=f"Start: {TIME_HELP}. [default: start of the stored history]")
@click.option(
    "--until",
    metavar="TIME",
    help="End, in the same notation. [default: when the exporter first ran, because Prometheus has scraped it since; "
    "three hours ago at the latest, because Prometheus may still hold later samples in memory]",
)
@click.option(
    "--step",
    metavar="DURATION",
    default="5m",
    show_default=True,
    help="Time between samples: 5m, 10m, 15m, 20m, 30m, 1h.",
)
@click.option(
    "--label",
    "labels",
    metavar="NAME=VALUE",
    multiple=True,
    help="Label that Prometheus adds when it scrapes; repeatable. An empty value removes a label. "
    "[default: job=tempo-anomaly-exporter, instance=localhost and the port of web.listen_address]",
)
@click.option("--incomplete", is_flag=True, help="Write what is stored although the backfill is not complete.")
@shared_options
def history(
    shared: Shared,
    *,
    output: Path | None,
    since: str | None,
    until: str | None,
    step: str,
    labels: Sequence[str],
    incomplete: bool,
) -> int:
    """Write the stored history as OpenMetrics.

    The output is for "promtool tsdb create-blocks-from openmetrics", so that dashboards show a week at once; see
    docs/history.md. The database is only read, also beside a running exporter.
    """
    try:
        config = load_config(shared.config_file, os.environ)
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
    logs.configure(shared.log_level or config.log.level, config.log.format)
    try:
        with interruptible(), _opened(output) as out:
            written = write_history(config, options, out, sys.stderr, time.time())
    except KeyboardInterrupt:
        return failed("interrupted; the output is incomplete and must not be used")
    except (IncompleteHistoryError, NothingToWriteError, StoreError, DatabaseVersionError, ConfigError) as error:
        return failed(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is None:
            return failed(f"cannot write temporary files: {error.strerror}; free some space or set TMPDIR")
        return failed(f"cannot write {error.filename}: {error.strerror}; choose a file in a writable directory")
    click.echo(_summary(written, build_calendar(config)), err=True)
    return EXIT_FAILED if written.damaged else 0


def target_labels(given: Sequence[str], config: Config) -> dict[str, str]:
    """Return the labels to add: the given ones, and ``job`` and ``instance`` as Prometheus most likely sets them.

    An empty value removes a label.

    Raises:
        UsageError: invalid label, or one that the exporter sets.
    """
    host = "localhost" if config.web.host in _EVERY_INTERFACE else config.web.host
    address = f"[{host}]:{config.web.port}" if ":" in host else f"{host}:{config.web.port}"
    labels = {"job": DEFAULT_JOB, "instance": address}
    try:
        parsed = parse_labels(given)
    except ValueError as error:
        raise UsageError(f"--label {error}") from None
    for name, value in parsed:
        if name in (*OWN_LABELS, *label_names(config).names) or name.startswith("__"):
            raise UsageError(f"--label {name} cannot be set: the exporter or Prometheus sets it")
        labels[name] = value
    return {name: value for name, value in labels.items() if value}


def instant(option: str, text: str, zone: ZoneInfo) -> int:
    """Parse an instant; returns whole Unix seconds.

    Raises:
        UsageError: not an instant.
    """
    try:
        return int(parse_instant(text, zone, time.time()))
    except ValueError as error:
        raise UsageError(f"{option} {error}") from None


def step_seconds(text: str) -> int:
    """Parse the time between samples.

    Raises:
        UsageError: not a duration, or one that does not divide an hour into whole marks.
    """
    try:
        step = parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--step {error}") from None
    seconds = int(step.total_seconds())
    is_whole = timedelta(seconds=seconds) == step and seconds > 0
    if not is_whole or seconds % MARK_SECONDS or HOUR_SECONDS % seconds:
        raise UsageError(f"--step {text} must be 5m, 10m, 15m, 20m, 30m or 1h")
    return seconds


@contextmanager
def _opened(output: Path | None) -> Iterator[IO[bytes]]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.flush()
    else:
        with atomic_file(output) as file:
            yield file


def _summary(written: HistoryExport, calendar: Calendar) -> str:
    since, until = (f"{calendar.local(at):%Y-%m-%d %H:%M %Z}" for at in (written.range.since, written.range.until))
    size = f"{written.series:,} series, {written.samples:,} samples, from {since} to {until}"
    lines = [f"{size}; it ends there because {written.range.reason}"]
    if written.damaged:
        names = ", ".join("/".join(map(repr, key.parts)) for key in written.damaged[:_MAX_NAMED_SERIES])
        lines.append(f"left out because their stored history is damaged: {len(written.damaged):,} series ({names})")
    return "\n".join(lines)
