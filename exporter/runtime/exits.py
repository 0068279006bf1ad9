"""How a command ends when it cannot do what it was asked for: a message on standard error, and an exit status."""

from typing import Final

import click

EXIT_FAILED: Final = 1
"""It was asked for rightly, and could not be done."""
EXIT_USAGE: Final = 2
"""A mistake on the command line or in the configuration; click uses the same for its own."""


def failed(message: str, status: int = EXIT_FAILED) -> int:
    """Say why a command gives up; returns the exit status that it ends with."""
    click.echo(message, err=True)
    return status
