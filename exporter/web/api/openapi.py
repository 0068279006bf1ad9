"""The OpenAPI 3.1 description of the API. A test holds it to the answers and to the parameters that are accepted."""

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Final

from exporter.cause.incidents import Role, Severity
from exporter.cause.verdict import CauseKind, Outcome
from exporter.detection.flag import FlagKind
from exporter.detection.policy import SEVERITIES
from exporter.detection.small_shift import ShiftTest
from exporter.detection.streams import StreamReason
from exporter.evaluation.query import NoVerdict
from exporter.evaluation.timeline import TimelineRange
from exporter.explain.document import STATES
from exporter.model.calendar import DayType
from exporter.model.time_mark import MarkKind, MarkSource
from exporter.runtime.telemetry import FAILURE_REASONS, STORAGE_FAILURES, VERSION_OUTCOMES
from exporter.web.api.keys import KEYS
from exporter.web.api.paging import DEFAULT_LIMIT, MAX_LIMIT

Schema = dict[str, Any]

_TEXT: Final[Schema] = {"type": "string"}
_NUMBER: Final[Schema] = {"type": "number"}
_INTEGER: Final[Schema] = {"type": "integer"}
_BOOLEAN: Final[Schema] = {"type": "boolean"}
_LEVEL: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": 5}
_TRACE_ID: Final[Schema] = {"type": "string", "pattern": "^[0-9a-f]{32}$"}

_OPTIONAL: Final = frozenset({"labels"})
"""Keys that an answer has only where there is a value; any other unknown value is null."""


def _or_null(schema: Schema) -> Schema:
    if "type" not in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    nullable = {**schema, "type": [schema["type"], "null"]}
    return {**nullable, "enum": [*schema["enum"], None]} if "enum" in schema else nullable


def _list(items: Schema, **limits: int) -> Schema:
    return {"type": "array", "items": items, **limits}


def _one_of(values: Iterable[str]) -> Schema:
    return {"type": "string", "enum": [each.value if isinstance(each, Enum) else each for each in values]}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Mapping[str, Schema]) -> Schema:
    """Describe an object of the answers; every key has its meaning from :data:`KEYS`."""
    return {
        "type": "object",
        "properties": {name: {**schema, "description": _plain(KEYS[name])} for name, schema in properties.items()},
        "required": [name for name in properties if name not in _OPTIONAL],
    }


