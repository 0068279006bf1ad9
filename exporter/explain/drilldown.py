"""Links into Grafana's Traces Drilldown, to the comparison of the traces of a flag with those before.

The parameters are those that the app itself keeps in its address and writes into links, as of version 2.1.0:
https://github.com/grafana/traces-drilldown, `src/utils/links.ts` (`var-ds`, `var-primarySignal`, `var-filters`,
`from`, `to`), `src/utils/shared.ts` (`var-metric`, and the form of a selection), and
`src/components/Explore/TracesByService/TracesByServiceScene.tsx` (`actionView`, `selection`). The comparison is the
TraceQL function `compare`. How filters are escaped in an address: `packages/scenes/src/variables/utils.ts` of
https://github.com/grafana/scenes.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlencode

from exporter.detection.flag import FlagKind
from exporter.evaluation.causes.shift_cause import ShiftCause
from exporter.evaluation.snapshot import SeriesStatus
from exporter.model.identity import BY_NAME, OWN_NAME, SeriesIdentity
from exporter.model.span import FOLDED_NAME, SeriesKey
from exporter.tempo.query import quoted, series_conditions

PAGE: Final = "/a/grafana-exploretraces-app/explore"

_BEFORE_SECONDS: Final = 3600
"""How much of the time before is compared with."""
_LONGEST_SECONDS: Final = 1800
"""At most this much is selected. Tempo 2.10 refuses a range above 3 h, after rounding both ends to the step of the
query, which the app makes as long as the range: so the range must not exceed half of that."""

_NUMBER: Final = re.compile(
    r"\s*([+-]?(\d+\.?\d*(e[+-]?\d+)?|\.\d+(e[+-]?\d+)?|Infinity)|0x[\da-f]+|0o[0-7]+|0b[01]+)\s*", re.IGNORECASE
)
"""What JavaScript takes for a number. The app writes such a value into TraceQL without quotes."""

_PLACEHOLDER: Final = re.compile(r"\{[a-z]+\}")
"""A placeholder of ``series.placeholders``; the template of a route may have the same form, and matches too."""
_SPECIAL: Final = re.compile(r"([.+*?()|\[\]{}$])|[\x00-\x1f\x7f\\^\ud800-\udfff]")
"""What means something in a regular expression, as a group if a class of one can stand for it without backslashes."""

_Metric = Literal["duration", "errors", "rate"]


@dataclass(frozen=True, slots=True)
class Drilldown:
    """Builds the links.

    Attributes:
        grafana_url: address of Grafana; empty for no links.
        datasource_uid: UID of the Tempo data source; empty for Grafana's default one.
        identity: the rules by which a span gets its series.
        only_roots: whether only root spans are read.
        condition: TraceQL conditions that spans must meet to be read; empty for none.
        failed: the TraceQL condition for a failed request.
        window_seconds: length of the evaluation window.
    """

    grafana_url: str = ""
    datasource_uid: str = ""
    identity: SeriesIdentity = BY_NAME
    only_roots: bool = False
    condition: str = ""
    failed: str = "status = error"
    window_seconds: float = 300.0

    def of_flags(self, status: SeriesStatus, evaluated_at: float | None) -> dict[str, str]:
        """Return a link for each flag of a series that fires, by the kind of the flag.

        Args:
            status: the status of the series.
            evaluated_at: when it was evaluated, Unix seconds; without it there are no links.
        """
        links = {}
        for kind in FlagKind:
            found = status.of_kind(kind)
            if evaluated_at is None or not found.firing:
                continue
            metric, selection = self._selection(kind, status)
            link = self._link(status.key, metric, selection, found.since, evaluated_at)
            if link is not None:
                links[kind.value] = link
        return links

    def of_cause(self, cause: ShiftCause) -> str | None:
        """Return the link for a shift whose cause was looked for; None if its traces could not be compared."""
        account = cause.verdict.account
        if account is None:
            return None
        slow = {"duration": _slower_than(account.usual_seconds)}
        return self._link(cause.shift.key, "duration", slow, cause.shift.since, cause.shift.at)

    def _selection(self, kind: FlagKind, status: SeriesStatus) -> tuple[_Metric, dict[str, Any]]:
        """Return the metric of the page and what is compared with all other spans, besides the time."""
        if kind is FlagKind.ERRORS:
            return "errors", {"query": self.failed}
        limit_seconds = None
        if status.explanation is not None:
            limit_seconds = status.explanation.limit_seconds
        elif status.baseline is not None:
            limit_seconds = status.baseline.p95_seconds
        if kind is FlagKind.SHIFT and limit_seconds is not None:
            return "duration", {"duration": _slower_than(limit_seconds)}
        return "rate", {}

    def _link(
        self, key: SeriesKey, metric: _Metric, selection: Mapping[str, Any], since: float | None, until: float
    ) -> str | None:
        if not self.grafana_url:
            return None
        end = math.ceil(until)
        began = until - self.window_seconds if since is None else min(since, until - self.window_seconds)
        start = max(math.floor(began), end - _LONGEST_SECONDS)
        signal, filters = self._spans(key)
        parameters = {
            **({"var-ds": self.datasource_uid} if self.datasource_uid else {}),
            "var-primarySignal": signal,
            "var-filters": filters,
            "var-metric": metric,
            "actionView": "comparison",
            "from": (start - _BEFORE_SECONDS) * 1000,
            "to": end * 1000,
            # "auto" would let the app replace it.
            "selection": json.dumps(
                {"type": "manual", "timeRange": {"from": start, "to": end}, **selection}, separators=(",", ":")
            ),
        }
        return f"{self.grafana_url}{PAGE}?{urlencode(parameters, doseq=True)}"

    def _spans(self, key: SeriesKey) -> tuple[str, list[str]]:
        """Return the primary signal and the filters that select the spans of a series.

        The primary signal is a TraceQL condition, so it takes what cannot be written as a filter.
        """
        labels = dict(key.labels)
        values = {
            f"{attribute}={quoted(value)}": (attribute, value)
            for attribute, value in (
                ("resource.service.name", key.service_name),
                *(
                    (str(alternatives[0]), labels.get(name, ""))
                    for name, alternatives in zip(self.identity.label_names, self.identity.labels, strict=True)
                ),
                (str(OWN_NAME), key.span_name),
            )
        }
        signal = ["nestedSetParent<0"] if self.only_roots else []
        signal += [f"({self.condition})"] if self.condition else []
        filters = []
        for condition in series_conditions(key, self.identity):
            attribute, value = values.get(condition, ("", ""))
            if attribute == str(OWN_NAME) and _PLACEHOLDER.search(value):
                # The spans have their own names, which differ where the series has the placeholder.
                filters += [] if value == FOLDED_NAME else [f"{attribute}|=~|{_escaped(_pattern(value))}"]
            elif _is_text(value):
                filters.append(f"{attribute}|=|{_escaped(value)}")
            else:
                signal.append(condition)
        return " && ".join(signal) or "true", filters


NO_LINKS: Final = Drilldown()


def _slower_than(seconds: float) -> dict[str, str]:
    return {"from": f"{seconds * 1e6:.0f}us", "to": ""}


def _is_text(value: str) -> bool:
    """Whether the app writes a value into TraceQL as a text, and has an escape for what separates parts of a filter."""
    is_plain = value.strip() != "" and value.isprintable() and "\\" not in value
    return is_plain and value not in ("true", "false") and not _NUMBER.fullmatch(value)


def _pattern(name: str) -> str:
    """Return a regular expression for names with anything in place of a placeholder; without backslashes."""
    parts = (
        _SPECIAL.sub(lambda match: f"[{match[1]}]" if match[1] else ".", part) for part in _PLACEHOLDER.split(name)
    )
    return f"^{'.+'.join(parts)}$"


def _escaped(value: str) -> str:
    return value.replace("|", "__gfp__").replace(",", "__gfc__").replace("#", "__gfh__")
