"""Current traffic of every series against the usual, and that of the source as a whole.

Requests are counted in cells of half a minute. The newest seconds, of which not all spans are searchable yet, are left
out. Where the traffic of all series has fallen, the source (Tempo, a collector, the sampling) has lost it: each series
is then compared with the share that is left.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Final, NamedTuple

from exporter.baseline.traffic import MIN_USUAL_REQUESTS, TrafficBaseline
from exporter.detection.parameters import Parameters
from exporter.detection.traffic.verdict import SourceTraffic, TrafficVerdict, WindowPart, judge_traffic, source_traffic
from exporter.model.span import SeriesKey

CELL_SECONDS: Final = 30
_PART_CELLS: Final = (4, 2, 2, 2)
"""Lengths of the newest parts of a window in cells; those before have :data:`_LONG_PART_CELLS`."""
_LONG_PART_CELLS: Final = 10
_MAX_CELLS: Final = 120
_SOURCE_CELLS: Final = (10, 30, _MAX_CELLS)
"""Windows in which the source is judged; the longer ones only where the shorter have too few requests."""
_MOST: Final = 0xFFFFFFFF


class RecentRequests:
    """Requests of one series by cell."""

    __slots__ = ("_cells", "_first")

    def __init__(self) -> None:
        """Start without requests."""
        self._first = 0
        self._cells: array[int] = array("I")

    def add(self, cell: int, requests: int) -> None:
        """Add requests that ended in a cell."""
        cells = self._cells
        if not cells:
            self._first = cell
        if cell < self._first:
            cells[:0] = array("I", bytes(cells.itemsize * (self._first - cell)))
            self._first = cell
        missing = cell - self._first - len(cells) + 1
        if missing > 0:
            cells.extend(array("I", bytes(cells.itemsize * missing)))
        position = cell - self._first
        cells[position] = min(_MOST, cells[position] + requests)

    def between(self, first: int, behind: int) -> int:
        """Return the requests of the cells ``[first, behind)``."""
        return sum(self._cells[max(0, first - self._first) : max(0, behind - self._first)])

    def discard_before(self, cell: int) -> None:
        """Drop the cells before one."""
        stale = min(len(self._cells), cell - self._first)
        if stale > 0:
            del self._cells[:stale]
            self._first += stale


class CurrentTraffic(NamedTuple):
    """The traffic of one series in its current window.

    Attributes:
        usual: usual number of requests, of all, whether they are read or not.
        verdict: the verdict.
    """

    usual: float
    verdict: TrafficVerdict


class _Part(NamedTuple):
    first: int
    behind: int
    source: float

    @property
    def seconds(self) -> int:
        return (self.behind - self.first) * CELL_SECONDS


class LiveTraffic:
    """Counts the requests of all series and judges them. Not thread-safe.

    Attributes:
        source: traffic of the source against the usual; None while unknown.
        current: the series with a verdict.
    """

    def __init__(self, parameters: Callable[[SeriesKey], Parameters], *, judges_source: bool = True) -> None:
        """Start without requests.

        Args:
            parameters: returns the settings of a series.
            judges_source: whether the source is judged; if not, each series is judged as if it were alone.
        """
        self._judges_source = judges_source
        self._parameters = parameters
        self._series: dict[SeriesKey, RecentRequests] = {}
        self._covered_since: float | None = None
        self._covered_until = 0.0
        self._unread: set[int] = set()
        self._share = 1.0
        self._lost: dict[int, float] = {}
        self._judged: tuple[int, object, object] | None = None
        self.source: SourceTraffic | None = None
        self.current: Mapping[SeriesKey, CurrentTraffic] = {}

    def ratio(self, key: SeriesKey) -> float | None:
        """The current traffic of a series divided by the usual; None while unknown."""
        current = self.current.get(key)
        return None if current is None else current.verdict.evidence.ratio

    def cover(
        self, searched: Sequence[tuple[int, int]], missed: Sequence[tuple[int, int]] = (), share: float = 1.0
    ) -> None:
        """Note what the last reading covers.

        Args:
            searched: the ranges that it covers, Unix seconds.
            missed: parts of them of which nothing was read.
            share: share of the time in them that was read.
        """
        for start, end in sorted(searched):
            if self._covered_since is None or start > self._covered_until:
                self._covered_since = start
            self._covered_until = max(end, self._covered_until)
            # What was missed before may be read by now.
            if self._unread:
                self._unread.difference_update(range(start, end))
        for start, end in missed:
            self._unread.update(range(start, end))
        self._share = share

    def add(self, key: SeriesKey, second: int, weight: int) -> None:
        """Add a request that ended in a second and stands for several."""
        if weight:
            requests = self._series.get(key)
            if requests is None:
                requests = self._series[key] = RecentRequests()
            requests.add((second - 1) // CELL_SECONDS, weight)

    def forget(self, key: SeriesKey) -> None:
        """Drop a series."""
        self._series.pop(key, None)

    def judge(
        self,
        until: float,
        baselines: Mapping[SeriesKey, TrafficBaseline],
        table: object = None,
        marks: object = None,
        excluded_until: Callable[[SeriesKey], float] = lambda _: 0.0,
    ) -> None:
        """Judge all series, unless nothing has changed since the last call.

        Args:
            until: what ended by then is searchable, Unix seconds.
            baselines: the usual traffic of the series that have one.
            table: identifies the baselines.
            marks: identifies what ``excluded_until`` depends on.
            excluded_until: returns the instant before which the requests of a series are not compared, Unix seconds.
        """
        behind = int(until // CELL_SECONDS)
        judged = self._judged
        if judged is not None and judged[0] == behind and judged[1] is table and judged[2] is marks:
            return
        self._judged = behind, table, marks
        for requests in self._series.values():
            requests.discard_before(behind - _MAX_CELLS - 1)
        self._unread = {second for second in self._unread if second >= (behind - _MAX_CELLS) * CELL_SECONDS}
        self._lost = {cell: share for cell, share in self._lost.items() if cell >= behind - _MAX_CELLS}
        self._follow_source(behind, baselines, excluded_until)
        parts = self._parts(behind)
        current: dict[SeriesKey, CurrentTraffic] = {}
        for key, baseline in baselines.items():
            parameters = self._parameters(key)
            if not parameters.traffic_enabled or max(baseline.before, baseline.requests) < MIN_USUAL_REQUESTS:
                continue
            requests = self._series.get(key, _NO_REQUESTS)
            since = excluded_until(key) / CELL_SECONDS
            compared = takewhile(lambda part: part.first >= since, parts) if since else parts  # noqa: B023
            verdict = judge_traffic(self._counts(compared, requests, baseline), baseline, parameters)
            if verdict is not None:
                current[key] = CurrentTraffic(verdict.evidence.usual / self._share, verdict)
        self.current = current

    def _counts(
        self, parts: Iterable[_Part], requests: RecentRequests, baseline: TrafficBaseline
    ) -> Iterator[WindowPart]:
        for part in parts:
            usual = baseline.expected(part.first * CELL_SECONDS, part.behind * CELL_SECONDS)
            count = requests.between(part.first, part.behind)
            # The counts stand for all requests; chance is that of the requests that were read.
            yield WindowPart(part.seconds, count * self._share, usual * self._share, part.source)

    def _covers(self, first: int, behind: int) -> bool:
        """Whether the cells ``[first, behind)`` were read whole."""
        if self._covered_since is None or first * CELL_SECONDS < self._covered_since:
            return False
        return not self._unread or self._unread.isdisjoint(range(first * CELL_SECONDS, behind * CELL_SECONDS))

    def _parts(self, behind: int) -> list[_Part]:
        """Return the parts of the recent past that were read, newest first."""
        parts: list[_Part] = []
        end = behind
        while behind - end < _MAX_CELLS:
            length = _PART_CELLS[len(parts)] if len(parts) < len(_PART_CELLS) else _LONG_PART_CELLS
            first = max(end - length, behind - _MAX_CELLS)
            if not self._covers(first, end):
                break
            source = sum(self._lost.get(cell, 1.0) for cell in range(first, end)) / (end - first)
            parts.append(_Part(first, end, source))
            end = first
        return parts

    def _follow_source(
        self,
        behind: int,
        baselines: Mapping[SeriesKey, TrafficBaseline],
        excluded_until: Callable[[SeriesKey], float],
    ) -> None:
        self.source = None
        if not self._judges_source:
            return
        for length in _SOURCE_CELLS:
            first = behind - length
            if not self._covers(first, behind):
                return
            since, until = first * CELL_SECONDS, behind * CELL_SECONDS
            windows = [
                (
                    self._series.get(key, _NO_REQUESTS),
                    baseline.expected(since, until) * self._share,
                    baseline.dispersion_of(until - since),
                )
                for key, baseline in baselines.items()
                if excluded_until(key) <= since
            ]
            self.source = source_traffic(
                (requests.between(first, behind) * self._share, usual, dispersion)
                for requests, usual, dispersion in windows
            )
            if self.source is None:
                continue
            if self.source.is_lost:
                usual_of_cell = sum(usual for _, usual, _ in windows) / length
                for cell in range(first, behind):
                    total = sum(requests.between(cell, cell + 1) for requests, _, _ in windows) * self._share
                    self._lost[cell] = min(1.0, total / usual_of_cell)
            return


_NO_REQUESTS: Final = RecentRequests()
