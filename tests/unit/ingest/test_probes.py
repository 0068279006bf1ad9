"""Health checks, scrapes and tempo-vulture, which are left out."""

import re

import pytest

from exporter.ingest.probes import CALLERS, LAST_SEGMENTS, PATHS, RPC_SERVICES, SERVICES, is_probe
from exporter.ingest.series_filter import SeriesFilter, SeriesRules
from exporter.model.pattern import Pattern
from exporter.model.span import SeriesKey
from exporter.runtime.logs import get_logger
from tests.support.paths import REPOSITORY
from tests.support.samples import events

VULTURE = SeriesKey("tempo-vulture", "3kq9x-span")
HEALTH = SeriesKey("shop", "GET /healthz")
CART = SeriesKey("shop", "GET /cart")


@pytest.mark.parametrize(
    "key",
    [
        VULTURE,
        *(
            SeriesKey("shop", name)
            for name in (
                "grpc.health.v1.Health/Check",
                "/grpc.health.v1.Health/Watch",
                "grpc.health.v1.Health.Check",
                "GET /healthz",
                "HEAD /healthz",
                "get /healthz?verbose",
                "/livez",
                "GET /shop/readyz/",
                "/-/ready",
                "GET /-/healthy",
                "GET /metrics",
                "HTTP GET /metrics",
                "GET /actuator/health/readiness",
                "kube-probe/1.31",
                "ELB-HealthChecker/2.0",
            )
        ),
        SeriesKey("kube-probe", "GET /"),
    ],
)
def test_probe_is_recognized(key: SeriesKey) -> None:
    assert is_probe(key)
    assert SeriesFilter(SeriesRules()).resolve(key) == "filtered"


@pytest.mark.parametrize(
    "name",
    [
        "GET /cart",
        "GET /patients/{id}/health",
        "GET /health/records",
        "POST /metrics",
        "GET /metrics/{id}",
        "GET /healthzone",
        "grpc.health.v1.HealthRecords/Get",
        "shop.Health/Check",
        "already",
        "get ready",
        "GET /order-ready",
        "kube-probes",
        "",
    ],
)
def test_other_endpoint_is_kept(name: str) -> None:
    key = SeriesKey("shop", name)
    assert not is_probe(key)
    assert SeriesFilter(SeriesRules()).resolve(key) == key


def test_probes_are_kept_if_asked_for() -> None:
    series_filter = SeriesFilter(SeriesRules(exclude_probes=False))
    assert [series_filter.resolve(key) for key in (VULTURE, HEALTH)] == [VULTURE, HEALTH]


def test_include_wins() -> None:
    series_filter = SeriesFilter(SeriesRules(include=[Pattern("healthz|cart")]))
    assert [series_filter.resolve(key) for key in (HEALTH, CART, VULTURE)] == [HEALTH, CART, "filtered"]


def test_first_probe_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    series_filter = SeriesFilter(SeriesRules(exclude=[Pattern("cart")]), get_logger("series"))
    for key in (CART, HEALTH, VULTURE, HEALTH):
        assert series_filter.resolve(key) == "filtered"
    assert events(caplog) == ["probes_left_out"]


def test_stored_probes_and_names_with_ids_take_no_room() -> None:
    series_filter = SeriesFilter(SeriesRules(max_series=1))
    series_filter.preload([HEALTH, SeriesKey("shop", "run job_19474"), CART])
    assert series_filter.admitted() == [CART]


def test_all_probes_are_documented() -> None:
    text = (REPOSITORY / "docs" / "names.md").read_text(encoding="utf-8")
    table = text.partition("<!-- begin: probes -->")[2].partition("<!-- end -->")[0]
    listed = [set(re.findall("`([^`]+)`", line)) for line in table.splitlines() if line.startswith("| ")][2:]
    assert listed == [set(group) for group in (SERVICES, CALLERS, RPC_SERVICES, LAST_SEGMENTS, PATHS)]
