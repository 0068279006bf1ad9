"""What the ledger's loop is told to read.

What the reading of a stretch of time may cost Tempo and its network.
"""

from dataclasses import dataclass
from typing import NamedTuple


class Budget(NamedTuple):
    """The most that may be spent; a single search is finished even where it goes beyond.

    Attributes:
        traces: traces received, wanted or not.
        requests: searches made.
    """

    traces: int
    requests: int


@dataclass(frozen=True, slots=True)
class BackfillSettings:
    """What history is wanted and how it is read; the configuration explains each."""

    duration_seconds: float
    batch_seconds: float
    settle_seconds: float
    retention_seconds: float
    max_concurrency: int
    budget: Budget
