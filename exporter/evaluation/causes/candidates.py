"""Searches ranges of time for candidates: spans of the series, of which a few are compared whole.

A search that reaches its limit is no fair sample, so dense traffic is read in whole short slices. A range that is
longer than Tempo searches is divided.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from exporter.cause.account import MIN_TRACES
from exporter.detection.parameters import Parameters
from exporter.evaluation.causes.healthy_time import MAX_STRETCHES, WANTED, Stretch
from exporter.evaluation.causes.requests import NoMoreRequestsError, RequestBudget, TraceSource
from exporter.evaluation.causes.shift_cause import Shift
from exporter.model.span import SeriesKey, Span
from exporter.runtime.telemetry import Loop
from exporter.tempo.errors import RangeTooLongError, TempoError
from exporter.tempo.query import OperationName

_ENOUGH: Final = WANTED // 2
_ENOUGH_OF_INCIDENT: Final = 60
_BEFORE_SECONDS: Final = 60
"""How long before a shift was noticed its first slow traces are assumed."""
_FOUND_SHARE: Final = 0.5
"""If a search by name finds a smaller share of the expected traces, the others have other names in Tempo."""
_SEARCH_LIMIT: Final = 1000
_WHOLE: Final = 800
"""Up to as many expected traces a range is searched as a whole."""
_SLICES: Final = 2
_SHORTER: Final = 8
"""A slice whose search hit the limit is shortened by this factor."""
_MAX_PARTS: Final = 3
"""Searches for one range that is longer than Tempo allows; the rest of it is left out."""
_AHEAD_SECONDS: Final = 2
_NS: Final = 1_000_000_000


class Candidates(NamedTuple):
    """Spans of the series that were found.

    Attributes:
        spans: the spans.
        ranges: the ranges that were searched, in Unix seconds; all spans that end in them were found.
        reference: which time that is, in words; empty for the incident.
        is_part: whether a range was searched in part only, for another reason than that it holds more than is wanted.
    """

    spans: list[Span]
    ranges: Sequence[tuple[int, int]] = ()
    reference: str = ""
    is_part: bool = False


class KindCandidates(NamedTuple):
    """Spans of the series in traces of one kind.

    Attributes:
        incident: some of the incident.
        healthy: of healthy time, for each stretch.
        now_share: share of the incident's requests that are of that kind; None if unknown.
        usual_share: the same of the healthy requests.
    """

    incident: list[Span]
    healthy: list[Candidates]
    now_share: float | None
    usual_share: float


class CandidateSearch:
    """Finds the candidates of one attempt."""

    def __init__(
        self,
        tempo: TraceSource,
        budget: RequestBudget,
        shift: Shift,
        parameters: Parameters,
        loop: Loop,
        resolve: Callable[[SeriesKey], object],
    ) -> None:
        """Take the shift.

        Args:
            tempo: the traces.
            budget: what the attempt may ask for.
            shift: the shift whose cause is wanted.
            parameters: those by which the series is judged.
            loop: the loop that sends the requests.
            resolve: returns the series under whose name the spans of a series are kept.
        """
        self._tempo = tempo
        self._budget = budget
        self._shift = shift
        self._parameters = parameters
        self._loop: Loop = loop
        self._resolve = resolve
        # Whether Tempo has spans of the series under other names, so that all of the service are searched.
        self._by_service = resolve(shift.key) != shift.key

    def incident(self) -> Candidates:
        """Find traces of the incident in the evaluation window, or since its beginning if that holds enough."""
        shift = self._shift
        end = int(shift.at) + _AHEAD_SECONDS
        window = self._parameters.window_seconds
        start, expected = shift.at - window, shift.traces
        if shift.since is not None and expected is not None:
            later = max(start, shift.since - _BEFORE_SECONDS)
            part = expected * (shift.at - later) / window
            if part >= _ENOUGH_OF_INCIDENT:
                start, expected = later, part
        found = self._sample(int(start), end, expected)
        wanted = 1.0 if expected is None or found.is_part else expected if expected <= _WHOLE else WANTED
        if not self._by_service and len(found.spans) < _FOUND_SHARE * wanted:
            # Its spans, or most of them, have other names in Tempo.
            self._by_service = True
            found = self._sample(int(start), end, expected)
        if len(found.spans) < MIN_TRACES:
            found = self._sample(int(shift.at - self._parameters.max_window_seconds), end, None)
        return found

    def healthy(self, stretches: Sequence[Stretch]) -> list[Candidates]:
        """Find healthy traces, from as few stretches as have enough, the first ones first."""
        found: list[Candidates] = []
        for stretch in stretches[:MAX_STRETCHES]:
            if sum(len(each.spans) for each in found) >= _ENOUGH:
                break
            sample = self._sample(stretch.start, stretch.end, stretch.traces)
            if sample.spans:
                found.append(sample._replace(reference=stretch.reference))
        return found

    def of_kind(
        self, operations: Sequence[OperationName], incident: Candidates, stretches: Sequence[Stretch], enough: int
    ) -> KindCandidates | None:
        """Find traces of a kind, the healthy ones from as few stretches as have enough.

        Args:
            operations: what the traces of that kind contain.
            incident: the candidates of the incident.
            stretches: healthy time, the first ones first.
            enough: number of healthy traces from which on no more are looked for.

        Returns:
            The traces; None if no healthy ones are found.
        """
        found: list[Candidates] = []
        searched = 0.0
        for stretch in stretches[:MAX_STRETCHES]:
            if sum(len(each.spans) for each in found) >= enough:
                break
            sample = self._sample(stretch.start, stretch.end, None, operations)
            seconds = sum(end - start for start, end in sample.ranges)
            searched += stretch.traces * seconds / (stretch.end - stretch.start)
            if sample.spans:
                found.append(sample)
        if not found:
            return None
        usual_share = min(1.0, sum(len(each.spans) for each in found) / max(1.0, searched))
        # Another request for each range would say little more.
        start, end = max(incident.ranges, key=lambda each: each[1] - each[0])
        among = {span.trace_id for span in incident.spans if start * _NS <= span.end_ns < end * _NS}
        sample = self._sample(start, end, None, operations)
        spans = [span for span in sample.spans if span.trace_id in among]
        is_known = among and [*sample.ranges] == [(start, end)]
        now_share = len({span.trace_id for span in spans}) / len(among) if is_known else None
        return KindCandidates(spans, found, now_share, usual_share)

    def _sample(
        self, start: int, end: int, expected: float | None, operations: Sequence[OperationName] = ()
    ) -> Candidates:
        """Find all spans of a range, or those of whole short slices of it; none once requests have run out."""
        slices = [(start, end)]
        if expected is not None and expected > _WHOLE:
            slices = _slices(start, end, WANTED / expected)
        longest = self._tempo.max_range_seconds
        is_part = False
        while slices:
            spans: list[Span] = []
            read: list[tuple[int, int]] = []
            parts = slices if longest is None else _parts(slices, longest)
            is_part |= parts != slices
            for begin, until in parts:
                try:
                    self._budget.request()
                    found, is_full = self._search_once(begin, until, operations)
                except NoMoreRequestsError:
                    return Candidates([], is_part=is_part)
                except RangeTooLongError as error:
                    if until - begin <= error.max_seconds:
                        raise
                    longest = error.max_seconds
                    break
                except TempoError as error:
                    if not self._budget.may_ask_for_less(error) or until - begin <= 1:
                        raise
                    found, is_full = [], True
                if is_full:
                    if until - begin <= 1:
                        return Candidates([], is_part=is_part)
                    is_part = True
                    slices = _slices(start, end, (until - begin) / _SHORTER * min(len(slices), _SLICES) / (end - start))
                    break
                spans += found
                read.append((begin, until))
                if parts != slices and len(spans) >= WANTED:
                    return Candidates(spans, read, is_part=is_part)
            else:
                return Candidates(spans, read, is_part=is_part)
        return Candidates([], is_part=is_part)

    def _search_once(self, start: int, end: int, operations: Sequence[OperationName]) -> tuple[list[Span], bool]:
        """Return the spans of the series that end in a range, and whether the answer is full, so no fair sample."""
        # A second cannot be divided, so it is read with the highest limit.
        limit = _SEARCH_LIMIT if end - start > 1 else max(_SEARCH_LIMIT, self._tempo.max_limit)
        key, loop = self._shift.key, self._loop
        if self._by_service:
            result = self._tempo.search(
                start,
                end,
                loop=loop,
                limit=limit,
                service_name=key.service_name,
                operations=operations,
                may_split=True,
            )
        else:
            result = self._tempo.search(
                start, end, loop=loop, limit=limit, series=[key], operations=operations, may_split=True
            )
        spans = [
            span
            for span in result.spans
            if start * _NS <= span.end_ns < end * _NS and (span.key == key or self._resolve(span.key) == key)
        ]
        return spans, result.saturated


def _slices(start: int, end: int, share: float) -> list[tuple[int, int]]:
    """Return slices of a range, evenly spread, that together are a share of it and at least a second long each."""
    length = max(1, int((end - start) * share / _SLICES))
    if length * _SLICES >= end - start:
        return [(start, end)] if end - start > 1 else [(start, start + 1)]
    gap = (end - start - length * _SLICES) / (_SLICES + 1)
    return [
        (begin, begin + length)
        for number in range(_SLICES)
        for begin in [int(start + gap * (number + 1) + length * number)]
    ]


def _parts(slices: Sequence[tuple[int, int]], longest: int) -> list[tuple[int, int]]:
    """Cut slices into parts that Tempo searches, newest first; of many parts the newest."""
    if all(end - start <= longest for start, end in slices):
        return list(slices)
    parts = [
        (max(start, until - longest), until)
        for start, end in sorted(slices, reverse=True)
        for until in range(end, start, -longest)
    ]
    return parts[:_MAX_PARTS]
