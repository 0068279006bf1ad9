"""What all commands have in common: their shared options, and how they give up."""

import math
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import click

from exporter import __version__
from exporter.runtime.exits import failed

EXISTING_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)

TIME_HELP: Final = "2026-11-24T14:00 (on the clock of the configured timezone), 2026-11-24T14:00Z, Unix seconds, or now"
"""How an instant may be written; ``exporter.explain.inputs`` reads it."""


class Finite(click.FloatRange):
    """A number within a range; unlike click's own, neither infinite nor "nan"."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it, or say what is wrong with it."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class Shared(NamedTuple):
    """The options that may stand before a command as well as behind it; what stands behind it wins.

    Attributes:
        config_file: the YAML file; without it there are the defaults and the environment.
        log_level: least important messages to write, instead of the configured ones.
    """

    config_file: Path | None = None
    log_level: str | None = None


def shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that every command has; it receives them as its first argument, a :class:`Shared`."""

    @click.version_option(__version__, prog_name="tempo-anomaly-exporter")
    @click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        help="Least important messages to write; instead of log.level.",
    )
    @click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        help="The YAML file; without it there are the defaults and the environment.",
    )
    @wraps(command)
    def with_shared(config_file: Path | None, log_level: str | None, **options: Any) -> None:
        before = click.get_current_context().obj or Shared()
        command(Shared(config_file or before.config_file, log_level or before.log_level), **options)

    return with_shared


def give_up(message: str, status: int) -> NoReturn:
    """End the process with a message for people."""
    sys.exit(failed(message, status))
