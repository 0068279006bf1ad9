"""Who answers what: workers of their own for what must not wait for other requests.

What may hold a worker for long, a password that is checked or a question that Tempo is asked about, is limited to fewer
than there are in its group, so that one is left for the rest.
"""

from enum import Enum
from typing import Final

from exporter.web.http import API_PATHS

_PROMPT: Final = frozenset({"/metrics", "/-/healthy", "/-/ready"})


class Workers(Enum):
    """A group of threads.

    Attributes:
        threads: how many.
    """

    PROMPT = "prompt", 4
    """For what programs ask that give up, and is at hand: nobody who looks at a page is served before them."""
    QUESTIONS = "questions", 3
    """For the API, which waits for the database and for Tempo."""
    PAGES = "pages", 2
    """For people. A page is made by the interpreter, of which there is one: more at once take it from scrapes and gain
    nothing."""

    def __init__(self, _name: str, threads: int) -> None:
        self.threads = threads

    @property
    def busy(self) -> int:
        """How many may be held for long at the same time."""
        return self.threads - 1


def workers_for(path: str) -> Workers:
    """Who answers at a path."""
    if path in _PROMPT:
        return Workers.PROMPT
    return Workers.QUESTIONS if path.startswith(API_PATHS) else Workers.PAGES
