"""All pages by their path."""

from collections.abc import Callable
from typing import Final

from exporter.logs import Log
from exporter.web.http import Page
from exporter.web.pages.endpoint import EndpointPage
from exporter.web.pages.layout import assets
from exporter.web.pages.recall import RememberedProfiles
from exporter.web.pages.sources import Sources
from exporter.web.pages.start import StartPage
from exporter.web.pages.thumbnail import Thumbnail

_SAY_AGAIN_SECONDS: Final = 600


def pages(sources: Sources, log: Log, monotonic: Callable[[], float]) -> dict[str, Page]:
    """The pages that show what some sources know; what they cannot show is logged once in a while."""
    quiet_log = log.limited(_SAY_AGAIN_SECONDS, monotonic)

    def complete() -> bool:
        status = sources.backfill()
        return status is None or status.progress.complete

    profiles = RememberedProfiles(sources.history.profile, sources.hours, complete)
    return {
        "/": StartPage(sources),
        "/endpoint": EndpointPage(sources, profiles, quiet_log),
        "/plot": Thumbnail(sources, profiles, quiet_log),
        **assets(),
    }
