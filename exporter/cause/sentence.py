"""A verdict in words: one cause, or that none is known; nothing that the figures do not carry."""

from collections.abc import Iterator
from typing import Final

from exporter.cause.account import MIN_TRACES, Account, ComponentChange
from exporter.cause.attributes import AttributeContrast
from exporter.cause.profile import Component
from exporter.cause.verdict import CauseKind, CausePart, CauseVerdict, Outcome
from exporter.detection.explanation import duration

_MAX_CONTRASTS: Final = 2
_SEVERAL_CALLS: Final = 1.5
"""With more calls per request than this, their number is worth a clause."""
_TIMES_SHOWN: Final = 1.5
"""A factor below this is not shown: two durations say enough."""
_MAX_VALUE: Final = 80
"""Longer attribute values are cut."""


def sentence(verdict: CauseVerdict) -> str:
    """Say what a verdict says, in one to five sentences."""
    looked_at = f"{verdict.incident_traces} traces of now against {verdict.reference_traces} of before"
    account = verdict.account
    if account is None:
        if verdict.outcome is Outcome.FAILED:
            return "Not known why: Tempo could not be asked."
        least = min(verdict.incident_traces, verdict.reference_traces)
        which = "slow" if verdict.incident_traces == least else "healthy"
        return f"Not known why: Tempo returned {least} {which} traces, {MIN_TRACES} are needed."
    match verdict.outcome:
        case Outcome.KNOWN if verdict.kind is CauseKind.MIX:
            seconds = duration(min(account.mix_seconds, account.extra_seconds))
            return (
                f"Other requests than usual: {_more_frequent(verdict)}they make {seconds} of the extra "
                f"{duration(account.extra_seconds)}; requests of the same kind take as long as before. ({looked_at}.)"
            )
        case Outcome.KNOWN:
            return " ".join((*_cause(verdict, account), f"({looked_at}.)"))
        case Outcome.UNCLEAR if not verdict.parts:
            return (
                f"Not known why: other requests than usual may make {duration(account.mix_seconds)} of the extra "
                f"{duration(account.extra_seconds)}, which is not sure. ({looked_at}.)"
            )
        case Outcome.UNCLEAR:
            return (
                f"Not known why: of the extra {duration(account.base_seconds)} no service holds enough for sure."
                f"{_largest(verdict)} ({looked_at}.)"
            )
        case _:
            text = (
                "The traces that were compared do not take longer in any way that could be distinguished from chance."
            )
            return f"{text} ({looked_at}.)"


def _more_frequent(verdict: CauseVerdict) -> str:
    known = verdict.more_frequent
    if known is None or known.now_share is None or known.usual_share is None:
        return ""
    names = " and ".join(f"{_name(service)} {_quoted(span)}" for service, span in known.kind.operations)
    return f"those that call {names} are {known.now_share:.0%} instead of {_percent(known.usual_share)}; "


def _cause(verdict: CauseVerdict, account: Account) -> Iterator[str]:
    part = verdict.parts[0]
    component = part.change.component
    share = verdict.share or 0.0
    seconds = min(share, 1.0) * account.base_seconds
    yield (
        f"Of the extra {duration(account.base_seconds)}, {duration(seconds)} ({share:.0%}) are in "
        f"{_name(verdict.service_name or '')}, mostly {_where(component, verdict.service_name or '')}: {_how(part)}."
    )
    yield from _own_work(verdict, part)
    yield from _failures(verdict)
    # Where the root span and those of the component share an attribute, both contrasts may say the same.
    yield from list(dict.fromkeys(map(_contrast, verdict.contrasts)))[:_MAX_CONTRASTS]


