"""Identity of a service: what its series have in common."""

from typing import NamedTuple

from exporter.model.span import SeriesKey


class ServiceKey(NamedTuple):
    """A service, with the labels that ``series.labels`` gives to its series; others with the same name are apart.

    Attributes:
        service_name: the service.
        labels: name and value of each label, sorted by name.
    """

    service_name: str
    labels: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, key: SeriesKey) -> "ServiceKey":
        """The service of a series."""
        return cls(key.service_name, key.labels)

    @property
    def fields(self) -> dict[str, object]:
        """The name and the labels as fields of a log line or a JSON document; ``labels`` only where there are any."""
        name: dict[str, object] = {"service_name": self.service_name}
        return {**name, "labels": dict(self.labels)} if self.labels else name
