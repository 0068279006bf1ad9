"""Addresses of the pages, and which series an address means.

They are relative, so that they work behind a proxy that puts a prefix before them. A name stands in an address as it
stands in a label on ``/metrics``, so that an address can be made of labels.
"""

from bisect import bisect_left
from collections.abc import Mapping
from urllib.parse import urlencode

from exporter.evaluation.snapshot import SeriesStatus, Snapshot
from exporter.model.span import SeriesKey, encodable
from exporter.web.http import HttpRequest

START = "./"
ENDPOINT = "endpoint"
PLOT = "plot"
TRACE = "api/v1/trace"


def address(page: str, parameters: Mapping[str, str]) -> str:
    """A page with parameters."""
    query = urlencode({name: encodable(value) for name, value in parameters.items()})
    return f"{page}?{query}" if query else page


def of_series(page: str, key: SeriesKey) -> str:
    """A page about a series."""
    return address(page, key._asdict())


def of_trace(key: SeriesKey, trace_id: str) -> str:
    """Where the time of a series' span in a trace went."""
    return address(TRACE, {"trace_id": trace_id, **key._asdict()})


def asked(request: HttpRequest) -> SeriesKey:
    """The series that a request names; names that are missing are empty."""
    return SeriesKey(*(request.query.get(name, [""])[-1] for name in SeriesKey._fields))


def found(snapshot: Snapshot | None, key: SeriesKey) -> SeriesStatus | None:
    """The series of a snapshot that is published under a name."""
    series = () if snapshot is None else snapshot.series
    position = bisect_left(series, key, key=lambda status: status.key)
    if position < len(series) and series[position].key == key:
        return series[position]
    # What cannot be encoded is published under another name than its own, which says where it is sorted.
    return next((status for status in series if tuple(map(encodable, status.key)) == key), None)
