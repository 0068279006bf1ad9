"""A Tempo in memory that holds whole traces, and causes for tests of what shows them."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from exporter.cause.incidents import Role
from exporter.cause.profile import TraceProfile
from exporter.cause.sentence import sentence
from exporter.cause.verdict import compare
from exporter.evaluation.causes.shift_cause import Shift, ShiftCause
from exporter.evaluation.live.time_lost import TimeLost
from exporter.evaluation.snapshot import IncidentPart, SeriesStatus, Snapshot
from exporter.model.critical_path import TraceSpan
from exporter.model.span import SeriesKey, Span
from exporter.runtime.telemetry import Loop
from exporter.tempo.client import SearchResult
from exporter.tempo.errors import RangeTooLongError
from exporter.tempo.query import OperationName
from exporter.tempo.whole_traces import WholeTraces
from tests.support.cause_traces import MS, Work, profile, shop, spans_of
from tests.support.samples import NOON

CHECKOUT = SeriesKey("checkout", "POST /pay")
_NS = 1_000_000_000


def drawn_shop(rng: random.Random, **changes: Any) -> Work:
    """Return a checkout whose times vary by a quarter."""
    usual: dict[str, Any] = {"charge_ms": 20.0, "insert_ms": 5.0, "cart_ms": 8.0, "checkout_ms": 10.0} | changes
    return shop(
        **{name: value * rng.uniform(0.8, 1.25) if name.endswith("_ms") else value for name, value in usual.items()}
    )


@dataclass
class WholeTempo:
    """Searches traces as Tempo does, and returns them whole.

    Attributes:
        traces: the spans of each trace by id; a search finds its server spans, in this order.
        can_search_by_id: whether whole traces are found by a search.
        allowed_seconds: maximum range of a search; longer ones are rejected.
        max_range_seconds: the same, once a rejection has reported it.
        withheld: how many spans of each trace a search by ids leaves out.
        before_request: called before every request with its kind; may raise.
        searches: the searched ranges and limits.
        fetches: the numbers of ids of each search by ids.
        lookups: the ids that were read one by one.
    """

    traces: dict[str, list[TraceSpan]] = field(default_factory=dict)
    can_search_by_id: bool = True
    max_limit: int = 5000
    allowed_seconds: int | None = None
    max_range_seconds: int | None = None
    withheld: int = 0
    before_request: Callable[[str], object] = lambda _: None
    searches: list[tuple[int, int, int]] = field(default_factory=list)
    services: list[str | None] = field(default_factory=list)
    operations: list[tuple[OperationName, ...]] = field(default_factory=list)
    fetches: list[int] = field(default_factory=list)
    lookups: list[str] = field(default_factory=list)
    loops: set[Loop] = field(default_factory=set)
    _numbers: Any = field(default_factory=lambda: count(1))

    @property
    def requests(self) -> int:
        return len(self.searches) + len(self.fetches) + len(self.lookups)

    def fill(self, start: float, end: float, number: int, work: Callable[[random.Random], Work], seed: int = 1) -> None:
        """Add traces that end evenly spread in a range of Unix seconds."""
        rng = random.Random(seed)
        for position in range(number):
            made = work(rng)
            ended_at = start + (position + 0.5) * (end - start) / number
            spans = spans_of(made, round(ended_at * _NS - made.ms * MS))
            self.traces[f"{next(self._numbers):032x}"] = [
                each._replace(
                    span_id=f"{int(each.span_id):016x}",
                    parent_id=f"{int(each.parent_id):016x}" if each.parent_id else "",
                )
                for each in spans
            ]

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
        limit = limit or self.max_limit
        self.searches.append((start, end, limit))
        self.services.append(service_name)
        self.operations.append(tuple(operations))
        self._begin("search", start, end, loop)
        spans = []
        for trace_id, trace in self.traces.items():
            names = {OperationName(each.service_name, each.name) for each in trace}
            is_within = trace[0].start_ns <= end * _NS and trace[0].start_ns + trace[0].duration_ns >= start * _NS
            if not is_within or not names.issuperset(operations):
                continue
            for each in trace:
                key = SeriesKey(each.service_name, each.name)
                is_wanted = each.service_name == service_name if service_name is not None else key in series
                if is_wanted and each.kind == "server":
                    spans.append(Span(trace_id, each.span_id, key, each.start_ns, each.duration_ns))
        return SearchResult(spans[:limit], min(limit, len(spans)), limit, 0, 0, 0, 0)

    def fetch_traces(
        self, trace_ids: Sequence[str], start: int, end: int, attributes: Sequence[str], *, loop: Loop
    ) -> WholeTraces:
        self.fetches.append(len(trace_ids))
        self._begin("fetch", start, end, loop)
        found = WholeTraces()
        for trace_id in trace_ids:
            trace = self.traces[trace_id]
            if trace[0].start_ns <= end * _NS and trace[0].start_ns + trace[0].duration_ns >= start * _NS:
                found.spans[trace_id] = [*trace[:1], *trace[1 + self.withheld :]]
        return found

    def fetch_trace(self, trace_id: str, *, loop: Loop, attributes: Sequence[str] = ()) -> list[TraceSpan]:
        self.lookups.append(trace_id)
        self._begin("lookup", 0, 0, loop)
        return self.traces[trace_id]

    def _begin(self, kind: str, start: int, end: int, loop: Loop) -> None:
        self.loops.add(loop)
        if self.allowed_seconds is not None and end - start > self.allowed_seconds:
            self.max_range_seconds = self.allowed_seconds
            raise RangeTooLongError("too long a range", max_seconds=self.allowed_seconds, status=400)
        self.before_request(kind)


def with_cause(snapshot: Snapshot, **changes: Any) -> Snapshot:
    """Return a snapshot whose firing flags have a known cause and an incident; for ``changes`` see :func:`a_cause`."""
    return replace(
        snapshot,
        series=tuple(
            replace(
                each,
                cause=a_cause(Shift(each.key, float(NOON), each.since, 2.5, 300), **changes),
                incident=IncidentPart("4f2a9c31d07b", Role.VICTIM),
            )
            if each.shift
            else each
            for each in snapshot.series
        ),
    )


def profiles(seed: int, number: int = 20, **changes: Any) -> list[TraceProfile]:
    """Return traces of the shop that were taken apart."""
    rng = random.Random(seed)
    return [profile(drawn_shop(rng, **changes), f"{position + 1:032x}") for position in range(number)]


def a_cause(shift: Shift | None = None, **changes: Any) -> ShiftCause:
    """Return a cause as the comparison of real traces finds it; by default a slow database call in payments.

    Args:
        shift: the shift.
        changes: what is different in the incident, see :func:`.cause_traces.shop`.
    """
    verdict = compare(profiles(1, **(changes or {"insert_ms": 640.0})), profiles(2), "seed")
    return ShiftCause(
        shift or Shift(CHECKOUT, float(NOON), NOON - 75.5, 2.5, 300),
        verdict,
        sentence(verdict),
        slow_trace_id=f"{0xBAD:032x}",
        usual_trace_id=f"{0x600D:032x}",
        requests=5,
        seconds=1.25,
        reference="the same hour",
    )


def two_that_share_a_cause() -> tuple[SeriesStatus, SeriesStatus]:
    """Return two endpoints that are slow because of a slow database call in payments."""
    since = NOON - 75.5
    lost = TimeLost(42, 130.5, since)
    payments = SeriesStatus(
        SeriesKey("payments", "POST /charge"), current_traces=300, score=9.5, shift=True, since=since, time_lost=lost
    )
    cause = a_cause(Shift(CHECKOUT, float(NOON), since, 2.5, 300))
    return replace(payments, key=CHECKOUT, score=2.5, cause=cause), payments
