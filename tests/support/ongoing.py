"""An exporter that has read the demo's week and finds itself in the middle of an incident."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from exporter.demo.routes import ApiOptions
from exporter.demo.scenario import INCIDENT_SERVICE, INCIDENT_SPAN, calendar_weekend, demo_scenario
from exporter.demo.tempo_api import TempoServer
from exporter.model.span import SeriesKey
from tests.support.processes import ExporterProcess, eventually, settings

INCIDENT: Final = SeriesKey(INCIDENT_SERVICE, INCIDENT_SPAN)
EXPLORE: Final = (
    "https://grafana.example/explore?schemaVersion=1&panes="
    '{"t":{"datasource":"tempo","queries":[{"refId":"A","queryType":"traceql","query":"{query}"}]}}'
)
_BEGAN_AGO_SECONDS: Final = 240.0
_PATIENCE_SECONDS: Final = 100.0


@contextmanager
def ongoing_incident(directory: Path, history: str = "168h") -> Iterator[ExporterProcess]:
    """Run it until the context ends.

    Args:
        directory: its working directory.
        history: how far back it reads.
    """
    now = time.time()
    scenario = demo_scenario(now, incident_after_seconds=-_BEGAN_AGO_SECONDS)
    configuration = settings(
        "",
        calendar={"weekend": list(calendar_weekend(now))},
        detection={"hold": "1s"},
        grafana={"explore_url": EXPLORE},
        polling={"tempo_interval": "2s", "backfill_duration": history},
    )
    with TempoServer(scenario, ApiOptions()) as tempo:
        configuration["tempo"]["url"] = tempo.url
        with ExporterProcess(directory, configuration) as process:
            # Traces come from this very process, and asking for metrics all the time would hold them up.
            eventually(
                lambda: any(process.logged("backfill_complete")) and any(process.logged("shift_firing")),
                lambda: "\n".join(process.lines[-20:]),
                _PATIENCE_SECONDS,
            )
            process.wait_for(lambda page: page.get("anomalous", INCIDENT, kind="shift") == 1)
            yield process
