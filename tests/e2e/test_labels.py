"""``series.labels`` and ``series.span_name``: environments of their own, names from attributes, databases of before."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from exporter.demo.traces import ROOT, Operation, SpanTimes, TraceShape, make_trace
from exporter.model.span import SeriesKey
from tests.e2e.conftest import StartExporter, StartTempo
from tests.support.database import digests, windows
from tests.support.older_database import make_older
from tests.support.processes import run, settings
from tests.support.traffic import HOUR, MINUTE, NS, Traffic

ENVIRONMENT = "deployment_environment_name"
DATABASE = "tempo-anomaly.db"
SERIES = {
    "labels": [["resource.deployment.environment.name", "resource.deployment.environment"]],
    "span_name": ["span.http.route", "name"],
}
PROD, STAGING = (SeriesKey("shop", "GET /orders/{id}", ((ENVIRONMENT, each),)) for each in ("prod", "staging"))
WORK = SeriesKey("shop", "work")


def shape(environment: str) -> TraceShape:
    """Return the shape of a request that the instrumentation calls "GET"; one environment has the former attribute."""
    attribute = "deployment.environment" if environment == "staging" else "deployment.environment.name"
    route = (("http.route", "/orders/{id}"), ("http.request.method", "GET"))
    return TraceShape((Operation("shop", "GET", "server", ((attribute, environment),), route),), (ROOT,))


SHAPES = {
    PROD: shape("prod"),
    STAGING: shape("staging"),
    WORK: TraceShape((Operation(*WORK[:2], "server"),), (ROOT,)),
}


def add(
    traffic: Traffic, rng: random.Random, key: SeriesKey, start: float, end: float, count: int, scale: float
) -> None:
    for _ in range(count):
        begin = start + rng.random() * (end - start)
        times = SpanTimes(rng.getrandbits(64), int(begin * NS), int(scale * rng.uniform(0.7, 1.0) * NS))
        traffic.add(make_trace(rng.getrandbits(128), SHAPES[key], [times]))


VERSION_WITHOUT_LABELS = 4


@pytest.fixture
def traffic() -> Traffic:
    """Three days of two environments under one service name, and an incident of one since ten minutes."""
    now, traffic, rng = time.time(), Traffic(), random.Random(5)
    this_hour = int(now) // HOUR * HOUR
    usual = {PROD: 0.2, STAGING: 0.6, WORK: 0.1}
    for hour in range(this_hour - 72 * HOUR, this_hour - HOUR, HOUR):
        for key, scale in usual.items():
            add(traffic, rng, key, hour, hour + HOUR, 30, scale)
    for key, scale in {**usual, PROD: 0.6}.items():
        add(traffic, rng, key, now - 10 * MINUTE, now + 10 * MINUTE, 400, scale)
    return traffic


def configured(url: str, **changes: Any) -> dict[str, Any]:
    return settings(
        url, **{"polling": {"backfill_duration": "72h"}, "detection": {"hold": "1s", "max_window": "5m"}, **changes}
    )


def test_environments_have_baselines_flags_and_names_of_their_own(
    tempo: StartTempo, exporter: StartExporter, tmp_path: Path, traffic: Traffic
) -> None:
    configuration = configured(tempo(traffic).url, series=SERIES)
    first = exporter(configuration)
    page = first.wait_for(lambda page: page.get("anomalous", PROD, kind="shift") == 1)
    assert page.series() == {PROD, STAGING, WORK}
    assert page.get("anomalous", STAGING, kind="shift") == page.get("anomalous", WORK, kind="shift") == 0
    for key, p50 in ((PROD, 0.17), (STAGING, 0.51), (WORK, 0.085)):
        assert page.get("baseline_p50_seconds", key) == pytest.approx(p50, rel=0.05)
    assert page.get("current_p50_seconds", PROD) == pytest.approx(0.51, rel=0.05)
    (record,) = first.logged("shift_firing")
    assert (record["span_name"], record["labels"]) == (PROD.span_name, dict(PROD.labels))

    shifted = first.get("/api/v1/series?state=shifted").json()["series"]
    assert [each["labels"] for each in shifted] == [{ENVIRONMENT: "prod"}]
    assert first.get(f"/?{ENVIRONMENT}=staging").text.count(">GET /orders/{id}<") == 3  # card, strip, row
    explained = run(
        *("explain", "--service", "shop", "--span", PROD.span_name, "--label", f"{ENVIRONMENT}=staging", "--json"),
        directory=tmp_path, STORAGE_PATH=DATABASE,
    )  # fmt: skip
    assert json.loads(explained.stdout)["labels"] == {ENVIRONMENT: "staging"}
    first.kill()

    second = exporter(configuration)
    after = second.wait_for(lambda page: page.get("anomalous", PROD, kind="shift") == 1)
    assert after.get("anomalous_since_timestamp_seconds", PROD) == page.get("anomalous_since_timestamp_seconds", PROD)
    assert second.logged("shift_firing") == []
    assert second.logged("series_identity_changed") == []


def test_a_database_of_the_previous_version_keeps_its_history(
    tempo: StartTempo, exporter: StartExporter, tmp_path: Path, traffic: Traffic
) -> None:
    server = tempo(traffic)
    first = exporter(configured(server.url))
    first.wait_until_filled()
    assert first.stop() == 0
    before = digests(tmp_path / DATABASE)
    ledger_end = max(end for _, end, *_ in windows(tmp_path / DATABASE))
    searches_before = len(server.searches())
    make_older(tmp_path / DATABASE, VERSION_WITHOUT_LABELS)

    second = exporter(configured(server.url))
    page = second.wait_until_filled()
    assert second.stop() == 0
    assert before <= digests(tmp_path / DATABASE)
    assert [each for each in server.searches()[searches_before:] if int(each["start"]) < ledger_end] == []
    assert page.series() == {SeriesKey("shop", "GET"), WORK}

    third = exporter(configured(server.url, series=SERIES))
    page = third.wait_for(lambda page: page.get("current_traces", PROD))
    (record,) = third.logged("series_identity_changed")
    assert record["before"] == "series.labels=[] series.span_name=[name]"
    # What has the same name as before keeps its baseline; the others are known to be new.
    assert page.get("baseline_p50_seconds", WORK) == pytest.approx(0.085, rel=0.05)
    assert page.get("baseline_fallback_level", PROD) == 5
    assert before <= digests(tmp_path / DATABASE)
