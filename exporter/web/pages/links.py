"""URLs of the pages, of the API and of Grafana, and the series that the URL of a request names.

URLs of pages are relative, so that they work behind a proxy that adds a path prefix. They name a series as the labels
on ``/metrics`` do, so that a dashboard can build them from labels.
"""

import json
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode

from exporter.evaluation.snapshot import SeriesStatus, Snapshot
from exporter.model.label import DEFAULT_LABEL_NAMES, LabelNames
from exporter.model.span import SeriesKey, encodable
from exporter.tempo.query import series_conditions
from exporter.web.http import HttpRequest

START: Final = "./"
ENDPOINT: Final = "endpoint"
PLOT: Final = "plot"
TRACE: Final = "api/v1/trace"

_TRACE_ID: Final = "{trace_id}"
_QUERY: Final = "{query}"


def page_url(page: str, parameters: Mapping[str, str]) -> str:
    """Return the URL of a page with parameters."""
    query = urlencode({name: encodable(value) for name, value in parameters.items()})
    return f"{page}?{query}" if query else page


def series_url(page: str, key: SeriesKey, label_names: LabelNames = DEFAULT_LABEL_NAMES) -> str:
    """Return the URL of a page about a series."""
    return page_url(page, label_names.of(key)._asdict())


def critical_path_url(key: SeriesKey, trace_id: str, label_names: LabelNames) -> str:
    """Return the API URL that explains the span of a series in a trace."""
    return page_url(TRACE, {"trace_id": trace_id, **label_names.of(key)._asdict()})


def requested_series(request: HttpRequest) -> SeriesKey:
    """Return the series that a request names; missing names are empty."""
    return SeriesKey(*(request.query.get(name, [""])[-1] for name in SeriesKey._fields))


def find_series(snapshot: Snapshot | None, key: SeriesKey, label_names: LabelNames) -> SeriesStatus | None:
    """Return the series of a snapshot that has these names, as a whole or as labels have them."""
    series = () if snapshot is None else snapshot.series
    position = bisect_left(series, key, key=lambda status: status.key)
    if position < len(series) and series[position].key == key:
        return series[position]
    # Labels have names that are too long, or that UTF-8 cannot encode, in another form, and are not sorted by it.
    return next((status for status in series if label_names.of(status.key) == key), None)


@dataclass(frozen=True, slots=True)
class Explore:
    """Builds links to traces from ``grafana.explore_url``.

    Attributes:
        template: URL with the placeholder ``{trace_id}`` or ``{query}``; empty for no links.
    """

    template: str = ""

    def trace(self, trace_id: str) -> str | None:
        """Return the URL of a trace, whose ID is also a valid query; None without a template."""
        return self.template.replace(_TRACE_ID, trace_id).replace(_QUERY, trace_id) or None

    def slow_traces(self, key: SeriesKey, slower_than_seconds: float) -> str | None:
        """Return the URL of a search for slow traces of a series; None if the template has no ``{query}``."""
        if _QUERY not in self.template:
            return None
        conditions = " && ".join((*series_conditions(key), f"duration>{slower_than_seconds * 1e6:.0f}us"))
        # Explore keeps its panes as JSON in the URL; the query is part of a JSON string.
        within_json = json.dumps(f"{{ {conditions} }}")[1:-1]
        return self.template.replace(_QUERY, quote(within_json, safe=""))