def _plain(text: str) -> str:
    """Return a description without its links, which lead from docs/api.md."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)


def _by_day_type(items: Schema, **limits: int) -> Schema:
    return _object({each.value: _list(items, **limits) for each in DayType})


# Groups of keys that several answers have.

_NAMES: Final = {
    "service_name": _TEXT,
    "span_name": _TEXT,
    "labels": {"type": "object", "additionalProperties": _TEXT},
}
_SERIES: Final = {
    **_NAMES,
    "kind": _one_of(("request", "stream")),
    "stream_reason": _or_null(_one_of(StreamReason)),
    "enabled": _BOOLEAN,
    "severity": _or_null(_one_of(SEVERITIES)),
    "overrides": _list(_ref("Override")),
}
_SLOT: Final = {"slot": _ref("Slot"), "bucket": _ref("Slot")}
_MARKS: Final = {"marks": _list(_ref("Mark"))}
_CHANGEPOINT: Final = {"changepoint_unix": _or_null(_INTEGER), "epoch_unix": _or_null(_INTEGER)}
_REGRESSION: Final = {"regressed": _or_null(_BOOLEAN), "regression": _or_null(_ref("Regression"))}
_BASELINE_SECONDS: Final = {"baseline_seconds": _NUMBER, "usual_seconds": _NUMBER}
_BASELINE: Final = {
    "level": _LEVEL,
    "mature": _BOOLEAN,
    "windows": _INTEGER,
    "samples": _INTEGER,
    "p50_seconds": _NUMBER,
    "p95_seconds": _NUMBER,
    "mad_seconds": _NUMBER,
}
_PATTERN: Final = {
    "pattern_factor": _NUMBER,
    "pattern_minutes": _list(_list(_INTEGER, minItems=2, maxItems=2)),
}
_HOUR_BASELINE: Final = {
    "at_unix": _NUMBER,
    **_SERIES,
    "hour": _ref("Hour"),
    **_SLOT,
    "known_until_unix": _INTEGER,
    "level": _LEVEL,
    "level_name": _TEXT,
    "baseline": _or_null(_ref("PooledBaseline")),
    "outlier_threshold_seconds": _or_null(_NUMBER),
    "shift_thresholds": _list(_ref("ShiftThreshold")),
    "run_thresholds": _or_null(_ref("RunThresholds")),
    "error_thresholds": _or_null(_ref("ErrorThresholds")),
    "traffic_thresholds": _or_null(_ref("TrafficThresholds")),
    "no_shift_verdict": _or_null(_one_of(NoVerdict)),
    "levels": _list(_ref("Level")),
    "kept_out_hours_unix": _list(_INTEGER),
    **_CHANGEPOINT,
    **_REGRESSION,
    **_MARKS,
}
_NOW: Final = {
    "current_traces": _or_null(_INTEGER),
    "current_p50_seconds": _or_null(_NUMBER),
    "current_p95_seconds": _or_null(_NUMBER),
    "shifted": _or_null(_BOOLEAN),
    "shifted_since_unix": _or_null(_NUMBER),
    "score": _or_null(_NUMBER),
    "time_lost": _or_null(_object({"requests": _NUMBER, "seconds": _NUMBER, "since_unix": _NUMBER})),
    "errors": _ref("Errors"),
    "traffic": _or_null(_ref("Traffic")),
    "excess_traces_total": _or_null(_NUMBER),
    "excess_seconds_total": _or_null(_NUMBER),
    "outlier": _or_null(_BOOLEAN),
    "last_outlier": _or_null(_object({"trace_id": _TRACE_ID, "seconds": _NUMBER, "at_unix": _NUMBER})),
    "explanation": _or_null(_ref("ShiftExplanation")),
    "shift_cause": _or_null(_ref("CauseSummary")),
    "service_shift": _or_null(_ref("ServiceShift")),
    "comparison_urls": {"type": "object", "additionalProperties": _TEXT},
}
_CAUSE_SUMMARY: Final = {
    "at_unix": _NUMBER,
    "outcome": _one_of(Outcome),
    "sentence": _TEXT,
    "cause": _or_null(_one_of(CauseKind)),
    "cause_service_name": _or_null(_TEXT),
    "share": _or_null(_NUMBER),
    "slow_trace_id": _or_null(_TRACE_ID),
    "healthy_trace_id": _or_null(_TRACE_ID),
}
_COMPONENT: Final = {
    "service_name": _TEXT,
    "span_name": _TEXT,
    "kind": _TEXT,
    "callee": _or_null(_TEXT),
    "healthy_seconds": _NUMBER,
    "now_seconds": _NUMBER,
    "healthy_calls": _NUMBER,
    "now_calls": _NUMBER,
    "slower_seconds": _NUMBER,
    "more_seconds": _NUMBER,
}
_ACCOUNT: Final = {
    "healthy_seconds": _NUMBER,
    "extra_seconds": _NUMBER,
    "mix_seconds": _NUMBER,
    "components": _list(_ref("Component")),
}
_LOST: Final = _or_null(_object({"requests": _NUMBER, "seconds": _NUMBER}))
_INCIDENT: Final = {
    "incident": _TEXT,
    "start_unix": _NUMBER,
    "end_unix": _or_null(_NUMBER),
    "merged_into": _or_null(_TEXT),
    "reconstructed": _BOOLEAN,
    "severity": _one_of(Severity),
    "cause": _or_null(_one_of(CauseKind)),
    "cause_service_name": _or_null(_TEXT),
    "cause_span_name": _or_null(_TEXT),
    "share": _or_null(_NUMBER),
    "certainty": _or_null(_NUMBER),
    "sentence": _or_null(_TEXT),
    "endpoints_by_role": _object({role.value: _INTEGER for role in Role}),
    "peak_score": _NUMBER,
    "time_lost": _LOST,
}
_SPAN: Final = {
    **{name: _NAMES[name] for name in ("service_name", "span_name")},
    "span_id": _TEXT,
    "kind": _TEXT,
    "error": _BOOLEAN,
    "start_unix": _NUMBER,
    "begins_seconds": _NUMBER,
    "duration_seconds": _NUMBER,
}
_PAGE: Final = {"total": _INTEGER, "next_cursor": _or_null(_TEXT)}

_SCHEMAS: Final[Mapping[str, Schema]] = {
    "Override": _object({"key": _TEXT, "value": _TEXT, "override": _INTEGER}),
    "Slot": _object({"hour": {**_INTEGER, "minimum": 0, "maximum": 23}, "day_type": _one_of(DayType), "name": _TEXT}),
    "Hour": _object({"start_unix": _INTEGER, "end_unix": _INTEGER, "local": _TEXT, "timezone": _TEXT}),
    "Baseline": _object(_BASELINE),
    "PooledBaseline": _object(
        {**_BASELINE, "pooled_hours": _list(_object({"start_unix": _INTEGER, "traces": _INTEGER}))}
    ),
    "ShiftThreshold": _object(
        {"quantile": _NUMBER, **_BASELINE_SECONDS, "swing_factor": _NUMBER, "limit_seconds": _NUMBER, **_PATTERN}
    ),
    "ErrorThresholds": _object(
        {
            "baseline_error_ratio": _NUMBER,
            "limit_error_ratio": _NUMBER,
            "swing_error_ratio": _NUMBER,
            "level": _LEVEL,
            "traces": _INTEGER,
            "windows": _INTEGER,
        }
    ),
    "TrafficThresholds": _object(
        {
            "usual_requests": _NUMBER,
            "low_requests": _or_null(_NUMBER),
            "level": _LEVEL,
            "windows": _INTEGER,
        }
    ),
    "RunThresholds": _object(
        {
            "past_runs": _INTEGER,
            **_BASELINE_SECONDS,
            "swing_factor": _NUMBER,
            "limit_seconds": _NUMBER,
            "far_limit_seconds": _NUMBER,
            "longest_run_seconds": _NUMBER,
        }
    ),
    "Level": _object(
        {
            "level": _LEVEL,
            "level_name": _TEXT,
            "needed_traces": _INTEGER,
            "traces": _INTEGER,
            "windows": _INTEGER,
            "mature": _BOOLEAN,
        }
    ),
    "Regression": _object(
        {
            "raised_at_unix": _INTEGER,
            "began_after_unix": _INTEGER,
            "began_before_unix": _INTEGER,
            "quantile": _NUMBER,
            "ratio": _NUMBER,
            "before_seconds": _NUMBER,
            "hours": _INTEGER,
            "deviations": _NUMBER,
            "version_outcome": _or_null(_one_of(VERSION_OUTCOMES)),
            "version": _or_null(_TEXT),
            "version_before": _or_null(_TEXT),
        }
    ),
    "Duration": _object(
        {
            "seconds": _NUMBER,
            "outlier": _or_null(_BOOLEAN),
            "threshold_ratio": _or_null(_NUMBER),
            "p50_ratio": _or_null(_NUMBER),
            "p95_ratio": _or_null(_NUMBER),
            "slower_traces": _or_null(_INTEGER),
        }
    ),
    "Errors": _object(
        {
            "anomalous": _or_null(_BOOLEAN),
            "since_unix": _or_null(_NUMBER),
            "score": _or_null(_NUMBER),
            "failures": _or_null(_INTEGER),
            "error_ratio": _or_null(_NUMBER),
            "baseline_error_ratio": _or_null(_NUMBER),
            "explanation": _or_null(_ref("ErrorExplanation")),
        }
    ),
    "ErrorExplanation": _object(
        {
            "sentence": _TEXT,
            "traces": _INTEGER,
            "failures": _INTEGER,
            "allowed": _INTEGER,
            "baseline_error_ratio": _NUMBER,
            "limit_error_ratio": _NUMBER,
            "swing_error_ratio": _NUMBER,
            "expected_error_ratio": _NUMBER,
            "chance": _NUMBER,
        }
    ),
    "ShiftExplanation": _object(
        {
            "sentence": _TEXT,
            "quantile": _NUMBER,
            "traces": _INTEGER,
            "slow": _INTEGER,
            "allowed": _INTEGER,
            "limit_seconds": _NUMBER,
            **_BASELINE_SECONDS,
            "current_seconds": _NUMBER,
            "swing_factor": _NUMBER,
            "chance": _NUMBER,
            "test": _one_of(each.replace(" ", "_") for each in ShiftTest),
            **_PATTERN,
            "level_factor": _NUMBER,
            "run_seconds": _list(_NUMBER),
            "longest_run_seconds": _or_null(_NUMBER),
            "correlation": _NUMBER,
            "traffic_ratio": _or_null(_NUMBER),
        }
    ),
    "Traffic": _object(
        {
            "anomalous": _BOOLEAN,
            "since_unix": _or_null(_NUMBER),
            "usual_requests": _or_null(_NUMBER),
            "ratio": _or_null(_NUMBER),
            "window_seconds": _or_null(_NUMBER),
            "source_ratio": _or_null(_NUMBER),
            "sentence": _or_null(_TEXT),
        }
    ),
    "ServiceShift": _object(
        {
            "since_unix": _or_null(_NUMBER),
            "service_ratio": _or_null(_NUMBER),
            "service_limit_ratio": _or_null(_NUMBER),
            "compared_endpoints": _or_null(_INTEGER),
            "sentence": _TEXT,
        }
    ),
    "Now": _object(_NOW),
    "SeriesStatus": _object(
        {
            **_SERIES,
            "state": _one_of(STATES),
            "level": _or_null(_LEVEL),
            "level_name": _or_null(_TEXT),
            "baseline": _or_null(_ref("Baseline")),
            "outlier_threshold_seconds": _or_null(_NUMBER),
            **_CHANGEPOINT,
            **_REGRESSION,
            **_MARKS,
            **_NOW,
        }
    ),
    "CauseSummary": _object(_CAUSE_SUMMARY),
    "Component": _object(_COMPONENT),
    "Span": _object(_SPAN),
    "IncidentSummary": _object(_INCIDENT),
    "Check": _object(
        {
            **_HOUR_BASELINE,
            "present": _BOOLEAN,
            "duration": _or_null(_ref("Duration")),
            "now": _or_null(_ref("Now")),
            "sentence": _TEXT,
        }
    ),
    "HourBaseline": _object(_HOUR_BASELINE),
    "Profile": _object(
        {
            **_NAMES,
            **_CHANGEPOINT,
            "slots": _list(
                _object(
                    {
                        **_SLOT,
                        "level": _LEVEL,
                        "baseline": _or_null(_ref("Baseline")),
                        "outlier_threshold_seconds": _or_null(_NUMBER),
                        "own_traces": _INTEGER,
                        "own_windows": _INTEGER,
                        "baseline_error_ratio": _or_null(_NUMBER),
                        "usual_requests": _or_null(_NUMBER),
                    }
                ),
                minItems=48,
                maxItems=48,
            ),
        }
    ),
    "Timeline": _object(
        {
            **_NAMES,
            "range": _one_of(TimelineRange),
            "start_unix": _INTEGER,
            "end_unix": _INTEGER,
            "step_seconds": _INTEGER,
            **_CHANGEPOINT,
            "points": _list(_ref("Point")),
            "flags": _list(
                _object({"flag": _one_of(FlagKind), "since_unix": _NUMBER, "until_unix": _or_null(_NUMBER)})
            ),
            **_MARKS,
            "heat_map": _object({"bounds_seconds": _list(_NUMBER), "counts": _list(_list(_INTEGER))}),
        }
    ),
    "Point": _object(
        {
            "start_unix": _INTEGER,
            "end_unix": _INTEGER,
            "origin": _or_null(_one_of(("history", "live_edge"))),
            "traces": _INTEGER,
            "observed_p50_seconds": _or_null(_NUMBER),
            "observed_p95_seconds": _or_null(_NUMBER),
            "baseline": _or_null(_object({"level": _LEVEL, "p50_seconds": _NUMBER, "p95_seconds": _NUMBER})),
            "failures": _or_null(_INTEGER),
            "error_ratio": _or_null(_NUMBER),
            "baseline_error_ratio": _or_null(_NUMBER),
            "total_requests": _or_null(_NUMBER),
            "usual_requests": _or_null(_NUMBER),
            "quarantined": _BOOLEAN,
            "errors_quarantined": _BOOLEAN,
        }
    ),
    "SeriesPage": _object(
        {
            "evaluated_at_unix": _or_null(_NUMBER),
            "judged_at_unix": _or_null(_NUMBER),
            **_PAGE,
            "series": _list(_ref("SeriesStatus")),
        }
    ),
    "AvailabilityPage": _object(
        {
            "series_by_level": _or_null(
                _by_day_type(_list(_INTEGER, minItems=5, maxItems=5), minItems=24, maxItems=24)
            ),
            **_PAGE,
            "series": _list(
                _object(
                    {
                        **_NAMES,
                        "level_by_hour": _by_day_type(_LEVEL, minItems=24, maxItems=24),
                        "learning_hours": _by_day_type(_INTEGER),
                        "traces_by_hour": _by_day_type(_INTEGER, minItems=24, maxItems=24),
                    }
                )
            ),
        }
    ),
    "Trace": _object(
        {
            "trace_id": _TRACE_ID,
            **_NAMES,
            "root": _ref("Span"),
            "spans": _INTEGER,
            "services": _list(_object({"service_name": _TEXT, "self_seconds": _NUMBER, "share": _NUMBER})),
            "critical_path": _list(_object({**_SPAN, "depth": _INTEGER, "self_seconds": _NUMBER, "share": _NUMBER})),
            "critical_path_steps": _INTEGER,
            "longest_spans": _list(_ref("Span")),
            "oddities": _object(
                {
                    "roots": _INTEGER,
                    "missing_parents": _INTEGER,
                    "in_cycles": _INTEGER,
                    "duplicates": _INTEGER,
                    "elsewhere": _INTEGER,
                    "not_waited_for": _INTEGER,
                    "moved": _INTEGER,
                }
            ),
            "check": _or_null(_ref("Check")),
            "sentence": _TEXT,
        }
    ),
    "Cause": _object(
        {
            **_NAMES,
            **_CAUSE_SUMMARY,
            "since_unix": _or_null(_NUMBER),
            "comparison_url": _or_null(_TEXT),
            "parts": _list(_object({"cause": _one_of(CauseKind), "share": _NUMBER, **_COMPONENT})),
            "own_work_factor": _or_null(_NUMBER),
            "contrasts": _list(
                _object(
                    {
                        "attribute": _TEXT,
                        "value": _TEXT,
                        "of_root": _BOOLEAN,
                        "basis": _one_of(("time", "frequency")),
                        "factor": _or_null(_NUMBER),
                        "incident_share": _NUMBER,
                        "reference_share": _NUMBER,
                        "chance": _NUMBER,
                    }
                )
            ),
            "more_frequent": _or_null(
                _object(
                    {
                        "operations": _list(_object({"service_name": _TEXT, "span_name": _TEXT})),
                        "incident_share": _or_null(_NUMBER),
                        "reference_share": _or_null(_NUMBER),
                    }
                )
            ),
            "failed_calls": _or_null(
                _object({"calls": _INTEGER, "failed": _INTEGER, "healthy_ratio": _NUMBER, "retries": _BOOLEAN})
            ),
            "plateau": _or_null(
                _object({"seconds": _NUMBER, "calls": _INTEGER, "slow_calls": _INTEGER, "failed": _INTEGER})
            ),
            "account": _or_null(
                _object(
                    {
                        **_ACCOUNT,
                        "certainty": _NUMBER,
                        "blamed_services": _list(
                            _object(
                                {
                                    "service_name": _TEXT,
                                    "extra_seconds": _NUMBER,
                                    "share": _NUMBER,
                                    "lower_bound": _NUMBER,
                                    "stability": _NUMBER,
                                }
                            )
                        ),
                    }
                )
            ),
            "incident_traces": _INTEGER,
            "reference_traces": _INTEGER,
            "reference": _or_null(_TEXT),
            "tempo_requests": _INTEGER,
            "took_seconds": _NUMBER,
        }
    ),
    "Mark": _object(
        {
            "id": _or_null(_TEXT),
            "as": _one_of(MarkKind),
            "match": _TEXT,
            "start_unix": _INTEGER,
            "end_unix": _INTEGER,
            "rrule": _or_null(_TEXT),
            "comment": _or_null(_TEXT),
            "source": _one_of(MarkSource),
        }
    ),
    "MarkList": _object({"can_be_added": _BOOLEAN, **_MARKS}),
    "IncidentPage": _object({"next_cursor": _or_null(_TEXT), "incidents": _list(_ref("IncidentSummary"))}),
    "Incident": _object(
        {
            **_INCIDENT,
            **_MARKS,
            "endpoints": _list(
                _object(
                    {
                        **_NAMES,
                        "role": _one_of(Role),
                        "since_unix": _NUMBER,
                        "until_unix": _or_null(_NUMBER),
                        "peak_score": _NUMBER,
                        "time_lost": _LOST,
                        "shift_cause": _or_null(
                            _object(
                                {
                                    "at_unix": _NUMBER,
                                    "outcome": _one_of(Outcome),
                                    "sentence": _TEXT,
                                    "cause_service_name": _or_null(_TEXT),
                                    "slow_trace_id": _or_null(_TRACE_ID),
                                    "healthy_trace_id": _or_null(_TRACE_ID),
                                    "account": _or_null(_object(_ACCOUNT)),
                                }
                            )
                        ),
                    }
                )
            ),
        }
    ),
}


def _problem(members: Mapping[str, Schema], *, required: Iterable[str] = ()) -> Schema:
    """Describe an error: problem details (RFC 9457)."""
    common = {
        "type": {"const": "about:blank"},
        "title": {**_TEXT, "description": "the status in words"},
        "status": {**_INTEGER, "description": "the status code"},
        "detail": {**_TEXT, "description": "what happened, and what to do"},
    }
    return {"type": "object", "properties": {**common, **members}, "required": [*common, *required]}


_NAMES_OF_SERIES: Final[Schema] = {
    "type": "object",
    "properties": _NAMES,
    "required": ["service_name", "span_name"],
}
_PARAMETER_ERROR: Final[Schema] = {
    "type": "object",
    "properties": {
        "parameter": {
            **_TEXT,
            "description": "the parameter, or the key of the request body; `body` for the body as a whole",
        },
        "detail": {**_TEXT, "description": "the problem, worded to follow the name"},
    },
    "required": ["parameter", "detail"],
}
_ERRORS: Final[Mapping[str, tuple[str, Schema]]] = {
    "400": (
        "Parameters or keys of the body are missing, unknown or invalid, or several endpoints have these names.",
        _problem(
            {
                "errors": {**_list(_PARAMETER_ERROR), "description": "everything that is invalid"},
                "matching": {**_list(_NAMES_OF_SERIES), "description": "the endpoints that have these names"},
            }
        ),
    ),
    "401": ("A valid user name and password are required.", _problem({})),
    "403": ("Clients may not write; the detail says what allows it.", _problem({})),
    "404": (
        "The endpoint, trace or incident does not exist.",
        _problem({"nearest": {**_list(_NAMES_OF_SERIES), "description": "endpoints with similar names"}}),
    ),
    "500": ("The stored history of the endpoint is damaged, or a defect.", _problem({})),
    "502": ("Tempo does not respond.", _problem({"reason": _one_of(FAILURE_REASONS)}, required=["reason"])),
    "503": (
        "The database is unavailable, or other requests are being processed: try again.",
        _problem({"reason": _one_of(STORAGE_FAILURES)}),
    ),
    "default": ("Any other error.", _problem({})),
}

# Parameters.


def _parameter(name: str, schema: Schema, description: str, *, required: bool = False) -> Schema:
    return {"name": name, "in": "query", "required": required, "description": description, "schema": schema}


_SERVICE, _OPERATION = (
    _parameter(f"{what}_name", _TEXT, f"The {what} name of the endpoint; may be empty.", required=True)
    for what in ("service", "span")
)
_LABELS: Final[Schema] = {
    **_parameter(
        "labels",
        {"type": "object", "additionalProperties": _TEXT},
        "Labels of `series.labels`, each as a parameter of its own name; an empty value stands for none.",
    ),
    "style": "form",
    "explode": True,
}
_ENDPOINT: Final = (_SERVICE, _OPERATION, _LABELS)
_AT: Final = _parameter(
    "at", _TEXT, "The instant: RFC 3339 (without an offset in the configured time zone), Unix seconds, or `now`."
)
_LIMIT: Final = _parameter(
    "limit",
    {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
    "Maximum number of items.",
)
_CURSOR: Final = _parameter("cursor", _TEXT, "The `next_cursor` of the previous page.")
_FILTERS: Final = (
    _parameter("match", _TEXT, "Only endpoints whose names contain this text, ignoring case."),
    _parameter("service_name", _TEXT, "Only endpoints of this service."),
    _LABELS,
)


def _path(summary: str, answer: Schema, parameters: Iterable[Schema] = (), *, errors: Iterable[str] = ()) -> Schema:
    """Describe a path that supports GET.

    Args:
        summary: what it returns.
        answer: schema of a successful response.
        parameters: its parameters.
        errors: statuses that not every path can have.
    """
    statuses = ["400", "401", *errors, "500", "503", "default"]
    return {
        "get": {
            "summary": summary,
            "parameters": list(parameters),
            "responses": {
                "200": {"description": "Success.", "content": {"application/json": {"schema": answer}}},
                **{status: {"$ref": f"#/components/responses/Error{status}"} for status in sorted(statuses)},
            },
        }
    }


def _writing(summary: str, success: tuple[str, str, Schema], errors: Iterable[str], **others: object) -> Schema:
    """Describe an operation that writes.

    Args:
        summary: what it does.
        success: status, description and schema of a successful response.
        errors: statuses of errors.
        others: parameters and body of the request.
    """
    status, description, answer = success
    return {
        "summary": summary,
        **others,
        "responses": {
            status: {"description": description, "content": {"application/json": {"schema": answer}}},
            **{each: {"$ref": f"#/components/responses/Error{each}"} for each in errors},
        },
    }


_WRITING_MARKS: Final[Schema] = {
    "post": _writing(
        "Add a mark, where `web.allow_marks` allows it",
        ("201", "The mark as it was stored.", _ref("Mark")),
        ("400", "401", "403", "503", "default"),
        requestBody={"required": True, "content": {"application/json": {"schema": _ref("NewMark")}}},
    ),
    "delete": _writing(
        "Delete a mark that was added over the API, where `web.allow_marks` allows it",
        ("200", "Its id.", {"type": "object", "properties": {"deleted": _TEXT}, "required": ["deleted"]}),
        ("400", "401", "403", "404", "503", "default"),
        parameters=[_parameter("id", _TEXT, "The id of the mark.", required=True)],
    ),
}
_NEW_MARK: Final[Schema] = {
    "type": "object",
    "description": "The keys of an item of `marks` in the configuration.",
    "properties": {
        "match": {**_TEXT, "description": "expression (RE2) searched for in service_name/span_name"},
        "from": {**_TEXT, "description": "beginning, such as 2026-11-24T14:00 (local) or 2026-11-24T14:00Z"},
        "to": {**_TEXT, "description": "end, exclusive"},
        "as": {**_one_of(MarkKind), "description": "what is known about it"},
        "rrule": {**_TEXT, "description": "recurrence rule of RFC 5545, such as FREQ=WEEKLY;BYDAY=SU"},
        "comment": {**_TEXT, "description": "for people"},
    },
    "required": ["match", "from", "to", "as"],
    "additionalProperties": False,
}

_PATHS: Final[Mapping[str, Schema]] = {
    "check": _path(
        "One endpoint at an instant: its baseline, whether a duration is an outlier, whether its latency has shifted",
        _ref("Check"),
        (*_ENDPOINT, _parameter("duration", _TEXT, "A duration such as `320ms` or `1s500ms`."), _AT),
        errors=["404"],
    ),
    "baseline": _path(
        "The baseline of one endpoint at an instant (with `at`), or in every slot",
        {"anyOf": [_ref("HourBaseline"), _ref("Profile")]},
        (*_ENDPOINT, _AT),
        errors=["404"],
    ),
    "timeline": _path(
        "The last hours or days of one endpoint against the usual: latency, errors, traffic, flags, and a heat map",
        _ref("Timeline"),
        (
            *_ENDPOINT,
            _parameter("range", {**_one_of(TimelineRange), "default": TimelineRange.HOURS_24.value}, "How far back."),
        ),
        errors=["404"],
    ),
    "series": _path(
        "All endpoints and their current state",
        _ref("SeriesPage"),
        (
            *_FILTERS,
            _parameter("state", _one_of(STATES), "Only endpoints in this state."),
            _parameter(
                "anomalous",
                _one_of(("true", "false")),
                "`true`: only endpoints with a firing flag or a regression; `false`: only the others.",
            ),
            _LIMIT,
            _CURSOR,
        ),
    ),
    "available": _path(
        "Which endpoints have a baseline in which hours of the day",
        _ref("AvailabilityPage"),
        (*_FILTERS, _LIMIT, _CURSOR),
    ),
    "trace": _path(
        "Where the time of one trace went",
        _ref("Trace"),
        (
            _parameter("trace_id", _TEXT, "Up to 32 hex digits.", required=True),
            *({**each, "required": False} for each in (_SERVICE, _OPERATION)),
            _LABELS,
        ),
        errors=["404", "502"],
    ),
    "why": _path(
        "Why an endpoint is slow: slow traces compared with healthy ones",
        _ref("Cause"),
        (*_ENDPOINT, _AT),
        errors=["404"],
    ),
    "incidents": _path("The incidents, the newest first", _ref("IncidentPage"), (_LIMIT, _CURSOR)),
    "incident": _path(
        "One incident with its endpoints",
        _ref("Incident"),
        (_parameter("id", _TEXT, "The id of the incident.", required=True),),
        errors=["404"],
    ),
    "marks": {**_path("What people know about ranges of time", _ref("MarkList")), **_WRITING_MARKS},
    "openapi.json": _path("This description", {"type": "object"}),
}


def openapi_document(prefix: str, version: str) -> Schema:
    """Return the description.

    Objects are open, since keys may be added within a version: clients ignore unknown ones.

    Args:
        prefix: prefix of all paths, such as ``/api/v1/``.
        version: version of the exporter.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tempo-anomaly-exporter",
            "version": version,
            "description": "Baselines, verdicts, causes and incidents of the endpoints in Grafana Tempo. Instants are "
            "Unix seconds (`…_unix`), durations are seconds (`…_seconds`), shares are between 0 and 1, and an unknown "
            "value is null. Keys may be added: ignore unknown ones.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"password": []}],
        "paths": {prefix + name: path for name, path in _PATHS.items()},
        "components": {
            "schemas": {**_SCHEMAS, "NewMark": _NEW_MARK},
            "responses": {
                f"Error{status}": {
                    "description": description,
                    "content": {"application/problem+json": {"schema": schema}},
                }
                for status, (description, schema) in _ERRORS.items()
            },
            "securitySchemes": {
                "password": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "Where `web.config_file` sets passwords.",
                }
            },
        },
    }
