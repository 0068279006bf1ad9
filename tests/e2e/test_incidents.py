"""The incident of the demo over HTTP: all endpoints that wait for the slow service are one, also after a restart."""

from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from exporter.app.app import App, build_app
from exporter.cause.incidents import Role
from exporter.config import Config
from exporter.demo.routes import ApiOptions
from exporter.demo.scenario import FAULT_SERVICE, INCIDENT_SERVICE, calendar_weekend, demo_scenario
from exporter.demo.tempo_api import TempoServer
from exporter.metrics.self_metrics import SelfMetrics
from exporter.store import Store

ANCHOR: Final = datetime(2026, 3, 4, 10, 20, tzinfo=UTC).timestamp()
TICK_SECONDS: Final = 15.0
WITHIN_SECONDS: Final = 360


@pytest.mark.timeout(600)
def test_incident_of_the_demo_is_one_with_its_cause_and_victims(tmp_path: Path) -> None:
    time = [ANCHOR]
    scenario = demo_scenario(ANCHOR, incident_after_seconds=0.0, fault="slow_call", traffic_factor=0.5)

    with ExitStack() as stack:
        options = ApiOptions(visible_after_seconds=9.0, idle_seconds=10.0)
        tempo = stack.enter_context(TempoServer(scenario, options, clock=lambda: time[0]))
        config = Config.model_validate(
            {
                "tempo": {"url": tempo.url, "requests_per_second": 2000},
                "calendar": {"weekend": list(calendar_weekend(ANCHOR))},
                "polling": {"backfill_duration": "72h"},
            }
        )

        def start() -> App:
            return build_app(config, Store.open(tmp_path / "history.db"), SelfMetrics(), clock=lambda: time[0])

        app = start()
        stack.callback(app.close)
        app.one_pass()
        causes = app.evaluation.causes
        assert causes is not None
        roles: dict[str, Role] = {}
        while Role.VICTIM not in roles.values() or Role.CAUSE not in roles.values():
            time[0] += TICK_SECONDS
            assert time[0] < ANCHOR + WITHIN_SECONDS, f"there is no such incident: {app.evaluation.incidents.open}"
            app.evaluation.poller.cycle()
            while causes.look_at_next() <= 0:
                pass
            roles = {
                endpoint.key.service_name: endpoint.role
                for each in app.evaluation.incidents.open
                for endpoint in each.endpoints
            }
        app.evaluation.poller.cycle()
        (incident,) = app.evaluation.incidents.open
        assert incident.cause is not None
        assert (incident.cause.service_name, incident.cause.span_name) == (FAULT_SERVICE, "INSERT entries")
        assert incident.cause.certainty >= 0.9
        assert roles[FAULT_SERVICE] is Role.CAUSE
        assert roles[INCIDENT_SERVICE] is Role.VICTIM
        assert incident.lost_seconds > 0
        page = app.exposition()
        for role in ("cause", "victim"):
            assert f'tempo_anomaly_incident_info{{incident="{incident.id}",role="{role}",' in page

        app.close()
        time[0] += TICK_SECONDS
        app = start()
        stack.callback(app.close)
        app.evaluation.manager.open_table(time[0])
        app.evaluation.poller.cycle()
        (again,) = app.evaluation.incidents.open
        assert (again.id, again.start, again.cause) == (incident.id, incident.start, incident.cause)
        assert {endpoint.key: endpoint.role for endpoint in again.endpoints} == {
            endpoint.key: endpoint.role for endpoint in incident.endpoints
        }
