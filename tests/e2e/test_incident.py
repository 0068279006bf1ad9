"""An incident from its beginning to the day after, over HTTP and on a clock that the test moves."""

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
KEY: Final = SeriesKey(INCIDENT_SERVICE, INCIDENT_SPAN)


@dataclass
class World:
    """The demo's traffic behind the embedded Tempo API, an exporter on it, and the time."""

    app: App
    time: list[float]

    def at(self, unix_seconds: float) -> Snapshot:
        """Everything an exporter does, at an instant: read what has settled, read the live edge, judge."""
        self.time[0] = unix_seconds
        result = self.app.one_pass()
        assert result.complete
        assert result.snapshot is not None
        return result.snapshot


def status(snapshot: Snapshot) -> SeriesStatus:
    return next(each for each in snapshot.series if each.key == KEY)


@contextmanager
def world(incident_after_seconds: float) -> Iterator[World]:
    time = [ANCHOR]
    scenario = demo_scenario(ANCHOR, incident_after_seconds=incident_after_seconds, traffic_factor=0.5)
    options = ApiOptions(visible_after_seconds=9.0)
    with ExitStack() as stack:
        tempo = stack.enter_context(TempoServer(scenario, options, clock=lambda: time[0]))
        config = Config.model_validate(
            {
                "tempo": {"url": tempo.url, "requests_per_second": 2000},
                "calendar": {"weekend": list(calendar_weekend(ANCHOR))},
            }
        )
        app = build_app(config, Store.in_memory(), SelfMetrics(), clock=lambda: time[0])
        stack.callback(app.close)
        yield World(app, time)


@pytest.mark.timeout(300)
def test_an_incident_is_flagged_soon_clears_after_it_and_leaves_no_trace_in_the_baseline() -> None:
    with world(INCIDENT_AT - ANCHOR) as struck, world(NEVER) as spared:
        now = ANCHOR
        raised_at = cleared_at = None
        quarantined_before = struck.at(now).history.quarantined_windows
        spared.at(now)
        while cleared_at is None:
            now += TICK_SECONDS
            assert now < INCIDENT_AT + INCIDENT_SECONDS + 900, "the flag neither rose nor fell in time"
            found = status(struck.at(now))
            assert not status(spared.at(now)).shift
            if found.shift and raised_at is None:
                raised_at = now
                assert found.explanation is not None
                assert found.since is not None
                assert INCIDENT_AT < found.since <= now
            elif raised_at is not None and not found.shift:
                cleared_at = now

        assert raised_at is not None
        assert raised_at - INCIDENT_AT <= 240
        assert INCIDENT_AT + INCIDENT_SECONDS <= cleared_at <= INCIDENT_AT + INCIDENT_SECONDS + 360

        # Hour by hour to the next day, when the incident's hour would be part of the baseline.
        tomorrow = ANCHOR + 24 * HOUR
        while now + HOUR < tomorrow:
            now += HOUR
            struck.at(now)
            spared.at(now)
        after, without = struck.at(tomorrow), spared.at(tomorrow)
        assert after.history.quarantined_windows > quarantined_before
        learnt, usual = status(after).baseline, status(without).baseline
        assert learnt is not None
        assert usual is not None
        assert learnt.level is usual.level
        # The incident's hour is left out, so the two pools are not quite the same traces.
        assert learnt.windows == usual.windows - 1
        assert learnt.p50_seconds == pytest.approx(usual.p50_seconds, rel=0.05)
        assert learnt.p95_seconds == pytest.approx(usual.p95_seconds, rel=0.05)
