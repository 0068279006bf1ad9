"""How incidents follow the flags, are saved, and survive a restart."""

import json
import logging
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.cause.incidents import QUIET_SECONDS, Role
from exporter.cause.verdict import CauseVerdict, Outcome
from exporter.evaluation.causes.shift_cause import Shift, ShiftCause
from exporter.evaluation.incident_tracker import IncidentTracker, decode_incident
from exporter.evaluation.live.time_lost import TimeLost
from exporter.evaluation.snapshot import SeriesStatus
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from exporter.store import Store, StoredIncident, StoreError
from tests.support.causes import CHECKOUT, a_cause
from tests.support.samples import NOON, Clock, events

PAYMENTS = SeriesKey("payments", "POST /charge")
HOSTILE = SeriesKey("\ud800", "'<b>")
CAUSE = a_cause()
QUIET = SeriesStatus(SeriesKey("cart", "GET /"), shift=False)


def flagged(key: SeriesKey, cause: ShiftCause | None = None, *, lost: float = 0.0) -> SeriesStatus:
    since = NOON - 60.0
    return SeriesStatus(
        key,
        current_traces=100,
        score=2.5,
        shift=True,
        since=since,
        cause=None if cause is None else replace(cause, shift=Shift(key, float(NOON), since)),
        time_lost=TimeLost(3, lost, since),
    )


class Bench:
    """A tracker on a store, with a clock."""

    def __init__(self, store: Store, *, renamed: Mapping[SeriesKey, SeriesKey] | None = None) -> None:
        names = renamed or {}
        self.clock = Clock(float(NOON))
        self.tracker = IncidentTracker(
            store,
            renamed=lambda key: names.get(key, key),
            monotonic=self.clock,
            log=get_logger("incidents"),
        )

    def cycle(self, *statuses: SeriesStatus, after: float = 15.0) -> tuple[SeriesStatus, ...]:
        self.clock.now += after
        shown = self.tracker.observe(statuses, self.clock.now)
        self.tracker.save()
        return shown


def test_victim_and_cause_are_one_incident_from_its_beginning_to_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench(Store.in_memory())
    assert [each.incident for each in bench.cycle(flagged(CHECKOUT), QUIET)] == [None, None]
    first, second, third = bench.cycle(flagged(CHECKOUT, a_cause(), lost=9.0), flagged(PAYMENTS), QUIET)
    assert first.incident is not None
    assert second.incident == (first.incident.id, Role.CAUSE)
    assert (first.incident.role, third.incident) == (Role.VICTIM, None)
    (incident,) = bench.tracker.open
    assert incident.cause is not None
    assert (incident.cause.service_name, incident.cause.span_name) == ("payments", "INSERT charges")
    assert incident.cause.certainty >= 0.9
    assert bench.cycle(QUIET) == (QUIET,)
    bench.cycle(after=QUIET_SECONDS)
    assert bench.tracker.open == []
    ended = bench.tracker.find(incident.id)
    assert ended is not None
    assert (ended.end, ended.lost_seconds) == (NOON + 45.0, 9.0)
    assert bench.tracker.newest(5) == ([ended], None)
    assert events(caplog) == ["incident_started", "incident_ended"]


def test_open_incident_continues_after_a_restart(tmp_path: Path) -> None:
    with closing(Store.open(tmp_path / "history.db")) as store:
        bench = Bench(store)
        bench.cycle(flagged(CHECKOUT, a_cause()), flagged(HOSTILE, a_cause(cart_ms=900.0)))
        before = bench.tracker.open
    assert len(before) == 2
    with closing(Store.open(tmp_path / "history.db")) as store:
        again = Bench(store)
        assert again.tracker.open == before
        shown = again.cycle(flagged(CHECKOUT), flagged(HOSTILE))
        assert {each.incident for each in shown} == {(each.id, each.endpoints[0].role) for each in before}


