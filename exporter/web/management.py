"""``/metrics``: the series' samples as they were rendered with the snapshot, and the exporter's own.

The answers for probes: ``/-/healthy`` and ``/-/ready``.
"""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from exporter.evaluation.snapshot import Snapshot
from exporter.metrics.exposition import CompressedPrefix, Format, Publisher, render_families
from exporter.web.http import HttpRequest, HttpResponse, accepted, text

_OPENMETRICS_VERSION: Final = "1.0.0"
_CONTENT_TYPES: Final[Mapping[Format, str]] = {
    Format.TEXT: "text/plain; version=0.0.4; charset=utf-8",
    Format.OPENMETRICS: f"application/openmetrics-text; version={_OPENMETRICS_VERSION}; charset=utf-8",
}
_ENCODERS: Final[Mapping[Format, Callable[[Collector], bytes]]] = {
    Format.TEXT: generate_latest,
    Format.OPENMETRICS: generate_openmetrics,
}


def chosen_format(accept: str) -> Format:
    """The format for an ``Accept`` header: OpenMetrics where the client asks for it at least as much as for text.

    ``prometheus_client`` has a function for this, which overlooks weights, fails on a version that is no number, and
    escapes names in ways that no name here needs.
    """
    items = accepted(accept)
    openmetrics = max(
        (
            item.weight
            for item in items
            if item.name == "application/openmetrics-text"
            and item.parameters.get("version", _OPENMETRICS_VERSION) == _OPENMETRICS_VERSION
        ),
        default=0.0,
    )
    text = max((item.weight for item in items if item.name in ("text/plain", "text/*", "*/*")), default=0.0)
    return Format.OPENMETRICS if openmetrics > 0 and openmetrics >= text else Format.TEXT


class MetricsPage:
    """Answers scrapes."""

    def __init__(self, publisher: Publisher, registry: CollectorRegistry) -> None:
        self._publisher = publisher
        self._registry = registry

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """The page, or with ``name[]`` those families of it."""
        names = frozenset(filter(None, request.query.get("name[]", ())))
        format_ = chosen_format(request.accept)
        page = self._publisher.page
        if page is not None and not names:
            beginning = page.render(format_, gzipped=request.accepts_gzip)
        else:
            chosen = b"" if page is None else render_families(page.snapshot.series, format_, names)
            beginning = CompressedPrefix.of(chosen, gzipped=request.accepts_gzip)
        # The exporter's own families come last: in OpenMetrics they bring the end mark with them.
        own = _ENCODERS[format_](self._registry.restricted_registry(names) if names else self._registry)
        encoding = (("Content-Encoding", "gzip"),) if request.accepts_gzip else ()
        headers = (*encoding, ("Vary", "Accept, Accept-Encoding"))
        return HttpResponse(beginning.end(own), _CONTENT_TYPES[format_], headers=headers, before=beginning.data)


def healthy(request: HttpRequest) -> HttpResponse:  # noqa: ARG001 - the signature is that of every page
    """200 while the process works."""
    return text("tempo-anomaly-exporter is healthy")


def ready(snapshot: Snapshot | None) -> HttpResponse:
    """200 once there is a snapshot to scrape."""
    if snapshot is None:
        return text(
            "not ready: the first reading of the current traffic is not over yet", HTTPStatus.SERVICE_UNAVAILABLE
        )
    return text("tempo-anomaly-exporter is ready")
