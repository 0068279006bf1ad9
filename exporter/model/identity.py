"""Which attributes of a span decide its series: what an endpoint is called, and the labels that tell series apart.

The names of attributes change between versions of the semantic conventions, so there may be several for one thing, of
which the first that a span has counts.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, NamedTuple

from exporter.model.span import SeriesKey

MAX_LABELS: Final = 8
"""Each label multiplies the number of series; more than a few are a mistake."""

RESERVED_LABELS: Final = frozenset(
    {
        # Of a series, and of the exporter itself.
        *(
            "service_name",
            "span_name",
            "kind",
            "level",
            "loop",
            "reason",
            "source",
            "state",
            "version",
            "python_version",
        ),
        *(
            "le",
            "quantile",
            "outcome",
            "cause",
            "cause_service_name",
            "cause_span_name",
            "incident",
            "role",
            "source",
            "trace_id",
        ),
        # Set by Prometheus, its operator, and the rules of this project.
        *("job", "instance", "namespace", "service", "endpoint", "pod", "container", "node"),
        *("alertname", "alertstate", "severity"),
        # Parameters of the API and of the pages.
        *("duration", "at", "match", "limit", "cursor", "labels", "q", "sort", "order", "page"),
    }
)
"""Names that ``series.labels`` must not make, because something else has them."""

_UNQUOTED: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\["\\])+)"')


class Attribute(NamedTuple):
    """An attribute of a span or its resource; without a scope, the name of the span itself.

    Attributes:
        scope: where it is.
        name: its name without the scope.
    """

    scope: Literal["", "resource", "span"]
    name: str

    def __str__(self) -> str:
        """Format it as TraceQL does."""
        if not self.scope:
            return self.name
        if _UNQUOTED.fullmatch(self.name):
            return f"{self.scope}.{self.name}"
        escaped = self.name.replace("\\", "\\\\").replace('"', '\\"')
        return f'{self.scope}."{escaped}"'

    @property
    def label_name(self) -> str:
        """Its name as Prometheus accepts it: letters, digits and underscores, with a letter or an underscore first."""
        name = re.sub("[^a-zA-Z0-9_]", "_", self.name)
        return f"_{name}" if name[:1].isdigit() else name


OWN_NAME: Final = Attribute("", "name")

METHODS: Final = (Attribute("span", "http.request.method"), Attribute("span", "http.method"))
"""The HTTP method, by the present and the former convention."""

_OTHER_METHOD: Final = "_OTHER"
"""Stands for an unknown method in ``http.request.method``; names of spans have ``HTTP`` then."""


def parse_attribute(text: str) -> Attribute:
    """Parse an attribute with its scope, such as ``resource.service.namespace`` or ``span."two words"``.

    Raises:
        ValueError: it is none; the message is worded to follow its name.
    """
    scope, separator, name = text.partition(".")
    if scope not in ("resource", "span") or not separator or not name:
        raise ValueError("must be an attribute with its scope, such as resource.service.namespace or span.http.route")
    if quoted := _QUOTED.fullmatch(name):
        name = re.sub(r"\\(.)", r"\1", quoted[1])
    if not name.isprintable():
        raise ValueError("must not contain line breaks or other control characters")
    if (scope, name) in (("resource", "service.name"), ("span", "service.name")):
        raise ValueError("is service.name, by which series differ in any case")
    return Attribute("resource" if scope == "resource" else "span", name)


@dataclass(frozen=True)
class SeriesIdentity:
    """The rules by which a span gets its series.

    Attributes:
        labels: for each label, the attributes that may have its value, of which the first one present counts.
        span_name: attributes, or :data:`OWN_NAME`, that may name the endpoint; the first one present counts.
    """

    labels: Sequence[Sequence[Attribute]] = ()
    span_name: Sequence[Attribute] = (OWN_NAME,)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the labels."""
        return tuple(alternatives[0].label_name for alternatives in self.labels)

    @cached_property
    def attributes(self) -> tuple[Attribute, ...]:
        """The attributes that decide, without ``service.name`` and the name of the span."""
        of_names = [attribute for attribute in self.span_name if attribute != OWN_NAME]
        of_labels = [attribute for alternatives in self.labels for attribute in alternatives]
        return tuple(dict.fromkeys([*of_labels, *of_names, *(METHODS if of_names else ())]))

    def labels_of(self, values: Mapping[Attribute, str]) -> tuple[tuple[str, str], ...]:
        """Return the labels of a span from the values of its attributes; absent ones are missing or empty."""
        found = ((alternatives[0].label_name, _first(alternatives, values)) for alternatives in self.labels)
        return tuple(sorted((name, value) for name, value in found if value))

    def span_name_of(self, name: str, values: Mapping[Attribute, str]) -> str:
        """Return what the endpoint of a span is called.

        The HTTP method comes before the value of an attribute that does not begin with it.

        Args:
            name: the name of the span.
            values: the values of its attributes.
        """
        for attribute in self.span_name:
            if attribute == OWN_NAME:
                if name:
                    return name
            elif value := values.get(attribute):
                return _with_method(value, values)
        return ""

    def key(self, service_name: str, name: str, values: Mapping[Attribute, str]) -> SeriesKey:
        """Return the series of a span."""
        return SeriesKey(service_name, self.span_name_of(name, values), self.labels_of(values))

    def __str__(self) -> str:
        """Describe it in the notation of the configuration."""
        labels = ", ".join(f"[{', '.join(map(str, each))}]" if len(each) > 1 else str(each[0]) for each in self.labels)
        return f"series.labels=[{labels}] series.span_name=[{', '.join(map(str, self.span_name))}]"


BY_NAME: Final = SeriesIdentity()
"""The default: a series is a service and the name of a span."""


def methods_of(span_name: str) -> tuple[tuple[str, ...], str]:
    """Return the methods that may have been put before a name, as spans have them, and the rest of the name.

    Without a method, the rest is empty.
    """
    method, _, rest = span_name.partition(" ")
    return ((method, _OTHER_METHOD) if method == "HTTP" else (method,)), rest


def _first(alternatives: Sequence[Attribute], values: Mapping[Attribute, str]) -> str:
    return next((value for attribute in alternatives if (value := values.get(attribute))), "")


def _with_method(value: str, values: Mapping[Attribute, str]) -> str:
    method = _first(METHODS, values)
    if method == _OTHER_METHOD:
        method = "HTTP"
    if not method or value.partition(" ")[0].casefold() == method.casefold():
        return value
    return f"{method} {value}"
