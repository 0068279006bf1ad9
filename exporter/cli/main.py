"""Entry point: ``tempo-anomaly-exporter [OPTIONS] COMMAND``."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

import click

from exporter.cli.common import Shared, run_options, shared_options
from exporter.cli.output import checked_output
from exporter.runtime.signals import quiet_interrupt
from exporter.runtime.tuning import collect_seldom

COMMANDS: Final[Mapping[str, str]] = {
    "backtest": "Replay recorded traffic and report what would have been flagged.",
    "demo": "Run a demonstration on this machine, without Tempo.",
    "explain": "Explain the baseline of an endpoint, a duration or a trace.",
    "generate": "Send the demo's synthetic traffic to a real Tempo.",
    "history": "Write the stored history as OpenMetrics.",
    "mcp": "Serve tools for agents (MCP).",
    "run": "Run the exporter (the default).",
    "verify": "Check a running exporter, or Tempo.",
}
"""The commands by name, each with the first sentence of its help.

The command ``NAME`` is the function ``NAME`` of the module ``exporter.cli.NAME``.
"""


def load_command(name: str) -> click.Command:
    """Import a command of :data:`COMMANDS`."""
    with quiet_interrupt():
        command: click.Command = getattr(import_module(f"exporter.cli.{name}"), name)
    return command


class LazyGroup(click.Group):
    """Imports the module of a command when the command is invoked; ``--help`` and ``--version`` import none."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command line; the only way in, so that no command fails with a traceback for its output."""
        with checked_output():
            return super().main(*args, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Import a command; returns None for an unknown name."""
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """Write the section that lists the commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
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
        context.invoke(load_command("run"), once=once, check_config=check_config)
    elif once or check_config:
        raise click.UsageError("--once and --check-config are options of run; leave the command out, or use run")
