"""The command line as a whole: ``tempo-anomaly-exporter [OPTIONS] COMMAND``."""

import click

from exporter.cli.backtest import backtest
from exporter.cli.common import Shared, shared_options
from exporter.cli.demo import demo
from exporter.cli.explain import explain
from exporter.cli.generate import generate
from exporter.cli.history import history
from exporter.cli.run import run, run_options, start
from exporter.cli.verify import verify
from exporter.runtime.tuning import collect_seldom


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@run_options
@shared_options
def main(shared: Shared, *, once: bool, check_config: bool) -> None:
    """Tell Prometheus which endpoints in Grafana Tempo are slower than usual for this hour, by how much, and why.

    Without a command it runs the exporter.
    """
    collect_seldom()
    context = click.get_current_context()
    context.obj = shared
    if context.invoked_subcommand is None:
        start(shared, once=once, check_config=check_config)
    elif once or check_config:
        raise click.UsageError("--once and --check-config belong to the exporter itself; leave the command out")


for command in (run, demo, backtest, explain, history, generate, verify):
    main.add_command(command)
