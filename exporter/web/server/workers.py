"""Worker groups: separate threads for requests that must not wait for one another.

Work that may block a thread for long (checking a password, waiting for Tempo) takes all but one thread of its group at
most, so that one stays free for the other requests.
"""

from enum import Enum
from typing import Final

from exporter.web.http import API_PATHS

_SCRAPES_AND_PROBES: Final = frozenset({"/metrics", "/-/healthy", "/-/ready"})
_MAY_WAIT: Final = frozenset({"/trace", "/-/reload"})
"""Paths outside of the API whose responses wait for Tempo or for the database."""


class WorkerGroup(Enum):
    """A group of worker threads.

    Attributes:
        threads: size of the group.
    """

    PROMPT = "prompt", 4
    """For scrapes and probes: their clients give up soon, and their responses are in memory."""
    API = "api", 3
    """For the API and the pages that wait for the database and for Tempo."""
    PAGES = "pages", 2
    """For HTML pages. Rendering holds the interpreter lock: more threads would slow down scrapes and gain nothing."""

    def __init__(self, _name: str, threads: int) -> None:
        self.threads = threads

    @property
    def max_blocked(self) -> int:
        """How many of the threads may be blocked for long at the same time."""
        return self.threads - 1


def worker_group(path: str) -> WorkerGroup:
    """The group that serves a path."""
    if path in _SCRAPES_AND_PROBES:
        return WorkerGroup.PROMPT
    return WorkerGroup.API if path.startswith(API_PATHS) or path in _MAY_WAIT else WorkerGroup.PAGES
