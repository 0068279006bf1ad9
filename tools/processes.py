"""Environment and port for server processes that tests, benchmarks and examples start."""

import os
import socket
from typing import Final

_KEPT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "EXPORTER_CHECK_LOCKS")


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which no variable configures the exporter or a proxy, plus the given variables."""
    return {**{name: os.environ[name] for name in _KEPT if name in os.environ}, **more}


def free_port() -> int:
    """Return a loopback port that is free at the moment; another process may still take it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
