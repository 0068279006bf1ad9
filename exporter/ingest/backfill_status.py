"""Where the ledger's loop stands, for those who show it."""

from dataclasses import dataclass

from exporter.model.ledger import LedgerProgress


@dataclass(frozen=True, slots=True)
class BackfillStatus:
    """Where the ledger stands.

    Attributes:
        progress: windows by state over the wanted range.
        unsampled: the same without the windows of which a sample was meant to do.
        wanted_since: where the wanted range begins.
        started_at: when this process began to read.
        completed_at: when nothing settled was left unread for the first time since.
        failure: why the window that failed last could not be read, in words; absent while none waits for another try.
    """

    progress: LedgerProgress
    unsampled: LedgerProgress
    wanted_since: int
    started_at: float
    completed_at: float | None
    failure: str | None = None

    @property
    def sampled_windows(self) -> int:
        """How many windows of the wanted range stand in the record as samples."""
        return self.progress.windows - self.unsampled.windows
