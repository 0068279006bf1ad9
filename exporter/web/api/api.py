"""The handlers of the API: each reads its parameters, queries the history, the snapshot or Tempo, and returns JSON."""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Final

from exporter import __version__
from exporter.cause.verdict import Outcome
from exporter.evaluation.causes.shift_cause import Shift, ShiftCause
from exporter.evaluation.incident_tracker import IncidentHistory
from exporter.evaluation.query import BaselineQuerier
from exporter.evaluation.snapshot import SeriesStatus, Snapshot
from exporter.evaluation.time_marks import MarkLimitError, TimeMarkRegistry
from exporter.evaluation.timeline import TimelineRange
from exporter.evaluation.timeline_query import TimelineQuerier
from exporter.explain.cause import cause_document
from exporter.explain.check import check
from exporter.explain.document import (
    STATES,
    Json,
    availability_document,
    baseline_document,
    check_document,
    evaluated_at,
    level_counts_document,
    mark_document,
    profile_document,
    series_document,
    state_of,
    timeline_document,
    trace_document,
)
from exporter.explain.drilldown import NO_LINKS, Drilldown
from exporter.explain.incidents import incident_document, incident_summary
from exporter.explain.inputs import nearest_series, parse_instant, parse_seconds, parse_trace_id
from exporter.explain.trace import NotInTraceError, explain_trace
from exporter.model.calendar import Calendar
from exporter.model.critical_path import TraceSpan
from exporter.model.histogram_codec import DamagedDigestError
from exporter.model.label import DEFAULT_LABEL_NAMES, AmbiguousSeriesError, LabelNames
from exporter.model.span import SeriesKey
from exporter.model.time_mark import NO_MARKS, TimeMark, TimeMarks
from exporter.store import StoreError
from exporter.tempo import StoppedError, TempoError
from exporter.web.api.openapi import openapi_document
from exporter.web.api.paging import DEFAULT_LIMIT, MAX_LIMIT, PageRequest, decode_place, encode_place
from exporter.web.api.parameters import BadParametersError, Parameters, integer, one_of
from exporter.web.http import Handler, HttpRequest, HttpResponse, problem_response
from exporter.web.server.workers import WorkerGroup

PREFIX: Final = "/api/v1/"

_CAUSE_SECONDS: Final = 60.0
"""How long the cause of a present shift is cached; that of a past one, until others replace it."""
_MAX_CAUSES: Final = 50
_BUSY_RETRY_SECONDS: Final = "5"

_JSON: Final = "application/json"
_OTHER_PARAMETERS: Final = frozenset(
    {
        "service_name",
        "span_name",
        "duration",
        "at",
        "match",
        "state",
        "anomalous",
        "limit",
        "cursor",
        "trace_id",
        "range",
    }
)
"""Parameters that are no labels."""


