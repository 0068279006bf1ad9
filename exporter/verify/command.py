"""The command: asks, prints what there is to say, and says by its exit status whether anything fails."""

import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import click

from exporter.config.addresses import http_parts
from exporter.runtime.terminal import printable
from exporter.verify.checks import CheckResult, Outcome, lines
from exporter.verify.client import ExporterClient, UnreachableError
from exporter.verify.facts import collect

_EXIT_FAILED: Final = 1
_EXIT_USAGE: Final = 2
_WIDTH: Final = 110
_INDENT: Final = " " * 22
_COLORS: Final = {Outcome.PASS: "green", Outcome.WARN: "yellow", Outcome.FAIL: "red"}


def run_command(*, url: str, ca_file: Path | None, user: str | None, password_file: Path | None, as_json: bool) -> int:
    """Verify an exporter as it was asked for on the command line.

    Returns:
        The exit status: 1 where anything fails, 2 for a mistake in what was asked for.
    """
    parts = http_parts(url)
    if parts is None or parts.username is not None:
        return _refused("--url must be an address such as http://localhost:9817; a user is given with --user")
    if (user is None) != (password_file is None):
        return _refused("--user and --password-file belong together")
    try:
        password = "" if password_file is None else password_file.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        return _refused(f"--password-file cannot be read: {error}")
    client = ExporterClient(url, ca_file=None if ca_file is None else str(ca_file), user=user, password=password)
    with closing(client):
        try:
            found = lines(collect(client))
        except UnreachableError as error:
            found = [CheckResult("health", Outcome.FAIL, str(error))]
    totals = Counter(line.outcome for line in found)
    if as_json:
        click.echo(json.dumps(_document(url, found, totals), indent=2))
    else:
        _print(url, found, totals)
    return _EXIT_FAILED if totals[Outcome.FAIL] else 0


def _print(url: str, found: Sequence[CheckResult], totals: Counter[Outcome]) -> None:
    click.echo(f"{printable(url)}\n")
    for line in found:
        first, *rest = textwrap.wrap(line.detail, _WIDTH - len(_INDENT)) or [""]
        click.echo(f"{click.style(line.outcome, fg=_COLORS[line.outcome])}  {line.name:<14}  {first}")
        advice = (
            textwrap.wrap(f"-> {line.advice}", _WIDTH - len(_INDENT), subsequent_indent="   ") if line.advice else []
        )
        for more in (*rest, *advice):
            click.echo(f"{_INDENT}{more}")
    click.echo(f"\n{', '.join(f'{totals[outcome]} {outcome}' for outcome in Outcome)}")


def _document(url: str, found: Sequence[CheckResult], totals: Counter[Outcome]) -> dict[str, Any]:
    return {
        "url": url,
        "passed": not totals[Outcome.FAIL],
        "totals": {outcome.value: totals[outcome] for outcome in Outcome},
        "checks": [
            {"name": line.name, "outcome": line.outcome.value, "detail": line.detail, "advice": line.advice or None}
            for line in found
        ],
    }


def _refused(message: str) -> int:
    click.echo(message, err=True)
    return _EXIT_USAGE
