"""Routes of the embedded Tempo API and options of its behaviour, without an HTTP server."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from exporter.demo.metrics_query import MetricsMode, MetricsRequest, count_spans
from exporter.demo.responses import JSON_TYPE, NS_PER_SECOND, TEXT_TYPE, ApiError, ApiResponse, Visibility
from exporter.demo.search import CompiledQuery, SearchLimits, SearchRequest, search
from exporter.demo.trace_by_id import parse_trace_id, render_v1, render_v2
from exporter.demo.traces import Trace, TraceSource
from exporter.model.traceql import TraceQLError

_BUILD_INFO: Final = b'{"version":"","revision":"","branch":"","buildUser":"","buildDate":"","goVersion":"go1.27.3"}'


@dataclass(frozen=True)
class ApiOptions:
    """Behaviour of the API. The defaults are those of Tempo 3.0, except that traces are visible at once.

    Attributes:
        limits: limits of searches.
        metrics: how metrics queries are answered.
        metrics_max_duration_seconds: maximum range of a metrics query; 3 hours in Tempo 2.10.
        retention_seconds: traces that started earlier than this ago have expired; None keeps all.
        visible_after_seconds: delay until an ended trace can be found; about 9 s in Tempo 2.10, 30 s in 3.0.
        idle_seconds: spans of a trace that arrive further apart than this are in different blocks, whose parts a search
            does not join; 5 to 10 s in Tempo. None: each trace is in one block.
        delay_seconds: added to the duration of every response.
    """

    limits: SearchLimits = field(default_factory=SearchLimits)
    metrics: MetricsMode = "enabled"
    metrics_max_duration_seconds: int = 24 * 3600
    retention_seconds: float | None = None
    visible_after_seconds: float = 0.0
    idle_seconds: float | None = None
    delay_seconds: float = 0.0


class TempoApi:
    """Maps requests to responses."""

    def __init__(self, source: TraceSource, options: ApiOptions, clock: Callable[[], float]) -> None:
        """Create the API.

        Args:
            source: the traces; those of the future are hidden by the clock.
            options: behaviour.
            clock: returns Unix seconds.
        """
        self._source = source
        self._options = options
        self._clock = clock
        self._compiled_queries = lru_cache(maxsize=64)(CompiledQuery)

    def respond(self, path: str, params: Mapping[str, str]) -> ApiResponse:
        """Return the response to a GET request."""
        try:
            return self._route(path, params)
        except ApiError as error:
            return ApiResponse(error.status, TEXT_TYPE, str(error).encode())
        except TraceQLError as error:
            return ApiResponse(400, TEXT_TYPE, str(error).encode())

    def _route(self, path: str, params: Mapping[str, str]) -> ApiResponse:
        if path == "/api/search":
            request = SearchRequest.parse(params, self._options.limits)
            query = self._compiled_queries(request.query_text) if request.query_text else None
            return ApiResponse(200, JSON_TYPE, search(self._source, request, query, self._visibility()))
        if path == "/api/metrics/query_range":
            return self._metrics_query(params)
        if path.startswith("/api/v2/traces/"):
            trace = self._find_trace(path.removeprefix("/api/v2/traces/"))
            return ApiResponse(200, JSON_TYPE, render_v2(trace))
        if path.startswith("/api/traces/"):
            trace = self._find_trace(path.removeprefix("/api/traces/"))
            return ApiResponse(404, TEXT_TYPE, b"") if trace is None else ApiResponse(200, JSON_TYPE, render_v1(trace))
        if path == "/api/status/buildinfo":
            return ApiResponse(200, JSON_TYPE, _BUILD_INFO)
        if path == "/api/echo":
            return ApiResponse(200, TEXT_TYPE, b"echo\n")
        if path == "/ready":
            return ApiResponse(200, TEXT_TYPE, b"ready\n")
        return ApiResponse(404, TEXT_TYPE, b"404 page not found\n")

    def _metrics_query(self, params: Mapping[str, str]) -> ApiResponse:
        request = MetricsRequest.parse(params, self._options.metrics_max_duration_seconds)
        if self._options.metrics == "refused":
            raise ApiError("error querying generators: empty ring", status=500)
        if self._options.metrics == "empty":
            return ApiResponse(200, JSON_TYPE, b'{"series":[],"metrics":{"completedJobs":1}}')
        return ApiResponse(200, JSON_TYPE, count_spans(self._source, request, self._visibility()))

    def _find_trace(self, trace_id: str) -> Trace | None:
        trace = self._source.find(parse_trace_id(trace_id))
        return trace if trace is not None and self._visibility().shows(trace) else None

    def _visibility(self) -> Visibility:
        now, retention, idle = self._clock(), self._options.retention_seconds, self._options.idle_seconds
        return Visibility(
            oldest_ns=0 if retention is None else int((now - retention) * NS_PER_SECOND),
            newest_ns=int((now - self._options.visible_after_seconds) * NS_PER_SECOND),
            idle_ns=None if idle is None else int(idle * NS_PER_SECOND),
        )
