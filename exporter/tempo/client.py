"""Searches Tempo: the one place that knows its HTTP API and puts up with how it fails.

Each attempt takes a turn at the throttle, is timed and counted, and is read completely or not at all. What may be over
soon is tried again after a pause: no connection, no answer in time, an answer that is damaged or incomplete, 5xx, and
429, whose ``Retry-After`` is honoured. Pauses grow and are random within their bounds, so that many requests that
failed together do not come back together. No slot is held during a pause. Anything else is final at once.
"""

import random as random_module
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Final, TypeVar

from exporter.model.critical_path import TraceSpan
from exporter.model.span import SeriesKey, Span
from exporter.runtime.locks import LockRank, new_lock
from exporter.runtime.logs import Log
from exporter.runtime.telemetry import Loop, Telemetry
from exporter.tempo.counts import Counts, decode_counts_answer
from exporter.tempo.decode import SearchDecoder
from exporter.tempo.errors import LimitTooHighError, RangeTooLongError, StoppedError, TempoError, TooManySpansError
from exporter.tempo.failures import HttpAnswer, excerpt, not_json, status_failure
from exporter.tempo.query import MAX_SPANS_PER_TRACE, any_series_condition, count_query, search_query
from exporter.tempo.settings import ClientSettings
from exporter.tempo.throttle import Throttle, Turns
from exporter.tempo.trace import decode_trace
from exporter.tempo.transport import Params, Transport

_T = TypeVar("_T")

ATTEMPTS: Final[dict[Loop, int]] = {"poll": 3, "backfill": 4, "api": 2}
"""How often a request is tried. The poller comes again soon by itself, and somebody waits for the API."""

_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 10.0
_LONGEST_RETRY_AFTER_SECONDS: Final = 60.0
_WARN_AGAIN_SECONDS: Final = 600.0

_SEARCH: Final = "/api/search"
_TRACE: Final = "/api/v2/traces/"
_OLD_TRACE: Final = "/api/traces/"
_COUNT: Final = "/api/metrics/query_range"


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """What a search brought.

    Attributes:
        spans: the spans in scope of the traces that came, each once, in no order. They include spans outside of the
            range asked for: a trace comes when any of it overlaps the range, ends included.
        traces: how many traces came, readable or not.
        limit: the most that could have come.
        invalid: traces and spans that could not be made sense of.
        missing: spans that matched, but are more than Tempo returns of one trace.
        bytes: size of the answer.
    """

    spans: list[Span]
    traces: int
    limit: int
    invalid: int
    missing: int
    bytes: int

    @property
    def saturated(self) -> bool:
        """Whether there may be more traces in the range: as many came as may come at most."""
        return self.traces >= self.limit


