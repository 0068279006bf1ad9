"""``generate``: the demo's traffic into a real Tempo."""

import sys

import click

from exporter.cli.common import Finite, Shared, shared_options
from exporter.config.addresses import http_parts


@click.command()
@click.option(
    "--url", default="http://localhost:4318", show_default=True, help="The OTLP/HTTP receiver: Tempo or a collector."
)
@click.option("--header", "headers", metavar="NAME=VALUE", multiple=True, help="A further HTTP header; repeatable.")
@click.option("--days", type=Finite(0, 8), default=7.0, show_default=True, help="How much history to send.")
@click.option(
    "--rate",
    type=Finite(1),
    default=400.0,
    show_default=True,
    help="Traces a second while history is sent; live traffic comes as it happens. Of more than about 500 a Tempo "
    "with its default limits (max_traces_per_user) drops some, and does not tell.",
)
@click.option("--seed", default=7, show_default=True, help="Another seed makes other traffic.")
@click.option(
    "--incident-after",
    type=Finite(0),
    default=600.0,
    show_default=True,
    help="Seconds until the incident that you can watch begins, from when the history has been sent.",
)
@click.option("--for", "seconds", type=Finite(0), help="End after so many seconds of live traffic.")
@click.option(
    "--query-url", help="Tempo's own API: before live traffic, wait until the history is found there. [default: none]"
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
    seconds: float | None,
    query_url: str | None,
) -> None:
    """Send the demo's synthetic traffic to a real Tempo, over OTLP/HTTP.

    A week of history first, then live traffic with an incident, until interrupted. Nothing is sent to anywhere else.

    Tempo files history under the present unless its ingestion_time_range_slack is longer than that: docs/install.md.
    """
    if shared.config_file:
        raise click.UsageError("generate needs no configuration; leave --config out")
    pairs = [header.partition("=") for header in headers]
    for header, (name, separator, _) in zip(headers, pairs, strict=True):
        if not name or not separator:
            raise click.BadParameter(f"{header!r} is not NAME=VALUE", param_hint="--header")
    for address, option in ((url, "--url"), (query_url, "--query-url")):
        if address is not None and http_parts(address) is None:
            raise click.BadParameter(f"{address!r} is no address such as http://localhost:4318", param_hint=option)
    # Only this command needs what it is made of.
    from exporter.demo.generate import GenerateOptions  # noqa: PLC0415
    from exporter.demo.generate import generate as send  # noqa: PLC0415

    options = GenerateOptions(
        url=url,
        headers={name: value for name, _, value in pairs},
        days=days,
        seed=seed,
        incident_after_seconds=incident_after,
        rate=rate,
        live_seconds=seconds,
        query_url=query_url,
    )
    sys.exit(send(options))
