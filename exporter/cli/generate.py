"""``generate``: the demo's traffic for a real Tempo."""

import click

from exporter.cli.common import Finite, Shared, header_values, http_parts, shared_options
from exporter.demo.faults import FAULT_KINDS, FaultKind
from exporter.demo.generate import GenerateOptions
from exporter.demo.generate import generate as send


@click.command()
@click.option(
    "--url", default="http://localhost:4318", show_default=True, help="OTLP/HTTP receiver: Tempo or a collector."
)
@click.option(
    "--header",
    "headers",
    metavar="NAME=VALUE",
    multiple=True,
    help="Additional HTTP header, also for --query-url; repeatable.",
)
@click.option("--days", type=Finite(0, 8), default=7.0, show_default=True, help="Length of the history to send.")
@click.option(
    "--rate",
    type=Finite(1),
    default=400.0,
    show_default=True,
    help="Traces per second of history; live traffic is sent as it happens. With its default limits "
    "(max_traces_per_user), Tempo silently drops some traces above a rate of about 500.",
)
@click.option("--seed", default=7, show_default=True, help="Seed of the synthetic traffic.")
@click.option(
    "--incident-after",
    type=Finite(0),
    default=600.0,
    show_default=True,
    help="Seconds from the end of the history until an incident begins.",
)
@click.option(
    "--fault",
    type=click.Choice(FAULT_KINDS),
    default="slow_call",
    show_default=True,
    help="What is wrong in the incident. Most make requests slow; errors: a third fails fast; silence: none arrive.",
)
@click.option("--for", "seconds", type=Finite(0), help="End after this many seconds of live traffic.")
@click.option(
    "--query-url",
    help="Tempo's API: send only the history that is not there yet, and wait until the rest can be found there before "
    "sending live traffic. [default: none]",
)
@shared_options
def generate(
    shared: Shared,
    *,
    url: str,
    headers: tuple[str, ...],
    days: float,
    rate: float,
    seed: int,
    incident_after: float,
    fault: FaultKind,
    seconds: float | None,
    query_url: str | None,
) -> int:
    """Send the demo's synthetic traffic to a real Tempo.

    Over OTLP/HTTP: a week of history first, then live traffic with an incident, until interrupted.

    Tempo files history under the present unless its ingestion_time_range_slack is longer: see docs/install.md.
    """
    if shared.config_file:
        raise click.UsageError("generate needs no configuration; leave --config out")
    values = header_values(headers)
    for address, option in ((url, "--url"), (query_url, "--query-url")):
        if address is not None and http_parts(address) is None:
            raise click.BadParameter(f"{address!r} is no address such as http://localhost:4318", param_hint=option)
    options = GenerateOptions(
        url=url,
        headers=values,
        days=days,
        seed=seed,
        incident_after_seconds=incident_after,
        fault=fault,
        rate=rate,
        live_seconds=seconds,
        query_url=query_url,
    )
    return send(options)
