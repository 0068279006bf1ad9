"""The dashboards: their panels, queries and links, with variables interpolated as Grafana does."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from tests.support.paths import REPOSITORY

GRAFANA: Final = REPOSITORY / "grafana"
FILES: Final = sorted((GRAFANA / "dashboards").glob("*.json"))

Values = Mapping[str, str | Sequence[str]]
"""Values of variables: one, or several where a variable allows it."""

_VARIABLE: Final = re.compile(r"\$(\w+)|\$\{(\w+(?:\.[^:}]+)?)(?::(\w+))?\}")
ANYTHING: Final = "(?s:.*)"
"""The value of "All": in older versions of Prometheus, a dot does not match a line feed."""


@dataclass(frozen=True)
class Query:
    """A query of a dashboard.

    Attributes:
        place: its place in the dashboard, for messages.
        panel: its panel; None for a variable or an annotation.
        text: PromQL or TraceQL.
        source: type of the data source.
        target: its JSON.
    """

    place: str
    panel: Mapping[str, Any] | None
    text: str
    source: str
    target: Mapping[str, Any]


@dataclass(frozen=True)
class Link:
    """A link: its place, its URL with variables, and the type of its panel (None: of the dashboard)."""

    place: str
    url: str
    panel: str | None


@dataclass(frozen=True)
class Board:
    """A dashboard."""

    path: Path

    @cached_property
    def model(self) -> dict[str, Any]:
        """Its JSON."""
        model: dict[str, Any] = json.loads(self.path.read_text("utf-8"))
        return model

    @property
    def uid(self) -> str:
        """Its UID, as used in links."""
        return str(self.model["uid"])

    @property
    def panels(self) -> list[dict[str, Any]]:
        """All panels, including rows."""
        return [panel for outer in self.model["panels"] for panel in (outer, *outer.get("panels", ()))]

    @property
    def charts(self) -> list[dict[str, Any]]:
        """The panels without rows."""
        return [panel for panel in self.panels if panel["type"] != "row"]

    @property
    def variables(self) -> dict[str, dict[str, Any]]:
        """The variables by name."""
        return {variable["name"]: variable for variable in self.model["templating"]["list"]}

    @property
    def annotations(self) -> list[dict[str, Any]]:
        """The annotations with a query."""
        return [each for each in self.model["annotations"]["list"] if not each.get("builtIn")]

    def queries(self) -> Iterator[Query]:
        """Generate the queries of panels, annotations and variables."""
        for panel in self.charts:
            for target in panel["targets"]:
                place = f"{self.uid}, {panel['title']} {target['refId']}"
                yield Query(place, panel, target.get("expr") or target["query"], target["datasource"]["type"], target)
        for each in self.annotations:
            yield Query(f"{self.uid}, annotation {each['name']}", None, each["expr"], "prometheus", each)
        for name, variable in self.variables.items():
            if variable["type"] == "query":
                text = variable["query"]["query"]
                match = re.fullmatch(r"label_values\((.+), (\w+)\)|query_result\((.+)\)", text, re.DOTALL)
                assert match, text
                place = f"{self.uid}, variable {name}"
                yield Query(place, None, match[1] or match[3], "prometheus", {**variable, "label_of": match[2]})

    def links(self) -> Iterator[Link]:
        """Generate the links of the dashboard, of panels and of fields."""
        for link in self.model["links"]:
            yield Link(f"{self.uid}, link {link['title']}", link["url"], None)
        for panel in self.charts:
            config = panel["fieldConfig"]
            links = [*panel.get("links", ()), *config["defaults"].get("links", ())]
            for override in config["overrides"]:
                links += [link for each in override["properties"] if each["id"] == "links" for link in each["value"]]
            for link in links:
                yield Link(f"{self.uid}, {panel['title']}, link {link['title']}", link["url"], panel["type"])


BOARDS: Final = [Board(path) for path in FILES]
BY_UID: Final = {board.uid: board for board in BOARDS}


def used_variables(text: str) -> set[str]:
    """Return the names of the variables in a text, without field names."""
    return {(match[1] or match[2]).split(".")[0] for match in _VARIABLE.finditer(text)}


def interpolate(text: str, values: Values, default: str = "promql") -> str:
    """Replace the variables of a text as Grafana does.

    Args:
        text: the text.
        values: values by variable; KeyError for a variable without a value.
        default: format of variables without one: ``promql`` in queries, ``raw`` in links.
    """

    def replacement(match: re.Match[str]) -> str:
        name, form = match[1] or match[2], match[3] or default
        value = values[name]
        several = [value] if isinstance(value, str) else list(value)
        return _FORMATS["raw" if name.startswith("__") and form == "promql" else form](name, several)

    return _VARIABLE.sub(replacement, text)


def _alternatives(values: Sequence[str], escape: Callable[[str], str]) -> str:
    """Join values to one regular expression; the value of "All" is one already."""
    if len(values) == 1 and values[0] in (ANYTHING, ".*"):
        return values[0]
    return escape(values[0]) if len(values) == 1 else f"({'|'.join(map(escape, values))})"


def _escape_in_string(value: str) -> str:
    """Escape a value as Grafana does for regular expressions in PromQL strings; quotes stay unescaped."""
    return re.sub(r"[$^*{}\[\]+?.()|]", r"\\\\\g<0>", value.replace("\\", "\\" * 4))


_FORMATS: Final[Mapping[str, Callable[[str, list[str]], str]]] = {
    "promql": lambda _, values: _alternatives(values, _escape_in_string),
    "regex": lambda _, values: _alternatives(values, lambda value: re.sub(r"[\\^$*+?.()|\[\]{}/]", r"\\\g<0>", value)),
    "raw": lambda _, values: ",".join(values),
    "percentencode": lambda _, values: quote(",".join(values), safe=""),
    "queryparam": lambda name, values: "&".join(f"var-{name}={quote(value, safe='')}" for value in values),
}
