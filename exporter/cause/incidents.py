"""Incidents: flags that belong together, by the cause they share, by calls between their endpoints, and by time.

The firing flags are divided into groups at every step, and each group continues the open incident that holds most of
its flags. The result does not depend on the order of the flags. All times are Unix seconds.
"""

import hashlib
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from heapq import heapify, heappop, heappush
from typing import Final, NamedTuple

from exporter.cause.account import Account
from exporter.model.span import SeriesKey

NEAR_SECONDS: Final = 900.0
"""Flags without a cause of their own join others only if they began within this time of them."""
QUIET_SECONDS: Final = 300.0
"""An incident is over when none of its flags has fired for this time."""
SEVERE_SCORE: Final = 2.0
"""Score from which a shift is severe, as in the alerts."""
SEVERE_SECONDS: Final = 900.0
"""How long such a shift must have lasted, as in the alerts."""
_MIN_BLAME: Final = 0.5
"""Least share of its extra time by which an endpoint is a victim of a service."""
_ID_DIGITS: Final = 12
MAX_ENDPOINTS: Final = 1000
"""Past endpoints are dropped above this number, the earliest first: an incident may last for days."""
MAX_FINDINGS: Final = 20
"""What the traces of so many endpoints have shown is kept with an incident: an account is some kilobytes."""


class Role(StrEnum):
    """What an endpoint is in an incident."""

    CAUSE = "cause"
    """It is an endpoint of the service that causes the incident."""
    VICTIM = "victim"
    """Its requests wait for that service."""
    UNEXPLAINED = "unexplained"
    """It is slow, and why is not known."""


