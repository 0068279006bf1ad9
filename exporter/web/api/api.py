"""The handlers of the API: each reads its parameters, queries the history, the snapshot or Tempo, and returns JSON."""

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Final

from exporter.evaluation.query import BaselineQuerier
from exporter.evaluation.snapshot import SeriesStatus, Snapshot
from exporter.explain.check import check
from exporter.explain.document import (
    STATES,
    Json,
    availability_document,
    baseline_document,
    check_document,
    evaluated_at,
    level_counts_document,
    profile_document,
    series_document,
    state_of,
    trace_document,
)
from exporter.explain.inputs import nearest_series, parse_instant, parse_seconds, parse_trace_id
from exporter.explain.trace import NotInTraceError, explain_trace
from exporter.model.calendar import Calendar
from exporter.model.critical_path import TraceSpan
from exporter.model.histogram_codec import DamagedDigestError
from exporter.model.label import DEFAULT_LABEL_NAMES, LabelNames
from exporter.model.span import SeriesKey
from exporter.store import StoreError
from exporter.tempo import StoppedError, TempoError
from exporter.web.api.paging import PageRequest
from exporter.web.api.parameters import BadParametersError, Parameters, one_of
from exporter.web.http import Handler, HttpRequest, HttpResponse, problem_response
from exporter.web.server.workers import WorkerGroup

PREFIX: Final = "/api/v1/"

_JSON: Final = "application/json"


