"""Reads the current traffic within a budget: whole where it fits, and as a fair sample where it is too dense.

A sample is all traces that *ended* in chosen slices of time (:mod:`exporter.ingest.sampling`), as the current window
counts them by their ends: a search finds whatever overlaps its range, so by any other rule long traces would be found
in more slices than short ones. The slices depend on the clock alone, so that the next poll, which reads most of the
same time once more, reads the same slices and finds there what has come late.

Endpoints with little traffic, of which a sample would hold next to nothing, are read whole beside it, by their names.
"""

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Final, NamedTuple

from exporter.ingest.exact_reader import SEARCH_FILL, ExactReader, Searcher, TooDenseError
from exporter.ingest.sampling import WHOLE, Slices, rare_groups
from exporter.ingest.settings import Budget
from exporter.model.span import SeriesKey, Span
from exporter.runtime.telemetry import Telemetry
from exporter.tempo.query import condition_length

_NS: Final = 1_000_000_000
_HOUR: Final = 3600
SLICE_SECONDS: Final = 2
"""Short, so that many of them fit into the current window; a search of a second reads nearly two seconds as it is."""
_PROBES: Final = 3
_BY_NAME_TRACES: Final = 0.25
"""The part of the budget, of traces and of requests, that endpoints with little traffic may have for themselves."""
_BY_NAME_REQUESTS: Final = 0.1
_TOLERATED: Final = 1.5
_MOST_PER_STRATUM: Final = 16
"""Of half a minute there is always one slice: a poll without any would know nothing."""
_USUAL_OVERHEAD: Final = 1.2
"""What comes with searches for slices over what belongs to them, as long as nothing is known of it."""


class LiveReading(NamedTuple):
    """What was read of the current traffic.

    Attributes:
        spans: spans in scope, some of them several times.
        slices: which part of the time they stand for.
        received: how many came, wanted or not.
        splits: searches that came back full and whose range was halved.
        unread: ranges that should have been read and were not.
        by_name: endpoints that were read whole, beside the sample.
    """

    spans: Sequence[Span]
    slices: Slices
    received: int
    splits: int
    unread: int
    by_name: frozenset[SeriesKey] = frozenset()