class Api:
    """The API. At most as many requests run at once as leave a worker free; further ones get status 503."""

    def __init__(
        self,
        querier: BaselineQuerier,
        timelines: TimelineQuerier,
        snapshot: Callable[[], Snapshot | None],
        fetch_trace: Callable[[str], Iterable[TraceSpan]],
        *,
        renamed: Callable[[SeriesKey], SeriesKey],
        label_names: LabelNames = DEFAULT_LABEL_NAMES,
        calendar: Calendar,
        clock: Callable[[], float],
        find_cause: Callable[[Shift], ShiftCause],
        incidents: IncidentHistory,
        drilldown: Drilldown = NO_LINKS,
        running: threading.BoundedSemaphore | None = None,
        marks: TimeMarkRegistry | None = None,
        parse_mark: Callable[[bytes], TimeMark] | None = None,
    ) -> None:
        """Take the data sources.

        Args:
            querier: queries the stored history.
            timelines: queries it over time.
            snapshot: returns the current snapshot; None until the first.
            fetch_trace: fetches the spans of a trace from Tempo; raises TempoError or StoppedError.
            renamed: maps the names of a span to those of its series.
            label_names: maps the names of series to label values, which parameters may have instead.
            calendar: the local calendar.
            clock: Unix seconds.
            find_cause: looks for the cause of a shift with requests to Tempo; raises StoppedError.
            incidents: reads incidents.
            drilldown: builds links to comparisons in Grafana.
            running: admits as many requests at once as may block the workers; shared with pages that do.
            marks: what people know about ranges of time.
            parse_mark: reads a mark from a body; raises BadParametersError. None if clients may neither add nor delete
                marks.
        """
        self._marks = marks
        self._parse_mark = parse_mark
        self._querier = querier
        self._timelines = timelines
        self._snapshot = snapshot
        self._fetch_trace = fetch_trace
        self._renamed = renamed
        self._label_names = label_names
        self._calendar = calendar
        self._clock = clock
        self._find_cause = find_cause
        self._incidents = incidents
        self._drilldown = drilldown
        # One at a time: each costs Tempo several requests. The cache belongs to the one that runs.
        self._looking_for_cause = threading.BoundedSemaphore(1)
        self._causes: OrderedDict[tuple[SeriesKey, int | None], ShiftCause] = OrderedDict()
        self._running = running or threading.BoundedSemaphore(WorkerGroup.API.max_blocked)

    def pages(self) -> Mapping[str, Handler]:
        """The handlers by path."""
        endpoints: Mapping[str, Callable[[Parameters], Json]] = {
            "check": self._check,
            "baseline": self._baseline,
            "timeline": self._timeline,
            "series": self._series,
            "available": self._available,
            "trace": self._trace,
            "why": self._why,
            "incidents": self._list_incidents,
            "incident": self._incident,
            "marks": self._list_marks,
            "openapi.json": self._openapi,
        }
        return {PREFIX + name: self._handler(endpoint) for name, endpoint in endpoints.items()}

    def writers(self) -> Mapping[tuple[str, str], Handler]:
        """The handlers that write, by method and path; where clients may not, they refuse and say why."""
        path = f"{PREFIX}marks"
        if self._marks is None or self._parse_mark is None:
            return {("POST", path): _refuse_marks, ("DELETE", path): _refuse_marks}
        return {
            ("POST", path): partial(self._add_mark, self._marks, self._parse_mark),
            ("DELETE", path): partial(self._delete_mark, self._marks),
        }

    def _add_mark(
        self, marks: TimeMarkRegistry, parse: Callable[[bytes], TimeMark], request: HttpRequest
    ) -> HttpResponse:
        # A page of another origin can send forms and text with the password of a browser, but not this type.
        if request.content_type != "application/json":
            return problem_response(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a mark must be sent as JSON: set Content-Type: application/json"
            )
        try:
            added = marks.add(parse(request.body))
        except BadParametersError as error:
            return _bad_request(error)
        except MarkLimitError as error:
            return problem_response(HTTPStatus.CONFLICT, str(error))
        except StoreError as error:
            return problem_response(HTTPStatus.SERVICE_UNAVAILABLE, str(error), reason=error.reason)
        return HttpResponse(json.dumps(mark_document(added)).encode(), _JSON, HTTPStatus.CREATED)

    def _delete_mark(self, marks: TimeMarkRegistry, request: HttpRequest) -> HttpResponse:
        parameters = Parameters(request.query)
        mark_id = parameters.required("id")
        try:
            parameters.finish()
            is_deleted = marks.remove(mark_id)
        except BadParametersError as error:
            return _bad_request(error)
        except StoreError as error:
            return problem_response(HTTPStatus.SERVICE_UNAVAILABLE, str(error), reason=error.reason)
        if not is_deleted:
            detail = "no mark with this id was added over the API; others are where their source says"
            return problem_response(HTTPStatus.NOT_FOUND, detail)
        return HttpResponse(json.dumps({"deleted": mark_id}).encode(), _JSON)

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
                return _bad_request(error)
            except _UnknownSeriesError as error:
                return problem_response(HTTPStatus.NOT_FOUND, str(error), nearest=error.nearest)
            except AmbiguousSeriesError as error:
                return problem_response(
                    HTTPStatus.BAD_REQUEST,
                    "several series have this service_name and span_name; give labels as parameters, an empty one for "
                    "none, such as those of the series in `matching`",
                    matching=[key.fields for key in error.matching],
                )
            except (_UnknownTraceError, _UnknownIncidentError, NotInTraceError) as error:
                return problem_response(HTTPStatus.NOT_FOUND, str(error))
            except _BusyError as error:
                return problem_response(
                    HTTPStatus.SERVICE_UNAVAILABLE, str(error), headers=(("Retry-After", _BUSY_RETRY_SECONDS),)
                )
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
        given = self._series_key(parameters)
        seconds = parameters.parsed("duration", parse_seconds)
        now = self._clock()
        at = self._instant(parameters, now)
        parameters.finish()
        key, status = self._find(given)
        result = check(self._querier, key, now=now, at=at, duration_seconds=seconds, status=status)
        document = check_document(result, self._calendar)
        if result.status is not None:
            document["now"] |= self._comparisons(result.status)
        return document

    def _baseline(self, parameters: Parameters) -> Json:
        given = self._series_key(parameters)
        now = self._clock()
        at = self._instant(parameters, now)
        parameters.finish()
        key, _ = self._find(given)
        if at is None:
            return profile_document(self._timelines.usual(key, int(now)))
        return {"at_unix": at, **baseline_document(self._querier.report(key, int(at), int(now)), self._calendar)}

    def _timeline(self, parameters: Parameters) -> Json:
        given = self._series_key(parameters)
        range_ = TimelineRange(parameters.parsed("range", one_of(*TimelineRange)) or TimelineRange.HOURS_24)
        parameters.finish()
        key, status = self._find(given)
        now = int(self._clock())
        return timeline_document(
            self._timelines.timeline(key, range_, now, self._timelines.usual(key, now), status), range_
        )

    def _series(self, parameters: Parameters) -> Json:
        name_filter = _NameFilter(parameters, self._label_names, self._labels(parameters))
        state = parameters.parsed("state", one_of(*STATES))
        anomalous = parameters.parsed("anomalous", one_of("true", "false"))
        page = PageRequest(parameters)
        parameters.finish()
        snapshot = self._snapshot()
        statuses: Sequence[SeriesStatus] = () if snapshot is None else snapshot.series
        matching = [
            each
            for each in statuses
            if (state is None or state_of(each) == state)
            and (anomalous is None or (each.is_anomalous or bool(each.regressed)) == (anomalous == "true"))
            and name_filter.matches(each.key)
        ]
        return {
            **evaluated_at(None if snapshot is None else snapshot.evaluated_at),
            **page.slice(
                matching,
                lambda status: status.key,
                lambda status: {**series_document(status), **self._comparisons(status)},
            ),
        }

    def _available(self, parameters: Parameters) -> Json:
        name_filter = _NameFilter(parameters, self._label_names, self._labels(parameters))
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
        labels = self._labels(parameters)
        parameters.finish()
        assert trace_id is not None  # noqa: S101 - otherwise finish() raised
        wanted = None
        if service_name is not None and span_name is not None:
            wanted = SeriesKey(service_name, span_name, labels)
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

    def _why(self, parameters: Parameters) -> Json:
        given = self._series_key(parameters)
        now = self._clock()
        at = self._instant(parameters, now)
        parameters.finish()
        key, status = self._find(given)
        if at is None and status is not None and status.cause is not None:
            return cause_document(status.cause, self._drilldown)
        if not self._looking_for_cause.acquire(blocking=False):
            raise _BusyError("another request looks for a cause, which takes Tempo some seconds; try again")
        try:
            return cause_document(self._cause_of(key, status, at, now), self._drilldown)
        finally:
            self._looking_for_cause.release()

    def _list_incidents(self, parameters: Parameters) -> Json:
        limit = parameters.parsed("limit", integer(1, MAX_LIMIT)) or DEFAULT_LIMIT
        after = parameters.parsed("cursor", decode_place)
        parameters.finish()
        page = self._incidents.newest(limit, after)
        return {
            "next_cursor": None if page.next is None else encode_place(page.next),
            "incidents": [incident_summary(each) for each in page.incidents],
        }

    def _incident(self, parameters: Parameters) -> Json:
        incident_id = parameters.required("id")
        parameters.finish()
        incident = self._incidents.find(incident_id)
        if incident is None:
            raise _UnknownIncidentError(
                "there is no incident with this id: it is older than storage.retention, or never was; "
                f"{PREFIX}incidents lists those that are stored"
            )
        return incident_document(incident, self._time_marks(), self._clock())

    def _time_marks(self) -> TimeMarks:
        return NO_MARKS if self._marks is None else self._marks.current

    def _list_marks(self, parameters: Parameters) -> Json:
        parameters.finish()
        return {
            "can_be_added": self._parse_mark is not None,
            "marks": [mark_document(each) for each in self._time_marks().marks],
        }

    def _comparisons(self, status: SeriesStatus) -> Json:
        """The links to comparisons of a series in Grafana."""
        snapshot = self._snapshot()
        return {
            "comparison_urls": self._drilldown.of_flags(status, None if snapshot is None else snapshot.evaluated_at)
        }

    def _openapi(self, parameters: Parameters) -> Json:
        parameters.finish()
        return openapi_document(PREFIX, __version__)

    def _cause_of(self, key: SeriesKey, status: SeriesStatus | None, at: float | None, now: float) -> ShiftCause:
        """Return the cause of a shift now or at an instant in the past, from the cache if it is recent enough."""
        cached_key = key, None if at is None else int(at)
        cached = self._causes.get(cached_key)
        if cached is not None and (at is not None or now - cached.shift.at < _CAUSE_SECONDS):
            return cached
        is_present = at is None and status is not None and bool(status.shift)
        since = status.since if is_present and status is not None else None
        cause = self._find_cause(Shift(key, now if at is None else min(at, now), since))
        if cause.verdict.outcome is not Outcome.FAILED:
            self._causes[cached_key] = cause
            if len(self._causes) > _MAX_CAUSES:
                self._causes.popitem(last=False)
        return cause

    def _series_key(self, parameters: Parameters) -> SeriesKey:
        return SeriesKey(
            parameters.required("service_name"),
            parameters.required("span_name"),
            self._labels(parameters),
        )

    def _labels(self, parameters: Parameters) -> tuple[tuple[str, str], ...]:
        """Read the labels that are given; an empty one stands for none.

        Besides the configured labels, series may have those of an earlier configuration.
        """
        names = set(self._label_names.names)
        if parameters.names - names - _OTHER_PARAMETERS:
            names |= {name for key in self._querier.series() for name, _ in key.labels}
        return tuple((name, value) for name in sorted(names) if (value := parameters.text(name)) is not None)

    def _find(self, given: SeriesKey) -> tuple[SeriesKey, SeriesStatus | None]:
        """Return a series and its status at the live edge; None for a series that only the history has.

        Raises:
            _UnknownSeriesError: neither the live edge nor the history has the series.
            AmbiguousSeriesError: several series have these names.
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


def _refuse_marks(_request: HttpRequest) -> HttpResponse:
    return problem_response(
        HTTPStatus.FORBIDDEN,
        "marks over the API are off: set web.allow_marks to true, with a password in web.config_file, and restart; "
        "or add the mark to marks or marks_file in the configuration",
    )


def _bad_request(error: BadParametersError) -> HttpResponse:
    return problem_response(HTTPStatus.BAD_REQUEST, str(error), errors=[each._asdict() for each in error.errors])


class _BusyError(Exception):
    """A request of a kind that runs alone is running."""


class _UnknownIncidentError(Exception):
    """There is no such incident."""


class _UnknownTraceError(Exception):
    """Tempo has no such trace."""


class _UnknownSeriesError(Exception):
    """There is no such series.

    Attributes:
        nearest: the series with the most similar names, as JSON.
    """

    def __init__(self, key: SeriesKey, known: Iterable[SeriesKey]) -> None:
        nearest = nearest_series(key, known)
        self.nearest = [each.fields for each in nearest]
        hint = "; `nearest` lists series with similar names" if nearest else ", nor one with a similar name"
        super().__init__(f"there is no series with this service_name and span_name{hint}")


class _NameFilter:
    """Filters series by the parameters ``service_name`` and ``match``, and by labels."""

    def __init__(self, parameters: Parameters, label_names: LabelNames, labels: Sequence[tuple[str, str]]) -> None:
        self._label_names = label_names
        self._labels = labels
        self._service_name = parameters.text("service_name")
        self._match = (parameters.text("match") or "").casefold()

    def matches(self, key: SeriesKey) -> bool:
        """Whether a series passes."""
        if self._service_name is not None and not self._label_names.is_name(key.service_name, self._service_name):
            return False
        if self._labels and not self._label_names.has_labels(key, self._labels):
            return False
        return not self._match or self._match in " ".join(key.parts).casefold()
