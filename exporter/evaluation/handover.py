"""Replaces the baselines in use by those of changed settings, once these are there."""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from exporter.evaluation.baseline_table import BaselineTable
from exporter.evaluation.snapshot import HistoryFacts


class TableSource(Protocol):
    """Where baseline tables come from; see :class:`exporter.evaluation.manager.BaselineManager`."""

    def table(self, now: float) -> BaselineTable:
        """The baseline table for an instant."""

    def has_table(self, now: float) -> bool:
        """Whether the table of the hour of an instant is there."""

    def facts(self) -> HistoryFacts:
        """Totals of the stored history."""


class _Successor(NamedTuple):
    source: TableSource
    on_adopted: Callable[[], None]


class BaselineHandover:
    """The baselines that the poller uses: those of the present settings, or of the previous ones until these are there.

    :meth:`table` belongs to the poller's thread. ``on_adopted`` runs in it before the first new table is returned, so
    that the poller never sees baselines of one configuration beside settings of another.
    """

    def __init__(self, source: TableSource) -> None:
        """Begin with a source."""
        self._source = source
        # Appended by any thread, taken by the poller's; the last one counts.
        self._successors: deque[_Successor] = deque()

    def replace(self, source: TableSource, on_adopted: Callable[[], None]) -> None:
        """Change to another source as soon as it has a table. Thread-safe; the last call counts.

        Args:
            source: the other source.
            on_adopted: called when it comes into use, from the thread of :meth:`table`.
        """
        self._successors.append(_Successor(source, on_adopted))

    def table(self, now: float) -> BaselineTable:
        """The baseline table for an instant."""
        while len(self._successors) > 1:
            self._successors.popleft()
        # A source without any table of the hour is not worth waiting for.
        if self._successors and (self._successors[0].source.has_table(now) or not self._source.has_table(now)):
            successor = self._successors.popleft()
            self._source = successor.source
            successor.on_adopted()
        return self._source.table(now)

    def facts(self) -> HistoryFacts:
        """Totals of the stored history."""
        return self._source.facts()
