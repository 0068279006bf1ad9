"""The small plot of one endpoint, as an image of its own: so a table of fifty needs no database to be shown."""

from http import HTTPStatus

from exporter.evaluation.query import Profile
from exporter.model.histogram_codec import DamagedDigestError
from exporter.runtime.logs import LimitedLog
from exporter.store import StoreError
from exporter.web.http import HttpRequest, HttpResponse, text
from exporter.web.pages import links, plot
from exporter.web.pages.hourly_cache import HourlyCache
from exporter.web.pages.sources import Sources


class Thumbnail:
    """``/plot?service_name=…&span_name=…``."""

    def __init__(self, sources: Sources, profiles: HourlyCache[Profile], log: LimitedLog) -> None:
        self._sources = sources
        self._profiles = profiles
        self._log = log

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """The image; 404 for an endpoint that is not on the page of metrics."""
        status = links.found(self._sources.snapshot(), links.asked(request))
        if status is None:
            return text("There is no such endpoint", HTTPStatus.NOT_FOUND)
        now = self._sources.clock()
        try:
            profile = self._profiles.of(status.key, now)
        except (StoreError, DamagedDigestError) as error:
            self._log.warning("page_incomplete", "a page cannot show baselines", series=status.key, error=error)
            return text("The stored history cannot be read", HTTPStatus.SERVICE_UNAVAILABLE)
        image = str(plot.small(profile, plot.Present.of(status, self._sources.slot(now))))
        # It holds what is now, which is read anew after the interval; until then, sorting a table costs no request.
        caching = f"private, max-age={int(self._sources.interval_seconds)}"
        return HttpResponse(image.encode(), "image/svg+xml", headers=(("Cache-Control", caching),))
