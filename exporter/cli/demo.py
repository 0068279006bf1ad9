"""``demo``: a demonstration on one machine without Tempo."""

import click

from exporter.cli.common import Finite, Shared, shared_options
from exporter.demo.faults import FAULT_KINDS, FaultKind
from exporter.demo.show import show
from exporter.runtime import logs


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9817,
    show_default=True,
    help="Port that the exporter serves on; 0 for any free port.",
)
@click.option("--seed", default=7, show_default=True, help="Seed of the synthetic traffic.")
@click.option(
    "--incident-after",
    type=Finite(0),
    default=20.0,
    show_default=True,
    help="Seconds until an incident begins.",
)
@click.option(
    "--fault",
    type=click.Choice(FAULT_KINDS),
    default="slow_call",
    show_default=True,
    help="What is wrong in the incident. Most make requests slow; errors: a third fails fast; silence: none arrive.",
)
@click.option("--for", "seconds", type=Finite(0), help="End after this many seconds.")
@shared_options
def demo(
    shared: Shared, *, port: int, seed: int, incident_after: float, fault: FaultKind, seconds: float | None
) -> int:
    """Run a demonstration on this machine, without Tempo.

    It serves a week of synthetic traffic as Tempo would, and runs the real exporter on it over HTTP.
    """
    if shared.config_file:
        raise click.UsageError("demo has its own configuration; leave --config out")
    # The demo describes what happens in its own words; log lines would stand between them.
    logs.configure(shared.log_level or "error", "logfmt")
    return show(port=port, seed=seed, incident_after_seconds=incident_after, seconds=seconds, fault=fault)
