"""The command: runs a backtest and prints its report."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from exporter.backtest.document import as_json
from exporter.backtest.labels import LabelsError
from exporter.backtest.overrides import load_config_with
from exporter.backtest.run import BacktestOptions, NothingToReplayError, backtest
from exporter.backtest.text import as_text
from exporter.backtest.traffic import TrafficError
from exporter.config import ConfigError
from exporter.config.units import parse_duration
from exporter.runtime import logs
from exporter.runtime.exits import EXIT_USAGE, failed
from exporter.runtime.signals import interruptible
from exporter.store import DatabaseVersionError, StoreError


def run_command(
    config_file: Path | None,
    log_level: str | None,
    *,
    csv: Path | None,
    labels: Path | None,
    learn: str | None,
    service: str | None,
    span: str | None,
    settings: Sequence[str],
    json: bool,
) -> int:
    """Run the command.

    Args:
        config_file: the configuration file.
        log_level: overrides the configured level.
        csv: file with recorded traffic; None replays the stored history.
        labels: file with labelled incidents.
        learn: learning period of each series, as a duration.
        service: replay only stored series of this service.
        span: replay only stored series with this span name.
        settings: configuration keys to override, ``key=value`` each.
        json: print JSON instead of text.

    Returns:
        The exit status: 0, 1 if there is nothing to replay or the backtest failed, 2 for invalid options.
    """
    if csv is not None and (service is not None or span is not None):
        return failed("--service and --span select stored series; leave them out with --csv", EXIT_USAGE)
    try:
        learn_seconds = None if learn is None else int(parse_duration(learn).total_seconds())
    except ValueError as error:
        return failed(f"--learn {error}", EXIT_USAGE)
    try:
        config = load_config_with(config_file, os.environ, settings)
    except ConfigError as error:
        return failed(str(error), EXIT_USAGE)
    logs.configure(log_level or config.log.level, config.log.format)
    options = BacktestOptions(
        csv=csv, labels=labels, learn_seconds=learn_seconds, service=service, span=span, settings=settings
    )
    warnings: list[str] = []
    try:
        with interruptible():
            report = backtest(config, options, warnings.append, sys.stderr)
            output = as_json(report) if json else as_text(report)
    except KeyboardInterrupt:
        return failed("interrupted; there is no result")
    except (TrafficError, LabelsError) as error:
        return failed(str(error), EXIT_USAGE)
    except (NothingToReplayError, StoreError, DatabaseVersionError) as error:
        return failed(str(error))
    finally:
        # Only now, because the progress line is gone.
        for warning in warnings:
            click.echo(warning, err=True)
    click.echo(output)
    return 0
