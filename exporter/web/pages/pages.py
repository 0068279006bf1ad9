"""All pages by their path."""

from collections.abc import Callable
from typing import Final

from exporter.runtime.logs import Log
from exporter.web.http import Page
from exporter.web.pages.endpoint import EndpointPage
from exporter.web.pages.hourly_cache import HourlyCache
from exporter.web.pages.layout import assets
from exporter.web.pages.sources import Sources
from exporter.web.pages.status import StatusPage
from exporter.web.pages.thumbnail import Thumbnail

_SAY_AGAIN_SECONDS: Final = 600
_MOST_PROFILES: Final = 100
"""Two pages of the status page's table; a profile takes 26 kB, and 12 ms to work out."""
_MOST_USUAL: Final = 20
"""Endpoints that somebody is looking at."""


def pages(sources: Sources, log: Log, monotonic: Callable[[], float]) -> dict[str, Page]:
    """The pages that show what some sources know; what they cannot show is logged once in a while."""
    quiet_log = log.limited(_SAY_AGAIN_SECONDS, monotonic)

    def complete() -> bool:
        status = sources.backfill()
        return status is None or status.progress.complete

    profiles = HourlyCache(sources.history.profile, sources.hours, complete, _MOST_PROFILES)
    usual = HourlyCache(lambda key, now: sources.history.report(key, now, now), sources.hours, complete, _MOST_USUAL)
    return {
        "/": StatusPage(sources),
        "/endpoint": EndpointPage(sources, profiles, usual, quiet_log),
        "/plot": Thumbnail(sources, profiles, quiet_log),
        **assets(),
    }
