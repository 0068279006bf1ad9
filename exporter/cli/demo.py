"""``demo``: everything on one machine without Tempo."""

import sys

import click

from exporter.cli.common import Finite, Shared, shared_options
from exporter.runtime import logs


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9817,
    show_default=True,
    help="Where the exporter serves; 0 for any free port.",
)
@click.option("--seed", default=7, show_default=True, help="Another seed makes other traffic.")
@click.option(
    "--incident-after",
    type=Finite(0),
    default=20.0,
    show_default=True,
    help="Seconds until the incident that you can watch begins.",
)
@click.option("--for", "seconds", type=Finite(0), help="End by itself after so many seconds.")
@shared_options
def demo(shared: Shared, *, port: int, seed: int, incident_after: float, seconds: float | None) -> None:
    """Show everything on this machine without Tempo.

    A week of synthetic traffic behind a Tempo API of its own, and the real exporter reading it over HTTP.
    """
    if shared.config_file:
        raise click.UsageError("the demo brings its own configuration; leave --config out")
    # The demo tells what happens in its own words; what the exporter logs of it would stand between them.
    logs.configure(shared.log_level or "error", "logfmt")
    # Only the demo needs what it is made of.
    from exporter.demo.show import show  # noqa: PLC0415

    sys.exit(show(port=port, seed=seed, incident_after_seconds=incident_after, seconds=seconds))
