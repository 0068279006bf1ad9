"""``/metrics``, and the probes ``/-/healthy`` and ``/-/ready``."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from exporter.evaluation.snapshot import Snapshot
from exporter.metrics.exposition import Format, PagePrefix, Publisher, RenderedPage
from exporter.metrics.protobuf import render_collector
from exporter.web.http import HttpRequest, HttpResponse, parse_accept, text_response

_OPENMETRICS_VERSION: Final = "1.0.0"
_RETRIES: Final = 5
"""More than it takes: snapshots are seconds apart, and the next page is rendered ahead."""
_PROTOBUF: Final = "application/vnd.google.protobuf"
_MESSAGE: Final = "io.prometheus.client.MetricFamily"
_CONTENT_TYPES: Final[Mapping[Format, str]] = {
    Format.TEXT: "text/plain; version=0.0.4; charset=utf-8",
    Format.OPENMETRICS: f"application/openmetrics-text; version={_OPENMETRICS_VERSION}; charset=utf-8",
    Format.PROTOBUF: f"{_PROTOBUF}; proto={_MESSAGE}; encoding=delimited",
}
_ENCODERS: Final[Mapping[Format, Callable[[Collector], bytes]]] = {
    Format.TEXT: generate_latest,
    Format.OPENMETRICS: generate_openmetrics,
    Format.PROTOBUF: render_collector,
}


def negotiate_format(accept: str, *, has_protobuf: bool = False) -> Format:
    """Choose the format for an ``Accept`` header: of those that the client likes best, protobuf, OpenMetrics or text.

    Protobuf is offered only with native histograms, because it has no other advantage.

    The function of ``prometheus_client`` ignores weights, fails on a version that is not a number, and negotiates an
    escaping of names that no name here needs.
    """
    items = parse_accept(accept)
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
    protobuf = max(
        (
            item.weight
            for item in items
            if item.name == _PROTOBUF
            and item.parameters.get("proto") == _MESSAGE
            and item.parameters.get("encoding") == "delimited"
        ),
        default=0.0,
    )
    if has_protobuf and protobuf > 0 and protobuf >= max(openmetrics, text):
        return Format.PROTOBUF
    return Format.OPENMETRICS if openmetrics > 0 and openmetrics >= text else Format.TEXT


class MetricsPage:
    """Handler of ``/metrics``: the series as rendered with the snapshot, then the exporter's own metrics."""

    def __init__(
        self, publisher: Publisher, registry: CollectorRegistry, *, has_native_histograms: bool = False
    ) -> None:
        self._publisher = publisher
        self._registry = registry
        self._has_native_histograms = has_native_histograms

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Return the page, or only the families named by ``name[]``."""
        names = frozenset(filter(None, request.query.get("name[]", ())))
        format_ = negotiate_format(request.accept, has_protobuf=self._has_native_histograms)
        prefix, own = self._of_one_snapshot(format_, names, gzipped=request.accepts_gzip)
        encoding = (("Content-Encoding", "gzip"),) if request.accepts_gzip else ()
        headers = (*encoding, ("Vary", "Accept, Accept-Encoding"))
        return HttpResponse(prefix.finish(own), _CONTENT_TYPES[format_], headers=headers, prefix=prefix.parts)

    def _of_one_snapshot(self, format_: Format, names: frozenset[str], *, gzipped: bool) -> tuple[PagePrefix, bytes]:
        """Render the series and the exporter's own metrics.

        A snapshot may be published between the two: then both are rendered again, because the exporter's own metrics
        count the series and the windows of the snapshot.
        """
        page = self._publisher.page
        rendered = self._render(page, format_, names, gzipped=gzipped)
        for _ in range(_RETRIES):
            newer = self._publisher.page
            if newer is page:
                break
            page, rendered = newer, self._render(newer, format_, names, gzipped=gzipped)
        return rendered

    def _render(
        self, page: RenderedPage | None, format_: Format, names: frozenset[str], *, gzipped: bool
    ) -> tuple[PagePrefix, bytes]:
        if page is not None and not names:
            prefix = page.render(format_, gzipped=gzipped)
        else:
            series = b"" if page is None else page.families(format_, names)
            prefix = PagePrefix.of([series], gzipped=gzipped)
        # The exporter's own families come last: in OpenMetrics, their encoder writes the end mark.
        return prefix, _ENCODERS[format_](self._registry.restricted_registry(names) if names else self._registry)


def healthy(request: HttpRequest) -> HttpResponse:  # noqa: ARG001 - the signature of a handler
    """Respond with 200 while the process works."""
    return text_response("tempo-anomaly-exporter is healthy")


def ready(snapshot: Snapshot | None) -> HttpResponse:
    """Respond with 200 once there is a snapshot to scrape, and 503 before."""
    if snapshot is None:
        return text_response(
            "not ready: the current traffic has not been read for the first time yet", HTTPStatus.SERVICE_UNAVAILABLE
        )
    return text_response("tempo-anomaly-exporter is ready")
