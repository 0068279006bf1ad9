"""The demo's scenario has every fallback level at any time, and its incidents."""

from collections import Counter
from datetime import UTC, datetime
from statistics import median

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporter.demo.endpoints import Endpoint
from exporter.demo.scenario import (
    INCIDENT_FACTOR,
    INCIDENT_SECONDS,
    INCIDENT_SERVICE,
    INCIDENT_SPAN,
    SEED,
    calendar_weekend,
    demo_endpoints,
    demo_scenario,
)
from exporter.demo.traces import Trace
from exporter.demo.traffic import SeriesTraffic, generate_requests
from exporter.model.traceql import Value
from tests.support.demo_levels import DAY, HOUR, WEEKDAYS, level, traces_by_hour

NS = 1_000_000_000


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


SUNDAY_NOON = at("2026-03-08T12:00:30")
instants = st.floats(at("2025-01-01"), at("2029-01-01"))


def is_incident(endpoint: Endpoint) -> bool:
    return (endpoint.operation.service, endpoint.operation.name) == (INCIDENT_SERVICE, INCIDENT_SPAN)


def root_durations(traces: list[Trace]) -> list[float]:
    return [trace.spans[0].duration_ns / NS for trace in traces]


def traces_of(now: float, service: str, name: str, start: float, end: float) -> list[Trace]:
    return [
        trace
        for trace in demo_scenario(now).overlapping(int(start * NS), int(end * NS))
        if (root := trace.shape.root) and (root.service, root.name) == (service, name) and trace.start_ns >= start * NS
    ]


@settings(deadline=None, max_examples=5)
@given(now=instants)
@example(now=SUNDAY_NOON)
@example(now=at("2026-03-07T23:59:59"))
@example(now=at("2026-03-09T00:00:01"))
@example(now=at("2026-12-31T02:30:00"))
@example(now=at("2028-02-29T14:10:00"))
def test_every_fallback_level_occurs_at_any_time(now: float) -> None:
    # The few endpoints left out have more traffic than those on level 1.
    endpoints = [endpoint for endpoint in demo_endpoints(now) if endpoint.profile.rate_per_minute < 1]

    levels = {endpoint: level(endpoint, now) for endpoint in endpoints}

    assert set(levels.values()) == {1, 2, 3, 4, 5}
    # Levels 4 and 5 are only visible if there was recent traffic.
    assert any(number == 4 and max(traces_by_hour(e, now)) > now - DAY for e, number in levels.items())
    assert any(number == 5 and traces_by_hour(e, now) for e, number in levels.items())


@given(now=instants)
def test_today_and_tomorrow_are_weekdays_like_most_of_the_week(now: float) -> None:
    weekend = calendar_weekend(now)

    def is_weekend(days_from_now: int) -> bool:
        return WEEKDAYS[datetime.fromtimestamp(now + days_from_now * DAY, UTC).weekday()] in weekend

    assert len(set(weekend)) == 2
    assert not is_weekend(0)
    assert not is_weekend(1)
    for today in (0, 1):
        assert sum(not is_weekend(today - ago) for ago in range(1, 7)) == 4


@settings(deadline=None, max_examples=20)
@given(now=instants)
def test_incident_has_requests_soon_after_its_start(now: float) -> None:
    [endpoint] = filter(is_incident, demo_endpoints(now))
    start = now + 45

    requests = list(generate_requests(endpoint.profile, start, start + 120, endpoint.seed(SEED)))

    assert len(requests) >= 3


def test_live_incident_starts_and_ends() -> None:
    now = SUNDAY_NOON
    start, end = now + 45, now + 45 + INCIDENT_SECONDS

    before, during, after = (
        median(root_durations(traces_of(now, INCIDENT_SERVICE, INCIDENT_SPAN, *window)))
        for window in ((start - HOUR, start), (start, end), (end, end + HOUR))
    )

    assert during / before == pytest.approx(INCIDENT_FACTOR, rel=0.25)
    assert after / before == pytest.approx(1, rel=0.25)


