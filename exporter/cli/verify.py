"""``verify``: check a running exporter from outside, or a Tempo with traces written into it."""

import json
import os
import random
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from exporter.app.settings import client_settings
from exporter.cli.common import (
    EXIT_FAILED,
    EXIT_USAGE,
    Finite,
    Shared,
    failed,
    header_values,
    http_parts,
    shared_options,
)
from exporter.cli.exporter_options import EXPORTER_OPTIONS, AddressError, exporter_client, exporter_options
from exporter.config import ConfigError, load_config
from exporter.metrics.self_metrics import SelfMetrics
from exporter.model.identity import BY_NAME
from exporter.runtime import logs
from exporter.runtime.terminal import printable
from exporter.tempo import TempoClient
from exporter.tempo.otlp import OtlpSender
from exporter.verify.checks import CheckResult, Outcome, run_checks
from exporter.verify.client import UnreachableError
from exporter.verify.roundtrip import LATE_SECONDS, RoundTrip, RoundTripSettings, run_filter
from exporter.verify.state import collect_state

_WIDTH: Final = 111
_NAME_WIDTH: Final = 15
_INDENT: Final = " " * (_NAME_WIDTH + 8)
_TEMPO_OPTIONS: Final = ("otlp_url", "headers", "timeout")
_GIVE_UP_SECONDS: Final = 30.0
"""How long writing to an OTLP receiver is tried."""
_COLORS: Final = {Outcome.PASS: "green", Outcome.WARN: "yellow", Outcome.FAIL: "red"}


@click.command()
@exporter_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--tempo",
    "checks_tempo",
    is_flag=True,
    help="Check Tempo instead: write 100 traces, read them as the exporter does, and compare. The address and the "
    "credentials come from the configuration.",
)
@click.option(
    "--otlp-url",
    help="OTLP/HTTP receiver for --tempo: Tempo or a collector. [default: port 4318 of the host of tempo.url]",
)
@click.option(
    "--header",
    "headers",
    metavar="NAME=VALUE",
    multiple=True,
    help="Additional HTTP header for --otlp-url; repeatable. The tenant is sent by itself.",
)
@click.option(
    "--timeout",
    type=Finite(2 * LATE_SECONDS, 3600),
    default=120.0,
    show_default=True,
    help="Seconds that --tempo may take until all traces are found.",
)
@shared_options
def verify(
    shared: Shared,
    *,
    url: str,
    ca_file: Path | None,
    user: str | None,
    password_file: Path | None,
    as_json: bool,
    checks_tempo: bool,
    otlp_url: str | None,
    headers: tuple[str, ...],
    timeout: float,
) -> int:
    """Check a running exporter, or Tempo.

    It sends HTTP requests and prints PASS, WARN or FAIL for each check, with advice. The exit status is 1 if any check
    fails. With --tempo it needs no exporter: it writes traces into Tempo under a service name that the exporter leaves
    out, and checks that each can be read, once and unchanged, and how long that takes.
    """
    _refuse_options(EXPORTER_OPTIONS if checks_tempo else _TEMPO_OPTIONS, checks_tempo=checks_tempo)
    if checks_tempo:
        return _verify_tempo(shared, otlp_url, header_values(headers), timeout, as_json=as_json)
    try:
        client = exporter_client(url, ca_file, user, password_file)()
    except AddressError as error:
        return failed(str(error), EXIT_USAGE)
    with closing(client):
        try:
            results = run_checks(collect_state(client))
        except UnreachableError as error:
            results = [CheckResult("health", Outcome.FAIL, str(error))]
    return _report(url, results, as_json=as_json)


def _refuse_options(options: Sequence[str], *, checks_tempo: bool) -> None:
    """Refuse options of the other kind of check.

    Raises:
        click.UsageError: one of them was set.
    """
    context = click.get_current_context()
    for name in options:
        if context.get_parameter_source(name) not in (None, ParameterSource.DEFAULT):
            option = "--header" if name == "headers" else f"--{name.replace('_', '-')}"
            reason = "checks an exporter; leave it out with --tempo" if checks_tempo else "needs --tempo"
            raise click.UsageError(f"{option} {reason}")


def _verify_tempo(
    shared: Shared, otlp_url: str | None, headers: dict[str, str], timeout: float, *, as_json: bool
) -> int:
    try:
        config = load_config(shared.config_file, os.environ)
    except ConfigError as error:
        return failed(str(error), EXIT_USAGE)
    if otlp_url is not None and http_parts(otlp_url) is None:
        raise click.BadParameter(f"{otlp_url!r} is no address such as http://localhost:4318", param_hint="--otlp-url")
    logs.configure(shared.log_level or "error", config.log.format)
    run = f"{random.SystemRandom().getrandbits(64):016x}"
    settings = replace(client_settings(config), filter=run_filter(run), identity=BY_NAME)
    if settings.tenant:
        headers = {"X-Scope-OrgID": settings.tenant, **headers}
    telemetry = SelfMetrics()
    # Proxies and credentials of tempo.* belong to the reading side; a receiver is often another host.
    sender = OtlpSender(
        otlp_url or _default_otlp_url(settings.url),
        headers,
        wait=_sleep,
        report=lambda text: click.echo(text, err=True),
        option="--otlp-url",
        give_up_seconds=min(_GIVE_UP_SECONDS, timeout),
    )
    with sender, closing(TempoClient(settings, telemetry, logs.get_logger("tempo"))) as client:
        round_trip = RoundTrip(
            client,
            sender,
            telemetry,
            RoundTripSettings(
                run=run,
                scope=settings.scope,
                lookback_seconds=config.polling.tempo_lookback.total_seconds(),
                timeout_seconds=timeout,
                seed=int(run, 16),
            ),
            wait=_sleep,
            clock=time.time,
            monotonic=time.monotonic,
        )
        return _report(settings.url, round_trip.run(), as_json=as_json)


def _default_otlp_url(tempo_url: str) -> str:
    host = urlsplit(tempo_url).hostname or "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:4318"


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _report(url: str, results: Sequence[CheckResult], *, as_json: bool) -> int:
    """Print the results; returns the exit status."""
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
        click.echo(f"{click.style(result.outcome, fg=_COLORS[result.outcome])}  {result.name:<{_NAME_WIDTH}}  {first}")
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