class Severity(StrEnum):
    """How bad an incident has been at its worst."""

    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class IncidentCause:
    """The cause of an incident.

    Attributes:
        service_name: the service; empty for another mix of requests.
        span_name: its operation; empty then, too.
        kind: how it causes extra time, see :class:`exporter.cause.verdict.CauseKind`.
        share: the share of the extra time that the service holds, from 0 to 1, at the endpoint that lost the most.
        certainty: share of the bootstrap replicates in which this service is first, there.
        text: the sentence about that endpoint.
    """

    service_name: str
    span_name: str
    kind: str
    share: float
    certainty: float
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What the comparison of traces said about one flag, as an incident keeps it.

    Attributes:
        at: when the traces were compared.
        outcome: the result, see :class:`exporter.cause.verdict.Outcome`.
        text: the sentence.
        service_name: the service that was named; None if none was.
        account: what the extra time consisted of, shortened; None with too few traces.
        slow_trace_id: a trace of the incident; None without traces.
        usual_trace_id: a healthy trace; None without traces.
    """

    at: float
    outcome: str
    text: str
    service_name: str | None = None
    account: Account | None = None
    slow_trace_id: str | None = None
    usual_trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class FlagAccount:
    """What the traces of one flag have shown.

    Attributes:
        cause: the named cause; None if none is named.
        blame: shares of the extra time by service, from 0 to 1.
        extra_seconds: extra time per request.
        operations: service and span name of what its requests wait for.
        finding: what the incident keeps of it.
    """

    cause: IncidentCause | None = None
    blame: Mapping[str, float] = field(default_factory=dict)
    extra_seconds: float = 0.0
    operations: frozenset[tuple[str, str]] = frozenset()
    finding: Finding | None = None


NO_ACCOUNT: Final = FlagAccount()


class Loss(NamedTuple):
    """Time lost since an instant, by a counter that begins at 0 with each process."""

    since: float = 0.0
    requests: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class FiringFlag:
    """A flag that fires.

    Attributes:
        key: the endpoint.
        since: beginning of the shift.
        score: strength of the shift now.
        requests: requests in the evaluation window.
        account: what its traces have shown; None if that is not known.
        loss: time lost since the shift began; None if unknown.
    """

    key: SeriesKey
    since: float
    score: float = 0.0
    requests: float = 0.0
    account: FlagAccount | None = None
    loss: Loss | None = None

    @property
    def operation(self) -> tuple[str, str]:
        """Service and span name."""
        return self.key.service_name, self.key.span_name

    @property
    def cause_service(self) -> str | None:
        """The service that is named as its cause."""
        cause = None if self.account is None else self.account.cause
        return None if cause is None else cause.service_name or None

    def weight_of(self, service: str) -> float:
        """Return the extra time that a service causes in the evaluation window, in seconds of requests."""
        account = self.account or NO_ACCOUNT
        return account.blame.get(service, 0.0) * max(0.0, account.extra_seconds) * self.requests


@dataclass(frozen=True, slots=True)
class IncidentEndpoint:
    """An endpoint of an incident.

    Attributes:
        key: the endpoint.
        role: what it is in the incident.
        since: beginning of its shift, the first one if there were several.
        until: when its flag was resolved; None while it fires.
        peak_score: the highest score.
        lost_requests: requests that took longer than the usual p95, extrapolated to all traffic.
        lost_seconds: what they took longer.
        counted: the reading of the counter up to which time lost is included.
        finding: what its traces have shown last; None where that is not known or not kept.
    """

    key: SeriesKey
    role: Role
    since: float
    until: float | None = None
    peak_score: float = 0.0
    lost_requests: int = 0
    lost_seconds: float = 0.0
    counted: Loss | None = None
    finding: Finding | None = None


@dataclass(frozen=True, slots=True)
class Incident:
    """Flags that belong together.

    Attributes:
        id: stable, 12 hex digits, from the flag with which it began.
        start: beginning of its first shift.
        end: when its last flag was resolved, or when it was merged into another one; None while it lasts.
        severity: the worst so far.
        cause: its cause; None if it is not known.
        endpoints: its endpoints, sorted by role, beginning and name.
        merged_into: id of the incident of which it turned out to be a part; None if of none.
        is_reconstructed: whether it was found in the history, where neither causes nor calls nor time lost are known.
    """

    id: str
    start: float
    end: float | None
    severity: Severity
    cause: IncidentCause | None
    endpoints: tuple[IncidentEndpoint, ...]
    merged_into: str | None = None
    is_reconstructed: bool = False

    @property
    def peak_score(self) -> float:
        """The highest score of its endpoints."""
        return max((each.peak_score for each in self.endpoints), default=0.0)

    @property
    def lost_requests(self) -> int:
        """Requests that lost time. One that passes several of its endpoints counts at each."""
        return sum(each.lost_requests for each in self.endpoints)

    @property
    def lost_seconds(self) -> float:
        """Time that requests lost."""
        return sum(each.lost_seconds for each in self.endpoints)

    def named(self, role: Role) -> list[IncidentEndpoint]:
        """Return the endpoints with a role."""
        return [each for each in self.endpoints if each.role is role]


@dataclass(slots=True)
class _Group:
    """Flags that belong together now, and the service that causes them."""

    service: str | None
    flags: list[FiringFlag]

    @property
    def first(self) -> FiringFlag:
        return min(self.flags, key=_order)


def _order(flag: FiringFlag) -> tuple[float, SeriesKey]:
    return flag.since, flag.key


def advance(incidents: Iterable[Incident], flags: Iterable[FiringFlag], now: float) -> list[Incident]:
    """Continue the open incidents with the flags that fire now.

    Incidents merge if their flags get the same cause or are found to call each other: the one with most of the flags
    remains, of several the one that began first.
    An incident is divided if its flags get different causes: it continues with most of them, and the others become new
    ones.

    Args:
        incidents: the open incidents, in any order.
        flags: the flags that fire, in any order, one for each endpoint.
        now: the present.

    Returns:
        All of these incidents and new ones, by beginning; ``end`` is set on those that are over.
    """
    # A firing flag in two incidents cannot be; if the store says so, the earlier one has it.
    open_incidents = sorted(incidents, key=lambda each: (each.start, each.id))
    homes: dict[SeriesKey, str] = {}
    for incident in open_incidents:
        for endpoint in incident.endpoints:
            homes.setdefault(endpoint.key, incident.id)
    groups = _groups(sorted(flags, key=_order), homes)
    claims = _claims(groups, open_incidents, homes)
    records = {
        endpoint.key: endpoint
        for incident in reversed(open_incidents)
        for endpoint in incident.endpoints
        if homes[endpoint.key] == incident.id
    }
    active = {flag.key for group in groups for flag in group.flags}
    result: list[Incident] = []
    used = {each.id for each in open_incidents}
    claimed: set[str] = set()
    for group, owners in zip(groups, claims, strict=True):
        past = [each for owner in owners for each in owner.endpoints if each.key not in active]
        if owners:
            incident, *merged = owners
            result += [
                replace(each, end=now, merged_into=incident.id, endpoints=_resolved(each.endpoints, now))
                for each in merged
            ]
            claimed.update(each.id for each in owners)
        else:
            incident = Incident(_new_id(group.first, used), group.first.since, None, Severity.WARNING, None, ())
            used.add(incident.id)
        result.append(_continued(incident, group, records, past, now))
    result += [_quiet(each, active, now) for each in open_incidents if each.id not in claimed]
    return sorted(result, key=lambda each: (each.start, each.id))


# Which flags belong together


def _groups(flags: Sequence[FiringFlag], homes: Mapping[SeriesKey, str]) -> list[_Group]:
    """Divide flags, sorted, into groups: by cause, then what is left by incident, service and calls."""
    groups, loose = _by_cause(flags)
    links = _links(flags)
    group_of = {flag.key: number for number, group in enumerate(groups) for flag in group.flags}
    by_home: dict[str, set[int]] = {}
    for key, number in group_of.items():
        if key in homes:
            by_home.setdefault(homes[key], set()).add(number)
    by_service = {group.service: number for number, group in enumerate(groups)}
    firsts = [_order(group.first) for group in groups]
    begins = [sorted(flag.since for flag in group.flags) for group in groups]
    is_changed = True
    while is_changed and groups:
        is_changed = False
        remaining: list[FiringFlag] = []
        for flag in loose:
            # Flags that were in one incident stay together unless their causes say otherwise.
            home = homes.get(flag.key)
            found = by_home.get(home, set()) if home is not None else set()
            if not found:
                own = by_service.get(flag.key.service_name)
                if own is not None and _is_near_any(flag, begins[own]):
                    found = {own}
            found = found or {group_of[key] for key in links.get(flag.key, ()) if key in group_of}
            if found:
                number = min(found, key=lambda each: firsts[each])
                groups[number].flags.append(flag)
                insort(begins[number], flag.since)
                group_of[flag.key] = number
                if home is not None:
                    by_home.setdefault(home, set()).add(number)
                is_changed = True
            else:
                remaining.append(flag)
        loose = remaining
    groups += _connected(loose, links, homes)
    for group in groups:
        group.flags.sort(key=_order)
    return sorted(groups, key=lambda group: _order(group.first))


def _links(flags: Sequence[FiringFlag]) -> dict[SeriesKey, list[SeriesKey]]:
    """Return the flags that each one calls or is called by, where both began at about the same time."""
    by_operation: dict[tuple[str, str], list[FiringFlag]] = {}
    for flag in flags:
        by_operation.setdefault(flag.operation, []).append(flag)
    links: dict[SeriesKey, list[SeriesKey]] = {}
    for flag in flags:
        for operation in sorted((flag.account or NO_ACCOUNT).operations):
            for other in by_operation.get(operation, ()):
                if other.key != flag.key and _is_near(flag, other):
                    links.setdefault(flag.key, []).append(other.key)
                    links.setdefault(other.key, []).append(flag.key)
    return links


def _by_cause(flags: Sequence[FiringFlag]) -> tuple[list[_Group], list[FiringFlag]]:
    """Take the service that costs the most extra time as a cause, its victims out, and so on.

    Returns:
        The groups, and the flags that belong to none.
    """
    rest = dict(enumerate(flags))
    # Of each service that is named as a cause: how many flags name it, and the weights of all that it concerns.
    named = Counter(flag.cause_service for flag in flags if flag.cause_service is not None)
    weights: dict[str, dict[int, float]] = {service: {} for service in named}
    for number, flag in rest.items():
        for service in _concerned_services(flag):
            if service in weights:
                weights[service][number] = flag.weight_of(service)
    # Entries that are out of date stay in the heap; only the last one of a service counts.
    versions = dict.fromkeys(named, 0)
    heap = [(-sum(each.values()), service, 0) for service, each in weights.items()]
    heapify(heap)
    groups: list[_Group] = []
    while heap:
        _, first, version = heappop(heap)
        if version != versions[first] or not named[first]:
            continue
        taken = [number for number in weights[first] if _is_victim(rest[number], first)]
        groups.append(_Group(first, [rest[number] for number in taken]))
        changed: set[str] = set()
        for number in taken:
            flag = rest.pop(number)
            if flag.cause_service is not None:
                named[flag.cause_service] -= 1
            for service in _concerned_services(flag):
                if service in weights:
                    del weights[service][number]
                    changed.add(service)
        for service in changed:
            if named[service]:
                versions[service] += 1
                heappush(heap, (-sum(weights[service].values()), service, versions[service]))
    return groups, list(rest.values())


def _concerned_services(flag: FiringFlag) -> Collection[str]:
    """Return the services that cause extra time of a flag."""
    blame = (flag.account or NO_ACCOUNT).blame
    cause = flag.cause_service
    return blame if cause is None or cause in blame else [cause, *blame]


def _is_victim(flag: FiringFlag, service: str) -> bool:
    if flag.cause_service is not None:
        # A verdict on the flag's own traces comes first.
        return flag.cause_service == service or (flag.account or NO_ACCOUNT).blame.get(service, 0.0) > _MIN_BLAME
    return (flag.account or NO_ACCOUNT).blame.get(service, 0.0) >= _MIN_BLAME


def _is_near(flag: FiringFlag, other: FiringFlag) -> bool:
    return abs(flag.since - other.since) <= NEAR_SECONDS


def _is_near_any(flag: FiringFlag, begins: Sequence[float]) -> bool:
    """Whether a flag began at about the same time as one of others, whose beginnings are sorted."""
    place = bisect_left(begins, flag.since)
    return any(abs(flag.since - each) <= NEAR_SECONDS for each in begins[max(0, place - 1) : place + 1])


def _is_explained(flag: FiringFlag) -> bool:
    return flag.account is not None and flag.account.cause is not None


def _connected(
    flags: Sequence[FiringFlag], links: Mapping[SeriesKey, Sequence[SeriesKey]], homes: Mapping[SeriesKey, str]
) -> list[_Group]:
    """Divide flags without a cause into those that call each other or were in one incident."""
    rest = {flag.key: flag for flag in flags}
    residents: dict[str, list[SeriesKey]] = {}
    for key in rest:
        if key in homes:
            residents.setdefault(homes[key], []).append(key)
    groups: list[_Group] = []
    for flag in flags:
        reached: list[FiringFlag] = []
        waiting = [flag.key]
        while waiting:
            key = waiting.pop()
            each = rest.pop(key, None)
            if each is not None:
                reached.append(each)
                waiting += links.get(key, ())
                waiting += residents.pop(homes.get(key, ""), ())
        # A single flag of which nothing is known is no incident.
        if len(reached) > 1 or any(each.key in homes or _is_explained(each) for each in reached):
            groups.append(_Group(None, reached))
    return groups


# Which incident a group continues


def _claims(
    groups: Sequence[_Group], incidents: Sequence[Incident], homes: Mapping[SeriesKey, str]
) -> list[list[Incident]]:
    """Return the incidents that each group continues: of each incident most flags decide.

    The incident with most flags in the group is first, of several the earliest. A small one without a cause that began
    earlier, of flags by chance, must not take over one of which no alert has been sent.
    """
    claims: list[list[tuple[int, Incident]]] = [[] for _ in groups]
    counts: dict[str, Counter[int]] = {}
    for number, group in enumerate(groups):
        for flag in group.flags:
            if flag.key in homes:
                counts.setdefault(homes[flag.key], Counter())[number] += 1
    for incident in incidents:
        if found := counts.get(incident.id):
            number = min(found, key=lambda each: (-found[each], each))
            claims[number].append((found[number], incident))
    # Sorting keeps incidents with as many flags in the order of their beginning.
    return [[incident for _, incident in sorted(each, key=lambda claim: -claim[0])] for each in claims]


def hashed_id(*parts: str) -> str:
    """Return the id of an incident that is known by some texts."""
    text = "\0".join(parts).encode("utf-8", "backslashreplace")
    return hashlib.sha256(text).hexdigest()[:_ID_DIGITS]


def _new_id(first: FiringFlag, used: set[str]) -> str:
    """Return the id of an incident that begins with a flag."""
    for number in range(len(used) + 1):
        found = hashed_id(*first.key.parts, str(round(first.since)), str(number))
        if found not in used:
            return found
    raise AssertionError("each number has another id")


def _continued(
    incident: Incident,
    group: _Group,
    records: Mapping[SeriesKey, IncidentEndpoint],
    past: Sequence[IncidentEndpoint],
    now: float,
) -> Incident:
    cause = _cause_of(group, incident.cause)
    service = None if cause is None else cause.service_name
    endpoints = [_endpoint(flag, service, records.get(flag.key)) for flag in group.flags]
    over = sorted(_resolved(past, now), key=lambda each: (each.until or now, each.key))[-MAX_ENDPOINTS:]
    endpoints += {each.key: each for each in over}.values()
    is_severe = any(flag.score >= SEVERE_SCORE and now - flag.since >= SEVERE_SECONDS for flag in group.flags)
    return replace(
        incident,
        start=min(incident.start, group.first.since),
        end=None,
        severity=Severity.CRITICAL if is_severe else incident.severity,
        cause=cause,
        endpoints=_with_fewer_findings(_sorted(endpoints)),
        merged_into=None,
    )


def _cause_of(group: _Group, before: IncidentCause | None) -> IncidentCause | None:
    """Return the cause of a group, in the words of the flag that it costs the most; else what was known before."""
    if group.service is not None:
        named = [flag for flag in group.flags if flag.cause_service == group.service]
    else:
        named = [flag for flag in group.flags if _is_explained(flag)]
    if not named:
        return before
    service = group.service or ""
    most = min(named, key=lambda flag: (-flag.weight_of(service), _order(flag)))
    return None if most.account is None else most.account.cause


def _endpoint(flag: FiringFlag, service: str | None, record: IncidentEndpoint | None) -> IncidentEndpoint:
    if record is None:
        record = IncidentEndpoint(flag.key, Role.UNEXPLAINED, flag.since)
    requests, seconds = record.lost_requests, record.lost_seconds
    if flag.loss is not None:
        before = record.counted
        # Another beginning or a smaller value: another flag, or another process, whose counter began at zero.
        if before is None or before.since != flag.loss.since or flag.loss.seconds < before.seconds:
            before = Loss()
        requests += max(0, flag.loss.requests - before.requests)
        seconds += max(0.0, flag.loss.seconds - before.seconds)
    return replace(
        record,
        role=_role(flag, service, record.role),
        until=None,
        peak_score=max(record.peak_score, flag.score),
        lost_requests=requests,
        lost_seconds=seconds,
        counted=flag.loss or record.counted,
        finding=(None if flag.account is None else flag.account.finding) or record.finding,
    )


def _role(flag: FiringFlag, service: str | None, before: Role) -> Role:
    if service is not None and flag.key.service_name == service:
        return Role.CAUSE
    if flag.account is None and before is not Role.CAUSE:
        # After a restart, its traces have not been looked at again.
        return before
    if service and _is_victim(flag, service):
        return Role.VICTIM
    # Other requests than usual explain an endpoint without another service.
    is_mix = flag.account is not None and flag.account.cause is not None and not flag.account.cause.service_name
    return Role.VICTIM if is_mix and service == "" else Role.UNEXPLAINED


def _resolved(endpoints: Iterable[IncidentEndpoint], now: float) -> tuple[IncidentEndpoint, ...]:
    return tuple(replace(each, until=now) if each.until is None else each for each in endpoints)


def _sorted(endpoints: Iterable[IncidentEndpoint]) -> tuple[IncidentEndpoint, ...]:
    roles = list(Role)
    return tuple(sorted(endpoints, key=lambda each: (roles.index(each.role), each.since, each.key)))


def _with_fewer_findings(endpoints: tuple[IncidentEndpoint, ...]) -> tuple[IncidentEndpoint, ...]:
    """Return endpoints, sorted, of which only the first keep what their traces have shown."""
    kept = 0
    result: list[IncidentEndpoint] = []
    for each in endpoints:
        kept += each.finding is not None
        result.append(replace(each, finding=None) if each.finding is not None and kept > MAX_FINDINGS else each)
    return tuple(result)


def _quiet(incident: Incident, active: set[SeriesKey], now: float) -> Incident:
    """Return an incident none of whose flags fires any more; ended if that has been so for long enough."""
    remaining = [each for each in incident.endpoints if each.key not in active]
    endpoints = _resolved(remaining or incident.endpoints, now)
    last = max((each.until for each in endpoints if each.until is not None), default=now)
    # A clock that was set back must not keep it open.
    is_over = now - last >= QUIET_SECONDS or last > now
    return replace(incident, endpoints=endpoints, end=min(last, now) if is_over else None)
