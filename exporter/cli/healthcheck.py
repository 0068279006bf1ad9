"""Container health check: ``python -m exporter.cli.healthcheck [--config FILE]``.

Exit status 0 if the exporter on this machine answers, 1 if it does not, 2 if the configuration is invalid. It runs
every 30 seconds, so it imports no package of the exporter but the configuration.
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

_TIMEOUT_SECONDS: Final = 3.0


def is_healthy(host: str, port: int, *, tls: bool) -> bool:
    """Request ``/-/healthy`` from the exporter on this machine.

    Args:
        host: host of its listen address; for an address that stands for all interfaces, the loopback address is used.
        port: its port.
        tls: whether it may serve with TLS. Its certificate is issued for another name, so it is not verified.
    """
    local = _loopback(host)
    return any(_answers(connection) for connection in _connections(local, port, tls=tls))


def _connections(host: str, port: int, *, tls: bool) -> list[HTTPConnection]:
    plain = HTTPConnection(host, port, timeout=_TIMEOUT_SECONDS)
    if not tls:
        return [plain]
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    return [HTTPSConnection(host, port, timeout=_TIMEOUT_SECONDS, context=unverified), plain]


def _answers(connection: HTTPConnection) -> bool:
    try:
        connection.connect()
        connection.request("GET", "/-/healthy")
        return connection.getresponse().status == HTTPStatus.OK
    except (ssl.SSLError, ConnectionError) as error:
        # A server that refuses a client without a certificate works. With TLS 1.2 it sends an alert during the
        # handshake, with TLS 1.3 after it.
        return isinstance(connection.sock, ssl.SSLSocket) or "ALERT" in str(error)
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _loopback(host: str) -> str:
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
    """Check whether the exporter on this machine answers."""
    try:
        web = load_config(config_file, os.environ).web
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    healthy = is_healthy(web.host, web.port, tls=web.config_file is not None)
    click.echo(f"{'healthy' if healthy else 'no answer'}: {web.listen_address}")
    sys.exit(not healthy)


if __name__ == "__main__":
    main()