class LiveReader:
    """Reads the current traffic again and again, and remembers how dense it is. Not for several threads."""

    def __init__(
        self, searcher: Searcher, telemetry: Telemetry, budget: Budget, *, usual_seconds: float, hold_seconds: float
    ) -> None:
        """Nothing is known yet.

        Args:
            searcher: Tempo.
            telemetry: is told what happens.
            budget: what a reading of the usual length may cost; a longer one costs more in proportion.
            usual_seconds: that length.
            hold_seconds: for so long after dense traffic the sample stays as small as it was, so that all of the
                current window stands for the same share of its time.
        """
        self._searcher = searcher
        self._exact = ExactReader(searcher, telemetry, "poll")
        self._telemetry = telemetry
        self._budget = budget
        self._usual_seconds = usual_seconds
        self._hold_seconds = hold_seconds
        self._density: float | None = None
        self._overhead = _USUAL_OVERHEAD
        self._needed: list[tuple[float, int]] = []

    @property
    def density(self) -> float | None:
        """Traces a second when it was read last."""
        return self._density

    def read(
        self,
        start: int,
        end: int,
        give_up: Callable[[], bool],
        per_hour: Callable[[], Mapping[SeriesKey, float]] = dict,
    ) -> LiveReading:
        """Read what overlaps ``[start, end]``, newest part first.

        Args:
            start: Unix seconds.
            end: Unix seconds.
            give_up: asked before each search; once it says yes, what is still unread stays so.
            per_hour: says how many traces an hour endpoints usually have, as far as that is known; asked only where a
                sample is read.

        Raises:
            TempoError: a search failed for good.
            StoppedError: the exporter is being stopped.
        """
        seconds = end - start
        times = max(1.0, seconds / self._usual_seconds)
        budget = Budget(round(self._budget.traces * times), round(self._budget.requests * times))
        in_vain = splits = 0
        if self._slices(end, budget, seconds).whole:
            try:
                return self._whole(start, end, budget, give_up)
            except TooDenseError as error:
                in_vain, splits = error.received, error.splits
                if self._density is None:
                    in_vain += self._probe(start, end, error.density or 0.0, give_up)
                    if self._slices(end, budget, seconds).whole:
                        return self._whole(start, end, budget, give_up)
                self._density = max(self._density or 0.0, error.density or 0.0)
        slices = self._slices(end, budget, seconds)
        if slices.whole:
            # It is denser than its density says: half of it is surely little enough to go on with.
            slices = self._hold(end, 2)
        self._telemetry.sampled("poll")
        by_name = self._read_by_name(start, end, slices, budget, per_hour(), give_up)
        sample = self._sample(start, end, slices, budget, by_name, give_up)
        return sample._replace(received=sample.received + in_vain, splits=sample.splits + splits)

    def _slices(self, now: float, budget: Budget, seconds: float) -> Slices:
        """The part of the time that may be read: one of ever smaller parts of it, each a part of those before."""
        expected = (self._density or 0.0) * seconds
        most = min(budget.traces, budget.requests * self._searcher.max_limit * SEARCH_FILL)
        of = 1
        # A search for a slice also finds what overlaps its ends; the budget is not to be exceeded for that.
        while expected / of * (1.0 if of == 1 else self._overhead) > most and of < _MOST_PER_STRATUM:
            of *= 2
        return self._hold(now, of)

    def _hold(self, now: float, of: int) -> Slices:
        recent = [(at, needed) for at, needed in self._needed if now - self._hold_seconds < at <= now]
        self._needed = [(at, needed) for at, needed in recent if needed > of]
        self._needed.append((now, of))
        of = max(needed for _, needed in self._needed)
        return WHOLE if of == 1 else Slices(SLICE_SECONDS, of)

    def _whole(self, start: int, end: int, budget: Budget, give_up: Callable[[], bool]) -> LiveReading:
        spans: list[Span] = []
        unknown = self._density is None
        reading = self._exact.read(
            start,
            end,
            spans.extend,
            by_start=False,
            expected_traces=None if self._density is None else self._density * (end - start),
            budget=Budget(round(budget.traces * _TOLERATED), 1 if unknown else 2 * budget.requests),
            give_up=give_up,
        )
        self._density = reading.received / (end - start)
        return LiveReading(spans, WHOLE, reading.received, reading.splits, len(reading.truncated))

    def _probe(self, start: int, end: int, at_least: float, give_up: Callable[[], bool]) -> int:
        """Find out how dense the traffic is by a few seconds of it; says how many traces that cost."""
        received = 0
        found = [at_least]
        for number in range(1, _PROBES + 1):
            if give_up():
                break
            first = start + (end - start) * number // (_PROBES + 1)
            answer = self._searcher.search(first, first + 1, loop="poll")
            received += len(answer.spans)
            ended = sum(first * _NS < span.end_ns <= (first + 1) * _NS for span in answer.spans)
            found.append(answer.limit if answer.saturated else ended)
        self._density = max(at_least, sum(found[1:]) / max(1, len(found) - 1))
        return received

    def _read_by_name(
        self,
        start: int,
        end: int,
        slices: Slices,
        budget: Budget,
        per_hour: Mapping[SeriesKey, float],
        give_up: Callable[[], bool],
    ) -> Mapping[SeriesKey, list[Span]]:
        """All that ended in the range of endpoints with so little traffic that the sample would not do."""
        expected = {key: max(1, ceil(count * (end - start) / _HOUR)) for key, count in per_hour.items()}
        most = Budget(round(budget.traces * _BY_NAME_TRACES), max(1, round(budget.requests * _BY_NAME_REQUESTS)))
        limit = self._searcher.max_limit
        found: dict[SeriesKey, list[Span]] = {}
        for group in rare_groups(expected, slices.share, most, limit * SEARCH_FILL, condition_length):
            spans: list[Span] = []
            try:
                reading = self._exact.read(
                    start, end, spans.extend, by_start=False, series=group, budget=Budget(limit, 2), give_up=give_up
                )
            except TooDenseError:
                # They have more traffic than usual, so the sample will do.
                continue
            if not reading.truncated:
                found.update((key, []) for key in group)
                for span in spans:
                    if start * _NS < span.end_ns <= end * _NS and span.key in found:
                        found[span.key].append(span)
        return found

    def _sample(
        self,
        start: int,
        end: int,
        slices: Slices,
        budget: Budget,
        by_name: Mapping[SeriesKey, Sequence[Span]],
        give_up: Callable[[], bool],
    ) -> LiveReading:
        spans: list[Span] = []
        received = requests = splits = unread = seconds = outside = 0
        for first, last in reversed(list(slices.within(start, end))):
            if requests >= budget.requests or received > _TOLERATED * budget.traces:
                # What is left was read by the polls before.
                break
            found: list[Span] = []
            reading = self._exact.read(
                first,
                last,
                found.extend,
                by_start=False,
                expected_traces=(self._density or 0.0) * (last - first),
                give_up=give_up,
            )
            received += reading.received + reading.wasted
            requests += reading.requests
            splits += reading.splits
            unread += len(reading.truncated)
            if not reading.truncated:
                seconds += last - first
                ended = [span for span in found if first * _NS < span.end_ns <= last * _NS]
                outside += len(found) - len(ended)
                spans += ended
        if outside:
            self._telemetry.traces_skipped("poll", "outside_window", outside)
        if spans:
            self._density = len(spans) / seconds
            self._overhead = received / len(spans)
        spans = [span for span in spans if span.key not in by_name]
        for some in by_name.values():
            spans += some
        return LiveReading(spans, slices, received, splits, unread, frozenset(by_name))
