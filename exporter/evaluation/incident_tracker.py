"""Keeps the incidents: groups the firing flags in every poll cycle, saves what changes, and reads what is stored.

Grouping takes milliseconds. The database is written after the snapshot is published, and only if an incident has
changed, or once a minute for scores and time lost.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from exporter.cause.account import Account, ComponentChange
from exporter.cause.incidents import (
    Finding,
    FiringFlag,
    FlagAccount,
    Incident,
    IncidentCause,
    Loss,
    advance,
)
from exporter.evaluation.causes.shift_cause import ShiftCause
from exporter.evaluation.snapshot import IncidentPart, SeriesStatus
from exporter.model.span import SeriesKey
from exporter.runtime.logs import LimitedLog, Log
from exporter.store import Store, StoredIncident, StoreError

_SAVE_SECONDS: Final = 60.0
"""Changes of scores and time lost alone are saved this often."""
_REPEAT_SECONDS: Final = 600.0
_MAX_NAMED: Final = 10
_MAX_KEPT_CHANGES: Final = 10
_MAX_KEPT_SERVICES: Final = 5
_MAX_KEPT_CHARACTERS: Final = 200
"""Names in an account that is kept are cut after so many characters."""
_MAX_KEPT_SENTENCE: Final = 2000


class IncidentPage(NamedTuple):
    """Incidents, the newest first.

    Attributes:
        incidents: the incidents.
        next: beginning and id of the last one if there are more; None otherwise.
    """

    incidents: Sequence[Incident]
    next: tuple[float, str] | None


class IncidentHistory(Protocol):
    """Reads incidents; both raise StoreError if the store cannot be read."""

    def newest(self, limit: int, before: tuple[float, str] | None = None) -> IncidentPage:
        """Return incidents, the newest first."""

    def find(self, incident_id: str) -> Incident | None:
        """Return one incident; None if the id is unknown."""


class IncidentTracker:
    """Keeps the incidents.

    :meth:`observe` and :meth:`save` belong to the poller's thread; :meth:`newest` and :meth:`find` are thread-safe.
    """

    def __init__(
        self,
        store: Store,
        *,
        renamed: Callable[[SeriesKey], SeriesKey],
        monotonic: Callable[[], float],
        log: Log,
    ) -> None:
        """Load the open incidents.

        Args:
            store: where incidents are kept.
            renamed: maps the names of a span to those of its series.
            monotonic: seconds that never jump.
            log: receives beginnings and ends.

        Raises:
            StoreError: the store cannot be read.
        """
        self._store = store
        self._renamed = renamed
        self._monotonic = monotonic
        self._log = log
        self._quiet_log = log.limited(_REPEAT_SECONDS, monotonic)
        loaded = [each for row in store.incidents.unended() if (each := self._decoded(row)) is not None]
        # Replaced as a whole, never changed: other threads read it.
        self._open: Mapping[str, Incident] = {each.id: each for each in loaded}
        self._saved: dict[str, Incident] = dict(self._open)
        self._unsaved: dict[str, Incident] = {}
        self._saved_at = monotonic()
        self._accounts: dict[SeriesKey, tuple[ShiftCause, FlagAccount]] = {}

    @property
    def open(self) -> Sequence[Incident]:
        """The incidents that last, by beginning."""
        return list(self._open.values())

    def observe(self, statuses: Sequence[SeriesStatus], now: float) -> tuple[SeriesStatus, ...]:
        """Continue the incidents with the flags that fire, and return the series with their parts in them.

        Args:
            statuses: the series, with the causes that are known.
            now: Unix seconds.
        """
        flags = [self._flag(status, status.since) for status in statuses if status.shift and status.since is not None]
        firing = {flag.key for flag in flags}
        self._accounts = {key: account for key, account in self._accounts.items() if key in firing}
        before = self._open
        if not flags and not before:
            return tuple(statuses)
        advanced = advance(before.values(), flags, now)
        self._open = {each.id: each for each in advanced if each.end is None}
        for incident in advanced:
            self._log_change(before.get(incident.id), incident)
            self._unsaved[incident.id] = incident
        parts = {
            endpoint.key: IncidentPart(incident.id, endpoint.role)
            for incident in self._open.values()
            for endpoint in incident.endpoints
            if endpoint.until is None
        }
        return tuple(
            replace(status, incident=parts[status.key]) if status.key in parts else status for status in statuses
        )

    def _flag(self, status: SeriesStatus, since: float) -> FiringFlag:
        lost = status.time_lost
        return FiringFlag(
            status.key,
            since,
            score=status.score or 0.0,
            requests=float(status.current_traces or 0),
            account=None if status.cause is None else self._account(status.key, status.cause),
            loss=None if lost is None else Loss(lost.since, lost.requests, lost.seconds),
        )

    def _account(self, key: SeriesKey, cause: ShiftCause) -> FlagAccount:
        """Return what a cause says, computed once: names are matched with patterns."""
        known = self._accounts.get(key)
        if known is None or known[0] is not cause:
            known = self._accounts[key] = cause, account_of_flag(cause, self._renamed)
        return known[1]

    def _log_change(self, before: Incident | None, incident: Incident) -> None:
        if before is not None and incident.end is None and _said(before) == _said(incident):
            return
        fields: dict[str, Any] = {
            "incident": incident.id,
            "severity": incident.severity.value,
            "cause_service_name": None if incident.cause is None else incident.cause.service_name,
            "cause_span_name": None if incident.cause is None else incident.cause.span_name,
            "cause": None if incident.cause is None else incident.cause.kind,
            "endpoints": len(incident.endpoints),
            "first": [each.key.text for each in incident.endpoints[:_MAX_NAMED]],
        }
        if incident.end is not None:
            self._log.info(
                "incident_ended",
                "an incident is over" if incident.merged_into is None else "an incident is part of another one",
                **fields,
                merged_into=incident.merged_into,
                seconds=round(incident.end - incident.start),
                requests=incident.lost_requests,
                lost_seconds=round(incident.lost_seconds, 1),
                peak_score=round(incident.peak_score, 1),
            )
        elif before is None:
            self._log.warning("incident_started", "an incident has begun", **fields)
        else:
            self._log.info("incident_changed", "the cause of an incident is known, or another one", **fields)

    # The database

    def save(self) -> None:
        """Save what has changed. A failure is logged, never raised, and saved with the next change."""
        is_due = self._monotonic() - self._saved_at >= _SAVE_SECONDS
        changed = [
            each
            for each in self._unsaved.values()
            if (saved := self._saved.get(each.id)) is None
            or (saved != each if is_due else _outline(saved) != _outline(each))
        ]
        if not changed:
            self._unsaved = {} if is_due else self._unsaved
            return
        try:
            self._store.incidents.save([encode_incident(each) for each in changed])
        except StoreError as error:
            self._quiet_log.error("incidents_not_saved", "cannot save incidents; they are saved later", error=error)
            return
        self._saved_at = self._monotonic() if is_due else self._saved_at
        self._saved.update({each.id: each for each in changed})
        self._saved = {key: each for key, each in self._saved.items() if each.end is None}
        self._unsaved = {key: each for key, each in self._unsaved.items() if each.end is None}

    def newest(self, limit: int, before: tuple[float, str] | None = None) -> IncidentPage:
        """Return incidents, the newest first.

        Args:
            limit: how many at most.
            before: beginning and id of the incident after which the list continues.

        Raises:
            StoreError: the store cannot be read.
        """
        rows = self._store.incidents.newest(limit + 1, before)
        shown = [self._current(row) for row in rows[:limit]]
        last = rows[limit - 1] if len(rows) > limit else None
        return IncidentPage([each for each in shown if each is not None], last and (last.start, last.id))

    def find(self, incident_id: str) -> Incident | None:
        """Return one incident; None if the id is unknown.

        Raises:
            StoreError: the store cannot be read.
        """
        is_open = self._open.get(incident_id)
        if is_open is not None:
            return is_open
        row = self._store.incidents.get(incident_id)
        return None if row is None else self._decoded(row)

    def _current(self, row: StoredIncident) -> Incident | None:
        return self._open.get(row.id) or self._decoded(row)

    def _decoded(self, row: StoredIncident) -> Incident | None:
        return decode_incident(row, self._quiet_log)


def account_of_flag(cause: ShiftCause, renamed: Callable[[SeriesKey], SeriesKey]) -> FlagAccount:
    """Return what the cause of a shift says, as far as incidents need it.

    Args:
        cause: the result of the comparison of traces.
        renamed: maps the names of a span to those of its series.
    """
    verdict = cause.verdict
    account = verdict.account
    named = None
    if cause.shares:
        first = cause.shares[0]
        service = (
            next((each for each in account.services if each.service_name == first.service_name), None)
            if account
            else None
        )
        certainty = service.stability if service is not None else account.mix_certainty if account is not None else 0.0
        share = verdict.share if verdict.share is not None else first.share
        named = IncidentCause(first.service_name, first.span_name, first.kind.value, share, certainty, cause.text)
    finding = finding_of(cause)
    if account is None:
        return FlagAccount(named, finding=finding)
    whole = sum(max(0.0, each.seconds) for each in account.services)
    operations = {(each.component.service_name, each.component.span_name) for each in account.changes if each.now_calls}
    return FlagAccount(
        named,
        blame={each.service_name: each.seconds / whole for each in account.services if each.seconds > 0},
        extra_seconds=account.base_seconds,
        operations=frozenset(renamed(SeriesKey(*names))[:2] for names in operations),
        finding=finding,
    )


def finding_of(cause: ShiftCause) -> Finding:
    """Return what is kept of the cause of a shift."""
    verdict = cause.verdict
    return Finding(
        at=cause.shift.at,
        outcome=verdict.outcome.value,
        text=cause.text[:_MAX_KEPT_SENTENCE],
        service_name=None if verdict.service_name is None else _cut(verdict.service_name),
        account=None if verdict.account is None else _shortened(verdict.account),
        slow_trace_id=cause.slow_trace_id,
        usual_trace_id=cause.usual_trace_id,
    )


def _shortened(account: Account) -> Account:
    """Return an account with the components that changed most, as it is decoded again: with lists."""
    most = sorted(account.changes, key=lambda each: -abs(each.delta_seconds))[:_MAX_KEPT_CHANGES]
    most.sort(key=lambda each: (-each.delta_seconds, each.component))
    services = account.services[:_MAX_KEPT_SERVICES]
    return replace(
        account,
        changes=[_with_cut_names(each) for each in most],
        services=[replace(each, service_name=_cut(each.service_name)) for each in services],
    )


def _with_cut_names(change: ComponentChange) -> ComponentChange:
    component = change.component
    names = component._replace(
        service_name=_cut(component.service_name),
        span_name=_cut(component.span_name),
        kind=_cut(component.kind),
        callee=_cut(component.callee),
    )
    return replace(change, component=names)


def _cut(name: str) -> str:
    return name if len(name) <= _MAX_KEPT_CHARACTERS else f"{name[: _MAX_KEPT_CHARACTERS - 1]}…"


def _said(incident: Incident) -> tuple[object, ...] | None:
    cause = incident.cause
    return None if cause is None else (cause.service_name, cause.kind)


def _outline(incident: Incident) -> object:
    """What is saved at once if it changes: all but scores and time lost."""
    endpoints = [(each.key, each.role, each.since, each.until, each.finding) for each in incident.endpoints]
    return incident.start, incident.end, incident.severity, incident.cause, incident.merged_into, endpoints


def encode_incident(incident: Incident) -> StoredIncident:
    """Return an incident as it is stored."""
    # Names may hold what UTF-8 cannot encode; ASCII with escapes can.
    document = json.dumps(msgspec.to_builtins(incident), separators=(",", ":"))
    return StoredIncident(incident.id, incident.start, incident.end, document, incident.is_reconstructed)


def decode_incident(row: StoredIncident, quiet_log: LimitedLog) -> Incident | None:
    """Return a stored incident; None, and a line in the log, if it is unreadable."""
    try:
        return msgspec.convert(json.loads(row.document), Incident)
    except (ValueError, msgspec.ValidationError) as error:
        quiet_log.warning(
            "incident_unreadable", "a stored incident is unreadable; it is left out", incident=row.id, error=error
        )
        return None
