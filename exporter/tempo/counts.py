"""Decodes responses of TraceQL metrics queries: span counts by series and time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from exporter.model.span import SeriesKey

_NIL: Final = "nil"
"""Label value for an attribute that the spans do not have."""


class _Value(msgspec.Struct, gc=False, rename="camel"):
    string_value: str = ""


class _Label(msgspec.Struct, gc=False):
    key: str = ""
    value: _Value = msgspec.field(default_factory=_Value)


class _Sample(msgspec.Struct, gc=False, rename="camel"):
    timestamp_ms: int = 0
    value: float = 0.0


class _Series(msgspec.Struct, gc=False):
    labels: list[_Label] = msgspec.field(default_factory=list)
    samples: list[_Sample] = msgspec.field(default_factory=list)


class _Body(msgspec.Struct, gc=False):
    series: list[_Series] | msgspec.UnsetType | None = msgspec.UNSET
    metrics: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    status: str | int = "COMPLETE"


# Not strict: Tempo sends 64-bit integers as strings.
_BODY: Final = msgspec.json.Decoder(_Body, strict=False)
_COMPLETE: Final = ("COMPLETE", 0, "0", "")


@dataclass(frozen=True, slots=True)
class SpanCounts:
    """Number of spans in a range, as counted by Tempo.

    Attributes:
        by_step_end: spans of all series that started in a step, by the end of that step in Unix seconds.
        by_series: spans of each series over the whole range; empty unless requested.
        complete: False if Tempo left out series beyond the limit that its operator set.
    """

    by_step_end: Mapping[int, int] = field(default_factory=dict)
    by_series: Mapping[SeriesKey, int] = field(default_factory=dict)
    complete: bool = True

    @property
    def known(self) -> bool:
        """Whether Tempo counted anything. A Tempo that keeps no data for counting returns no series, not zero."""
        return bool(self.by_step_end)

    def between(self, start: int, end: int) -> int:
        """Return the number of spans that started between two step boundaries."""
        return sum(count for step_end, count in self.by_step_end.items() if start < step_end <= end)


def decode_counts(body: bytes) -> SpanCounts:
    """Decode a response body.

    Raises:
        ValueError: it is not JSON, or not the response of a metrics query.
    """
    try:
        response = _BODY.decode(body)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    if response.series is msgspec.UNSET and response.metrics is msgspec.UNSET:
        raise ValueError("contains neither series nor metrics")
    by_step_end: dict[int, int] = {}
    by_series: dict[SeriesKey, int] = {}
    for series in response.series or ():
        total = 0
        for step_end, count in _step_counts(series.samples):
            by_step_end[step_end] = by_step_end.get(step_end, 0) + count
            total += count
        key = _series_key(series.labels)
        if key is not None and total:
            by_series[key] = by_series.get(key, 0) + total
    return SpanCounts(by_step_end, by_series, response.status in _COMPLETE)


def _step_counts(samples: Sequence[_Sample]) -> Iterator[tuple[int, int]]:
    """Yield the end of each step and its count; values that are no positive count are skipped."""
    for sample in samples:
        if 0 < sample.value < 2**53:
            yield sample.timestamp_ms // 1000, round(sample.value)


def _series_key(labels: Sequence[_Label]) -> SeriesKey | None:
    """Return the series of these labels; None without a service or name, as no query could select it."""
    values = {label.key: label.value.string_value for label in labels}
    service, name = values.get("resource.service.name", ""), values.get("name", "")
    return SeriesKey(service, name) if service and name and _NIL not in (service, name) else None
