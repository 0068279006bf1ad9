"""Decodes responses of TraceQL metrics queries: span counts by series and time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from exporter.model.identity import BY_NAME, Attribute, SeriesIdentity
from exporter.model.span import SeriesKey
from exporter.tempo.decode import attribute_text, clean_name


class _Label(msgspec.Struct, gc=False):
    key: str = ""
    value: msgspec.Raw = msgspec.Raw(b"{}")


class _Sample(msgspec.Struct, gc=False, rename="camel"):
    timestamp_ms: int = 0
    value: float = 0.0


class _Series(msgspec.Struct, gc=False):
    labels: list[_Label] = msgspec.field(default_factory=list)
    samples: list[_Sample] = msgspec.field(default_factory=list)


class _Metrics(msgspec.Struct, gc=False, rename="camel"):
    completed_jobs: int = 0
    total_jobs: int = 0


class _Body(msgspec.Struct, gc=False):
    series: list[_Series] | msgspec.UnsetType | None = msgspec.UNSET
    metrics: _Metrics | msgspec.UnsetType | None = msgspec.UNSET
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
        complete: False if Tempo did not finish all its jobs, or left out series beyond the limit that its operator set,
            so that there may be more spans.
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


def decode_counts(body: bytes, identity: SeriesIdentity = BY_NAME) -> SpanCounts:
    """Decode a response body.

    Args:
        body: the response body.
        identity: the rules by which a span gets its series.

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
    wanted = _wanted(identity)
    for series in response.series or ():
        total = 0
        for step_end, count in _step_counts(series.samples):
            by_step_end[step_end] = by_step_end.get(step_end, 0) + count
            total += count
        key = _series_key(series.labels, identity, wanted)
        if key is not None and total:
            by_series[key] = by_series.get(key, 0) + total
    metrics = response.metrics
    is_finished = not isinstance(metrics, _Metrics) or metrics.completed_jobs >= metrics.total_jobs
    return SpanCounts(by_step_end, by_series, is_finished and response.status in _COMPLETE)


def _step_counts(samples: Sequence[_Sample]) -> Iterator[tuple[int, int]]:
    """Yield the end of each step and its count; values that are no positive count are skipped."""
    for sample in samples:
        if 0 < sample.value < 2**53:
            yield sample.timestamp_ms // 1000, round(sample.value)


def _wanted(identity: SeriesIdentity) -> Mapping[str, Attribute]:
    """Return the attributes by the names that labels have: as in the query, or without its quotes."""
    return {name: each for each in identity.attributes for name in (str(each), f"{each.scope}.{each.name}")}


def _series_key(
    labels: Sequence[_Label], identity: SeriesIdentity, wanted: Mapping[str, Attribute]
) -> SeriesKey | None:
    """Return the series of these labels; None without a service or name, as no query could select it."""
    texts = {label.key: attribute_text(bytes(label.value)) for label in labels}
    values = {wanted[name]: clean_name(text) for name, text in texts.items() if name in wanted}
    key = identity.key(texts.get("resource.service.name", ""), texts.get("name", ""), values)
    return key if key.service_name and key.span_name else None
