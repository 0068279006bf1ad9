"""The answers for probes: ``/-/healthy`` and ``/-/ready``."""

from http import HTTPStatus

from exporter.detector.snapshot import Snapshot
from exporter.web.http import Request, Response, text


def healthy(request: Request) -> Response:  # noqa: ARG001 - the signature is that of every page
    """200 while the process works."""
    return text("tempo-anomaly-exporter is healthy")


def ready(snapshot: Snapshot | None) -> Response:
    """200 once there is a snapshot to scrape."""
    if snapshot is None:
        return text(
            "not ready: the first reading of the current traffic is not over yet", HTTPStatus.SERVICE_UNAVAILABLE
        )
    return text("tempo-anomaly-exporter is ready")