class TempoClient:
    """Reads one Tempo, from any number of threads, within limits that hold over all of them."""

    def __init__(
        self,
        settings: ClientSettings,
        telemetry: Telemetry,
        log: Log,
        *,
        stop: threading.Event | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        pause: Callable[[float], bool] | None = None,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        """Connects to nothing yet.

        Args:
            settings: where Tempo is and how to ask it.
            telemetry: is told of every request.
            log: is told what no caller will be told.
            stop: once set, requests under way are given up within a moment, and no more are sent.
            clock: unix seconds.
            monotonic: seconds that never go back.
            pause: waits for some seconds, and says whether to stop instead of going on; waits for ``stop`` by default.
            random: numbers from [0, 1), for pauses.

        Raises:
            ValueError: the filter cannot be joined to a query, or a limit makes no sense.
        """
        stop = stop or threading.Event()
        self._settings = settings
        self._telemetry = telemetry
        self._log = log
        self._clock = clock
        self._monotonic = monotonic
        self._pause = pause or stop.wait
        self._random = random
        self._query = search_query(settings.scope, settings.filter)
        self._decoder = SearchDecoder(settings.scope)
        turns = Turns(settings.max_concurrency, settings.requests_per_second)
        self._throttle = Throttle(turns, stop=stop, monotonic=monotonic)
        self._transport = Transport(settings, stop=stop, monotonic=monotonic)
        self._learning = new_lock(LockRank.TEMPO_LIMITS)
        self._max_limit: int | None = None
        self._max_spans = MAX_SPANS_PER_TRACE
        self._max_range_seconds: int | None = None
        self._max_count_range_seconds: int | None = None
        self._quiet_log = log.limited(_WARN_AGAIN_SECONDS, monotonic)

    @property
    def max_limit(self) -> int:
        """The most traces that a search returns: as configured, or fewer where Tempo has refused that many."""
        return min(self._settings.limit, self._max_limit or self._settings.limit)

    @property
    def max_range_seconds(self) -> int | None:
        """The longest range that Tempo searches; None until it has refused one."""
        return self._max_range_seconds

    @property
    def max_count_range_seconds(self) -> int | None:
        """The longest range over which Tempo counts; None until it has refused one."""
        return self._max_count_range_seconds

    def search(
        self, start: int, end: int, *, loop: Loop, limit: int | None = None, series: Sequence[SeriesKey] = ()
    ) -> SearchAnswer:
        """Find the spans in scope of traces that overlap ``[start, end]``, both in whole unix seconds.

        Args:
            start: begin of the range.
            end: its end, later than ``start``.
            loop: who asks.
            limit: the most traces to return; as configured where it is None.
            series: only the spans of these are wanted; all in scope where there are none.

        Raises:
            RangeTooLongError: the range is longer than Tempo allows, which is now known.
            TempoError: it failed, and trying again did not help or made no sense.
            StoppedError: the exporter is being stopped.
        """
        settings = self._settings
        query = search_query(settings.scope, settings.filter, [any_series_condition(series)]) if series else self._query
        answer = self._search(query, start, end, limit or self._settings.limit, loop)
        self._telemetry.traces_read(loop, len(answer.spans) + answer.invalid)
        if answer.invalid:
            self._telemetry.traces_skipped(loop, "invalid", answer.invalid)
        if answer.missing:
            self._telemetry.traces_skipped(loop, "span_limit", answer.missing)
            self._quiet_log.warning(
                "spans_missing",
                "a trace has more matching spans than Tempo returns; the missing ones are counted",
                spans_missing=answer.missing,
                spans_per_trace=self._max_spans,
            )
        if answer.saturated:
            self._telemetry.saturated(loop)
        return answer

    def exists(self, start: int, end: int, *, loop: Loop) -> bool:
        """Whether any trace with spans in scope overlaps ``[start, end]``, both in whole unix seconds.

        Raises:
            RangeTooLongError: the range is longer than Tempo allows, which is now known.
            TempoError: it failed, and trying again did not help or made no sense.
            StoppedError: the exporter is being stopped.
        """
        return self._search(self._query, start, end, 1, loop).traces > 0

    def trace(self, trace_id: str, *, loop: Loop) -> list[TraceSpan]:
        """The spans of one trace in no order; none where Tempo does not know it.

        Args:
            trace_id: hex digits.
            loop: who asks.

        Raises:
            TempoError: it failed, and trying again did not help or made no sense.
            StoppedError: the exporter is being stopped.
        """
        try:
            return self.fetch(_TRACE + trace_id, {}, loop=loop, read=self._read_trace)
        except TempoError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
        # A Tempo from before 2.7 has only the older lookup, to which an unknown trace is an unknown address.
        try:
            return self.fetch(_OLD_TRACE + trace_id, {}, loop=loop, read=self._read_trace)
        except TempoError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return []

    def count(self, start: int, end: int, step_seconds: int, *, loop: Loop, by_series: bool = False) -> Counts:
        """Let Tempo count the spans in scope that started in ``(start, end]``, step by step; asked once only.

        An error does not mean that Tempo is away: many installations cannot count.

        Args:
            start: begin of the range in Unix seconds, a multiple of the step.
            end: its end, likewise, at least two steps later.
            step_seconds: the length of a step.
            loop: who asks.
            by_series: also how many each series has.

        Raises:
            RangeTooLongError: the range is longer than Tempo allows, which is now known.
            TempoError: it failed.
            StoppedError: the exporter is being stopped.
        """
        params: Params = {
            "q": count_query(self._settings.scope, self._settings.filter, by_series=by_series),
            # A point stands for the step before it.
            "start": start + step_seconds,
            "end": end,
            "step": f"{step_seconds}s",
        }
        try:
            return self.fetch(_COUNT, params, loop=loop, read=self._read_counts, optional=True)
        except RangeTooLongError as error:
            self._max_count_range_seconds = error.max_seconds
            raise

    def fetch(
        self, path: str, params: Params, *, loop: Loop, read: Callable[[HttpAnswer], _T], optional: bool = False
    ) -> _T:
        """Ask Tempo for a path and make something of the answer.

        Args:
            path: below the base URL, with its leading slash.
            params: the query string.
            loop: who asks.
            read: makes something of an answer with status 200, or raises TempoError. It runs without a slot.
            optional: Tempo may not be able to do this at all, so it is asked once, and to refuse is an answer.

        Raises:
            TempoError: it failed, and trying again did not help or made no sense.
            StoppedError: the exporter is being stopped.
        """
        attempt = 1
        while True:
            try:
                return self._attempt(path, params, loop, read, optional)
            except TempoError as error:
                if optional or not error.retryable or attempt >= ATTEMPTS[loop]:
                    raise
                seconds = self._pause_seconds(attempt, error)
                self._log.debug(
                    "request_retried",
                    "a request to Tempo failed; retrying",
                    loop=loop,
                    attempt=attempt,
                    reason=error.reason,
                    pause_seconds=round(seconds, 3),
                    error=str(error),
                )
            if self._pause(seconds):
                raise StoppedError("stopped while waiting to ask Tempo again")
            attempt += 1

    def close(self) -> None:
        """Close the connections that are not in use; the client may still be used after that."""
        self._transport.close()

    def _attempt(self, path: str, params: Params, loop: Loop, read: Callable[[HttpAnswer], _T], optional: bool) -> _T:
        try:
            answer = self._exchange(path, params, loop)
            failure = status_failure(answer, self._clock(), self._transport.mask)
            if failure is not None:
                raise failure
            result = read(answer)
        except TempoError as error:
            self._telemetry.request_failed(loop, error.reason)
            self._telemetry.tempo_answered(error.answered or (optional and error.status is not None))
            raise
        self._telemetry.tempo_answered(True)
        return result

    def _exchange(self, path: str, params: Params, loop: Loop) -> HttpAnswer:
        with self._throttle.slot(loop):
            began = self._monotonic()
            try:
                return self._transport.get(path, params)
            finally:
                self._telemetry.request(loop, self._monotonic() - began)

    def _pause_seconds(self, attempt: int, error: TempoError) -> float:
        longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** (attempt - 1))
        asked_for = min(error.retry_after_seconds or 0.0, _LONGEST_RETRY_AFTER_SECONDS)
        return max(asked_for, longest * self._random())

    def _search(self, query: str, start: int, end: int, wanted: int, loop: Loop) -> SearchAnswer:
        while True:
            limit = min(wanted, self._max_limit or wanted)
            spans = self._max_spans
            params: Params = {"q": query, "start": start, "end": end, "limit": limit, "spss": spans}
            try:
                return self.fetch(_SEARCH, params, loop=loop, read=partial(self._read_search, limit=limit))
            except LimitTooHighError as error:
                if error.max_limit >= limit:
                    raise
                self._learn_limit(error.max_limit)
            except TooManySpansError as error:
                if error.max_spans >= spans:
                    raise
                self._max_spans = error.max_spans
            except RangeTooLongError as error:
                self._learn_range(error.max_seconds)
                raise

    def _read_search(self, answer: HttpAnswer, *, limit: int) -> SearchAnswer:
        try:
            decoded = self._decoder.decode(answer.body)
        except ValueError:
            raise not_json(answer, self._transport.mask) from None
        if decoded.problem:
            self._quiet_log.warning(
                "traces_invalid",
                "Tempo returned invalid traces; they are left out and counted",
                count=decoded.invalid,
                first=excerpt(self._transport.mask(decoded.problem)),
            )
        read = SearchAnswer(decoded.spans, decoded.traces, limit, decoded.invalid, decoded.missing, len(answer.body))
        if not decoded.complete and not read.saturated:
            raise TempoError(
                f"GET {answer.url} answered without having looked at all of the range: some of Tempo's own jobs were "
                f"not completed. See the logs of its query frontend and queriers.",
                reason="malformed",
                retryable=True,
                status=answer.status,
            )
        return read

    def _read_trace(self, answer: HttpAnswer) -> list[TraceSpan]:
        try:
            return decode_trace(answer.body)
        except ValueError:
            raise not_json(answer, self._transport.mask) from None

    def _read_counts(self, answer: HttpAnswer) -> Counts:
        try:
            return decode_counts_answer(answer.body)
        except ValueError:
            raise not_json(answer, self._transport.mask) from None

    def _learn_limit(self, max_limit: int) -> None:
        with self._learning:
            news = self._max_limit is None or max_limit < self._max_limit
            if news:
                self._max_limit = max_limit
        if news and max_limit < self._settings.limit:
            self._log.warning(
                "search_limit_lowered",
                "Tempo allows fewer traces per search than tempo.limit; lower tempo.limit, or raise "
                "query_frontend.search.max_result_limit in Tempo",
                allowed=max_limit,
                configured=self._settings.limit,
            )

    def _learn_range(self, max_seconds: int) -> None:
        with self._learning:
            news = max_seconds != self._max_range_seconds
            self._max_range_seconds = max_seconds
        if news:
            self._log.info(
                "search_range_learned",
                "Tempo limits the range of a search; longer ranges are searched in parts",
                seconds=max_seconds,
            )
