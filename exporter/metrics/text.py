"""Writes samples in Prometheus's text format and in OpenMetrics."""

from collections.abc import Sequence
from typing import Final

from prometheus_client.utils import floatToGoString

from exporter.evaluation.snapshot import Exemplar
from exporter.metrics.families import CAUSE_LABELS, SERIES_LABELS, Column, Encoder, Family, FamilyPart
from exporter.model.label import DEFAULT_LABEL_NAMES, LabelNames
from exporter.model.service import ServiceKey
from exporter.model.span import SeriesKey, encodable

_FIRST_EXPONENT: Final = 1e6
"""From here on, Prometheus writes numbers with an exponent."""


class TextEncoder(Encoder[str]):
    """Writes one of the text formats."""

    def __init__(self, *, is_openmetrics: bool) -> None:
        """Take the format: OpenMetrics, or Prometheus's own."""
        self.has_exemplars = is_openmetrics
        self._is_openmetrics = is_openmetrics

    def head(self, family: Family, size: int) -> bytes:  # noqa: ARG002 - text is not preceded by its length
        """Return the lines with help and type."""
        name = family.name if self._is_openmetrics else family.sample_name
        return f"# HELP {name} {family.help}\n# TYPE {name} {family.kind}\n".encode()

    def labels(self, key: SeriesKey, label_names: LabelNames) -> str:
        """Format the labels of a series, sorted by name, without the braces."""
        return series_labels(key, label_names)

    def service_labels(self, key: ServiceKey, label_names: LabelNames) -> str:
        """Format the labels of a service, sorted by name, without the braces."""
        named = label_names.of(SeriesKey(key.service_name, "", key.labels))
        return ",".join(label_text(*each) for each in sorted([(SERIES_LABELS[0], named.service_name), *named.labels]))

    def samples(self, family: Family, labels: Sequence[str], column: Column, label_names: LabelNames) -> bytes:
        """Return a line for each sample."""
        # The label of the family comes first; without labels of `series.labels` that is the order of names.
        start = family.sample_name + "{" + ("" if family.label is None else '{}="{}",'.format(*family.label))
        if column.parts:
            return "".join(
                [
                    f"{start}{part_labels(part, label_names)},{label}}} {number_text(part.value)}\n"
                    for label, parts in zip(labels, column.parts, strict=True)
                    for part in parts
                ]
            ).encode()
        if column.labels:
            labels = [
                "".join([f"{label_text(name, label_names.value(text))}," for name, text in further]) + label
                for label, further in zip(labels, column.labels, strict=True)
            ]
        # Many series have the same values, and formatting one takes longer than finding it.
        texts: dict[float | None, str] = {
            value: number_text(value) for value in set(column.values) if value is not None
        }
        lines = [
            f"{start}{label}}} {texts[value]}\n"
            for label, value in zip(labels, column.values, strict=True)
            if value is not None
        ]
        if any(column.exemplars):
            exemplars = [
                exemplar for exemplar, value in zip(column.exemplars, column.values, strict=True) if value is not None
            ]
            lines = [
                line if exemplar is None else f"{line[:-1]}{_exemplar(exemplar)}\n"
                for line, exemplar in zip(lines, exemplars, strict=True)
            ]
        return "".join(lines).encode()


def _exemplar(exemplar: Exemplar) -> str:
    return f' # {{trace_id="{exemplar.trace_id}"}} {number_text(exemplar.seconds)} {exemplar.at!r}'


def number_text(value: float) -> str:
    """Format a number as Prometheus does; there is no negative zero."""
    number = value + 0.0
    if 0 <= number < _FIRST_EXPONENT:
        return repr(number)
    text: str = floatToGoString(number)  # type: ignore[no-untyped-call]
    return text


def series_labels(key: SeriesKey, label_names: LabelNames = DEFAULT_LABEL_NAMES) -> str:
    """Format the labels of a series, sorted by name, without the braces."""
    named = label_names.of(key)
    labels = [*zip(SERIES_LABELS, named[:2], strict=True), *named.labels]
    return ",".join(label_text(name, value) for name, value in (sorted(labels) if named.labels else labels))


def part_labels(part: FamilyPart, label_names: LabelNames = DEFAULT_LABEL_NAMES) -> str:
    """Format the further labels of one of several samples of a series, without the braces."""
    service_name, span_name = label_names.of(SeriesKey(part.service_name, part.span_name))[:2]
    return ",".join(
        label_text(name, value) for name, value in zip(CAUSE_LABELS, (part.kind, service_name, span_name), strict=True)
    )


def label_text(name: str, value: str) -> str:
    """Format a label; any value is escaped."""
    return f'{name}="{_escaped(value)}"'


def _escaped(value: str) -> str:
    return encodable(value).replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
