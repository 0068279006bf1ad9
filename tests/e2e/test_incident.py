"""An incident from its start to the next day, over HTTP and with a simulated clock."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import pytest

from exporter.app.app import App, build_app
from exporter.config import Config
from exporter.demo.routes import ApiOptions
from exporter.demo.scenario import (
    INCIDENT_SECONDS,
    INCIDENT_SERVICE,
    INCIDENT_SPAN,
    calendar_weekend,
    demo_scenario,
)
from exporter.demo.tempo_api import TempoServer
from exporter.evaluation.snapshot import SeriesStatus, Snapshot
from exporter.metrics.self_metrics import SelfMetrics
from exporter.model.span import SeriesKey
from exporter.store import Store

HOUR: Final = 3600.0
ANCHOR: Final = datetime(2026, 3, 4, 10, 20, tzinfo=UTC).timestamp()
INCIDENT_AT: Final = ANCHOR + 120
NEVER: Final = 1e9
TICK_SECONDS: Final = 15.0
UNAFFECTED_TICK_SECONDS: Final = 120.0
KEY: Final = SeriesKey(INCIDENT_SERVICE, INCIDENT_SPAN)


@dataclass
class Simulation:
    """An exporter reading the demo's traffic from the embedded Tempo API, and its simulated clock."""

    exporter: App
    time: list[float]

    def at(self, unix_seconds: float) -> Snapshot:
        """Run one pass at an instant: read settled windows and the live edge, and evaluate."""
        self.time[0] = unix_seconds
        result = self.exporter.one_pass()
        assert result.complete
        assert result.snapshot is not None
        return result.snapshot


def status(snapshot: Snapshot) -> SeriesStatus:
    return next(each for each in snapshot.series if each.key == KEY)


@contextmanager
def simulation(incident_after_seconds: float) -> Iterator[Simulation]:
    time = [ANCHOR]
    scenario = demo_scenario(ANCHOR, incident_after_seconds=incident_after_seconds, traffic_factor=0.5)
    options = ApiOptions(visible_after_seconds=9.0)
    with ExitStack() as stack:
        tempo = stack.enter_context(TempoServer(scenario, options, clock=lambda: time[0]))
        config = Config.model_validate(
            {
                # Of each trace only what is evaluated here, because simulating a day takes long.
                "tempo": {"url": tempo.url, "requests_per_second": 2000, "scope": "root"},
                "calendar": {"weekend": list(calendar_weekend(ANCHOR))},
            }
        )
        exporter = build_app(config, Store.in_memory(), SelfMetrics(), clock=lambda: time[0])
        stack.callback(exporter.close)
        yield Simulation(exporter, time)


@pytest.mark.timeout(600)
def test_incident_fires_resolves_and_does_not_change_the_baseline() -> None:
    with simulation(INCIDENT_AT - ANCHOR) as affected, simulation(NEVER) as unaffected:
        now = ANCHOR
        fired_at = resolved_at = None
        quarantined_before = affected.at(now).history.quarantined_windows
        unaffected.at(now)
        while resolved_at is None:
            now += TICK_SECONDS
            assert now < INCIDENT_AT + INCIDENT_SECONDS + 900, "the flag did not fire and resolve in time"
            current = status(affected.at(now))
            if (now - ANCHOR) % UNAFFECTED_TICK_SECONDS == 0:
                assert not status(unaffected.at(now)).shift
            if current.shift and fired_at is None:
                fired_at = now
                assert current.explanation is not None
                assert current.since is not None
                assert INCIDENT_AT < current.since <= now
            elif fired_at is not None and not current.shift:
                resolved_at = now

        assert fired_at is not None
        assert fired_at - INCIDENT_AT <= 240
        assert INCIDENT_AT + INCIDENT_SECONDS <= resolved_at <= INCIDENT_AT + INCIDENT_SECONDS + 360

        # On the next day the incident's hour would be in the baseline's pool.
        tomorrow = ANCHOR + 24 * HOUR
        with_incident, without_incident = affected.at(tomorrow), unaffected.at(tomorrow)
        assert with_incident.history.quarantined_windows > quarantined_before
        baseline, expected = status(with_incident).baseline, status(without_incident).baseline
        assert baseline is not None
        assert expected is not None
        assert baseline.level is expected.level
        # The pool lacks the incident's hour.
        assert baseline.windows == expected.windows - 1
        assert baseline.p50_seconds == pytest.approx(expected.p50_seconds, rel=0.05)
        assert baseline.p95_seconds == pytest.approx(expected.p95_seconds, rel=0.05)
