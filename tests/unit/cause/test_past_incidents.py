"""Which shifts of the past become one incident."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.cause.incidents import (
    MAX_ENDPOINTS,
    NEAR_SECONDS,
    QUIET_SECONDS,
    SEVERE_SECONDS,
    FiringFlag,
    FlagAccount,
    Incident,
    IncidentCause,
    Role,
    Severity,
    advance,
)
from exporter.cause.past_incidents import MAX_PAST_INCIDENTS, PastShift, past_incidents
from exporter.model.hour_evaluation import ShiftPeriod
from exporter.model.span import SeriesKey

AT = 10_000.0
PAY = SeriesKey("checkout", "POST /pay")
CANCEL = SeriesKey("checkout", "POST /cancel")
REFUND = SeriesKey("checkout", "POST /refund")
SEARCH = SeriesKey("search", "GET /search")


def shift(key: SeriesKey, since: float, until: float | None, peak: float = 1.5) -> PastShift:
    return PastShift(key, ShiftPeriod(AT + since, None if until is None else AT + until, peak))


def seen(key: SeriesKey, since: float) -> Incident:
    cause = IncidentCause("ledger", "INSERT", "slower_calls", 0.9, 0.9, "it is ledger")
    (incident,) = advance([], [FiringFlag(key, AT + since, 1.5, 9.0, FlagAccount(cause, {"ledger": 0.9}))], AT + since)
    return incident


def members(incidents: Sequence[Incident]) -> list[set[SeriesKey]]:
    return [{endpoint.key for endpoint in each.endpoints} for each in incidents]


def test_endpoints_of_one_service_that_began_and_lasted_together_are_one_incident() -> None:
    (incident,) = past_incidents([shift(CANCEL, 300, 2000, 3.0), shift(PAY, 0, 1800)], [])
    assert (incident.start, incident.end, incident.cause) == (AT, AT + 2000, None)
    assert (incident.severity, incident.peak_score, incident.is_reconstructed) == (Severity.CRITICAL, 3.0, True)
    assert [(each.key, each.role, each.since, each.until) for each in incident.endpoints] == [
        (PAY, Role.UNEXPLAINED, AT, AT + 1800),
        (CANCEL, Role.UNEXPLAINED, AT + 300, AT + 2000),
    ]


@pytest.mark.parametrize(
    "shifts",
    [
        [shift(PAY, 0, 1800)],
        [shift(PAY, 0, 1800), shift(SEARCH, 0, 1800)],
        [shift(PAY, 0, 1800), shift(CANCEL, NEAR_SECONDS + 1, 1800)],
        [shift(PAY, 0, 100), shift(CANCEL, 100, 1800)],
        [shift(PAY, 0, 1800), shift(CANCEL, 0, None)],
        [shift(PAY, 0, 100), shift(PAY, 50, 1800)],
    ],
    ids=["one", "other service", "later", "not together", "lasts", "same endpoint"],
)
def test_others_are_no_incident(shifts: list[PastShift]) -> None:
    assert past_incidents(shifts, []) == []


def test_endpoint_joins_by_another_one_and_returns_before_the_incident_is_over() -> None:
    chain = [shift(PAY, 0, 800), shift(CANCEL, 700, 2500), shift(REFUND, 1500, 2000)]
    (incident,) = past_incidents([*chain, shift(PAY, 2500 + QUIET_SECONDS, 4000, 2.5)], [])
    assert members([incident]) == [{PAY, CANCEL, REFUND}]
    assert [(each.since, each.until) for each in incident.endpoints if each.key == PAY] == [(AT, AT + 4000)]
    assert incident.end == AT + 4000
    (incident,) = past_incidents([*chain, shift(PAY, 2501 + QUIET_SECONDS, 4000)], [])
    assert incident.end == AT + 2500


def test_severe_is_what_was_strong_and_long() -> None:
    for until, peak in ((SEVERE_SECONDS, 1.9), (SEVERE_SECONDS - 1, 2.0)):
        (incident,) = past_incidents([shift(PAY, 0, until, peak), shift(CANCEL, 0, 500)], [])
        assert incident.severity is Severity.WARNING
    (incident,) = past_incidents([shift(PAY, 0, SEVERE_SECONDS, 2.0), shift(CANCEL, 0, 500)], [])
    assert incident.severity is Severity.CRITICAL


def test_incident_that_was_seen_has_its_flags() -> None:
    shifts = [shift(PAY, 0, 1800), shift(CANCEL, 300, 2000), shift(REFUND, 300, 2000)]
    assert members(past_incidents(shifts, [seen(PAY, 200)])) == [{CANCEL, REFUND}]
    assert past_incidents(shifts, [seen(PAY, 200), seen(CANCEL, 200)]) == []
    assert members(past_incidents(shifts, [seen(PAY, 1801 + NEAR_SECONDS)])) == [{PAY, CANCEL, REFUND}]
    assert members(past_incidents(shifts, [seen(SEARCH, 200)])) == [{PAY, CANCEL, REFUND}]


def test_id_is_not_that_of_an_incident_that_was_seen() -> None:
    (incident,) = past_incidents([shift(PAY, 0, 1800), shift(CANCEL, 0, 1800)], [])
    assert incident.id not in {seen(PAY, 0).id, seen(CANCEL, 0).id}


def test_number_of_incidents_and_endpoints_is_bounded() -> None:
    gap = 10_000
    many = [shift(key, n * gap, n * gap + 60) for n in range(MAX_PAST_INCIDENTS + 5) for key in (PAY, CANCEL)]
    found = past_incidents(many, [])
    assert (len(found), found[0].start) == (MAX_PAST_INCIDENTS, AT + 5 * gap)
    wide = [shift(SeriesKey("checkout", f"GET /{n}"), 0, 60) for n in range(MAX_ENDPOINTS + 5)]
    (incident,) = past_incidents(wide, [])
    assert len(incident.endpoints) == MAX_ENDPOINTS


KEYS = [SeriesKey(service, f"GET /{name}") for service in ("a", "b\ud800") for name in "wxyz"]
SHIFTS = st.lists(
    st.builds(
        lambda key, since, length, peak: shift(key, since, None if length is None else since + length, peak),
        st.sampled_from(KEYS),
        st.integers(0, 40).map(lambda n: n * 300),
        st.none() | st.integers(1, 12).map(lambda n: n * 300),
        st.floats(0, 5),
    ),
    max_size=30,
    unique_by=lambda each: (each.key, each.period.since),
)


@given(SHIFTS, st.lists(st.builds(seen, st.sampled_from(KEYS), st.integers(0, 9000)), max_size=3), st.randoms())
def test_order_and_repetition_change_nothing(shifts: list[PastShift], others: list[Incident], random) -> None:  # type: ignore[no-untyped-def]
    found = past_incidents(shifts, others)
    again = shifts + shifts[: len(shifts) // 2]
    random.shuffle(again)
    assert past_incidents(again, others[::-1]) == found


@given(SHIFTS)
def test_each_shift_is_in_one_incident_of_its_service_at_most_and_within_its_time(shifts: list[PastShift]) -> None:
    found = past_incidents(shifts, [])
    assert len({each.id for each in found}) == len(found)
    for incident in found:
        assert len({endpoint.key.service_name for endpoint in incident.endpoints}) == 1
        assert len(incident.endpoints) > 1
        assert incident.start == min(each.since for each in incident.endpoints)
        assert incident.end == max(each.until or 0.0 for each in incident.endpoints)
    for key, period in shifts:
        homes = [
            each
            for each in found
            for endpoint in each.endpoints
            if endpoint.key == key
            and endpoint.since <= period.since
            and (endpoint.until or 0.0) >= (period.until or 1e9)
        ]
        assert len(homes) <= 1


@given(SHIFTS, SHIFTS)
def test_shifts_of_another_service_change_nothing(mine: list[PastShift], others: list[PastShift]) -> None:
    moved = [each._replace(key=each.key._replace(service_name="another")) for each in others]
    kept = [each for each in past_incidents([*mine, *moved], []) if each.endpoints[0].key.service_name != "another"]
    assert kept == past_incidents(mine, [])
