"""Client for Tempo's HTTP API, with retries.

Every attempt waits for a slot of the throttle, is timed and counted, and is read completely or not at all. Transient
failures are retried: no connection, a timeout, a damaged or incomplete response, 5xx, and 429, whose ``Retry-After`` is
honoured. Pauses between attempts grow exponentially, with full jitter, so that requests that failed together are not
retried together. No slot is held during a pause. All other failures are final.
"""

import math
import random as random_module
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import Final, TypeVar

from exporter.model.critical_path import TraceSpan
from exporter.model.identity import Attribute, SeriesIdentity, parse_attribute
from exporter.model.span import SeriesKey, Span
from exporter.runtime.locks import LockRank, new_lock
from exporter.runtime.logs import Log
from exporter.runtime.telemetry import Loop, Telemetry
from exporter.tempo import readiness
from exporter.tempo.counts import SpanCounts, decode_counts
from exporter.tempo.decode import SearchDecoder, count_roots
from exporter.tempo.errors import LimitTooHighError, RangeTooLongError, StoppedError, TempoError, TooManySpansError
from exporter.tempo.failures import HttpResponse, excerpt, not_json, status_failure
from exporter.tempo.grouping import SearchGrouping
from exporter.tempo.query import (
    ANY_DURATION,
    MAX_SPANS_PER_TRACE,
    DurationRange,
    OperationName,
    any_series_condition,
    any_span_query,
    can_count_by_series,
    count_query,
    duration_conditions,
    quoted,
    search_query,
    service_conditions,
    value_conditions,
    whole_traces_query,
)
from exporter.tempo.readiness import Readiness
from exporter.tempo.settings import ClientSettings
from exporter.tempo.throttle import RequestQueue, Throttle
from exporter.tempo.trace import decode_trace
from exporter.tempo.transport import Params, Transport
from exporter.tempo.whole_traces import (
    MANY_SPANS,
    WholeTraces,
    decode_whole_traces,
    id_groups,
    traces_by_id_query,
)

_T = TypeVar("_T")

ATTEMPTS: Final[dict[Loop, int]] = {"poll": 3, "backfill": 4, "api": 2, "cause": 2, "version": 2}
"""Attempts per request. Few for polls and causes, which are repeated anyway, and for the API, where a person waits."""

_FIRST_PAUSE_SECONDS: Final = 0.5
_MAX_PAUSE_SECONDS: Final = 10.0
_MAX_RETRY_AFTER_SECONDS: Final = 60.0
_LOG_INTERVAL_SECONDS: Final = 600.0
_UNJOINED_SECONDS: Final = 3600.0
"""How long whole traces are searched without joining their parts after one with very many spans."""
_LONG_PAUSE_SECONDS: Final = 5.0
"""A person who watches wants to know the reason of a longer pause."""

_DEFAULT_MAX_LIMIT: Final = 262_144
"""Tempo's default for ``max_result_limit``."""

_MAX_SPANS_WITH_OPERATIONS: Final = 10
"""Spans of each service of a trace that a search for traces with certain operations returns."""

_NS: Final = 1_000_000_000

_SPLIT: Final = (
    "Tempo took too long for a search, which is split in halves; raise tempo.timeout and the time-outs of proxies"
)
_SHORTENED: Final = (
    "Tempo took too long for a search for the cause of a shift, which is repeated for a shorter range or for fewer "
    "traces; raise tempo.timeout and the time-outs of proxies"
)
_SLOW_SEARCH: Final[dict[Loop, str]] = {
    "poll": _SPLIT,
    "backfill": f"{_SPLIT}, or lower polling.backfill_batch",
    "api": _SHORTENED,
    "cause": _SHORTENED,
    "version": "Tempo took too long for a search for versions, which is repeated later; raise tempo.timeout",
}
"""What happens after a search that took too long."""

_VERSION: Final = Attribute("resource", "service.version")
_VERSION_LABEL: Final = SeriesIdentity(((_VERSION,),)).label_names[0]

