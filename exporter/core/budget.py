"""What the reading of a stretch of time may cost Tempo and its network."""

from typing import NamedTuple


class Budget(NamedTuple):
    """The most that may be spent; a single search is finished even where it goes beyond.

    Attributes:
        traces: traces received, wanted or not.
        requests: searches made.
    """

    traces: int
    requests: int
