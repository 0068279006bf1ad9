"""Failed calls of a component: more than usual, retries, and calls that all end at the same duration."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from exporter.cause.profile import Calls, Component, TraceProfile

_MIN_FAILED: Final = 3
_MIN_MORE: Final = 0.05
"""Least rise of the failure ratio that is worth a sentence."""
_SAME_DURATION: Final = 0.05
"""Calls whose durations differ by at most this part end at the same duration."""
_MIN_SLOW: Final = 5
_MOST_OF_SLOW: Final = 0.8
_SLOW_QUANTILE: Final = 0.95
_MIN_FACTOR: Final = 2
"""Calls that end at less than twice the usual p95 say nothing of a time-out."""
_NS: Final = 1e9


@dataclass(frozen=True, slots=True)
class Plateau:
    """Slow calls that end at the same duration, as they do at a time-out.

    Attributes:
        calls: number of slow calls that end there.
        slow_calls: number of slow calls: longer than the p95 of usual calls.
        seconds: their median duration.
        failed: number of the calls that end there and failed.
    """

    calls: int
    slow_calls: int
    seconds: float
    failed: int


@dataclass(frozen=True, slots=True)
class FailedCalls:
    """Failed calls of a component in the incident.

    Attributes:
        calls: calls of the component.
        failed: the failed ones among them.
        usual_ratio: share of failed calls in the healthy traces.
        are_retries: whether most of the additional calls per request failed.
    """

    calls: int
    failed: int
    usual_ratio: float
    are_retries: bool


def failed_calls(
    incident: Sequence[TraceProfile], reference: Sequence[TraceProfile], component: Component
) -> FailedCalls | None:
    """Return the failed calls of a component; None unless clearly more of them fail than usual.

    Clearly: at least 3 failed calls, and a share of failed calls that is at least 5 points and two standard errors
    above the usual one.
    """
    calls, failed = _counts(incident, component)
    usual_calls, usual_failed = _counts(reference, component)
    if failed < _MIN_FAILED:
        return None
    ratio = failed / calls
    usual_ratio = usual_failed / usual_calls if usual_calls else 0.0
    pooled = (failed + usual_failed) / (calls + usual_calls)
    error = (pooled * (1 - pooled) * (1 / calls + 1 / max(1, usual_calls))) ** 0.5
    if ratio - usual_ratio < max(_MIN_MORE, 2 * error if usual_calls else 0.0):
        return None
    more = calls / len(incident) - usual_calls / len(reference)
    more_failed = failed / len(incident) - usual_failed / len(reference)
    return FailedCalls(calls, failed, usual_ratio, are_retries=more > 0 and more_failed > more / 2)


def _counts(traces: Sequence[TraceProfile], component: Component) -> tuple[int, int]:
    calls = _calls(traces, component)
    return sum(len(each.durations_ns) for each in calls), sum(len(each.failed_ns) for each in calls)


def plateau(
    incident: Sequence[TraceProfile], reference: Sequence[TraceProfile], component: Component
) -> Plateau | None:
    """Return where slow calls of a component end, if at least 5 and at least 80 % of them end at one duration."""
    usual = _durations(_calls(reference, component))
    limit = usual[int(_SLOW_QUANTILE * (len(usual) - 1))] if usual else -1
    calls = _calls(incident, component)
    slow = [each for each in _durations(calls) if each > limit]
    best: Sequence[int] = ()
    for first, duration in enumerate(slow):
        last = bisect_right(slow, duration * (1 + _SAME_DURATION))
        if last - first > len(best):
            best = slow[first:last]
    if len(best) < _MIN_SLOW or len(best) < _MOST_OF_SLOW * len(slow):
        return None
    if usual and best[0] < _MIN_FACTOR * limit:
        return None
    failed = sum(best[0] <= each <= best[-1] for call in calls for each in call.failed_ns)
    return Plateau(len(best), len(slow), best[len(best) // 2] / _NS, failed)


def _calls(traces: Sequence[TraceProfile], component: Component) -> list[Calls]:
    return [each.calls[component] for each in traces if component in each.calls]


def _durations(calls: Sequence[Calls]) -> list[int]:
    return sorted(duration for each in calls for duration in each.durations_ns)
