"""HTTP client for Grafana Tempo. No other package sends requests to Tempo."""

from exporter.tempo.client import SearchResult, TempoClient
from exporter.tempo.errors import RangeTooLongError, StoppedError, TempoError
from exporter.tempo.query import quoted, search_query, series_conditions
from exporter.tempo.settings import ClientSettings, Scope

__all__ = [
    "ClientSettings",
    "RangeTooLongError",
    "Scope",
    "SearchResult",
    "StoppedError",
    "TempoClient",
    "TempoError",
    "quoted",
    "search_query",
    "series_conditions",
]
