"""``explain``: what is usual for an endpoint, and where a trace's time went."""

import sys
from typing import Any

import click

from exporter.cli.common import TIME_HELP, Shared, shared_options


@click.command()
@click.option("--service", metavar="NAME", help="The service_name of an endpoint.")
@click.option("--span", metavar="NAME", help="Its span_name.")
@click.option("--duration", metavar="DURATION", help="Would this be an outlier? Such as 320ms or 1s500ms.")
@click.option("--at", metavar="TIME", help=f"When: {TIME_HELP}. [default: now]")
@click.option(
    "--trace",
    metavar="ID",
    help="Where did this trace's time go? Asks Tempo; with --service and --span it explains that endpoint's span.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@shared_options
def explain(shared: Shared, **options: Any) -> None:
    """Say in words what is usual for an endpoint at an hour, whether a duration is not, and where a trace's time went.

    From the stored history, which is only read: also beside a running exporter.
    """
    # Only this command needs what it is made of.
    from exporter.explain.command import run_command  # noqa: PLC0415

    sys.exit(run_command(shared.config_file, shared.log_level, **options))
