"""Filter, order and page of the table of endpoints: parsed from a URL, applied to the series, written into URLs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from exporter.baseline.levels import FallbackLevel
from exporter.detection.flag import FlagKind
from exporter.evaluation.snapshot import SeriesStatus
from exporter.web.pages import formatting, links

PAGE_ROWS: Final = 50


class StateFilter(StrEnum):
    """The state that endpoints must have."""

    ANY = ""
    ANOMALOUS = "anomalous"
    SHIFT = "shift"
    ERRORS = "errors"
    TRAFFIC = "traffic"
    REGRESSION = "regression"
    OUTLIER = "outlier"
    LEARNING = "learning"
    STREAM = "stream"


class Sort(StrEnum):
    """The column that the table is sorted by."""

    SCORE = "score"
    LOST = "lost"
    NAME = "name"
    P50 = "p50"
    P95 = "p95"
    RATIO = "ratio"
    ERRORS = "errors"
    TRACES = "traces"
    TRAFFIC = "traffic"
    LEVEL = "level"

    @property
    def descending_first(self) -> bool:
        """Whether the default direction is descending."""
        return self not in (Sort.NAME, Sort.LEVEL, Sort.TRAFFIC)


_STATES: Final[Mapping[StateFilter, Callable[[SeriesStatus], bool]]] = {
    StateFilter.ANY: lambda status: True,  # noqa: ARG005
    StateFilter.ANOMALOUS: lambda status: status.is_anomalous,
    StateFilter.SHIFT: lambda status: bool(status.shift),
    StateFilter.ERRORS: lambda status: bool(status.of_kind(FlagKind.ERRORS).firing),
    StateFilter.OUTLIER: lambda status: bool(status.outlier),
    StateFilter.REGRESSION: lambda status: bool(status.regressed),
    StateFilter.TRAFFIC: lambda status: bool(status.of_kind(FlagKind.TRAFFIC).firing),
    StateFilter.LEARNING: lambda status: status.learning,
    StateFilter.STREAM: lambda status: status.stream is not None,
}
# For sorting by anything but the name. Unknown values come last in either direction.
_VALUES: Final[Mapping[Sort, Callable[[SeriesStatus], float | None]]] = {
    Sort.SCORE: lambda status: status.score,
    Sort.LOST: lambda status: None if status.time_lost is None else status.time_lost.seconds,
    Sort.P50: lambda status: status.current_p50_seconds,
    Sort.P95: lambda status: status.current_p95_seconds,
    Sort.RATIO: formatting.p95_ratio,
    Sort.ERRORS: lambda status: status.current_error_ratio,
    Sort.TRAFFIC: formatting.traffic_ratio,
    Sort.TRACES: lambda status: status.current_traces,
    Sort.LEVEL: lambda status: status.level,
}


@dataclass(frozen=True, slots=True)
class TablePage:
    """One page of the matching endpoints.

    Attributes:
        rows: the endpoints to show.
        first: position of the first row, from 1; 0 if no endpoint matches.
        total: how many endpoints match.
        number: number of the page, from 1.
        pages: how many pages there are.
    """

    rows: Sequence[SeriesStatus]
    first: int
    total: int
    number: int
    pages: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Filter, order and page. Invalid values in a URL are treated as absent.

    Attributes:
        text: words that must all occur in the names, ignoring case.
        state: required state.
        level: required fallback level.
        labels: required labels, name and value.
        sort: column to sort by.
        descending: whether high values come first.
        page: number of the page, from 1.
    """

    text: str = ""
    state: StateFilter = StateFilter.ANY
    level: FallbackLevel | None = None
    labels: tuple[tuple[str, str], ...] = ()
    sort: Sort = Sort.SCORE
    descending: bool = True
    page: int = 1

    @classmethod
    def from_query(cls, query: Mapping[str, list[str]], label_names: Sequence[str] = ()) -> "Selection":
        """Parse a query string; labels are parameters with their names."""
        given = {name: values[-1] for name, values in query.items()}
        sort = Sort(given["sort"]) if given.get("sort") in set(Sort) else Sort.SCORE
        level, page = given.get("level", ""), given.get("page", "")
        return cls(
            text=given.get("q", "").strip(),
            state=StateFilter(given["state"]) if given.get("state") in set(StateFilter) else StateFilter.ANY,
            level=FallbackLevel(int(level)) if level in {str(int(each)) for each in FallbackLevel} else None,
            labels=tuple((name, given[name]) for name in label_names if given.get(name)),
            sort=sort,
            descending={"asc": False, "desc": True}.get(given.get("order", ""), sort.descending_first),
            page=max(1, int(page)) if page.isascii() and page.isdigit() and len(page) < 9 else 1,
        )

    @property
    def is_filtered(self) -> bool:
        """Whether any filter is set."""
        return bool(self.text or self.state or self.level or self.labels)

    def url(self) -> str:
        """The URL of the status page with this selection."""
        return links.page_url(links.START, dict(self.parameters()))

    def parameters(self) -> Sequence[tuple[str, str]]:
        """The URL parameters: all values that differ from the default."""
        order = "" if self.descending == self.sort.descending_first else "desc" if self.descending else "asc"
        given = (
            ("q", self.text),
            ("state", self.state.value),
            ("level", str(int(self.level)) if self.level else ""),
            *self.labels,
            ("sort", "" if self.sort is Sort.SCORE else self.sort.value),
            ("order", order),
            ("page", str(self.page) if self.page > 1 else ""),
        )
        return [(name, value) for name, value in given if value]

    def sorted_by(self, sort: Sort) -> "Selection":
        """Return the selection after a click on a column: sorted by it, in reverse if it was already; first page."""
        descending = not self.descending if sort is self.sort else sort.descending_first
        return replace(self, sort=sort, descending=descending, page=1)

    def apply(self, series: Sequence[SeriesStatus]) -> TablePage:
        """Select a page from all endpoints, which must be sorted by name."""
        wanted = [word.casefold() for word in self.text.split()]
        has_state = _STATES[self.state]
        matching = [
            status
            for status in series
            if has_state(status)
            and (self.level is None or status.level is self.level)
            and (not wanted or _contains(status, wanted))
            and set(self.labels) <= set(status.key.labels)
        ]
        pages = max(1, -(-len(matching) // PAGE_ROWS))
        number = min(self.page, pages)
        first = (number - 1) * PAGE_ROWS
        rows = self._sorted(matching)[first : first + PAGE_ROWS]
        return TablePage(rows, first + 1 if rows else 0, len(matching), number, pages)

    def _sorted(self, matching: list[SeriesStatus]) -> list[SeriesStatus]:
        if self.sort is Sort.NAME:
            return matching[::-1] if self.descending else matching
        value_of = _VALUES[self.sort]
        sign = -1 if self.descending else 1
        # Endpoints with equal values stay sorted by name.
        known = sorted(
            (sign * value, position)
            for position, status in enumerate(matching)
            if (value := value_of(status)) is not None
        )
        unknown = [status for status in matching if value_of(status) is None]
        ordered = [matching[position] for _, position in known] + unknown
        if not self.is_default_order:
            return ordered
        # Anomalous endpoints come first, even if their current score is low.
        anomalous = sorted((status for status in ordered if status.is_anomalous), key=self.urgency)
        return [*anomalous, *(status for status in ordered if not status.is_anomalous)]

    @staticmethod
    def urgency(status: SeriesStatus) -> tuple[float, float]:
        """Sort anomalous endpoints: those with the most time lost first, of equal ones those with the highest score."""
        lost = 0.0 if status.time_lost is None else status.time_lost.seconds
        return -lost, -(status.score or 0.0)

    @property
    def is_default_order(self) -> bool:
        """Whether the order is that of a URL without parameters."""
        return self.sort is Sort.SCORE and self.descending


def _contains(status: SeriesStatus, words_: Sequence[str]) -> bool:
    names = " ".join(status.key.parts).casefold()
    return all(word in names for word in words_)
