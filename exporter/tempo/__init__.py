"""The only part that talks to Tempo."""

from exporter.tempo.client import SearchAnswer, TempoClient
from exporter.tempo.errors import RangeTooLongError, StoppedError, TempoError
from exporter.tempo.query import quoted, search_query, series_conditions
from exporter.tempo.settings import ClientSettings, Scope

__all__ = [
    "ClientSettings",
    "RangeTooLongError",
    "Scope",
    "SearchAnswer",
    "StoppedError",
    "TempoClient",
    "TempoError",
    "quoted",
    "search_query",
    "series_conditions",
]
