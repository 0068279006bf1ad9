"""Stores the incidents of the evaluated history, so that those from before the exporter ran are listed, too.

They are assembled from all stored shifts whenever further hours with shifts are evaluated, and replace those of before:
the same shifts give the same incidents, regardless of how often and in which order the history is read.
"""

from typing import Final

from exporter.cause.incidents import NEAR_SECONDS, Incident
from exporter.cause.past_incidents import PastShift, past_incidents
from exporter.evaluation.incident_tracker import decode_incident, encode_incident
from exporter.runtime.logs import LimitedLog, Log
from exporter.store import Store, StoreError

_MAX_SHIFTS: Final = 50_000
"""Shifts that are looked at, the newest."""


class PastIncidents:
    """Keeps the incidents of the past. Not thread-safe."""

    def __init__(self, store: Store, log: Log, quiet_log: LimitedLog) -> None:
        """Take the parts; nothing is read yet.

        Args:
            store: the shifts and the incidents.
            log: receives how many were found.
            quiet_log: receives failures.
        """
        self._store = store
        self._log = log
        self._quiet_log = quiet_log

    def rebuild(self) -> bool:
        """Assemble the incidents of the past, and store them. A failure is logged, never raised.

        Returns:
            Whether they are stored.
        """
        try:
            self._rebuild()
        except StoreError as error:
            self._quiet_log.error(
                "past_incidents_not_saved",
                "cannot save the incidents of the past; they are saved after the next evaluation",
                error=error,
            )
            return False
        return True

    def _rebuild(self) -> None:
        before = {row.id: row for row in self._store.incidents.reconstructed()}
        shifts = [PastShift(*each) for each in self._store.shifts(_MAX_SHIFTS)]
        found = past_incidents(shifts, self._seen(shifts))
        if found:
            # Older ones are deleted, or are about to be.
            oldest = self._store.totals().oldest_window_start or 0
            found = [each for each in found if (each.end or 0.0) > oldest]
        rows = {each.id: encode_incident(each) for each in found}
        changed = [row for row in rows.values() if row != before.get(row.id)]
        deleted = before.keys() - rows.keys()
        if not changed and not deleted:
            return
        self._store.incidents.replace_reconstructed(changed, deleted)
        self._log.info(
            "past_incidents_found",
            "the incidents of the evaluated history have changed",
            incidents=len(rows),
            new=len(rows.keys() - before.keys()),
            deleted=len(deleted),
        )

    def _seen(self, shifts: list[PastShift]) -> list[Incident]:
        """Return the incidents of current traffic in the time of some shifts."""
        if not shifts:
            return []
        start = min(each.period.since for each in shifts)
        rows = self._store.incidents.seen(start - NEAR_SECONDS)
        decoded = (decode_incident(row, self._quiet_log) for row in rows)
        return [each for each in decoded if each is not None]
