"""Which endpoints a table shows, and in which order: read from an address, applied, and written back into addresses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from exporter.baseline.levels import FallbackLevel
from exporter.evaluation.snapshot import SeriesStatus
from exporter.web.pages import links, words

PAGE_ROWS: Final = 50


class State(StrEnum):
    """How an endpoint stands."""

    ANY = ""
    SHIFT = "shift"
    OUTLIER = "outlier"
    LEARNING = "learning"


class Sort(StrEnum):
    """What a table is sorted by."""

    SCORE = "score"
    NAME = "name"
    P50 = "p50"
    P95 = "p95"
    RATIO = "ratio"
    TRACES = "traces"
    LEVEL = "level"

    @property
    def falls(self) -> bool:
        """Whether high comes first unless somebody asks for the other way round."""
        return self not in (Sort.NAME, Sort.LEVEL)


_STATES: Final[Mapping[State, Callable[[SeriesStatus], bool]]] = {
    State.ANY: lambda status: True,  # noqa: ARG005
    State.SHIFT: lambda status: bool(status.shift),
    State.OUTLIER: lambda status: bool(status.outlier),
    State.LEARNING: lambda status: status.learning,
}
# Names are compared as they are published; what is unknown comes last either way.
_VALUES: Final[Mapping[Sort, Callable[[SeriesStatus], float | None]]] = {
    Sort.SCORE: lambda status: status.score,
    Sort.P50: lambda status: status.current_p50_seconds,
    Sort.P95: lambda status: status.current_p95_seconds,
    Sort.RATIO: words.ratio,
    Sort.TRACES: lambda status: status.current_traces,
    Sort.LEVEL: lambda status: status.level,
}


@dataclass(frozen=True, slots=True)
class Selected:
    """A page of the endpoints that were asked for.

    Attributes:
        rows: what to show.
        first: position of the first of them, from 1; 0 where there are none.
        total: how many endpoints were asked for.
        page: which page it is, from 1.
        pages: how many there are.
    """

    rows: Sequence[SeriesStatus]
    first: int
    total: int
    page: int
    pages: int


@dataclass(frozen=True, slots=True)
class Selection:
    """What somebody asked for. What makes no sense in an address is as if it were not there.

    Attributes:
        text: words that must each occur in the names, in any case.
        state: how the endpoint must stand.
        level: the fallback level it must stand on.
        sort: what to sort by.
        descending: whether high comes first.
        page: which page, from 1.
    """

    text: str = ""
    state: State = State.ANY
    level: FallbackLevel | None = None
    sort: Sort = Sort.SCORE
    descending: bool = True
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, list[str]]) -> "Selection":
        """Read a query."""
        given = {name: values[-1] for name, values in query.items()}
        sort = Sort(given["sort"]) if given.get("sort") in set(Sort) else Sort.SCORE
        level, page = given.get("level", ""), given.get("page", "")
        return cls(
            text=given.get("q", "").strip(),
            state=State(given["state"]) if given.get("state") in set(State) else State.ANY,
            level=FallbackLevel(int(level)) if level in {str(int(each)) for each in FallbackLevel} else None,
            sort=sort,
            descending={"asc": False, "desc": True}.get(given.get("order", ""), sort.falls),
            page=max(1, int(page)) if page.isascii() and page.isdigit() and len(page) < 9 else 1,
        )

    @property
    def narrowed(self) -> bool:
        """Whether anything is left out."""
        return bool(self.text or self.state or self.level)

    def address(self) -> str:
        """The address that asks for it."""
        return links.address(links.START, dict(self.parameters()))

    def parameters(self) -> Sequence[tuple[str, str]]:
        """What of it stands in an address: whatever is not as usual."""
        order = "" if self.descending == self.sort.falls else "desc" if self.descending else "asc"
        given = (
            ("q", self.text),
            ("state", self.state.value),
            ("level", str(int(self.level)) if self.level else ""),
            ("sort", "" if self.sort is Sort.SCORE else self.sort.value),
            ("order", order),
            ("page", str(self.page) if self.page > 1 else ""),
        )
        return [(name, value) for name, value in given if value]

    def sorted_by(self, sort: Sort) -> "Selection":
        """The same sorted by something, the other way round if it is already; from the first page."""
        descending = not self.descending if sort is self.sort else sort.falls
        return replace(self, sort=sort, descending=descending, page=1)

    def apply(self, series: Sequence[SeriesStatus]) -> Selected:
        """Choose from all endpoints, which come sorted by name."""
        wanted = [word.casefold() for word in self.text.split()]
        holds = _STATES[self.state]
        chosen = [
            status
            for status in series
            if holds(status)
            and (self.level is None or status.level is self.level)
            and (not wanted or _contains(status, wanted))
        ]
        pages = max(1, -(-len(chosen) // PAGE_ROWS))
        page = min(self.page, pages)
        first = (page - 1) * PAGE_ROWS
        rows = self._in_order(chosen)[first : first + PAGE_ROWS]
        return Selected(rows, first + 1 if rows else 0, len(chosen), page, pages)

    def _in_order(self, chosen: list[SeriesStatus]) -> list[SeriesStatus]:
        if self.sort is Sort.NAME:
            return chosen[::-1] if self.descending else chosen
        value = _VALUES[self.sort]
        sign = -1 if self.descending else 1
        # Sorting keeps what is equal in its order, by name.
        known = sorted(
            ((sign * found, position) for position, status in enumerate(chosen) if (found := value(status)) is not None)
        )
        unknown = [status for status in chosen if value(status) is None]
        ordered = [chosen[position] for _, position in known] + unknown
        # What is anomalous comes first in the usual order, whatever its score is at this moment.
        return sorted(ordered, key=lambda status: not status.shift) if self.usual_order else ordered

    @property
    def usual_order(self) -> bool:
        """Whether it is sorted as it is where nobody asks for another order."""
        return self.sort is Sort.SCORE and self.descending


def _contains(status: SeriesStatus, wanted: Sequence[str]) -> bool:
    names = f"{status.key.service_name} {status.key.span_name}".casefold()
    return all(word in names for word in wanted)
