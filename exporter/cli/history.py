"""``history``: the stored history for Prometheus."""

import sys
from pathlib import Path
from typing import Any

import click

from exporter.cli.common import TIME_HELP, Shared, shared_options


@click.command()
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write to a file, which is there only once it is whole. [default: standard output]",
)
@click.option("--since", metavar="TIME", help=f"Begin here: {TIME_HELP}. [default: with what is stored]")
@click.option(
    "--until",
    metavar="TIME",
    help="End here, likewise. [default: when the exporter began, for Prometheus has scraped it since; three hours ago "
    "at the latest, for Prometheus may still hold that time in memory]",
)
@click.option(
    "--step", metavar="DURATION", default="5m", show_default=True, help="A sample so often: 5m, 10m, 15m, 20m, 30m, 1h."
)
@click.option(
    "--label",
    "labels",
    metavar="NAME=VALUE",
    multiple=True,
    help="A label that Prometheus adds when it scrapes; repeatable, an empty value takes one away. "
    "[default: job=tempo-anomaly-exporter, instance=localhost and the port of web.listen_address]",
)
@click.option("--incomplete", is_flag=True, help="Write what there is although some of it is still to be read.")
@shared_options
def history(shared: Shared, **options: Any) -> None:
    """Write the stored history as OpenMetrics, so that dashboards show a week at once.

    The output is for "promtool tsdb create-blocks-from openmetrics"; docs/history.md has it step by step. Also beside a
    running exporter: the database is only read.
    """
    from exporter.history.command import run_command  # noqa: PLC0415 - only this command needs what it is made of

    sys.exit(run_command(shared.config_file, shared.log_level, **options))
