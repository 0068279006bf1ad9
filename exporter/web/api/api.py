"""The addresses of the API: each reads its parameters, asks, and answers in JSON."""

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from exporter.evaluation.query import BaselineQuerier
from exporter.evaluation.snapshot import SeriesStatus, Snapshot
from exporter.explain.check import check
from exporter.explain.document import (
    STATES,
    availability_document,
    check_document,
    coverage_document,
    profile_document,
    series_document,
    state_of,
    trace_document,
    usual_document,
)
from exporter.explain.inputs import parse_instant, parse_seconds, parse_trace_id
from exporter.explain.names import nearest_series
from exporter.explain.trace import NotInTraceError, explain_trace
from exporter.model.calendar import Calendar
from exporter.model.critical_path import TraceSpan
from exporter.model.histogram_codec import DamagedDigestError
from exporter.model.span import SeriesKey
from exporter.store import StoreError
from exporter.tempo import StoppedError, TempoError
from exporter.web.api.paging import ResultPage
from exporter.web.api.parameters import BadParametersError, Parameters, one_of
from exporter.web.http import HttpRequest, HttpResponse, problem
from exporter.web.http import Page as Handler
from exporter.web.server.workers import Workers

PREFIX: Final = "/api/v1/"

_JSON: Final = "application/json"


