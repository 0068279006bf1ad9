"""The benchmark of shifts of services."""

from itertools import pairwise
from math import inf

from benchmarks.detection.scoring import Episode
from benchmarks.service_shifts import replayed, simulated
from benchmarks.service_shifts.__main__ import replayed_rows, simulated_rows
from benchmarks.service_shifts.services import (
    LIVE_FROM,
    Found,
    Kind,
    Service,
    ServiceIncident,
    count_false,
    found_by,
    rate_text,
    share_text,
)

INCIDENT = ServiceIncident(2.0, LIVE_FROM, LIVE_FROM + 3600.0, None)


def test_simulated_service_is_drawn_from_its_seed_and_judged() -> None:
    service = Service("s/0", Kind.WHOLE, 0.0, 6, 10.0)
    outcome = simulated.evaluate(service)
    assert outcome == simulated.evaluate(service)
    assert [each.incident for each in outcome.found] == service.incidents(1, (1.3, 1.5, 2.0))
    assert all(each.delay_seconds is not None for each in outcome.found if each.incident.factor == 2.0)


def test_incidents_are_in_the_evaluated_time_and_apart() -> None:
    incidents = Service("s/0", Kind.SINGLE, 0.1, 8, 1.0).incidents(3, (1.5, 2.0, 5.0))
    assert len(incidents) == 18
    assert incidents[0].start > LIVE_FROM
    assert all(before.end < after.start for before, after in pairwise(incidents))
    assert Service("s/0", Kind.HEALTHY, 0.1, 8, 1.0).incidents(3, (1.5,)) == []


def test_episodes_match_incidents() -> None:
    late, before = Episode(LIVE_FROM + 600.0, inf), Episode(LIVE_FROM - 9000.0, LIVE_FROM - 8000.0)
    assert found_by([before, late], [INCIDENT]) == [Found(INCIDENT, 600.0)]
    assert found_by([before], [INCIDENT]) == [Found(INCIDENT, None)]
    assert count_false([before, late], [INCIDENT]) == 1


def test_cells() -> None:
    assert share_text([Found(INCIDENT, 600.0), Found(INCIDENT, None), Found(INCIDENT, 120.0)]) == "2 of 3, 6 min"
    assert (share_text([]), rate_text(0, 0)) == ("", "")
    assert rate_text(3, 1500.0) == "2.0 (3 in 1,500)"


def test_tables_have_a_column_for_each_shared_load() -> None:
    service = Service("s/0", Kind.WHOLE, 0.25, 8, 1.0)
    of_medians = simulated_rows([simulated.Outcome(service, 1, [Found(INCIDENT, 60.0)])])
    assert of_medians[-1] == ("× 2: found, median delay", "", "", "1 of 1, 1 min")
    nothing = Found(INCIDENT, None)
    outcome = replayed.Outcome(service, 0, 0, 0, [Found(INCIDENT, 60.0)], [nothing], [nothing], 3, 0)
    table = {name: cells for name, *cells in replayed_rows([outcome])}
    assert table["whole service × 2: verdict on the service"] == ["", "", "1 of 1, 1 min"]
    assert table["endpoints flagged in these incidents"] == ["0", "0", "3"]
