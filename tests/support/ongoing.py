"""An exporter that has read the demo's week, with a firing incident."""

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
_STARTED_SECONDS_AGO: Final = 240.0
_TIMEOUT_SECONDS: Final = 240.0


@contextmanager
def ongoing_incident(directory: Path, history: str = "168h") -> Iterator[ExporterProcess]:
    """Run the exporter until the context ends.

    Args:
        directory: its working directory.
        history: polling.backfill_duration.
    """
    now = time.time()
    scenario = demo_scenario(now, incident_after_seconds=-_STARTED_SECONDS_AGO)
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
            # This process serves the traces, and frequent scrapes would slow it down.
            eventually(
                lambda: any(process.logged("backfill_complete")) and any(process.logged("shift_firing")),
                lambda: "\n".join(process.lines[-20:]),
                _TIMEOUT_SECONDS,
            )
            process.wait_for(lambda page: page.get("anomalous", INCIDENT, kind="shift") == 1)
            yield process
