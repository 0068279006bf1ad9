"""Incidents of the past: shifts of one service in the stored history that began and lasted together.

No traces of the past are read, so neither causes nor calls are known. Shifts of different services are therefore never
joined: at the same time there may be two faults. All times are Unix seconds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from exporter.cause.incidents import (
    MAX_ENDPOINTS,
    NEAR_SECONDS,
    QUIET_SECONDS,
    SEVERE_SCORE,
    SEVERE_SECONDS,
    Incident,
    IncidentEndpoint,
    Role,
    Severity,
    hashed_id,
)
from exporter.model.hour_evaluation import ShiftPeriod
from exporter.model.span import SeriesKey

MAX_PAST_INCIDENTS: Final = 1000
"""Most incidents of the past, the newest; an endless number must not fill the database."""


class PastShift(NamedTuple):
    """A time in which the flag of an endpoint fired in the evaluation of the history.

    Attributes:
        key: the endpoint.
        period: the time.
    """

    key: SeriesKey
    period: ShiftPeriod


@dataclass(slots=True)
class _Group:
    """Shifts that belong together, in the order of :func:`_order`.

    Attributes:
        shifts: the shifts.
        keys: their endpoints.
        until: the last end; infinite while one lasts.
    """

    shifts: list[PastShift]
    keys: set[SeriesKey]
    until: float

    def takes(self, shift: PastShift) -> bool:
        """Whether a shift belongs to it that began no earlier than all of these."""
        since = shift.period.since
        # As in current traffic, an endpoint that is slow again continues its incident.
        if len(self.keys) > 1 and shift.key in self.keys and since - self.until <= QUIET_SECONDS:
            return True
        for other in reversed(self.shifts):
            if since - other.period.since > NEAR_SECONDS:
                return False
            if _until(other) > since:
                return True
        return False


def past_incidents(shifts: Iterable[PastShift], seen: Iterable[Incident]) -> list[Incident]:
    """Assemble the incidents of the past.

    Shifts belong together if their endpoints are of one service, they began within :data:`NEAR_SECONDS`, and one began
    before the other ended; and so does what belongs to one of them. A single endpoint is no incident. The result does
    not depend on the order of the shifts, and neither do the ids.

    Args:
        shifts: the shifts, in any order.
        seen: incidents that were seen in current traffic. Shifts of their endpoints at about the same time are theirs.

    Returns:
        The incidents that are over, by beginning; the newest where there are more than :data:`MAX_PAST_INCIDENTS`.
    """
    covered = _covered(seen)
    by_service: dict[str, list[PastShift]] = {}
    for shift in sorted(set(shifts), key=_order):
        if not _is_covered(shift, covered.get(shift.key, ())):
            by_service.setdefault(shift.key.service_name, []).append(shift)
    groups = [group for mine in by_service.values() for group in _groups(mine)]
    incidents = [_incident(group) for group in groups if len(group.keys) > 1 and group.until != _ENDLESS]
    return sorted(incidents, key=lambda each: (each.start, each.id))[-MAX_PAST_INCIDENTS:]


_ENDLESS: Final = float("inf")


def _order(shift: PastShift) -> tuple[float, SeriesKey, float, float]:
    return shift.period.since, shift.key, _until(shift), shift.period.peak_score


def _until(shift: PastShift) -> float:
    return _ENDLESS if shift.period.until is None else shift.period.until


def _covered(seen: Iterable[Incident]) -> Mapping[SeriesKey, Sequence[tuple[float, float]]]:
    """Return when each endpoint was part of an incident that was seen."""
    covered: dict[SeriesKey, list[tuple[float, float]]] = {}
    for incident in seen:
        for endpoint in incident.endpoints:
            until = _ENDLESS if endpoint.until is None else endpoint.until
            covered.setdefault(endpoint.key, []).append((endpoint.since, until))
    return covered


def _is_covered(shift: PastShift, times: Sequence[tuple[float, float]]) -> bool:
    """Whether a shift is part of an incident that was seen; history is evaluated at other instants than traffic."""
    return any(
        shift.period.since <= until + NEAR_SECONDS and _until(shift) >= since - NEAR_SECONDS for since, until in times
    )


def _groups(shifts: Sequence[PastShift]) -> list[_Group]:
    """Divide the shifts of one service, sorted, into those that belong together."""
    groups: list[_Group] = []
    lasting: list[_Group] = []
    for shift in shifts:
        lasting = [each for each in lasting if each.until + QUIET_SECONDS >= shift.period.since]
        taken = [each for each in lasting if each.takes(shift)]
        group = _Group([], set(), 0.0) if not taken else taken[0]
        if not taken:
            groups.append(group)
            lasting.append(group)
        for other in taken[1:]:
            group.shifts = sorted([*group.shifts, *other.shifts], key=_order)
            group.keys |= other.keys
            group.until = max(group.until, other.until)
            lasting.remove(other)
            groups.remove(other)
        group.shifts.append(shift)
        group.keys.add(shift.key)
        group.until = max(group.until, _until(shift))
    return groups


def _incident(group: _Group) -> Incident:
    first = group.shifts[0]
    endpoints: dict[SeriesKey, IncidentEndpoint] = {}
    for key, period in group.shifts:
        before = endpoints.get(key)
        endpoints[key] = IncidentEndpoint(
            key,
            Role.UNEXPLAINED,
            since=period.since if before is None else before.since,
            until=period.until if before is None else max(before.until or 0.0, period.until or 0.0),
            peak_score=period.peak_score if before is None else max(before.peak_score, period.peak_score),
        )
    is_severe = any(
        period.peak_score >= SEVERE_SCORE and (period.until or 0.0) - period.since >= SEVERE_SECONDS
        for _, period in group.shifts
    )
    return Incident(
        # Not the id that an incident seen in current traffic would have.
        id=hashed_id("history", *first.key.parts, str(round(first.period.since))),
        start=first.period.since,
        end=group.until,
        severity=Severity.CRITICAL if is_severe else Severity.WARNING,
        cause=None,
        endpoints=tuple(list(endpoints.values())[:MAX_ENDPOINTS]),
        is_reconstructed=True,
    )