def _own_work(verdict: CauseVerdict, part: CausePart) -> Iterator[str]:
    callee, service, factor = part.change.component.callee, verdict.service_name or "", verdict.own_factor
    if not callee:
        return
    if callee != service:
        yield f"All calls of {_name(service)} take longer."
    if part.kind is CauseKind.BUSY and factor is not None:
        yield f"The own work of {_name(service)} takes {_times(factor)} as long: it is too busy."
    elif part.kind is CauseKind.PATH:
        yield (
            f"The own work of {_name(service)} takes as long as before: "
            "the network, a proxy, or a queue in front of it."
        )


def _failures(verdict: CauseVerdict) -> Iterator[str]:
    failed, plateau = verdict.failed, verdict.plateau
    if failed is not None:
        usual = _percent(failed.usual_ratio)
        retries = " The additional calls are retries: most of them fail." if failed.are_retries else ""
        yield f"{failed.failed} of {failed.calls} such calls fail, usually {usual}.{retries}"
    if plateau is not None:
        time_out = ", as at a time-out" if plateau.failed >= plateau.calls / 2 else ""
        yield f"{plateau.calls} of {plateau.slow_calls} slow calls end at {duration(plateau.seconds)}{time_out}."


def _contrast(contrast: AttributeContrast) -> str:
    value = f"{contrast.name} {_value(contrast.value)}"
    what = "Requests with" if contrast.of_root else "Calls with"
    if contrast.basis == "time":
        if contrast.factor is None:
            return f"Only {what.lower()} {value} take any time."
        return f"{what} {value} take {_times(contrast.factor)} as long as the others."
    if not contrast.reference_share:
        return f"{contrast.incident_share:.0%} have {value}, which did not exist before."
    return f"{contrast.incident_share:.0%} have {value}, before {contrast.reference_share:.0%}."


def _largest(verdict: CauseVerdict) -> str:
    parts = "; ".join(
        f"{duration(part.change.delta_seconds)} {_where(part.change.component, '')}" for part in verdict.parts
    )
    return f" Most: {parts}." if parts else ""


def _where(component: Component, service_name: str) -> str:
    if component.callee:
        between = f"between {_name(component.service_name)} and {_name(component.callee)}"
        return f"{between} {_quoted(component.span_name)}"
    if component.service_name == service_name:
        return f"in {_quoted(component.span_name)}"
    return f"in {_name(component.service_name)} {_quoted(component.span_name)}"


def _how(part: CausePart) -> str:
    change = part.change
    match part.kind:
        case CauseKind.NEW_CALLS:
            return f"{_calls(change.now_calls)} per request that were not waited for before, {_each(change)} each"
        case CauseKind.MORE_CALLS:
            usual, now = _call_figures(change)
            return f"{_calls(now)} per request instead of {usual:.2g}"
        case _:
            usual, now = change.usual_seconds_per_call, change.now_seconds_per_call
            factor = f" ({_times(now / usual)})" if usual > 0 and now / usual >= _TIMES_SHOWN else ""
            count = f", {change.now_calls:.2g} per request" if change.now_calls >= _SEVERAL_CALLS else ""
            return f"each call takes {duration(now)} instead of {duration(usual)}{factor}{count}"


def _call_figures(change: ComponentChange) -> tuple[float, float]:
    """Return the calls per request, usual and now; of the whole trace if there are more than on the critical path."""
    if change.all_now_calls > change.all_usual_calls:
        return change.all_usual_calls, change.all_now_calls
    return change.usual_calls, change.now_calls


def _each(change: ComponentChange) -> str:
    return duration(change.now_seconds_per_call)


def _calls(number: float) -> str:
    text = f"{number:.2g}"
    return f"{text} call" if text == "1" else f"{text} calls"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 or not share else "under 1%"


def _times(factor: float) -> str:
    return f"{factor:,.0f} times" if factor >= 10 else f"{factor:.2g} times"


def _name(name: str) -> str:
    return name or "(no service)"


def _quoted(name: str) -> str:
    return f'"{name}"'


def _value(value: str) -> str:
    return value if len(value) <= _MAX_VALUE else f"{value[:_MAX_VALUE]}…"