class Api:
    """The API. At most as many requests run at once as leave a worker free; further ones get status 503."""

    def __init__(
        self,
        querier: BaselineQuerier,
        snapshot: Callable[[], Snapshot | None],
        fetch_trace: Callable[[str], Iterable[TraceSpan]],
        *,
        renamed: Callable[[SeriesKey], SeriesKey],
        label_names: LabelNames = DEFAULT_LABEL_NAMES,
        calendar: Calendar,
        clock: Callable[[], float],
    ) -> None:
        """Take the data sources.

        Args:
            querier: queries the stored history.
            snapshot: returns the current snapshot; None until the first.
            fetch_trace: fetches the spans of a trace from Tempo; raises TempoError or StoppedError.
            renamed: maps the names of a span to those of its series.
            label_names: maps the names of series to label values, which parameters may have instead.
            calendar: the local calendar.
            clock: Unix seconds.
        """
        self._querier = querier
        self._snapshot = snapshot
        self._fetch_trace = fetch_trace
        self._renamed = renamed
        self._label_names = label_names
        self._calendar = calendar
        self._clock = clock
        self._running = threading.BoundedSemaphore(WorkerGroup.API.max_blocked)

    def pages(self) -> Mapping[str, Handler]:
        """The handlers by path."""
        endpoints: Mapping[str, Callable[[Parameters], Json]] = {
            "check": self._check,
            "baseline": self._baseline,
            "series": self._series,
            "available": self._available,
            "trace": self._trace,
        }
        return {PREFIX + name: self._handler(endpoint) for name, endpoint in endpoints.items()}

    def _handler(self, endpoint: Callable[[Parameters], Json]) -> Handler:
        def handle(request: HttpRequest) -> HttpResponse:
            if not self._running.acquire(blocking=False):
                return problem_response(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    "too many API requests are running; try again in a moment",
                    headers=(("Retry-After", "1"),),
                )
            try:
                document = endpoint(Parameters(request.query))
                return HttpResponse(json.dumps(document, allow_nan=False).encode(), _JSON)
            except BadParametersError as error:
                errors = [each._asdict() for each in error.errors]
                return problem_response(HTTPStatus.BAD_REQUEST, str(error), errors=errors)
            except _UnknownSeriesError as error:
                return problem_response(HTTPStatus.NOT_FOUND, str(error), nearest=error.nearest)
            except (_UnknownTraceError, NotInTraceError) as error:
                return problem_response(HTTPStatus.NOT_FOUND, str(error))
            except TempoError as error:
                return problem_response(HTTPStatus.BAD_GATEWAY, str(error), reason=error.reason)
            except StoppedError:
                return problem_response(HTTPStatus.SERVICE_UNAVAILABLE, "the exporter is stopping")
            except StoreError as error:
                return problem_response(HTTPStatus.SERVICE_UNAVAILABLE, str(error), reason=error.reason)
            except DamagedDigestError as error:
                detail = f"the stored history of this series is damaged ({error}), so it has no baseline"
                return problem_response(HTTPStatus.INTERNAL_SERVER_ERROR, detail)
            finally:
                self._running.release()

        return handle

    def _instant(self, parameters: Parameters, now: float) -> float | None:
        return parameters.parsed("at", lambda text: parse_instant(text, self._calendar.zone, now))

    # One method per path.

    def _check(self, parameters: Parameters) -> Json:
        given = _series_key(parameters)
        seconds = parameters.parsed("duration", parse_seconds)
        now = self._clock()
        at = self._instant(parameters, now)
        parameters.finish()
        key, status = self._find(given)
        result = check(self._querier, key, now=now, at=at, duration_seconds=seconds, status=status)
        return check_document(result, self._calendar)

    def _baseline(self, parameters: Parameters) -> Json:
        given = _series_key(parameters)
        now = self._clock()
        at = self._instant(parameters, now)
        parameters.finish()
        key, _ = self._find(given)
        if at is None:
            return profile_document(self._querier.profile(key, int(now)))
        return {"at_unix": at, **baseline_document(self._querier.report(key, int(at), int(now)), self._calendar)}

    def _series(self, parameters: Parameters) -> Json:
        name_filter = _NameFilter(parameters, self._label_names)
        state = parameters.parsed("state", one_of(*STATES))
        page = PageRequest(parameters)
        parameters.finish()
        snapshot = self._snapshot()
        statuses: Sequence[SeriesStatus] = () if snapshot is None else snapshot.series
        matching = [
            each for each in statuses if name_filter.matches(each.key) and (state is None or state_of(each) == state)
        ]
        return {
            **evaluated_at(None if snapshot is None else snapshot.evaluated_at),
            **page.slice(matching, lambda status: status.key, series_document),
        }

    def _available(self, parameters: Parameters) -> Json:
        name_filter = _NameFilter(parameters, self._label_names)
        page = PageRequest(parameters)
        parameters.finish()
        available = {
            key: standings
            for key, standings in self._querier.availability(int(self._clock())).items()
            if name_filter.matches(key)
        }
        return {
            # It covers the whole list, so only the first page has it.
            "series_by_level": level_counts_document(available) if page.is_first else None,
            **page.slice(sorted(available), lambda key: key, lambda key: availability_document(key, available[key])),
        }

    def _trace(self, parameters: Parameters) -> Json:
        trace_id = parameters.required_parsed("trace_id", parse_trace_id)
        service_name, span_name = parameters.text("service_name"), parameters.text("span_name")
        for name, value, other in (
            ("service_name", service_name, span_name),
            ("span_name", span_name, service_name),
        ):
            if value is None and other is not None:
                parameters.add_error(name, "is missing: an endpoint is a service and a span name")
        parameters.finish()
        assert trace_id is not None  # noqa: S101 - otherwise finish() raised
        wanted = None if service_name is None or span_name is None else SeriesKey(service_name, span_name)
        explanation = explain_trace(
            trace_id,
            self._fetch_trace(trace_id),
            renamed=self._renamed,
            querier=self._querier,
            now=self._clock(),
            wanted=wanted,
            label_names=self._label_names,
        )
        if explanation is None:
            raise _UnknownTraceError(
                f"Tempo has no trace {trace_id}: it is older than Tempo's retention, not written yet, or belongs to "
                "another tenant"
            )
        return trace_document(explanation, self._calendar)

    def _find(self, given: SeriesKey) -> tuple[SeriesKey, SeriesStatus | None]:
        """Return a series and its status at the live edge; None for a series that only the history has.

        Raises:
            _UnknownSeriesError: neither the live edge nor the history has the series.
        """
        snapshot = self._snapshot()
        live = {} if snapshot is None else {status.key: status for status in snapshot.series}
        if given in live:
            return given, live[given]
        stored = self._querier.series()
        key = self._label_names.find(given, {*stored, *live})
        if key is None:
            raise _UnknownSeriesError(given, [*stored, *live])
        return key, live.get(key)


class _UnknownTraceError(Exception):
    """Tempo has no such trace."""


class _UnknownSeriesError(Exception):
    """There is no such series.

    Attributes:
        nearest: the series with the most similar names, as JSON.
    """

    def __init__(self, key: SeriesKey, known: Iterable[SeriesKey]) -> None:
        nearest = nearest_series(key, known)
        self.nearest = [each._asdict() for each in nearest]
        hint = "; `nearest` lists series with similar names" if nearest else ", nor one with a similar name"
        super().__init__(f"there is no series with this service_name and span_name{hint}")


class _NameFilter:
    """Filters series by the parameters ``service_name`` and ``match``."""

    def __init__(self, parameters: Parameters, label_names: LabelNames) -> None:
        self._label_names = label_names
        self._service_name = parameters.text("service_name")
        self._match = (parameters.text("match") or "").casefold()

    def matches(self, key: SeriesKey) -> bool:
        """Whether a series passes."""
        if self._service_name is not None and not self._label_names.is_name(key.service_name, self._service_name):
            return False
        return not self._match or self._match in f"{key.service_name} {key.span_name}".casefold()


def _series_key(parameters: Parameters) -> SeriesKey:
    return SeriesKey(parameters.required("service_name"), parameters.required("span_name"))
