"""Incidents as JSON documents, and what the pages say about them."""

from typing import Any

from exporter.cause.incidents import Finding, Incident, IncidentEndpoint, Role
from exporter.explain.cause import component_change
from exporter.explain.document import mark_ranges_document
from exporter.explain.words import counted
from exporter.model.time_mark import TimeMarks

ROLE_NAMES = {
    Role.CAUSE: "cause",
    Role.VICTIM: "victim",
    Role.UNEXPLAINED: "not explained",
}


def incident_summary(incident: Incident) -> dict[str, Any]:
    """An incident without its endpoints."""
    cause = incident.cause
    return {
        "incident": incident.id,
        "start_unix": incident.start,
        "end_unix": incident.end,
        "merged_into": incident.merged_into,
        "reconstructed": incident.is_reconstructed,
        "severity": incident.severity.value,
        "cause": None if cause is None else cause.kind,
        "cause_service_name": None if cause is None else cause.service_name,
        "cause_span_name": None if cause is None else cause.span_name,
        "share": None if cause is None else cause.share,
        "certainty": None if cause is None else cause.certainty,
        "sentence": None if cause is None else cause.text,
        "endpoints_by_role": {role.value: len(incident.named(role)) for role in Role},
        "peak_score": incident.peak_score,
        "time_lost": _time_lost(incident, incident),
    }


def incident_document(incident: Incident, marks: TimeMarks, now: float) -> dict[str, Any]:
    """An incident with its endpoints, and what people have marked of its time.

    Args:
        incident: the incident.
        marks: what people know about ranges of time.
        now: Unix seconds, where it has no end.
    """
    end = now if incident.end is None else incident.end
    ranges = {
        each
        for endpoint in incident.endpoints
        if (own := marks.of(endpoint.key)) is not None
        for each in own.ranges(incident.start, end)
    }
    return {
        **incident_summary(incident),
        "endpoints": [_endpoint(incident, each) for each in incident.endpoints],
        "marks": mark_ranges_document(sorted(ranges, key=lambda each: each[:2])),
    }


def _endpoint(incident: Incident, endpoint: IncidentEndpoint) -> dict[str, Any]:
    return {
        **endpoint.key.fields,
        "role": endpoint.role.value,
        "since_unix": endpoint.since,
        "until_unix": endpoint.until,
        "peak_score": endpoint.peak_score,
        "time_lost": _time_lost(incident, endpoint),
        "shift_cause": None if endpoint.finding is None else _finding(endpoint.finding),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    account = finding.account
    return {
        "at_unix": finding.at,
        "outcome": finding.outcome,
        "sentence": finding.text,
        "cause_service_name": finding.service_name,
        "slow_trace_id": finding.slow_trace_id,
        "healthy_trace_id": finding.usual_trace_id,
        "account": None
        if account is None
        else {
            "healthy_seconds": account.usual_seconds,
            "extra_seconds": account.extra_seconds,
            "mix_seconds": account.mix_seconds,
            "components": [component_change(each) for each in account.changes],
        },
    }


def _time_lost(incident: Incident, of: Incident | IncidentEndpoint) -> dict[str, Any] | None:
    """What an incident or one of its endpoints lost; None where that was not counted."""
    return None if incident.is_reconstructed else {"requests": of.lost_requests, "seconds": of.lost_seconds}


def incident_title(incident: Incident) -> str:
    """What an incident is about, in a few words, such as ``ledger is slow: 3 endpoints``."""
    endpoints = counted(len(incident.endpoints), "endpoint")
    if incident.is_reconstructed:
        # All of one service.
        return f"{incident.endpoints[0].key.service_name}, cause not known: {endpoints}"
    if incident.cause is None:
        return f"Cause not known: {endpoints}"
    if not incident.cause.service_name:
        return f"Other requests than usual: {endpoints}"
    return f"{incident.cause.service_name}: {endpoints}"
