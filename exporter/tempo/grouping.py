"""Decides how searches divide the spans of a trace into span sets.

Parts of one trace may lie in several blocks of Tempo: spans arrive as they end, so a long request is stored later than
the calls it made. A search does not join them. Of all span sets of a trace with the same values of ``by()`` it returns
the one with most spans, and drops the others without a word. With one span set for each span nothing is dropped.

Joining a trace of many span sets takes Tempo time in proportion to the square of their number. So where a trace has
very many spans in scope, or a search took too long, searches make one span set for each service for a while: of a
service whose spans lie in several blocks only one part is found then. A Tempo that refuses ``by()`` gets queries
without it.
"""

from collections.abc import Callable
from typing import Final

from exporter.runtime.locks import LockRank, new_lock
from exporter.runtime.logs import Log
from exporter.tempo.query import Grouping
from exporter.tempo.settings import Scope

MOST_SPAN_SETS: Final = 500
"""Spans in scope of one trace from which on a span set for each costs Tempo too much: 0.06 s of CPU for 200 of them,
0.6 s for 1000, 6 s for 3000 (Tempo 2.10.8)."""
_COARSE_SECONDS: Final = 3600.0
_COARSER: Final[dict[Grouping, Grouping]] = {"span": "service", "service": "none"}


class SearchGrouping:
    """How searches group spans at present. Thread-safe."""

    def __init__(self, scope: Scope, monotonic: Callable[[], float], log: Log) -> None:
        """Start with the finest grouping that the scope needs.

        Args:
            scope: which spans are searched for; a root span competes with no other span of its trace.
            monotonic: seconds of a monotonic clock.
            log: receives changes.
        """
        self._lock = new_lock(LockRank.TEMPO_LIMITS)
        self._monotonic = monotonic
        self._log = log
        self._finest: Grouping = "span" if scope == "entry" else "none"
        self._is_accepted = False
        self._coarse_until: float | None = None

    @property
    def current(self) -> Grouping:
        """The grouping for the next search."""
        coarse_until = self._coarse_until
        is_coarse = coarse_until is not None and self._monotonic() < coarse_until
        return "service" if is_coarse and self._finest == "span" else self._finest

    def after_refusal(self, refused: Grouping) -> Grouping | None:
        """Return the grouping to try after Tempo refused a query; None if the grouping cannot be the reason."""
        return None if self._is_accepted else _COARSER.get(refused)

    def accepted(self, grouping: Grouping, refused: Grouping | None) -> None:
        """Remember that Tempo answered a search, maybe after it refused a finer grouping."""
        if self._is_accepted:
            return
        with self._lock:
            self._is_accepted = True
            if refused is not None:
                self._finest = grouping
        if refused is not None:
            self._log.warning(
                "search_grouping_refused",
                "Tempo refuses to group spans with by(); where spans of a trace lie in several blocks, it returns only "
                "some of them. Upgrade Tempo, or set tempo.scope: root",
                refused=refused,
                used=grouping,
            )

    def found(self, spans_of_a_trace: int) -> None:
        """Note the most spans in scope that a trace of a response had."""
        if spans_of_a_trace > MOST_SPAN_SETS:
            self._coarsen("a trace has very many spans in scope", spans=spans_of_a_trace)

    def too_slow(self, grouping: Grouping) -> None:
        """Note that a search took too long."""
        if grouping == "span":
            self._coarsen("a search took too long")

    def _coarsen(self, reason: str, **fields: object) -> None:
        now = self._monotonic()
        with self._lock:
            is_new = self._finest == "span" and (self._coarse_until is None or now >= self._coarse_until)
            self._coarse_until = now + _COARSE_SECONDS
        if is_new:
            self._log.info(
                "search_grouping_coarse",
                "searches group spans by service for an hour, to spare Tempo; of a service whose spans of one trace "
                "lie in several blocks, some are missing then",
                reason=reason,
                **fields,
            )
