import re

from prometheus_client.metrics_core import Metric

from exporter.metrics.families import DURATION_NAME
from exporter.runtime.telemetry import FAILURE_REASONS, SKIP_REASONS, STORAGE_FAILURES
from tests.support.paths import REPOSITORY
from tests.support.whole_page import WholePage

TEXT = (REPOSITORY / "docs" / "metrics.md").read_text()


def rows(text: str) -> list[list[str]]:
    """Return the cells of all table rows that start with code."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:3] == "| `"]


def labels_of(family: Metric) -> str:
    names = {name for sample in family.samples for name in sample.labels} - {"le"}
    return ", ".join(f"`{name}`" for name in sorted(names))


def reasons(metric: str) -> list[str]:
    """Return the first column of the table of reasons of a metric."""
    _, _, behind = TEXT.partition(f"`reason` of `{metric}`:\n")
    assert behind
    return [row[0].strip("`") for row in rows(behind.split("\n`reason` of", 1)[0])]


def test_every_metric_is_listed_with_type_labels_and_help() -> None:
    documented = sorted(row for row in rows(TEXT) if row[0].startswith("`tempo_anomaly_"))
    assert documented == sorted(
        [f"`{name}`", family.type, labels_of(family), family.documentation]
        for name, family in WholePage.full().families().items()
        if not name.startswith("process_")
    )


def test_label_values_are_those_on_the_page() -> None:
    found: set[tuple[str, str]] = set()
    for family in WholePage.full().families().values():
        for sample in family.samples:
            found |= set(sample.labels.items())
    listed = [(row[0].strip("`"), row[1].strip("`")) for row in rows(TEXT) if len(row) == 3]
    assert sorted(listed) == sorted(
        (label, value) for label, value in found if label in {"kind", "loop", "outcome", "level", "state"}
    )


def test_reasons_are_those_in_the_code() -> None:
    assert reasons("tempo_request_failures_total") == list(FAILURE_REASONS)
    assert reasons("traces_skipped_total") == list(SKIP_REASONS)
    assert reasons("storage_failures_total") == list(STORAGE_FAILURES)


def test_named_metrics_exist() -> None:
    # The native histogram is not in the text format.
    names = {name.removeprefix("tempo_anomaly_") for name in {*WholePage.full().families(), DURATION_NAME}}
    for mentioned in re.findall(r"`(?:time\(\) - )?tempo_anomaly_(\w+)", TEXT):
        assert mentioned in names
