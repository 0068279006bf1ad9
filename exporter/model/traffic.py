"""How many requests a series had in a window of the ledger, of which a part may have been read.

Evidence is what was read: failures are compared with it, and nothing is scaled. Traffic is what there was.
"""

from enum import StrEnum
from typing import NamedTuple


class Certainty(StrEnum):
    """How well the traffic of a series is known."""

    EXACT = "exact"
    """All requests were read, or Tempo counted them."""
    ESTIMATED = "estimated"
    """It follows from the part that was read."""
    UNKNOWN = "unknown"
    """It is not known how large the part is that was read."""


class Traffic(NamedTuple):
    """The requests of a series in a window.

    Attributes:
        requests: how many there were; None if unknown.
        certainty: how well that is known.
    """

    requests: float | None
    certainty: Certainty


UNKNOWN_TRAFFIC = Traffic(None, Certainty.UNKNOWN)


def window_traffic(read: int, counted: int | None, coverage: float | None) -> Traffic:
    """Return how many requests a series had in a window.

    Args:
        read: requests that were read; 0 for a series that the window does not have.
        counted: requests that Tempo counted, where it did.
        coverage: share of all requests in the window that was read; None if unknown.
    """
    if counted is not None:
        return Traffic(max(read, counted), Certainty.EXACT)
    if coverage is None or coverage <= 0:
        return UNKNOWN_TRAFFIC
    if coverage >= 1:
        return Traffic(read, Certainty.EXACT)
    return Traffic(read / coverage, Certainty.ESTIMATED)
