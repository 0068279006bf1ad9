"""The small plot of one endpoint, as an image of its own: so a table of fifty needs no database to be shown."""

from http import HTTPStatus

from exporter.evaluation.query import Profile
from exporter.model.histogram_codec import DamagedDigestError
from exporter.runtime.logs import LimitedLog
from exporter.store import StoreError
from exporter.web.http import Request, Response, text
from exporter.web.pages import links, plot
from exporter.web.pages.hourly_cache import Remembered
from exporter.web.pages.sources import Sources


class Thumbnail:
    """``/plot?service_name=…&span_name=…``."""

    def __init__(self, sources: Sources, profiles: Remembered[Profile], log: LimitedLog) -> None:
        self._sources = sources
        self._profiles = profiles
        self._log = log

    def __call__(self, request: Request) -> Response:
        """The image; 404 for an endpoint that is not on the page of metrics."""
        status = links.found(self._sources.snapshot(), links.asked(request))
        if status is None:
            return text("There is no such endpoint", HTTPStatus.NOT_FOUND)
        now = self._sources.clock()
        try:
            profile = self._profiles.of(status.key, now)
        except (StoreError, DamagedDigestError) as error:
            self._log.warning("usual", "a page cannot show what is usual", series=status.key, error=error)
            return text("The stored history cannot be read", HTTPStatus.SERVICE_UNAVAILABLE)
        image = str(plot.small(profile, plot.Present.of(status, self._sources.slot(now))))
        # It holds what is now, which is read anew after the interval; until then, sorting a table costs no request.
        caching = f"private, max-age={int(self._sources.interval_seconds)}"
        return Response(image.encode(), "image/svg+xml", headers=(("Cache-Control", caching),))
