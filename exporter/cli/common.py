"""Shared by the commands: common options, parameter types, exit statuses, error output."""

import math
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import SplitResult, urlsplit

import click

from exporter import __version__

_F = TypeVar("_F", bound=Callable[..., Any])

EXIT_FAILED: Final = 1
"""The command was valid but failed."""
EXIT_USAGE: Final = 2
"""Mistake on the command line or in the configuration; click exits with the same status for its own errors."""

EXISTING_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)

TIME_HELP: Final = "2026-11-24T14:00 (in the configured timezone), 2026-11-24T14:00Z, Unix seconds, or now"
"""The notations of an instant that ``exporter.explain.inputs.parse_instant`` accepts."""


def failed(message: str, status: int = EXIT_FAILED) -> int:
    """Write an error message to standard error; returns the exit status."""
    click.echo(message, err=True)
    return status


def http_parts(text: str) -> SplitResult | None:
    """Split an http or https URL that names a host; None for any other text."""
    try:
        parts = urlsplit(text)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if is_usable else None


def header_values(headers: Sequence[str]) -> dict[str, str]:
    """Return the headers of an option ``--header NAME=VALUE``.

    Raises:
        click.BadParameter: one of them is not in that form.
    """
    pairs = [header.partition("=") for header in headers]
    for header, (name, separator, _) in zip(headers, pairs, strict=True):
        if not name or not separator:
            raise click.BadParameter(f"{header!r} is not NAME=VALUE", param_hint="--header")
    return {name: value for name, _, value in pairs}


class Finite(click.FloatRange):
    """A number within a range; unlike click's own type it accepts neither ``inf`` nor ``nan``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Convert the text, or fail with a usage error."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class Shared(NamedTuple):
    """The options of every command. They may precede the command or follow it; those that follow it win.

    Attributes:
        config_file: the YAML file; None for defaults and environment only.
        log_level: lowest level to write, in place of ``log.level``.
    """

    config_file: Path | None = None
    log_level: str | None = None


def shared_options(command: Callable[..., int | None]) -> Callable[..., None]:
    """Add the options of every command.

    The command takes them as its first argument, a :class:`Shared`, and returns its exit status. The group returns
    None: the status is that of its subcommand.
    """

    @click.version_option(__version__, prog_name="tempo-anomaly-exporter")
    @click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        help="Lowest level to log; overrides log.level.",
    )
    @click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        help="Configuration file (YAML). Without it: defaults and environment.",
    )
    @wraps(command)
    def with_shared(config_file: Path | None, log_level: str | None, **options: Any) -> None:
        before = click.get_current_context().obj or Shared()
        status = command(Shared(config_file or before.config_file, log_level or before.log_level), **options)
        if status is not None:
            sys.exit(status)

    return with_shared


def run_options(command: _F) -> _F:
    """Add the options of ``run``, which the command line also accepts without a command."""
    for option in (
        click.option("--check-config", is_flag=True, help="Validate and print the configuration, then exit."),
        click.option(
            "--once", is_flag=True, help="Dry run: read everything once, print the metrics, write nothing, then exit."
        ),
    ):
        command = option(command)
    return command
