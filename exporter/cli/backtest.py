"""``backtest``: replay recorded traffic through the detector."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from exporter.backtest.budget import parse_budget
from exporter.backtest.document import as_json
from exporter.backtest.labels import LabelsError
from exporter.backtest.overrides import load_config_with
from exporter.backtest.run import BacktestOptions, NothingToReplayError
from exporter.backtest.run import backtest as replay
from exporter.backtest.text import as_text
from exporter.backtest.traffic import TrafficError
from exporter.cli.common import EXISTING_FILE, EXIT_USAGE, Shared, failed, shared_options
from exporter.config import ConfigError
from exporter.config.units import parse_duration
from exporter.explain.inputs import parse_labels
from exporter.runtime import logs
from exporter.runtime.signals import interruptible
from exporter.store import DatabaseVersionError, StoreError


@click.command()
@click.option(
    "--csv",
    type=EXISTING_FILE,
    help="Replay a file (also .gz) in place of the stored history: series,unix_seconds,duration_ms, one request a row, "
    "and failed (0 or 1) if that is known.",
)
@click.option(
    "--labels",
    type=EXISTING_FILE,
    help="Compare with known incidents, JSON: [{series, start_unix, end_unix, kind, ignore}]. "
    'The name of a stored series is service_name/span_name, followed by its labels: {name="value",…}.',
)
@click.option(
    "--learn",
    metavar="DURATION",
    help="Learning period at the start of each series, whose flags do not count. "
    "[default: 7d for a file; for the stored history, until the first baseline]",
)
@click.option("--service", help="Only stored series with this service_name.")
@click.option("--span", help="Only stored series with this span_name.")
@click.option(
    "--label", "series_labels", metavar="NAME=VALUE", multiple=True, help="Only stored series with a label; repeatable."
)
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Try a setting, such as detection.ratio=2; repeatable.",
)
@click.option(
    "--budget",
    "budget_text",
    metavar="FLAGS/TIME",
    help="Propose settings that keep to so many flags of each kind, such as 2/week for all endpoints together "
    "or 2/week/endpoint; labelled incidents do not count.",
)
@click.option("--json", is_flag=True, help="Print JSON.")
@shared_options
def backtest(
    shared: Shared,
    *,
    csv: Path | None,
    labels: Path | None,
    learn: str | None,
    service: str | None,
    span: str | None,
    series_labels: Sequence[str],
    settings: Sequence[str],
    budget_text: str | None,
    json: bool,
) -> int:
    """Replay recorded traffic and report what would have been flagged.

    Replays the stored history, also beside a running exporter, or a CSV file. Nothing is written.
    """
    if csv is not None and (service is not None or span is not None or series_labels):
        return failed("--service, --span and --label select stored series; leave them out with --csv", EXIT_USAGE)
    try:
        selected_labels = parse_labels(series_labels)
    except ValueError as error:
        return failed(f"--label {error}", EXIT_USAGE)
    try:
        learn_seconds = None if learn is None else int(parse_duration(learn).total_seconds())
    except ValueError as error:
        return failed(f"--learn {error}", EXIT_USAGE)
    try:
        budget = None if budget_text is None else parse_budget(budget_text)
    except ValueError as error:
        return failed(f"--budget {error}", EXIT_USAGE)
    try:
        config = load_config_with(shared.config_file, os.environ, settings)
    except ConfigError as error:
        return failed(str(error), EXIT_USAGE)
    logs.configure(shared.log_level or config.log.level, config.log.format)
    options = BacktestOptions(
        csv=csv,
        labels=labels,
        learn_seconds=learn_seconds,
        service=service,
        span=span,
        series_labels=selected_labels,
        settings=settings,
        budget=budget,
    )
    warnings: list[str] = []
    try:
        with interruptible():
            report = replay(config, options, warnings.append, sys.stderr)
            output = as_json(report) if json else as_text(report)
    except KeyboardInterrupt:
        return failed("interrupted; there is no result")
    except (TrafficError, LabelsError) as error:
        return failed(str(error), EXIT_USAGE)
    except (NothingToReplayError, StoreError, DatabaseVersionError) as error:
        return failed(str(error))
    finally:
        # Only now that the progress line is erased.
        for warning in warnings:
            click.echo(warning, err=True)
    click.echo(output)
    return 0