_SEARCH_PATH: Final = "/api/search"
_TRACE_PATH: Final = "/api/v2/traces/"
_TRACE_V1_PATH: Final = "/api/traces/"
_COUNT_PATH: Final = "/api/metrics/query_range"


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Result of a search.

    Attributes:
        spans: the spans in scope, without duplicates, unordered. Some are outside the requested range: Tempo returns a
            trace if any part of it overlaps the range, bounds included.
        traces: number of traces in the response, valid or not.
        limit: the ``limit`` of the request.
        duplicates: number of spans that occurred before in the response and were left out.
        invalid: number of traces and spans that were invalid and left out.
        missing: number of spans that matched but were not returned, because Tempo limits the spans of one trace.
        bytes: size of the response body.
        largest: the most spans of one trace that matched.
    """

    spans: list[Span]
    traces: int
    limit: int
    duplicates: int
    invalid: int
    missing: int
    bytes: int
    largest: int = 0

    @property
    def saturated(self) -> bool:
        """Whether the response hit its limit, so that there may be more traces in the range."""
        return self.traces >= self.limit


@dataclass(frozen=True, slots=True)
class RootSample:
    """Traces found by a search without the scope.

    Attributes:
        traces: their number.
        rootless: those of which Tempo has no root span.
        saturated: whether there may be more, and parts of these traces that the search has not looked at.
    """

    traces: int
    rootless: int
    saturated: bool


class TempoClient:
    """Client for one Tempo. Thread-safe; the request limits hold over all threads."""

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
        renamed: Callable[[SeriesKey], SeriesKey] = lambda key: key,
    ) -> None:
        """Create a client; it connects on the first request.

        Args:
            settings: address, credentials, query and limits.
            telemetry: receives counts and durations of requests.
            log: receives retries and warnings; errors are raised.
            stop: when set, pending requests are abandoned within a moment and no more are sent.
            clock: current time in Unix seconds.
            monotonic: seconds of a monotonic clock.
            pause: sleeps for some seconds and returns whether to stop; by default it waits for ``stop``.
            random: returns a number from [0, 1), for the jitter of pauses.
            renamed: maps the names of a span to those of its series, for messages about series.

        Raises:
            ValueError: the filter cannot be joined to a query, or a limit is out of range.
        """
        stop = stop or threading.Event()
        self._settings = settings
        self._telemetry = telemetry
        self._log = log
        self._clock = clock
        self._monotonic = monotonic
        self._pause = pause or stop.wait
        self._random = random
        self._renamed = renamed
        search_query(settings.scope, settings.filter)  # raises ValueError for an invalid filter
        self._grouping = SearchGrouping(settings.scope, monotonic, log)
        self._decoder = SearchDecoder(
            settings.scope, round(settings.max_duration_seconds * _NS), settings.identity, settings.failures
        )
        # The version is read like a label of the series.
        labels = ((_VERSION,), *settings.identity.labels)
        self._version_decoder = SearchDecoder(
            settings.scope, round(settings.max_duration_seconds * _NS), SeriesIdentity(labels)
        )
        queue = RequestQueue(settings.max_concurrency, settings.requests_per_second)
        self._throttle = Throttle(queue, stop=stop, monotonic=monotonic)
        self._transport = Transport(settings, stop=stop, monotonic=monotonic)
        self._readiness = Readiness(
            lambda: self._transport.get(readiness.PATH, {}, readiness.TIMEOUT_SECONDS),
            mask=self._transport.mask,
            monotonic=monotonic,
        )
        self._say_proxy()
        self._limits_lock = new_lock(LockRank.TEMPO_LIMITS)
        self._decoding = new_lock(LockRank.TEMPO_DECODING)
        self._max_limit: int | None = None
        self._max_spans = MAX_SPANS_PER_TRACE
        self._max_range_seconds: int | None = None
        self._max_count_range_seconds: int | None = None
        self._can_search_by_id: bool | None = None
        self._joined_from = -math.inf
        self._limited_log = log.limited(_LOG_INTERVAL_SECONDS, monotonic)
        self._once_log = log.limited(math.inf, monotonic)

    @property
    def max_limit(self) -> int:
        """Maximum number of traces per search: the configured limit, or Tempo's if that is known to be lower."""
        return min(self._settings.limit, self._max_limit or self._settings.limit)

    @property
    def highest_limit(self) -> int:
        """Maximum number of traces that one search may ask for: Tempo's, as far as known."""
        return self._max_limit or max(_DEFAULT_MAX_LIMIT, self._settings.limit)

    @property
    def max_range_seconds(self) -> int | None:
        """Maximum range of a search in seconds; None until Tempo has rejected a longer one."""
        return self._max_range_seconds

    @property
    def max_count_range_seconds(self) -> int | None:
        """Maximum range of a count in seconds; None until Tempo has rejected a longer one."""
        return self._max_count_range_seconds

    def search(
        self,
        start: int,
        end: int,
        *,
        loop: Loop,
        limit: int | None = None,
        series: Sequence[SeriesKey] = (),
        durations: DurationRange = ANY_DURATION,
        service_name: str | None = None,
        operations: Sequence[OperationName] = (),
        may_split: bool = False,
    ) -> SearchResult:
        """Search for traces that overlap ``[start, end]`` and return their spans in scope.

        Args:
            start: start of the range in whole Unix seconds.
            end: end of the range in whole Unix seconds, later than ``start``.
            loop: the loop that sends the request.
            limit: maximum number of traces; None means ``tempo.limit``.
            series: search only for spans of these series; empty means all in scope.
            durations: search only for spans that took as long as this.
            service_name: search only for spans of this service.
            operations: search only for spans in whose trace each of these occurs as well. Without ``series`` the result
                has the spans of these operations, too. Of each service, only some spans of one trace are returned.
            may_split: the caller searches shorter ranges instead if this one takes too long, so it is not retried then.

        Raises:
            RangeTooLongError: the range is longer than Tempo allows; the maximum is now known.
            TempoError: the request failed, after all retries if it was retryable.
            StoppedError: the exporter is stopping.
        """
        settings = self._settings
        conditions = [any_series_condition(series, settings.identity)] if series else []
        conditions += duration_conditions(durations)
        if service_name is not None:
            conditions.append(f"resource.service.name={quoted(service_name)}")
        result = self._search_in_scope(
            conditions, start, end, limit or settings.limit, loop, operations=operations, may_split=may_split
        )
        self._telemetry.traces_read(loop, len(result.spans) + result.duplicates + result.invalid)
        if result.duplicates:
            self._telemetry.traces_skipped(loop, "duplicate", result.duplicates)
        if result.invalid:
            self._telemetry.traces_skipped(loop, "invalid", result.invalid)
        if result.missing and not operations:
            self._telemetry.traces_skipped(loop, "span_limit", result.missing)
            self._limited_log.warning(
                "spans_missing",
                "a trace has more matching spans than Tempo returns; the missing ones are counted",
                spans_missing=result.missing,
                spans_per_trace=self._max_spans,
            )
        if result.saturated:
            self._telemetry.saturated(loop)
        if series and (settings.identity.attributes or operations):
            # Conditions on attributes match spans of other series as well.
            wanted = frozenset(series)
            return replace(result, spans=[span for span in result.spans if span.key in wanted])
        return result

    def sample_versions(
        self, key: SeriesKey, start: int, end: int, limit: int, *, loop: Loop, version: str | None = None
    ) -> list[str]:
        """Return the ``service.version`` of some spans with the service and the labels of a series, in any order.

        Args:
            key: the series.
            start: start of the range in whole Unix seconds.
            end: end of the range in whole Unix seconds, later than ``start``.
            limit: maximum number of traces, each of which counts once.
            loop: the loop that sends the request.
            version: search only for spans with this version.

        Returns:
            The versions; empty text for a span without one.

        Raises:
            RangeTooLongError: the range is longer than Tempo allows; the maximum is now known.
            TempoError: the request failed, after all retries if it was retryable.
            StoppedError: the exporter is stopping.
        """
        settings = self._settings
        conditions = [*service_conditions(key, settings.identity)]
        if version is not None:
            conditions += value_conditions(_VERSION, version)
        # Of each trace one span is enough, so spans are not grouped.
        query = search_query(
            settings.scope, settings.filter, conditions, identity=settings.identity, selected=(_VERSION,)
        )
        found = self._search(query, start, end, limit, loop, max_spans=1, decoder=self._version_decoder)
        self._telemetry.traces_read(loop, len(found.spans))
        versions: dict[str, str] = {}
        for span in found.spans:
            labels = dict(span.key.labels)
            value = labels.pop(_VERSION_LABEL, "")
            is_same = span.key.service_name == key.service_name and labels == dict(key.labels)
            if is_same and (version is None or value == version):
                versions.setdefault(span.trace_id, value)
        return list(versions.values())

    def exists(self, start: int, end: int, *, loop: Loop) -> bool:
        """Return whether any trace with spans in scope overlaps ``[start, end]``, in whole Unix seconds.

        Raises:
            RangeTooLongError: the range is longer than Tempo allows; the maximum is now known.
            TempoError: the request failed, after all retries if it was retryable.
            StoppedError: the exporter is stopping.
        """
        return self._search_in_scope((), start, end, 1, loop).traces > 0

    def sample_roots(self, start: int, end: int, limit: int, *, loop: Loop) -> RootSample:
        """Search for traces that overlap ``[start, end]``, with a root span or without; the scope does not matter.

        The request is not retried.

        Args:
            start: start of the range in whole Unix seconds.
            end: end of the range in whole Unix seconds, later than ``start``.
            limit: maximum number of traces.
            loop: the loop that sends the request.

        Raises:
            TempoError: the request failed.
            StoppedError: the exporter is stopping.
        """
        limit = min(limit, self._max_limit or limit)
        query = whole_traces_query(self._settings.filter)
        params: Params = {"q": query, "start": start, "end": end, "limit": limit, "spss": 1}

        def decode(response: HttpResponse) -> RootSample:
            try:
                traces, rootless = count_roots(response.body)
            except ValueError:
                raise not_json(response, self._transport.mask) from None
            return RootSample(traces, rootless, traces >= limit)

        return self.fetch(_SEARCH_PATH, params, loop=loop, decode=decode, optional=True)

    def why_empty(self, start: int, end: int, *, loop: Loop) -> str:
        """Say in one sentence why searches of ``[start, end]`` may find nothing, after a search without conditions.

        Where Tempo allows shorter ranges only, that search covers the newest part.

        Raises:
            TempoError: the request failed, after all retries if it was retryable.
            StoppedError: the exporter is stopping.
        """
        settings, query = self._settings, any_span_query()
        longest = self._max_range_seconds or end - start
        try:
            has_traces = self._search(query, max(start, end - longest), end, 1, loop).traces > 0
        except RangeTooLongError as error:
            if error.max_seconds >= longest:
                raise
            has_traces = self._search(query, max(start, end - error.max_seconds), end, 1, loop).traces > 0
        tenant = f"tempo.tenant ({settings.tenant!r})" if settings.tenant else "tempo.tenant (not set)"
        filter_ = f"tempo.filter ({settings.filter!r})" if settings.filter else "tempo.filter (not set)"
        if has_traces:
            return (
                f"a search with the same tenant but without filter and scope finds traces: check {filter_} and "
                f"tempo.scope ({settings.scope})"
            )
        return (
            f"a search without filter and scope finds nothing either: check {tenant} and whether traces reach Tempo at "
            f"all; {filter_} and tempo.scope ({settings.scope}) are not the cause"
        )

    def fetch_trace(self, trace_id: str, *, loop: Loop, attributes: Sequence[str] = ()) -> list[TraceSpan]:
        """Fetch the spans of one trace, unordered; empty if Tempo does not have the trace.

        Args:
            trace_id: hex digits.
            loop: the loop that sends the request.
            attributes: attributes of the spans to return, with scope, such as ``resource.service.version``.

        Raises:
            TempoError: the request failed, after all retries if it was retryable.
            StoppedError: the exporter is stopping.
        """
        decode = partial(self._decode_trace, attributes=frozenset(map(parse_attribute, attributes)))
        try:
            return self.fetch(_TRACE_PATH + trace_id, {}, loop=loop, decode=decode)
        except TempoError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
        # Before version 2.7 Tempo has only the v1 lookup, which also returns 404 for an unknown trace.
        try:
            return self.fetch(_TRACE_V1_PATH + trace_id, {}, loop=loop, decode=decode)
        except TempoError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return []

    @property
    def can_search_by_id(self) -> bool:
        """Whether Tempo finds traces by their ids with a search; True until it has refused."""
        return self._can_search_by_id is not False

    def fetch_traces(
        self, trace_ids: Sequence[str], start: int, end: int, attributes: Sequence[str], *, loop: Loop
    ) -> WholeTraces:
        """Fetch whole traces that overlap ``[start, end]``, with one search for each 60 of them.

        Args:
            trace_ids: 32 hex digits each.
            start: start of the range in whole Unix seconds.
            end: end of the range in whole Unix seconds, later than ``start``.
            attributes: attributes of the spans to return, with scope, such as ``resource.service.version``.
            loop: the loop that sends the request.

        Returns:
            The traces that were found; none if Tempo cannot search by id, see :attr:`can_search_by_id`.

        Raises:
            RangeTooLongError: the range is longer than Tempo allows; the maximum is now known.
            TempoError: a request failed, after all retries if it was retryable.
            StoppedError: the exporter is stopping.
        """
        found = WholeTraces()
        for group in id_groups(trace_ids):
            if not self.can_search_by_id:
                break
            joined = self._monotonic() >= self._joined_from
            params: Params = {
                "q": traces_by_id_query(group, attributes, joined=joined),
                "start": start,
                "end": end,
                "limit": len(group),
                "spss": self._max_spans,
            }
            try:
                found.update(
                    self.fetch(_SEARCH_PATH, params, loop=loop, decode=partial(self._decode_whole_traces, wanted=group))
                )
            except TooManySpansError as error:
                # Every span is a set of its own, so the number does not matter.
                self._max_spans = min(self._max_spans, error.max_spans)
                found.update(
                    self.fetch(
                        _SEARCH_PATH,
                        {**params, "spss": self._max_spans},
                        loop=loop,
                        decode=partial(self._decode_whole_traces, wanted=group),
                    )
                )
            except RangeTooLongError as error:
                self._learn_range(error.max_seconds)
                raise
            except TempoError as error:
                if type(error) is not TempoError or error.status != HTTPStatus.BAD_REQUEST:
                    raise
                self._learn_no_search_by_id(error)
                break
            self._can_search_by_id = True
        self._telemetry.search_by_id_available(self.can_search_by_id)
        if found.largest > MANY_SPANS:
            self._joined_from = self._monotonic() + _UNJOINED_SECONDS
        return found

    def _learn_no_search_by_id(self, error: TempoError) -> None:
        self._can_search_by_id = False
        self._once_log.info(
            "search_by_id_refused",
            "Tempo cannot search for traces by their ids; for causes, each trace is read with a request of its own",
            error=str(error),
        )

    def count(self, start: int, end: int, step_seconds: int, *, loop: Loop, by_series: bool = False) -> SpanCounts:
        """Let Tempo count the spans in scope that started in ``(start, end]``, by step.

        The request is not retried, and an error does not mean that Tempo is down: many installations cannot count.

        Args:
            start: start of the range in Unix seconds, a multiple of the step.
            end: end of the range in Unix seconds, a multiple of the step, at least two steps after ``start``.
            step_seconds: length of a step.
            loop: the loop that sends the request.
            by_series: also count by series.

        Raises:
            RangeTooLongError: the range is longer than Tempo allows; the maximum is now known.
            TempoError: the request failed, or so many attributes decide the series that Tempo cannot count by them.
            StoppedError: the exporter is stopping.
        """
        settings = self._settings
        if by_series and not can_count_by_series(settings.identity):
            raise TempoError(
                "Tempo cannot count by as many attributes as series.labels and series.span_name name", reason="refused"
            )
        params: Params = {
            "q": count_query(settings.scope, settings.filter, by_series=by_series, identity=settings.identity),
            # A data point counts the step that ends at its timestamp.
            "start": start + step_seconds,
            "end": end,
            "step": f"{step_seconds}s",
        }
        try:
            return self.fetch(_COUNT_PATH, params, loop=loop, decode=self._decode_counts, optional=True)
        except RangeTooLongError as error:
            self._max_count_range_seconds = error.max_seconds
            raise

    def fetch(
        self,
        path: str,
        params: Params,
        *,
        loop: Loop,
        decode: Callable[[HttpResponse], _T],
        optional: bool = False,
        may_split: bool = False,
    ) -> _T:
        """Request a path of Tempo's API and decode the response.

        Args:
            path: below the base URL, with a leading slash.
            params: query parameters.
            loop: the loop that sends the request.
            decode: decodes a response with status 200, or raises TempoError. It is called without a slot.
            optional: Tempo may not support the request at all. It is not retried, and an error status still means that
                Tempo is up.
            may_split: the caller asks for less instead if this takes too long, so it is not retried then.

        Raises:
            TempoError: the request failed, after all retries if it was retryable.
            StoppedError: the exporter is stopping.
        """
        attempt = 1
        while True:
            try:
                return self._attempt(path, params, loop, decode, optional)
            except TempoError as error:
                if may_split and error.is_slow:
                    self._limited_log.warning(
                        "search_slow",
                        _SLOW_SEARCH[loop],
                        per=loop,
                        loop=loop,
                        error=str(error),
                    )
                    raise
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
                if error.retry_after_seconds and seconds >= _LONG_PAUSE_SECONDS:
                    self._limited_log.info(
                        "tempo_asked_to_wait",
                        "Tempo is busy and asks to wait (Retry-After); the request is repeated afterwards",
                        loop=loop,
                        pause_seconds=round(seconds, 1),
                        retry_after_seconds=error.retry_after_seconds,
                        error=str(error),
                    )
            if self._pause(seconds):
                raise StoppedError("the exporter is stopping; a request to Tempo was not retried")
            attempt += 1

    def close(self) -> None:
        """Close idle connections; the client remains usable."""
        self._transport.close()

    def _say_proxy(self) -> None:
        """Log which proxy requests go through: it is set outside of the configuration, often unknowingly."""
        proxy = self._transport.proxy
        if proxy is None:
            return
        if proxy.problem:
            self._log.error(
                "proxy_unsupported",
                "the proxy from the environment cannot be used; set another one, or list Tempo's host in NO_PROXY",
                variable=proxy.variable,
                proxy=proxy.address,
                error=proxy.problem,
            )
        else:
            self._log.info(
                "proxy_used",
                "requests to Tempo go through the proxy from the environment",
                variable=proxy.variable,
                proxy=proxy.address,
            )

    def _attempt(
        self, path: str, params: Params, loop: Loop, decode: Callable[[HttpResponse], _T], optional: bool
    ) -> _T:
        try:
            response = self._exchange(path, params, loop)
            failure = status_failure(response, self._clock(), self._transport.mask)
            if failure is not None:
                raise failure
            result = decode(response)
        except TempoError as error:
            self._telemetry.request_failed(loop, error.reason)
            self._telemetry.tempo_answered(error.answered or (optional and error.status is not None))
            if error.reason == "timeout" and (explanation := self._readiness.explanation()):
                # A Tempo that is starting or stopping answers no search, however short.
                is_slow = error.is_slow and not self._readiness.is_unready
                raise TempoError(
                    f"{error} {explanation}", reason="timeout", retryable=error.retryable, is_slow=is_slow
                ) from None
            raise
        self._telemetry.tempo_answered(True)
        self._readiness.forget()
        return result

    def _exchange(self, path: str, params: Params, loop: Loop) -> HttpResponse:
        with self._throttle.slot(loop):
            started = self._monotonic()
            try:
                return self._transport.get(path, params)
            finally:
                self._telemetry.request(loop, self._monotonic() - started)

    def _pause_seconds(self, attempt: int, error: TempoError) -> float:
        backoff = min(_MAX_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** (attempt - 1))
        retry_after = min(error.retry_after_seconds or 0.0, _MAX_RETRY_AFTER_SECONDS)
        return max(retry_after, backoff * self._random())

    def _search_in_scope(
        self,
        conditions: Sequence[str],
        start: int,
        end: int,
        max_traces: int,
        loop: Loop,
        *,
        operations: Sequence[OperationName] = (),
        may_split: bool = False,
    ) -> SearchResult:
        """Search for spans in scope, with a coarser grouping if Tempo refuses the query with a finer one."""
        settings, grouping, refused = self._settings, self._grouping.current, None
        max_spans = self._max_spans
        if operations:
            # A trace may have very many of these spans, and only a few are needed.
            grouping, max_spans = "service", min(max_spans, _MAX_SPANS_WITH_OPERATIONS)
        while True:
            query = search_query(
                settings.scope,
                settings.filter,
                conditions,
                grouping=grouping,
                identity=settings.identity,
                failures=settings.failures,
                operations=operations,
            )
            try:
                result = self._search(query, start, end, max_traces, loop, max_spans=max_spans, may_split=may_split)
            except TempoError as error:
                if error.is_slow and not operations:
                    self._grouping.too_slow(grouping)
                is_refused = type(error) is TempoError and error.status == HTTPStatus.BAD_REQUEST
                coarser = self._grouping.after_refusal(grouping) if is_refused else None
                if coarser is None:
                    raise
                refused = refused or grouping
                grouping = coarser
                continue
            if not operations:
                self._grouping.accepted(grouping, refused)
                self._grouping.found(result.largest)
            return result

    def _search(
        self,
        query: str,
        start: int,
        end: int,
        max_traces: int,
        loop: Loop,
        *,
        max_spans: int = MAX_SPANS_PER_TRACE,
        may_split: bool = False,
        decoder: SearchDecoder | None = None,
    ) -> SearchResult:
        decoder = decoder or self._decoder
        while True:
            limit = min(max_traces, self._max_limit or max_traces)
            max_spans = min(max_spans, self._max_spans)
            params: Params = {"q": query, "start": start, "end": end, "limit": limit, "spss": max_spans}
            oldest_ns = round((end - self._settings.max_age_seconds) * _NS)
            decode = partial(self._decode_search, decoder=decoder, limit=limit, oldest_ns=oldest_ns)
            try:
                return self.fetch(_SEARCH_PATH, params, loop=loop, decode=decode, may_split=may_split)
            except LimitTooHighError as error:
                if error.max_limit >= limit:
                    raise
                self._learn_limit(error.max_limit)
            except TooManySpansError as error:
                if error.max_spans >= max_spans:
                    raise
                self._max_spans = error.max_spans
            except RangeTooLongError as error:
                self._learn_range(error.max_seconds)
                raise

    def _decode_search(
        self, response: HttpResponse, *, decoder: SearchDecoder, limit: int, oldest_ns: int
    ) -> SearchResult:
        try:
            # Decoding takes several times the memory of the body, and hardly any longer one after the other.
            with self._decoding:
                decoded = decoder.decode(response.body, oldest_ns)
        except ValueError:
            raise not_json(response, self._transport.mask) from None
        if decoded.problem:
            self._limited_log.warning(
                "traces_invalid",
                "Tempo returned invalid traces; they are left out and counted",
                count=decoded.invalid,
                first=excerpt(self._transport.mask(decoded.problem)),
            )
        for key, problem in decoded.implausible.items():
            series = self._renamed(key)
            self._once_log.warning(
                "spans_implausible",
                "spans of an endpoint began before Tempo could hold them or took longer than stats.max_duration; they "
                "are left out and counted",
                per=series,
                **series.fields,
                first=problem,
            )
        result = SearchResult(
            decoded.spans,
            decoded.traces,
            limit,
            decoded.duplicates,
            decoded.invalid,
            decoded.missing,
            len(response.body),
            decoded.largest,
        )
        if not decoded.complete and not result.saturated:
            raise TempoError(
                f"GET {response.url} returned an incomplete result: Tempo did not finish all of its own jobs for this "
                f"search. See the logs of its query frontend and queriers.",
                reason="malformed",
                retryable=True,
                status=response.status,
            )
        return result

    def _decode_trace(self, response: HttpResponse, *, attributes: frozenset[Attribute]) -> list[TraceSpan]:
        try:
            return decode_trace(response.body, self._settings.identity, attributes)
        except ValueError:
            raise not_json(response, self._transport.mask) from None

    def _decode_whole_traces(self, response: HttpResponse, *, wanted: Sequence[str]) -> WholeTraces:
        try:
            return decode_whole_traces(response.body, wanted)
        except ValueError:
            raise not_json(response, self._transport.mask) from None

    def _decode_counts(self, response: HttpResponse) -> SpanCounts:
        try:
            return decode_counts(response.body, self._settings.identity)
        except ValueError:
            raise not_json(response, self._transport.mask) from None

    def _learn_limit(self, max_limit: int) -> None:
        with self._limits_lock:
            is_new = self._max_limit is None or max_limit < self._max_limit
            if is_new:
                self._max_limit = max_limit
        if is_new and max_limit < self._settings.limit:
            self._log.warning(
                "search_limit_lowered",
                "Tempo allows fewer traces per search than tempo.limit; lower tempo.limit, or raise "
                "query_frontend.search.max_result_limit in Tempo",
                allowed=max_limit,
                configured=self._settings.limit,
            )

    def _learn_range(self, max_seconds: int) -> None:
        with self._limits_lock:
            is_new = max_seconds != self._max_range_seconds
            self._max_range_seconds = max_seconds
        if is_new:
            self._log.info(
                "search_range_learned",
                "Tempo limits the range of a search; longer ranges are searched in parts",
                seconds=max_seconds,
            )