def test_flag_without_a_cause_has_no_incident_until_it_is_known(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench(Store.in_memory())
    failed = ShiftCause(Shift(CHECKOUT, float(NOON)), CauseVerdict(Outcome.FAILED, None, 0, 0), "failed")
    for cause in (None, failed):
        (status,) = bench.cycle(flagged(CHECKOUT, cause))
        assert status.incident is None
    (status,) = bench.cycle(flagged(CHECKOUT, a_cause()))
    assert status.incident is not None
    bench.cycle(flagged(CHECKOUT, a_cause(cart_ms=900.0)))
    assert events(caplog) == ["incident_started", "incident_changed"]


def test_calls_are_seen_under_the_names_of_series() -> None:
    unclear = a_cause()
    unclear = replace(unclear, verdict=replace(unclear.verdict, outcome=Outcome.UNCLEAR, service_name=None, kind=None))
    account = unclear.verdict.account
    assert account is not None
    account = replace(account, services=())
    unclear = replace(unclear, verdict=replace(unclear.verdict, account=account))
    called = next(
        each.component
        for each in account.changes
        if each.component.kind == "server" and each.component.service_name != CHECKOUT.service_name
    )
    stored_as = SeriesKey(called.service_name, "another name")
    bench = Bench(Store.in_memory(), renamed={SeriesKey(called.service_name, called.span_name): stored_as})
    none = ShiftCause(Shift(stored_as, float(NOON)), CauseVerdict(Outcome.NO_TRACES, None, 0, 0), "no traces")
    bench.cycle(flagged(CHECKOUT, unclear), flagged(stored_as, none))
    (incident,) = bench.tracker.open
    assert {each.key for each in incident.endpoints} == {CHECKOUT, stored_as}


def test_scores_and_time_lost_are_saved_once_a_minute_and_other_changes_at_once() -> None:
    store = Store.in_memory()
    bench = Bench(store)

    def stored() -> float:
        (row,) = store.incidents.newest(1)
        return float(json.loads(row.document)["endpoints"][0]["lost_seconds"])

    bench.cycle(flagged(CHECKOUT, CAUSE, lost=1.0))
    assert stored() == 1.0
    bench.cycle(flagged(CHECKOUT, CAUSE, lost=2.0))
    assert stored() == 1.0
    bench.cycle(flagged(CHECKOUT, CAUSE, lost=3.0), after=60)
    assert stored() == 3.0
    bench.cycle(flagged(CHECKOUT, CAUSE, lost=4.0))
    assert stored() == 3.0
    bench.cycle()
    assert stored() == 4.0
    # Readers see the present all the same.
    bench.cycle(flagged(CHECKOUT, CAUSE, lost=5.0))
    assert bench.tracker.newest(1).incidents[0].lost_seconds == 5.0


def test_incidents_that_cannot_be_saved_are_saved_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store.in_memory()
    bench = Bench(store)

    def refuse(_: object) -> None:
        raise StoreError("full", "the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store.incidents, "save", refuse)
        bench.cycle(flagged(CHECKOUT, CAUSE))
        bench.cycle()
        bench.cycle(after=QUIET_SECONDS)
    assert events(caplog) == ["incident_started", "incidents_not_saved"]
    bench.cycle()
    (row,) = store.incidents.newest(5)
    assert row.end == NOON + 30.0


def test_damaged_incident_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    store = Store.in_memory()
    store.incidents.save([StoredIncident("a", 1.0, None, "{"), StoredIncident("b", 2.0, 3.0, '{"id": 7}')])
    bench = Bench(store)
    assert bench.tracker.open == []
    assert bench.tracker.newest(5) == ([], None)
    assert bench.tracker.find("b") is None
    assert set(events(caplog)) == {"incident_unreadable"}


def test_account_is_stored_with_the_incident_and_is_small() -> None:
    store = Store.in_memory()
    bench = Bench(store)
    verdict = CAUSE.verdict
    assert verdict.account is not None
    (change, *_) = verdict.account.changes
    long = "\ud800" + 5000 * "n"
    changes = [replace(change, component=change.component._replace(span_name=long, callee=long))] * 500
    wide = replace(
        CAUSE, text=100_000 * "w", verdict=replace(verdict, account=replace(verdict.account, changes=changes))
    )
    bench.cycle(flagged(CHECKOUT, wide))
    (row,) = store.incidents.newest(1)
    assert len(json.loads(row.document)["endpoints"][0]["finding"]["account"]["changes"]) == 10
    incident = decode_incident(row, get_logger("incidents").limited(1.0, bench.clock))
    assert incident == bench.tracker.open[0]
    assert len(json.dumps(json.loads(row.document)["endpoints"])) < 20_000
    bench.cycle(QUIET)
    bench.cycle(QUIET, after=QUIET_SECONDS)
    ended = Bench(store).tracker.find(row.id)
    assert ended is not None
    assert ended.end is not None
    finding = ended.endpoints[0].finding
    assert finding is not None
    assert finding.account is not None
    assert finding.account.extra_seconds == verdict.account.extra_seconds
    assert (finding.slow_trace_id, finding.usual_trace_id) == (CAUSE.slow_trace_id, CAUSE.usual_trace_id)
