"""Which flags become one incident, and how incidents continue, merge, divide and end."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.cause.incidents import (
    MAX_FINDINGS,
    NEAR_SECONDS,
    QUIET_SECONDS,
    SEVERE_SECONDS,
    Finding,
    FiringFlag,
    FlagAccount,
    Incident,
    IncidentCause,
    Loss,
    Role,
    Severity,
    advance,
)
from exporter.model.span import SeriesKey

NOW = 10_000.0
GATEWAY = SeriesKey("gateway", "POST /checkout")
CHECKOUT = SeriesKey("checkout", "POST /pay")
LEDGER = SeriesKey("ledger", "Ledger/Book")
SEARCH = SeriesKey("search", "GET /search")
INDEX = SeriesKey("index", "Index/Query")


def caused_by(service: str, blame: float = 0.9, extra: float = 1.0, *, calls: Sequence[SeriesKey] = ()) -> FlagAccount:
    """An account that names a service."""
    cause = IncidentCause(service, "INSERT entries", "slower_calls", blame, 0.97, f"it is {service}")
    return FlagAccount(cause, {service: blame, "other": 1 - blame}, extra, frozenset(key[:2] for key in calls))


def calling(*keys: SeriesKey, blame: float = 0.0, service: str = "") -> FlagAccount:
    """An account that names no service."""
    return FlagAccount(None, {service: blame} if service else {}, 1.0, frozenset(key[:2] for key in keys))


def flag(key: SeriesKey, account: FlagAccount | None = None, *, since: float = NOW, **changes: Any) -> FiringFlag:
    return replace(FiringFlag(key, since, 1.5, 100.0, account), **changes)


def members(incidents: Sequence[Incident]) -> list[set[SeriesKey]]:
    return [{endpoint.key for endpoint in each.endpoints} for each in incidents]


def roles(incident: Incident) -> dict[SeriesKey, Role]:
    return {endpoint.key: endpoint.role for endpoint in incident.endpoints}


class TestGrouping:
    def test_endpoints_that_share_a_cause_are_one_incident_with_roles(self) -> None:
        (incident,) = advance(
            [], [flag(GATEWAY, caused_by("ledger")), flag(CHECKOUT, caused_by("ledger", extra=3.0)), flag(LEDGER)], NOW
        )
        assert roles(incident) == {LEDGER: Role.CAUSE, GATEWAY: Role.VICTIM, CHECKOUT: Role.VICTIM}
        assert incident.cause is not None
        assert (incident.cause.service_name, incident.cause.certainty) == ("ledger", 0.97)
        assert (incident.start, incident.end, incident.severity) == (NOW, None, Severity.WARNING)
        assert [endpoint.role for endpoint in incident.endpoints] == [Role.CAUSE, Role.VICTIM, Role.VICTIM]

    def test_endpoint_with_half_of_its_extra_time_there_is_a_victim_although_its_own_verdict_is_unclear(self) -> None:
        unclear = [flag(GATEWAY, calling(blame=blame, service="ledger")) for blame in (0.5, 0.49)]
        assert members(advance([], [flag(CHECKOUT, caused_by("ledger")), unclear[0]], NOW)) == [{CHECKOUT, GATEWAY}]
        assert members(advance([], [flag(CHECKOUT, caused_by("ledger")), unclear[1]], NOW)) == [{CHECKOUT}]

    def test_the_service_that_costs_the_most_takes_its_victims_first(self) -> None:
        torn = FlagAccount(caused_by("index").cause, {"index": 0.4, "ledger": 0.6}, 1.0)
        flags = [flag(CHECKOUT, caused_by("ledger", extra=9.0)), flag(GATEWAY, torn), flag(SEARCH, caused_by("index"))]
        assert sorted(map(sorted, members(advance([], flags, NOW)))) == [[CHECKOUT, GATEWAY], [SEARCH]]

    def test_two_faults_in_unrelated_parts_at_the_same_time_stay_two(self) -> None:
        flags = [flag(CHECKOUT, caused_by("ledger")), flag(SEARCH, caused_by("index")), flag(INDEX), flag(LEDGER)]
        assert sorted(map(sorted, members(advance([], flags, NOW)))) == [[CHECKOUT, LEDGER], [INDEX, SEARCH]]

    def test_unexplained_flags_join_by_calls_that_began_at_about_the_same_time(self) -> None:
        caller = flag(SEARCH, calling(INDEX))
        assert members(advance([], [caller, flag(INDEX, calling())], NOW)) == [{SEARCH, INDEX}]
        late = flag(INDEX, calling(), since=NOW + NEAR_SECONDS + 1)
        assert advance([], [caller, late], NOW + 1000) == []
        assert advance([], [caller, flag(LEDGER, calling())], NOW) == []

    def test_chain_of_calls_joins_the_incident_of_a_known_cause(self) -> None:
        flags = [
            flag(CHECKOUT, caused_by("ledger")),
            flag(GATEWAY, calling(CHECKOUT)),
            flag(SEARCH, calling(GATEWAY)),
        ]
        (incident,) = advance([], flags, NOW)
        assert roles(incident) == {CHECKOUT: Role.VICTIM, GATEWAY: Role.UNEXPLAINED, SEARCH: Role.UNEXPLAINED}

    def test_single_flag_of_which_nothing_is_known_is_no_incident_but_joins_one(self) -> None:
        assert advance([], [flag(SEARCH), flag(INDEX, calling(blame=0.9, service="db"))], NOW) == []
        (incident,) = advance([], [flag(LEDGER), flag(CHECKOUT, caused_by("ledger"))], NOW)
        assert roles(incident)[LEDGER] is Role.CAUSE

    def test_mix_of_requests_explains_an_endpoint_without_a_service(self) -> None:
        mix = FlagAccount(IncidentCause("", "", "mix", 0.8, 0.9, "other requests"), {}, 0.0)
        (incident,) = advance([], [flag(SEARCH, mix)], NOW)
        assert incident.cause == mix.cause
        assert roles(incident) == {SEARCH: Role.VICTIM}


class TestFindings:
    """What the traces of an endpoint have shown stays with the incident."""

    def found(self, service: str, text: str) -> FlagAccount:
        return replace(caused_by(service), finding=Finding(NOW, "known", text, service))

    def test_finding_outlives_the_flag_and_a_restart_until_there_is_a_newer_one(self) -> None:
        (incident,) = advance([], [flag(CHECKOUT, self.found("ledger", "first"))], NOW)
        (later,) = advance([incident], [flag(CHECKOUT)], NOW + 60)
        (quiet,) = advance([later], [], NOW + 90)
        (ended,) = advance([quiet], [], NOW + 90 + QUIET_SECONDS)
        assert [each.endpoints[0].finding for each in (incident, later, ended)] == [
            Finding(NOW, "known", "first", "ledger")
        ] * 3
        (newer,) = advance([later], [flag(CHECKOUT, self.found("ledger", "second"))], NOW + 90)
        assert newer.endpoints[0].finding == Finding(NOW, "known", "second", "ledger")

    def test_number_is_bounded_the_cause_first(self) -> None:
        victims = [flag(SeriesKey("a", f"GET /{n}"), self.found("ledger", str(n))) for n in range(MAX_FINDINGS + 5)]
        (incident,) = advance([], [*victims, flag(LEDGER, self.found("ledger", "own"))], NOW)
        kept = [each.finding.text for each in incident.endpoints if each.finding is not None]
        assert kept[0] == "own"
        assert len(kept) == MAX_FINDINGS
        assert len(incident.endpoints) == MAX_FINDINGS + 6


class TestContinuing:
    def test_incident_keeps_its_id_and_ends_some_minutes_after_its_last_flag(self) -> None:
        (incident,) = advance([], [flag(CHECKOUT, caused_by("ledger"))], NOW)
        (later,) = advance([incident], [flag(CHECKOUT, caused_by("ledger"), score=7.0), flag(LEDGER)], NOW + 60)
        assert (later.id, later.start, later.peak_score) == (incident.id, NOW, 7.0)
        (quiet,) = advance([later], [], NOW + 90)
        assert (quiet.end, {each.until for each in quiet.endpoints}) == (None, {NOW + 90})
        (again,) = advance([quiet], [flag(CHECKOUT, since=NOW + 100)], NOW + 200)
        assert (again.id, again.end, len(again.endpoints)) == (incident.id, None, 2)
        (silent,) = advance([again], [], NOW + 300)
        (ended,) = advance([silent], [], NOW + 300 + QUIET_SECONDS)
        assert (ended.id, ended.end) == (incident.id, NOW + 300)

    def test_after_a_restart_the_incident_keeps_its_cause_and_roles(self) -> None:
        (incident,) = advance([], [flag(CHECKOUT, caused_by("ledger")), flag(LEDGER)], NOW)
        (later,) = advance([incident], [flag(CHECKOUT), flag(LEDGER)], NOW + 60)
        assert (later.id, later.cause, roles(later)) == (incident.id, incident.cause, roles(incident))

    def test_incidents_merge_when_their_flags_get_the_same_cause(self) -> None:
        first, second = advance(
            [], [flag(CHECKOUT, caused_by("index"), since=NOW - 50), flag(GATEWAY, caused_by("ledger"))], NOW
        )
        merged = advance(
            [second, first],
            [flag(CHECKOUT, caused_by("ledger"), since=NOW - 50), flag(GATEWAY, caused_by("ledger"))],
            NOW + 60,
        )
        remaining, over = merged
        assert (remaining.id, remaining.end, members([remaining])) == (first.id, None, [{CHECKOUT, GATEWAY}])
        assert (over.id, over.end, over.merged_into) == (second.id, NOW + 60, first.id)

    def test_of_merged_incidents_the_one_with_most_flags_remains(self) -> None:
        by_chance = flag(SEARCH, calling(INDEX), since=NOW - 200), flag(INDEX, calling(), since=NOW - 200)
        (early,) = advance([], by_chance, NOW - 100)
        victims = [flag(each, caused_by("ledger")) for each in (GATEWAY, CHECKOUT)]
        first, second = advance([early], [*by_chance, *victims, flag(LEDGER)], NOW)
        assert (first.id, len(second.endpoints)) == (early.id, 3)
        linked = flag(SEARCH, calling(INDEX, CHECKOUT), since=NOW - 200)
        over, remaining = sorted(
            advance([first, second], [linked, by_chance[1], *victims, flag(LEDGER)], NOW + 60),
            key=lambda each: each.end is None,
        )
        assert (over.id, over.merged_into) == (early.id, second.id)
        assert (remaining.id, len(remaining.endpoints), remaining.start) == (second.id, 5, NOW - 200)

    def test_incident_is_divided_when_its_flags_get_different_causes(self) -> None:
        before = [flag(SEARCH, calling(INDEX)), flag(INDEX, calling()), flag(CHECKOUT, calling(INDEX))]
        (incident,) = advance([], before, NOW)
        flags = [
            flag(SEARCH, caused_by("index")),
            flag(INDEX, caused_by("index")),
            flag(CHECKOUT, caused_by("ledger"), loss=Loss(NOW, 3, 4.0)),
        ]
        divided = {each.id: each for each in advance([incident], flags, NOW + 60)}
        assert members([divided.pop(incident.id)]) == [{SEARCH, INDEX}]
        (other,) = divided.values()
        assert (members([other]), other.lost_seconds) == ([{CHECKOUT}], 4.0)

    def test_unexplained_flag_stays_with_its_incident_although_the_call_is_no_longer_seen(self) -> None:
        (incident,) = advance([], [flag(SEARCH, calling(INDEX)), flag(INDEX, calling())], NOW)
        (later,) = advance([incident], [flag(SEARCH, calling()), flag(INDEX, calling())], NOW + 60)
        assert later.id == incident.id

    def test_severe_after_a_quarter_of_an_hour_of_a_high_score_and_then_for_good(self) -> None:
        incidents: list[Incident] = []
        seen = []
        for after, score in ((0, 9.0), (SEVERE_SECONDS, 1.5), (SEVERE_SECONDS, 2.0), (SEVERE_SECONDS + 60, 1.1)):
            incidents = advance(incidents, [flag(CHECKOUT, caused_by("ledger"), score=score)], NOW + after)
            seen.append(incidents[0].severity)
        assert seen == [Severity.WARNING, Severity.WARNING, Severity.CRITICAL, Severity.CRITICAL]

    def test_time_lost_adds_up_over_a_restart_and_a_second_flag(self) -> None:
        incidents: list[Incident] = []
        for loss in (Loss(NOW, 2, 10.0), Loss(NOW, 3, 15.0), None, Loss(NOW, 3, 15.0), Loss(NOW + 60, 1, 4.0)):
            incidents = advance(incidents, [flag(CHECKOUT, caused_by("ledger"), loss=loss)], NOW)
        assert (incidents[0].lost_requests, incidents[0].lost_seconds) == (4, 19.0)

    def test_clock_that_was_set_back_ends_a_quiet_incident(self) -> None:
        (incident,) = advance(advance([], [flag(CHECKOUT, caused_by("ledger"))], NOW), [], NOW + 10)
        (ended,) = advance([incident], [], NOW - 5000)
        assert ended.end == NOW - 5000


KEYS = [SeriesKey(f"s{number % 4}", f"o{number}") for number in range(8)]
accounts = st.none() | st.builds(
    lambda service, share, calls, named: FlagAccount(
        IncidentCause(service, "x", "slower_calls", share, 0.9, "text") if named else None,
        {service: share},
        1.0,
        frozenset(key[:2] for key in calls),
    ),
    st.sampled_from(["s0", "s1", "db"]),
    st.sampled_from([0.3, 0.6, 1.0]),
    st.lists(st.sampled_from(KEYS), max_size=3),
    st.booleans(),
)
flag_sets = st.lists(
    st.builds(
        FiringFlag,
        key=st.sampled_from(KEYS),
        since=st.sampled_from([0.0, 60.0, 2000.0]),
        score=st.floats(0, 9),
        requests=st.sampled_from([0.0, 10.0, 50.0]),
        account=accounts,
    ),
    max_size=8,
    unique_by=lambda each: each.key,
)


@given(st.lists(flag_sets, max_size=4), st.randoms(use_true_random=False))
def test_order_of_flags_does_not_matter_and_each_belongs_to_one_incident(
    steps: list[list[FiringFlag]], rng: random.Random
) -> None:
    incidents: list[Incident] = []
    others: list[Incident] = []
    ids: dict[str, float] = {}
    for number, flags in enumerate(steps):
        now = 3000.0 + 60 * number
        incidents = advance(incidents, flags, now)
        others = advance(rng.sample(others, len(others)), rng.sample(flags, len(flags)), now)
        assert incidents == others
        assert len({each.id for each in incidents}) == len(incidents)
        lasting = [each for each in incidents if each.end is None]
        firing = [endpoint.key for each in lasting for endpoint in each.endpoints if endpoint.until is None]
        assert len(firing) == len(set(firing))
        wanted = {each.key for each in flags if each.account is not None and each.account.cause is not None}
        assert wanted <= set(firing) <= {each.key for each in flags}
        for each in incidents:
            assert each.start == min(each.start, ids.get(each.id, each.start))
            assert each.endpoints
            assert each.merged_into is None or each.merged_into in {other.id for other in lasting}
        ids = {each.id: each.start for each in incidents}
        incidents = others = lasting


@pytest.mark.parametrize("name", ["\ud800", "", "x" * 9000])
def test_hostile_names_have_an_id(name: str) -> None:
    (incident,) = advance([], [flag(SeriesKey(name, name), caused_by("ledger"))], NOW)
    assert len(incident.id) == 12