class Api:
    """Answers programs."""

    def __init__(
        self,
        inquiry: BaselineQuerier,
        snapshot: Callable[[], Snapshot | None],
        fetch_trace: Callable[[str], Iterable[TraceSpan]],
        *,
        renamed: Callable[[SeriesKey], SeriesKey],
        calendar: Calendar,
        clock: Callable[[], float],
    ) -> None:
        """Put it together.

        Args:
            inquiry: the history.
            snapshot: what is known of the present; None until anything is.
            fetch_trace: the spans of a trace; raises TempoError or StoppedError.
            renamed: under which name a series is kept.
            calendar: the local clock.
            clock: Unix seconds.
        """
        self._inquiry = inquiry
        self._snapshot = snapshot
        self._fetch_trace = fetch_trace
        self._renamed = renamed
        self._calendar = calendar
        self._clock = clock
        self._turns = threading.BoundedSemaphore(Workers.QUESTIONS.busy)

    def pages(self) -> Mapping[str, Handler]:
        """The addresses, and what answers there."""
        answers: Mapping[str, Callable[[Parameters], dict[str, Any]]] = {
            "check": self._check,
            "baseline": self._baseline,
            "series": self._series,
            "available": self._available,
            "trace": self._trace,
        }
        return {PREFIX + name: self._handler(answer) for name, answer in answers.items()}

    def _handler(self, answer: Callable[[Parameters], dict[str, Any]]) -> Handler:
        def handle(request: HttpRequest) -> HttpResponse:
            if not self._turns.acquire(blocking=False):
                return problem(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    "other questions are being worked on; ask again in a moment",
                    headers=(("Retry-After", "1"),),
                )
            try:
                return HttpResponse(json.dumps(answer(Parameters(request.query)), allow_nan=False).encode(), _JSON)
            except BadParametersError as error:
                complaints = [each._asdict() for each in error.complaints]
                return problem(HTTPStatus.BAD_REQUEST, str(error), errors=complaints)
            except _UnknownSeriesError as error:
                return problem(HTTPStatus.NOT_FOUND, str(error), nearest=error.nearest)
            except (_UnknownTraceError, NotInTraceError) as error:
                return problem(HTTPStatus.NOT_FOUND, str(error))
            except TempoError as error:
                return problem(HTTPStatus.BAD_GATEWAY, str(error), reason=error.reason)
            except StoppedError:
                return problem(HTTPStatus.SERVICE_UNAVAILABLE, "the exporter is being stopped")
            except StoreError as error:
                return problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error), reason=error.reason)
            except DamagedDigestError as error:
                detail = f"what is stored of this series is damaged ({error}), so nothing is known of what is usual"
                return problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail)
            finally:
                self._turns.release()

        return handle

    def _instant(self, parameters: Parameters, now: float) -> float | None:
        return parameters.parsed("at", lambda text: parse_instant(text, self._calendar.zone, now))

    # The addresses

    def _check(self, parameters: Parameters) -> dict[str, Any]:
        key = _key(parameters)
        seconds = parameters.parsed("duration", parse_seconds)
        now = self._clock()
        at = self._instant(parameters, now)
        parameters.done()
        status = self._known(key)
        found = check(self._inquiry, key, now=now, at=at, duration_seconds=seconds, status=status)
        return check_document(found, self._calendar)

    def _baseline(self, parameters: Parameters) -> dict[str, Any]:
        key = _key(parameters)
        now = self._clock()
        at = self._instant(parameters, now)
        parameters.done()
        self._known(key)
        if at is None:
            return profile_document(self._inquiry.profile(key, int(now)))
        return {"at_unix": at, **usual_document(self._inquiry.report(key, int(at), int(now)), self._calendar)}

    def _series(self, parameters: Parameters) -> dict[str, Any]:
        wanted = _Selection(parameters)
        state = parameters.parsed("state", one_of(*STATES))
        page = ResultPage(parameters)
        parameters.done()
        snapshot = self._snapshot()
        statuses: Sequence[SeriesStatus] = () if snapshot is None else snapshot.series
        chosen = [each for each in statuses if wanted.has(each.key) and (state is None or state_of(each) == state)]
        return {
            "judged_at_unix": None if snapshot is None else snapshot.evaluated_at,
            **page.of(chosen, lambda status: status.key, series_document),
        }

    def _available(self, parameters: Parameters) -> dict[str, Any]:
        wanted = _Selection(parameters)
        page = ResultPage(parameters)
        parameters.done()
        available = {
            key: standings
            for key, standings in self._inquiry.availability(int(self._clock())).items()
            if wanted.has(key)
        }
        return {
            # Of the whole list, so once is enough.
            "series_by_level": coverage_document(available) if page.is_first else None,
            **page.of(sorted(available), lambda key: key, lambda key: availability_document(key, available[key])),
        }

    def _trace(self, parameters: Parameters) -> dict[str, Any]:
        trace_id = parameters.required_parsed("trace_id", parse_trace_id)
        service_name, span_name = parameters.text("service_name"), parameters.text("span_name")
        for name, value, other in (
            ("service_name", service_name, span_name),
            ("span_name", span_name, service_name),
        ):
            if value is None and other is not None:
                parameters.complain(name, "is missing: an endpoint is a service and a span name")
        parameters.done()
        assert trace_id is not None  # noqa: S101 - otherwise it was complained about
        wanted = None if service_name is None or span_name is None else SeriesKey(service_name, span_name)
        answer = explain_trace(
            trace_id,
            self._fetch_trace(trace_id),
            renamed=self._renamed,
            inquiry=self._inquiry,
            now=self._clock(),
            wanted=wanted,
        )
        if answer is None:
            raise _UnknownTraceError(
                f"Tempo has no trace {trace_id}: it is older than Tempo's retention, not written yet, or of another "
                "tenant"
            )
        return trace_document(answer, self._calendar)

    def _known(self, key: SeriesKey) -> SeriesStatus | None:
        """What is known of a series at the live edge.

        Raises:
            _UnknownSeriesError: there is no such series, neither there nor in the history.
        """
        snapshot = self._snapshot()
        live = {} if snapshot is None else {status.key: status for status in snapshot.series}
        status = live.get(key)
        if status is None:
            stored = self._inquiry.series()
            if key not in stored:
                raise _UnknownSeriesError(key, [*stored, *live])
        return status


class _UnknownTraceError(Exception):
    """Tempo does not know a trace."""


class _UnknownSeriesError(Exception):
    """There is no such series.

    Attributes:
        nearest: those with the nearest names, as they stand in the answer.
    """

    def __init__(self, key: SeriesKey, known: Iterable[SeriesKey]) -> None:
        names = nearest_series(key, known)
        self.nearest = [each._asdict() for each in names]
        meant = "; `nearest` has those with similar names" if names else "; nothing is known of any series yet"
        super().__init__(f"there is no series with this service_name and span_name{meant}")


class _Selection:
    """Which series are wanted, by name."""

    def __init__(self, parameters: Parameters) -> None:
        self._service_name = parameters.text("service_name")
        self._match = (parameters.text("match") or "").casefold()

    def has(self, key: SeriesKey) -> bool:
        """Whether a series is one of them."""
        if self._service_name is not None and key.service_name != self._service_name:
            return False
        return not self._match or self._match in f"{key.service_name} {key.span_name}".casefold()


def _key(parameters: Parameters) -> SeriesKey:
    return SeriesKey(parameters.required("service_name"), parameters.required("span_name"))
