"""The options of the commands that talk to a running exporter: its address, and how to connect to it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from exporter.cli.common import EXISTING_FILE, http_parts
from exporter.verify.client import ExporterClient

_F = TypeVar("_F", bound=Callable[..., Any])

EXPORTER_OPTIONS: Final = ("url", "ca_file", "user", "password_file")
"""The parameters that :func:`exporter_options` adds."""


class AddressError(Exception):
    """The options are wrong; the message says which one, and what to do."""


def exporter_options(command: _F) -> _F:
    """Add the options."""
    for option in (
        click.option(
            "--password-file", type=click.Path(path_type=Path, dir_okay=False), help="File with its password."
        ),
        click.option("--user", metavar="NAME", help="User name for basic authentication."),
        click.option("--ca-file", type=EXISTING_FILE, help="Certificate authority that signed its certificate."),
        click.option("--url", default="http://localhost:9817", show_default=True, help="Address of the exporter."),
    ):
        command = option(command)
    return command


def exporter_client(
    url: str, ca_file: Path | None, user: str | None, password_file: Path | None
) -> Callable[[], ExporterClient]:
    """Check the options; returns what creates a client.

    Raises:
        AddressError: they are wrong.
    """
    parts = http_parts(url)
    if parts is None or parts.username is not None:
        raise AddressError("--url must be a URL such as http://localhost:9817; set a user with --user")
    if (user is None) != (password_file is None):
        raise AddressError("--user and --password-file must be used together")
    try:
        password = "" if password_file is None else password_file.read_text("utf-8-sig").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise AddressError(f"--password-file cannot be read: {error}") from None
    authority = None if ca_file is None else str(ca_file)
    return lambda: ExporterClient(url, ca_file=authority, user=user, password=password)
