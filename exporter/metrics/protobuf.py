"""Renders metrics in Prometheus's protobuf format, the only one with native histograms.

A body is a sequence of ``MetricFamily`` messages, each preceded by its length. Messages and field numbers are those of
``io/prometheus/client/metrics.proto`` in https://github.com/prometheus/client_model. The samples of ten thousand series
are hundreds of thousands of messages of three fields each, so they are written as bytes and not built as objects of a
protobuf library.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from struct import Struct
from typing import Final

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from exporter.evaluation.live.durations import DurationHistogram
from exporter.evaluation.snapshot import Exemplar
from exporter.metrics.families import CAUSE_LABELS, SERIES_LABELS, Column, Encoder, Family
from exporter.model.histogram import ZERO_BUCKET
from exporter.model.label import LabelNames
from exporter.model.service import ServiceKey
from exporter.model.span import SeriesKey, encodable

_DOUBLE: Final = Struct("<d")
_NS: Final = 1_000_000_000

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2

_TYPES: Final[Mapping[str, int]] = {"counter": 0, "gauge": 1, "unknown": 3, "histogram": 4}
"""Values of ``MetricType``."""
_VALUE_FIELDS: Final[Mapping[str, int]] = {"gauge": 2, "counter": 3, "unknown": 5}
"""Field of a ``Metric`` that has the value, by type."""

_SCHEMA: Final = 5
"""Schema of native histograms whose buckets are those of :mod:`exporter.model.histogram`."""
_ZERO_THRESHOLD: Final = 2.0**-128
"""Breadth of the zero bucket, the same as that of Prometheus's own libraries."""
_LONGEST_GAP: Final = 2
"""Empty buckets between two others are written as zeros up to this number; more of them end the span of buckets."""


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _zigzag(value: int) -> bytes:
    return _varint(value << 1 if value >= 0 else (-value << 1) - 1)


