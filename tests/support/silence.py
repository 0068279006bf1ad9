"""A Tempo that takes requests and never answers."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent_tempo() -> Iterator[str]:
    """Listen without ever accepting: connections come about and requests are sent, and that is all; yields the URL."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
