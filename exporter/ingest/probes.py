"""Recognizes the endpoints of health checks, scrapes and tempo-vulture, which say nothing about what users experience.

docs/names.md lists them for users; a test compares the two.
"""

import re
from typing import Final

from exporter.model.span import SeriesKey

VERIFY_SERVICE: Final = "tempo-anomaly-exporter-verify"
"""Service of the traces that ``verify --tempo`` writes; they are left out always."""

SERVICES: Final = frozenset({"tempo-vulture", VERIFY_SERVICE})
"""Services that only test others: tempo-vulture writes traces with random names and durations."""

CALLERS: Final = ("kube-probe", "ELB-HealthChecker", "GoogleHC")
"""Programs that check health, where their name is the beginning of the service's or the span's, in any case."""

RPC_SERVICES: Final = ("grpc.health.v1.Health",)
"""gRPC services, with all their methods."""

LAST_SEGMENTS: Final = ("healthz", "livez", "readyz", "startupz")
"""Last segments of a path, behind any prefix."""

PATHS: Final = (
    "/health",
    "/health/live",
    "/health/liveness",
    "/health/ready",
    "/health/readiness",
    "/health/startup",
    "/healthcheck",
    "/livenessprobe",
    "/readinessprobe",
    "/liveness",
    "/readiness",
    "/ready",
    "/-/healthy",
    "/-/ready",
    "/metrics",
    "/actuator/health",
    "/actuator/health/liveness",
    "/actuator/health/readiness",
    "/actuator/prometheus",
    "/q/health",
    "/q/health/live",
    "/q/health/ready",
    "/q/health/started",
    "/q/metrics",
)
"""Whole paths."""

_SEGMENTS: Final = "|".join(LAST_SEGMENTS)
_NAME: Final = re.compile(
    r"(?i:(?:HTTP )?(?:(?:GET|HEAD) )?)"
    rf"(?:(?:[^\s?]*/)?(?:{_SEGMENTS})|{'|'.join(map(re.escape, PATHS))})/?(?:\?.*)?"
    rf"|/?(?:{'|'.join(map(re.escape, RPC_SERVICES))})[/.]\w+",
    re.DOTALL,
)
_CALLER: Final = re.compile(rf"(?i:{'|'.join(map(re.escape, CALLERS))})\b")


def is_probe(key: SeriesKey) -> bool:
    """Return whether a series is that of a health check, a scrape or tempo-vulture."""
    return (
        key.service_name in SERVICES
        or _NAME.fullmatch(key.span_name) is not None
        or _CALLER.match(key.span_name) is not None
        or _CALLER.match(key.service_name) is not None
    )
