"""What it takes to start a server as a process: for tests, measurements and examples."""

import os
import socket
from typing import Final

_KEPT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "EXPORTER_CHECK_LOCKS")


def environment(**more: str) -> dict[str, str]:
    """An environment without anything that configures the exporter or sends its requests elsewhere."""
    return {**{name: os.environ[name] for name in _KEPT if name in os.environ}, **more}


def free_port() -> int:
    """A port of loopback that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
