"""A page of metrics, read with prometheus_client's own parsers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.model.span import SeriesKey

PREFIX: Final = "tempo_anomaly_"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"
"""What a scraper accepts that wants exemplars."""


@dataclass(frozen=True)
class Metrics:
    """The samples of one page.

    Attributes:
        families: all families by name.
        samples: value by name of the sample and its labels.
    """

    families: Mapping[str, Metric]
    samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    @classmethod
    def parse(cls, page: str, *, openmetrics: bool = False) -> "Metrics":
        """Read a page; a page that names a sample twice is wrong."""
        families: dict[str, Metric] = {}
        samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in (parse_openmetrics if openmetrics else parse_text)(page):
            assert family.name not in families, f"{family.name} comes twice"
            families[family.name] = family
            for sample in family.samples:
                place = (sample.name, frozenset(sample.labels.items()))
                assert place not in samples, f"{place} comes twice"
                samples[place] = sample.value
        return cls(families, samples)

    def get(self, name: str, series: SeriesKey | None = None, **labels: str) -> float | None:
        """The value of a sample, named without the prefix; None where it is absent."""
        if series is not None:
            labels |= series._asdict()
        return self.samples.get((PREFIX + name, frozenset(labels.items())))

    def __getitem__(self, name: str) -> float:
        """The value of a sample without labels, which must be there; named without the prefix."""
        return self.samples[PREFIX + name, frozenset()]

    def by(self, name: str, label: str) -> dict[str, float]:
        """The values of a family with only one label, by the value of that."""
        return {
            dict(labels)[label]: value for (sample, labels), value in self.samples.items() if sample == PREFIX + name
        }

    def series(self) -> set[SeriesKey]:
        """The watched series."""
        return {SeriesKey(**dict(labels)) for labels in self._labels_of("baseline_fallback_level")}

    def _labels_of(self, name: str) -> Iterator[frozenset[tuple[str, str]]]:
        return (labels for sample, labels in self.samples if sample == PREFIX + name)
