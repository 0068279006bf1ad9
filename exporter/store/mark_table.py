"""The stored marks on time."""

from collections.abc import Sequence

from exporter.store.connection import Connection
from exporter.store.records import StoredMark


class MarkTable:
    """The marks of a store. Thread-safe."""

    def __init__(self, connection: Connection) -> None:
        """Use a connection to a migrated database."""
        self._connection = connection

    def save(self, marks: Sequence[StoredMark]) -> None:
        """Store marks on time, replacing those with the same ids.

        Raises:
            StoreError: nothing was written.
        """
        with self._connection.writing("saving marks") as db:
            db.executemany("INSERT OR REPLACE INTO time_marks (id, source, until, document) VALUES (?, ?, ?, ?)", marks)

    def replace(self, source: str, marks: Sequence[StoredMark]) -> None:
        """Store the marks of a source instead of those stored before.

        Raises:
            StoreError: nothing was written.
        """
        with self._connection.writing("replacing marks") as db:
            db.execute("DELETE FROM time_marks WHERE source = ?", (source,))
            db.executemany("INSERT OR REPLACE INTO time_marks (id, source, until, document) VALUES (?, ?, ?, ?)", marks)

    def delete(self, mark_id: str, source: str) -> bool:
        """Delete a mark of a source; returns whether there was one.

        Raises:
            StoreError: nothing was deleted.
        """
        with self._connection.writing("deleting a mark") as db:
            cursor = db.execute("DELETE FROM time_marks WHERE id = ? AND source = ?", (mark_id, source))
            return cursor.rowcount > 0

    def all(self) -> list[StoredMark]:
        """Return all stored marks on time."""
        with self._connection.reading("reading the marks") as db:
            rows = db.execute("SELECT id, source, until, document FROM time_marks ORDER BY id").fetchall()
        return [StoredMark(*row) for row in rows]
