"""The handlers of all pages, by path."""

from collections.abc import Callable
from typing import Final

from exporter.evaluation.query import BaselineReport
from exporter.model.span import SeriesKey
from exporter.runtime.logs import Log
from exporter.web.http import Handler
from exporter.web.pages.cause import CausePage
from exporter.web.pages.endpoint import EndpointPage
from exporter.web.pages.incidents import IncidentPage, IncidentsPage
from exporter.web.pages.layout import asset_handlers
from exporter.web.pages.plot import PlotImage
from exporter.web.pages.sources import HistoryCache, LastDay, Sources, hourly
from exporter.web.pages.status import StatusPage
from exporter.web.pages.trace import TracePage, TraceSources

_LOG_INTERVAL_SECONDS: Final = 600
_CACHED_PROFILES: Final = 100
"""As many as two pages of the status page's table show. A profile takes 26 kB of memory and 12 ms to compute."""
_CACHED_REPORTS: Final = 20
"""Only endpoint pages need reports, and baselines besides those of the latency."""


def page_handlers(
    sources: Sources, traces: TraceSources, log: Log, monotonic: Callable[[], float]
) -> dict[str, Handler]:
    """Build the pages.

    Args:
        sources: the data that the pages show.
        traces: what the page of a trace needs besides.
        log: receives errors that leave a page incomplete, rate-limited.
        monotonic: the clock of the rate limit.
    """
    limited_log = log.limited(_LOG_INTERVAL_SECONDS, monotonic)

    def is_complete() -> bool:
        status = sources.backfill()
        return status is None or status.progress.complete

    expires_at = hourly(sources.hours, is_complete)
    profiles = HistoryCache(sources.history.profile, expires_at, _CACHED_PROFILES, sources.history_version)
    usual = HistoryCache(sources.timelines.usual, expires_at, _CACHED_REPORTS, sources.history_version)

    def report(key: SeriesKey, now: int) -> BaselineReport:
        return sources.history.report(key, now, now)

    def flags(_: None, now: int) -> LastDay:
        return sources.timelines.last_day(now)

    reports = HistoryCache(report, expires_at, _CACHED_REPORTS, sources.history_version)
    last_day = HistoryCache(flags, lambda now: now + sources.interval_seconds, 1)
    return {
        "/": StatusPage(sources, last_day, limited_log),
        "/endpoint": EndpointPage(sources, usual, reports, limited_log),
        "/cause": CausePage(sources),
        "/incidents": IncidentsPage(sources),
        "/incident": IncidentPage(sources),
        "/plot": PlotImage(sources, profiles, limited_log),
        "/trace": TracePage(sources, traces, limited_log),
        **asset_handlers(),
    }
