"""``backtest``: recorded traffic through the detector."""

import sys
from typing import Any

import click

from exporter.cli.common import EXISTING_FILE, Shared, shared_options


@click.command()
@click.option(
    "--csv",
    type=EXISTING_FILE,
    help="Replay a file instead of the stored history, also a .gz: series,unix_seconds,duration_ms, a request a row.",
)
@click.option(
    "--labels",
    type=EXISTING_FILE,
    help="Compare with known incidents, JSON: [{series, start_unix, end_unix, ignore}]. "
    "A stored series is called service_name/span_name.",
)
@click.option(
    "--learn",
    metavar="DURATION",
    help="Learning period at the start of each series, whose flags do not count. "
    "[default: 7d of a file; of the stored history as much as its first baseline takes]",
)
@click.option("--service", help="Only stored series with this service_name.")
@click.option("--span", help="Only stored series with this span_name.")
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Try a setting, such as detection.ratio=2; repeatable.",
)
@click.option("--json", is_flag=True, help="Print JSON instead of text.")
@shared_options
def backtest(shared: Shared, **options: Any) -> None:
    """Replay recorded traffic through the detector, and say what it would have flagged.

    That is the stored history, also beside a running exporter, or a CSV file. Nothing is written.
    """
    # Only a backtest needs what it is made of.
    from exporter.backtest.command import run_command  # noqa: PLC0415

    sys.exit(run_command(shared.config_file, shared.log_level, **options))
