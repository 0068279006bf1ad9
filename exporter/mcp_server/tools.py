"""The tools, each a request to the API of the exporter. None of them changes anything."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from typing import Final
from urllib.parse import urlencode

from exporter.mcp_server.answers import (
    AnswerTooLongError,
    Excerpt,
    Json,
    cut_name,
    encode,
    excerpt,
    fitted,
    keys,
)
from exporter.verify.client import ExporterClient, RefusedError, UnreachableError

Instant = str | int | float | None
Parameters = dict[str, str]

_PAGE: Final = 100
"""How many items of a list are requested; an answer has room for fewer."""
_MAX_PAGE: Final = 1000
_NO_NAMES: Final = frozenset({"match", "cursor", "id", "trace_id", "at", "duration", "limit", "anomalous"})
_MAX_CURSOR: Final = 500
"""A cursor consists of whole names; the address in an answer has no longer one."""

_NAMES: Final = "service_name span_name labels"
_BASELINE: Final = keys("level mature windows samples p50_seconds p95_seconds mad_seconds")
_SLOT: Final = keys("name")
_ERRORS: Final = keys("anomalous since_unix failures error_ratio baseline_error_ratio")
_TRAFFIC: Final = keys("anomalous since_unix usual_requests ratio window_seconds")
_REGRESSION: Final = keys(
    "raised_at_unix began_after_unix began_before_unix quantile ratio before_seconds hours version_outcome version "
    "version_before"
)
_LOST: Final = keys("requests seconds since_unix")
_OUTLIER: Final = keys("trace_id seconds at_unix")
_SHIFT: Final = keys(
    "quantile traces slow allowed limit_seconds baseline_seconds current_seconds swing_factor chance test"
)
_COMPONENT: Final = f"{_NAMES} kind callee healthy_seconds now_seconds healthy_calls now_calls"

_ENDPOINTS: Final = keys(
    "evaluated_at_unix total",
    series=keys(
        f"{_NAMES} state kind current_traces current_p50_seconds current_p95_seconds outlier_threshold_seconds "
        "shifted shifted_since_unix score regressed",
        baseline=keys("p50_seconds p95_seconds"),
        errors=_ERRORS,
        traffic=_TRAFFIC,
        regression=keys("ratio began_after_unix began_before_unix version_outcome version"),
        time_lost=_LOST,
        last_outlier=_OUTLIER,
        shift_cause=keys("outcome cause cause_service_name share"),
    ),
)
_INCIDENT_SUMMARY: Final = keys(
    "incident start_unix end_unix merged_into reconstructed severity cause cause_service_name cause_span_name share "
    "certainty sentence peak_score",
    endpoints_by_role=keys("cause victim unexplained"),
    time_lost=_LOST,
)
_INCIDENTS: Final = {"incidents": _INCIDENT_SUMMARY}
_INCIDENT: Final[Excerpt] = {
    **_INCIDENT_SUMMARY,
    "endpoints": keys(
        f"{_NAMES} role since_unix until_unix peak_score",
        time_lost=_LOST,
        shift_cause=keys("outcome cause_service_name slow_trace_id healthy_trace_id"),
    ),
}
_HOUR: Final = keys(
    f"at_unix {_NAMES} kind stream_reason enabled severity known_until_unix level level_name outlier_threshold_seconds "
    "no_shift_verdict changepoint_unix regressed",
    overrides=keys("key value override"),
    hour=keys("start_unix end_unix local timezone"),
    slot=_SLOT,
    shift_thresholds=keys("quantile baseline_seconds swing_factor limit_seconds"),
    run_thresholds=keys("past_runs baseline_seconds limit_seconds far_limit_seconds longest_run_seconds"),
    regression=_REGRESSION,
    levels=keys("level level_name needed_traces traces windows mature"),
)
_CHECK: Final[Excerpt] = {
    **keys("sentence present"),
    **_HOUR,
    "baseline": _BASELINE,
    "duration": keys("seconds outlier threshold_ratio p50_ratio p95_ratio slower_traces"),
    "now": keys(
        "current_traces current_p50_seconds current_p95_seconds shifted shifted_since_unix score outlier",
        errors=_ERRORS,
        time_lost=_LOST,
        last_outlier=_OUTLIER,
        explanation=_SHIFT,
        shift_cause=keys("outcome cause cause_service_name share"),
    ),
}
_HOUR_BASELINE: Final[Excerpt] = {
    **_HOUR,
    "kept_out_hours_unix": None,
    "baseline": {**_BASELINE, "pooled_hours": keys("start_unix traces")},
}
_PROFILE: Final = keys(
    f"{_NAMES} changepoint_unix",
    slots=keys(
        "level outlier_threshold_seconds own_traces own_windows",
        slot=_SLOT,
        baseline=keys("mature samples p50_seconds p95_seconds"),
    ),
)
_WHY: Final[Excerpt] = {
    **keys(f"{_NAMES} at_unix since_unix"),
    **keys("sentence outcome cause cause_service_name share slow_trace_id healthy_trace_id"),
    **keys("own_work_factor incident_traces reference_traces reference"),
    "parts": keys(f"cause share {_COMPONENT}"),
    "contrasts": keys("attribute value of_root basis factor incident_share reference_share chance"),
    "more_frequent": keys("incident_share reference_share", operations=keys("service_name span_name")),
    "failed_calls": keys("calls failed healthy_ratio retries"),
    "plateau": keys("seconds calls slow_calls failed"),
    "account": keys(
        "healthy_seconds extra_seconds mix_seconds certainty",
        blamed_services=keys("service_name extra_seconds share lower_bound stability"),
        components=keys(_COMPONENT),
    ),
}
_SPAN: Final = f"{_NAMES} kind error begins_seconds duration_seconds"
_TRACE: Final = keys(
    "sentence trace_id spans critical_path_steps",
    root=keys(f"{_NAMES} kind error start_unix duration_seconds"),
    services=keys("service_name self_seconds share"),
    critical_path=keys(f"{_NAMES} kind error depth begins_seconds duration_seconds self_seconds share"),
    longest_spans=keys(_SPAN),
    oddities=keys("roots missing_parents in_cycles duplicates elsewhere not_waited_for moved"),
    check=keys(
        "level outlier_threshold_seconds",
        slot=_SLOT,
        baseline=keys("p50_seconds p95_seconds"),
        duration=keys("outlier threshold_ratio p95_ratio"),
    ),
)
_PROBLEM: Final = keys(
    "status title detail reason",
    errors=keys("parameter detail"),
    nearest=keys(_NAMES),
    matching=keys(_NAMES),
)


class ToolError(Exception):
    """A tool has no answer; the message is JSON with the reason."""


class ExporterTools:
    """The tools for one exporter. Each call has its own connection, so that calls may come from any thread."""

    def __init__(self, connect: Callable[[], ExporterClient]) -> None:
        """Create the tools.

        Args:
            connect: returns a new client, which is closed after a call.
        """
        self._connect = connect

    def list_endpoints(self, *, match: str | None, service_name: str | None, only_anomalous: bool, skip: int) -> str:
        """Return endpoints and their state, those that are anomalous or all."""
        given = _parameters(
            match=match or None, service_name=service_name or None, anomalous="true" if only_anomalous else None
        )
        return self._page("series", given, _ENDPOINTS, "series", skip)

    def list_incidents(self, *, skip: int) -> str:
        """Return the incidents, the newest first."""
        return self._page("incidents", {}, _INCIDENTS, "incidents", skip)

    def get_incident(self, *, incident: str, skip: int) -> str:
        """Return one incident with its endpoints."""
        return self._one("incident", {"id": incident}, _INCIDENT, main="endpoints", skip=skip)

    def explain_endpoint(
        self,
        *,
        service_name: str,
        span_name: str,
        labels: Mapping[str, str] | None,
        at: Instant,
        duration: str | None,
    ) -> str:
        """Return the baseline, the thresholds and the state of an endpoint, and the verdict on a duration."""
        given = _endpoint(service_name, span_name, labels) | _parameters(at=at, duration=duration)
        return self._one("check", given, _CHECK, minor=("levels", "overrides", "shift_thresholds"))

    def explain_why(
        self, *, service_name: str, span_name: str, labels: Mapping[str, str] | None, at: Instant, skip: int
    ) -> str:
        """Return why an endpoint is slow."""
        return self._one(
            "why",
            _endpoint(service_name, span_name, labels) | _parameters(at=at),
            _WHY,
            main="account.components",
            minor=("parts", "contrasts", "more_frequent.operations", "account.blamed_services"),
            skip=skip,
        )

    def get_baseline(
        self, *, service_name: str, span_name: str, labels: Mapping[str, str] | None, at: Instant, skip: int
    ) -> str:
        """Return the baseline of an endpoint at an instant with the hours it is made of, or in all 48 slots."""
        given = _endpoint(service_name, span_name, labels) | _parameters(at=at)
        if not given.get("at"):
            return self._one("baseline", given, _PROFILE, main="slots", skip=skip)
        return self._one(
            "baseline",
            given,
            _HOUR_BASELINE,
            main="baseline.pooled_hours",
            minor=("levels", "overrides", "shift_thresholds", "kept_out_hours_unix"),
            skip=skip,
        )

    def get_trace_path(self, *, trace_id: str, service_name: str | None, span_name: str | None, skip: int) -> str:
        """Return where the time of a trace went."""
        given = _parameters(trace_id=trace_id, service_name=service_name, span_name=span_name)
        return self._one("trace", given, _TRACE, main="critical_path", minor=("services", "longest_spans"), skip=skip)

    def _page(self, name: str, given: Parameters, kept: Excerpt, items: str, skip: int) -> str:
        """Return a part of a list that the API returns in pages; it begins behind so many items."""
        before, cursor = 0, None
        while True:
            limit = min(_MAX_PAGE, skip - before + _PAGE)
            parameters = {**given, "limit": str(limit), **({} if cursor is None else {"cursor": cursor})}
            document = self._query(name, parameters)
            if not isinstance(document.get(items), list):
                raise _tool_error(name, {"detail": f"the response has no {items}: is --url an exporter?"})
            found, cursor = len(document[items]), document.get("next_cursor")
            if cursor is None or not found or skip < before + found:
                break
            before += found
        total = document.get("total")
        beyond = 0 if cursor is None else None if total is None else total - before - found
        shown = _skipped(excerpt(document, kept), [items], skip - before)
        return _answer(name, parameters, shown, main=items, skip=skip, beyond=beyond)

    def _one(
        self, name: str, given: Parameters, kept: Excerpt, *, main: str = "", minor: tuple[str, ...] = (), skip: int = 0
    ) -> str:
        """Return one document, whose main list begins behind so many items."""
        document = _skipped(excerpt(self._query(name, given), kept), main.split("."), skip)
        return _answer(name, given, document, main=main, minor=minor, skip=skip)

    def _query(self, name: str, given: Parameters) -> Json:
        """Query the API.

        Raises:
            ToolError: it has no answer.
        """
        with closing(self._connect()) as client:
            try:
                return client.query(name, **given)
            except RefusedError as error:
                problem = dict(error.problem) or {"detail": str(error)}
            except UnreachableError as error:
                problem = {"detail": str(error)}
        raise _tool_error(name, problem)


def _tool_error(name: str, problem: Json) -> ToolError:
    """Return the error of a request, made of problem details."""
    document = {"api": f"/api/v1/{name}", "error": excerpt(problem, _PROBLEM)}
    return ToolError(encode(fitted(document, minor=("error.errors", "error.nearest", "error.matching"))))


def _answer(
    name: str,
    given: Parameters,
    document: Json,
    *,
    main: str = "",
    minor: Iterable[str] = (),
    skip: int = 0,
    beyond: int | None = 0,
) -> str:
    """Encode an answer, with the address of the API's document that it is made of.

    Raises:
        ToolError: it does not fit.
    """
    try:
        return encode(
            fitted({"api": _address(name, given), **document}, main=main, minor=minor, skip=skip, beyond=beyond)
        )
    except AnswerTooLongError:
        raise _tool_error(name, {"detail": "the answer is too long for a tool; use the API"}) from None


def _parameters(**given: str | float | None) -> Parameters:
    """Return parameters of the API without those that are not given."""
    return {name: str(value) for name, value in given.items() if value is not None}


def _endpoint(service_name: str, span_name: str, labels: Mapping[str, str] | None) -> Parameters:
    return {**(labels or {}), "service_name": service_name, "span_name": span_name}


def _address(name: str, given: Parameters) -> str:
    """Return the address of a request, relative to the exporter's, with names as answers have them."""
    whole = {
        key: value if key in _NO_NAMES else cut_name(value)
        for key, value in given.items()
        if key != "cursor" or len(value) <= _MAX_CURSOR
    }
    return f"/api/v1/{name}?{urlencode(whole)}"


def _skipped(document: Json, path: list[str], skip: int) -> Json:
    """Return a document without the first items of a list, to which a path leads; lists that are absent stay so."""
    key, *rest = path
    value = document.get(key)
    if rest:
        return {**document, key: _skipped(value, rest, skip)} if isinstance(value, dict) else document
    return {**document, key: value[skip:]} if isinstance(value, list) else document
