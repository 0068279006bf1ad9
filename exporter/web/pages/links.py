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
from exporter.model.identity import BY_NAME, SeriesIdentity
from exporter.model.label import DEFAULT_LABEL_NAMES, LabelNames
from exporter.model.span import SeriesKey, encodable
from exporter.tempo.query import series_conditions
from exporter.web.http import HttpRequest

START: Final = "./"
ENDPOINT: Final = "endpoint"
PLOT: Final = "plot"
CAUSE: Final = "cause"
TIMELINE_API: Final = "api/v1/timeline"
WHY_API: Final = "api/v1/why"
TRACE: Final = "trace"
TRACE_API: Final = "api/v1/trace"
INCIDENTS: Final = "incidents"
INCIDENT: Final = "incident"
INCIDENTS_API: Final = "api/v1/incidents"
INCIDENT_API: Final = "api/v1/incident"

_TRACE_ID: Final = "{trace_id}"
_QUERY: Final = "{query}"


def page_url(page: str, parameters: Mapping[str, str]) -> str:
    """Return the URL of a page with parameters."""
    query = urlencode({name: encodable(value) for name, value in parameters.items()})
    return f"{page}?{query}" if query else page


def series_url(page: str, key: SeriesKey, label_names: LabelNames = DEFAULT_LABEL_NAMES) -> str:
    """Return the URL of a page about a series."""
    return page_url(page, label_names.of(key).parameters)


def past_url(page: str, key: SeriesKey, label_names: LabelNames, range_name: str) -> str:
    """Return the URL of a page about a range of a series' past."""
    return page_url(page, {**label_names.of(key).parameters, "range": range_name})


def trace_url(key: SeriesKey, trace_id: str, label_names: LabelNames) -> str:
    """Return the URL of the page that shows the span of a series in a trace."""
    return page_url(TRACE, {"trace_id": trace_id, **label_names.of(key).parameters})


def requested_series(request: HttpRequest, snapshot: Snapshot | None) -> SeriesKey:
    """Return the series that a request names; missing names are empty.

    Parameters are labels if any series of the snapshot has a label of that name, also one that is not configured now.
    """

    def value(name: str) -> str:
        return request.query.get(name, [""])[-1]

    names = request.query.keys() - {"service_name", "span_name"}
    if names and snapshot is not None:
        names &= {name for status in snapshot.series for name, _ in status.key.labels}
    labels = ((name, value(name)) for name in sorted(names))
    return SeriesKey(value("service_name"), value("span_name"), tuple((name, each) for name, each in labels if each))


def find_series(snapshot: Snapshot | None, key: SeriesKey, label_names: LabelNames) -> SeriesStatus | None:
    """Return the series of a snapshot that has these names and labels, as a whole or as labels have them.

    Labels may be missing where that leaves one series.
    """
    series = () if snapshot is None else snapshot.series
    position = bisect_left(series, key, key=lambda status: status.key)
    if position < len(series) and series[position].key == key:
        return series[position]
    # Labels have names that are too long, or that UTF-8 cannot encode, in another form, and are not sorted by it.
    named = [status for status in series if label_names.is_named(status.key, key)]
    exact = [status for status in named if label_names.of(status.key) == key]
    return next(iter(exact or named), None) if exact or len(named) == 1 else None


@dataclass(frozen=True, slots=True)
class Explore:
    """Builds links to traces from ``grafana.explore_url``.

    Attributes:
        template: URL with the placeholder ``{trace_id}`` or ``{query}``; empty for no links.
        identity: the rules by which a span gets its series.
    """

    template: str = ""
    identity: SeriesIdentity = BY_NAME

    def trace(self, trace_id: str) -> str | None:
        """Return the URL of a trace, whose ID is also a valid query; None without a template."""
        return self.template.replace(_TRACE_ID, trace_id).replace(_QUERY, trace_id) or None

    def slow_traces(self, key: SeriesKey, slower_than_seconds: float) -> str | None:
        """Return the URL of a search for slow traces of a series; None if the template has no ``{query}``."""
        if _QUERY not in self.template:
            return None
        conditions = " && ".join(
            (*series_conditions(key, self.identity), f"duration>{slower_than_seconds * 1e6:.0f}us")
        )
        # Explore keeps its panes as JSON in the URL; the query is part of a JSON string.
        within_json = json.dumps(f"{{ {conditions} }}")[1:-1]
        return self.template.replace(_QUERY, quote(within_json, safe=""))
