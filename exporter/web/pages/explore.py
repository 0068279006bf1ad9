"""Links that open a trace, or a search for traces, where the configuration says."""

import json
from dataclasses import dataclass
from urllib.parse import quote

from exporter.model.span import SeriesKey
from exporter.tempo.query import series_conditions

_TRACE_ID = "{trace_id}"
_QUERY = "{query}"


@dataclass(frozen=True, slots=True)
class Explore:
    """Makes links from ``grafana.explore_url``.

    Attributes:
        template: the address, with a place for a trace id or for a query; empty for no links.
    """

    template: str = ""

    def trace(self, trace_id: str) -> str | None:
        """The address of a trace, which is also what a query may be; none without a template."""
        return self.template.replace(_TRACE_ID, trace_id).replace(_QUERY, trace_id) or None

    def slow(self, key: SeriesKey, slower_than_seconds: float) -> str | None:
        """The address of a search for the slow traces of a series; none where the template has no place for it."""
        if _QUERY not in self.template:
            return None
        conditions = " && ".join((*series_conditions(key), f"duration>{slower_than_seconds * 1e6:.0f}us"))
        # A query stands in a string of the JSON that Explore keeps its panes in.
        within_json = json.dumps(f"{{ {conditions} }}")[1:-1]
        return self.template.replace(_QUERY, quote(within_json, safe=""))
