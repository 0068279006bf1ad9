"""What the workers of the ledger's loop share: the plan, its lines in the database, and the pauses after failures."""

import threading
from collections.abc import Callable, Sequence
from typing import Final

from exporter.core.ledger import LedgerEntry, WindowState
from exporter.reading.plan import Plan
from exporter.reading.report import Report
from exporter.reading.status import BackfillStatus
from exporter.store import Store, StoreError

_LONGEST_BREAK_SECONDS: Final = 60


class OpenWork:
    """The plan, guarded, and what is known of how it goes.

    Attributes:
        changed: guards everything here; idle workers wait on it. Whoever takes windows from the plan or gives them back
            holds it.
        plan: what is still to be done.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        report: Report,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self.changed = threading.Condition()
        self.plan = plan
        self._store = store
        self._report = report
        self._clock = clock
        self._monotonic = monotonic
        self._failures_in_a_row = 0
        self._resume_at = monotonic()
        self._status = self._status_with(clock(), completed_at=None)

    @property
    def status(self) -> BackfillStatus:
        """Where the ledger stood after the last change; may be asked for without holding anything."""
        return self._status

    def record(self, entries: Sequence[LedgerEntry]) -> None:
        """Write lines without digests; if that fails, this process still knows them."""
        try:
            self._store.commit(entries)
        except StoreError as error:
            self._report.not_noted(error)
        with self.changed:
            self.note(entries)

    # To be called by whoever holds the condition

    def note(self, entries: Sequence[LedgerEntry]) -> None:
        """Remember what became of some windows."""
        self.plan.note(entries)
        self.publish()

    def publish(self) -> None:
        """Bring the status up to date with the plan."""
        before, now = self._status, self.plan.progress
        completed_at = before.completed_at
        if now.complete and completed_at is None:
            completed_at = self._clock()
            traces = sum(entry.traces for entry in self.plan.entries)
            self._report.complete(now, traces, completed_at - before.started_at)
        self._status = self._status_with(before.started_at, completed_at)

    @property
    def failures_in_a_row(self) -> int:
        """How often in a row something has failed."""
        return self._failures_in_a_row

    @property
    def resting_seconds(self) -> float:
        """How long everything is still to rest after a failure; 0 where it need not."""
        return max(0.0, self._resume_at - self._monotonic())

    def rest(self) -> None:
        """After a failure let everything rest a little, longer each time in a row: Tempo may be down."""
        self._failures_in_a_row += 1
        pause = min(_LONGEST_BREAK_SECONDS, 2 ** min(self._failures_in_a_row - 1, 10))
        self._resume_at = self._monotonic() + pause

    def succeeded(self) -> None:
        """Something has worked: what failed before it was no outage."""
        self._failures_in_a_row = 0

    def _status_with(self, started_at: float, completed_at: float | None) -> BackfillStatus:
        plan = self.plan
        return BackfillStatus(
            plan.progress, plan.unsampled, plan.range.start, started_at, completed_at, self._failure()
        )

    def _failure(self) -> str | None:
        failed = [entry for entry in self.plan.entries if entry.state is WindowState.FAILED]
        return max(failed, key=lambda entry: entry.read_at).error if failed else None
