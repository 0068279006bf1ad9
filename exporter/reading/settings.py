"""What the ledger's loop is told to read."""

from dataclasses import dataclass

from exporter.core.budget import Budget


@dataclass(frozen=True, slots=True)
class BackfillSettings:
    """What history is wanted and how it is read; the configuration explains each."""

    duration_seconds: float
    batch_seconds: float
    settle_seconds: float
    retention_seconds: float
    max_concurrency: int
    budget: Budget
