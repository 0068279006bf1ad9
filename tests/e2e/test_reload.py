"""The configuration is reloaded while Prometheus scrapes."""

import signal
import threading
import time

import pytest
import requests

from exporter.model.span import SeriesKey
from tests.e2e.conftest import StartExporter, StartTempo
from tests.support.processes import settings, write_settings
from tests.support.traffic import HOUR, MINUTE, Traffic

CART = SeriesKey("shop", "GET /cart")
PROBE = SeriesKey("shop", "GET /internal")


class Scraper:
    """Scrapes without a pause, and keeps what was not answered."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self.scrapes = 0
        self.failures: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                response = requests.get(f"{self._url}/metrics", timeout=10)
                self.scrapes += 1
                if response.status_code != 200 or "tempo_anomaly_snapshot_timestamp_seconds" not in response.text:
                    self.failures.append(f"{response.status_code}: {response.text[:200]}")
            except requests.RequestException as error:
                self.failures.append(str(error))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(20)


@pytest.fixture
def traffic() -> Traffic:
    now = time.time()
    traffic = Traffic()
    this_hour = int(now) // HOUR * HOUR
    for endpoint in (CART, PROBE):
        traffic.hourly(endpoint, range(this_hour - 72 * HOUR, this_hour - HOUR, HOUR), count=30, scale=0.2)
        traffic.spread(endpoint, now - 10 * MINUTE, now + 10 * MINUTE, count=400, scale=0.5)
    return traffic


def test_changes_take_effect_without_a_lost_scrape(
    tempo: StartTempo, exporter: StartExporter, traffic: Traffic
) -> None:
    base = settings(
        tempo(traffic).url,
        polling={"backfill_duration": "72h"},
        detection={"hold": "1s", "clear_hold": "1s"},
        web={"enable_lifecycle": True},
    )
    running = exporter(base)
    before = running.wait_for(lambda page: page.get("anomalous", CART, kind="shift") == 1)
    assert before.get("anomalous", PROBE, kind="shift") == 1
    assert before["config_last_reload_successful"] == 1
    scraper = Scraper(running.url)

    # Two and a half times the usual is no shift any more, and one endpoint is no longer watched.
    changed = {
        **base,
        "detection": {**base["detection"], "ratio": 4},
        "series": {"exclude": ["/internal"]},
        "polling": {**base["polling"], "settle": "20m"},
    }
    write_settings(running.directory, changed)
    running.process.send_signal(signal.SIGHUP)
    after = running.wait_for(
        lambda page: page.get("anomalous", CART, kind="shift") == 0 and page.get("current_traces", PROBE) is None
    )
    assert (
        after["config_last_reload_success_timestamp_seconds"] > before["config_last_reload_success_timestamp_seconds"]
    )
    # Nothing starts from zero, and what was read before is not counted again.
    assert (before.get("traces_total", CART) or 0) <= (after.get("traces_total", CART) or 0) <= 400
    (reloaded,) = running.logged("config_reloaded")
    assert sorted(reloaded["taken"]) == ["detection.ratio", "series.exclude"]
    (restart,) = running.logged("config_needs_restart")
    assert restart["keys"] == ["polling.settle"]
    listed = requests.get(f"{running.url}/api/v1/series", timeout=10).json()["series"]
    assert [each["span_name"] for each in listed] == [CART.span_name]

    # A broken file changes nothing, and the client learns what is wrong.
    (running.directory / "exporter.yaml").write_text("detection: {ratio: 0.5}\n")
    response = requests.post(f"{running.url}/-/reload", timeout=120)
    assert response.status_code == 500
    assert "detection.ratio" in response.text
    broken = running.metrics()
    assert broken["config_last_reload_successful"] == 0
    assert broken.get("anomalous", CART, kind="shift") == 0

    write_settings(running.directory, base)
    response = requests.post(f"{running.url}/-/reload", timeout=120)
    assert response.status_code == 200, response.text
    running.wait_for(
        lambda page: page.get("anomalous", CART, kind="shift") == 1 and page.get("anomalous", PROBE, kind="shift") == 1
    )
    scraper.stop()
    assert scraper.failures == []
    assert scraper.scrapes > 10
