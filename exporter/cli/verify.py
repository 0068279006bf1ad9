"""``verify``: check a running exporter from outside."""

import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import click

from exporter.cli.common import EXISTING_FILE, EXIT_FAILED, EXIT_USAGE, Shared, failed, http_parts, shared_options
from exporter.runtime.terminal import printable
from exporter.verify.checks import CheckResult, Outcome, run_checks
from exporter.verify.client import ExporterClient, UnreachableError
from exporter.verify.state import collect_state

_WIDTH: Final = 110
_INDENT: Final = " " * 22
_COLORS: Final = {Outcome.PASS: "green", Outcome.WARN: "yellow", Outcome.FAIL: "red"}


@click.command()
@click.option("--url", default="http://localhost:9817", show_default=True, help="Address of the exporter.")
@click.option("--ca-file", type=EXISTING_FILE, help="Certificate authority that signed its certificate.")
@click.option("--user", metavar="NAME", help="User name for basic authentication.")
@click.option("--password-file", type=click.Path(path_type=Path, dir_okay=False), help="File with its password.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@shared_options
def verify(
    shared: Shared,  # noqa: ARG001 - it checks from outside and needs no configuration
    *,
    url: str,
    ca_file: Path | None,
    user: str | None,
    password_file: Path | None,
    as_json: bool,
) -> int:
    """Check a running exporter.

    It sends HTTP requests and prints PASS, WARN or FAIL for each check, with advice. The exit status is 1 if any check
    fails.
    """
    parts = http_parts(url)
    if parts is None or parts.username is not None:
        return failed("--url must be a URL such as http://localhost:9817; set a user with --user", EXIT_USAGE)
    if (user is None) != (password_file is None):
        return failed("--user and --password-file must be used together", EXIT_USAGE)
    try:
        password = "" if password_file is None else password_file.read_text("utf-8-sig").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        return failed(f"--password-file cannot be read: {error}", EXIT_USAGE)
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
    return EXIT_FAILED if totals[Outcome.FAIL] else 0


def _print(url: str, results: Sequence[CheckResult], totals: Counter[Outcome]) -> None:
    click.echo(f"{printable(url)}\n")
    for result in results:
        first, *rest = textwrap.wrap(result.detail, _WIDTH - len(_INDENT)) or [""]
        click.echo(f"{click.style(result.outcome, fg=_COLORS[result.outcome])}  {result.name:<14}  {first}")
        advice = (
            textwrap.wrap(f"-> {result.advice}", _WIDTH - len(_INDENT), subsequent_indent="   ")
            if result.advice
            else []
        )
        for more in (*rest, *advice):
            click.echo(f"{_INDENT}{more}")
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
