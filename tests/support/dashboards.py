"""The dashboards as Grafana reads them: their panels and queries, and variables put in as Grafana puts them in."""

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
"""What variables stand for: one value, or several where a variable allows it."""

_VARIABLE: Final = re.compile(r"\$(\w+)|\$\{(\w+(?:\.[^:}]+)?)(?::(\w+))?\}")
ANYTHING: Final = "(?s:.*)"
"""What "All" stands for where names may hold anything: to older Prometheus, a line feed is not matched by a dot."""


@dataclass(frozen=True)
class Query:
    """A query of a dashboard.

    Attributes:
        place: where it stands, for messages.
        panel: the panel it belongs to; None for one of a variable or an annotation.
        text: PromQL or TraceQL.
        source: the kind of data source.
        target: all that is set about it.
    """

    place: str
    panel: Mapping[str, Any] | None
    text: str
    source: str
    target: Mapping[str, Any]


@dataclass(frozen=True)
class Link:
    """A link: where it stands, its address with variables in it, and the kind of its panel (None: of the board)."""

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
        """Its identity, as links name it."""
        return str(self.model["uid"])

    @property
    def panels(self) -> list[dict[str, Any]]:
        """All panels, rows included."""
        return [panel for outer in self.model["panels"] for panel in (outer, *outer.get("panels", ()))]

    @property
    def charts(self) -> list[dict[str, Any]]:
        """The panels that show something."""
        return [panel for panel in self.panels if panel["type"] != "row"]

    @property
    def variables(self) -> dict[str, dict[str, Any]]:
        """The variables by name."""
        return {variable["name"]: variable for variable in self.model["templating"]["list"]}

    @property
    def annotations(self) -> list[dict[str, Any]]:
        """The annotations that are queried for."""
        return [each for each in self.model["annotations"]["list"] if not each.get("builtIn")]

    def queries(self) -> Iterator[Query]:
        """All queries: of panels, annotations and variables. A variable's is what Prometheus is asked for it."""
        for panel in self.charts:
            for target in panel["targets"]:
                place = f"{self.uid}, {panel['title']} {target['refId']}"
                yield Query(place, panel, target.get("expr") or target["query"], target["datasource"]["type"], target)
        for each in self.annotations:
            yield Query(f"{self.uid}, annotation {each['name']}", None, each["expr"], "prometheus", each)
        for name, variable in self.variables.items():
            if variable["type"] == "query":
                text = variable["query"]["query"]
                asked = re.fullmatch(r"label_values\((.+), (\w+)\)|query_result\((.+)\)", text, re.DOTALL)
                assert asked, text
                place = f"{self.uid}, variable {name}"
                yield Query(place, None, asked[1] or asked[3], "prometheus", {**variable, "label_of": asked[2]})

    def links(self) -> Iterator[Link]:
        """All links: of the board, of panels, and of the data in them."""
        for link in self.model["links"]:
            yield Link(f"{self.uid}, link {link['title']}", link["url"], None)
        for panel in self.charts:
            config = panel["fieldConfig"]
            found = [*panel.get("links", ()), *config["defaults"].get("links", ())]
            for override in config["overrides"]:
                found += [link for each in override["properties"] if each["id"] == "links" for link in each["value"]]
            for link in found:
                yield Link(f"{self.uid}, {panel['title']}, link {link['title']}", link["url"], panel["type"])


BOARDS: Final = [Board(path) for path in FILES]
BY_UID: Final = {board.uid: board for board in BOARDS}


def used_variables(text: str) -> set[str]:
    """The names of all variables in a text, without the fields of what they hold."""
    return {(match[1] or match[2]).split(".")[0] for match in _VARIABLE.finditer(text)}


def interpolate(text: str, values: Values, default: str = "promql") -> str:
    """A text with its variables replaced as Grafana does it.

    Args:
        text: the text.
        values: a value for each variable; a name that is not among them fails.
        default: the format of variables that name none: ``promql`` in queries, ``raw`` in links.
    """

    def replaced(match: re.Match[str]) -> str:
        name, form = match[1] or match[2], match[3] or default
        value = values[name]
        several = [value] if isinstance(value, str) else list(value)
        return _FORMATS["raw" if name.startswith("__") and form == "promql" else form](name, several)

    return _VARIABLE.sub(replaced, text)


def _alternatives(values: Sequence[str], escaped: Callable[[str], str]) -> str:
    """Values as one regular expression; what "All" stands for is one already."""
    if len(values) == 1 and values[0] in (ANYTHING, ".*"):
        return values[0]
    return escaped(values[0]) if len(values) == 1 else f"({'|'.join(map(escaped, values))})"


def _within_quotes(value: str) -> str:
    """Grafana's own escaping for regular expressions in PromQL strings, which leaves quotes as they are."""
    return re.sub(r"[$^*{}\[\]+?.()|]", r"\\\\\g<0>", value.replace("\\", "\\" * 4))


_FORMATS: Final[Mapping[str, Callable[[str, list[str]], str]]] = {
    "promql": lambda _, values: _alternatives(values, _within_quotes),
    "regex": lambda _, values: _alternatives(values, lambda value: re.sub(r"[\\^$*+?.()|\[\]{}/]", r"\\\g<0>", value)),
    "raw": lambda _, values: ",".join(values),
    "percentencode": lambda _, values: quote(",".join(values), safe=""),
    "queryparam": lambda name, values: "&".join(f"var-{name}={quote(value, safe='')}" for value in values),
}
