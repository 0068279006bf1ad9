"""``verify``: a report on a running exporter."""

import sys
from pathlib import Path
from typing import Any

import click

from exporter.cli.common import EXISTING_FILE, Shared, shared_options


@click.command()
@click.option("--url", default="http://localhost:9817", show_default=True, help="Where the exporter serves.")
@click.option("--ca-file", type=EXISTING_FILE, help="The authority that signed its certificate.")
@click.option("--user", metavar="NAME", help="User, where it asks for one.")
@click.option(
    "--password-file", type=click.Path(path_type=Path, dir_okay=False), help="File with that user's password."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@shared_options
def verify(shared: Shared, **options: Any) -> None:  # noqa: ARG001 - it looks from outside, so it needs no configuration
    """Say whether a running exporter can be relied upon: PASS, WARN or FAIL for each thing, and what to do.

    It asks over HTTP only. The exit status is 1 where anything fails.
    """
    # Only this command needs what it is made of.
    from exporter.verify.command import run_command  # noqa: PLC0415

    sys.exit(run_command(**options))
