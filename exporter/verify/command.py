"""The command: collects the state of an exporter, runs the checks, and prints the results."""

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
from exporter.verify.checks import CheckResult, Outcome, run_checks
from exporter.verify.client import ExporterClient, UnreachableError
from exporter.verify.state import collect_state

_EXIT_FAILED: Final = 1
_EXIT_USAGE: Final = 2
_WIDTH: Final = 110
_INDENT: Final = " " * 22
_COLORS: Final = {Outcome.PASS: "green", Outcome.WARN: "yellow", Outcome.FAIL: "red"}


def run_command(*, url: str, ca_file: Path | None, user: str | None, password_file: Path | None, as_json: bool) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 1 if a check fails, or 2 for invalid options.
    """
    parts = http_parts(url)
    if parts is None or parts.username is not None:
        return _usage_error("--url must be a URL such as http://localhost:9817; set a user with --user")
    if (user is None) != (password_file is None):
        return _usage_error("--user and --password-file must be used together")
    try:
        password = "" if password_file is None else password_file.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        return _usage_error(f"--password-file cannot be read: {error}")
    client = ExporterClient(url, ca_file=None if ca_file is None else str(ca_file), user=user, password=password)
    with closing(client):
        try:
            results = run_checks(collect_state(client))
        except UnreachableError as error:
            results = [CheckResult("health", Outcome.FAIL, str(error))]
    totals = Counter(result.outcome for result in results)
    if as_json:
        click.echo(json.dumps(_document(url, results, totals), indent=2))
    else:
        _print(url, results, totals)
    return _EXIT_FAILED if totals[Outcome.FAIL] else 0


def _print(url: str, results: Sequence[CheckResult], totals: Counter[Outcome]) -> None:
    click.echo(f"{printable(url)}\n")
    for result in results:
        first, *rest = textwrap.wrap(result.detail, _WIDTH - len(_INDENT)) or [""]
        click.echo(f"{click.style(result.outcome, fg=_COLORS[result.outcome])}  {result.name:<14}  {first}")
        advice = f"-> {result.advice}" if result.advice else ""
        for line in (*rest, *textwrap.wrap(advice, _WIDTH - len(_INDENT), subsequent_indent="   ")):
            click.echo(f"{_INDENT}{line}")
    click.echo(f"\n{', '.join(f'{totals[outcome]} {outcome}' for outcome in Outcome)}")


def _document(url: str, results: Sequence[CheckResult], totals: Counter[Outcome]) -> dict[str, Any]:
    return {
        "url": url,
        "passed": not totals[Outcome.FAIL],
        "totals": {outcome.value: totals[outcome] for outcome in Outcome},
        "checks": [
            {
                "name": result.name,
                "outcome": result.outcome.value,
                "detail": result.detail,
                "advice": result.advice or None,
            }
            for result in results
        ],
    }


def _usage_error(message: str) -> int:
    click.echo(message, err=True)
    return _EXIT_USAGE
