"""Exporters that share the services of one Tempo by ``tempo.filter``, as documented in docs/scaling.md."""

import re
import time
from pathlib import Path

import yaml

from exporter.model.span import SeriesKey
from tests.e2e.conftest import StartExporter, StartTempo
from tests.support.database import digests
from tests.support.paths import REPOSITORY
from tests.support.processes import ExporterProcess, settings
from tests.support.traffic import HOUR, Traffic

SCALING = REPOSITORY / "docs" / "scaling.md"
SERVICES = ("adverts", "cart", "Checkout", "münze", "search", "2nd-hand", 'a "quoted" one', "_internal")


def documented_filters() -> list[str]:
    """Return the filters of the documented configurations."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", SCALING.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    tempos = [document.get("tempo", {}) for document in map(yaml.safe_load, blocks)]
    return [tempo["filter"] for tempo in tempos if "filter" in tempo]


def test_shards_together_see_every_series_exactly_once(
    tempo: StartTempo, exporter: StartExporter, tmp_path: Path
) -> None:
    traffic, now = Traffic(), time.time()
    this_hour = int(now) // HOUR * HOUR
    for number, service in enumerate(SERVICES):
        for name in ("GET /", "POST /"):
            key = SeriesKey(service, name)
            # Later hours may settle during the test.
            hours = range(this_hour - 5 * HOUR, this_hour - 2 * HOUR, HOUR)
            traffic.hourly(key, hours, count=20 + number, scale=0.2)
            traffic.spread(key, now - 60, now - 10, count=15, scale=0.2)
    url = tempo(traffic).url
    filters = documented_filters()
    assert len(filters) >= 2

    def start(number: int, condition: str) -> ExporterProcess:
        directory = tmp_path / str(number)
        directory.mkdir()
        changes = {"tempo": {"filter": condition}, "polling": {"backfill_duration": "6h"}}
        return exporter(settings(url, **changes), directory=directory)

    running = [start(number, condition) for number, condition in enumerate(["", *filters])]
    pages = [each.wait_until_filled() for each in running]
    assert [each.stop() for each in running] == [0] * len(running)

    whole, *shards = [page.series() for page in pages]
    assert {key.service_name for key in whole} == set(SERVICES)
    assert all(shards), "a shard without a service shows nothing"
    assert sorted(key for shard in shards for key in shard) == sorted(whole)
    of_one, *of_shards = [sorted(digests(each.directory / "tempo-anomaly.db")) for each in running]
    assert sorted(row for rows in of_shards for row in rows) == of_one
    assert sum(row[3] for row in of_one) == traffic.between(0, this_hour - 2 * HOUR)
