"""A metrics page, parsed with prometheus_client."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.model.span import SeriesKey

PREFIX: Final = "tempo_anomaly_"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"
"""Accept header of a scraper that requests exemplars."""


@dataclass(frozen=True)
class Metrics:
    """The samples of one page.

    Attributes:
        families: families by name.
        samples: values by sample name and labels.
    """

    families: Mapping[str, Metric]
    samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    @classmethod
    def parse(cls, page: str, *, openmetrics: bool = False) -> "Metrics":
        """Parse a page, and fail on duplicate families or samples."""
        families: dict[str, Metric] = {}
        samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in (parse_openmetrics if openmetrics else parse_text)(page):
            assert family.name not in families, f"duplicate {family.name}"
            families[family.name] = family
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in samples, f"duplicate {key}"
                samples[key] = sample.value
        return cls(families, samples)

    def get(self, name: str, series: SeriesKey | None = None, **labels: str) -> float | None:
        """Return the value of a sample, named without the prefix, or None if it is absent."""
        if series is not None:
            labels |= series.parameters
        return self.samples.get((PREFIX + name, frozenset(labels.items())))

    def __getitem__(self, name: str) -> float:
        """Return the value of a sample without labels, named without the prefix; KeyError if it is absent."""
        return self.samples[PREFIX + name, frozenset()]

    def by(self, name: str, label: str) -> dict[str, float]:
        """Return the values of a family that has a single label, by the label's value."""
        return {
            dict(labels)[label]: value for (sample, labels), value in self.samples.items() if sample == PREFIX + name
        }

    def series(self) -> set[SeriesKey]:
        """Return the series on the page."""
        return {_series_key(dict(labels)) for labels in self._labels_of("baseline_fallback_level")}

    def _labels_of(self, name: str) -> Iterator[frozenset[tuple[str, str]]]:
        return (labels for sample, labels in self.samples if sample == PREFIX + name)


def _series_key(labels: dict[str, str]) -> SeriesKey:
    service_name, span_name = labels.pop("service_name"), labels.pop("span_name")
    return SeriesKey(service_name, span_name, tuple(sorted(labels.items())))
