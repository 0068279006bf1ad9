"""What is asked about the cause of a shift, and what comes out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from exporter.cause.verdict import CauseKind, CauseVerdict, Outcome
from exporter.evaluation.settings import EvaluationSettings
from exporter.model.span import SeriesKey


@dataclass(frozen=True, slots=True)
class CauseSettings:
    """How causes are looked for.

    Attributes:
        max_requests: most requests to Tempo per attempt; where Tempo cannot search by id, reading traces by id comes on
            top.
        attributes: attributes whose values are compared, with scope, such as ``resource.service.version``.
        evaluation: what the verdicts on the series depend on; overrides for some of them included. The evaluation
            window is where traces of an incident are looked for, the maximum window where there is little traffic, and
            the lookback is how far back healthy traces may lie.
    """

    max_requests: int
    attributes: Sequence[str]
    evaluation: EvaluationSettings


@dataclass(frozen=True, slots=True)
class Shift:
    """A shift whose cause is wanted.

    Attributes:
        key: the series.
        at: the instant to look at, Unix seconds: now, or one in the past.
        since: since when the latency is shifted, Unix seconds; None if the flag does not fire.
        score: strength of the shift.
        traces: expected number of traces in the evaluation window; None if unknown.
        in_incident: whether its flag belongs to an incident already, so that others are more urgent.
        traffic_ratio: traffic of the series divided by the usual; None if unknown.
    """

    key: SeriesKey
    at: float
    since: float | None = None
    score: float = 0.0
    traces: float | None = None
    in_incident: bool = False
    traffic_ratio: float | None = None


class CauseShare(NamedTuple):
    """The share of the extra time that one cause has.

    Attributes:
        service_name: the service that causes it; empty for another mix of requests.
        span_name: its operation; empty then, too.
        kind: how it causes extra time.
        share: from 0 to 1.
    """

    service_name: str
    span_name: str
    kind: CauseKind
    share: float


@dataclass(frozen=True, slots=True)
class ShiftCause:
    """What is known about the cause of a shift.

    Attributes:
        shift: the shift.
        verdict: the verdict; its account holds only the components that changed most.
        text: what is known, in words.
        slow_trace_id: a trace of the incident that is typical of the cause; None without traces.
        usual_trace_id: a healthy trace; None without traces.
        requests: number of requests to Tempo.
        seconds: how long it took.
        reference: where the healthy traces come from, in words; empty without traces.
    """

    shift: Shift
    verdict: CauseVerdict
    text: str
    slow_trace_id: str | None = None
    usual_trace_id: str | None = None
    requests: int = 0
    seconds: float = 0.0
    reference: str = ""

    @property
    def shares(self) -> tuple[CauseShare, ...]:
        """The named causes, at most three, the largest first; none unless the cause is known."""
        verdict = self.verdict
        if verdict.outcome is not Outcome.KNOWN or verdict.kind is None:
            return ()
        if verdict.kind is CauseKind.MIX:
            return (CauseShare("", "", CauseKind.MIX, verdict.share or 0.0),)
        shares: dict[tuple[str, CauseKind], float] = {}
        for part in verdict.parts:
            name = part.change.component.span_name, part.kind
            shares[name] = shares.get(name, 0.0) + part.share
        service_name = verdict.service_name or ""
        return tuple(
            CauseShare(service_name, span_name, kind, min(1.0, share)) for (span_name, kind), share in shares.items()
        )