def _tag(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _message(field: int, content: bytes) -> bytes:
    return _tag(field, _BYTES) + _varint(len(content)) + content


def _double(field: int, value: float) -> bytes:
    return _tag(field, _FIXED64) + _DOUBLE.pack(value)


def _unsigned(field: int, value: int) -> bytes:
    return _tag(field, _VARINT) + _varint(value)


def _label(name: str, value: str) -> bytes:
    return _message(1, _message(1, name.encode()) + _message(2, encodable(value).encode()))


_VALUES: Final = {kind: _tag(field, _BYTES) + _varint(9) + _tag(1, _FIXED64) for kind, field in _VALUE_FIELDS.items()}
"""What precedes the eight bytes of a value without an exemplar, by type."""
_METRIC: Final = _tag(4, _BYTES)


class ProtobufEncoder(Encoder[bytes]):
    """Writes the protobuf format."""

    has_exemplars = True

    def head(self, family: Family, size: int) -> bytes:
        """Return the length of the family's message, and its name, help and type."""
        return _head(family.sample_name, family.help, family.kind, size)

    def labels(self, key: SeriesKey, label_names: LabelNames) -> bytes:
        """Return the labels of a series as fields of a ``Metric``."""
        named = label_names.of(key)
        return b"".join(_label(*each) for each in (*zip(SERIES_LABELS, named[:2], strict=True), *named.labels))

    def service_labels(self, key: ServiceKey, label_names: LabelNames) -> bytes:
        """Return the labels of a service as fields of a ``Metric``."""
        named = label_names.of(SeriesKey(key.service_name, "", key.labels))
        return b"".join(_label(*each) for each in ((SERIES_LABELS[0], named.service_name), *named.labels))

    def samples(self, family: Family, labels: Sequence[bytes], column: Column, label_names: LabelNames) -> bytes:
        """Return a ``Metric`` for each sample."""
        if family.kind == "histogram":
            return _joined(
                own + _message(7, _native_histogram(histogram))
                for own, histogram in zip(labels, column.histograms, strict=True)
                if histogram is not None
            )
        return _joined(_samples(family, labels, column, label_names))


def render_collector(collector: Collector) -> bytes:
    """Render the metrics of a collector of ``prometheus_client``.

    Raises:
        ValueError: a metric is of a type that the exporter does not have.
    """
    return b"".join(_collected(metric) for metric in collector.collect())


def _family(name: str, help_: str, kind: str, metrics: Iterable[bytes]) -> bytes:
    content = _joined(metrics)
    return _head(name, help_, kind, len(content)) + content


def _head(name: str, help_: str, kind: str, size: int) -> bytes:
    head = _message(1, name.encode()) + _message(2, help_.encode()) + _unsigned(3, _TYPES[kind])
    return _varint(len(head) + size) + head


def _joined(metrics: Iterable[bytes]) -> bytes:
    return b"".join([_METRIC + _varint(len(metric)) + metric for metric in metrics])


def _samples(family: Family, labels: Sequence[bytes], column: Column, label_names: LabelNames) -> Iterator[bytes]:
    start = b"" if family.label is None else _label(*family.label)
    before, pack = _VALUES[family.kind], _DOUBLE.pack
    for own, parts in zip(labels, column.parts, strict=False):
        for part in parts:
            named = label_names.of(SeriesKey(part.service_name, part.span_name))
            further = zip(CAUSE_LABELS, (part.kind, *named[:2]), strict=True)
            yield b"".join(_label(*each) for each in further) + own + before + pack(part.value)
    if column.labels:
        labels = [
            b"".join([_label(name, label_names.value(text)) for name, text in further]) + own
            for own, further in zip(labels, column.labels, strict=True)
        ]
    exemplars = column.exemplars or repeat(None)
    for own, value, exemplar in zip(labels, column.values, exemplars, strict=False):
        if value is None:
            continue
        if exemplar is None:
            yield start + own + before + pack(value)
        else:
            yield start + own + _message(_VALUE_FIELDS[family.kind], _double(1, value) + _exemplar(exemplar))


def _exemplar(exemplar: Exemplar) -> bytes:
    seconds, nanoseconds = divmod(round(exemplar.at * _NS), _NS)
    timestamp = _unsigned(1, seconds) + _unsigned(2, nanoseconds)
    return _message(2, _label("trace_id", exemplar.trace_id) + _double(2, exemplar.seconds) + _message(3, timestamp))


def _native_histogram(histogram: DurationHistogram) -> bytes:
    """Return a ``Histogram`` whose buckets are those of a digest.

    Bucket ``i`` of the format ends at ``2^(i/32)``, that of a digest at ``2^((i+1)/32)``.
    """
    zeros = 0
    spans: list[bytes] = []
    deltas: list[bytes] = []
    span_offset, span_length = 0, 0
    before = 0
    following: int | None = None
    for bucket, count in histogram.buckets:
        if bucket == ZERO_BUCKET:
            zeros = count
            continue
        index = bucket + 1
        gap = index if following is None else index - following
        if following is None or gap > _LONGEST_GAP:
            if span_length:
                spans.append(_bucket_span(span_offset, span_length))
            span_offset, span_length = gap, 0
        else:
            for _ in range(gap):
                deltas.append(_zigzag(-before))
                before = 0
            span_length += gap
        deltas.append(_zigzag(count - before))
        before = count
        span_length += 1
        following = index + 1
    # Without any bucket, an empty span of them says that the histogram is native.
    spans.append(_bucket_span(span_offset, span_length))
    packed = b"".join(deltas)
    return b"".join(
        (
            _unsigned(1, histogram.count),
            _double(2, histogram.sum_seconds),
            _tag(5, _VARINT) + _zigzag(_SCHEMA),
            _double(6, _ZERO_THRESHOLD),
            _unsigned(7, zeros),
            *spans,
            _message(13, packed) if packed else b"",
        )
    )


def _bucket_span(offset: int, length: int) -> bytes:
    return _message(12, _tag(1, _VARINT) + _zigzag(offset) + _unsigned(2, length))


def _collected(metric: Metric) -> bytes:
    if metric.type == "histogram":
        metrics: Iterable[bytes] = _classic_histograms(metric)
        return _family(metric.name, metric.documentation, metric.type, metrics)
    kind = metric.type
    name = f"{metric.name}_total" if kind == "counter" else metric.name
    if kind == "info":
        kind, name = "gauge", f"{metric.name}_info"
    if kind not in _VALUE_FIELDS:
        raise ValueError(f"metric {metric.name} is of type {metric.type}, which has no protobuf rendering")
    metrics = (
        _labels(sample.labels) + _VALUES[kind] + _DOUBLE.pack(sample.value)
        for sample in metric.samples
        if sample.name == name
    )
    return _family(name, metric.documentation, kind, metrics)


def _labels(labels: Mapping[str, str]) -> bytes:
    return b"".join(_label(*each) for each in labels.items())


def _classic_histograms(metric: Metric) -> Iterator[bytes]:
    by_labels: dict[tuple[tuple[str, str], ...], list[Sample]] = {}
    for sample in metric.samples:
        labels = tuple((name, value) for name, value in sample.labels.items() if name != "le")
        by_labels.setdefault(labels, []).append(sample)
    for labels, samples in by_labels.items():
        content = b""
        for sample in samples:
            if sample.name.endswith("_count"):
                content += _unsigned(1, int(sample.value))
            elif sample.name.endswith("_sum"):
                content += _double(2, sample.value)
            elif sample.name.endswith("_bucket"):
                bucket = _unsigned(1, int(sample.value)) + _double(2, float(sample.labels["le"]))
                content += _message(3, bucket)
        yield _labels(dict(labels)) + _message(7, content)
