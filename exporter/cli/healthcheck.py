"""``python -m exporter.cli.healthcheck [--config FILE]``: check the exporter on this machine, for a container.

Exit status 0 if it answers, 1 if it does not, 2 if the configuration says nothing about where to ask.
"""

import os
import ssl
import sys
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import click

from exporter.config import ConfigError, load_config

_SECONDS: Final = 3.0


def answers(host: str, port: int, *, tls: bool) -> bool:
    """Whether an exporter says on this machine that it works.

    Args:
        host: where it listens; an address that stands for all of them is asked for as the local one.
        port: likewise.
        tls: whether it may be serving with TLS. Its certificate is for others, so it is not checked here.
    """
    local = _reachable(host)
    return any(_asked(connection) for connection in _connections(local, port, tls=tls))


def _connections(host: str, port: int, *, tls: bool) -> list[HTTPConnection]:
    plain = HTTPConnection(host, port, timeout=_SECONDS)
    if not tls:
        return [plain]
    anybody = ssl.create_default_context()
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE
    return [HTTPSConnection(host, port, timeout=_SECONDS, context=anybody), plain]


def _asked(connection: HTTPConnection) -> bool:
    try:
        connection.connect()
        connection.request("GET", "/-/healthy")
        return connection.getresponse().status == HTTPStatus.OK
    except (ssl.SSLError, ConnectionError) as error:
        # Who turns away a client without a certificate works: with TLS 1.2 by an alert, with 1.3 after the handshake.
        return isinstance(connection.sock, ssl.SSLSocket) or "ALERT" in str(error)
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _reachable(host: str) -> str:
    try:
        address = ip_address(host)
    except ValueError:
        return host or "127.0.0.1"
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"


@click.command()
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="The exporter's configuration.")
def main(config_file: Path | None) -> None:
    """Ask the exporter on this machine whether it works."""
    try:
        web = load_config(config_file, os.environ).web
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    healthy = answers(web.host, web.port, tls=web.config_file is not None)
    click.echo(f"{'healthy' if healthy else 'no answer'}: {web.listen_address}")
    sys.exit(not healthy)


if __name__ == "__main__":
    main()
