"""``mcp``: tools for agents, over the API of a running exporter."""

import socket
from ipaddress import ip_address
from pathlib import Path

import click

from exporter.cli.common import EXIT_USAGE, Shared, failed, shared_options
from exporter.cli.exporter_options import AddressError, exporter_client, exporter_options
from exporter.runtime import logs


@click.command()
@exporter_options
@click.option(
    "--http",
    "listen_address",
    metavar="HOST:PORT",
    help="Serve streamable HTTP on this loopback address, such as 127.0.0.1:9818. [default: standard input and output]",
)
@shared_options
def mcp(
    shared: Shared,
    *,
    url: str,
    ca_file: Path | None,
    user: str | None,
    password_file: Path | None,
    listen_address: str | None,
) -> int:
    """Serve tools for agents (MCP).

    The tools query a running exporter over HTTP: what is anomalous, incidents, baselines, causes, traces. They change
    nothing. Without --http, a client starts this command and talks to it on standard input and output. It needs the
    extra of the package: pip install 'tempo-anomaly-exporter[mcp]'.
    """
    try:
        connect = exporter_client(url, ca_file, user, password_file)
        address = None if listen_address is None else _loopback_address(listen_address)
    except AddressError as error:
        return failed(str(error), EXIT_USAGE)
    try:
        from exporter.mcp_server.server import HTTP_PATH, build_server, serve_http, serve_stdio  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package == "exporter":
            raise
        return failed(
            f"the MCP server needs further packages ({package} is missing): pip install 'tempo-anomaly-exporter[mcp]'",
            EXIT_USAGE,
        )
    from exporter.mcp_server.tools import ExporterTools  # noqa: PLC0415 - only with the extra

    logs.configure(shared.log_level or "warning", "logfmt")
    server = build_server(ExporterTools(connect))
    if address is None:
        serve_stdio(server)
        return 0
    host, port = address
    try:
        listening = socket.create_server(address, family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        return failed(f"cannot listen on {listen_address}: {error.strerror}; choose another address with --http")
    with listening:
        port = listening.getsockname()[1]
        click.echo(f"serving MCP at http://{f'[{host}]' if ':' in host else host}:{port}{HTTP_PATH}", err=True)
        serve_http(server, listening)
    return 0


def _loopback_address(text: str) -> tuple[str, int]:
    """Parse the address to listen on.

    Raises:
        AddressError: it is none of the loopback interface.
    """
    host, _, port = text.rpartition(":")
    try:
        address = ip_address("127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]"))
        number = int(port) if port.isascii() and port.isdecimal() else -1
    except ValueError:
        raise AddressError("--http must be a loopback address and a port, such as 127.0.0.1:9818") from None
    if not address.is_loopback or not 0 <= number <= 65535:
        raise AddressError(
            "--http must be a loopback address and a port, such as 127.0.0.1:9818: the server has no password"
        )
    return str(address), number
