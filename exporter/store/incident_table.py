"""The stored incidents, those seen in current traffic and those found in the history."""

from collections.abc import Collection, Sequence
from typing import Final

from exporter.store.connection import Connection
from exporter.store.records import INCIDENT_COLUMNS, StoredIncident

_LATEST: Final = 1e15
"""Later than any beginning, Unix seconds."""


class IncidentTable:
    """The incidents of a store. Thread-safe."""

    def __init__(self, connection: Connection) -> None:
        """Use a connection to a migrated database."""
        self._connection = connection

    def save(self, incidents: Sequence[StoredIncident]) -> None:
        """Store incidents, replacing those with the same ids.

        Raises:
            StoreError: nothing was written.
        """
        with self._connection.writing("saving incidents") as db:
            db.executemany(f"INSERT OR REPLACE INTO incidents ({INCIDENT_COLUMNS}) VALUES (?, ?, ?, ?, ?)", incidents)

    def replace_reconstructed(self, incidents: Sequence[StoredIncident], deleted: Collection[str]) -> None:
        """Store incidents that were found in the history, and delete others of that kind.

        An incident that was seen in current traffic is never changed, even if it has the same id.

        Args:
            incidents: new ones, and those that have changed.
            deleted: ids of those that are no longer found.

        Raises:
            StoreError: nothing was written.
        """
        with self._connection.writing("saving incidents of the past") as db:
            db.executemany(
                "DELETE FROM incidents WHERE id = ? AND is_reconstructed", ((incident_id,) for incident_id in deleted)
            )
            db.executemany(
                f"INSERT INTO incidents ({INCIDENT_COLUMNS}) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET start = excluded.start, end = excluded.end,"
                " document = excluded.document WHERE is_reconstructed",
                (each._replace(is_reconstructed=True) for each in incidents),
            )

    def reconstructed(self) -> list[StoredIncident]:
        """Return all incidents that were found in the history."""
        with self._connection.reading("reading the incidents of the past") as db:
            rows = db.execute(f"SELECT {INCIDENT_COLUMNS} FROM incidents WHERE is_reconstructed ORDER BY start, id")
            return [StoredIncident(*row) for row in rows]

    def seen(self, since: float) -> list[StoredIncident]:
        """Return the incidents seen in current traffic that had not ended at an instant (Unix seconds)."""
        with self._connection.reading("reading the incidents of current traffic") as db:
            rows = db.execute(
                f"SELECT {INCIDENT_COLUMNS} FROM incidents"
                " WHERE NOT is_reconstructed AND (end IS NULL OR end >= ?) ORDER BY start, id",
                (since,),
            )
            return [StoredIncident(*row) for row in rows]

    def unended(self) -> list[StoredIncident]:
        """Return the incidents that have no end."""
        with self._connection.reading("reading the open incidents") as db:
            rows = db.execute(f"SELECT {INCIDENT_COLUMNS} FROM incidents WHERE end IS NULL ORDER BY start, id")
            return [StoredIncident(*row) for row in rows]

    def newest(self, limit: int, before: tuple[float, str] | None = None) -> list[StoredIncident]:
        """Return the newest incidents, the newest first.

        Args:
            limit: how many at most.
            before: beginning and id of the incident after which the list continues.
        """
        start, incident_id = before or (_LATEST, "")
        with self._connection.reading("reading incidents") as db:
            rows = db.execute(
                f"SELECT {INCIDENT_COLUMNS} FROM incidents WHERE (start, id) < (?, ?)"
                " ORDER BY start DESC, id DESC LIMIT ?",
                (start, incident_id, limit),
            )
            return [StoredIncident(*row) for row in rows]

    def get(self, incident_id: str) -> StoredIncident | None:
        """Return one incident; None if the id is unknown."""
        with self._connection.reading("reading an incident") as db:
            row = db.execute(f"SELECT {INCIDENT_COLUMNS} FROM incidents WHERE id = ?", (incident_id,)).fetchone()
        return None if row is None else StoredIncident(*row)
