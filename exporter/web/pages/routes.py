"""The handlers of all pages, by path."""

from collections.abc import Callable
from typing import Final

from exporter.runtime.logs import Log
from exporter.web.http import Handler
from exporter.web.pages.endpoint import EndpointPage
from exporter.web.pages.layout import asset_handlers
from exporter.web.pages.plot import PlotImage
from exporter.web.pages.sources import HourlyCache, Sources
from exporter.web.pages.status import StatusPage

_LOG_INTERVAL_SECONDS: Final = 600
_CACHED_PROFILES: Final = 100
"""As many as two pages of the status page's table show. A profile takes 26 kB of memory and 12 ms to compute."""
_CACHED_REPORTS: Final = 20
"""Only endpoint pages need reports."""


def page_handlers(sources: Sources, log: Log, monotonic: Callable[[], float]) -> dict[str, Handler]:
    """Build the pages.

    Args:
        sources: the data that the pages show.
        log: receives errors that leave a page incomplete, rate-limited.
        monotonic: the clock of the rate limit.
    """
    limited_log = log.limited(_LOG_INTERVAL_SECONDS, monotonic)

    def is_complete() -> bool:
        status = sources.backfill()
        return status is None or status.progress.complete

    profiles = HourlyCache(sources.history.profile, sources.hours, is_complete, _CACHED_PROFILES)
    reports = HourlyCache(
        lambda key, now: sources.history.report(key, now, now), sources.hours, is_complete, _CACHED_REPORTS
    )
    return {
        "/": StatusPage(sources),
        "/endpoint": EndpointPage(sources, profiles, reports, limited_log),
        "/plot": PlotImage(sources, profiles, limited_log),
        **asset_handlers(),
    }
