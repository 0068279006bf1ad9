"""A span as read from Tempo, and the series it belongs to."""

from typing import Final, Literal, NamedTuple

FilterReason = Literal["filtered", "series_limit"]
"""Why no series stores a span: the configuration excludes it, or the limit on the number of series is reached."""


class SeriesKey(NamedTuple):
    """Identity of a series; users call it an endpoint.

    Attributes:
        service_name: the service.
        span_name: what its endpoint is called.
        labels: name and value of each label of ``series.labels`` that the series has, sorted by name. Values are not
            empty: for Prometheus, an empty label is one that is absent.
    """

    service_name: str
    span_name: str
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """The names and labels as one text, such as ``checkout/GET /orders{env="prod"}``."""
        name = f"{self.service_name}/{self.span_name}"
        return f"{name}{{{','.join(map(_label, self.labels))}}}" if self.labels else name

    @property
    def matched_texts(self) -> tuple[str, ...]:
        """The texts that patterns are searched for in.

        The name without the labels is one of them, so that a pattern with ``$`` matches with any labels.
        """
        return (self._replace(labels=()).text, self.text) if self.labels else (self.text,)

    @property
    def parts(self) -> tuple[str, ...]:
        """Service, span name, and each label as ``name=value``."""
        return (self.service_name, self.span_name, *(f"{name}={value}" for name, value in self.labels))

    @property
    def fields(self) -> dict[str, object]:
        """The names and labels as fields of a log line or a JSON document; ``labels`` only where there are any."""
        names: dict[str, object] = {"service_name": self.service_name, "span_name": self.span_name}
        return {**names, "labels": dict(self.labels)} if self.labels else names

    @property
    def parameters(self) -> dict[str, str]:
        """The names and labels as parameters of a URL."""
        return {"service_name": self.service_name, "span_name": self.span_name, **dict(self.labels)}

    @property
    def is_folded(self) -> bool:
        """Whether this is the series that stands for all further span names of a service."""
        return self.span_name == FOLDED_NAME

    def folded(self) -> "SeriesKey":
        """Return the series that stands for all further span names of the service, with the same labels."""
        return self._replace(span_name=FOLDED_NAME)


def _label(label: tuple[str, str]) -> str:
    name, value = label
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{name}="{escaped}"'


FOLDED_NAME: Final = "{other}"
"""Span name of the series into which a service is folded that has too many span names. Tempo does not know it."""


def encodable(name: str) -> str:
    """Return a name that UTF-8 can encode; lone surrogates become escapes, so that distinct names stay distinct."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


class Span(NamedTuple):
    """One span in scope, as returned by Tempo's search.

    A named tuple, not a dataclass: a backfill creates millions of them, and a tuple is three times as fast to create.

    Attributes:
        trace_id: 32 lower-case hex digits (Tempo strips leading zeros; they are restored).
        span_id: 16 lower-case hex digits. Not always unique within the trace: Zipkin, Brave and Envoy give the client
            and the server span of one call the same id.
        key: the series.
        start_ns: start time in nanoseconds since the Unix epoch.
        duration_ns: duration of the span in nanoseconds; 0 is valid.
        failed: whether the request failed, by the :class:`.FailureRule` in use; None where that is unknown.
    """

    trace_id: str
    span_id: str
    key: SeriesKey
    start_ns: int
    duration_ns: int
    failed: bool | None = None

    @property
    def identity(self) -> tuple[str, str, SeriesKey, int]:
        """What two records of the same span have in common: trace, id, service, name and start.

        The kind would tell apart no more spans: those that share an id belong to two processes, which have different
        services, names or starts. Reading it would make every response of Tempo a sixth larger.
        """
        return self[:4]

    @property
    def end_ns(self) -> int:
        """End time in nanoseconds since the Unix epoch."""
        return self.start_ns + self.duration_ns
