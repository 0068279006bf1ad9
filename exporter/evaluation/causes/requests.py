"""What the search for causes needs of Tempo, and how much of it one attempt may ask for."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from exporter.cause.comparison import PAIRS
from exporter.model.critical_path import TraceSpan
from exporter.model.span import SeriesKey
from exporter.runtime.telemetry import Loop
from exporter.tempo.client import SearchResult
from exporter.tempo.errors import TempoError
from exporter.tempo.query import OperationName
from exporter.tempo.whole_traces import WholeTraces

MAX_SECONDS: Final = 120.0
"""An attempt sends no request after this time."""
_MAX_SLOW: Final = 3
"""Searches that may take too long before the attempt ends; each time less is asked for."""
_MAX_LOOKUPS: Final = 2 * PAIRS
"""Traces read by id where Tempo cannot search for them."""


class TraceSource(Protocol):
    """What the search for causes needs of Tempo; see :class:`exporter.tempo.client.TempoClient`."""

    @property
    def max_limit(self) -> int:
        """Maximum number of traces per search."""

    @property
    def max_range_seconds(self) -> int | None:
        """The longest range that Tempo searches; None while unknown."""

    @property
    def can_search_by_id(self) -> bool:
        """Whether Tempo finds traces by their ids with a search."""

    def search(
        self,
        start: int,
        end: int,
        *,
        loop: Loop,
        limit: int | None = None,
        series: Sequence[SeriesKey] = (),
        service_name: str | None = None,
        operations: Sequence[OperationName] = (),
        may_split: bool = False,
    ) -> SearchResult:
        """Search for traces."""

    def fetch_traces(
        self, trace_ids: Sequence[str], start: int, end: int, attributes: Sequence[str], *, loop: Loop
    ) -> WholeTraces:
        """Fetch whole traces."""

    def fetch_trace(self, trace_id: str, *, loop: Loop, attributes: Sequence[str] = ()) -> list[TraceSpan]:
        """Fetch one trace by its id."""


class NoMoreRequestsError(Exception):
    """The attempt has used up its requests or its time."""


class RequestBudget:
    """Counts the requests of one attempt.

    Attributes:
        requests: number of requests to Tempo so far.
    """

    def __init__(self, tempo: TraceSource, max_requests: int, monotonic: Callable[[], float]) -> None:
        """Start now.

        Args:
            tempo: what is asked.
            max_requests: most requests; where Tempo cannot search by id, reading traces by id comes on top.
            monotonic: seconds that never jump.
        """
        self.requests = 0
        self._tempo = tempo
        self._max_requests = max_requests
        self._monotonic = monotonic
        self._deadline = monotonic() + MAX_SECONDS
        self._lookups = 0
        self._slow = 0

    def request(self) -> None:
        """Count a search.

        Raises:
            NoMoreRequestsError: it must not be sent.
        """
        if self.requests - self._lookups >= self._max_requests or self._monotonic() > self._deadline:
            raise NoMoreRequestsError
        self.requests += 1

    def lookup(self) -> None:
        """Count reading a trace by its id.

        Raises:
            NoMoreRequestsError: it must not be read.
        """
        if self._monotonic() > self._deadline:
            raise NoMoreRequestsError
        most = self._max_requests - (self.requests - self._lookups)
        if self._lookups >= (most if self._tempo.can_search_by_id else _MAX_LOOKUPS):
            raise NoMoreRequestsError
        self.requests += 1
        self._lookups += 1

    def may_ask_for_less(self, error: TempoError) -> bool:
        """Count a failed search, and return whether a smaller one may succeed: this one took too long."""
        self._slow += 1
        return error.is_slow and self._slow <= _MAX_SLOW
