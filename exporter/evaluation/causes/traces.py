"""Reads the chosen traces whole, and takes them apart.

All traces of a range come with one search by their ids. A trace is read by its id only where that search did not return
all of it.
"""

from collections.abc import Sequence
from typing import Final

from exporter.cause.profile import TraceProfile, profile_of
from exporter.evaluation.causes.candidates import Candidates
from exporter.evaluation.causes.requests import NoMoreRequestsError, RequestBudget, TraceSource
from exporter.model.critical_path import TraceSpan, critical_path
from exporter.model.span import Span
from exporter.runtime.telemetry import FailureReason, Loop
from exporter.tempo.errors import RangeTooLongError, TempoError
from exporter.tempo.whole_traces import MAX_IDS, WholeTraces

_MAX_UNREADABLE: Final = 3
"""Traces that may fail to be read by id before the attempt ends."""
_OF_ONE_TRACE: Final[frozenset[FailureReason]] = frozenset({"refused", "malformed", "server_error"})
"""Reasons for which reading one trace may fail although others can be read."""
_NS: Final = 1_000_000_000


class WholeTraceReader:
    """Reads the traces of one attempt."""

    def __init__(self, tempo: TraceSource, budget: RequestBudget, attributes: Sequence[str], loop: Loop) -> None:
        """Take the source.

        Args:
            tempo: the traces.
            budget: what the attempt may ask for.
            attributes: attributes of the spans to read, with scope, such as ``resource.service.version``.
            loop: the loop that sends the requests.
        """
        self._tempo = tempo
        self._budget = budget
        self._attributes = attributes
        self._loop: Loop = loop
        self._lookups_found_more = True
        self._most_ids = MAX_IDS
        self._unreadable = 0

    def fetch(self, candidates: Sequence[Candidates], chosen: Sequence[Span]) -> WholeTraces:
        """Fetch the chosen traces whole, with one search for each range in which they lie."""
        wanted = {span.trace_id: span for span in chosen}
        whole = WholeTraces()
        groups = [[span for span in each.spans if wanted.get(span.trace_id) is span] for each in candidates]
        longest = self._tempo.max_range_seconds
        while groups and self._tempo.can_search_by_id:
            group = groups.pop(0)
            start, end = _extent(group)
            if longest is not None and end - start > longest:
                if len(group) > 1:
                    groups = [*_within(group, longest), *groups]
                    continue
                # Tempo finds it in any part of its time.
                end = start + longest
            if len(group) > self._most_ids:
                groups = [group[: self._most_ids], group[self._most_ids :], *groups]
                continue
            if not group:
                continue
            try:
                self._budget.request()
                ids = [span.trace_id for span in group]
                whole.update(self._tempo.fetch_traces(ids, start, end, self._attributes, loop=self._loop))
            except NoMoreRequestsError:
                break
            except RangeTooLongError as error:
                if end - start <= error.max_seconds:
                    raise
                longest = error.max_seconds
                groups.insert(0, group)
            except TempoError as error:
                if not self._budget.may_ask_for_less(error) or len(group) == 1:
                    raise
                self._most_ids = (len(group) + 1) // 2
                groups.insert(0, group)
        return whole

    def take_apart(self, span: Span, whole: WholeTraces) -> TraceProfile | None:
        """Take the trace of a span apart; None if not all of it could be read.

        Raises:
            TempoError: traces cannot be read by their ids.
            StoppedError: the exporter is stopping.
        """
        spans = self._completed(span, whole)
        root = _root_of(spans, span)
        path = None if root is None else critical_path(spans, root=root)
        return None if path is None else profile_of(span.trace_id, path)

    def _completed(self, span: Span, whole: WholeTraces) -> Sequence[TraceSpan]:
        """Return all spans of a trace, read by its id if some are missing; none if that is not possible.

        The time of spans that are missing would be taken for that of the span above.
        """
        trace_id = span.trace_id
        spans = whole.spans.get(trace_id, [])
        if spans and trace_id not in whole.cut and (not self._lookups_found_more or not _lacks_parents(spans, span)):
            return spans
        try:
            self._budget.lookup()
        except NoMoreRequestsError:
            return ()
        try:
            by_id = self._tempo.fetch_trace(trace_id, loop=self._loop, attributes=self._attributes)
        except TempoError as error:
            # As a trace larger than Tempo returns. Others may be had, unless Tempo or the access to it has a problem.
            if not error.is_slow and error.reason not in _OF_ONE_TRACE:
                raise
            self._unreadable += 1
            if self._unreadable > _MAX_UNREADABLE:
                raise
            return ()
        if len(by_id) > len(spans):
            return by_id
        # Parents are missing in Tempo itself, as where another Tempo has them; so they will be in other traces.
        self._lookups_found_more = False
        return spans


def _extent(spans: Sequence[Span]) -> tuple[int, int]:
    """Return the whole seconds in which spans lie; an empty range without spans."""
    if not spans:
        return 0, 0
    return min(each.start_ns for each in spans) // _NS, max(each.end_ns for each in spans) // _NS + 1


def _within(spans: Sequence[Span], longest: int) -> list[list[Span]]:
    """Return groups of spans, none of which lies in a longer range, unless it is a single span."""
    groups: list[list[Span]] = []
    for span in sorted(spans, key=lambda each: each.start_ns):
        start, end = _extent([*(groups[-1] if groups else ()), span])
        if groups and end - start <= longest:
            groups[-1].append(span)
        else:
            groups.append([span])
    return groups


def _root_of(spans: Sequence[TraceSpan], wanted: Span) -> TraceSpan | None:
    """Return the span of a whole trace that a search returned. The spans of one call may share their id."""
    same = [each for each in spans if each.span_id == wanted.span_id]
    named = [each for each in same if each.service_name == wanted.key.service_name] or same
    return min(named, key=lambda each: (abs(each.duration_ns - wanted.duration_ns), each.kind), default=None)


def _lacks_parents(spans: Sequence[TraceSpan], wanted: Span) -> bool:
    """Whether spans other than the wanted one have parents that are not there, so that a part may be missing."""
    ids = {each.span_id for each in spans}
    if wanted.span_id not in ids:
        return True
    return any(each.parent_id and each.parent_id not in ids and each.span_id != wanted.span_id for each in spans)