def test_start_of_the_incident_can_be_set() -> None:
    now = SUNDAY_NOON
    later_incident, immediate_incident = (
        demo_scenario(now, incident_after_seconds=after).overlapping(int(now * NS), int((now + 120) * NS))
        for after in (300.0, 0.0)
    )

    slower = [
        b.spans[0].duration_ns / a.spans[0].duration_ns
        for a, b in zip(later_incident, immediate_incident, strict=True)
        if a.end_ns != b.end_ns
    ]
    assert slower
    assert slower == pytest.approx([INCIDENT_FACTOR] * len(slower), rel=1e-6)


def test_past_incident_slows_search() -> None:
    now = SUNDAY_NOON
    start = now - 3 * DAY - 7 * HOUR

    before, during = (
        median(root_durations(traces_of(now, "search", "GET /api/search", *window)))
        for window in ((start - 2 * HOUR, start), (start, start + 2 * HOUR))
    )

    assert during / before > 3


def test_week_has_a_moderate_number_of_traces() -> None:
    total = sum(
        len(SeriesTraffic(endpoint.profile, endpoint.operation.name).hour(hour))
        for endpoint in demo_endpoints(SUNDAY_NOON)
        for hour in range(int(SUNDAY_NOON) // HOUR - 168, int(SUNDAY_NOON) // HOUR)
    )

    assert 150_000 < total < 300_000


def test_scenario_is_reproducible_and_depends_on_the_seed() -> None:
    now = SUNDAY_NOON
    window = (int((now - 1800) * NS), int((now + 1800) * NS))

    def trace_contents(seed: int) -> list[tuple[object, ...]]:
        traces = demo_scenario(now, seed=seed).overlapping(*window)
        return [(t.trace_id, t.spans, t.shape.operations) for t in traces]

    assert trace_contents(SEED) == trace_contents(SEED)
    assert trace_contents(SEED) != trace_contents(SEED + 1)


def test_some_requests_fail() -> None:
    now = SUNDAY_NOON
    statuses = Counter[tuple[str, str, Value | None]]()
    for trace in demo_scenario(now).overlapping(int((now - 12 * HOUR) * NS), int(now * NS)):
        root = trace.shape.operations[0]
        statuses[root.name, root.status, root.span_attributes.get("http.response.status_code")] += 1
    for endpoint in demo_endpoints(now):
        name = endpoint.operation.name
        failed = sum(count for (each, status, _), count in statuses.items() if (each, status) == (name, "error"))
        total = sum(count for (each, *_), count in statuses.items() if each == name)
        expected = total * endpoint.error_ratio
        assert abs(failed - expected) <= 4 * expected**0.5 + (expected > 0), name
    assert statuses[INCIDENT_SPAN, "error", 500] > 20
    assert {endpoint.error_ratio for endpoint in demo_endpoints(now)} >= {0.0, 0.001, 0.01}


def test_traces_have_entry_spans_of_other_services() -> None:
    now = SUNDAY_NOON
    [trace, *_] = traces_of(now, INCIDENT_SERVICE, INCIDENT_SPAN, now - 600, now)

    entries = {
        operation.service for operation in trace.shape.operations[1:] if operation.kind in ("server", "consumer")
    }

    assert entries == {"users", "payments", "ledger", "mailer"}


def test_endpoints_are_distinct_and_of_all_kinds() -> None:
    endpoints = demo_endpoints(SUNDAY_NOON)

    assert len({(e.operation.service, e.operation.name) for e in endpoints}) == len(endpoints)
    assert 20 <= len(endpoints) <= 30
    assert len({e.operation.service for e in endpoints}) >= 8
    assert {e.operation.kind for e in endpoints} == {"server", "consumer", "internal"}


def test_traffic_factor_multiplies_traffic() -> None:
    now = SUNDAY_NOON
    window = (int((now - 1800) * NS), int(now * NS))

    normal, tripled = (len(demo_scenario(now, traffic_factor=factor).overlapping(*window)) for factor in (1.0, 3.0))

    assert tripled / normal == pytest.approx(3, rel=0.3)
