"""Reads the body of an answer to a TraceQL metrics query: how many spans there are, by series and time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from exporter.model.span import SeriesKey

_NIL: Final = "nil"
"""How Tempo writes an attribute that a span does not have."""


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


# Not strict, so that numbers may come as strings.
_BODY: Final = msgspec.json.Decoder(_Body, strict=False)
_COMPLETE: Final = ("COMPLETE", 0, "0", "")


@dataclass(frozen=True, slots=True)
class Counts:
    """How many spans there are.

    Attributes:
        ends: by the end of each step, as Unix seconds: the spans that started in it, all series together.
        series: the spans of each series over the whole range; empty unless they were asked for.
        complete: whether that is all; Tempo leaves out series beyond a number that its operator sets.
    """

    ends: Mapping[int, int] = field(default_factory=dict)
    series: Mapping[SeriesKey, int] = field(default_factory=dict)
    complete: bool = True

    @property
    def known(self) -> bool:
        """Whether Tempo counted anything: where it keeps no data to count, it says nothing, which is not zero."""
        return bool(self.ends)

    def between(self, start: int, end: int) -> int:
        """How many spans started between two edges of steps."""
        return sum(count for at, count in self.ends.items() if start < at <= end)


def decode_counts_answer(body: bytes) -> Counts:
    """Read a body.

    Raises:
        ValueError: it is not JSON, or no such answer.
    """
    try:
        read = _BODY.decode(body)
    except RecursionError:
        raise ValueError("nested beyond reason") from None
    if read.series is msgspec.UNSET and read.metrics is msgspec.UNSET:
        raise ValueError("neither series nor metrics in it")
    ends: dict[int, int] = {}
    by_series: dict[SeriesKey, int] = {}
    for series in read.series or ():
        total = _add_samples(series.samples, ends)
        key = _series_key(series.labels)
        if key is not None and total:
            by_series[key] = by_series.get(key, 0) + total
    return Counts(ends, by_series, read.status in _COMPLETE)


def _add_samples(samples: Sequence[_Sample], ends: dict[int, int]) -> int:
    total = 0
    for sample in samples:
        # Not a number, or none that counts anything, is nothing.
        if 0 < sample.value < 2**53:
            count = round(sample.value)
            at = sample.timestamp_ms // 1000
            ends[at] = ends.get(at, 0) + count
            total += count
    return total


def _series_key(labels: Sequence[_Label]) -> SeriesKey | None:
    """The series of some labels; None for one without a service or a name, which cannot be asked for by it."""
    values = {label.key: label.value.string_value for label in labels}
    service, name = values.get("resource.service.name", ""), values.get("name", "")
    return SeriesKey(service, name) if service and name and _NIL not in (service, name) else None
