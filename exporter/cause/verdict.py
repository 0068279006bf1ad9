"""The verdict on an account: what it says about the cause, and whether it is sure enough to say it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from exporter.cause.account import MIN_TRACES, Account, ComponentChange, account_of
from exporter.cause.attributes import AttributeContrast, attribute_contrasts
from exporter.cause.failures import FailedCalls, Plateau, failed_calls, plateau
from exporter.cause.profile import TraceProfile
from exporter.cause.rare_kinds import KindTraces

SURE_LONGER: Final = 0.9
"""Share of the replicates in which requests of the same kind must take longer, or the mix must hold half of it."""
MIN_BOUND: Final = 0.3
"""Least lower bound of the first service's share."""
MIN_STABILITY: Final = 0.9
"""Least share of the replicates in which the same service is first."""
MIN_EXTRA: Final = 0.1
"""Least extra time, as a part of the usual mean duration."""
MAX_MIX: Final = 0.5
"""Above this part of the extra time, the mix of requests is named."""
BUSY_FACTOR: Final = 2.0
"""If a service's own work takes this many times as long, the service is busy, not the way to it."""
MAX_PARTS: Final = 3


class Outcome(StrEnum):
    """Result of an attempt to find the cause of a shift."""

    KNOWN = "known"
    """A cause is named."""
    UNCLEAR = "unclear"
    """Requests take longer, but no service holds enough of it for sure."""
    NO_DIFFERENCE = "no_difference"
    """The traces do not take longer in a way that can be distinguished from chance."""
    NO_TRACES = "no_traces"
    """Too few traces were found."""
    FAILED = "failed"
    """Tempo could not be asked."""


class CauseKind(StrEnum):
    """How a component causes extra time."""

    SLOWER_CALLS = "slower_calls"
    """Each call takes longer."""
    MORE_CALLS = "more_calls"
    """There are more calls."""
    NEW_CALLS = "new_calls"
    """Healthy requests do not wait for such calls at all."""
    PATH = "path"
    """Calls take longer on the way between two services, whose own work takes as long as before."""
    BUSY = "busy"
    """Calls take longer between two services, and the called one's own work takes longer, too."""
    MIX = "mix"
    """Other kinds of requests than usual."""


@dataclass(frozen=True, slots=True)
class CausePart:
    """A part of the extra time.

    Attributes:
        change: the component.
        kind: how it causes extra time.
        share: its share of the extra time, from 0 to 1.
    """

    change: ComponentChange
    kind: CauseKind
    share: float


@dataclass(frozen=True, slots=True)
class CauseVerdict:
    """What the comparison of two sets of traces says about a shift.

    Attributes:
        outcome: the result; never ``FAILED``, which is no result of a comparison.
        account: the account; None with too few traces.
        service_name: the service that causes the shift; None unless one is named.
        share: the share of the extra time that this service holds; for a cause by mix, that of the mix; else None.
        kind: how the largest part causes extra time; None unless a cause is named.
        parts: at most three parts of the extra time, largest first: those of the named service, or with the outcome
            ``UNCLEAR`` those of any.
        own_factor: the named service's own time per request in relation to usual; None if unknown.
        contrasts: attribute values that go with the largest part.
        failed: failed calls of the largest part, if there are clearly more than usual.
        plateau: where the slow calls of the largest part end, if they end at one duration.
        incident_traces: number of traces of the incident.
        reference_traces: number of healthy traces, those of rare kinds included.
        more_frequent: a kind of requests that was rare and became more frequent; None unless the mix is the cause and
            such a kind is known.
    """

    outcome: Outcome
    account: Account | None
    incident_traces: int
    reference_traces: int
    service_name: str | None = None
    share: float | None = None
    kind: CauseKind | None = None
    parts: Sequence[CausePart] = ()
    own_factor: float | None = None
    contrasts: Sequence[AttributeContrast] = ()
    failed: FailedCalls | None = None
    plateau: Plateau | None = None
    more_frequent: KindTraces | None = None


def compare(
    incident: Sequence[TraceProfile],
    reference: Sequence[TraceProfile],
    seed: str,
    *,
    supplement: Sequence[TraceProfile] = (),
) -> CauseVerdict:
    """Compare traces of an incident with healthy ones, and say what causes the extra time.

    Args:
        incident: traces of the incident.
        reference: healthy traces of the same endpoint, chosen by rank like those of the incident.
        seed: determines the replicates of the bootstrap, such as the endpoint and the start of its flag.
        supplement: further healthy traces, of rare kinds; see :func:`exporter.cause.account.account_of`.
    """
    healthy = (*reference, *supplement)
    verdict = CauseVerdict(Outcome.NO_TRACES, None, len(incident), len(healthy))
    if min(len(incident), len(reference)) < MIN_TRACES:
        return verdict
    account = account_of(incident, reference, seed, supplement=supplement)
    is_mix = account.mix_seconds >= MAX_MIX * account.extra_seconds
    is_longer = (account.extra_certainty if is_mix else account.certainty) >= SURE_LONGER
    if not is_longer or account.extra_seconds <= 0 or account.extra_seconds < MIN_EXTRA * account.usual_seconds:
        return replace(verdict, outcome=Outcome.NO_DIFFERENCE, account=account)
    if is_mix and account.mix_certainty < SURE_LONGER:
        return replace(verdict, outcome=Outcome.UNCLEAR, account=account)
    if is_mix:
        share = min(1.0, account.mix_seconds / account.extra_seconds)
        return replace(verdict, outcome=Outcome.KNOWN, account=account, kind=CauseKind.MIX, share=share)
    first = account.services[0]
    longer = [each for each in account.changes if each.delta_seconds > 0]
    own = [each for each in longer if first.service_name in (each.component.service_name, each.component.callee)]
    if account.base_seconds <= 0 or first.bound < MIN_BOUND or first.stability < MIN_STABILITY or not own:
        shown = [_part(account, each, None) for each in longer[:MAX_PARTS]]
        return replace(verdict, outcome=Outcome.UNCLEAR, account=account, parts=shown)
    parts = [_part(account, each, first.service_name) for each in own[:MAX_PARTS]]
    largest = own[0].component
    return replace(
        verdict,
        outcome=Outcome.KNOWN,
        account=account,
        service_name=first.service_name,
        share=first.share,
        kind=parts[0].kind,
        parts=parts,
        own_factor=account.own_factor(first.service_name),
        contrasts=attribute_contrasts(incident, healthy, largest),
        failed=failed_calls(incident, healthy, largest),
        plateau=plateau(incident, healthy, largest),
    )


def _part(account: Account, change: ComponentChange, culprit: str | None) -> CausePart:
    whole = max(account.base_seconds, sum(max(0.0, each.seconds) for each in account.services))
    share = min(1.0, change.delta_seconds / whole) if whole > 0 else 0.0
    return CausePart(change, _kind(account, change, culprit or change.component.callee), share)


def _kind(account: Account, change: ComponentChange, culprit: str) -> CauseKind:
    if change.is_new:
        return CauseKind.NEW_CALLS
    if change.more_seconds > change.slower_seconds:
        return CauseKind.MORE_CALLS
    factor = account.own_factor(culprit) if change.component.callee else None
    if factor is None:
        return CauseKind.SLOWER_CALLS
    if factor >= BUSY_FACTOR:
        return CauseKind.BUSY
    # A caller that is blamed for slow calls is not on the way to itself.
    return CauseKind.PATH if culprit == change.component.callee else CauseKind.SLOWER_CALLS
