"""The cause of a shift as text and as a JSON document, the same from the API and the command line."""

from collections.abc import Iterator
from typing import Any

from exporter.cause.account import ComponentChange
from exporter.cause.profile import Component
from exporter.detection.explanation import duration
from exporter.evaluation.causes.shift_cause import ShiftCause
from exporter.explain.drilldown import Drilldown
from exporter.explain.words import instant_text
from exporter.model.calendar import Calendar
from exporter.runtime.terminal import printable

_MAX_LINES = 12


def cause_document(cause: ShiftCause, drilldown: Drilldown) -> dict[str, Any]:
    """What is known about the cause of a shift, with a link to the comparison of its traces in Grafana."""
    verdict, account = cause.verdict, cause.verdict.account
    return {
        **cause.shift.key.fields,
        **cause_summary(cause),
        "since_unix": cause.shift.since,
        "comparison_url": drilldown.of_cause(cause),
        "parts": [
            {
                "cause": part.kind.value,
                "share": part.share,
                **component_change(part.change),
            }
            for part in verdict.parts
        ],
        "own_work_factor": verdict.own_factor,
        "contrasts": [
            {
                "attribute": each.name,
                "value": each.value,
                "of_root": each.of_root,
                "basis": each.basis,
                "factor": each.factor,
                "incident_share": each.incident_share,
                "reference_share": each.reference_share,
                "chance": each.chance,
            }
            for each in verdict.contrasts
        ],
        "more_frequent": None
        if verdict.more_frequent is None
        else {
            "operations": [
                {"service_name": service, "span_name": span} for service, span in verdict.more_frequent.kind.operations
            ],
            "incident_share": verdict.more_frequent.now_share,
            "reference_share": verdict.more_frequent.usual_share,
        },
        "failed_calls": None
        if verdict.failed is None
        else {
            "calls": verdict.failed.calls,
            "failed": verdict.failed.failed,
            "healthy_ratio": verdict.failed.usual_ratio,
            "retries": verdict.failed.are_retries,
        },
        "plateau": None
        if verdict.plateau is None
        else {
            "seconds": verdict.plateau.seconds,
            "calls": verdict.plateau.calls,
            "slow_calls": verdict.plateau.slow_calls,
            "failed": verdict.plateau.failed,
        },
        "account": None
        if account is None
        else {
            "healthy_seconds": account.usual_seconds,
            "extra_seconds": account.extra_seconds,
            "mix_seconds": account.mix_seconds,
            "certainty": account.certainty,
            "components": [component_change(each) for each in account.changes],
            "blamed_services": [
                {
                    "service_name": each.service_name,
                    "extra_seconds": each.seconds,
                    "share": each.share,
                    "lower_bound": each.bound,
                    "stability": each.stability,
                }
                for each in account.services
            ],
        },
        "incident_traces": verdict.incident_traces,
        "reference_traces": verdict.reference_traces,
        "reference": cause.reference or None,
        "tempo_requests": cause.requests,
        "took_seconds": cause.seconds,
    }


def cause_summary(cause: ShiftCause) -> dict[str, Any]:
    """What is known about the cause of a shift, without the account."""
    verdict = cause.verdict
    return {
        "at_unix": cause.shift.at,
        "outcome": verdict.outcome.value,
        "sentence": cause.text,
        "cause": None if verdict.kind is None else verdict.kind.value,
        "cause_service_name": verdict.service_name,
        "share": verdict.share,
        "slow_trace_id": cause.slow_trace_id,
        "healthy_trace_id": cause.usual_trace_id,
    }


def component_change(change: ComponentChange) -> dict[str, Any]:
    """What a request waits for, usually and now."""
    component = change.component
    return {
        "service_name": component.service_name,
        "span_name": component.span_name,
        "kind": component.kind,
        "callee": component.callee or None,
        "healthy_seconds": change.usual_seconds,
        "now_seconds": change.now_seconds,
        "healthy_calls": change.usual_calls,
        "now_calls": change.now_calls,
        "slower_seconds": change.slower_seconds,
        "more_seconds": change.more_seconds,
    }


def cause_text(cause: ShiftCause, calendar: Calendar, drilldown: Drilldown) -> str:
    """What is known about the cause of a shift, in lines for a terminal."""
    return "\n".join(_lines(cause, calendar, drilldown))


def _lines(cause: ShiftCause, calendar: Calendar, drilldown: Drilldown) -> Iterator[str]:
    yield printable(cause.text)
    account = cause.verdict.account
    if account is not None:
        yield ""
        yield "  usual       now         extra       what a request waits for"
        for change in account.changes[:_MAX_LINES]:
            figures = (change.usual_seconds, change.now_seconds, change.delta_seconds)
            yield "  " + "".join(signed_duration(each).ljust(12) for each in figures) + component_name(change.component)
    yield ""
    looked = f"at {instant_text(cause.shift.at, calendar)}"
    origin = f"; healthy traces: {cause.reference}" if cause.reference else ""
    yield f"Looked {looked}, with {cause.requests} requests to Tempo in {cause.seconds:.1f} s{origin}."
    if cause.slow_trace_id is not None:
        yield f"A slow trace: {cause.slow_trace_id}"
    if cause.usual_trace_id is not None:
        yield f"A healthy trace: {cause.usual_trace_id}"
    url = drilldown.of_cause(cause)
    if url is not None:
        yield f"To compare them in Grafana: {url}"


def signed_duration(seconds: float) -> str:
    """Format a duration that may be negative."""
    return f"−{duration(-seconds)}" if seconds < 0 else duration(seconds)


def component_name(component: Component) -> str:
    """Name a component on one line."""
    service = printable(component.service_name) or "(no service)"
    name = printable(component.span_name) or "(no name)"
    if component.callee:
        return f"{service} → {printable(component.callee)} {name}"
    return f"{service} {name}"
